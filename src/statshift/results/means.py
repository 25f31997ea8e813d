"""Means over some of the benchmark's conditions, each with a name that says what it is over."""

from collections.abc import Collection, Iterable, Sequence
from statistics import fmean
from typing import Any

from statshift.metrics.alexnet import ALEXNET
from statshift.metrics.classification import SEVERITIES
from statshift.results.conditions import Condition, Conditions, average_draws, mean_score
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Task

BENCHMARK = tuple(ALEXNET["imagenet"])
"""The corruptions over which mean error and mCE are defined."""

_NAMED = 3
"""Shifts that a mean's name lists; of more it has the number."""


def mean_name(conditions: Collection[Condition]) -> str:
    """Return what a mean over conditions is called: "mean of the 15 at severity 3"."""
    shifts = list(dict.fromkeys(shift for shift, _ in conditions))
    shifts = [one for one in BENCHMARK if one in shifts] + [one for one in shifts if one not in BENCHMARK]
    levels = sorted({level for _, level in conditions})
    common = set(shifts) <= set(BENCHMARK)
    if len(conditions) < len(shifts) * len(levels):
        return (
            f"mean of {len(conditions)} of the 75 common conditions"
            if common
            else f"mean of {len(conditions)} conditions"
        )
    if len(shifts) <= _NAMED:
        who = ", ".join(shifts)
    else:
        who = "the 15" if set(shifts) == set(BENCHMARK) else f"{len(shifts)} {'corruptions' if common else 'shifts'}"
    return f"mean of {who}{_at(levels)}"


def _at(levels: Sequence[int]) -> str:
    if levels == [0]:
        return ""
    if len(levels) == 1:
        return f" at severity {levels[0]}"
    if levels == list(SEVERITIES):
        return " at severities 1 to 5"
    return f" at severities {', '.join(map(str, levels[:-1]))} and {levels[-1]}"


def chosen(conditions: Conditions, wanted: Iterable[Condition]) -> tuple[Conditions, dict[str, float]]:
    """Return the rows of the conditions wanted, and weights under which each condition counts alike."""
    some = {condition: conditions[condition] for condition in wanted}
    return some, dict.fromkeys((shift for shift, _ in some), 1 / max(1, len(some)))


def mean_over(
    conditions: Conditions, wanted: Collection[Condition], task: Task = CLASSIFICATION
) -> tuple[float, list[float]]:
    """Return the mean score over the conditions wanted and its 95 % interval, the images shared by all of them."""
    some, weights = chosen(conditions, wanted)
    mean = fmean(average_draws(draws, task)[task.headline] for draws in some.values())
    return mean, list(task.interval(mean_score(some, weights)))


def measured_mean(
    conditions: Conditions, common: Sequence[str], paired: Conditions | None = None, task: Task = CLASSIFICATION
) -> dict[str, Any] | None:
    """Return the mean over the common conditions that were measured; None where these are all 75, or none.

    Args:
        conditions: a protocol's rows.
        common: names of the benchmark's corruptions.
        paired: the source's rows over the same images; adds `gain`.
        task: what the rows are of.
    """
    wanted = [(name, level) for name in common for level in SEVERITIES if (name, level) in conditions]
    if len(wanted) in (0, len(common) * len(SEVERITIES)):
        return None
    mean, interval = mean_over(conditions, wanted, task)
    found: dict[str, Any] = {
        "over": mean_name(wanted),
        "conditions": len(wanted),
        task.headline: mean,
        "interval": interval,
    }
    if paired is None:
        return found
    change = task.difference(*(mean_score(*chosen(side, wanted)) for side in (paired, conditions)))
    return found | {"gain": {task.headline: change.difference, "interval": [change.low, change.high]}}
