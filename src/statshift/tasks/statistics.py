"""What classification keeps of each image's logits."""

from typing import NamedTuple

import torch
from torch import Tensor

from statshift._core.errors import InputError


class ImageStatistics(NamedTuple):
    """What is kept of a batch's logits: five tensors of shape (B,), one value per image."""

    correct: Tensor
    """bool: the label has the highest logit."""
    correct_top5: Tensor
    """bool: the label is among the five highest logits (among all, where there are fewer)."""
    cross_entropy: Tensor
    """float32, in nats."""
    confidence: Tensor
    """float32 in [0,1]: the highest softmax probability."""
    predicted: Tensor
    """int64: the class of the highest logit."""


def image_statistics(logits: Tensor, labels: Tensor) -> ImageStatistics:
    """Reduce logits (B,K) of any float type and labels (B,) to per-image statistics on the same device.

    Equal logits rank by class, the lower first, on every device; a NaN ranks before everything and is never
    correct. Computed in float32, without a transfer to the host.

    Raises:
        InputError: if the shapes are not (B,K) and (B,).
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise InputError(
            "Expected `logits` of shape (B, K) and `labels` of shape (B,), "
            f"but got {tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    logits, own = logits.float(), labels[:, None]
    classes = logits.shape[1]
    value = logits.gather(1, own)
    not_ahead = (logits < value) | ((logits == value) & (torch.arange(classes, device=logits.device) >= own))
    rank = classes - not_ahead.sum(1)
    log_probabilities = logits.log_softmax(1)
    return ImageStatistics(
        correct=rank < 1,
        correct_top5=rank < min(5, classes),
        cross_entropy=-log_probabilities.gather(1, own).squeeze(1),
        confidence=log_probabilities.amax(1).exp(),
        predicted=logits.argmax(1),
    )
