"""What a lens and a turning camera do: colours of different sizes, and blur about the centre."""

import math
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from statshift._core.randomness import Draws
from statshift.shifts.bar.corruption import bar_corruption
from statshift.shifts.corruptions.filters import Array, on_device

_TURNS = 21  # images that the blur is the mean of
_ORDERS = list(permutations(range(3)))


@bar_corruption
def transverse_chromatic_abberation(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Enlarge the colours by 1, 1 + 0.025 level and 1 + 0.05 level, in an order that is drawn, and keep the centre.

    As in the authors' code, values are smoothed by a cubic B-spline, the first colour's too, and rounded to 8 bits.
    """
    height, width = images.shape[-2:]
    factors = [1 + 0.025 * level * step for step in range(3)]
    order = torch.tensor(_ORDERS, device=images.device)[draws.integers("order", low=0, high=6)]
    places = order[:, :, None, None].expand_as(images)
    sized = images.mul(255).gather(1, places)  # the colour that each factor enlarges
    for step, factor in enumerate(factors):
        down = _enlarging(images.device, height, factor)
        across = _enlarging(images.device, width, factor)
        sized[:, step] = down @ (sized[:, step] @ across.T)
    levels = sized.add_(0.5 + 2**-10).floor_().div_(255)
    return torch.empty_like(images).scatter_(1, places, levels)


@on_device
def _enlarging(side: int, factor: float) -> Array:
    """Return (side, side): a line's centre enlarged, its ends on the ends, read by cubic B-splines, mirrored."""
    whole = round(side * factor)
    places = (np.arange(side) + (whole - side) // 2) * ((side - 1) / (whole - 1))
    low = np.minimum(places.astype(int), side - 1)
    matrix = np.zeros((side, side))
    for tap, weights in enumerate(_spline(places - low)):
        column = np.abs(low - 1 + tap)
        np.add.at(matrix, (np.arange(side), np.minimum(column, 2 * (side - 1) - column)), weights)
    return matrix


def _spline(offset: Any) -> list[Any]:
    """Return the weights of the four values around a place, `offset` past the second, of a cubic B-spline."""
    rest = 1 - offset
    return [rest**3 / 6, 2 / 3 - offset**2 + offset**3 / 2, 2 / 3 - rest**2 + rest**3 / 2, offset**3 / 6]


@bar_corruption
def circular_motion_blur(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Average 21 turns within 1.5 level degrees either way, weighted exp(-2 (turn / largest)**2); beyond is black.

    Turns are read by interpolating cubic splines, mirrored at the borders.
    """
    height, width = images.shape[-2:]
    splines = _spline_values(images.device, height) @ images @ _spline_values(images.device, width).T
    padded = F.pad(splines.flatten(0, 1)[None], (1, 2, 1, 2), mode="reflect")[0]
    values = padded.flatten(1).T.contiguous()  # a row for each place, since all are read at the same ones
    taps = torch.arange(4, dtype=torch.int32, device=images.device)
    taps = (taps[:, None] * padded.shape[-1] + taps).flatten()
    total = values.new_zeros(height * width, values.shape[1])
    shares = [2 * turn / (_TURNS - 1) - 1 for turn in range(_TURNS)]
    weights = [math.exp(-2 * share**2) for share in shares]
    for share, weight in zip(shares, weights, strict=True):
        rows, columns, inside = _turned(images, math.radians(share * 1.5 * level))
        down, across = (torch.stack(_spline(place.frac()), -1).float() for place in (rows, columns))
        down *= (inside * (weight / sum(weights)))[..., None]
        first = (rows.int() * padded.shape[-1] + columns.int()).flatten()
        around = (down[..., :, None] * across[..., None, :]).view(-1, 16)
        total += F.embedding_bag(first[:, None] + taps, values, per_sample_weights=around, mode="sum")
    return total.T.reshape(images.shape)


def _turned(images: Tensor, angle: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows and columns (H,W) where an image turned about its centre is read, and 1 where that is inside."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, dtype=torch.float64, device=images.device)[:, None] - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float64, device=images.device) - (width - 1) / 2
    y = rows * math.cos(angle) + columns * math.sin(angle) + (height - 1) / 2
    x = columns * math.cos(angle) - rows * math.sin(angle) + (width - 1) / 2
    inside = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
    return y.clamp(0, height - 1), x.clamp(0, width - 1), inside.double()


@on_device
def _spline_values(side: int) -> Array:
    """Return (side, side): from a line's values to those of the cubic B-spline through them, mirrored."""
    through = np.zeros((side, side))
    places = np.arange(side)
    np.add.at(through, (places, places), 2 / 3)
    for neighbour in (np.abs(places - 1), np.minimum(places + 1, 2 * (side - 1) - places - 1)):
        np.add.at(through, (places, neighbour), 1 / 6)
    values = np.linalg.inv(through)
    return np.where(np.abs(values) > 1e-12, values, 0.0)  # far from the diagonal float32 has only denormal numbers
