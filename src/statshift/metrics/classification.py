"""From counts to error, CE, mCE and calibration error."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from statshift._core.errors import InputError

SEVERITIES = (1, 2, 3, 4, 5)
CALIBRATION_BINS = 15


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
