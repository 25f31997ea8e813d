"""Waves and clouds added to the image: single frequencies, rings, plasma and Perlin's noise."""

import math

import numpy as np
import torch
from torch import Tensor

from statshift._core.randomness import Draws
from statshift.shifts.bar.corruption import axes, bar_corruption, plane
from statshift.shifts.corruptions.filters import Array, on_device

_OCTAVES = (1, 2, 4, 8, 16)


@bar_corruption
def single_frequency_greyscale(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Add one sine wave of amplitude 19.6 level / 255.

    One of its two frequencies is uniform within pi radians a pixel, the other within the first's magnitude. They do
    not grow with the image: they are all that its pixels can show.
    """
    larger = draws.uniform("larger", low=-math.pi, high=math.pi).double()
    smaller = draws.uniform("smaller", low=-1.0).double() * larger.abs()
    swapped = draws.uniform("order") < 0.5
    across, down = torch.where(swapped, smaller, larger), torch.where(swapped, larger, smaller)
    rows, columns = axes(images)
    y = rows.double() * plane(down) + plane(draws.uniform("phase", high=2 * math.pi))
    x = columns.double() * plane(across)
    wave = (y.sin().float() * x.cos().float()).addcmul_(y.cos().float(), x.sin().float())  # the sine of x + y
    return images.add(wave[:, None], alpha=19.6 * level / 255)


@bar_corruption
def cocentric_sine_waves(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Add rings about a point, saw-toothed from -1/2 to 1/2, of amplitude 12.8 level / 255.

    The point is uniform in the image; the rings' width, and how far a sine of the angle moves them, are uniform up to
    a tenth of the side; that sine's frequency is uniform up to 10.
    """
    height, width = images.shape[-2:]
    rows, columns = axes(images)
    x = columns - plane(draws.uniform("column", high=width))
    y = rows - plane(draws.uniform("row", high=height))
    angle = torch.atan2(x, y).mul_(plane(draws.uniform("frequency", high=10.0)))
    moved = angle.sin_().mul_(plane(draws.uniform("amplitude", high=side / 10)))
    ring = plane(draws.uniform("width", high=side / 10))
    rings = moved.add_((x * x + y * y).sqrt_()).remainder_(ring).div_(ring).sub_(0.5)
    return images.add(rings[:, None], alpha=12.8 * level / 255)


@bar_corruption
def plasma_noise(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Blend in coloured plasma by 6.4 level / 255: sines of a place that 4 to 6 sums of sines have moved."""
    time = plane(draws.uniform("time", high=6 * math.pi))
    turns = plane(draws.integers("iterations", low=4, high=7))
    damping = 2.25 - plane(draws.uniform("sharpness", low=0.5))
    scale = plane(draws.uniform("scale", low=0.075, high=0.2)) * side
    rows, columns = axes(images)
    x, y = (columns / scale).repeat(1, len(rows), 1), (rows / scale).repeat(1, 1, columns.shape[1])
    first, second = torch.empty_like(x), torch.empty_like(y)
    frequency, slowness, strength = 1.0, 1.0, torch.ones_like(damping)
    for turn in range(6):
        torch.mul(y, frequency, out=first).add_(time / slowness).cos_()
        torch.mul(x, frequency, out=second).add_(time / slowness).sin_()
        share = torch.where(turn < turns, 1 / strength, 0.0)
        x.addcmul_(first, share).addcmul_(second, share, value=-0.3)
        y.addcmul_(second, share).addcmul_(first, share, value=0.3)
        frequency, slowness, strength = frequency * 1.93, slowness * 1.15, strength * damping
    green = torch.add(x, y, out=first).add_(time.sin()).mul_(0.5)
    colours = torch.stack([x.sub_(time), green, y.add_(time)], dim=1)
    amount = 6.4 * level / 255
    return colours.sin_().mul_(amount).add_(images, alpha=1 - amount)


@bar_corruption
def perlin_noise(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Blend in Perlin's turbulence by 0.05 level: five octaves of cells, the widest a seventh of the side.

    Differs: a cell's corner has a gradient of its own, where the authors' table of 256 repeats some.
    """
    height, width = images.shape[-2:]
    spacing = side / 7
    corners = [int((length - 1) * _OCTAVES[-1] / spacing) + 2 for length in (height, width)]
    gradients = draws.uniform("gradients", 2, *corners, low=-1.0)
    gradients /= gradients.square().sum(1, keepdim=True).sqrt_()
    total = images.new_zeros(len(images), height, width)
    for octave in _OCTAVES:
        (down, down_off), (across, across_off) = (
            _corner_weights(images.device, length, spacing / octave) for length in (height, width)
        )
        near = gradients[:, :, : down.shape[1], : across.shape[1]]
        noise = down_off @ near[:, 0] @ across.T + down @ near[:, 1] @ across_off.T
        total += noise.abs_().mul_(1.5 / octave)
    alpha = 0.05 * level
    cloud = total.mul_(0.5).add_(0.5).clamp_(0, 1).mul_(alpha)
    return cloud[:, None].add(images, alpha=1 - alpha)


@on_device
def _corner_weights(length: int, spacing: float) -> Array:
    """Return (2, length, corners): each pixel's smooth weights of its two corners, and these times the offsets."""
    places = np.arange(length) / spacing
    cells = places.astype(int)
    offset = places - cells
    smooth = offset**2 * (3 - 2 * offset)
    matrices = np.zeros((2, length, cells[-1] + 2))
    pixels = np.arange(length)
    matrices[0, pixels, cells], matrices[0, pixels, cells + 1] = 1 - smooth, smooth
    matrices[1, pixels, cells], matrices[1, pixels, cells + 1] = (1 - smooth) * offset, smooth * (offset - 1)
    return matrices
