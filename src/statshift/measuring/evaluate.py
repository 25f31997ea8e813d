"""One condition: every batch shifted and classified on the model's device, reduced to a few numbers per image."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from statshift._core import processes
from statshift._core.copying import copied
from statshift._core.errors import InputError, MemoryWarning, unknown
from statshift.data import ImageData, check_labels
from statshift.metrics.classification import ImageStatistics, image_statistics
from statshift.models import PixelModel
from statshift.norms.layers import run
from statshift.shifts.attacks import AutoAttack, PixelAttack, attack_images, attackable, check_gradient
from statshift.shifts.conditions import Condition

KEPT_BYTES = 2 << 30
CHECKED = 16  # images: whether a model has an input gradient
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def describe_attack(attack: PixelAttack | AutoAttack, batch_size: int) -> dict[str, Any]:
    """Return an attack's numbers for a record: the step size in force, or of AutoAttack the batch that it draws by."""
    own = {"step_size": attack.length} if isinstance(attack, PixelAttack) else {"batch_size": batch_size}
    return asdict(attack) | own


class Evaluator:
    """Classify the images of one condition after another.

    Args:
        model: on `device`, in evaluation mode.
        device: where images are shifted and classified.
        dtype: name of the type the model runs in, by autocast unless "float32".
        compiled: run the model through `torch.compile`.
        shift: takes images (B,3,H,W) in [0,1], a condition and the images' indices (B,), and returns the images under
            that condition.
        batch_size: images in a batch. Where memory runs out on a GPU, batches are cut in halves from then on.
        attacks: the conditions' shifts that are attacks, by name; against the model as it is now, which is copied.
        seed: of the attacks.

    Attributes:
        model: as given.
        device: as given.
        batch_size: as given.
        keeping: keep the shifted images of the condition at work, since it will be asked for again.
    """

    def __init__(
        self,
        model: PixelModel,
        device: torch.device,
        *,
        dtype: str,
        compiled: bool,
        shift: Callable[[Tensor, Condition, Tensor], Tensor],
        batch_size: int,
        attacks: Mapping[str, PixelAttack | AutoAttack] | None = None,
        seed: int = 0,
    ) -> None:
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        self.device = device
        self.batch_size = batch_size
        self.model = model
        self._classify = torch.compile(model) if compiled else model
        self._dtype = DTYPES[dtype]
        self._shift = shift
        self._attacks = attacks or {}
        self._seed = seed
        self._source = copied(model) if self._attacks else model
        self._at_once = batch_size
        self.keeping = False
        self._kept_of: tuple[ImageData, Condition] | None = None
        self._kept: Tensor | None = None
        self._is_kept = np.zeros(0, bool)

    @torch.no_grad()
    def count_classes(self, data: ImageData) -> int:
        """Return K, the width of the model's logits for the first image, which the labels must fit.

        Raises:
            InputError: the model returns no logits, or a label is K or more.
        """
        images, _ = next(data.batches(1, which=[0]))
        try:
            with self.autocast():
                classes = int(run(self.model, self._send(images).float() / 255).shape[1])
        except torch.OutOfMemoryError:
            raise self._no_memory(1) from None
        check_labels(data, classes)
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
    ) -> ImageStatistics:
        """Return five tensors (N,) on the CPU, in image order, on every process.

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
        classify = self._classify if classify is None else classify
        batches = data.batches(self.batch_size, which=range(rank, -(-len(data) // self.batch_size), world))
        if groups is not None:
            batches = data.groups(groups[rank::world])
        mine, finished = [], 0
        for images, positions in batches:
            parts = self._in_parts(data, condition, images, positions, classify, attacked, cut=groups is None)
            mine.append((positions, ImageStatistics(*map(torch.cat, zip(*parts, strict=True)))))
            finished += len(images)
            on_batch(min(finished * world, len(data)))
        found = [(positions, ImageStatistics(*(field.cpu() for field in one))) for positions, one in mine]
        ordered = found if in_order else processes.in_turn(processes.gather(found))
        everyone = torch.from_numpy(np.concatenate([positions for positions, _ in ordered])).argsort()
        return ImageStatistics(
            *(torch.cat(field)[everyone] for field in zip(*(one for _, one in ordered), strict=True))
        )

    @torch.no_grad()
    def shifted(self, data: ImageData, condition: Condition, positions: NDArray[np.int64]) -> Tensor:
        """Return the images at these positions (B,3,H,W) under a condition, in [0,1], on the device."""
        ((images, _),) = data.groups([positions])
        return self._shifted(data, condition, images, positions)

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
            function: of images (B,3,H,W) in [0,1], labels (B,) and indices (B,), on the device; returns (B,).
        """
        assert data.labels is not None
        rank, world = processes.join()
        mine = []
        for images, positions in data.batches(
            self.batch_size, which=range(rank, -(-len(data) // self.batch_size), world)
        ):
            labels, indices = (self._send(torch.from_numpy(one[positions])) for one in (data.labels, data.indices))
            pixels, start = self._send(images).float().div_(255), 0
            while start < len(images):
                part = slice(start, start + self._at_once)
                try:
                    with self._with_gradients():
                        mine.append(function(pixels[part], labels[part], indices[part]))
                    start = part.stop
                except torch.OutOfMemoryError:
                    self._take_fewer(len(images))
        return torch.cat(processes.in_turn(processes.gather([one.cpu() for one in mine])))

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
    ) -> list[ImageStatistics]:
        """Return the statistics of a batch, in as few parts as memory allows if it may be cut."""
        parts: list[ImageStatistics] = []
        start = 0
        while start < len(images):
            part = slice(start, start + self._at_once if cut else len(images))
            found = self._statistics(data, condition, images[part], positions[part], classify, attacked)
            if found is not None:
                parts.append(found)
                start = part.stop
            elif not cut:
                raise self._no_memory(len(images))
            else:
                self._take_fewer(len(images))
        return parts

    def _take_fewer(self, images: int) -> None:
        """Cut batches of so many images in halves from now on, and say so.

        Raises:
            InputError: there is no less than one image at once.
        """
        if self._at_once == 1:
            raise self._no_memory(1)
        self._at_once = (min(self._at_once, images) + 1) // 2
        torch.cuda.empty_cache()
        warnings.warn(
            f"Out of memory on {self.device}: going on with {self._at_once} at once.", MemoryWarning, stacklevel=2
        )

    @torch.no_grad()
    def _statistics(
        self,
        data: ImageData,
        condition: Condition,
        images: Tensor,
        positions: NDArray[np.int64],
        classify: Callable[[Tensor], Tensor],
        attacked: nn.Module | None,
    ) -> ImageStatistics | None:
        """Return the statistics of some images, or None where memory runs out."""
        assert data.labels is not None
        try:
            if attacked is not None and condition.shift in self._attacks:
                shifted = self._made(data, condition, images, positions, attacked)
            else:
                shifted = self._shifted(data, condition, images, positions)
            with self.autocast():
                logits = classify(shifted)
            return image_statistics(logits, self._send(torch.from_numpy(data.labels[positions])))
        except torch.OutOfMemoryError:
            return None

    def _shifted(self, data: ImageData, condition: Condition, images: Tensor, positions: NDArray[np.int64]) -> Tensor:
        """Return images under a condition; of the condition at work they are made once, where memory allows."""
        places = torch.from_numpy(positions).to(self.device)
        if self._kept_of != (data, condition):
            few = len(data) * math.prod(data.shape) * 4 <= KEPT_BYTES
            self._kept_of, self._is_kept = (data, condition), np.zeros(len(data), bool)
            if not (few and self.keeping):
                self._kept = None
            elif self._kept is None or self._kept.shape != (len(data), *data.shape):
                self._kept = torch.empty((len(data), *data.shape), device=self.device)
        if self._kept is not None and self._is_kept[positions].all():
            return self._kept[places]
        shifted = self._made(data, condition, images, positions, self._source)
        if self._kept is not None:
            self._kept[places] = shifted
            self._is_kept[positions] = True
        return shifted

    def _made(
        self, data: ImageData, condition: Condition, images: Tensor, positions: NDArray[np.int64], model: nn.Module
    ) -> Tensor:
        """Return images under a condition; those of an attack are against a model."""
        pixels = self._send(images).float().div_(255)
        indices = self._send(torch.from_numpy(data.indices[positions]))
        if condition.shift not in self._attacks:
            return self._shift(pixels, condition, indices)
        assert data.labels is not None
        labels = self._send(torch.from_numpy(data.labels[positions]))
        with self._with_gradients():
            attack = self._attacks[condition.shift]
            return attack_images(model, pixels, labels, attack, seed=self._seed, indices=indices, check=False)

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
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def _no_memory(self, images: int) -> InputError:
        many = "a single image" if images == 1 else f"{images} images at once"
        return InputError(f"Out of memory on {self.device} with {many}; use `device` cpu.")
