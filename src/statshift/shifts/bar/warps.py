"""Pixels read from elsewhere: ripples, whirls, and light through moving water."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from statshift._core.randomness import Draws
from statshift.shifts.bar.corruption import axes, bar_corruption, plane
from statshift.shifts.corruptions.filters import gaussian_blur


@bar_corruption
def ripple(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Move rows and columns by sines of amplitude 0.0025 level and wavelength 0.1 to 0.3 of the side."""
    waves = draws.uniform("wavelengths", 2, low=0.1, high=0.3) * side
    phases = draws.uniform("phases", 2, high=2 * math.pi)
    moved = [
        axis + (axis * plane(2 * math.pi / waves[:, which]) + plane(phases[:, which])).sin_() * (0.0025 * level * side)
        for which, axis in enumerate(axes(images))
    ]
    return _read(images, *moved)


@bar_corruption
def pinch_and_twirl(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Pinch and turn the disks of a grid: 3 to the side below 64 px and 5 from there, each one way or the other.

    A place at the share d of a disk's radius is read at d sin(pi d / 2)**-(0.04 level + 0.1), turned by
    pi / 20 level (1 - d)**2.
    """
    height, width = images.shape[-2:]
    cell = int(side) // (3 if side < 64 else 5)
    radius = cell / 2
    rows, columns = axes(images)
    y, x = rows % cell - radius, columns % cell - radius
    distance = (y * y + x * x).sqrt()
    cells = height // cell, width // cell
    whole = (rows < cells[0] * cell) & (columns < cells[1] * cell)
    within = whole & (distance <= radius) & (distance > 0)
    share = torch.where(within, distance / radius, 1.0)
    pinch = (share * (math.pi / 2)).sin_().pow_(-(0.04 * level + 0.1))
    turn = (1 - share).square_().mul_(math.pi / 20 * level)
    ways = torch.where(draws.uniform("ways", *cells) < 0.5, -1.0, 1.0)
    way = ways[:, (rows // cell).clamp(max=cells[0] - 1).long(), (columns // cell).clamp(max=cells[1] - 1).long()]
    cosine, sine = turn.cos(), turn.sin() * way
    moved_y = rows - y + (y * cosine - x * sine) * pinch
    moved_x = columns - x + (y * sine + x * cosine) * pinch
    return torch.where(within, _read(images, moved_y, moved_x), images)


@bar_corruption
def caustic_refraction(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Look through a surface of caustics of index 4, smoothed by a pixel at 224 px, and lit from a side by 0.2 level.

    Places move by 0.05 level of the side; where the surface is all but flat they do not.
    """
    caustics = gaussian_blur(_caustics(images, draws, side), side / 224, edge="reflect")
    padded = F.pad(caustics * (side / 224), (1, 1, 1, 1))  # slopes are those of 224 px
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    slope = down * down + across * across
    flatness = (slope + 1).rsqrt_()  # the cosine of the surface's angle
    sine_squared = 1 - flatness * flatness
    bent = (1 - sine_squared / 16).sqrt_().sub_(flatness / 4).mul_(flatness).mul_(0.05 * level * side)
    rows, columns = axes(images)
    seen = _read(images, rows + bent * down, columns + bent * across)
    return torch.where((flatness < 1 - 1e-3)[:, None], seen, images) + (down - across)[:, None] * (0.2 * level)


def _caustics(images: Tensor, draws: Draws, side: float) -> Tensor:
    """Return (B,H,W) in [0,1]: the light on a pool's ground, by a known shader's five turns."""
    time = draws.uniform("time", low=0.5, high=2.0)
    scale = plane(2 * math.pi / (draws.uniform("size", low=0.75, high=1.25) * side))
    rows, columns = axes(images)
    places = [(axis * scale) % (2 * math.pi) - 250 for axis in (rows, columns)]
    starts = [place + 80 * math.pi for place in places]  # the same angle, of a size that float32 holds better
    y, x = starts
    total = images.new_ones(len(images), *images.shape[-2:])
    for turn in range(1, 6):
        moment = plane(time * (1 - 3.5 / turn))
        y, x = (
            ((moment - y).cos_() + (moment + x).sin_()).add_(starts[0]),
            ((moment - x).sin_() + (moment + y).cos_()).add_(starts[1]),
        )
        first, second = (y + moment).sin_(), (x + moment).cos_()
        torch.div(places[0], first, out=first)
        torch.div(places[1], second, out=second)
        total.add_(first.square_().addcmul_(second, second).rsqrt_(), alpha=200)
    return total.div_(5).pow_(1.4).sub_(1.17).square_().square_().square_().clamp_(0, 1)


def _read(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Read (B,C,H,W) images bilinearly at pixel coordinates that broadcast to (B,H,W); beyond the borders is black."""
    height, width = images.shape[-2:]
    grid = images.new_empty(len(images), height, width, 2)
    grid[..., 0] = columns * (2 / (width - 1)) - 1
    grid[..., 1] = rows * (2 / (height - 1)) - 1
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=True)
