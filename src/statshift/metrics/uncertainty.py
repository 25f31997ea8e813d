"""How sure a figure is: intervals for proportions, means and differences, and paired tests."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from statshift._core.errors import InputError

Array = npt.NDArray[np.float64]


def wilson_interval(correct: npt.ArrayLike, total: npt.ArrayLike, level: float = 0.95) -> tuple[Array, Array]:
    """Return the score interval (low, high) in [0,1] for a proportion, element by element.

    Args:
        correct: successes, from 0 to `total`; any shape.
        total: trials, at least 1; broadcast against `correct`.
        level: coverage in (0,1).

    Raises:
        InputError: if `total` is below 1, or `correct` is not from 0 to `total`.

    Reference: Wilson (JASA 1927); method 3 of Newcombe (Statistics in Medicine 1998, 17:857).
    """
    correct, total = np.asarray(correct, np.float64), np.asarray(total, np.float64)
    if not np.all((total >= 1) & (correct >= 0) & (correct <= total)):
        raise InputError(f"Expected 0 <= `correct` <= `total` and `total` >= 1, but got {correct} of {total}.")
    z, p = _quantile(level), correct / total
    centre = p + z**2 / (2 * total)
    half = z * np.sqrt(p * (1 - p) / total + (z / (2 * total)) ** 2)
    scale = 1 + z**2 / total
    return np.clip((centre - half) / scale, 0, 1), np.clip((centre + half) / scale, 0, 1)


def bootstrap_interval(
    values: npt.ArrayLike, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[Array, Array]:
    """Return the percentile interval (low, high) for the mean over images, resampling images.

    Whatever is linear in the conditions' accuracies (a mean accuracy, mCE, their difference between two runs)
    is the mean over images of one value per image. So one vector is resampled, however many conditions went
    into it, and every condition shares the draw, as it shares the images.

    Args:
        values: (..., N), one value per image; the leading entries share the draws.
        draws: number of resamples.
        seed: the same seed and N give the same draws.
        level: coverage in (0,1).

    Returns:
        Two arrays of shape (...).

    Raises:
        InputError: if there is no image.

    Reference: Efron & Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    values = np.asarray(values, np.float64)
    images = values.shape[-1]
    if images == 0:
        raise InputError("Expected `values` of at least one image, but got none.")
    generator = np.random.default_rng(seed % 2**64)
    means = [values[..., generator.integers(images, size=images)].mean(-1) for _ in range(draws)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def paired_interval(first: npt.ArrayLike, second: npt.ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return an interval (low, high) in [-1,1] for accuracy of `second` less that of `first`.

    A Wald interval after adding one image to each discordant cell; its coverage is close to `level` from
    about 20 images on, which the plain Wald interval's is not.

    Args:
        first: (N,) of 0 or 1, correct or not, by image.
        second: the same images' under the other condition.
        level: coverage in (0,1).

    Reference: Bonett & Price (Journal of Educational and Behavioral Statistics 2012, 37:479), recommended by
        Fagerland et al. (Statistics in Medicine 2014, 33:2850).
    """
    only_first, only_second = _discordant(first, second)
    images = np.size(first) + 2
    lost, gained = (only_first + 1) / images, (only_second + 1) / images
    centre = gained - lost
    half = _quantile(level) * float(np.sqrt((lost + gained - centre**2) / images))
    return max(centre - half, -1.0), min(centre + half, 1.0)


def mcnemar(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[int, int, float]:
    """Return how many images only `first` and only `second` has right, and the exact two-sided p-value.

    Under the null each discordant image falls to either side with probability 1/2. The binomial tail is
    summed from logarithms, exact at any number of images.

    Args:
        first: (N,) of 0 or 1, correct or not, by image.
        second: the same images' under the other condition.

    Reference: McNemar (Psychometrika 1947); the exact conditional test of Fagerland et al. (2014).
    """
    only_first, only_second = _discordant(first, second)
    discordant = only_first + only_second
    k = np.arange(1, min(only_first, only_second) + 1)
    log_binomials = np.cumsum(np.log((discordant + 1 - k) / k))
    log_tail = np.concatenate([[0.0], log_binomials]) - discordant * np.log(2)
    return only_first, only_second, min(1.0, 2 * float(np.exp(log_tail).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for the number of tests, in the order given.

    Reference: Holm (Scandinavian Journal of Statistics 1979).
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * np.asarray(p_values, np.float64)[order]))
    return [float(value) for value in adjusted]


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise InputError(f"Expected `level` to be between 0 and 1, but got {level}.")
    return NormalDist().inv_cdf((1 + level) / 2)


def _discordant(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[int, int]:
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise InputError(
            "Expected `first` and `second` to be of the same images, shape (N,), "
            f"but got {first.shape} and {second.shape}."
        )
    return int((first & ~second).sum()), int((~first & second).sum())
