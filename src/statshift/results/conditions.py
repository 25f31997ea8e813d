"""One protocol's rows by condition: averages, and the figures behind every mean."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import cast

from statshift.metrics.classification import SEVERITIES
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.figures import Figure
from statshift.tasks.row import Row
from statshift.tasks.task import Task

Condition = tuple[str, int]
"""Shift and severity."""

Conditions = dict[Condition, list[Row]]
"""The rows of each condition, one per draw."""


def by_condition(rows: Iterable[Row], protocol: str) -> Conditions:
    """Sort the rows of `protocol` by condition, in order of appearance."""
    conditions: Conditions = {}
    for row in rows:
        if row["protocol"] == protocol:
            conditions.setdefault((row["shift"], row["severity"]), []).append(row)
    return conditions


def paired_source(conditions: Conditions) -> Conditions:
    """Return rows of the source over exactly the images of an adapted protocol's rows."""
    return {condition: [_paired_source(row) for row in draws] for condition, draws in conditions.items()}


def _paired_source(row: Row) -> Row:
    return cast(Row, {**row, **row["paired_source"]})


def missing_conditions(conditions: Conditions, common: Iterable[str]) -> list[Condition]:
    """Return which of `common` at the five severities have no row."""
    wanted = [(name, severity) for name in common for severity in SEVERITIES]
    return [condition for condition in wanted if condition not in conditions]


def average_draws(draws: Iterable[Row], task: Task = CLASSIFICATION) -> dict[str, float]:
    """Return the mean of each of the task's measures over the draws of one condition."""
    return average([task.measures(row) for row in draws])


def average(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the plain mean of each measure."""
    return {name: fmean(part[name] for part in parts) for name in parts[0]}


def error_by_severity(conditions: Conditions, shift: str, task: Task = CLASSIFICATION) -> list[float]:
    """Return the five errors under a shift that was measured at every severity."""
    return [average_draws(conditions[shift, severity], task)["error"] for severity in SEVERITIES]


def mean_weights(common: Sequence[str]) -> dict[str, float]:
    """Return the weight that each condition of a corruption has in the mean error."""
    return {name: 1 / (len(common) * len(SEVERITIES)) for name in common}


def mce_weights(common: Sequence[str], divisor: Mapping[str, float]) -> dict[str, float]:
    """Return the weight that each condition of a corruption has in mCE."""
    return {name: weight / divisor[name] for name, weight in mean_weights(common).items()}


def mean_score(conditions: Conditions, weights: Mapping[str, float]) -> Figure:
    """Return the figure that is the weighted mean of the conditions' scores.

    Args:
        conditions: all over the same N images; draws are averaged.
        weights: weight of each condition of a shift, all together 1; a shift without a weight does not count.
    """
    return Figure(_parts(conditions, weights))


def summed_errors(conditions: Conditions, weights: Mapping[str, float]) -> Figure:
    """Return the figure that is the weighted sum of the errors of conditions at the five severities, as mCE is."""
    return Figure(_parts(conditions, weights), len(SEVERITIES) * sum(weights.values()), errors=True)


def _parts(conditions: Conditions, weights: Mapping[str, float]) -> tuple[tuple[Row, float], ...]:
    return tuple(
        (row, weights[shift] / len(draws))
        for (shift, _), draws in conditions.items()
        if shift in weights
        for row in draws
    )
