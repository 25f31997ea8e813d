"""What sets a subject apart from a source over the same images: in each condition, by shift and overall."""

from collections.abc import Sequence
from dataclasses import dataclass

from statshift._core.errors import InputError
from statshift.measuring.compare import (
    Comparison,
    ConditionComparison,
    accuracy_difference,
    compare,
    pair_rows,
)
from statshift.report.subjects import Group, Subject, condition_name
from statshift.results.conditions import Condition, Conditions
from statshift.results.means import chosen, mean_name
from statshift.tasks.figures import Difference
from statshift.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Change:
    """A subject beside a source.

    Attributes:
        before: the source.
        after: the subject.
        comparison: comparison of the two, condition by condition.
        partial: difference of the mean accuracy over `over`; None where one of the two lacks some of these.
        over: the conditions that the group's partial means are over, the same for all of its subjects.
        shifts: the accuracy's difference under each shift, its severities averaged.
    """

    before: Subject
    after: Subject
    comparison: Comparison
    partial: Difference | None
    over: tuple[Condition, ...]
    shifts: dict[str, Difference]

    @property
    def mean(self) -> Difference | None:
        """The difference of the mean accuracy: over the benchmark's 15 x 5 where both have it, else over `over`."""
        return self.comparison.mean_accuracy or self.partial

    @property
    def name(self) -> str:
        """What `mean` is of."""
        return "mean of 15 x 5" if self.whole else mean_name(self.over)

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
        """The conditions that became significantly better."""
        return [one for one in self.comparison.conditions if one.verdict == "better"]

    @property
    def lost(self) -> list[ConditionComparison]:
        """The conditions that became significantly worse, the worst first."""
        worse = [one for one in self.comparison.conditions if one.verdict == "worse"]
        return sorted(worse, key=lambda one: one.accuracy.difference)

    @property
    def tone(self) -> str:
        """Return "good", "bad", or "" where the interval of the mean, or else of the clean accuracy, holds 0."""
        found = self.mean or (self.clean.accuracy if self.clean else None)
        return "" if found is None else "good" if found.low > 0 else "bad" if found.high < 0 else ""


class Changes:
    """The comparisons of a report, each made once.

    Args:
        groups: groups of subjects that may be compared.
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
            self._made[key] = _change(before, after, self.groups[before.group].shared)
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


def conditions_in_words(conditions: Sequence[ConditionComparison], most: int = 4) -> str:
    """Return conditions with their differences in words: "fog 3 (-4.1)"."""
    texts = [f"{condition_name((c.shift, c.severity))} ({100 * c.accuracy.difference:+.1f})" for c in conditions[:most]]
    more = f" and {len(conditions) - most} more" if len(conditions) > most else ""
    return ", ".join(texts) + more


def _change(before: Subject, after: Subject, over: tuple[Condition, ...]) -> Change | None:
    tables = {one.record.get("alexnet") for one in (before, after)}
    by_alexnet = all(one.measured.reference.startswith("AlexNet") for one in (before, after)) and len(tables) == 1
    try:
        comparison = compare(
            before.measured.run,
            after.measured.run,
            protocols=(before.protocol, after.protocol),
            table=tables.pop() if by_alexnet else None,
            task=before.task,
        )
    except InputError:  # they share no draw
        return None
    first, second = _over_the_same(before, after)
    by_shift = {name: [one for one in second if one[0] == name] for name, _ in second}
    of_one_set = {name: of for name, of in by_shift.items() if len({_set(second, one) for one in of}) == 1}
    shifts = {name: _of(first, second, of, after.task) for name, of in of_one_set.items()}
    partial = _of(first, second, over, after.task) if over and all(one in second for one in over) else None
    return Change(before, after, comparison, partial, over, shifts)


def difference_over(before: Subject, after: Subject, wanted: Sequence[Condition]) -> Difference | None:
    """Return the difference of the mean scores over conditions, image by image.

    It is None where there is no condition, one of the two lacks one, or their sets of images are not equally large.
    """
    first, second = _over_the_same(before, after, wanted)
    if not wanted or any(one not in second for one in wanted):
        return None
    images = {row["images"] + len(row.get("left_out", [])) for one in wanted for row in second[one]}
    return _of(first, second, wanted, after.task) if len(images) == 1 else None


def _of(first: Conditions, second: Conditions, wanted: Sequence[Condition], task: Task) -> Difference:
    """Return the difference of the mean scores over conditions, each counted alike."""
    (before, weights), (after, _) = chosen(first, wanted), chosen(second, wanted)
    return accuracy_difference(before, after, weights, task)


def _set(conditions: Conditions, condition: Condition) -> str | None:
    """Return which images a condition is over: those of the run, or a set of its own."""
    return conditions[condition][0].get("set")


def _over_the_same(
    before: Subject, after: Subject, wanted: Sequence[Condition] | None = None
) -> tuple[Conditions, Conditions]:
    """Return the rows of the conditions that both have, by draw and over the images that both rows have."""
    sides: tuple[Conditions, Conditions] = {}, {}
    for condition, draws in after.conditions.items():
        if wanted is not None and condition not in wanted:
            continue
        pairs = pair_rows(before.conditions.get(condition, []), draws, after.task)
        if pairs:
            for side, rows in zip(sides, zip(*pairs, strict=True), strict=True):
                side[condition] = list(rows)
    return sides
