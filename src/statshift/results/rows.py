"""A row: one finished condition, reduced to counts, sums and a bit per image."""

import base64
import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from statshift._core.errors import InputError
from statshift.metrics.classification import ImageStatistics, calibration_bins

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
    adapted_on: npt.NDArray[np.int64] | None = None,
    held_out: bool = False,
    source: ImageStatistics | None = None,
    examples: npt.NDArray[np.int64] | None = None,
) -> Row:
    """Reduce per-image statistics, in image order, to a row; the same images give the same bytes.

    Args:
        statistics: five tensors (N,) on any device, as `image_statistics` returns them.
        labels: (N,) classes from 0.
        classes: number of classes of the data.
        shift: the shift's name; "clean" is none.
        severity: 1 to 5, or 0 for "clean" and for a shift that has no severities.
        protocol: how the model was adapted; "source" is not at all.
        draw: which draw of the protocol's random choices.
        adapted_on: positions of the few images that the protocol adapted on, if it did on few.
        held_out: whether the row is of the other images only.
        source: the statistics (N,) of the source model, for a row of another protocol.
        examples: positions of images of which the row says what is predicted.

    Returns:
        Counts (`images`, `correct`, `correct_top5`), `cross_entropy_sum` in nats, `class_correct` by class,
        `calibration` by bin of confidence, and `bits`: base64 of one bit per image, the first image highest. A row
        that was adapted on few images has `adapted_on`, and `left_out`, those of them that it is not over;
        `paired_source` holds the same counts of the source over exactly the row's images. `examples` holds the
        `predicted` class and the `confidence` of each example image, None of one left out.

    Raises:
        InputError: if the model's output is not finite for some image.
    """
    labels = np.asarray(labels)
    left_out = adapted_on if held_out and adapted_on is not None else np.empty(0, np.int64)
    kept = np.setdiff1d(np.arange(len(labels)), left_out)
    try:
        row = {
            "protocol": protocol,
            "shift": shift,
            "severity": severity,
            "draw": draw,
            **_count(statistics, labels, classes, kept),
        }
    except FloatingPointError as error:
        raise InputError(
            f"The model's output is not finite for {error} images of {shift} at severity {severity}: check its "
            "weights, or use another dtype."
        ) from None
    if adapted_on is not None:
        row |= {"adapted_on": adapted_on.tolist(), "left_out": left_out.tolist()}
    if len(left_out):
        row["class_images"] = np.bincount(labels[kept], minlength=classes).tolist()
    if examples is not None and len(examples):
        row["examples"] = _predictions(statistics, examples, left_out)
    return row if source is None else row | {"paired_source": _count(source, labels, classes, kept)}


def _count(
    statistics: ImageStatistics, labels: npt.NDArray[Any], classes: int, kept: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """Return the counts over the images kept."""
    correct, correct_top5, cross_entropy, confidence = (field.cpu().numpy()[kept] for field in statistics[:4])
    broken = len(kept) - int(np.isfinite(cross_entropy).sum())
    if broken:
        raise FloatingPointError(f"{broken} of {len(kept)}")
    bin_counts, bin_correct, confidence_sums = calibration_bins(confidence, correct)
    return {
        "images": len(kept),
        "correct": int(correct.sum()),
        "correct_top5": int(correct_top5.sum()),
        "cross_entropy_sum": math.fsum(cross_entropy),
        "class_correct": np.bincount(labels[kept][correct], minlength=classes).tolist(),
        "calibration": {
            "counts": bin_counts.tolist(),
            "correct": bin_correct.tolist(),
            "confidence_sums": confidence_sums.tolist(),
        },
        "bits": base64.b64encode(np.packbits(correct).tobytes()).decode("ascii"),
    }


def _predictions(
    statistics: ImageStatistics, examples: npt.NDArray[np.int64], left_out: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """Return predicted class and confidence of example images, None of those left out.

    Confidence is rounded: its last digits depend on the batch.
    """
    predicted, confidence = (field.cpu().numpy()[examples] for field in (statistics.predicted, statistics.confidence))
    shown = ~np.isin(examples, left_out)
    return {
        "predicted": [int(one) if seen else None for one, seen in zip(predicted, shown, strict=True)],
        "confidence": [round(float(one), 4) if seen else None for one, seen in zip(confidence, shown, strict=True)],
    }


def bits(row: Row) -> npt.NDArray[np.bool_]:
    """Return for each image of `row`, in order and without those left out, whether it was right: bool (N,).

    Raises:
        InputError: the bits are not of so many images.
    """
    text, images = row["bits"], row["images"]
    packed = b""
    if isinstance(text, str) and isinstance(images, int) and len(text) == 4 * math.ceil(math.ceil(images / 8) / 3):
        with suppress(ValueError):
            packed = base64.b64decode(text, validate=True)
    if not packed or len(packed) != math.ceil(images / 8):
        raise InputError(f"A row is damaged: expected its `bits` to be base64 of a bit for each of {images} images.")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=images).astype(bool)


def everywhere(row: Row, right: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return what is right (M,) at the places of all N images, weighted so that the mean over N is that over the M.

    Images left out are 0.
    """
    left_out = row.get("left_out", [])
    images = len(right) + len(left_out)
    kept = np.setdiff1d(np.arange(images), left_out)
    values = np.zeros(images)
    values[kept] = right * (images / len(right))
    return values


def restrict(row: Row, left_out: Iterable[int]) -> Row:
    """Return what `bits` and `everywhere` need of a row, without the images at the positions `left_out`."""
    before = row.get("left_out", [])
    kept = np.setdiff1d(np.arange(row["images"] + len(before)), before)
    without = np.union1d(before, np.asarray(list(left_out), np.int64)).astype(int)
    right = bits(row)[~np.isin(kept, without)]
    key = {name: row[name] for name in ("protocol", "shift", "severity", "draw")}
    packed = base64.b64encode(np.packbits(right).tobytes()).decode("ascii")
    return key | {"images": len(right), "left_out": without.tolist(), "bits": packed}
