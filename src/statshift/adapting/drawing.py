"""Which images a measurement adapts on, draw by draw, and in which batches a stream and a whole set come."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statshift._core.errors import InputError
from statshift._core.randomness import keys, uniform
from statshift.data import ImageData


def adaptation_positions(indices: NDArray[np.int64], samples: int, seed: int, draw: int) -> NDArray[np.int64]:
    """Return the ascending positions of the images that a draw adapts on; a smaller sample lies in every larger one.

    Args:
        indices: (N,), the images' places in the whole data set.
        samples: how many, at most N.
        seed: seed of the run.
        draw: its number, from 0.

    Raises:
        InputError: fewer images than samples.
    """
    if not 1 <= samples <= len(indices):
        raise InputError(f"Expected `samples` from 1 to the {len(indices)} images, but got {samples}.")
    return np.sort(_order(indices, seed, f"adaptation draw {draw}")[:samples])


def draw_images(data: ImageData, samples: int, seed: int = 0, draw: int = 0) -> Tensor:
    """Return the images (n,3,H,W) in [0,1] that a draw adapts on; see `adaptation_positions` and `together`."""
    alike = data.alike(adaptation_positions(data.indices, samples, seed, draw))
    return together([images for images, _ in data.groups(alike)], alike).float() / 255


def together(parts: Sequence[Tensor], positions: Sequence[NDArray[np.int64]]) -> Tensor:
    """Return images (b,3,h,w) of one size each as one batch (B,3,H,W), in the order of their positions (b,).

    Of several sizes they are the centres, as large as all of them are: nothing is resized, which would move the
    statistics.
    """
    if len(parts) == 1:
        return parts[0]
    height, width = (min(part.shape[axis] for part in parts) for axis in (2, 3))
    corners = [((part.shape[2] - height) // 2, (part.shape[3] - width) // 2) for part in parts]
    centres = [
        part[..., top : top + height, left : left + width] for part, (top, left) in zip(parts, corners, strict=True)
    ]
    return torch.cat(centres)[torch.from_numpy(np.concatenate(positions).argsort())]


FULL_BATCH = 64
"""Images that "full" takes at once."""

LARGE = 4 * 224**2
"""Pixels; of larger images fewer go at once."""


def full_batches(images: int, size: int = FULL_BATCH) -> list[NDArray[np.int64]]:
    """Return the positions of each batch in which "full" goes through all images; a short last one joins its like."""
    return np.split(np.arange(images), np.arange(size, images - size + 1, size))


def whole_batches(data: ImageData) -> list[NDArray[np.int64]]:
    """Return `full_batches` of a set: of images of one size each, and of larger ones than photographs fewer."""
    groups = data.alike(np.arange(len(data)))
    pixels = [int(data.sizes[group[0]].prod()) for group in groups]
    sizes = [max(1, min(FULL_BATCH, FULL_BATCH * LARGE // one)) for one in pixels]
    return [group[part] for group, size in zip(groups, sizes, strict=True) for part in full_batches(len(group), size)]


def shuffled_batches(indices: NDArray[np.int64], size: int, seed: int, draw: int) -> list[NDArray[np.int64]]:
    """Return the positions of each batch of a shuffled stream; a short last batch joins the one before.

    Args: as in `adaptation_positions`.

    Raises:
        InputError: fewer images than one batch.
    """
    if not 1 <= size <= len(indices):
        raise InputError(f"Expected batches of 1 to the {len(indices)} images, but got {size}.")
    order = _order(indices, seed, f"stream draw {draw}")
    starts = np.arange(size, len(order) - size + 1, size)
    return np.split(order, starts)


def _order(indices: NDArray[np.int64], seed: int, purpose: str) -> NDArray[np.int64]:
    draws = uniform(keys(seed, torch.from_numpy(indices), purpose), 1)
    return draws[:, 0].argsort(stable=True).numpy()
