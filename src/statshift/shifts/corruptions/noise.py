"""Gaussian, shot, impulse and speckle noise: independent values per pixel and channel."""

import math

import numpy as np
import torch
from torch import Tensor

from statshift._core.randomness import Draws, bits
from statshift.shifts.corruptions.corruption import corruption
from statshift.shifts.corruptions.filters import Array, on_device


@corruption
def gaussian_noise(images: Tensor, draws: Draws, *, sigma: float) -> Tensor:
    """Add N(0, sigma) to every value."""
    return draws.normal("noise", *images.shape[1:]).mul_(sigma).add_(images)


@corruption
def speckle_noise(images: Tensor, draws: Draws, *, sigma: float) -> Tensor:
    """Add N(0, sigma) times the value itself."""
    return draws.normal("noise", *images.shape[1:]).mul_(sigma).add_(1).mul_(images)


@corruption
def impulse_noise(images: Tensor, draws: Draws, *, amount: float) -> Tensor:
    """Replace a share `amount` of the values, half of them by 1 and half by 0."""
    field = draws.uniform("noise", *images.shape[1:])
    return torch.where(field < amount / 2, 1.0, torch.where(field < amount, 0.0, images))


@corruption
def shot_noise(images: Tensor, draws: Draws, *, photons: float) -> Tensor:
    """Replace every value x by a Poisson(x * photons) count / photons.

    Counts come from Walker's alias tables (ACM TOMS 1977), one for each of the 256 levels of an 8-bit image: a
    uniform column, then that column's own count or its alias. Differs: a value between two levels takes the rate
    of the nearest.
    """
    table = _poisson_aliases(images.device, photons)
    column_bits = (table.numel() // 256).bit_length() - 1
    field = bits(draws.keys("noise"), images[0].numel())
    column = (field >> (32 - column_bits)).bitwise_and_((1 << column_bits) - 1)
    level = (images.flatten(1) * 255).round_().int()
    level.bitwise_left_shift_(column_bits).bitwise_or_(column)
    entry = table.index_select(0, level.flatten()).view(level.shape)
    own = field.bitwise_and_((1 << _SHARE_BITS) - 1) < entry >> _COUNT_BITS
    counts = torch.where(own, column, entry.bitwise_and_((1 << _COUNT_BITS) - 1))
    return (counts / photons).view(images.shape)


_SHARE_BITS = 19  # resolution of a column's own share; with the counts it fits an int32 beside the sign
_COUNT_BITS = 11  # counts below 2048: rates up to about 1700


@on_device
def _poisson_aliases(photons: float) -> np.ndarray:
    """Return (256 * columns,) int32: for each level and column, its own share and its alias."""
    columns = 1 << math.ceil(math.log2(photons + 8 * math.sqrt(photons) + 12))
    entries = np.zeros((256, columns), dtype=np.int64)
    counts = np.arange(columns)
    log_factorials = np.array([math.lgamma(count + 1) for count in counts])
    for level in range(256):
        rate = level / 255 * photons
        weights = np.exp(counts * math.log(rate) - rate - log_factorials) if level else np.eye(1, columns)[0]
        share, alias = _alias_table(weights / weights.sum() * columns)
        entries[level] = (share * (1 << _SHARE_BITS)).round().astype(np.int64) << _COUNT_BITS | alias
    return entries.astype(np.int32).ravel()


def _alias_table(weights: Array) -> tuple[Array, np.ndarray]:
    """Return Vose's alias table of weights that average 1: each column's own share, and its alias."""
    share, alias = weights.copy(), np.arange(len(weights))
    small = [i for i, weight in enumerate(weights) if weight < 1]
    large = [i for i, weight in enumerate(weights) if weight >= 1]
    while small and large:
        low, high = small.pop(), large[-1]
        alias[low] = high
        share[high] -= 1 - share[low]
        if share[high] < 1:
            small.append(large.pop())
    share[small + large] = 1
    return share, alias
