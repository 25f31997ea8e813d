"""Example images, the same for every model over the same data, and strips of what conditions make of them."""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from statshift._core.errors import InputError, ReportWarning
from statshift.data import ImageData
from statshift.data.sampling import balanced_subset
from statshift.measuring.evaluate import Evaluator
from statshift.results import read_json, write_bytes_atomically, write_json_atomically
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import CLEAN
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Task

T = TypeVar("T")

SMALL = 64  # px; up to here a strip is a PNG, of larger images a JPEG
JPEG_QUALITY = 85


def middle_conditions(conditions: Iterable[Condition]) -> list[Condition]:
    """Return the clean images, and each shift at the middle of its severities; the higher one of two."""
    by_shift: dict[str, list[Condition]] = {CLEAN: [Condition(CLEAN, 0)]}
    for condition in sorted(conditions, key=lambda one: one.severity):
        if condition.shift != CLEAN:
            by_shift.setdefault(condition.shift, []).append(condition)
    return [group[len(group) // 2] for group in by_shift.values()]


def draw_examples(data: ImageData, count: int, task: Task = CLASSIFICATION) -> NDArray[np.int64]:
    """Return the ascending positions of `count` images, as many of each of the task's strata, or one more."""
    return balanced_subset(task.strata(data), count) if count else np.empty(0, np.int64)


class Examples:
    """The folder with a run's example images, one strip for each of some conditions.

    Args:
        folder: made if need be; where an earlier sitting has chosen images, its choice holds.
        data: with labels.
        count: number of images.
        task: what the labels are of.

    Attributes:
        positions: positions of the images, ascending.
    """

    def __init__(self, folder: Path, data: ImageData, count: int, task: Task = CLASSIFICATION) -> None:
        self._folder = folder
        kept = read_json(folder / "examples.json") or {}
        chosen = kept.get("positions") or draw_examples(data, count, task).tolist()
        self.positions = np.array(chosen, np.int64)
        self._described: dict[str, Any] = {
            "positions": chosen,
            "indices": data.indices[self.positions].tolist(),
            **task.pictured(data, self.positions),
            "class_names": names_by_label(data),
            "side": min(task.picture_side, int(data.sizes[self.positions].max(initial=1))),
            "strips": kept.get("strips", {}),
        }
        if kept != self._described:
            folder.mkdir(exist_ok=True)
            write_json_atomically(folder / "examples.json", self._described)

    def lack(self, condition: Condition) -> bool:
        """Return whether there is no strip of a condition."""
        name = self._described["strips"].get(str(condition))
        return name is None or not (self._folder / name).is_file()

    def add(self, evaluate: Evaluator, data: ImageData, condition: Condition) -> None:
        """Write the strip of a condition; an attack's images are those against the source.

        AutoAttack's are like those that are measured, not the same: it draws by batch.
        """
        tiles = attempt("show example images", lambda: self._tiles(evaluate, data, condition))
        if tiles is None:
            return
        content, kind = encode(np.concatenate(tiles, axis=1), small=self._described["side"] <= SMALL)
        name = f"{file_name(condition)}.{kind}"
        write_bytes_atomically(self._folder / name, content)
        self._described["strips"][str(condition)] = name
        write_json_atomically(self._folder / "examples.json", self._described)

    def _tiles(self, evaluate: Evaluator, data: ImageData, condition: Condition) -> list[NDArray[np.uint8]]:
        """Return pixels (side,side,3) of each image, which may be of several sizes."""
        side = int(self._described["side"])
        found: dict[int, NDArray[np.uint8]] = {}
        for group in data.alike(self.positions):
            images = evaluate.shifted(data, condition, group).cpu()
            found.update(zip(group.tolist(), np.split(strip(images, side), len(group), axis=1), strict=True))
        return [found[position] for position in self.positions.tolist()]


def names_by_label(data: ImageData) -> list[str] | dict[str, str] | None:
    """Return the classes' names by label, as JSON has them."""
    if data.class_names is not None:
        return list(data.class_names)
    mapped = data.source.mapped_names
    return None if mapped is None else {str(label): name for label, name in mapped.items()}


def attempt(what: str, function: Callable[[], T]) -> T | None:
    """Return what a function returns; if it fails, warn and return None: what lies beside the rows ends no run."""
    try:
        return function()
    except (InputError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"Cannot {what}: {reason}", ReportWarning, stacklevel=4)
        return None


def strip(images: Tensor, side: int | None = None) -> NDArray[np.uint8]:
    """Return images (n,3,H,W) in [0,1] side by side as pixels (side,n*side,3), reduced to `side` if they are larger.

    What is not square gets grey margins; without a `side` there are none above and below, or none beside the image.
    """
    height, width = images.shape[-2:]
    side = side or min(Task.picture_side, max(height, width))
    if max(height, width) > side:
        size = [max(1, round(length * side / max(height, width))) for length in (height, width)]
        images = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True).clamp(0, 1)
        height, width = size
    tiles = images.new_full((len(images), 3, side, side), 0.5)
    top, left = (side - height) // 2, (side - width) // 2
    tiles[..., top : top + height, left : left + width] = images
    pixels = tiles.mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(2, 0, 3, 1).reshape(side, -1, 3).numpy())


def encode(pixels: NDArray[np.uint8], *, small: bool) -> tuple[bytes, str]:
    """Return pixels (H,W,3) as the content of an image file, and its extension."""
    file = io.BytesIO()
    if small:
        Image.fromarray(pixels).save(file, "PNG", optimize=True)
        return file.getvalue(), "png"
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue(), "jpg"


def file_name(condition: Condition) -> str:
    """Return a name for a condition's files that no other condition has, safe on every system."""
    plain = f"{condition.shift}-{condition.severity}" if condition.severity else condition.shift
    if re.fullmatch(r"[a-z0-9_]{1,60}", condition.shift):
        return plain
    digest = hashlib.sha256(plain.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{re.sub(r'[^a-z0-9_]+', '-', plain)[:60]}-{digest}"
