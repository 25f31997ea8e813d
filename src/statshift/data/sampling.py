"""Which images: seeded, class-balanced subsets."""

import numpy as np
from numpy.typing import NDArray

from statshift._core.errors import InputError


def balanced_subset(labels: NDArray[np.int64], limit: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the ascending indices of `limit` images, as many of each class as of any other, or one more.

    A smaller subset lies in every larger one of the same seed. A class with too few images gives all it has.

    Args:
        labels: (N,...); images with the same are of one class.
        limit: number of images; N where it is larger.
        seed: seed of the draw.

    Raises:
        InputError: `limit` under 1.
    """
    if limit < 1:
        raise InputError(f"Expected `limit` to be at least 1, but got {limit}.")
    labels = np.unique(labels.reshape(len(labels), -1), axis=0, return_inverse=True)[1].reshape(-1)
    order = np.random.default_rng(seed % 2**64).permutation(len(labels))
    by_class = np.argsort(labels[order], kind="stable")
    grouped = labels[order][by_class]
    place_in_class = np.empty(len(labels), np.int64)
    place_in_class[by_class] = np.arange(len(labels)) - np.searchsorted(grouped, grouped)
    chosen = order[np.argsort(place_in_class, kind="stable")[:limit]]
    return np.sort(chosen).astype(np.int64)
