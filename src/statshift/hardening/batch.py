"""What a training step is given: a batch of images, and what its logits should be."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.hardening.augmentation import sent
from statshift.shifts.attacks import HALF_SCALE

JSD_WEIGHT = 12.0

Losses = dict[str, Tensor]
"""The mean loss by branch, and of what is added to it."""


@dataclass(frozen=True)
class Targets:
    """What a batch's logits should be.

    Attributes:
        labels: (B,) int64.
        soft: (B,K) float, in the labels' place where they are mixed.
        views: V, of each image, one block of B after the other; the first is not mixed.
    """

    labels: Tensor
    soft: Tensor | None = None
    views: int = 1

    def loss(self, logits: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (V*B,K), and of several views AugMix's consistency.

        Reference:
            Hendrycks et al., "AugMix" (ICLR 2020), section 3, equation 3: the first view's cross-entropy, and 12 times
            the Jensen-Shannon divergence among the views.
        """
        logits, target = _wide(logits), self._target(logits)
        if self.views == 1:
            return F.cross_entropy(logits, target)
        first, *_ = logits.chunk(self.views)
        logs = torch.stack([view.log_softmax(1) for view in logits.chunk(self.views)])
        mixture = logs.logsumexp(0) - math.log(self.views)
        divergence = (logs.exp() * (logs - mixture)).sum(2).mean()
        return F.cross_entropy(first, target) + JSD_WEIGHT * divergence

    def losses(self, logits: Tensor) -> Tensor:
        """Return the cross-entropy (B,) of logits (B,K), by image, in float64 for its gradient; of one view."""
        if self.views != 1:
            raise InputError("Expected one view of each image for a loss by image, but AugMix makes three.")
        return F.cross_entropy(logits.double(), self._target(logits.double()), reduction="none")

    def partners(self, order: Tensor) -> "Targets":
        """Return the targets of the images at `order` (B,)."""
        return replace(self, labels=self.labels[order], soft=None if self.soft is None else self.soft[order])

    def _target(self, logits: Tensor) -> Tensor:
        return self.labels if self.soft is None else self.soft.to(_wide(logits).dtype)


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype != torch.float64 else logits


@dataclass(frozen=True)
class Batch:
    """Images of a training step, and what is drawn for them.

    Attributes:
        images: (V*B,3,H,W) in [0,1].
        targets: of them.
        draws: addressed by epoch, view and image, over the V*B images; on the CPU.
        dtype: what the model runs in, by autocast unless float32.
    """

    images: Tensor
    targets: Targets
    draws: Draws
    dtype: torch.dtype = torch.float32

    @property
    def draws_on_device(self) -> Draws:
        """The draws, where the images are."""
        return replace(self.draws, indices=sent(self.draws.indices, self.images.device))

    @property
    def loss_scale(self) -> float:
        """By what an attack multiplies its loss, so that gradients do not vanish in half precision."""
        return HALF_SCALE if self.dtype == torch.float16 else 1.0


def takes_channels_last(method: object, device: torch.device) -> bool:
    """Tell whether a method may train channels last on a device.

    Not where it takes gradients of gradients on a CPU: those of oneDNN's channels-last convolutions corrupt memory.
    """
    return device.type != "cpu" or not getattr(method, "second_order", False)
