"""One condition: every batch shifted and classified on the model's device, reduced to a few numbers per image."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from statshift._core import processes
from statshift._core.copying import copied
from statshift._core.parts import part
from statshift.adapting.drawing import together
from statshift.data import ImageData
from statshift.measuring.ahead import ahead
from statshift.measuring.joining import joined, of_type, on_host
from statshift.measuring.loading import DTYPES, Dtype, dtype_name
from statshift.measuring.memory import AtOnce, Kept
from statshift.models import PixelModel
from statshift.norms.layers import run
from statshift.shifts.attacks import attackable, check_gradient
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import Shift, under
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Results, Task

CHECKED = 16  # images: whether a model has an input gradient

Placed = tuple[ImageData, Condition, NDArray[np.int64], NDArray[np.int64]]
"""Of a batch the images of one condition: their data, their positions (b,) there, and their places in the batch."""


class Evaluator:
    """Classify the images of one condition after another.

    Args:
        model: on `device`, in evaluation mode.
        device: where images are shifted and classified.
        dtype: what the model runs in, by autocast unless float32.
        compiled: run the model through `torch.compile`.
        shifts: by name; of those that need a model, against the model as it is now, which is copied.
        batch_size: images in a batch. Where memory runs out on a GPU, batches are cut in halves from then on.
        seed: seed of the shifts' draws.
        task: what the labels are of.
        tasks: by shift, where its images are scored by another.

    Attributes:
        model, device, batch_size: as given.
        classify: what returns the model's logits (B,K) for images (B,3,H,W).
        keeping: keep the shifted images of the condition at work, since it will be asked for again.
    """

    def __init__(
        self,
        model: PixelModel,
        device: torch.device,
        *,
        dtype: Dtype,
        compiled: bool,
        shifts: Mapping[str, Shift],
        batch_size: int,
        seed: int = 0,
        task: Task = CLASSIFICATION,
        tasks: Mapping[str, Task] | None = None,
    ) -> None:
        self.device = device
        self.batch_size = batch_size
        self.model = model
        self.classify: Callable[[Tensor], Tensor] = torch.compile(model) if compiled else model
        self._dtype = DTYPES[dtype_name(dtype)]
        self._shifts = shifts
        self._seed = seed
        self._task = task
        self._tasks = tasks or {}
        self._source = copied(model) if any(shift.needs_model for shift in shifts.values()) else model
        self._at_once = AtOnce(device, batch_size)
        self.keeping = False
        self._kept = Kept(device)
        self._copies: torch.cuda.Stream | None = None

    def take_batches_of(self, images: int) -> None:
        """Take so many images in a batch from now on."""
        self.batch_size, self._at_once = images, AtOnce(self.device, images)

    @torch.no_grad()
    def count_classes(self, data: ImageData) -> int:
        """Return K, the width of the model's logits for the first image, which the labels must fit.

        Raises:
            InputError: the model returns no logits, or a label is K or more.
        """
        images, _ = next(data.batches(1, which=[0]))
        try:
            with self.autocast():
                classes = self._task.width(run(self.model, self._send(images).float() / 255))
        except torch.OutOfMemoryError:
            raise self._at_once.no_memory(1) from None
        self._task.check_labels(data, classes)
        return classes

    def __call__(
        self,
        data: ImageData,
        condition: Condition,
        on_batch: Callable[[int], None],
        *,
        classify: Callable[[Tensor], Tensor] | None = None,
        attacked: nn.Module | None = None,
        groups: Sequence[NDArray[np.int64]] | None = None,
        in_order: bool = False,
    ) -> Results:
        """Return what the task keeps of each image, tensors (N,...) on the CPU, in image order, on every process.

        Processes share out whole batches, so that each batch is the one that a single process would see.

        Args:
            data: with labels.
            condition: what is done to the images first.
            on_batch: called with the number of images finished, over all processes.
            classify: returns logits (B,K) for images (B,3,H,W); by default the model.
            attacked: the adapted model, which the attack of an attack's condition is made against anew; by default
                the images are those against the source.
            groups: positions (B,) of each batch, all N together; by default consecutive ones. They are never cut.
            in_order: `classify` depends on the batches before, so every process goes through all of them.
        """
        rank, world = (0, 1) if in_order else processes.join()
        classify = self.classify if classify is None else classify
        batches = data.batches(self.batch_size, which=range(rank, data.batch_count(self.batch_size), world))
        if groups is not None:
            batches = data.groups(groups[rank::world])
        if data.workers or self.device.type == "cuda":  # else nothing is at work beside this thread
            batches = ahead(batches)
        mine, finished = [], 0
        for images, positions in batches:
            parts = self._in_parts(data, condition, images, positions, classify, attacked, cut=groups is None)
            mine.append((positions, joined(parts)))
            finished += len(images)
            on_batch(min(finished * world, len(data)))
        found = on_host(mine)
        ordered = found if in_order else processes.in_turn(processes.gather(found))
        everyone = torch.from_numpy(np.concatenate([positions for positions, _ in ordered])).argsort()
        whole = joined([one for _, one in ordered])
        return of_type(whole, [field[everyone] for field in whole])

    @torch.no_grad()
    def answered(self, parts: Sequence[Placed], answer: Callable[[Tensor], Tensor]) -> list[Results]:
        """Return what the task keeps of each image of a batch, part by part, tensors (b,...) on the device.

        Args:
            parts: which images, and where in the batch each of them is.
            answer: returns logits (B,K) for the whole batch (B,3,H,W).
        """
        try:
            images = torch.cat([self.shifted(data, condition, positions) for data, condition, positions, _ in parts])
            places = [self._send(torch.from_numpy(one)) for *_, one in parts]
            if len(parts) > 1:
                images = images[torch.cat(places).argsort()]
            with part("model"), self.autocast():
                logits = answer(images)
            found = []
            for (data, condition, positions, _), place in zip(parts, places, strict=True):
                task = self._task_of(condition)
                found.append(task.per_image(logits[place], self._send(task.labels(data, positions))))
            return found
        except torch.OutOfMemoryError:
            raise self._at_once.no_memory(sum(len(positions) for *_, positions, _ in parts)) from None

    def keep(self, conditions: Collection[Condition] | None) -> None:
        """Keep the images of several conditions at once, since all of them will be asked for again; None is of one."""
        self.keeping, self._kept.at_work = True, conditions

    @torch.no_grad()
    def shifted(self, data: ImageData, condition: Condition, positions: NDArray[np.int64]) -> Tensor:
        """Return the images at these positions (B,3,H,W) under a condition, in [0,1], on the device.

        Of images of several sizes their centres, see `together`.
        """
        alike = data.alike(positions)
        return together([self._shifted(data, condition, images, group) for images, group in data.groups(alike)], alike)

    @torch.no_grad()
    def shares(self, data: ImageData, condition: Condition, groups: Sequence[NDArray[np.int64]]) -> Iterator[Tensor]:
        """Yield this process's share of groups of images under a condition, dealt out in turn."""
        rank, world = processes.join()
        for images, positions in data.groups(groups[rank::world]):
            yield self._shifted(data, condition, images, positions)

    def per_image(self, data: ImageData, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Return what a function says of each clean image, (N,) on the CPU, in image order, on every process.

        Args:
            data: with labels.
            function: function of images (B,3,H,W) in [0,1], labels (B,...) and indices (B,), on the device; returns
                (B,).
        """
        rank, world = processes.join()
        mine: list[tuple[NDArray[np.int64], Tensor]] = []
        for images, positions in data.batches(
            self.batch_size, which=range(rank, data.batch_count(self.batch_size), world)
        ):
            labels, indices = (
                self._send(one)
                for one in (self._task.labels(data, positions), torch.from_numpy(data.indices[positions]))
            )
            pixels, start = self._send(images).float().div_(255), 0
            while start < len(images):
                part = slice(start, start + self._at_once.images)
                try:
                    with self._with_gradients():
                        found = function(pixels[part], labels[part], indices[part])
                    mine.append((positions[part], found))
                    start = part.stop
                except torch.OutOfMemoryError:
                    self._at_once.take_fewer(len(images))
        gathered = [one for share in processes.gather([(part, found.cpu()) for part, found in mine]) for one in share]
        everyone = torch.from_numpy(np.concatenate([positions for positions, _ in gathered])).argsort()
        return torch.cat([found for _, found in gathered])[everyone]

    def _in_parts(
        self,
        data: ImageData,
        condition: Condition,
        images: Tensor,
        positions: NDArray[np.int64],
        classify: Callable[[Tensor], Tensor],
        attacked: nn.Module | None,
        *,
        cut: bool,
    ) -> list[Results]:
        """Return the statistics of a batch, in as few parts as memory allows if it may be cut."""
        parts: list[Results] = []
        start = 0
        while start < len(images):
            part = slice(start, start + self._at_once.images if cut else len(images))
            found = self._statistics(data, condition, images[part], positions[part], classify, attacked)
            if found is not None:
                parts.append(found)
                start = part.stop
            elif not cut:
                raise self._at_once.no_memory(len(images))
            else:
                self._at_once.take_fewer(len(images))
        return parts

    @torch.no_grad()
    def _statistics(
        self,
        data: ImageData,
        condition: Condition,
        images: Tensor,
        positions: NDArray[np.int64],
        classify: Callable[[Tensor], Tensor],
        attacked: nn.Module | None,
    ) -> Results | None:
        """Return the statistics of some images, or None where memory runs out."""
        try:
            if attacked is not None and self.attacks(condition):
                shifted = self._made(data, condition, images, positions, attacked)
            else:
                shifted = self._shifted(data, condition, images, positions)
            with part("model"), self.autocast():
                logits = classify(shifted)
            task = self._task_of(condition)
            return task.per_image(logits, self._send(task.labels(data, positions)))
        except torch.OutOfMemoryError:
            return None

    def _shifted(self, data: ImageData, condition: Condition, images: Tensor, positions: NDArray[np.int64]) -> Tensor:
        """Return images under a condition; of the condition at work they are made once, where memory allows."""
        self._kept.turn_to(data, condition, self.keeping)
        if (kept := self._kept.get(positions)) is not None:
            return kept
        shifted = self._made(data, condition, images, positions, self._source)
        self._kept.put(positions, shifted)
        return shifted

    def _made(
        self, data: ImageData, condition: Condition, images: Tensor, positions: NDArray[np.int64], model: nn.Module
    ) -> Tensor:
        """Return images under a condition; those of a shift that needs a model are against this one."""
        with part("decode"):
            pixels = self._send(images).float().div_(255)
            indices = self._send(torch.from_numpy(data.indices[positions]))
            labels = self._send(self._task_of(condition).labels(data, positions))
        make = partial(under, self._shifts[condition.shift], pixels, condition.severity, seed=self._seed)
        if not self.attacks(condition):
            with part("corrupt"):
                return make(indices=indices, labels=labels)
        with part("corrupt"), attackable(model), self._with_gradients():
            return make(indices=indices, labels=labels, model=model)

    def _task_of(self, condition: Condition) -> Task:
        return self._tasks.get(condition.shift, self._task)

    def attacks(self, condition: Condition) -> bool:
        """Return whether the images of a condition are made against a model."""
        return self._shifts[condition.shift].needs_model

    def check_attackable(self, data: ImageData) -> None:
        """Check on every process alike that the model has an input gradient on the first images.

        Raises:
            NoGradientError: it has none.
        """
        images, _ = next(data.batches(min(CHECKED, len(data)), which=[0]))
        with attackable(self.model), self._with_gradients():
            check_gradient(self.model, self._send(images).float().div_(255))

    def _with_gradients(self) -> AbstractContextManager[object]:
        """Return the context in which gradients of pixels are taken: float32 in float16's place, where they vanish."""
        return nullcontext() if self._dtype == torch.float16 else self.autocast()

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the model runs in the type asked for."""
        return nullcontext() if self._dtype == torch.float32 else torch.autocast(self.device.type, self._dtype)

    def _send(self, tensor: Tensor) -> Tensor:
        return tensor if self.device.type == "cpu" else self._copied_beside(tensor)

    def _copied_beside(self, tensor: Tensor) -> Tensor:
        """Copy to the GPU on a stream of its own, while kernels of earlier batches run."""
        if self.device.type != "cuda":
            return tensor.to(self.device)
        if self._copies is None:
            self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):
            sent = tensor.pin_memory().to(self.device, non_blocking=True)
        current.wait_stream(self._copies)
        sent.record_stream(current)
        return sent
