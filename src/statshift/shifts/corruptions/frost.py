"""The frost photographs: where they are found, and a texture that stands in for them.

The benchmark's photographs are not ours to ship. `statshift data frost` downloads them.
"""

import hashlib
import importlib.util
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from statshift._core.errors import DataWarning, InputError
from statshift._core.files import user_cache
from statshift._core.randomness import Draws, keys, normal

FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")  # the sixth is never drawn
PROCEDURAL = "procedural"
Photo = NDArray[np.uint8]
Sides = tuple[tuple[int, int], ...]

_PRECISION = 22  # bits after the point in which Pillow keeps the weights of a resize


def find_photographs(folder: str | Path | None = None) -> Path | None:
    """Return the folder of the five photographs, or None where there is none.

    Looked for in `folder` or else the environment's STATSHIFT_FROST (either must hold them, or be "procedural" for
    none), the user cache, and the data of an installed `imagecorruptions` package, which is not imported.

    Raises:
        InputError: `folder` or STATSHIFT_FROST lacks a photograph.
    """
    named = folder or os.environ.get("STATSHIFT_FROST")
    if str(named) == PROCEDURAL:
        return None
    if named:
        missing = [name for name in FILES if not (Path(named) / name).is_file()]
        if missing:
            raise InputError(f"The frost folder {str(named)!r} lacks {', '.join(missing)}.")
        return Path(named)
    spec = importlib.util.find_spec("imagecorruptions")
    places = [
        user_cache("frost"),
        *(Path(place) / "frost" for place in (spec and spec.submodule_search_locations) or ()),
    ]
    return next((place for place in places if all((place / name).is_file() for name in FILES)), None)


def frost_source(folder: str | Path | None = None) -> str:
    """Return what stands for the frost in a record: the photographs' hash, or "procedural"."""
    found = find_photographs(folder)
    if found is None:
        return PROCEDURAL
    digest = hashlib.sha256(b"".join((found / name).read_bytes() for name in FILES))
    return f"photographs {digest.hexdigest()[:16]}"


@dataclass(frozen=True)
class Photographs:
    """Five photographs on one canvas, ready to be cropped by gathering, and enlarged as far as a crop shows them.

    Attributes:
        canvas: (5, 3, H', W') uint8, each photograph in the upper left corner.
        sides: (5, 2) height and width of each there.
        enlarged: (5, 2) and as it is cropped.
        size: height and width of the images.
    """

    canvas: Tensor
    sides: Sides
    enlarged: Sides
    size: tuple[int, int]

    def crops(self, draws: Draws) -> Tensor:
        """Return a random crop of a random photograph for each image: (B,3,H,W) float32 in [0,1]."""
        (height, width), device = self.size, self.canvas.device
        chosen = draws.integers("photograph", low=0, high=len(self.canvas))
        sides, enlarged = (torch.tensor(one, device=device)[chosen] for one in (self.sides, self.enlarged))
        room = enlarged - torch.tensor(self.size, device=device)
        top, left = (draws.uniform("corner", 2) * room).long().T[..., None]
        rows = top + torch.arange(height, device=device)
        columns = left + torch.arange(width, device=device)
        if self.sides == self.enlarged:
            return self._pixels(chosen, rows, columns) / 255
        above, below, *share = _neighbours(rows, sides[:, :1], enlarged[:, :1])
        before, after, *part = _neighbours(columns, sides[:, 1:], enlarged[:, 1:])
        part = [one[:, None, None, :] for one in part]
        upper = _mean(self._pixels(chosen, above, before), self._pixels(chosen, above, after), part)
        lower = _mean(self._pixels(chosen, below, before), self._pixels(chosen, below, after), part)
        return _mean(upper, lower, [one[:, None, :, None] for one in share]) / 255

    def _pixels(self, chosen: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return (B,3,H,W) uint8: of the photographs chosen (B,) the pixels at rows (B,H) and columns (B,W)."""
        positions = (rows[:, :, None] * self.canvas.shape[-1] + columns[:, None, :]).view(len(rows), 1, -1)
        planes = (chosen[:, None] * 3 + torch.arange(3, device=chosen.device)) * self.canvas[0, 0].numel()
        flat = (positions + planes[..., None]).flatten()
        return self.canvas.view(-1).index_select(0, flat).view(len(rows), 3, rows.shape[1], columns.shape[1])


def _neighbours(places: Tensor, sides: Tensor, enlarged: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return between which two pixels those at `places` (B,N) of enlarged lines lie, and the weights of both.

    They are Pillow's bilinear ones, in its fixed point.
    """
    centres = (places + 0.5) * (sides.double() / enlarged)
    low = (centres - 0.5).long()  # towards zero: of the first half pixel the first
    near = 1 - (low + 0.5 - centres).abs()
    far = torch.where(low + 1 < sides, 1 - (low + 1.5 - centres).abs(), 0.0).clamp_(min=0)
    near, far = (one * (1 / (near + far)) * (1 << _PRECISION) + 0.5 for one in (near, far))
    return low, (low + 1).minimum(sides - 1), near.int(), far.int()


def _mean(first: Tensor, second: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Return the weighted mean of whole numbers, rounded, as int32."""
    near, far = weights
    total = (first.int() * near).add_(second.int() * far)
    return total.add_(1 << (_PRECISION - 1)).bitwise_right_shift_(_PRECISION)


def warn_without_photographs(folder: str | Path | None = None) -> None:
    """Warn, once, that a procedural texture stands in for the photographs, unless it was asked for."""
    asked_for = str(folder or os.environ.get("STATSHIFT_FROST")) == PROCEDURAL
    if not asked_for and find_photographs(folder) is None:
        _warn_once()


@lru_cache(maxsize=1)
def _warn_once() -> None:
    warnings.warn(
        "No frost photographs found: a procedural texture stands in for them. `statshift data frost` downloads the "
        "benchmark's; STATSHIFT_FROST names a folder that holds them.",
        DataWarning,
        stacklevel=3,
    )


def photographs(
    folder: Path | None, size: tuple[int, int], shrunk: bool, device: torch.device, scaled: bool = True
) -> Photographs:
    """Return the photographs prepared for images of `size` (height, width).

    Args:
        folder: where they lie, or None for the procedural texture.
        size: (height, width) of the images, in pixels.
        shrunk: first reduced to a fifth without antialiasing, as for CIFAR-C.
        device: where the canvas goes.
        scaled: enlarged by side / 224 (32 if shrunk) for larger images, or as much more as they need; else only those
            that do not cover the images, to a tenth more than that, which is what the published Cityscapes-C does.
    """
    canvas, sides = _canvas(folder, shrunk, device)
    usual = max(size) / (32 if shrunk else 224)
    grow = partial(_scaled, size=size, factor=usual) if scaled else partial(_covering, size=size)
    return Photographs(canvas, sides, tuple(map(grow, sides)), size)


@lru_cache(maxsize=4)
def _canvas(folder: Path | None, shrunk: bool, device: torch.device) -> tuple[Tensor, Sides]:
    """Return the photographs on one canvas, and the height and width of each."""
    photos = _textures() if folder is None else [_read(folder / name) for name in FILES]
    if shrunk:
        photos = [photo[2::5, 2::5] for photo in photos]  # bilinear at a fifth falls on every fifth pixel
    height, width = (max(photo.shape[axis] for photo in photos) for axis in (0, 1))
    canvas = np.zeros((len(photos), 3, height, width), dtype=np.uint8)
    for place, photo in zip(canvas, photos, strict=True):
        place[:, : photo.shape[0], : photo.shape[1]] = photo.transpose(2, 0, 1)
    return torch.from_numpy(canvas).to(device), tuple((photo.shape[0], photo.shape[1]) for photo in photos)


def _read(path: Path) -> Photo:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _scaled(sides: tuple[int, int], size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return sides enlarged by `factor`, or as much more as an image of `size` needs; never shrunk."""
    factor = max(factor, 1.0, *((need + 1) / have for need, have in zip(size, sides, strict=True)))
    return round(sides[0] * factor), round(sides[1] * factor)


def _covering(sides: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return sides as they are, or if an image of `size` is not smaller a tenth larger than it needs."""
    if all(need < have for need, have in zip(size, sides, strict=True)):
        return sides
    factor = 1.1 * max(need / have for need, have in zip(size, sides, strict=True))
    return math.ceil(sides[0] * factor), math.ceil(sides[1] * factor)


# Mean and deviation of red, green and blue in each photograph: what the procedural texture imitates.
_COLOURS = (
    ((0.305, 0.585, 0.650), (0.106, 0.065, 0.060)),
    ((0.787, 0.805, 0.841), (0.084, 0.087, 0.089)),
    ((0.787, 0.805, 0.841), (0.084, 0.087, 0.089)),
    ((0.540, 0.599, 0.648), (0.112, 0.112, 0.117)),
    ((0.441, 0.484, 0.528), (0.174, 0.170, 0.163)),
)


def _textures() -> list[Photo]:
    """Return five fields with a 1/frequency amplitude spectrum, as the photographs have, in their colours."""
    return [_texture(number, *colour) for number, colour in enumerate(_COLOURS)]


def _texture(number: int, mean: Sequence[float], deviation: Sequence[float]) -> Photo:
    size = (512, 640)
    noise = normal(keys(0, torch.tensor([number]), "frost texture"), *size)[0].double()
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1]))
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(noise.numpy()) / frequency, s=size)
    field = (field - field.mean()) / field.std()
    levels = np.array(mean) + field[..., None] * np.array(deviation)
    return np.asarray((levels.clip(0, 1) * 255).round(), dtype=np.uint8)
