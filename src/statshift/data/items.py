"""Torch data sets as sources: (image, label), (image, labels) or (image, label map)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from statshift._core.errors import InputError
from statshift.data.files import DAMAGE
from statshift.data.maps import INDEX_MODES, LABEL_VALUES, Maps, check_same_size, stored_indices
from statshift.data.preprocessing import quantise
from statshift.data.sources import Header, Source

LOOKED_AT_TWICE = 32
"""Items of a data set that are read again: where they differ, it draws its images at random."""


def read_items(dataset: Dataset[Any], place: str) -> "Items":
    """Return the source of a torch `Dataset`; this reads every item once, for its label and its range.

    Raises:
        InputError: it has no length, an item is no image, only some items have labels, or label maps do not fit.
    """
    if not hasattr(dataset, "__len__"):
        raise InputError(f"Expected a data set with a length, but {place} has none.")
    if gives_maps(dataset):
        return _mapped_items(dataset, place)
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


def gives_maps(dataset: Dataset[Any]) -> bool:
    """Return whether a data set gives label maps: the first item's label is a PIL image or has the image's size."""
    if not hasattr(dataset, "__len__") or not len(dataset):
        return False
    item = dataset[0]
    if not isinstance(item, Sequence) or len(item) < 2:
        return False
    label = item[1]
    if isinstance(label, Image.Image):
        return True
    return np.ndim(label) == 2 and np.shape(label) == item_image(item, "the first image").size[::-1]


def _mapped_items(dataset: Any, place: str) -> "Items":
    """Return the source of a data set of (image, label map); every item is read once."""
    maps = ItemMaps(dataset=dataset, place=place)
    headers, hashes = [], []
    for index in range(len(dataset)):
        item = dataset[index]
        image = item_image(item, f"image {index} of {place}")
        maps.values(item, index, image.size)
        headers.append((image.size, image.mode))
        hashes.append(_pixels_hash(image))
    for index in range(min(len(dataset), LOOKED_AT_TWICE)):
        if _pixels_hash(item_image(dataset[index], place)) != hashes[index]:
            raise InputError(f"Expected the same images each time, but image {index} of {place} is drawn at random.")
    return Items(place, dataset=dataset, headers=headers, hashes=hashes, maps=maps)


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Items(Source):
    """A torch `Dataset`, and the headers and hashes of its images; no hashes where they are drawn at random."""

    dataset: Dataset[Any]
    headers: Sequence[Header]
    hashes: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.headers)

    @property
    def drawn(self) -> bool:
        """Whether the images may be others each time."""
        return self.hashes is None

    def open(self, index: int) -> Image.Image:
        """Get the item."""
        return item_image(self.dataset[index], self.name(index))

    def content(self) -> bytes:
        """Return the sizes and modes seen."""
        return repr(self.headers).encode()

    def stamp(self) -> bytes | None:
        """Return the hashes of the pixels seen when the labels were read."""
        return None if self.hashes is None else "".join(self.hashes).encode()

    def files_hash(self, indices: Sequence[int]) -> str | None:
        """Hash the pixels seen when the labels were read."""
        if self.hashes is None:
            return None
        return hashlib.sha256("".join(self.hashes[index] for index in indices).encode()).hexdigest()[:16]

    def header(self, index: int) -> Header:
        """Return what was seen when the labels were read."""
        return self.headers[index]


@dataclass(frozen=True, eq=False, kw_only=True)
class ItemMaps(Maps):
    """Label maps that a torch `Dataset` gives with its images."""

    dataset: Dataset[Any]
    place: str

    def decode(self, index: int) -> NDArray[np.uint8]:
        """Get the item."""
        return self.values(self.dataset[index], index, None)

    def check(self, index: int, size: tuple[int, int]) -> None:
        """Do nothing: every item was looked at when the data set was read."""

    def name(self, index: int) -> str:
        """Return the item's number."""
        return f"label {index} of {self.place}"

    def values(self, item: Any, index: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
        """Return an item's label map (H,W), checked against the (width, height) of its image.

        Raises:
            InputError: there is none, it has another size, or values that are not from 0 to 255.
        """
        label = item[1] if isinstance(item, Sequence) and len(item) > 1 else None
        if isinstance(label, torch.Tensor):
            label = label.numpy(force=True)
        if isinstance(label, Image.Image):
            label = self._stored(label, index)
        labels = np.asarray(label)
        if labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise InputError(f"Expected {self.name(index)} to be integers (H,W), but got shape {labels.shape}.")
        check_same_size(self.name(index), labels.shape[::-1], labels.shape[::-1] if size is None else size)
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= LABEL_VALUES:
            wrong = low if low < 0 else high
            raise InputError(f"Expected {self.name(index)} to be from 0 to {LABEL_VALUES - 1}, but got {wrong}.")
        return labels.astype(np.uint8)

    def _stored(self, label: Image.Image, index: int) -> NDArray[np.uint8]:
        if label.mode not in INDEX_MODES:
            raise InputError(f"Expected {self.name(index)} to hold indices or a palette, but its mode is {label.mode}.")
        try:
            return stored_indices(label)
        except DAMAGE as error:
            raise InputError(f"Cannot read {self.name(index)} ({error}).") from error
