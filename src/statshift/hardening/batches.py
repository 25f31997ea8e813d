"""The batches of a training: addressed images, shared out to processes and parts, augmented, on the device.

Images that memory holds are decoded once and kept on the device where they are not augmented, or are small and
augmented there as tensors; others are decoded and augmented one by one. The pixels are the same either way. Label maps
are augmented with their images.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statshift._core import processes
from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.data import ImageData
from statshift.data.pairs import augmented_pairs
from statshift.hardening.augmentation import MIXING, WINDOWS, Augmentation, cutmix, sent, windowed
from statshift.hardening.batch import Batch
from statshift.hardening.pairs import PairAugmentation
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Task

DECODED = 256  # images at once


@dataclass(eq=False)
class Batches:
    """The batches of every epoch; a pure function of seed, epoch and step, whatever the number of processes.

    Attributes:
        data: with labels.
        augmentation: augmentation of them, see `augmentation_of`; its seed is that of the order too.
        size: images in a batch, over all processes and parts; more than there are mean all.
        parts: that each process's share of a batch is cut into.
        classes: K of the soft targets.
        device: where the batches are wanted.
        dtype: what the model runs in.
        channels_last: whether the images lie channels last.
        task: what the labels are of.

    Raises:
        InputError: no labels, or a batch that cannot be shared out.
    """

    data: ImageData = field(repr=False)
    augmentation: Augmentation | PairAugmentation
    size: int
    parts: int
    classes: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    channels_last: bool = True
    task: Task = CLASSIFICATION

    def __post_init__(self) -> None:
        if self.task.labels_of(self.data) is None:
            raise InputError(f"Expected labels to train on, but {self.data.spec} has none.")
        self.size = min(self.size, len(self.data))
        self._rank, self._world = processes.join()
        shares = self._world * self.parts
        self._part, rest = divmod(self.size, shares)
        if rest:
            raise InputError(
                f"Expected a batch of {self.size} images to be shared out evenly, but processes are {self._world} and "
                f"the parts of each {self.parts}: choose a batch size that is a multiple of {shares}."
            )
        if self._part * self._world < 2:
            raise InputError(f"Expected at least two images to normalise together, but got {self._part * self._world}.")

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch; a last batch that is smaller is left out."""
        return len(self.data) // self.size

    @property
    def holds(self) -> bool:
        """Whether the images are kept on the device."""
        data, augmentation = self.data, self.augmentation
        bytes_held = len(data) * int(np.prod(data.shape))
        as_tensors = augmentation.name == "none" or (not augmentation.photographs and augmentation.name in WINDOWS)
        return as_tensors and bytes_held <= data.cache_bytes

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
        """Yield this process's parts of the batches of an epoch, in order, with their positions (B,) among the N.

        Args:
            epoch: from 0.
            first: the step of the epoch to begin with.

        Raises:
            InputError: a damaged image.
        """
        if first >= self.per_epoch:
            return
        starts = range(first * self.size, self.per_epoch * self.size, self.size)
        order = self.order(epoch)
        places = [
            start + (part * self._world + self._rank) * self._part for start in starts for part in range(self.parts)
        ]
        groups = [order[place : place + self._part] for place in places]
        for (views, own), positions in zip(self._labelled(groups, epoch), groups, strict=True):
            yield self._batch(views, own, positions, epoch), positions

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the positions (N,) in the order of an epoch."""
        draws = Draws(self.augmentation.seed, torch.from_numpy(self.data.indices), f"training epoch {epoch}")
        return draws.uniform("order").argsort(stable=True).numpy()

    def _labelled(self, groups: list[NDArray[np.int64]], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield uint8 images (V*B,3,H,W), view after view, and labels (B,...) int64, of each group of positions."""
        if isinstance(self.augmentation, PairAugmentation):
            for images, maps, _ in augmented_pairs(self.data, groups, self.augmentation.at(epoch)):
                yield sent(images.transpose(0, 1).flatten(0, 1), self.device), sent(maps, self.device).long()
            return
        chosen = np.concatenate(groups)
        labels = sent(self.task.labels(self.data, chosen), self.device).chunk(len(groups))
        augmentation = self.augmentation
        made = (
            self._from_held(chosen, augmentation, epoch)
            if self.holds
            else self._from_source(groups, augmentation, epoch)
        )
        yield from zip(made, labels, strict=True)

    @cached_property
    def _held(self) -> Tensor:
        """All images, uint8 (N,3,H,W)."""
        held = torch.empty((len(self.data), *self.data.shape), dtype=torch.uint8, device=self.device)
        done = 0
        for images, _ in self.data.batches(DECODED):
            held[done : done + len(images)] = images.to(self.device)
            done += len(images)
        return held

    def _from_held(self, chosen: NDArray[np.int64], augmentation: Augmentation, epoch: int) -> Iterator[Tensor]:
        """Yield uint8 images (B,3,H,W); nothing but the epoch's addresses travels, and that beforehand."""
        held = self._held
        windows = augmentation.windows(epoch, torch.from_numpy(self.data.indices[chosen]))
        addresses = sent(torch.cat([torch.from_numpy(chosen)[None], windows]), self.device)
        for address in addresses.chunk(len(chosen) // self._part, dim=1):
            images = held.index_select(0, address[0])
            yield windowed(images, address[1:]) if augmentation.name in WINDOWS else images

    def _from_source(self, groups: list[NDArray[np.int64]], augmentation: Augmentation, epoch: int) -> Iterator[Tensor]:
        """Yield uint8 images (V*B,3,H,W), view after view."""
        for images, _ in self.data.augmented(groups, augmentation.at(epoch)):
            yield sent(images.transpose(0, 1).flatten(0, 1), self.device)

    def _batch(self, images: Tensor, labels: Tensor, positions: NDArray[np.int64], epoch: int) -> Batch:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        pixels = images.contiguous(memory_format=layout).float().div_(255)
        views = self.augmentation.views
        indices = torch.from_numpy(self.data.indices[positions]) * views
        everyone = torch.cat([indices + view for view in range(views)])
        draws = Draws(self.augmentation.seed, everyone, f"training epoch {epoch}")
        soft = None
        if self.augmentation.name in MIXING:
            pixels, soft = cutmix(pixels, self.task.soft(labels, self.classes).to(pixels.dtype), draws)
        return Batch(pixels, self.task.targets(labels, soft, views), draws, self.dtype)
