"""A file of decoded images that the processes of a machine share: each image is decoded once, whoever asks first."""

import hashlib
import os
import shutil
import time
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import features
from torch import Tensor

from statshift._core.errors import DataWarning
from statshift._core.files import user_cache
from statshift.data.sources import Source

LAYOUT = "1"
"""Of the file: a mark for each image, uint64; then each one's pixels (3,H,W), uint8, from a page of its own on."""

DISK_PAGE = 4096
CLAIM_SECONDS = 10
"""For so long others wait for an image that a process has begun to decode."""

_DONE, _CLAIM = np.uint64(1 << 63), np.uint64(1 << 62)
_SECONDS = (1 << 30) - 1


def pixels_folder(cache: str | Path | None) -> Path:
    """Return the folder of such files: the one given, else one in the user's cache."""
    return user_cache("pixels") if cache is None else Path(cache).expanduser()


def pixel_files(folder: Path) -> list[Path]:
    """Return the files of decoded images in a folder, those longest unused first."""
    return [
        path for _, path in sorted((path.stat().st_mtime_ns, path) for path in folder.glob(f"{'[0-9a-f]' * 32}.pixels"))
    ]


def _pages(size: int) -> int:
    return -(-size // DISK_PAGE) * DISK_PAGE


def bytes_on_disk(path: Path) -> int:
    """Return what a file takes: its holes take nothing."""
    found = path.stat()
    return int(getattr(found, "st_blocks", -(-found.st_size // 512))) * 512


def open_pixels(
    source: Source,
    indices: NDArray[np.int64],
    shape: tuple[int, int, int],
    how: dict[str, Any],
    cache: str | Path | None,
    cache_size: int | None,
) -> "PixelFile | None":
    """Return the file of images preprocessed as `how` says, made where there is none.

    Args:
        source: the images.
        indices: (N,) int64, ascending, those that will be read.
        shape: (3,H,W) of each.
        how: `resize`, `crop` and `interpolation`.
        cache: folder; default one in the user's cache.
        cache_size: bytes that all such files in the folder take at most; default half of what is free there. Files
            longest unused are removed for it; where the images do not fit even so, the first ones are kept.

    Returns:
        None, with a warning, where the images may be others at each pass or the folder cannot be written.
    """
    stamp = source.stamp()
    if stamp is None:
        warn(f"Decoded images of {source.place} are not kept in a file: they may differ.", DataWarning, stacklevel=3)
        return None
    decoder = f"{PIL.__version__} {features.version('jpg')} {features.version('webp')}"
    told = f"{LAYOUT} {type(source).__qualname__} {len(source)} {shape} {sorted(how.items())} {decoder}\n"
    key = hashlib.sha256(told.encode() + stamp).hexdigest()[:32]
    folder = pixels_folder(cache)
    try:
        if not hasattr(os, "pwrite"):
            raise OSError(None, "this system has no pwrite")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{key}.pixels"
        if cache_size is not None and path.exists() and bytes_on_disk(path) > cache_size:
            path.unlink(missing_ok=True)  # it was made for more
        file = PixelFile(path, len(source), shape)
        file.bound(indices, cache_size)
    except OSError as error:
        reason = error.strerror or error
        warn(f"Cannot keep decoded images in {folder} ({reason}); give another `cache`.", DataWarning, stacklevel=3)
        return None
    return file


class PixelFile:
    """Decoded images of one size by their index in the whole data set.

    An image is written whole, then its mark, which holds a checksum of the pixels: what was torn or lost is seen and
    decoded again. No process waits for a lock. Who begins to decode an image claims it, by a mark too, so that others
    decode other images meanwhile; a claim lapses with its process or after `CLAIM_SECONDS`.

    Args:
        path: of the file, made where there is none.
        count: images of the whole data set.
        shape: (3,H,W) of each.

    Raises:
        OSError: it cannot be opened or made.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, int, int]) -> None:
        self.path = path
        self._shape = shape
        self._slot = _pages(int(np.prod(shape)))
        self._start = _pages(count * 8)
        size = self._start + count * self._slot
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        weakref.finalize(self, os.close, self._file)
        if os.fstat(self._file).st_size != size:
            os.ftruncate(self._file, size)  # holes until written; the same from every process
        os.utime(path)  # used now
        mapped = np.memmap(path, np.uint8, "r")
        self._marks = mapped[: count * 8].view("<u8")
        steps = (self._slot, shape[1] * shape[2], shape[2], 1)
        self._pixels = np.lib.stride_tricks.as_strided(mapped[self._start :], (count, *shape), steps, writeable=False)
        self._known = np.zeros(count, bool)  # whole, as this process has seen
        self._allowed = np.ones(count, bool)
        self._writes = True

    def bound(self, indices: NDArray[np.int64], size: int | None) -> None:
        """Keep to so many bytes for all files of the folder, of which others are removed; see `open_pixels`."""
        others = {path: bytes_on_disk(path) for path in pixel_files(self.path.parent) if path != self.path}
        if size is None:
            free = shutil.disk_usage(self.path.parent).free
            size = (free + sum(others.values()) + bytes_on_disk(self.path)) // 2
        done = (np.asarray(self._marks) & _DONE) > 0
        room = max(0, (size - self._start) // self._slot - int(done.sum()))
        self._allowed = done
        self._allowed[indices[~done[indices]][:room]] = True
        left = size - self._start - int(self._allowed.sum()) * self._slot
        total = sum(others.values())
        for path, taken in others.items():
            if total <= left:
                break
            path.unlink(missing_ok=True)
            total -= taken

    def has(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the images (B,) are there and whole."""
        for index in indices[~self._known[indices]].tolist():
            mark = int(self._marks[index])
            if mark >> 63 and mark & 0xFFFFFFFF == zlib.crc32(self._pixels[index].tobytes()):
                self._known[index] = True
        return self._known[indices]

    def get(self, indices: NDArray[np.int64]) -> Tensor:
        """Return a copy of images (B,) that are there: uint8 (B,3,H,W)."""
        return torch.from_numpy(np.asarray(self._pixels[indices]))

    def put(self, indices: NDArray[np.int64], pixels: Tensor) -> bool:
        """Write images (B,), uint8 (B,3,H,W), as far as the bound allows; return whether all are there."""
        for index, own in zip(indices.tolist(), pixels.numpy(), strict=True):
            if self._allowed[index] and self._writes and not self._known[index]:
                whole = own.tobytes()
                self._write(memoryview(whole), self._start + index * self._slot)
                self._mark(index, int(_DONE) | zlib.crc32(whole))
                self._known[index] = self._writes
        return bool(self._known[indices].all())

    def claimed(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the images (B,) another process is decoding."""
        marks = self._marks[indices]
        open_claims: NDArray[np.bool_] = (marks & (_DONE | _CLAIM)) == _CLAIM
        for place in np.flatnonzero(open_claims).tolist():
            mark = int(marks[place])
            age = (int(time.time()) - (mark >> 32)) & _SECONDS
            open_claims[place] = age <= CLAIM_SECONDS and _is_other(mark & 0xFFFFFFFF)
        return open_claims

    def claim(self, indices: NDArray[np.int64]) -> None:
        """Tell other processes that this one decodes the images (B,)."""
        mark = int(_CLAIM) | (int(time.time()) & _SECONDS) << 32 | os.getpid()
        for index in indices[self._allowed[indices]].tolist():
            self._mark(index, mark)

    def release(self, indices: NDArray[np.int64]) -> None:
        """Take back what was claimed and not decoded."""
        for index in indices.tolist():
            mark = int(self._marks[index])
            if mark >> 62 == 1 and mark & 0xFFFFFFFF == os.getpid():
                self._mark(index, 0)

    def _mark(self, index: int, mark: int) -> None:
        self._write(memoryview(mark.to_bytes(8, "little")), index * 8)

    def _write(self, content: memoryview, place: int) -> None:
        try:
            while len(content) and self._writes:
                written = os.pwrite(self._file, content, place)
                content, place = content[written:], place + written
        except OSError as error:
            self._writes = False
            warn(
                f"Cannot write to {self.path} ({error.strerror}); further images are decoded in every pass.",
                DataWarning,
                stacklevel=2,
            )


def _is_other(process: int) -> bool:
    """Return whether a number is that of another process that lives."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # not ours to ask, so it lives
        return True
    return True


def remove_pixels(folder: Path) -> Iterator[tuple[Path, int]]:
    """Remove the files of decoded images in a folder; yield each with the bytes that it took."""
    for path in pixel_files(folder):
        taken = bytes_on_disk(path)
        path.unlink(missing_ok=True)
        yield path, taken
