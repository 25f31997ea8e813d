"""A row: one finished condition. Of what a task stores in it, only the task knows."""

from collections.abc import Iterable
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

Key = tuple[str, str, int, int]
"""Protocol, shift, severity and draw: no two rows of a run share them."""


class _Row(TypedDict):
    protocol: str
    shift: str
    severity: int
    draw: int
    images: int


class Row(_Row, total=False):
    """A JSON object: what it is the result of, over which images, and beside that what its task's `count` returns.

    `adapted_on` holds positions of the few images that the protocol adapted on, `left_out` those of them that the row
    is not over, `paired_source` what the task counts of the source over the row's images, `examples` what is said of
    the example images, `class_images` how many images of each class are left, and `set` a hash of the images, where
    they are not the run's own. `along` holds, of a stream, [bin of time, images, sum of their scores, of the source's].
    """

    adapted_on: list[int]
    left_out: list[int]
    class_images: list[int]
    examples: dict[str, Any]
    paired_source: dict[str, Any]
    set: str
    along: list[list[float]]


def row_key(row: Row) -> Key:
    """Return the protocol, shift, severity and draw that `row` is the result of."""
    return row["protocol"], row["shift"], row["severity"], row["draw"]


def kept_positions(row: Row) -> npt.NDArray[np.int64]:
    """Return the ascending positions (M,) of the row's images among all N."""
    left_out = row.get("left_out", [])
    return np.setdiff1d(np.arange(row["images"] + len(left_out)), left_out)


def everywhere(row: Row, values: npt.ArrayLike) -> Array:
    """Return values of a row's images (M,) at the places of all N, so weighted that the mean over N is that over M.

    Images left out are 0.
    """
    found = np.asarray(values)
    images = len(found) + len(row.get("left_out", []))
    placed = np.zeros(images)
    placed[kept_positions(row)] = found * (images / len(found))
    return placed


def image_means(parts: Iterable[tuple[Row, npt.NDArray[Any], float]]) -> Array:
    """Return (M,), one value per image, whose mean is the weighted sum of what rows say of their images.

    Images that every row leaves out have no value, so that M is the number of images of which anything is known.

    Args:
        parts: a row, a value for each of its images, and the weight of their mean.
    """
    total, known = np.zeros(0), np.zeros(0, bool)
    for row, values, weight in parts:
        spread = everywhere(row, values) * weight
        if not len(total):
            total, known = np.zeros(len(spread)), np.zeros(len(spread), bool)
        total += spread
        known[kept_positions(row)] = True
    return np.asarray(total[known] * (known.sum() / max(1, len(known))), np.float64)
