"""From rows to `summary.json`: the task's measures with intervals, CE and mCE, for each protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, cast

from statshift._core.errors import InputError, unknown
from statshift.metrics.alexnet import ALEXNET, ALEXNET_CLEAN
from statshift.metrics.classification import (
    SEVERITIES,
    corruption_error,
    mean_corruption_error,
    relative_mean_corruption_error,
)
from statshift.results.conditions import (
    Conditions,
    average,
    average_draws,
    by_condition,
    error_by_severity,
    mce_weights,
    mean_score,
    mean_weights,
    missing_conditions,
    paired_source,
    summed_errors,
)
from statshift.results.families import UNTOLD, Kinship, family_means
from statshift.results.means import BENCHMARK, measured_mean
from statshift.results.typed import MeanOver, ProtocolSummary, ShiftSummary, Summary
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.row import Row
from statshift.tasks.task import Task


def summarise(
    rows: Sequence[Row],
    *,
    table: str | None = None,
    baseline: Mapping[str, float] | None = None,
    common: Sequence[str] = BENCHMARK,
    class_counts: Sequence[int] | None = None,
    task: Task = CLASSIFICATION,
    kinship: Kinship = UNTOLD,
) -> Summary:
    """Add up a run's rows; what they do not suffice for is None, never a mean over fewer conditions.

    `mean_*`, `mce` and `relative_mce` are over `common` at all five severities; of fewer there is `measured_mean`,
    which says what it is over. A shift's own figures are
    means over the severities measured, which `by_severity` shows (one entry for a shift without severities).
    Draws are averaged first. Intervals are 95 %, the task's; in mCE the baseline is taken as exact.

    Args:
        rows: rows of one run, any protocols, all over the same images, of which some may be left out; but for those of
            shifts with a `set` of images of their own, whose figures, beside their `images`, stand alone.
        table: the AlexNet that CE and mCE divide by: a key of `ALEXNET`, or None for data without one.
        baseline: errors by shift, as `baseline_errors` gives them, to divide by in AlexNet's place.
        common: names of the benchmark's corruptions.
        class_counts: images by class, for `per_class_accuracy`.
        task: what the rows are of; the measures are its.
        kinship: the shifts' families and groups, and which sets of images have clean ones beside them.

    Returns:
        JSON types; fractions in [0,1], cross-entropy in nats, CE and mCE as ratios (1.0 is the baseline's). Means
        `per_family` are told apart, and none is over two families; see `family_means`. Adapted
        protocols also have `paired_source`, the same fields of the source over exactly their images; `gain`, their
        mean accuracy less the source's, with a paired interval; and the means of each draw with their deviation.

    Raises:
        InputError: if there are no rows, they are over different numbers of images, or `table` is unknown.
    """
    counts = {row["images"] + len(row.get("left_out", [])) for row in _of_base(rows)}
    if len(counts) != 1:
        raise InputError(f"Expected rows over the same images, but got numbers of images {sorted(counts)}.")
    divisor = alexnet_errors(table) if baseline is None else baseline
    alexnet = f"alexnet:{table}" if table else None
    how = _How(common, divisor, class_counts, task, kinship)
    summary: Summary = {
        "images": counts.pop(),
        "relative_to": alexnet if baseline is None else "baseline",
        "protocols": {
            protocol: _summarise_adapted(by_condition(rows, protocol), how)
            for protocol in dict.fromkeys(row["protocol"] for row in rows)
        },
    }
    return summary if task.headline == CLASSIFICATION.headline else {**summary, "headline": task.headline}


def _of_base(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows over the run's own images, which alone are averaged and paired; the first where there are none.

    A row of a set of images of its own says so by its `set`.
    """
    return [row for row in rows if "set" not in row] or rows[:1]


def alexnet_errors(table: str | None) -> dict[str, float]:
    """Return AlexNet's error by corruption, and under "clean" where it is published; empty for None.

    Raises:
        InputError: if there is no such table.
    """
    if table is None:
        return {}
    if table not in ALEXNET:
        raise unknown("table of AlexNet errors", table, ALEXNET)
    return ALEXNET[table] | ({"clean": ALEXNET_CLEAN[table]} if table in ALEXNET_CLEAN else {})


def baseline_errors(
    rows: Sequence[Row],
    protocol: str = "source",
    common: Sequence[str] = BENCHMARK,
    task: Task = CLASSIFICATION,
) -> dict[str, float]:
    """Return a run's mean error under each of `common`, and under "clean" where it was measured.

    Raises:
        InputError: if the run lacks one of the conditions, or makes no error under a corruption, so that
            nothing can be divided by it.
    """
    conditions = by_condition(rows, protocol)
    missing = dict.fromkeys(name for name, _ in missing_conditions(conditions, common))
    if missing:
        raise InputError(
            f"A baseline needs every common corruption at every severity, but it lacks some of {', '.join(missing)}."
        )
    errors = {name: fmean(error_by_severity(conditions, name, task)) for name in common}
    faultless = [name for name, error in errors.items() if error == 0]
    if faultless:
        raise InputError(f"A baseline needs errors to divide by, but it makes none under {', '.join(faultless)}.")
    clean = conditions.get(("clean", 0))
    return errors | ({"clean": average_draws(clean, task)["error"]} if clean else {})


@dataclass(frozen=True)
class _How:
    """What a summary is made by; see `summarise`."""

    common: Sequence[str]
    divisor: Mapping[str, float]
    class_counts: Sequence[int] | None
    task: Task
    kinship: Kinship


def _summarise_adapted(conditions: Conditions, how: _How) -> ProtocolSummary:
    """Summarise a protocol, beside the source where its rows are paired with it."""
    summary = _summarise_protocol(conditions, how)
    rows = [row for draws in conditions.values() for row in draws]
    if not all("paired_source" in row for row in rows):
        return cast(ProtocolSummary, {**summary, **_of_families(conditions, summary, how)})
    paired, task = paired_source(conditions), how.task
    gain, mean = None, f"mean_{task.headline}"
    if not missing_conditions(conditions, how.common):
        change = task.difference(*(mean_score(side, mean_weights(how.common)) for side in (paired, conditions)))
        gain = {mean: change.difference, "interval": [change.low, change.high]}
    means = _means_by_draw(conditions, how)
    added = {
        "images": _of_base(rows)[0]["images"],
        "draws": len({row["draw"] for row in rows}),
        f"{mean}_by_draw": means,
        f"{mean}_deviation": stdev(means) if len(means) > 1 else None,
        "gain": gain,
        "measured_mean": measured_mean(conditions, how.common, paired, task),
        "paired_source": _summarise_protocol(paired, how),
    }
    whole = {**summary, **added}
    return cast(ProtocolSummary, {**whole, **_of_families(conditions, whole, how, paired)})


def _of_families(
    conditions: Conditions, summary: Mapping[str, Any], how: _How, paired: Conditions | None = None
) -> dict[str, Any]:
    """Return the means by family; that of the common corruptions is the summary's."""
    headline, some = how.task.headline, summary["measured_mean"]
    there = frozenset(one for one in conditions if one[0] in how.common and one[1] in SEVERITIES)
    known: dict[str, Any] = {}
    if some:
        known = {name: some[name] for name in (headline, "interval", "gain") if name in some}
    elif summary[f"mean_{headline}"] is not None:
        known = {headline: summary[f"mean_{headline}"], "interval": summary["mean_interval"]}
        if gain := summary.get("gain"):
            known["gain"] = {headline: gain[f"mean_{headline}"], "interval": gain["interval"]}
    return family_means(conditions, how.kinship, how.task, paired, {there: known} if known else {})


def _means_by_draw(conditions: Conditions, how: _How) -> list[float]:
    """Return the mean score of each draw that has all of the benchmark."""
    found = []
    for draw in sorted({row["draw"] for draws in conditions.values() for row in draws}):
        one = {key: [row for row in draws if row["draw"] == draw] for key, draws in conditions.items()}
        one = {key: draws for key, draws in one.items() if draws}
        if not missing_conditions(one, how.common):
            found.append(1 - fmean(fmean(error_by_severity(one, name, how.task)) for name in how.common))
    return found


def _summarise_protocol(conditions: Conditions, how: _How) -> ProtocolSummary:
    common, task = how.common, how.task
    measured = dict.fromkeys(name for name, _ in conditions if name != "clean")
    own = [name for name in measured if name not in common]
    ordered = [name for name in common if name in measured] + own
    shifts = {name: _summarise_shift(conditions, name, how) for name in ordered}
    needed, missing = len(common) * len(SEVERITIES), missing_conditions(conditions, common)
    complete = not missing
    over: MeanOver = {"conditions": needed - len(missing), "of": needed}
    clean = conditions.get(("clean", 0), [])
    found = {
        **_prefixed("clean", task, average_draws(clean, task) if clean else None),
        "clean_interval": list(task.condition_interval(clean)) if clean else None,
        **task.per_class(clean, how.class_counts),
        **_prefixed("mean", task, average([_measures(shifts[name], task) for name in common]) if complete else None),
        "mean_interval": list(task.interval(mean_score(conditions, mean_weights(common)))) if complete else None,
        "mean_over": over,
        "measured_mean": measured_mean(conditions, common, task=task),
        **_summarise_mce(conditions, how, complete),
        "per_shift": shifts,
    }
    return cast(ProtocolSummary, found)


def _summarise_mce(conditions: Conditions, how: _How, complete: bool) -> dict[str, Any]:
    divisor, task = how.divisor, how.task
    if not (divisor and complete):
        return {"mce": None, "mce_interval": None, "relative_mce": None}
    errors = {name: error_by_severity(conditions, name, task) for name in how.common}
    table = {name: divisor[name] for name in how.common}
    clean, relative = conditions.get(("clean", 0)), None
    if clean and "clean" in divisor and min(table.values()) > divisor["clean"]:
        error = average_draws(clean, task)["error"]
        relative = relative_mean_corruption_error(errors, error, table, divisor["clean"])
    return {
        "mce": mean_corruption_error(errors, table),
        "mce_interval": list(task.interval(summed_errors(conditions, mce_weights(how.common, table)))),
        "relative_mce": relative,
    }


def _summarise_shift(conditions: Conditions, name: str, how: _How) -> ShiftSummary:
    task, divisor = how.task, how.divisor.get(name)
    levels = (0,) if (name, 0) in conditions else SEVERITIES
    rows = [conditions.get((name, level)) for level in levels]
    averages = [average_draws(draws, task) if draws else None for draws in rows]
    measured = [one for one in averages if one]
    ce = None
    if divisor is not None and len(measured) == len(SEVERITIES):
        ce = corruption_error([one["error"] for one in measured], divisor)
    own = [draws[0]["images"] for draws in rows if draws and "set" in draws[0]]
    found = {
        **({"images": own[0]} if own else {}),
        **average(measured),
        "ce": ce,
        "by_severity": (scores := [one[task.headline] if one else None for one in averages]),
        **({} if task.headline == CLASSIFICATION.headline else {f"{task.headline}_by_severity": scores}),
        "intervals": [list(task.condition_interval(draws)) if draws else None for draws in rows],
    }
    return cast(ShiftSummary, found)


def _measures(shift: ShiftSummary, task: Task) -> dict[str, float]:
    found: dict[str, Any] = {**shift}
    return {name: found[name] for name in task.measure_names}


def _prefixed(prefix: str, task: Task, measures: Mapping[str, float] | None) -> dict[str, float | None]:
    return {f"{prefix}_{name}": measures[name] if measures else None for name in task.measure_names}
