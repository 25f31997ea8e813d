"""Two runs over the same images: what differs, by how much, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statshift._core.errors import InputError, unknown
from statshift.measuring.showing import difference_text
from statshift.metrics.classification import SEVERITIES
from statshift.metrics.uncertainty import holm
from statshift.results import Row, RunResult, read_run, restrict
from statshift.results.conditions import (
    Conditions,
    by_condition,
    mce_weights,
    mean_score,
    mean_weights,
    missing_conditions,
    summed_errors,
)
from statshift.results.means import BENCHMARK, chosen, mean_name
from statshift.results.provenance import USUAL
from statshift.results.summary import alexnet_errors
from statshift.tasks.choice import task_of
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.figures import Difference
from statshift.tasks.task import Task

SIGNIFICANT = 0.05
"""Below this adjusted p-value a difference is called one."""

COMPARABLE = (
    "data.images",
    "data.shape",
    "data.preprocessing",
    "data.indices_hash",
    "data.labels_hash",
    "data.content_hash",
    "data.bytes_hash",
    "seed",
    "task.name",
    "task.options",
    "asked.full_argmax",
    "corruption.at",
    "corruption.table",
    "corruption.quantise",
    "corruption.reencode",
    "corruption.frost",
    "corruption.scale_constants",
    "stream.spec",
    "stream.order",
)
"""Fields of the records that must be alike: the images, how they were corrupted, and in what order they came."""

ORDER_OF_STREAM = "stream.order"
"""Conditions in the order of a passage; it counts where both runs have the same kind of stream."""

LATER = ("data.bytes_hash",)
"""Those that records of version 0.1 lack: they count where both records have them."""


def compare(
    first: str | Path | RunResult,
    second: str | Path | RunResult,
    *,
    protocols: tuple[str, str] = ("source", "source"),
    table: str | None = None,
    task: str | Task | None = None,
) -> "Comparison":
    """Compare two runs condition by condition, image by image; differences are second less first.

    Args:
        first: a run or its directory.
        second: a run or its directory, over the same images under the same corruptions.
        protocols: one of the first and one of the second run.
        table: the AlexNet that mCE divides by: a key of `ALEXNET`; without one there is no mCE.
        task: for runs of a task of your own, the task itself or py:FILE:NAME.

    Raises:
        InputError: if the runs' images or corruptions differ (the fields are named), a protocol has no rows,
            or the runs share no condition.
    """
    runs = [run if isinstance(run, RunResult) else read_run(run) for run in (first, second)]
    _require_comparable(runs[0].record, runs[1].record)
    own = task_of(runs[0].record, task)
    rows = [_rows_of(run, protocol) for run, protocol in zip(runs, protocols, strict=True)]
    shared = [condition for condition in rows[0] if condition in rows[1]]
    pairs = {
        condition: pair for condition in shared if (pair := pair_rows(rows[0][condition], rows[1][condition], own))
    }
    if not pairs:
        raise InputError(f"{runs[0].path} and {runs[1].path} share no condition: nothing to compare.")
    before = {condition: [first for first, _ in draws] for condition, draws in pairs.items()}
    after = {condition: [second for _, second in draws] for condition, draws in pairs.items()}
    complete, divisor = not missing_conditions(before, BENCHMARK), alexnet_errors(table)
    some = [] if complete else [one for one in pairs if one[0] in BENCHMARK and one[1] in SEVERITIES]
    return Comparison(
        images=before[min(before, key=lambda one: "set" in rows[0][one][0])][0]["images"],
        protocols=protocols,
        conditions=_compare_conditions(pairs, own),
        mean_accuracy=accuracy_difference(before, after, mean_weights(BENCHMARK), own) if complete else None,
        mce=_mce(before, after, divisor, own) if complete and divisor else None,
        measured_mean=accuracy_difference(chosen(before, some)[0], *chosen(after, some), own) if some else None,
        measured_over=mean_name(some) if some else "",
        headline=own.headline,
        counts_images=own.counts_images,
    )


@dataclass(frozen=True)
class ConditionComparison:
    """One condition: scores, how often one run alone is right over all draws, and a paired test over images.

    The score is the accuracy, or of another task its headline, and "right" then is the higher score of an image. The
    test is the task's; that of classification is McNemar's of one draw. Draws share their images and are no further
    evidence: of several each image has one value, its mean over them, and the test is `paired_test`.
    """

    shift: str
    severity: int
    draws: int
    accuracy: Difference
    only_first: int
    only_second: int
    p_value: float
    adjusted_p_value: float
    """By Holm's method, over all conditions compared."""

    @property
    def verdict(self) -> str:
        """Return "better" or "worse" where the adjusted p-value is below `SIGNIFICANT`, else ""."""
        if self.adjusted_p_value >= SIGNIFICANT:
            return ""
        return "better" if self.accuracy.difference > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds; `mean_accuracy` and `mce` need the whole benchmark in both runs, else None."""

    images: int
    protocols: tuple[str, str]
    conditions: tuple[ConditionComparison, ...]
    mean_accuracy: Difference | None
    mce: Difference | None
    measured_mean: Difference | None = None
    """Of the common conditions that both measured, where these are some and not all of the 75; else None."""
    measured_over: str = ""
    """What it is over: "mean of the 15 at severity 3"."""
    headline: str = "accuracy"
    """What the score is called that stands where the accuracy of classification does."""
    counts_images: bool = True
    """Whether the score is the share of images that are right, so that `only_first` are those right in the first."""

    def __repr__(self) -> str:
        """Return a table of the differences in %: the means, and the first and last conditions."""
        means = {"mean of 15 x 5": self.mean_accuracy, self.measured_over: self.measured_mean, "mCE": self.mce}
        conditions = {f"{one.shift} {one.severity or ''}".strip(): one.accuracy for one in self.conditions}
        shown = {name: one for name, one in means.items() if one is not None} | conditions
        return difference_text(self.images, self.protocols, shown, self.headline)


def _require_comparable(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    there, here = comparable_fields(first), comparable_fields(second)
    differing = differing_fields(there, here)
    hashes = [name.partition(".")[2].removesuffix("_hash") for name in differing if name.endswith("_hash")]
    others = [
        f"`{name}` is {there[name]!r} in the first and {here[name]!r} in the second"
        for name in differing
        if not name.endswith("_hash") and name != ORDER_OF_STREAM
    ]
    if ORDER_OF_STREAM in differing:
        others.append("their streams pass through other conditions, or in another order")
    if hashes:
        verb = "differs" if hashes == ["content"] else "differ"
        others.insert(0, f"they used different images ({' and '.join(hashes)} {verb})")
    if others:
        raise InputError(f"The runs cannot be compared image by image: {'; '.join(others)}.")


def comparable_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return by dotted name what must be alike for two runs to be compared."""
    found = {}
    for name in COMPARABLE:
        value: Any = record
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        found[name] = USUAL.get(name) if value is None else value
    return found


def differing_fields(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return the names of the comparable fields that keep two runs from being compared."""
    return [
        name
        for name in COMPARABLE
        if first[name] != second[name]
        and not (name in LATER and None in (first[name], second[name]))
        and not (name == ORDER_OF_STREAM and first["stream.spec"] != second["stream.spec"])
    ]


def _rows_of(run: RunResult, protocol: str) -> Conditions:
    rows = by_condition(run.rows, protocol)
    if not rows:
        raise unknown(f"protocol of {run.path}", protocol, dict.fromkeys(row["protocol"] for row in run.rows))
    return rows


def pair_rows(first: Sequence[Row], second: Sequence[Row], task: Task = CLASSIFICATION) -> list[tuple[Row, Row]]:
    """Pair rows by draw, each over the images that both have; what draws no images goes with every draw."""
    if any(len(side) == 1 and "adapted_on" not in side[0] for side in (first, second)):
        pairs = [(a, b) for a in first for b in second]
    else:
        by_draw = {row["draw"]: row for row in second}
        pairs = [(row, by_draw[row["draw"]]) for row in first if row["draw"] in by_draw]
    return [
        (restrict(a, b.get("left_out", []), task), restrict(b, a.get("left_out", []), task))
        for a, b in pairs
        if a.get("set") == b.get("set")
    ]


def _compare_conditions(
    pairs: Mapping[tuple[str, int], Sequence[tuple[Row, Row]]], task: Task
) -> tuple[ConditionComparison, ...]:
    found = {condition: task.paired(draws) for condition, draws in pairs.items()}
    adjusted = holm([one.p_value for one in found.values()])
    return tuple(
        ConditionComparison(
            *condition, len(pairs[condition]), one.difference, one.only_first, one.only_second, one.p_value, p_value
        )
        for (condition, one), p_value in zip(found.items(), adjusted, strict=True)
    )


def accuracy_difference(
    before: Conditions, after: Conditions, weights: Mapping[str, float], task: Task = CLASSIFICATION
) -> Difference:
    """Return the difference of two mean scores over the same images.

    Args:
        before: rows by condition, draw by draw over the images of `after`'s.
        after: likewise.
        weights: weight of each condition of a shift, all together 1.
        task: what the rows are of.
    """
    return task.difference(mean_score(before, weights), mean_score(after, weights))


def _mce(before: Conditions, after: Conditions, divisor: Mapping[str, float], task: Task) -> Difference:
    weights = mce_weights(BENCHMARK, divisor)
    return task.difference(summed_errors(before, weights), summed_errors(after, weights))
