"""Figures made of rows, and what a difference of two is: the words in which results and tasks speak."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from statshift.metrics.uncertainty import expanded_percentiles, resamples
from statshift.tasks.row import Array, Row, kept_positions


@dataclass(frozen=True)
class Difference:
    """A figure of both runs, and a 95 % interval for second less first."""

    first: float
    second: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Second less first."""
        return self.second - self.first


@dataclass(frozen=True)
class Paired:
    """One condition of two runs.

    Attributes:
        difference: difference of the scores.
        only_first: images, over all draws, of which the first run alone is right, or scores higher.
        only_second: likewise.
        p_value: two-sided, of no difference.
    """

    difference: Difference
    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class Figure:
    """A weighted sum of rows' errors, or 1 less it: a score, a mean score, or mCE.

    Attributes:
        parts: rows over the same N images, of which some may be left out, and the weight of each one's error.
        most: the highest that the sum can be.
        errors: whether the figure is the sum, not 1 less it.
    """

    parts: tuple[tuple[Row, float], ...]
    most: float = 1.0
    errors: bool = False

    def of(self, errors: Array) -> Array:
        """Return the figure for a sum of errors."""
        return errors if self.errors else 1 - errors


def score_of(draws: Sequence[Row]) -> Figure:
    """Return the figure that is the mean score over the draws of a condition."""
    return Figure(tuple((row, 1 / len(draws)) for row in draws))


def bootstrap(
    figures: Sequence[Figure],
    statistics: Callable[[Row], Array],
    score: Callable[[Array, Array], Array],
    draws: int = 1000,
) -> Array:
    """Return (F,1+R): figures over all images, and over R resamples of the images, the same for all figures and rows.

    Args:
        figures: F of them, over the same N images.
        statistics: (M,S) of a row, sufficient statistics of each of its M images, which add up.
        score: function of sums (...,S) and numbers of images (...) that returns (...), in [0,1].
        draws: R.
    """
    first = figures[0].parts[0][0]
    everyone = first["images"] + len(first.get("left_out", []))
    blocks = [np.ones((1, everyone)), *resamples(everyone, draws)]
    stored = {id(row): statistics(row) for figure in figures for row, _ in figure.parts}
    return np.concatenate([[_errors(figure, block, stored, score) for figure in figures] for block in blocks], axis=1)


def _errors(figure: Figure, block: Array, stored: dict[int, Array], score: Callable[[Array, Array], Array]) -> Array:
    """Return a figure (R,) over resamples (R,N)."""
    errors = np.zeros(len(block))
    for row, weight in figure.parts:
        own = block[:, kept_positions(row)]
        errors += weight * (1 - score(own @ stored[id(row)], own.sum(1)))
    return figure.of(errors)


def percentiles(replicates: Array, images: int) -> tuple[float, float]:
    """Return the 95 % interval of a figure from its values over resamples of so many images."""
    low, high = expanded_percentiles(replicates, images)
    return float(low), float(high)


def normal_test(value: float, replicates: Array) -> float:
    """Return the two-sided p-value of no difference, whose deviation is that over resamples."""
    deviation = float(replicates.std(ddof=1))
    if deviation == 0:
        return float(value == 0)
    return math.erfc(abs(value) / deviation / math.sqrt(2))
