"""A film: few images in many frames, each moved a little and with the noise of a sensor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from statshift._core.randomness import Draws
from statshift.data import ImageData
from statshift.data.sources import Source

SENSOR_NOISE = 1.5
"""Deviation of the sensor's noise, in grey levels of 255."""

MOVED = 1 / 32
"""Of the shorter side, by so much the frame moves at most, up or down and left or right."""


def most_moved(shape: Sequence[int]) -> int:
    """Return by how many px frames of a shape (3,H,W) move at most."""
    return max(1, round(MOVED * min(shape[1:])))


@dataclass(eq=False)
class Film(ImageData):
    """Frames of scenes; frame k of the scene at place i of its data set has the place `i * copies + k`.

    Attributes:
        scenes: the images that are filmed.
        copies: frames of each.
        seed: seed of the noise and the movement.
    """

    scenes: ImageData = field(kw_only=True, repr=False)
    copies: int = field(kw_only=True)
    seed: int = field(kw_only=True)

    def groups(
        self, groups: Sequence[NDArray[np.int64]], workers: int | None = None
    ) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Yield (frames uint8 (B,3,H,W) on the CPU, positions (B,)) for each group of positions."""
        filmed = self.scenes.groups([self._scenes_of(group) for group in groups], workers)
        for (images, _), group in zip(filmed, groups, strict=True):
            draws = self._draws(group)
            noise = draws.normal("noise", *images.shape[1:]).mul_(SENSOR_NOISE)
            yield self._moved(images, draws).float().add_(noise).round_().clamp_(0, 255).byte(), group

    def label_maps(self, positions: NDArray[np.int64]) -> Tensor:
        """Return the label maps, moved as the frames are: uint8 (B,H,W) on the CPU."""
        maps = self.scenes.label_maps(self._scenes_of(positions))
        return self._moved(maps[:, None], self._draws(np.asarray(positions)))[:, 0]

    def _scenes_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self.scenes.indices, self.indices[positions] // self.copies)

    def _draws(self, positions: NDArray[np.int64]) -> Draws:
        return Draws(self.seed, torch.from_numpy(self.indices[positions]), "film")

    def _moved(self, images: Tensor, draws: Draws) -> Tensor:
        """Return images (B,C,H,W) moved by whole px; what comes in at a border is mirrored there."""
        most = most_moved(self.shape)
        steps = draws.integers("movement", 2, low=-most, high=most + 1)
        rows, columns = (
            _mirrored(torch.arange(size) + step[:, None], size)
            for step, size in zip(steps.T, images.shape[2:], strict=True)
        )
        batch = torch.arange(len(images))[:, None, None]
        return images.movedim(1, 3)[batch, rows[:, :, None], columns[:, None]].movedim(3, 1).contiguous()


def film(scenes: ImageData, copies: int, seed: int) -> Film:
    """Return so many frames of each image."""
    of = np.arange(len(scenes)).repeat(copies)
    given = {one.name: getattr(scenes, one.name) for one in fields(ImageData)}
    frames = {
        "source": _Frames(**_shared(scenes.source), scenes=scenes.source, copies=copies),
        "indices": scenes.indices[of] * copies + np.tile(np.arange(copies), len(scenes)),
        "labels": None if scenes.labels is None else scenes.labels[of],
        "sizes": scenes.sizes[of],
        "cache_bytes": 0,
        "file": None,
    }
    return Film(**given | frames, scenes=scenes, copies=copies, seed=seed)


def _mirrored(places: Tensor, size: int) -> Tensor:
    """Return places beyond an axis from 0 to `size` - 1 as those that they mirror; the border itself comes once."""
    last = size - 1
    return last - (last - places.abs()).abs() if last else torch.zeros_like(places)


def _shared(source: Source) -> dict[str, Any]:
    return {one.name: getattr(source, one.name) for one in fields(Source)}


@dataclass(frozen=True, eq=False, kw_only=True)
class _Frames(Source):
    """Images by the places of their frames."""

    scenes: Source
    copies: int

    def __len__(self) -> int:
        return len(self.scenes) * self.copies

    def open(self, index: int) -> Image.Image:
        """Open the scene, as it was before it was filmed."""
        return self.scenes.open(index // self.copies)

    def content(self) -> bytes | memoryview:
        """Return that of the scenes."""
        return self.scenes.content()

    def files_hash(self, indices: Sequence[int]) -> str | None:
        """Hash the scenes' files."""
        return self.scenes.files_hash([*dict.fromkeys(index // self.copies for index in indices)])

    def label_of(self, index: int) -> str:
        """Return the scene, and which of its frames."""
        return f"{self.scenes.label_of(index // self.copies)}, frame {index % self.copies}"

    def name(self, index: int) -> str:
        """Return the scene, and which of its frames."""
        return f"frame {index % self.copies} of {self.scenes.name(index // self.copies)}"
