"""Tasks whose score is a mean over images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statshift.metrics.uncertainty import mean_interval, paired_interval, paired_test
from statshift.tasks.figures import Difference, Figure, Paired
from statshift.tasks.row import Array, Row, image_means
from statshift.tasks.task import Task


class MeanTask(Task):
    """A task whose score is a mean over images of the first of their statistics, in [0,1].

    Intervals are Wilson's and differences Bonett & Price's, over one value an image: no resampling.
    """

    def image_values(self, row: Row) -> NDArray[Any]:
        """Return (M,) in [0,1]: the score of each image."""
        return self.statistics(row)[:, 0]

    def score(self, sums: Array, images: Array) -> Array:
        """Return the mean."""
        return np.asarray(sums[..., 0] / images)

    def values(self, figure: Figure) -> Array:
        """Return (M,), one value per image, whose mean is the figure."""
        return figure.of(image_means([(row, 1 - self.image_values(row), weight) for row, weight in figure.parts]))

    def interval(self, figure: Figure) -> tuple[float, float]:
        """Return `mean_interval` of a figure."""
        return mean_interval(self.values(figure), figure.most)

    def difference(self, first: Figure, second: Figure) -> Difference:
        """Return two figures and `paired_interval`."""
        return mean_difference(self.values(first), self.values(second), first.most)

    def paired(self, pairs: Sequence[tuple[Row, Row]]) -> Paired:
        """Return what sets two runs apart; several draws share their images and are one value an image: their mean."""
        first, second = (
            image_means([(row, self.image_values(row), 1 / len(pairs)) for row in side])
            for side in zip(*pairs, strict=True)
        )
        return Paired(mean_difference(first, second), *self.alone(pairs), paired_test(first, second))


def mean_difference(first: Array, second: Array, most: float = 1.0) -> Difference:
    """Return the means of two values an image (N,) and `paired_interval` of what sets them apart.

    Args:
        first: (N,) values of the first run.
        second: (N,) values of the second run, the same images.
        most: the largest difference that an image can have.
    """
    return Difference(float(first.mean()), float(second.mean()), *paired_interval(first, second, most=most))
