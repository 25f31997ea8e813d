"""Labelled images of one size: fixed batches, decoded once where memory allows."""

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from statshift._core.errors import ClassesWarning, InputError
from statshift.data.classes import IMAGENET_CLASSES, imagenet_classes, imagenet_indices
from statshift.data.reading import read_made, read_pixels
from statshift.data.sources import Source


def fit_labels(data: "ImageData", num_classes: int) -> "ImageData":
    """Return the images with labels as a model of `num_classes` numbers its classes; itself where these are so already.

    For a model of 1,000 classes, class folders that are WordNet ids of some of ImageNet's have ImageNet's indices.
    """
    indices = imagenet_indices(data.class_names) if num_classes == IMAGENET_CLASSES else None
    if indices is None or data.labels is None:
        return data
    names = imagenet_classes()
    warnings.warn(
        f"The {len(indices)} class folders of {data.spec} are WordNet ids of ImageNet's 1,000 classes: their labels "
        f"are ImageNet's, from {indices.min()} for {names[indices.min()]}.",
        ClassesWarning,
        stacklevel=3,
    )
    assert data.source.labels is not None
    source = replace(data.source, labels=indices[data.source.labels])
    return replace(data, source=source, labels=indices[data.labels], class_names=names, class_order="imagenet")


def integers_hash(values: NDArray[np.int64]) -> str:
    """Return 16 hexadecimal characters of SHA-256 over integers (indices, labels) as little-endian int64."""
    return hashlib.sha256(values.astype("<i8").tobytes()).hexdigest()[:16]


@dataclass(eq=False)
class ImageData:
    """Images of one size, uint8 RGB, and what is known of them.

    Attributes:
        spec: what was loaded.
        source: where the images lie.
        indices: (N,) int64, ascending, the images' places in the whole data set; these address randomness.
        labels: (N,) int64, or (N,...) of a task with more labels an image, or None.
        class_names: by label, or None.
        shape: (3,H,W) after preprocessing.
        preprocessing: `resize`, `crop` (px or None) and `interpolation`, as applied.
        converted: how many images were not RGB.
        skipped: names of the images left out because they cannot be read.
        workers: processes that decode.
        class_order: how class folders were numbered, where not in the order of sorted text: "integers", or "imagenet"
            where ImageNet's own indices were taken; see `fit_labels`.
        cache_bytes: as many decoded images stay in memory as take no more.
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

    def __post_init__(self) -> None:
        capacity = min(len(self), self.cache_bytes // int(np.prod(self.shape)))
        self._cache = torch.empty((capacity, *self.shape), dtype=torch.uint8)
        self._cached = np.zeros(len(self), bool)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def classes(self) -> int | None:
        """Number of classes where it is known."""
        return None if self.class_names is None else len(self.class_names)

    def content_hash(self) -> str:
        """Return 16 hexadecimal characters of SHA-256 over the content: pixels, bytes, or files' names and sizes."""
        return hashlib.sha256(self.source.content()).hexdigest()[:16]

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

        Batch k holds the positions from `k * batch_size` on, whoever asks for it.

        Args:
            batch_size: images in a batch; the last may be smaller.
            which: numbers of the batches to yield, in this order; default all.
            workers: processes that decode; default as loaded.

        Raises:
            InputError: a batch size under 1, or a damaged image.
        """
        if batch_size < 1:
            raise InputError(f"Expected `batch_size` to be at least 1, but got {batch_size}.")
        numbers = range(-(-len(self) // batch_size)) if which is None else which
        everywhere = np.arange(len(self))
        return self.groups([everywhere[k * batch_size : (k + 1) * batch_size] for k in numbers], workers)

    def groups(
        self, groups: Sequence[NDArray[np.int64]], workers: int | None = None
    ) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Yield (images uint8 (B,3,H,W) on the CPU, positions (B,) among the N) for each group of positions.

        Args:
            groups: positions (B,) each, in any order.
            workers: processes that decode; default as loaded.

        Raises:
            InputError: a damaged image.
        """
        ready = [bool(self._cached[group].all()) for group in groups]
        missing = [self.indices[group].tolist() for group, known in zip(groups, ready, strict=True) if not known]
        decoded = read_pixels(self.source, missing, self.preprocessing, self.workers if workers is None else workers)
        for group, known in zip(groups, ready, strict=True):
            if known:
                images = self._cache[torch.from_numpy(group)]
            else:
                images = next(decoded)
                if group.max() < len(self._cache):
                    self._cache[torch.from_numpy(group)] = images
                    self._cached[group] = True
            yield images, group

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return all images, float32 (N,3,H,W) in [0,1], and their labels (N,...), on the CPU.

        Raises:
            InputError: there are no labels, or an image is damaged.
        """
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
