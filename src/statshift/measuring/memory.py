"""How memory is used: how many images go through the model at once, and which are kept."""

import math
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statshift._core.errors import InputError, MemoryWarning
from statshift.data import ImageData
from statshift.shifts.conditions import Condition

KEPT_BYTES = 2 << 30


class AtOnce:
    """How many images go at once: fewer from then on, whenever memory runs out.

    Attributes:
        device: whose memory it is.
        images: that go at once.
    """

    def __init__(self, device: torch.device, images: int) -> None:
        self.device = device
        self.images = images

    def take_fewer(self, images: int) -> None:
        """Cut batches of so many images in halves from now on, and say so.

        Raises:
            InputError: there is no less than one image at once.
        """
        if self.images == 1:
            raise self.no_memory(1)
        self.images = (min(self.images, images) + 1) // 2
        torch.cuda.empty_cache()
        warnings.warn(
            f"Out of memory on {self.device}: going on with {self.images} at once.", MemoryWarning, stacklevel=3
        )

    def no_memory(self, images: int) -> InputError:
        """Return what is told where even so many images are too many."""
        many = "a single image" if images == 1 else f"{images} images at once"
        return InputError(f"Out of memory on {self.device} with {many}; use `device` cpu.")


class Kept:
    """The images under the condition at work, as far as they were made and where memory allows."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._of: tuple[ImageData, Condition] | None = None
        self._images: Tensor | None = None
        self._is_kept = np.zeros(0, bool)

    def turn_to(self, data: ImageData, condition: Condition, keeping: bool) -> None:
        """Let go of the images of another condition, and make room for those of this one if they shall be kept."""
        if self._of == (data, condition):
            return
        few = len(data) * math.prod(data.shape) * 4 <= KEPT_BYTES and not data.several_sizes
        self._of, self._is_kept = (data, condition), np.zeros(len(data), bool)
        if not (few and keeping):
            self._images = None
        elif self._images is None or self._images.shape != (len(data), *data.shape):
            self._images = torch.empty((len(data), *data.shape), device=self._device)

    def get(self, positions: NDArray[np.int64]) -> Tensor | None:
        """Return the images at these positions (B,3,H,W), or None where not all of them are kept."""
        if self._images is None or not self._is_kept[positions].all():
            return None
        return self._images[torch.from_numpy(positions).to(self._device)]

    def put(self, positions: NDArray[np.int64], images: Tensor) -> None:
        """Keep the images (B,3,H,W) at these positions, if any are kept."""
        if self._images is not None:
            self._images[torch.from_numpy(positions).to(self._device)] = images
            self._is_kept[positions] = True
