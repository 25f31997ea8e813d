"""From per-image results to a row, and from a row to the same over fewer images."""

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from statshift._core.errors import InputError
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.row import Row, kept_positions, row_key
from statshift.tasks.task import Results, Task


def make_row(
    results: Results,
    labels: npt.ArrayLike,
    classes: int,
    *,
    shift: str,
    severity: int,
    protocol: str = "source",
    draw: int = 0,
    adapted_on: npt.NDArray[np.int64] | None = None,
    held_out: bool = False,
    source: Results | None = None,
    examples: npt.NDArray[np.int64] | None = None,
    task: Task = CLASSIFICATION,
) -> Row:
    """Reduce per-image results, in image order, to a row; the same images give the same bytes.

    Args:
        results: a named tuple of tensors (N,...) on any device, as the task's `per_image` returns it.
        labels: (N,...).
        classes: number of classes of the data.
        shift: the shift's name; "clean" is none.
        severity: 1 to 5, or 0 for "clean" and for a shift that has no severities.
        protocol: how the model was adapted; "source" is not at all.
        draw: which draw of the protocol's random choices.
        adapted_on: positions of the few images that the protocol adapted on, if it did on few.
        held_out: whether the row is of the other images only.
        source: the results (N,...) of the source model, for a row of another protocol.
        examples: positions of images of which the row says what is predicted.
        task: what the labels are of.

    Returns:
        What the task's `count` returns, beside what the row is the result of. A row that was adapted on few images has
        `adapted_on`, and `left_out`, those of them that it is not over; `paired_source` holds the same counts of the
        source over exactly the row's images, and `examples` what the task says of each example image.

    Raises:
        InputError: if the model's output is not finite for some image.
    """
    labels = np.asarray(labels)
    left_out = adapted_on if held_out and adapted_on is not None else np.empty(0, np.int64)
    kept = np.setdiff1d(np.arange(len(labels)), left_out)
    row: dict[str, Any] = {"protocol": protocol, "shift": shift, "severity": severity, "draw": draw}
    try:
        row |= task.count(_at(results, kept), labels[kept], classes)
        paired = {} if source is None else {"paired_source": task.count(_at(source, kept), labels[kept], classes)}
    except FloatingPointError as error:
        raise InputError(
            f"The model's output is not finite for {error} images of {shift} at severity {severity}: check its "
            "weights, or use another dtype."
        ) from None
    if adapted_on is not None:
        row |= {"adapted_on": adapted_on.tolist(), "left_out": left_out.tolist()}
    if len(left_out):
        row |= task.left(labels[kept], classes)
    if examples is not None and len(examples):
        shown = task.shown(_at(results, np.arange(len(labels))), examples, ~np.isin(examples, left_out))
        row |= {"examples": shown} if shown else {}
    return cast(Row, row | paired)


def _at(results: Results, kept: npt.NDArray[np.int64]) -> Results:
    """Return the results of the images kept, as arrays."""
    return tuple((one.cpu().numpy() if isinstance(one, Tensor) else np.asarray(one))[kept] for one in results)


def restrict(row: Row, left_out: Iterable[int], task: Task = CLASSIFICATION) -> Row:
    """Return what intervals and tests need of a row, without the images at the positions `left_out`."""
    without = np.union1d(row.get("left_out", []), np.asarray(list(left_out), np.int64)).astype(int)
    kept = ~np.isin(kept_positions(row), without)
    protocol, shift, severity, draw = row_key(row)
    key: Row = {"protocol": protocol, "shift": shift, "severity": severity, "draw": draw, "images": int(kept.sum())}
    return cast(Row, {**key, "left_out": without.tolist(), **task.restricted(row, kept)})
