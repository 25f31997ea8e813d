"""The newest images of a stream, in memory that does not grow."""

import torch
from torch import Tensor, nn


class Window(nn.Module):
    """Hold the newest images of a stream, in a ring of fixed size, without reading anything from their device.

    Args:
        size: how many are held at most.
        like: images (B,3,H,W) of the shape, type and device to hold; without, none can be.

    Attributes:
        fill: how many are held.
        ring: (size,3,H,W).
        end: () where the next image goes; once the window is full, that of the oldest.
    """

    ring: Tensor
    end: Tensor

    def __init__(self, size: int, like: Tensor | None = None) -> None:
        super().__init__()
        self.size, self.fill = size, 0
        with torch.inference_mode(False):  # to be written to outside of it too
            ring = torch.empty(0, 3, 0, 0) if like is None else like.new_zeros(size, *like.shape[1:])
            self.register_buffer("ring", ring, persistent=False)
            self.register_buffer("end", torch.zeros((), dtype=torch.long, device=ring.device), persistent=False)

    def takes(self, images: Tensor) -> bool:
        """Return whether it holds images of this shape, type and device."""
        mine = self.ring
        return (mine.shape[1:], mine.dtype, mine.device) == (images.shape[1:], images.dtype, images.device)

    @property
    def filling(self) -> bool:
        """Whether there is room for more images."""
        return self.fill < self.size

    @property
    def images(self) -> Tensor:
        """(fill,3,H,W), the oldest first; a copy."""
        return self.ring[self._places(self.end - self.fill, self.fill)]

    def followed_by(self, images: Tensor) -> Tensor:
        """Return what it will hold with images (B,3,H,W); these themselves where that is all."""
        left = min(self.fill, self.size - len(images))
        if left < 0:
            return images[-self.size :]
        return torch.cat([self.ring[self._places(self.end - left, left)], images]) if left else images

    def add(self, images: Tensor, good: Tensor) -> None:
        """Take the last of images (B,3,H,W) in, in place of the oldest.

        Args:
            images: of the shape, type and device.
            good: () bool, whether they enter; as long as there is room for more, they must.
        """
        entering = images[-self.size :]
        places = self._places(self.end, len(entering))
        self.ring[places] = torch.where(good, entering, self.ring[places])
        self.end.copy_((self.end + good * len(entering)) % self.size)
        self.fill = min(self.size, self.fill + len(entering))

    def _places(self, first: Tensor, count: int) -> Tensor:
        return (first + torch.arange(count, device=first.device)) % self.size
