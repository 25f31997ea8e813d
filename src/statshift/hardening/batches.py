"""The batches of a training: addressed images, shared out to processes and parts, augmented, on the device.

Images that are not augmented, or are small and augmented as tensors on the device, are decoded once, as far as memory
or a file holds them; others are decoded and augmented one by one. The pixels are the same either way. Label maps are
augmented with their images. What is not on the device already is made ready while the step before is at work.
"""

from collections.abc import Generator, Iterable
from contextlib import closing
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
from statshift.hardening.augmentation import DRAWING, MIXING, WINDOWS, Augmentation, cutmix, sent, windowed
from statshift.hardening.batch import Batch
from statshift.hardening.pairs import PairAugmentation
from statshift.measuring.ahead import ahead, is_idle_beside
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
        attack_dtype: what it runs in while it is attacked; None is `dtype`.
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
    attack_dtype: torch.dtype | None = field(default=None, kw_only=True)
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
        """Whether the images are kept on the device, beside which a CPU needs no file of them."""
        data = self.data
        bytes_held = len(data) * int(np.prod(data.shape))
        mapped = data.file is not None and self.device.type == "cpu"
        return self.augmentation.as_tensors and not mapped and bytes_held <= data.cache_bytes

    @property
    def reads_ahead(self) -> bool:
        """Whether images are made ready by a thread of their own, which must not draw what a step draws from too."""
        draws = self.augmentation.name in DRAWING or self.data.source.drawn
        return is_idle_beside(self.data.workers, self.device) and (self.data.workers > 0 or not draws)

    def epoch(self, epoch: int, first: int = 0) -> Generator[tuple[Batch, NDArray[np.int64]], None, None]:
        """Yield this process's parts of the batches of an epoch, in order, with their positions (B,) among the N.

        Who does not ask for all of them closes the generator, or a thread may read on.

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
        with closing(self._labelled(groups, epoch)) as labelled:
            for (views, own), positions in zip(labelled, groups, strict=True):
                yield self._batch(views, own, positions, epoch), positions

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the positions (N,) in the order of an epoch."""
        draws = Draws(self.augmentation.seed, torch.from_numpy(self.data.indices), f"training epoch {epoch}")
        return draws.uniform("order").argsort(stable=True).numpy()

    def _labelled(self, groups: list[NDArray[np.int64]], epoch: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield uint8 images (V*B,3,H,W), view after view, and labels (B,...) int64, of each group of positions."""
        if isinstance(self.augmentation, PairAugmentation):
            pairs = augmented_pairs(self.data, groups, self.augmentation.at(epoch))
            with closing(self._sent((images.transpose(0, 1).flatten(0, 1), maps) for images, maps, _ in pairs)) as made:
                for views, own in made:
                    yield views, own.long()
            return
        chosen = np.concatenate(groups)
        labels = sent(self.task.labels(self.data, chosen), self.device).chunk(len(groups))
        augmentation = self.augmentation
        kept = augmentation.as_tensors and not self.data.source.drawn
        source = self._from_held if self.holds else self._from_kept if kept else self._from_source
        with closing(source(groups, augmentation, epoch)) as made:
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

    def _from_held(
        self, groups: list[NDArray[np.int64]], augmentation: Augmentation, epoch: int
    ) -> Generator[Tensor, None, None]:
        """Yield uint8 images (B,3,H,W); nothing but the epoch's addresses travels, and that beforehand."""
        held, chosen = self._held, np.concatenate(groups)
        addresses = torch.cat([torch.from_numpy(chosen)[None], self._windows(chosen, augmentation, epoch)])
        for address in sent(addresses, self.device).chunk(len(groups), dim=1):
            images = held.index_select(0, address[0])
            yield windowed(images, address[1:]) if augmentation.name in WINDOWS else images

    def _from_kept(
        self, groups: list[NDArray[np.int64]], augmentation: Augmentation, epoch: int
    ) -> Generator[Tensor, None, None]:
        """Yield uint8 images (B,3,H,W), decoded where neither memory nor the file has them."""
        read = self.data.groups(groups)
        with closing(self._sent((images, self._windows(group, augmentation, epoch)) for images, group in read)) as kept:
            for images, windows in kept:
                yield windowed(images, windows) if augmentation.name in WINDOWS else images

    def _from_source(
        self, groups: list[NDArray[np.int64]], augmentation: Augmentation, epoch: int
    ) -> Generator[Tensor, None, None]:
        """Yield uint8 images (V*B,3,H,W), view after view."""
        read = self.data.augmented(groups, augmentation.at(epoch))
        with closing(self._sent((images.transpose(0, 1).flatten(0, 1),) for images, _ in read)) as made:
            for (images,) in made:
                yield images

    def _windows(self, positions: NDArray[np.int64], augmentation: Augmentation, epoch: int) -> Tensor:
        return augmentation.windows(epoch, torch.from_numpy(self.data.indices[positions]))

    def _sent(self, made: Iterable[tuple[Tensor, ...]]) -> Generator[tuple[Tensor, ...], None, None]:
        """Yield tensors on the device, made and pinned beforehand where something else is at work meanwhile."""
        if not self.reads_ahead:
            for tensors in made:
                yield tuple(sent(tensor, self.device) for tensor in tensors)
            return
        if self.device.type == "cuda":
            made = (tuple(tensor.pin_memory() for tensor in tensors) for tensors in made)
        with closing(ahead(made)) as ready:
            for tensors in ready:
                yield tuple(sent(tensor, self.device) for tensor in tensors)

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
        return Batch(pixels, self.task.targets(labels, soft, views), draws, self.dtype, self.attack_dtype)
