"""What a training step is given: a batch of images, and what its logits should be."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from statshift._core.randomness import Draws
from statshift.hardening.augmentation import sent
from statshift.shifts.attacks import HALF_SCALE
from statshift.tasks.targets import Loss

Losses = dict[str, Tensor]
"""The mean loss by branch, and of what is added to it."""


@dataclass(frozen=True)
class Batch:
    """Images of a training step, and what is drawn for them.

    Attributes:
        images: (V*B,3,H,W) in [0,1].
        targets: targets of the images.
        draws: addressed by epoch, view and image, over the V*B images; on the CPU.
        dtype: what the model runs in, by autocast unless float32.
        attack_dtype: likewise, in an attack's passes; None is `dtype`.
    """

    images: Tensor
    targets: Loss
    draws: Draws
    dtype: torch.dtype = torch.float32
    attack_dtype: torch.dtype | None = None

    @property
    def draws_on_device(self) -> Draws:
        """The draws, where the images are."""
        return replace(self.draws, indices=sent(self.draws.indices, self.images.device))

    @property
    def attacked_in(self) -> torch.dtype:
        """What the model runs in while it is attacked."""
        return self.attack_dtype or self.dtype

    @property
    def loss_scale(self) -> float:
        """By what an attack multiplies its loss, so that gradients do not vanish in half precision."""
        return HALF_SCALE if self.attacked_in == torch.float16 else 1.0


def takes_channels_last(method: object, device: torch.device) -> bool:
    """Tell whether a method may train channels last on a device.

    Not where it takes gradients of gradients on a CPU: those of oneDNN's channels-last convolutions corrupt memory.
    """
    return device.type != "cpu" or not getattr(method, "second_order", False)
