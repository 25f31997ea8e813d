"""How sure a figure is: intervals for proportions, means and differences, and paired tests."""

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from statshift._core.errors import InputError

Array = npt.NDArray[np.float64]

_NOTHING = 1e-9
"""What is smaller than this is rounding."""


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


def mean_interval(values: npt.ArrayLike, most: float = 1.0, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval (low, high) for the mean over images of one value an image.

    Whatever is linear in the conditions' accuracies (a mean accuracy, mCE) is such a mean, and its conditions share the
    images. Values spread less than 0 and `most` alone would; what they are worth in images of 0 or `most` takes the
    number's place, so that the interval of single predictions is `wilson_interval`'s.

    Args:
        values: (N,), one value per image, from 0 to `most`.
        most: the highest value that an image can have.
        level: coverage in (0,1).

    Raises:
        InputError: if there is no image.

    Reference: Korn & Graubard (Survey Methodology 1998, 24:193), whose effective number of units this is; with Wilson's
        interval compared by Franco et al. (Journal of Survey Statistics and Methodology 2019, 7:334).
    """
    shares = _values(values) / most
    images, share = len(shares), float(np.clip(shares.mean(), 0, 1))
    worth = float(images)
    if images > 1 and (variance := float(shares.var(ddof=1))) > _NOTHING:
        shrunk = (_quantile(level) / _t_quantile(level, images - 1)) ** 2
        worth = max(worth, images * share * (1 - share) / variance * shrunk)
    low, high = wilson_interval(share * worth, worth, level)
    return most * float(low), most * float(high)


def bootstrap_interval(
    values: npt.ArrayLike, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[Array, Array]:
    """Return the expanded percentile interval (low, high) for the mean over images, resampling images.

    The plain percentiles are too close together where there are few images, by a factor of sqrt((N - 1) / N) and by
    the normal's quantile in Student's place; these lie further out by as much.

    Args:
        values: (..., N), one value per image, without bounds; the leading entries share the draws.
        draws: number of resamples.
        seed: the same seed and N give the same draws.
        level: coverage in (0,1).

    Returns:
        Two arrays of shape (...).

    Raises:
        InputError: if there is no image.

    Reference: Hesterberg, What Teachers Should Know About the Bootstrap (The American Statistician 2015, 69:371).
    """
    values = np.asarray(values, np.float64)
    images = values.shape[-1]
    if images == 0:
        raise InputError("Expected `values` of at least one image, but got none.")
    generator = np.random.default_rng(seed % 2**64)
    means = [values[..., generator.integers(images, size=images)].mean(-1) for _ in range(draws)]
    return expanded_percentiles(np.asarray(means), images, level)


def expanded_percentiles(replicates: Array, images: int, level: float = 0.95) -> tuple[Array, Array]:
    """Return the ends (low, high) of the expanded percentile interval from replicates (R,...) over so many images.

    Reference: Hesterberg (The American Statistician 2015, 69:371); see `bootstrap_interval`.
    """
    tail = (1 - level) / 2
    if images > 1:
        tail = NormalDist().cdf(-math.sqrt(images / (images - 1)) * _t_quantile(level, images - 1))
    low, high = np.quantile(replicates, [tail, 1 - tail], axis=0)
    return low, high


def resamples(images: int, draws: int = 1000, seed: int = 0, block: int = 100) -> Iterator[Array]:
    """Yield (R,N), so many resamples at once: how often each image is in each; those of `bootstrap_interval`."""
    generator = np.random.default_rng(seed % 2**64)
    for start in range(0, draws, block):
        counts = [
            np.bincount(generator.integers(images, size=images), minlength=images)
            for _ in range(min(block, draws - start))
        ]
        yield np.asarray(counts, np.float64)


def paired_interval(
    first: npt.ArrayLike, second: npt.ArrayLike, level: float = 0.95, most: float = 1.0
) -> tuple[float, float]:
    """Return an interval (low, high) for the mean of `second` less that of `first`, over the same images.

    A Wald interval after adding two images, one lost and one gained by as much as images that differ do; its coverage
    is close to `level` from about 20 images on, which the plain Wald interval's is not, and it always has a width. Of
    predictions, 0 or 1, it is Bonett & Price's.

    Args:
        first: (N,), one value per image: correct or not, or a mean over draws and conditions.
        second: the same images' values under the other condition.
        level: coverage in (0,1).
        most: the largest difference that an image can have.

    Reference: Bonett & Price (Journal of Educational and Behavioral Statistics 2012, 37:479), recommended by
        Fagerland et al. (Statistics in Medicine 2014, 33:2850).
    Differs: values other than 0 and 1 are taken too.
    """
    centre, error = _paired(first, second, most)
    half = _quantile(level) * error
    return max(centre - half, -most), min(centre + half, most)


def paired_test(first: npt.ArrayLike, second: npt.ArrayLike, most: float = 1.0) -> float:
    """Return the two-sided p-value of no difference of the means, below 0.05 where `paired_interval` leaves out 0.

    Args:
        first: (N,), one value per image; of several draws the mean over them, since draws share the images.
        second: the same images' values under the other condition.
        most: the largest difference that an image can have.
    """
    centre, error = _paired(first, second, most)
    return math.erfc(abs(centre) / error / math.sqrt(2))


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


def _t_quantile(level: float, degrees: int) -> float:
    """Return Student's quantile by its expansion around the normal's: to 1 % from 4 degrees on, too small below.

    Reference: Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    z = _quantile(level)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / degrees**power for power, term in enumerate(terms))


def _paired(first: npt.ArrayLike, second: npt.ArrayLike, most: float) -> tuple[float, float]:
    """Return the centre of the difference and its standard error, after adding an image to either side."""
    before, after = _values(first), _values(second)
    _require_pairs(before, after)
    differences = after - before
    squares = differences[np.abs(differences) > _NOTHING] ** 2
    added = 2 * (float(squares.mean()) if len(squares) else most**2)
    images = len(differences) + 2
    centre = float(differences.sum()) / images
    return centre, math.sqrt(((float(squares.sum()) + added) / images - centre**2) / images)


def _values(values: npt.ArrayLike) -> Array:
    found = np.asarray(values, np.float64)
    if found.size == 0:
        raise InputError("Expected values of the same images, at least one, but got none.")
    return found


def _discordant(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[int, int]:
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    _require_pairs(first, second)
    return int((first & ~second).sum()), int((~first & second).sum())


def _require_pairs(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> None:
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise InputError(
            "Expected `first` and `second` to be of the same images, shape (N,), "
            f"but got {first.shape} and {second.shape}."
        )
