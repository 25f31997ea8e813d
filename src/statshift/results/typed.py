"""What `summary.json` holds."""

from typing import Any, TypedDict


class MeanOver(TypedDict):
    """How many conditions of the benchmark were measured, of how many."""

    conditions: int
    of: int


class ShiftSummary(TypedDict, total=False):
    """One shift: the task's measures over the severities measured, and its score at each.

    The fields of measures are those of classification and of segmentation; of another task they are its
    `measure_names`.
    """

    accuracy: float
    miou: float
    miou_by_severity: list[float | None]
    pixel_accuracy: float
    per_image_miou: float
    error: float
    top5_accuracy: float
    cross_entropy: float
    calibration_error: float
    ce: float | None
    by_severity: list[float | None]
    intervals: list[list[float] | None]


class ProtocolSummary(TypedDict, total=False):
    """One protocol; what there is not enough of is None.

    The fields of measures, `clean_` and `mean_`, are those of classification and of segmentation; of another task they
    have the names of its measures. `per_family`, `per_group` and `per_set` are what `family_means` returns. Those from
    `images` on are of an adapted protocol.
    """

    clean_miou: float | None
    clean_pixel_accuracy: float | None
    clean_per_image_miou: float | None
    pixel_accuracy: float | None
    class_iou: list[float | None] | None
    absent_classes: list[int] | None
    mean_miou: float | None
    mean_pixel_accuracy: float | None
    mean_per_image_miou: float | None
    clean_accuracy: float | None
    clean_error: float | None
    clean_top5_accuracy: float | None
    clean_cross_entropy: float | None
    clean_calibration_error: float | None
    clean_interval: list[float] | None
    per_class_accuracy: list[float | None] | None
    mean_accuracy: float | None
    mean_error: float | None
    mean_top5_accuracy: float | None
    mean_cross_entropy: float | None
    mean_calibration_error: float | None
    mean_interval: list[float] | None
    mean_over: MeanOver
    measured_mean: dict[str, Any] | None
    mce: float | None
    mce_interval: list[float] | None
    relative_mce: float | None
    per_shift: dict[str, ShiftSummary]
    per_family: dict[str, dict[str, Any]]
    per_group: dict[str, dict[str, Any]]
    per_set: dict[str, dict[str, Any]]
    images: int
    draws: int
    mean_accuracy_by_draw: list[float]
    mean_accuracy_deviation: float | None
    mean_miou_by_draw: list[float]
    mean_miou_deviation: float | None
    gain: dict[str, Any] | None
    paired_source: "ProtocolSummary"


class _Summary(TypedDict):
    images: int
    relative_to: str | None
    protocols: dict[str, ProtocolSummary]


class Summary(_Summary, total=False):
    """A run: each protocol, and what errors are relative to. `ligs` and `baseline` are there where they were asked.

    `headline` is what the score is called, where it is not the accuracy.
    """

    headline: str
    ligs: dict[str, Any]
    baseline: dict[str, Any]
