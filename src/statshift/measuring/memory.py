"""How memory is used: how many images go through the model at once, and which are kept."""

import math
import warnings
from collections.abc import Collection

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
    """The images under the conditions at work, as far as they were made and where memory allows.

    Attributes:
        at_work: the conditions whose images are kept at once; None is the latest alone.
    """

    def __init__(self, device: torch.device) -> None:
        self.at_work: Collection[Condition] | None = None
        self._device = device
        self._of: tuple[ImageData, Condition] | None = None
        self._images: Tensor | None = None
        self._is_kept = np.zeros(0, bool)
        self._others: dict[tuple[ImageData, Condition], tuple[Tensor, NDArray[np.bool_]]] = {}

    def turn_to(self, data: ImageData, condition: Condition, keeping: bool) -> None:
        """Let go of the images of a condition that is not at work, and make room for this one's if they shall be kept.

        Those of the others at work stay.
        """
        if self._of == (data, condition):
            return
        self._lay_by()
        self._of = (data, condition)
        if self._of in self._others:
            self._images, self._is_kept = self._others.pop(self._of)
            return
        room = KEPT_BYTES - sum(images.numel() * 4 for images, _ in self._others.values())
        few = len(data) * math.prod(data.shape) * 4 <= room and not data.several_sizes
        self._is_kept = np.zeros(len(data), bool)
        if not (few and keeping):
            self._images = None
        elif self._images is None or self._images.shape != (len(data), *data.shape):
            self._images = torch.empty((len(data), *data.shape), device=self._device)

    def _lay_by(self) -> None:
        """Lay the latest condition's images by if it is at work still, and let go of those that are not."""
        at_work = self.at_work or ()
        self._others = {of: kept for of, kept in self._others.items() if of[1] in at_work}
        if self._of is not None and self._images is not None and self._of[1] in at_work:
            self._others[self._of] = self._images, self._is_kept
            self._images = None

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
