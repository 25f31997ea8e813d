"""Label maps: the class of each pixel of an image, and which pixels are left out."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from statshift._core.errors import InputError
from statshift.data.files import DAMAGE
from statshift.data.preprocessing import central, resized

LABEL_VALUES = 256
IGNORE_INDEX = 255
INDEX_MODES = ("1", "L", "P", "I;16", "I;16B", "I")
SPREAD = {"L;2": 85, "L;4": 17}
"""By what Pillow multiplies grey values of 2 and 4 bits."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Maps(ABC):
    """Label maps by the index of their image.

    Attributes:
        table: (256,) int64, the label that each value read becomes; -1 where it is none. None: values are labels.
        orphans: label maps without an image, as an error says them.
    """

    table: NDArray[np.int64] | None = None
    orphans: Sequence[str] = ()

    @abstractmethod
    def decode(self, index: int) -> NDArray[np.uint8]:
        """Return the values (H,W) as they are stored, in the classes of the data.

        Raises:
            InputError: the map is damaged, or holds something else.
        """

    @abstractmethod
    def check(self, index: int, size: tuple[int, int]) -> None:
        """Check that there is a map, for an image of (width, height) `size`, without decoding it where that can be.

        Raises:
            InputError: there is none, or it has another size or kind.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what an error calls the map."""

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the labels (H,W) of an image.

        Raises:
            InputError: the map is damaged, or a value is not in the table.
        """
        values = self.decode(index)
        if self.table is None:
            return values
        labels = self.table[values]
        if (labels < 0).any():
            missing = int(values[labels < 0][0])
            raise InputError(f"Expected every value of {self.name(index)} in `label_map`, but {missing} is not there.")
        return labels.astype(np.uint8)


@dataclass(frozen=True, eq=False, kw_only=True)
class MapFiles(Maps):
    """Label maps in image files.

    Attributes:
        paths: where each lies, whether it is there or not.
        modes: Pillow's modes of them that `values` can read.
        values: returns the labels (H,W) of an opened image.
    """

    paths: Sequence[Path]
    modes: tuple[str, ...] = INDEX_MODES
    values: Callable[[Image.Image], NDArray[np.uint8]]

    def decode(self, index: int) -> NDArray[np.uint8]:
        """Decode the file."""
        try:
            with Image.open(self.paths[index]) as image:
                return self.values(image)
        except DAMAGE as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise InputError(f"Cannot read {self.name(index)} ({reason}); remove it or give `skip_bad`.") from error

    def check(self, index: int, size: tuple[int, int]) -> None:
        """Read the file's header."""
        if not self.paths[index].is_file():
            raise InputError(f"Expected a label map {self.name(index)}, but there is none; add it or give `skip_bad`.")
        try:
            with Image.open(self.paths[index]) as image:
                own, mode = image.size, image.mode
        except DAMAGE:
            self.decode(index)  # which raises, and says why
            raise
        if mode not in self.modes:
            wanted = "indices or a palette" if self.modes == INDEX_MODES else f"mode {' or '.join(self.modes)}"
            raise InputError(f"Expected the label map {self.name(index)} to hold {wanted}, but its mode is {mode}.")
        check_same_size(self.name(index), own, size)

    def name(self, index: int) -> str:
        """Return the file's path."""
        return str(self.paths[index])


def check_same_size(name: str, own: tuple[int, int], size: tuple[int, int]) -> None:
    """Check that a label map has the (width, height) of its image.

    Raises:
        InputError: it has another.
    """
    if own != size:
        raise InputError(
            f"Expected the label map {name} to be {size[0]}x{size[1]} as its image, but it is {own[0]}x{own[1]}."
        )


def stored_indices(image: Image.Image) -> NDArray[np.uint8]:
    """Return the values (H,W) of an image of indices, or the indices of one with a palette, as they are in the file.

    Raises:
        ValueError: one is over 255.
    """
    tiles = getattr(image, "tile", [])  # empty once the image is decoded
    spread = SPREAD.get(str(tiles[0][3]), 1) if tiles else 1
    values: NDArray[Any] = np.asarray(image)
    if values.size and values.max() >= LABEL_VALUES:
        raise ValueError(f"labels are up to {LABEL_VALUES - 1}, but one is {values.max()}")
    return np.array(values // spread if spread > 1 else values, np.uint8)


def preprocess_map(labels: NDArray[np.uint8], *, resize: int | None, crop: int | None) -> NDArray[np.uint8]:
    """Return a label map (H,W) as its image is resized and cropped, by the nearest pixel."""
    height, width = labels.shape
    size = resized((width, height), resize)
    if size == (width, height) and crop is None:
        return labels
    image = Image.fromarray(labels)
    if size != image.size:
        image = image.resize(size, Image.Resampling.NEAREST)
    return np.array(image if crop is None else image.crop(central(size, crop)))


def read_maps(maps: Maps, indices: Sequence[int], how: dict[str, Any], threads: int = 0) -> Tensor:
    """Return label maps uint8 (B,H,W) of images of one size, preprocessed as these.

    Args:
        maps: where they lie.
        indices: which of them.
        how: `resize` and `crop` of the images.
        threads: how many read files at once; 0 for none beside this one.

    Raises:
        InputError: one is damaged.
    """

    def read(index: int) -> Tensor:
        return torch.from_numpy(preprocess_map(maps.read(index), resize=how["resize"], crop=how["crop"]))

    if threads and isinstance(maps, MapFiles):
        with ThreadPoolExecutor(threads) as pool:
            return torch.stack(list(pool.map(read, indices)))
    return torch.stack([read(index) for index in indices])


def map_hash(labels: NDArray[np.uint8]) -> int:
    """Return the first 8 bytes of SHA-256 over a label map, as a little-endian integer."""
    return int.from_bytes(hashlib.sha256(np.ascontiguousarray(labels).data).digest()[:8], "little", signed=True)
