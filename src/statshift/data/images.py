"""Labelled images: fixed batches of one size each, decoded once where memory allows."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from statshift._core.errors import InputError
from statshift._core.parts import part
from statshift.data.cache import PixelCache
from statshift.data.maps import IGNORE_INDEX, LABEL_VALUES, map_hash, read_maps
from statshift.data.pixelfile import PixelFile
from statshift.data.reading import read_made, read_pixels
from statshift.data.reading_once import read_once
from statshift.data.sources import Source

SCANNED = 64
"""Label maps in memory at once beyond the cache, where all are looked at."""


def integers_hash(values: NDArray[np.int64]) -> str:
    """Return 16 hexadecimal characters of SHA-256 over integers (indices, labels) as little-endian int64."""
    return hashlib.sha256(values.astype("<i8").tobytes()).hexdigest()[:16]


@dataclass(eq=False)
class ImageData:
    """Images, uint8 RGB, and what is known of them; where there are label maps, their sizes may differ.

    Attributes:
        spec: what was loaded.
        source: where the images lie.
        indices: (N,) int64, ascending, the images' places in the whole data set; these address randomness.
        labels: (N,) int64, or (N,...) of a task with more labels an image, or None; None where there are label maps.
        class_names: by label, or None.
        shape: (3,H,W) after preprocessing, that of most images.
        preprocessing: `resize`, `crop` (px or None) and `interpolation`, as applied.
        converted: how many images were not RGB.
        skipped: names of the images left out because they cannot be read.
        workers: processes that decode.
        class_order: how class folders were numbered, where not in the order of sorted text: "integers", or "imagenet"
            where ImageNet's own indices were taken; see `fit_labels`.
        cache_bytes: as many decoded images, with their label maps, stay in memory as take no more; of images in `file`
            none do.
        ignore_index: the value of label maps that marks pixels which are left out.
        skip_bad: whether what cannot be used is left out, not raised.
        sizes: (N,2) int64, height and width of each image after preprocessing; not given, all have that of `shape`.
        file: decoded images that processes share, or None.
    """

    spec: str
    source: Source = field(repr=False)
    indices: NDArray[np.int64] = field(repr=False)
    labels: NDArray[np.int64] | None = field(repr=False)
    class_names: tuple[str, ...] | None = field(repr=False)
    shape: tuple[int, int, int]
    preprocessing: dict[str, Any]
    converted: int = 0
    skipped: list[str] = field(default_factory=list)
    workers: int = 0
    cache_bytes: int = 4 << 30
    class_order: str | None = None
    ignore_index: int = IGNORE_INDEX
    skip_bad: bool = False
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64), repr=False)
    file: PixelFile | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not len(self.sizes):
            self.sizes = np.tile(np.array(self.shape[1:], np.int64), (len(self), 1))
        self._order = np.lexsort((np.arange(len(self)), self.sizes[:, 1], self.sizes[:, 0]))
        bound, together = self.cache_bytes, 4 if self.has_maps else 3
        if self.file is not None:
            bound, together = 0, 1
        self._cache = PixelCache(self.sizes, self._order, bound, 3, together)
        self._map_cache = PixelCache(self.sizes, self._order, self.cache_bytes if self.has_maps else 0, 1, together)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def has_maps(self) -> bool:
        """Whether each image has a label map."""
        return self.source.maps is not None

    @property
    def classes(self) -> int | None:
        """Number of classes where it is known."""
        return None if self.class_names is None else len(self.class_names)

    def subset(self, positions: NDArray[np.int64]) -> "ImageData":
        """Return the images at ascending positions alone."""
        labels = None if self.labels is None else self.labels[positions]
        return replace(self, indices=self.indices[positions], sizes=self.sizes[positions], labels=labels)

    def content_hash(self) -> str:
        """Return 16 hexadecimal characters of SHA-256 over the content: pixels, bytes, or files' names and sizes."""
        return hashlib.sha256(self.source.content()).hexdigest()[:16]

    @property
    def label_map_hash(self) -> str | None:
        """16 hexadecimal characters of SHA-256 over the labels given in place of those read; None without such."""
        maps = self.source.maps
        return None if maps is None or maps.table is None else integers_hash(maps.table)

    @cached_property
    def bytes_hash(self) -> str | None:
        """16 hexadecimal characters of SHA-256 over the bytes of those image files that are used; None of other data.

        They are read once more for it, and never held.
        """
        return self.source.files_hash(self.indices.tolist())

    @property
    def passed_by(self) -> int:
        """How many hidden and system files and folders and run directories were not looked at."""
        return self.source.passed_by

    @property
    def counts(self) -> dict[str, int]:
        """What was done to the images, for the record."""
        return {"converted_to_rgb": self.converted, "skipped": len(self.skipped), "ignored": self.source.ignored}

    def batches(
        self, batch_size: int, which: Sequence[int] | None = None, workers: int | None = None
    ) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Yield (images uint8 (B,3,H,W) on the CPU, positions (B,) among the N), batch by batch.

        Batch k holds the positions from `k * batch_size` on, whoever asks for it; of images of several sizes, those
        that `batch_positions` says.

        Args:
            batch_size: images in a batch; the last may be smaller.
            which: numbers of the batches to yield, in this order; default all.
            workers: processes that decode; default as loaded.

        Raises:
            InputError: a batch size under 1, or a damaged image.
        """
        every = self.batch_positions(batch_size)
        return self.groups(every if which is None else [every[number] for number in which], workers)

    def batch_positions(self, batch_size: int) -> list[NDArray[np.int64]]:
        """Return the positions (B,) of each batch: images of one size each, smaller sizes first.

        Raises:
            InputError: a batch size under 1.
        """
        if batch_size < 1:
            raise InputError(f"Expected `batch_size` to be at least 1, but got {batch_size}.")
        alike = self.alike(np.arange(len(self)))
        return [part[start : start + batch_size] for part in alike for start in range(0, len(part), batch_size)]

    def batch_count(self, batch_size: int) -> int:
        """Return how many batches there are."""
        return len(self.batch_positions(batch_size))

    def alike(self, positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return ascending positions as groups of images of one size each, smaller sizes first."""
        ordered = self._order[np.isin(self._order, positions)] if self.several_sizes else positions
        sizes = self.sizes[ordered]
        return np.split(ordered, 1 + np.flatnonzero((sizes[1:] != sizes[:-1]).any(axis=1)))

    @property
    def several_sizes(self) -> bool:
        """Whether sizes differ."""
        return bool((self.sizes != self.sizes[0]).any())

    def groups(
        self, groups: Sequence[NDArray[np.int64]], workers: int | None = None
    ) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Yield (images uint8 (B,3,H,W) on the CPU, positions (B,) among the N) for each group of positions.

        Args:
            groups: positions (B,) each, in any order, of images of one size.
            workers: processes that decode; default as loaded.

        Raises:
            InputError: a damaged image, or images of several sizes in a group.
        """
        for group in groups:
            self._check_one_size(group)
        workers = self.workers if workers is None else workers

        def read(missing: Iterable[NDArray[np.int64]]) -> Iterator[Tensor]:
            return read_pixels(self.source, (self.indices[some].tolist() for some in missing), how, workers)

        how = self.preprocessing
        if self.file is None:
            images = read_once(self._cache, np.arange(len(self)), groups, read)
        else:
            images = read_once(self.file, self.indices, groups, read)
        for group in groups:
            with part("decode"):
                found = next(images)
            yield found, group

    def label_maps(self, positions: NDArray[np.int64]) -> Tensor:
        """Return the label maps of images of one size, preprocessed as these: uint8 (B,H,W) on the CPU.

        Args:
            positions: (B,) among the N.

        Raises:
            InputError: there are no label maps, one is damaged, or the sizes differ.
        """
        if self.source.maps is None:
            raise InputError(f"Expected label maps, but {self.spec} has none.")
        positions = np.asarray(positions, np.int64)
        self._check_one_size(positions)
        with part("decode"):
            if self._map_cache.has(positions).all():
                return self._map_cache.get(positions)[:, 0]
            maps = read_maps(self.source.maps, self.indices[positions].tolist(), self.preprocessing, self.workers)
            self._map_cache.put(positions, maps[:, None])
            return maps

    @cached_property
    def _scan(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        hashes, counts = np.empty(len(self), np.int64), np.empty((len(self), LABEL_VALUES), np.int64)
        for group in self.batch_positions(SCANNED):
            for position, labels in zip(group, self.label_maps(group).numpy(), strict=True):
                hashes[position] = map_hash(labels)
                counts[position] = np.bincount(labels.reshape(-1), minlength=LABEL_VALUES)
        return hashes, counts

    @property
    def map_hashes(self) -> NDArray[np.int64]:
        """(N,) int64, the first 8 bytes of SHA-256 over each label map; from one scan at first use."""
        return self._scan[0]

    @property
    def map_counts(self) -> NDArray[np.int64]:
        """(N,256) int64, how many pixels of each label map have each value; from the same scan."""
        return self._scan[1]

    def _check_one_size(self, positions: NDArray[np.int64]) -> None:
        sizes = self.sizes[positions]
        if len(sizes) and (sizes != sizes[0]).any():
            (height, width), other = sizes[0], sizes[(sizes != sizes[0]).any(axis=1)][0]
            raise InputError(
                f"Expected images of one size together, but {self.spec} has {width}x{height} and "
                f"{other[1]}x{other[0]}; make them equal with `crop`, or take one at a time."
            )

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return all images, float32 (N,3,H,W) in [0,1], and their labels int64, (N,...) or (N,H,W), on the CPU.

        Raises:
            InputError: there are no labels, an image is damaged, or sizes differ.
        """
        if self.has_maps:
            ((images, everywhere),) = self.groups([np.arange(len(self))])
            return images.float() / 255, self.label_maps(everywhere).long()
        if self.labels is None:
            raise InputError(f"Expected labelled images, but {self.spec} has no labels.")
        images, _ = next(self.batches(len(self)))
        return images.float() / 255, torch.from_numpy(self.labels)

    def augmented(
        self,
        groups: Sequence[NDArray[np.int64]],
        augment: Callable[[Image.Image, int], Tensor],
        workers: int | None = None,
    ) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Yield (images uint8 (B,V,3,H,W) on the CPU, positions (B,) among the N) for each group of positions.

        Every image is decoded anew, as nothing augmented is kept.

        Args:
            groups: positions (B,) each, in any order.
            augment: takes an RGB image before preprocessing and its place in the whole data set, and returns its V
                views, uint8 (V,3,H,W); worker processes may need to pickle it.
            workers: processes that decode and augment; default as loaded.

        Raises:
            InputError: a damaged image.
        """
        indices = [self.indices[group].tolist() for group in groups]
        made = read_made(self.source, indices, augment, self.workers if workers is None else workers)
        return zip(made, groups, strict=True)
