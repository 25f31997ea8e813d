"""Along a stream: scores by time beside the source's, where a protocol falls, and what is left on clean images."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statshift.results.conditions import Condition, Conditions, by_condition, mean_score, paired_source
from statshift.shifts.shift import CLEAN
from statshift.tasks.figures import Difference
from statshift.tasks.row import Row
from statshift.tasks.task import Task

Sums = NDArray[np.float64]
"""(bins,3): how many images, the sum of their scores, and that of the source's scores."""

SIGNIFICANT_FALL = 0.05
"""Below this p-value, adjusted for all places looked at, a protocol is called under the source."""


@dataclass(frozen=True)
class Fall:
    """Where along a stream a protocol is furthest under the source.

    Attributes:
        condition: whose images.
        bin: of the passage's time, from 0.
        images: how many these are, of one draw.
        difference: their mean score less the source's.
        p_value: two-sided, of no difference, times how many places were looked at; at most 1.
    """

    condition: Condition
    bin: int
    images: float
    difference: float
    p_value: float

    @property
    def certain(self) -> bool:
        """Whether it is significantly under the source."""
        return self.p_value < SIGNIFICANT_FALL


@dataclass(frozen=True)
class Trace:
    """A protocol along a stream, beside the source over the same images; draws add up.

    Attributes:
        sums: by condition.
        fall: None where the protocol is nowhere under the source.
        left: scores of the source and of the protocol on the clean images that came last; None where none did.
    """

    sums: Mapping[Condition, Sums]
    fall: Fall | None
    left: Difference | None

    @property
    def total(self) -> Sums:
        """The sums over all conditions."""
        found: Sums = np.sum(list(self.sums.values()), axis=0)
        return found

    def gain(self, bins: slice = slice(None)) -> float | None:
        """Return the mean score less the source's over some bins; None where they hold no image."""
        images, own, source = self.total[bins].sum(0)
        return float((own - source) / images) if images else None


def traces(rows: Iterable[Row], stream: Mapping[str, Any], task: Task) -> dict[str, Trace]:
    """Return by name the protocols whose rows tell of a stream, in order.

    Args:
        rows: of a run, any protocols.
        stream: what the run's record says of it.
        task: what the rows are of.
    """
    told = [row for row in rows if "along" in row and "paired_source" in row]
    found = {name: by_condition(told, name) for name in dict.fromkeys(row["protocol"] for row in told)}
    return {name: _trace(conditions, stream, task) for name, conditions in found.items()}


def _trace(conditions: Conditions, stream: Mapping[str, Any], task: Task) -> Trace:
    sums = {condition: _sums(draws, int(stream["bins"])) for condition, draws in conditions.items()}
    clean = {one: draws for one, draws in conditions.items() if one[0] == CLEAN}
    left = None
    if clean and stream["clean_last"]:
        left = task.difference(*(mean_score(side, {CLEAN: 1.0}) for side in (paired_source(clean), clean)))
    return Trace(sums, _fall(conditions, sums, task), left)


def _sums(draws: Sequence[Row], bins: int) -> Sums:
    sums = np.zeros((bins, 3))
    for row in draws:
        for place, *values in row["along"]:
            sums[int(place)] += values
    return sums


def _fall(conditions: Conditions, sums: Mapping[Condition, Sums], task: Task) -> Fall | None:
    """Return the bin of a condition whose loss is largest in units of its noise.

    The noise of n images is the root of n times the mean square by which the condition's images differ from the
    source, and of 2 more, so that few images that differ tell little. Draws share their images: they count as one.
    """
    places = sum(int((one[:, 0] > 0).sum()) for one in sums.values())
    deepest, found = 0.0, None
    for condition, draws in conditions.items():
        differing = fmean(_mean_square(row, task) for row in draws)
        for place, (images, own, source) in enumerate(sums[condition] / len(draws)):
            depth = (source - own) / math.sqrt(images * differing + 2)
            if depth > deepest:
                p_value = min(1.0, 2 * NormalDist().cdf(-depth) * places)
                deepest, found = depth, Fall(condition, place, images, (own - source) / images, p_value)
    return found


def _mean_square(row: Row, task: Task) -> float:
    (source,) = paired_source({("", 0): [row]})["", 0]
    return float(np.square(task.image_scores(row) - task.image_scores(source)).mean())
