"""What sets a subject apart from a source over the same images: in each condition, by shift and overall."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from statshift._core.errors import InputError
from statshift.measuring.compare import Comparison, ConditionComparison, Difference, compare
from statshift.metrics.uncertainty import bootstrap_interval
from statshift.report.subjects import Group, Subject, condition_name
from statshift.results import Row, restrict
from statshift.results.conditions import Conditions, image_errors

SURE = 0.05
"""Below this adjusted p-value a difference is called sure."""


@dataclass(frozen=True, eq=False)
class Change:
    """A subject beside a source.

    Attributes:
        before: the source.
        after: the subject.
        comparison: of the two, condition by condition.
        mean: of the accuracy over the shifts that both were measured under, attacks not counted; None without any.
        shifts: the accuracy's difference under each shift, its severities averaged.
        counted: the shifts that a mean is over.
    """

    before: Subject
    after: Subject
    comparison: Comparison
    mean: Difference | None
    shifts: dict[str, Difference]
    counted: list[str]

    @property
    def whole(self) -> bool:
        """Whether `mean` is that over the benchmark's 15 x 5 conditions."""
        return self.comparison.mean_accuracy is not None

    @property
    def clean(self) -> ConditionComparison | None:
        """The difference without a shift, where it was measured."""
        return next((one for one in self.comparison.conditions if one.shift == "clean"), None)

    @property
    def gained(self) -> list[ConditionComparison]:
        """The conditions that surely became better."""
        return [one for one in self._sure if one.accuracy.difference > 0]

    @property
    def lost(self) -> list[ConditionComparison]:
        """The conditions that surely became worse, the worst first."""
        worse = [one for one in self._sure if one.accuracy.difference < 0]
        return sorted(worse, key=lambda one: one.accuracy.difference)

    @property
    def tone(self) -> str:
        """Return "good", "bad", or "" where the interval of the mean, or else of the clean accuracy, holds 0."""
        found = self.mean or (self.clean.accuracy if self.clean else None)
        return "" if found is None else "good" if found.low > 0 else "bad" if found.high < 0 else ""

    @cached_property
    def _sure(self) -> list[ConditionComparison]:
        return [one for one in self.comparison.conditions if one.adjusted_p_value < SURE]


class Changes:
    """The comparisons of a report, each made once.

    Args:
        groups: of subjects that may be compared.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        self._made: dict[tuple[int, int], Change | None] = {}

    def of(self, before: Subject, after: Subject) -> Change | None:
        """Return what changed; None for the same subject, two that may not be compared or share no condition."""
        if before is after or before.group != after.group or before.conditions.keys().isdisjoint(after.conditions):
            return None
        key = id(before), id(after)
        if key not in self._made:
            self._made[key] = _change(before, after)
        return self._made[key]

    def to_reference(self, subject: Subject) -> Change | None:
        """Return what sets a subject apart from its group's reference."""
        return self.of(self.groups[subject.group].reference, subject)

    def told(self, group: Group) -> list[Change]:
        """Return what a group's page tells: each run beside the reference, and each protocol beside its own source."""
        found: list[Change | None] = []
        for source in group.sources:
            found.append(self.of(group.reference, source))
            own = [one for one in group.subjects if one.adapted and one.measured is source.measured]
            found += [self.of(source, subject) for subject in own]
        return [change for change in found if change is not None]


def describe_sure(conditions: Sequence[ConditionComparison], most: int = 4) -> str:
    """Return conditions with their differences in words: "fog 3 (-4.1)"."""
    texts = [f"{condition_name((c.shift, c.severity))} ({100 * c.accuracy.difference:+.1f})" for c in conditions[:most]]
    more = f" and {len(conditions) - most} more" if len(conditions) > most else ""
    return ", ".join(texts) + more


def mean_interval(conditions: Conditions, shifts: Sequence[str], seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean accuracy over shifts, by the bootstrap over images."""
    low, high = bootstrap_interval(1 - image_errors(conditions, _weights(conditions, shifts)), seed=seed)
    return float(low), float(high)


def _change(before: Subject, after: Subject) -> Change | None:
    tables = {one.record.get("alexnet") for one in (before, after)}
    by_alexnet = all(one.measured.reference.startswith("AlexNet") for one in (before, after)) and len(tables) == 1
    seed = before.record.get("seed") or 0
    try:
        comparison = compare(
            before.measured.run,
            after.measured.run,
            protocols=(before.protocol, after.protocol),
            table=tables.pop() if by_alexnet else None,
            seed=seed,
        )
    except InputError:  # they share no draw
        return None
    first, second = _over_the_same(before, after)
    names = list(dict.fromkeys(shift for shift, _ in second))
    shifts = _by_shift(first, second, names, seed)
    counted = [name for name in names if name in after.averaged and name in before.averaged]
    mean = comparison.mean_accuracy
    if mean is None and counted:
        errors = [image_errors(one, _weights(second, counted)) for one in (first, second)]
        mean = _difference(1 - errors[0], 1 - errors[1], seed)
    return Change(before, after, comparison, mean, shifts, counted)


def _over_the_same(before: Subject, after: Subject) -> tuple[Conditions, Conditions]:
    """Return the rows of the conditions that both have, by draw and over the images that both rows have."""
    sides: tuple[Conditions, Conditions] = {}, {}
    for condition, draws in after.conditions.items():
        pairs = _pairs(before.conditions.get(condition, []), draws)
        if pairs:
            sides[0][condition] = [_without(one, other) for one, other in pairs]
            sides[1][condition] = [_without(other, one) for one, other in pairs]
    return sides


def _pairs(first: Sequence[Row], second: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return rows side by side: of one draw, or each with the one row of a model that drew no images."""
    if any(len(side) == 1 and "adapted_on" not in side[0] for side in (first, second)):
        pairs = [(one, other) for one in first for other in second]
    else:
        by_draw = {row["draw"]: row for row in first}
        pairs = [(by_draw[row["draw"]], row) for row in second if row["draw"] in by_draw]
    return [(one, other) for one, other in pairs if one.get("set") == other.get("set")]


def _without(row: Row, other: Row) -> Row:
    """Return a row without the images that another leaves out."""
    left_out = other.get("left_out", [])
    return restrict(row, left_out) if left_out and left_out != row.get("left_out") else row


def _by_shift(first: Conditions, second: Conditions, names: Sequence[str], seed: int) -> dict[str, Difference]:
    """Return the differences by shift; shifts over the same images are resampled together."""
    found: dict[str, Difference] = {}
    for alike in _alike(second, names):
        found |= _of_alike(first, second, alike, seed)
    return {name: found[name] for name in names if name in found}


def _alike(conditions: Conditions, names: Sequence[str]) -> list[list[str]]:
    """Return shifts sorted by the images that they are over, without those of another set at each severity."""
    sets: dict[str, set[Any]] = {name: set() for name in names}
    for (name, _), draws in conditions.items():
        sets[name].add(draws[0].get("set"))
    single = {name: of for name, (of, *more) in sets.items() if not more}
    return [[name for name in single if single[name] == one] for one in dict.fromkeys(single.values())]


def _of_alike(first: Conditions, second: Conditions, names: Sequence[str], seed: int) -> dict[str, Difference]:
    sides = [np.stack([1 - image_errors(side, _weights(side, [name])) for name in names]) for side in (first, second)]
    low, high = bootstrap_interval(sides[1] - sides[0], seed=seed)
    means = [side.mean(1) for side in sides]
    return {
        name: Difference(*(float(values[place]) for values in (*means, low, high))) for place, name in enumerate(names)
    }


def _weights(conditions: Conditions, shifts: Sequence[str]) -> dict[str, float]:
    """Return weights under which each shift counts alike, and in a shift each severity measured."""
    levels = {name: sum(shift == name for shift, _ in conditions) for name in shifts}
    return {name: 1 / (len(levels) * count) for name, count in levels.items()}


def _difference(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], seed: int) -> Difference:
    low, high = bootstrap_interval(second - first, seed=seed)
    return Difference(float(first.mean()), float(second.mean()), float(low), float(high))
