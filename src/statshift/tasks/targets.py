"""What the logits of a training step should be: classes or shares of them, or whatever a task's own loss is of."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from statshift._core.errors import InputError

JSD_WEIGHT = 12.0
CONFIDENCE = 50.0
"""By how much one logit shall exceed another at most, under the loss of Carlini and Wagner."""


class Loss(ABC):
    """What a batch's logits should be.

    Attributes:
        labels: (B,...).
        views: V, of each image, one block of B after the other.
    """

    labels: Tensor
    views: int

    @abstractmethod
    def loss(self, logits: Tensor) -> Tensor:
        """Return the mean loss of logits (V*B,...)."""

    @abstractmethod
    def losses(self, logits: Tensor) -> Tensor:
        """Return the loss (B,) of each image; of one view."""

    @abstractmethod
    def partners(self, order: Tensor) -> "Loss":
        """Return what the logits of the images at `order` (B,) should be."""


@dataclass(frozen=True)
class LossByImage(Loss):
    """Labels (B,...) and a function of logits and labels that returns each image's loss (B,)."""

    labels: Tensor
    by_image: Callable[[Tensor, Tensor], Tensor]
    views: int = 1

    def loss(self, logits: Tensor) -> Tensor:
        """Return the mean over images."""
        return self.losses(logits).mean()

    def losses(self, logits: Tensor) -> Tensor:
        """Return the loss of each image."""
        if self.views != 1:
            raise InputError("Expected one view of each image for a task's own loss, but AugMix makes three.")
        return self.by_image(logits, self.labels)

    def partners(self, order: Tensor) -> "LossByImage":
        """Return the same loss of the images at `order` (B,)."""
        return replace(self, labels=self.labels[order])


@dataclass(frozen=True)
class LossByPixel(LossByImage):
    """Label maps (B,H,W), a function that returns each image's mean loss over its pixels that count, and which do.

    Attributes:
        ignore_index: label of pixels that do not count.
    """

    ignore_index: int = 255

    def loss(self, logits: Tensor) -> Tensor:
        """Return the mean over all pixels of the batch that count; 0 where none does.

        It is torch's `CrossEntropyLoss(ignore_index=...)`: an image counts by its pixels. Of processes and parts that
        share a batch, the loss is the mean of theirs.
        """
        losses = self.losses(logits)
        counted = (self.labels != self.ignore_index).flatten(1).sum(1).to(losses.dtype)
        return (losses * counted).sum() / counted.sum().clamp(min=1)


@dataclass(frozen=True)
class Targets(Loss):
    """Classes of a batch, and the cross-entropy.

    Attributes:
        labels: (B,) int64.
        soft: (B,K) float, in the labels' place where they are mixed.
        views: V, of each image, one block of B after the other; the first is not mixed.
        classes: ascending, those of the logits that count; by default all.
    """

    labels: Tensor
    soft: Tensor | None = None
    views: int = 1
    classes: tuple[int, ...] | None = None

    def loss(self, logits: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (V*B,K), and of several views AugMix's consistency.

        Reference:
            Hendrycks et al., "AugMix" (ICLR 2020), section 3, equation 3: the first view's cross-entropy, and 12 times
            the Jensen-Shannon divergence among the views.
        """
        logits, target = self._seen(_wide(logits)), self._target(logits)
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
        logits = logits.double()
        return F.cross_entropy(self._seen(logits), self._target(logits), reduction="none")

    def partners(self, order: Tensor) -> "Targets":
        """Return the targets of the images at `order` (B,)."""
        return replace(self, labels=self.labels[order], soft=None if self.soft is None else self.soft[order])

    def _seen(self, logits: Tensor) -> Tensor:
        """Return logits (B,K), those that do not count so low, yet finite, that their probability is 0."""
        if self.classes is None:
            return logits
        others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        others[list(self.classes)] = False
        return logits.masked_fill(others, torch.finfo(logits.dtype).min)

    def _target(self, logits: Tensor) -> Tensor:
        return self.labels if self.soft is None else self.soft.to(_wide(logits).dtype)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return by how much the greatest other logit exceeds the label's: (B,...) for logits (B,K,...).

    Reference:
        Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks" (S&P 2017), section IV.A, f6.
    """
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return others - own


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype != torch.float64 else logits
