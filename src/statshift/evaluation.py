"""One condition: every batch shifted and classified on the model's device, reduced to a few numbers per image."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statshift import processes
from statshift.data import ImageData, check_labels
from statshift.errors import InputError, unknown
from statshift.metrics import ImageStatistics, image_statistics
from statshift.models import PixelModel
from statshift.shifts import Condition

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(name: str) -> torch.device:
    """Return the device named "auto", "cpu", "cuda" or "cuda:N"; "auto" is a GPU if there is one.

    Raises:
        InputError: an unknown name, or a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:N"])
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(f"Device {name!r} was asked for, but torch finds no CUDA GPU; use --device cpu or auto.")
    index = int(number) if number else processes.local_rank() % torch.cuda.device_count()
    if index >= torch.cuda.device_count():
        raise InputError(f"Device {name!r} was asked for, but there are {torch.cuda.device_count()} GPUs, from cuda:0.")
    return torch.device("cuda", index)


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
    ) -> None:
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        self.device = device
        self.batch_size = batch_size
        self._model = model
        self._classify = torch.compile(model) if compiled else model
        self._dtype = DTYPES[dtype]
        self._shift = shift
        self._at_once = batch_size

    @torch.no_grad()
    def count_classes(self, data: ImageData) -> int:
        """Return K, the width of the model's logits for the first image, which the labels must fit.

        Raises:
            InputError: the model returns no logits, or a label is K or more.
        """
        images, _ = next(data.batches(1, which=[0]))
        try:
            with self._autocast():
                classes = int(self._model(self._send(images).float() / 255).shape[1])
        except torch.OutOfMemoryError:
            raise self._no_memory() from None
        check_labels(data, classes)
        return classes

    def __call__(self, data: ImageData, condition: Condition, on_batch: Callable[[int], None]) -> ImageStatistics:
        """Return four tensors (N,) on the CPU, in image order, on every process.

        Processes share out whole batches, so that each batch is the one that a single process would see.

        Args:
            data: with labels.
            condition: what is done to the images first.
            on_batch: called with the number of images finished, over all processes.
        """
        rank, world = processes.join()
        numbers = range(rank, -(-len(data) // self.batch_size), world)
        mine = []
        for images, positions in data.batches(self.batch_size, which=numbers):
            parts = self._in_parts(data, condition, images, positions)
            mine.append(ImageStatistics(*map(torch.cat, zip(*parts, strict=True))))
            on_batch(min(int(positions[0]) + world * self.batch_size, len(data)))
        found = processes.gather([ImageStatistics(*(field.cpu() for field in one)) for one in mine])
        ordered = [found[number % world][number // world] for number in range(sum(map(len, found)))]
        return ImageStatistics(*map(torch.cat, zip(*ordered, strict=True)))

    def _in_parts(
        self, data: ImageData, condition: Condition, images: Tensor, positions: NDArray[np.int64]
    ) -> list[ImageStatistics]:
        """Return the statistics of a batch in as few parts as memory allows."""
        parts: list[ImageStatistics] = []
        start = 0
        while start < len(images):
            part = slice(start, start + self._at_once)
            found = self._statistics(data, condition, images[part], positions[part])
            if found is not None:
                parts.append(found)
                start += self._at_once
            elif self._at_once == 1:
                raise self._no_memory()
            else:
                self._at_once = (min(self._at_once, len(images)) + 1) // 2
                torch.cuda.empty_cache()
                warnings.warn(f"Out of memory on {self.device}: going on with {self._at_once} at once.", stacklevel=2)
        return parts

    @torch.no_grad()
    def _statistics(
        self, data: ImageData, condition: Condition, images: Tensor, positions: NDArray[np.int64]
    ) -> ImageStatistics | None:
        """Return the statistics of some images, or None where memory runs out."""
        assert data.labels is not None
        try:
            pixels = self._send(images).float().div_(255)
            shifted = self._shift(pixels, condition, self._send(torch.from_numpy(data.indices[positions])))
            with self._autocast():
                logits: Tensor = self._classify(shifted)
            return image_statistics(logits, self._send(torch.from_numpy(data.labels[positions])))
        except torch.OutOfMemoryError:
            return None

    def _send(self, tensor: Tensor) -> Tensor:
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def _no_memory(self) -> InputError:
        return InputError(f"Out of memory on {self.device} with a single image; use --device cpu.")

    def _autocast(self) -> AbstractContextManager[object]:
        return nullcontext() if self._dtype == torch.float32 else torch.autocast(self.device.type, self._dtype)
