"""Where images lie: each source opens the i-th of its images and knows its labels."""

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from statshift._core.errors import InputError
from statshift.data.files import DAMAGE
from statshift.data.maps import Maps
from statshift.data.preprocessing import quantise

Header = tuple[tuple[int, int], str]

READERS = 8
LOOKED_AT_TWICE = 32
"""Items of a data set that are read again: where they differ, it draws its images at random."""


def read_items(dataset: Dataset[Any], place: str) -> "Items":
    """Return the source of a torch `Dataset`; this reads every item once, for its label and its range.

    Raises:
        InputError: it has no length, an item is no image, or only some items have labels.
    """
    if not hasattr(dataset, "__len__"):
        raise InputError(f"Expected a data set with a length, but {place} has none.")
    headers, labels, hashes = [], [], []
    for index in range(len(dataset)):
        item = dataset[index]
        image = item_image(item, f"image {index} of {place}")
        headers.append((image.size, image.mode))
        hashes.append(_pixels_hash(image))
        if isinstance(item, Sequence) and len(item) > 1:
            labels.append(_label(item[1]))
    if labels and len(labels) != len(headers):
        raise InputError(f"Expected every item of {place} to have a label, but {len(headers) - len(labels)} have none.")
    again = [_pixels_hash(item_image(dataset[index], place)) for index in range(min(len(dataset), LOOKED_AT_TWICE))]
    return Items(
        place,
        dataset=dataset,
        headers=headers,
        hashes=hashes if again == hashes[: len(again)] else None,
        labels=_stacked(labels, place) if labels else None,
    )


def _label(label: Any) -> NDArray[np.int64]:
    """Return an item's label: one integer as an array (), several as (L,)."""
    return np.asarray(int(label) if np.ndim(label) == 0 else label, np.int64)


def _stacked(labels: Sequence[NDArray[np.int64]], place: str) -> NDArray[np.int64]:
    """Return the labels of all items, (N,) or (N,L).

    Raises:
        InputError: some items have more than others.
    """
    shapes = sorted({label.shape for label in labels})
    if len(shapes) > 1:
        raise InputError(f"Expected every label of {place} to have one shape, but got {shapes[0]} and {shapes[-1]}.")
    return np.stack(labels)


def _pixels_hash(image: Image.Image) -> str:
    try:
        return hashlib.sha256(image.tobytes()).hexdigest()[:16]
    except DAMAGE:  # it is told, or skipped, where it is decoded
        return ""


def item_image(item: Any, name: str) -> Image.Image:
    """Return the image of a data set's item: the item itself, or the first of its parts.

    Raises:
        InputError: it is neither a PIL image nor a tensor (3,H,W), uint8 or float in [0,1].
    """
    image = item[0] if isinstance(item, Sequence) and item else item
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, torch.Tensor):
        raise InputError(f"Expected {name} to be a PIL image or a tensor, but got {type(image).__name__}.")
    if image.ndim != 3 or image.shape[0] != 3:
        raise InputError(f"Expected {name} to have shape (3,H,W), but got {tuple(image.shape)}.")
    return Image.fromarray(quantise(image.permute(1, 2, 0).numpy(force=True), name))


@dataclass(frozen=True, eq=False)
class Source(ABC):
    """Images by index.

    Attributes:
        place: where they lie, as an error says it.
        labels: (N,...) int64, where they are known.
        class_names: by label, where they are known.
        mapped_names: by label too, where a map of classes names some of them.
        ignored: how many files beside the images are none, by their extension.
        passed_by: how many hidden and system files and folders and run directories were not looked at.
        class_order: how class folders were numbered, where not in the order of sorted text: "integers".
        maps: the images' label maps, where they have some in place of labels.
    """

    place: str
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] | None = None
    mapped_names: dict[int, str] | None = None
    ignored: int = 0
    passed_by: int = 0
    class_order: str | None = None
    maps: Maps | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def open(self, index: int) -> Image.Image:
        """Return an image, not decoded yet where that can wait."""

    @abstractmethod
    def content(self) -> bytes | memoryview:
        """Return bytes that are others where the images are."""

    def files_hash(self, indices: Sequence[int]) -> str | None:
        """Return 16 hexadecimal characters of SHA-256 over the bytes of images in files; None where `content` is all.

        Raises:
            InputError: a file cannot be read.
        """
        return None

    def label_of(self, index: int) -> str:
        """Return what a record calls the image, wherever the data lie."""
        return str(index)

    def name(self, index: int) -> str:
        """Return what an error calls the image."""
        return f"image {index} of {self.place}"

    def header(self, index: int) -> Header:
        """Return ((width, height), mode), without decoding where that can be."""
        with self.open(index) as image:
            return image.size, image.mode


@dataclass(frozen=True, eq=False, kw_only=True)
class Files(Source):
    """Image files."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, index: int) -> Image.Image:
        """Open the file."""
        return Image.open(self.paths[index])

    def content(self) -> bytes:
        """Return the names below the folder and the sizes of the files."""
        lines = (f"{path.relative_to(self.place)} {path.stat().st_size}\n" for path in self.paths)
        return "".join(lines).encode(errors="surrogateescape")

    def files_hash(self, indices: Sequence[int]) -> str:
        """Hash the files' names below the folder and their bytes; a few files are in memory at once."""
        digest = hashlib.sha256()
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(indices), 1024):
                digest.update(
                    "".join(pool.map(self._file_hash, indices[start : start + 1024])).encode(errors="surrogateescape")
                )
        return digest.hexdigest()[:16]

    def _file_hash(self, index: int) -> str:
        try:
            return f"{self.label_of(index)} {hashlib.sha256(self.paths[index].read_bytes()).hexdigest()}\n"
        except OSError as error:
            raise InputError(f"Cannot read {self.paths[index]}: {error.strerror}.") from error

    def label_of(self, index: int) -> str:
        """Return the name below the folder."""
        return self.paths[index].relative_to(self.place).as_posix()

    def name(self, index: int) -> str:
        """Return the file's path."""
        return str(self.paths[index])


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodedImages(Source):
    """Encoded images end to end: image i lies in `encoded[offsets[i]:offsets[i + 1]]`, uint8."""

    encoded: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def open(self, index: int) -> Image.Image:
        """Open the bytes."""
        start, stop = self.offsets[index : index + 2]
        return Image.open(io.BytesIO(self.encoded[start:stop].tobytes()))

    def content(self) -> memoryview:
        """Return the encoded bytes."""
        return np.ascontiguousarray(self.encoded).data


@dataclass(frozen=True, eq=False, kw_only=True)
class Pixels(Source):
    """Decoded images (N,H,W,3) uint8."""

    images: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)

    def open(self, index: int) -> Image.Image:
        """Wrap the pixels."""
        return Image.fromarray(self.images[index])

    def content(self) -> memoryview:
        """Return the pixels."""
        return np.ascontiguousarray(self.images).data

    def header(self, index: int) -> Header:
        """Return the size and mode that all share."""
        return (self.images.shape[2], self.images.shape[1]), "RGB"


@dataclass(frozen=True, eq=False, kw_only=True)
class Items(Source):
    """A torch `Dataset`, and the headers and hashes of its images; no hashes where they are drawn at random."""

    dataset: Dataset[Any]
    headers: Sequence[Header]
    hashes: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.headers)

    def open(self, index: int) -> Image.Image:
        """Get the item."""
        return item_image(self.dataset[index], self.name(index))

    def content(self) -> bytes:
        """Return the sizes and modes seen."""
        return repr(self.headers).encode()

    def files_hash(self, indices: Sequence[int]) -> str | None:
        """Hash the pixels seen when the labels were read."""
        if self.hashes is None:
            return None
        return hashlib.sha256("".join(self.hashes[index] for index in indices).encode()).hexdigest()[:16]

    def header(self, index: int) -> Header:
        """Return what was seen when the labels were read."""
        return self.headers[index]
