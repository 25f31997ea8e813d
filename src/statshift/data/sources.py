"""Where images lie: each source opens the i-th of its images and knows its labels."""

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from statshift._core.errors import InputError
from statshift.data.maps import Maps

Header = tuple[tuple[int, int], str]

READERS = 8


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
        groups: classes of the model that are one of the data's, each with its label first; () where none is.
    """

    place: str
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] | None = None
    mapped_names: dict[int, str] | None = None
    ignored: int = 0
    passed_by: int = 0
    class_order: str | None = None
    maps: Maps | None = None
    groups: tuple[tuple[int, ...], ...] = ()

    @property
    def drawn(self) -> bool:
        """Whether the images may be others each time."""
        return False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def open(self, index: int) -> Image.Image:
        """Return an image, not decoded yet where that can wait."""

    @abstractmethod
    def content(self) -> bytes | memoryview:
        """Return bytes that are others where the images are."""

    def stamp(self) -> bytes | memoryview | None:
        """Return bytes that are others where any pixel may be, told without reading files; None where nothing tells."""
        return self.content()

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

    def stamp(self) -> bytes:
        """Return the folder, and the names, sizes and times of change of the files."""
        found = ((path, path.stat()) for path in self.paths)
        lines = (f"{path.relative_to(self.place)} {file.st_size} {file.st_mtime_ns}\n" for path, file in found)
        return "".join([f"{Path(self.place).absolute()}\n", *lines]).encode(errors="surrogateescape")

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
