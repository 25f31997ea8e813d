"""Images and labels as callers give them: one check for every function that takes some."""

import math
from typing import Any

import torch
from torch import Tensor

from statshift._core.errors import InputError


def check_images(images: Any, *, least: int = 1, in_range: bool = True) -> None:
    """Check images (B,3,H,W) in [0,1]; their range on the CPU at once, on a GPU without waiting for it.

    Args:
        images: what a caller gave.
        least: how many there must be.
        in_range: False for a module that takes images as they are, whose range nobody knows.

    Raises:
        InputError: no tensor, another shape or type, fewer images, or pixels that are not in [0,1].
    """
    if not isinstance(images, Tensor):
        raise InputError(f"Expected images (B,3,H,W), but got {_described(images)}.")
    if images.ndim != 4 or len(images) < least:
        many = {0: "", 1: ", at least one"}.get(least, f", at least {least}")
        raise InputError(f"Expected images (B,3,H,W){many}, but got shape {tuple(images.shape)}.")
    if not in_range:
        return
    if not images.is_floating_point():
        raise InputError(f"Expected pixels in [0,1], but got {images.dtype}: divide 8-bit values by 255.")
    if images.device.type == "cuda":
        torch._assert_async(((images >= 0) & (images <= 1)).all())
    elif images.device.type == "cpu" and images.numel():
        low, high = (float(value) for value in images.detach().aminmax())
        if not (low >= 0 and high <= 1):  # NaN fails both
            found = "NaN" if math.isnan(low) else f"values from {low:.4g} to {high:.4g}"
            remedy = "divide 8-bit values by 255" if high > 2 else "normalization belongs into the model"
            raise InputError(f"Expected pixels in [0,1], but got {found}: {remedy}.")


def checked_labels(labels: Any, images: Tensor, *, maps: bool = False) -> Tensor:
    """Return labels (B,), or label maps (B,H,W), of images (B,3,H,W) as int64, of whatever integers they are.

    Raises:
        InputError: no tensor of integers, or another shape.
    """
    expected = "label maps (B,H,W)" if maps else "labels (B,)"
    if not isinstance(labels, Tensor):
        raise InputError(f"Expected {expected} as a tensor, but got {_described(labels)}.")
    if labels.shape != (images.shape[0], *(images.shape[2:] if maps else ())):
        raise InputError(
            f"Expected images (B,3,H,W) and {expected}, but got {tuple(images.shape)} and {tuple(labels.shape)}."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"Expected {expected} as integers, but got {labels.dtype}.")
    return labels.long()


def check_classes(labels: Tensor, classes: int, *, ignored: int | None = None) -> None:
    """Check that labels (B,...) are from 0 to `classes` - 1, or `ignored`; on a GPU without waiting for it.

    Raises:
        InputError: one is not.
    """
    if ignored is not None:
        labels = labels.masked_fill(labels == ignored, 0)
    if labels.device.type == "cuda":
        torch._assert_async(((labels >= 0) & (labels < classes)).all())
        return
    if labels.device.type != "cpu" or not labels.numel():
        return
    low, high = (int(value) for value in labels.aminmax())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise InputError(f"Expected labels from 0 to {classes - 1}, the model's classes, but got {wrong}.")


def _described(given: Any) -> str:
    if isinstance(given, str):
        return f"{given!r}; load_data({given!r}).tensors() gives them, and labels"
    if hasattr(given, "tensors") and hasattr(given, "spec"):  # an ImageData, which is not known down here
        return f"data of {given.spec}; their .tensors() gives them, and labels"
    if type(given).__module__ == "numpy":
        return f"a NumPy array of shape {given.shape}; torch.from_numpy(...) makes a tensor of it"
    return f"an object of type {type(given).__name__}"
