"""The frost photographs: where they are found, and a texture that stands in for them.

The benchmark's photographs are not ours to ship. `statshift data frost` downloads them.
"""

import hashlib
import importlib.util
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
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
    """Five photographs on one canvas, ready to be cropped by gathering.

    Attributes:
        canvas: (5, 3, H', W') uint8, each photograph in the upper left corner.
        room: (5, 2) int64, by how much each is higher and wider than the images.
        size: height and width of the images.
    """

    canvas: Tensor
    room: Tensor
    size: tuple[int, int]

    def crops(self, draws: Draws) -> Tensor:
        """Return a random crop of a random photograph for each image: (B,3,H,W) float32 in [0,1]."""
        batch, (height, width), device = len(draws.indices), self.size, self.canvas.device
        chosen = draws.integers("photograph", low=0, high=len(self.canvas))
        room = self.room.index_select(0, chosen)
        top, left = (draws.uniform("corner", 2) * room).long().T[..., None]
        rows = top + torch.arange(height, device=device)
        columns = left + torch.arange(width, device=device)
        positions = (rows[:, :, None] * self.canvas.shape[-1] + columns[:, None, :]).view(batch, 1, -1)
        planes = (chosen[:, None] * 3 + torch.arange(3, device=device)) * self.canvas[0, 0].numel()
        flat = (positions + planes[..., None]).flatten()
        return self.canvas.view(-1).index_select(0, flat).view(batch, 3, height, width) / 255


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


@lru_cache(maxsize=8)
def photographs(folder: Path | None, size: tuple[int, int], shrunk: bool, device: torch.device) -> Photographs:
    """Return the photographs prepared for images of `size` (height, width).

    Args:
        folder: where they lie, or None for the procedural texture.
        size: (height, width) of the images, in pixels.
        shrunk: first reduced to a fifth without antialiasing, as for CIFAR-C; else enlarged by side / 224 for
            images larger than 224 px.
        device: where the canvas goes.
    """
    photos = _textures() if folder is None else [_read(folder / name) for name in FILES]
    if shrunk:
        photos = [photo[2::5, 2::5] for photo in photos]  # bilinear at a fifth falls on every fifth pixel
    photos = [_enlarge(photo, max(size) / (32 if shrunk else 224), size) for photo in photos]
    height, width = (max(photo.shape[axis] for photo in photos) for axis in (0, 1))
    canvas = np.zeros((len(photos), 3, height, width), dtype=np.uint8)
    for place, photo in zip(canvas, photos, strict=True):
        place[:, : photo.shape[0], : photo.shape[1]] = photo.transpose(2, 0, 1)
    room = torch.tensor([photo.shape[:2] for photo in photos]) - torch.tensor(size)
    return Photographs(torch.from_numpy(canvas).to(device), room.to(device), size)


def _read(path: Path) -> Photo:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _enlarge(photo: Photo, factor: float, size: tuple[int, int]) -> Photo:
    """Enlarge by `factor`, or as much more as an image of `size` needs; never shrink."""
    factor = max(factor, 1.0, *((need + 1) / have for need, have in zip(size, photo.shape[:2], strict=True)))
    if factor == 1:
        return photo
    height, width = (round(side * factor) for side in photo.shape[:2])
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))


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
