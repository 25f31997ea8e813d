"""Decoded images, and their label maps, as far as memory allows."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class PixelCache:
    """The first images in the order of batches that take no more than a number of bytes, each with its label map.

    Args:
        sizes: (N,2) int64, height and width of each image.
        order: (N,) int64, the images' positions in the order in which they are read.
        bound: bytes.
        channels: of what is kept here: 3 of an image, 1 of a label map.
        together: bytes a pixel of all that shares the bound: 3 of images alone, 4 with label maps.
    """

    def __init__(
        self, sizes: NDArray[np.int64], order: NDArray[np.int64], bound: int, channels: int, together: int
    ) -> None:
        area = sizes[order].prod(axis=1)
        kept = int(np.searchsorted(np.cumsum(area * together), bound, side="right"))
        self._shape = [channels, *sizes[0].tolist()] if len(sizes) and (sizes == sizes[0]).all() else None
        self._sizes = sizes
        self._channels = channels
        self._place = np.full(len(sizes), kept, np.int64)  # in the order; `kept` stands for none
        self._place[order[:kept]] = np.arange(kept)
        self._starts = np.concatenate([[0], np.cumsum(area[:kept] * channels)]).astype(np.int64)
        self._filled = np.zeros(kept + 1, bool)
        self._memory = torch.empty(int(self._starts[-1]), dtype=torch.uint8)

    def has(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these (B,) are kept."""
        return self._filled[self._place[positions]]

    def get(self, positions: NDArray[np.int64]) -> Tensor:
        """Return what is kept at positions (B,) of images of one size: uint8 (B,C,H,W)."""
        places = self._place[positions]
        if self._shape is not None:
            return self._memory.view(-1, *self._shape)[torch.from_numpy(places)]
        return torch.stack([self._at(place, position) for place, position in zip(places, positions, strict=True)])

    def put(self, positions: NDArray[np.int64], pixels: Tensor) -> bool:
        """Keep those pixels (B,C,H,W) of positions (B,) for which there is room; return whether all are kept."""
        places = self._place[positions]
        fit = places < len(self._filled) - 1
        if self._shape is not None:
            self._memory.view(-1, *self._shape)[torch.from_numpy(places[fit])] = pixels[torch.from_numpy(fit)]
        else:
            for number in np.flatnonzero(fit).tolist():
                self._at(places[number], positions[number]).copy_(pixels[number])
        self._filled[places[fit]] = True
        return bool(fit.all())

    def claimed(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return that no other process decodes any of these (B,)."""
        return np.zeros(len(positions), bool)

    def claim(self, positions: NDArray[np.int64]) -> None:
        """Do nothing: no other process knows of this memory."""

    def release(self, positions: NDArray[np.int64]) -> None:
        """Do nothing."""

    def _at(self, place: int, position: int) -> Tensor:
        part: Sequence[int] = self._sizes[position].tolist()
        return self._memory[self._starts[place] : self._starts[place + 1]].view(self._channels, *part)
