"""From rows to `summary.json`: accuracies with intervals, CE and mCE, for each protocol."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from statshift._core.errors import InputError, unknown
from statshift.metrics.classification import (
    ALEXNET,
    ALEXNET_CLEAN,
    SEVERITIES,
    corruption_error,
    mean_corruption_error,
    relative_mean_corruption_error,
)
from statshift.metrics.uncertainty import mean_interval, paired_interval, wilson_interval
from statshift.results.conditions import (
    MEASURES,
    Conditions,
    average,
    average_draws,
    by_condition,
    error_by_severity,
    image_errors,
    mce_weights,
    mean_weights,
    missing_conditions,
    paired_source,
)
from statshift.results.means import BENCHMARK, measured_mean
from statshift.results.rows import Row


def summarise(
    rows: Sequence[Row],
    *,
    table: str | None = None,
    baseline: Mapping[str, float] | None = None,
    common: Sequence[str] = BENCHMARK,
    class_counts: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Add up a run's rows; what they do not suffice for is None, never a mean over fewer conditions.

    `mean_*`, `mce` and `relative_mce` are over `common` at all five severities; of fewer there is `measured_mean`,
    which says what it is over. A shift's own figures are
    means over the severities measured, which `by_severity` shows (one entry for a shift without severities).
    Draws are averaged first. Intervals are 95 %: Wilson's for one condition, and for means and mCE, in which the
    baseline is taken as exact, over images, one value each.

    Args:
        rows: of one run, any protocols, all over the same images, of which some may be left out; but for those of
            shifts with a `set` of images of their own, whose figures, beside their `images`, stand alone.
        table: the AlexNet that CE and mCE divide by: a key of `ALEXNET`, or None for data without one.
        baseline: errors by shift, as `baseline_errors` gives them, to divide by in AlexNet's place.
        common: names of the benchmark's corruptions.
        class_counts: images by class, for `per_class_accuracy`.

    Returns:
        JSON types; fractions in [0,1], cross-entropy in nats, CE and mCE as ratios (1.0 is the baseline's). Adapted
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
    return {
        "images": counts.pop(),
        "relative_to": alexnet if baseline is None else "baseline",
        "protocols": {
            protocol: _summarise_adapted(by_condition(rows, protocol), common, divisor, class_counts)
            for protocol in dict.fromkeys(row["protocol"] for row in rows)
        },
    }


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
    rows: Sequence[Row], protocol: str = "source", common: Sequence[str] = BENCHMARK
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
    errors = {name: fmean(error_by_severity(conditions, name)) for name in common}
    faultless = [name for name, error in errors.items() if error == 0]
    if faultless:
        raise InputError(f"A baseline needs errors to divide by, but it makes none under {', '.join(faultless)}.")
    clean = conditions.get(("clean", 0))
    return errors | ({"clean": average_draws(clean)["error"]} if clean else {})


def _summarise_adapted(
    conditions: Conditions,
    common: Sequence[str],
    divisor: Mapping[str, float],
    class_counts: Sequence[int] | None,
) -> dict[str, Any]:
    """Summarise a protocol, beside the source where its rows are paired with it."""
    summary = _summarise_protocol(conditions, common, divisor, class_counts)
    rows = [row for draws in conditions.values() for row in draws]
    if not all("paired_source" in row for row in rows):
        return summary
    paired = paired_source(conditions)
    gain = None
    if summary["mean_accuracy"] is not None:
        weights = mean_weights(common)
        before, after = (1 - image_errors(side, weights) for side in (paired, conditions))
        interval = list(paired_interval(before, after))
        gain = {"mean_accuracy": float(after.mean() - before.mean()), "interval": interval}
    means = _means_by_draw(conditions, common)
    return {
        **summary,
        "images": _of_base(rows)[0]["images"],
        "draws": len({row["draw"] for row in rows}),
        "mean_accuracy_by_draw": means,
        "mean_accuracy_deviation": stdev(means) if len(means) > 1 else None,
        "gain": gain,
        "measured_mean": measured_mean(conditions, common, paired),
        "paired_source": _summarise_protocol(paired, common, divisor, class_counts),
    }


def _means_by_draw(conditions: Conditions, common: Sequence[str]) -> list[float]:
    """Return the mean accuracy of each draw that has all of the benchmark."""
    found = []
    for draw in sorted({row["draw"] for draws in conditions.values() for row in draws}):
        one = {key: [row for row in draws if row["draw"] == draw] for key, draws in conditions.items()}
        one = {key: draws for key, draws in one.items() if draws}
        if not missing_conditions(one, common):
            found.append(1 - fmean(fmean(error_by_severity(one, name)) for name in common))
    return found


def _summarise_protocol(
    conditions: Conditions,
    common: Sequence[str],
    divisor: Mapping[str, float],
    class_counts: Sequence[int] | None,
) -> dict[str, Any]:
    measured = dict.fromkeys(name for name, _ in conditions if name != "clean")
    own = [name for name in measured if name not in common]
    ordered = [name for name in common if name in measured] + own
    shifts = {name: _summarise_shift(conditions, name, divisor.get(name)) for name in ordered}
    needed, missing = len(common) * len(SEVERITIES), missing_conditions(conditions, common)
    complete = not missing
    return {
        **_summarise_clean(conditions.get(("clean", 0)), class_counts),
        **_prefixed("mean", average([shifts[name] for name in common]) if complete else None),
        "mean_interval": list(mean_interval(1 - image_errors(conditions, mean_weights(common)))) if complete else None,
        "mean_over": {"conditions": needed - len(missing), "of": needed},
        "measured_mean": measured_mean(conditions, common),
        **_summarise_mce(conditions, common, divisor if complete else {}),
        "per_shift": shifts,
    }


def _summarise_clean(clean: Sequence[Row] | None, class_counts: Sequence[int] | None) -> dict[str, Any]:
    per_class = None
    if clean and class_counts:
        correct = np.sum([row["class_correct"] for row in clean], axis=0).tolist()
        counts = np.sum([row.get("class_images", class_counts) for row in clean], axis=0).tolist()
        per_class = [n / count if count else None for n, count in zip(correct, counts, strict=True)]
    return {
        **_prefixed("clean", average_draws(clean) if clean else None),
        "clean_interval": _wilson(clean) if clean else None,
        "per_class_accuracy": per_class,
    }


def _summarise_mce(conditions: Conditions, common: Sequence[str], divisor: Mapping[str, float]) -> dict[str, Any]:
    if not divisor:
        return {"mce": None, "mce_interval": None, "relative_mce": None}
    errors = {name: error_by_severity(conditions, name) for name in common}
    table = {name: divisor[name] for name in common}
    clean, weights = conditions.get(("clean", 0)), mce_weights(common, table)
    relative = None
    if clean and "clean" in divisor and min(table.values()) > divisor["clean"]:
        relative = relative_mean_corruption_error(errors, average_draws(clean)["error"], table, divisor["clean"])
    return {
        "mce": mean_corruption_error(errors, table),
        "mce_interval": list(mean_interval(image_errors(conditions, weights), len(SEVERITIES) * sum(weights.values()))),
        "relative_mce": relative,
    }


def _summarise_shift(conditions: Conditions, name: str, divisor: float | None) -> dict[str, Any]:
    levels = (0,) if (name, 0) in conditions else SEVERITIES
    rows = [conditions.get((name, level)) for level in levels]
    averages = [average_draws(draws) if draws else None for draws in rows]
    measured = [one for one in averages if one]
    ce = None
    if divisor is not None and len(measured) == len(SEVERITIES):
        ce = corruption_error([one["error"] for one in measured], divisor)
    own = [draws[0]["images"] for draws in rows if draws and "set" in draws[0]]
    return {
        **({"images": own[0]} if own else {}),
        **average(measured),
        "ce": ce,
        "by_severity": [one["accuracy"] if one else None for one in averages],
        "intervals": [_wilson(draws) if draws else None for draws in rows],
    }


def _prefixed(prefix: str, measures: Mapping[str, float] | None) -> dict[str, float | None]:
    return {f"{prefix}_{name}": measures[name] if measures else None for name in MEASURES}


def _wilson(draws: Sequence[Row]) -> list[float]:
    low, high = wilson_interval(fmean(row["correct"] for row in draws), draws[0]["images"])
    return [float(low), float(high)]
