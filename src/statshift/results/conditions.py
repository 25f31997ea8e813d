"""One protocol's rows by condition: averages, and the errors by image behind every mean."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np
import numpy.typing as npt

from statshift.metrics.classification import SEVERITIES, calibration_error
from statshift.results.rows import Row, bits, everywhere

Condition = tuple[str, int]
"""Shift and severity."""

Conditions = dict[Condition, list[Row]]
"""The rows of each condition, one per draw."""

MEASURES = ("accuracy", "error", "top5_accuracy", "cross_entropy", "calibration_error")
"""What is averaged over draws, severities and shifts alike."""


def by_condition(rows: Iterable[Row], protocol: str) -> Conditions:
    """Sort the rows of `protocol` by condition, in order of appearance."""
    conditions: Conditions = {}
    for row in rows:
        if row["protocol"] == protocol:
            conditions.setdefault((row["shift"], row["severity"]), []).append(row)
    return conditions


def paired_source(conditions: Conditions) -> Conditions:
    """Return rows of the source over exactly the images of an adapted protocol's rows."""
    places = ("shift", "severity", "draw", "left_out", "class_images", "set")
    return {
        condition: [{key: row[key] for key in places if key in row} | row["paired_source"] for row in draws]
        for condition, draws in conditions.items()
    }


def missing_conditions(conditions: Conditions, common: Iterable[str]) -> list[Condition]:
    """Return which of `common` at the five severities have no row."""
    wanted = [(name, severity) for name in common for severity in SEVERITIES]
    return [condition for condition in wanted if condition not in conditions]


def average_draws(draws: Iterable[Row]) -> dict[str, float]:
    """Return the mean of each of `MEASURES` over the draws of one condition."""
    return average([_measures(row) for row in draws])


def average(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the plain mean of each of `MEASURES`."""
    return {name: fmean(part[name] for part in parts) for name in MEASURES}


def error_by_severity(conditions: Conditions, shift: str) -> list[float]:
    """Return the five errors under a shift that was measured at every severity."""
    return [average_draws(conditions[shift, severity])["error"] for severity in SEVERITIES]


def mean_weights(common: Sequence[str]) -> dict[str, float]:
    """Return the weight that each condition of a corruption has in the mean error."""
    return {name: 1 / (len(common) * len(SEVERITIES)) for name in common}


def mce_weights(common: Sequence[str], divisor: Mapping[str, float]) -> dict[str, float]:
    """Return the weight that each condition of a corruption has in mCE."""
    return {name: weight / divisor[name] for name, weight in mean_weights(common).items()}


def image_errors(conditions: Conditions, weights: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """Return (M,), one value per image, whose mean is the weighted sum of the conditions' errors.

    Args:
        conditions: all over the same N images; draws are averaged. Images that every row leaves out have no value, so
            that M is the number of images of which anything is known.
        weights: of each condition of a shift; a shift without a weight does not count.
    """
    counted = [
        (row, weights[shift] / len(draws))
        for (shift, _), draws in conditions.items()
        if shift in weights
        for row in draws
    ]
    return image_means([(row, ~bits(row), weight) for row, weight in counted])


def image_means(parts: Iterable[tuple[Row, npt.NDArray[np.bool_], float]]) -> npt.NDArray[np.float64]:
    """Return (M,), one value per image, whose mean is the weighted sum of what rows say of their images.

    Args:
        parts: a row, a value for each of its images, and the weight of their mean.
    """
    total, known = np.zeros(0), np.zeros(0, bool)
    for row, values, weight in parts:
        spread = everywhere(row, values) * weight
        if not len(total):
            total, known = np.zeros(len(spread)), np.zeros(len(spread), bool)
        total += spread
        known |= everywhere(row, np.ones_like(values)) > 0
    return np.asarray(total[known] * (known.sum() / max(1, len(known))), np.float64)


def _measures(row: Row) -> dict[str, float]:
    images, bins = row["images"], row["calibration"]
    values = (
        row["correct"] / images,
        (images - row["correct"]) / images,
        row["correct_top5"] / images,
        row["cross_entropy_sum"] / images,
        calibration_error(bins["counts"], bins["correct"], bins["confidence_sums"]),
    )
    return dict(zip(MEASURES, values, strict=True))
