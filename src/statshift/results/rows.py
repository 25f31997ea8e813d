"""A row: one finished condition, reduced to counts, sums and a bit per image."""

import base64
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from statshift.errors import InputError
from statshift.metrics import ImageStatistics, calibration_bins

Row = dict[str, Any]
"""A JSON object with the keys that `make_row` gives it."""

Key = tuple[str, str, int, int]
"""Protocol, shift, severity and draw: no two rows of a run share them."""


def row_key(row: Row) -> Key:
    """Return the protocol, shift, severity and draw that `row` is the result of."""
    return row["protocol"], row["shift"], row["severity"], row["draw"]


def make_row(
    statistics: ImageStatistics,
    labels: npt.ArrayLike,
    classes: int,
    *,
    shift: str,
    severity: int,
    protocol: str = "source",
    draw: int = 0,
) -> Row:
    """Reduce per-image statistics, in image order, to a row; the same images give the same bytes.

    Args:
        statistics: four tensors (N,) on any device, as `image_statistics` returns them.
        labels: (N,) classes from 0.
        classes: number of classes of the data.
        shift: the shift's name; "clean" is none.
        severity: 1 to 5, or 0 for "clean" and for a shift that has no severities.
        protocol: how the model was adapted; "source" is not at all.
        draw: which draw of the protocol's random choices.

    Returns:
        Counts (`images`, `correct`, `correct_top5`), `cross_entropy_sum` in nats, `class_correct` by class,
        `calibration` by bin of confidence, and `bits`: base64 of one bit per image, the first image highest.

    Raises:
        InputError: if the model's output is not finite for some image.
    """
    correct, correct_top5, cross_entropy, confidence = (field.cpu().numpy() for field in statistics)
    images = len(correct)
    broken = images - int(np.isfinite(cross_entropy).sum())
    if broken:
        raise InputError(
            f"The model's output is not finite for {broken} of {images} images of {shift} at severity "
            f"{severity}: check its weights, or use another dtype."
        )
    bin_counts, bin_correct, confidence_sums = calibration_bins(confidence, correct)
    return {
        "protocol": protocol,
        "shift": shift,
        "severity": severity,
        "draw": draw,
        "images": images,
        "correct": int(correct.sum()),
        "correct_top5": int(correct_top5.sum()),
        "cross_entropy_sum": math.fsum(cross_entropy),
        "class_correct": np.bincount(np.asarray(labels)[correct], minlength=classes).tolist(),
        "calibration": {
            "counts": bin_counts.tolist(),
            "correct": bin_correct.tolist(),
            "confidence_sums": confidence_sums.tolist(),
        },
        "bits": base64.b64encode(np.packbits(correct).tobytes()).decode("ascii"),
    }


def bits(row: Row) -> npt.NDArray[np.bool_]:
    """Return for each image of `row`, in order, whether it was classified correctly: bool (N,)."""
    packed = np.frombuffer(base64.b64decode(row["bits"]), np.uint8)
    return np.unpackbits(packed, count=row["images"]).astype(bool)
