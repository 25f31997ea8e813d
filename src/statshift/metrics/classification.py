"""From a model's outputs to counts, and from counts to error, CE, mCE and calibration error."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from statshift._core.errors import InputError

SEVERITIES = (1, 2, 3, 4, 5)
CALIBRATION_BINS = 15

ALEXNET: dict[str, dict[str, float]] = {
    "imagenet": {
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    },
    "cifar10": {
        "gaussian_noise": 0.2584,
        "shot_noise": 0.25102,
        "impulse_noise": 0.30084,
        "defocus_blur": 0.30662,
        "glass_blur": 0.30328,
        "motion_blur": 0.37378,
        "zoom_blur": 0.34576,
        "snow": 0.30212,
        "frost": 0.32398,
        "fog": 0.37776,
        "brightness": 0.26932,
        "contrast": 0.51958,
        "elastic_transform": 0.3035,
        "pixelate": 0.25248,
        "jpeg_compression": 0.24516,
    },
    "cifar100": {
        "gaussian_noise": 0.61448,
        "shot_noise": 0.6007,
        "impulse_noise": 0.66594,
        "defocus_blur": 0.61368,
        "glass_blur": 0.61268,
        "motion_blur": 0.65894,
        "zoom_blur": 0.63438,
        "snow": 0.66192,
        "frost": 0.68484,
        "fog": 0.68874,
        "brightness": 0.62692,
        "contrast": 0.75924,
        "elastic_transform": 0.6183,
        "pixelate": 0.57462,
        "jpeg_compression": 0.58216,
    },
}
"""AlexNet's top-1 error under each common corruption, averaged over the five severities.

Reference: ImageNet, Hendrycks & Dietterich (ICLR 2019); CIFAR, the AlexNets of Benz et al. (WACV 2021).
"""

ALEXNET_CLEAN: dict[str, float] = {"imagenet": 0.43478}
"""AlexNet's top-1 error without corruption, where it is published."""


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


def corruption_error(errors: Sequence[float], baseline_error: float) -> float:
    """Return CE: the errors under one corruption, summed over severities, in units of a baseline's.

    Args:
        errors: the model's top-1 errors in [0,1] by severity.
        baseline_error: the baseline's error in [0,1], averaged over the same severities.

    Raises:
        InputError: if the baseline makes no error, so that there is nothing to divide by.

    Reference: Hendrycks & Dietterich (ICLR 2019), section 4.1; Benz et al. (WACV 2021), eq. 4.
    """
    if not baseline_error > 0:
        raise InputError(f"Expected the baseline's error to be above 0, but got {baseline_error}.")
    return float(np.mean(errors)) / baseline_error


def relative_corruption_error(
    errors: Sequence[float], clean_error: float, baseline_error: float, baseline_clean_error: float
) -> float:
    """Return relative CE: the rise of the error over the clean error, in units of the baseline's rise.

    Raises:
        InputError: if the baseline's error does not rise.

    Reference: Hendrycks & Dietterich (ICLR 2019), section 4.1.
    """
    return corruption_error([error - clean_error for error in errors], baseline_error - baseline_clean_error)


def mean_corruption_error(errors: Mapping[str, Sequence[float]], table: Mapping[str, float]) -> float:
    """Return mCE, the mean of CE over the corruptions of `table`; 1.0 is as good as the baseline.

    Args:
        errors: corruption to the five errors in [0,1], by severity; corruptions outside `table` do not count.
        table: corruption to the baseline's mean error, such as `ALEXNET["imagenet"]`.

    Raises:
        InputError: if a corruption or a severity is missing, since a mean over fewer is another number.

    Reference: Hendrycks & Dietterich (ICLR 2019), section 4.1.
    """
    _require_all(errors, table)
    return float(np.mean([corruption_error(errors[name], table[name]) for name in table]))


def relative_mean_corruption_error(
    errors: Mapping[str, Sequence[float]],
    clean_error: float,
    table: Mapping[str, float],
    baseline_clean_error: float,
) -> float:
    """Return relative mCE, the mean of relative CE over the corruptions of `table`.

    Raises:
        InputError: if a corruption or a severity is missing, or the baseline's error does not rise.

    Reference: Hendrycks & Dietterich (ICLR 2019), section 4.1.
    """
    _require_all(errors, table)
    return float(
        np.mean(
            [relative_corruption_error(errors[name], clean_error, table[name], baseline_clean_error) for name in table]
        )
    )


def calibration_bins(
    confidence: npt.ArrayLike, correct: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Sort images into 15 equal bins ((m-1)/15, m/15] of confidence; 0 falls into the first.

    Args:
        confidence: (N,) in [0,1].
        correct: (N,) of 0 or 1.

    Returns:
        Images, correct images and summed confidence of each bin, three arrays (15,).
    """
    confidence = np.asarray(confidence, np.float64)
    edges = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
    index = np.digitize(confidence, edges, right=True)

    def per_bin(weights: npt.ArrayLike | None) -> npt.NDArray[Any]:
        return np.bincount(index, weights, minlength=CALIBRATION_BINS)

    return per_bin(None), per_bin(correct).astype(np.int64), per_bin(confidence)


def calibration_error(counts: npt.ArrayLike, correct: npt.ArrayLike, confidence_sums: npt.ArrayLike) -> float:
    """Return the expected calibration error in [0,1] from the three arrays of `calibration_bins`.

    It is the mean over images of |accuracy - mean confidence| of the image's bin.

    Raises:
        InputError: if the bins hold no image.

    Reference: Guo et al. (ICML 2017), eq. 3.
    """
    images = np.sum(counts)
    if images == 0:
        raise InputError("Expected bins with at least one image, but got none.")
    return float(np.abs(np.subtract(correct, confidence_sums)).sum() / images)


def _require_all(errors: Mapping[str, Sequence[float]], table: Mapping[str, float]) -> None:
    found = {name: len(errors.get(name, ())) for name in table}
    missing = [f"{name} ({n} of 5 severities)" for name, n in found.items() if n != len(SEVERITIES)]
    if missing:
        raise InputError(
            f"mCE is defined over {len(table)} corruptions at 5 severities; missing: {', '.join(missing)}."
        )
