"""Each image decoded once: what is kept is read, and only what is missing is decoded."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statshift.data.cache import PixelCache
from statshift.data.pixelfile import PixelFile

UNKEPT_AHEAD = 2
"""Batches that nothing keeps, decoded while another process's images are waited for."""

PAUSE_SECONDS = 0.002


def read_once(
    cache: PixelCache | PixelFile,
    places: NDArray[np.int64],
    groups: Sequence[NDArray[np.int64]],
    read: Callable[[Iterable[NDArray[np.int64]]], Iterator[Tensor]],
) -> Iterator[Tensor]:
    """Yield the images (B,3,H,W) of each group of positions (B,), in order; decode those alone that `cache` lacks.

    An image that another process is decoding is waited for, and later ones are decoded meanwhile.

    Args:
        cache: what is kept.
        places: (N,) int64, by which the cache knows each of the N positions.
        groups: positions.
        read: takes positions batch by batch, asked for when they are to be decoded, and yields the images of each.
    """
    taken: deque[tuple[int, NDArray[np.bool_]]] = deque()  # which images of which group are being decoded
    parts: dict[int, list[tuple[NDArray[np.bool_], Tensor]]] = {}  # and those that are decoded

    def missing() -> Iterator[NDArray[np.int64]]:
        for number, group in enumerate(groups):
            own = ~cache.has(places[group])
            if own.any() and (own := own & ~cache.claimed(places[group])).any():
                cache.claim(places[group[own]])
                taken.append((number, own))
                yield group[own]

    decoded = read(missing())
    try:
        for number, group in enumerate(groups):
            while (lacking := _lacking(cache.has(places[group]), parts.get(number, []))).any():
                if len(parts) < UNKEPT_AHEAD and (images := next(decoded, None)) is not None:
                    of, own = taken.popleft()
                    if not cache.put(places[groups[of][own]], images) or of == number:
                        parts.setdefault(of, []).append((own, images))
                elif cache.claimed(places[group[lacking]]).all():
                    time.sleep(PAUSE_SECONDS)
                else:  # who claimed them has gone
                    images = next(read([group[lacking]]))
                    cache.put(places[group[lacking]], images)
                    parts.setdefault(number, []).append((lacking, images))
            yield _joined(cache, places[group], parts.pop(number, []))
    finally:
        for of, own in taken:
            cache.release(places[groups[of][own]])


def _lacking(kept: NDArray[np.bool_], parts: list[tuple[NDArray[np.bool_], Tensor]]) -> NDArray[np.bool_]:
    lacking = ~kept
    for own, _ in parts:
        lacking &= ~own
    return lacking


def _joined(
    cache: PixelCache | PixelFile, places: NDArray[np.int64], parts: list[tuple[NDArray[np.bool_], Tensor]]
) -> Tensor:
    """Return the images of a group from what was decoded of it now, and the others from the cache."""
    if not parts:
        return cache.get(places)
    if len(parts) == 1 and parts[0][0].all():
        return parts[0][1]
    images = torch.empty((len(places), *parts[0][1].shape[1:]), dtype=torch.uint8)
    others = np.ones(len(places), bool)
    for own, some in parts:
        images[torch.from_numpy(own)] = some
        others &= ~own
    if others.any():
        images[torch.from_numpy(others)] = cache.get(places[others])
    return images
