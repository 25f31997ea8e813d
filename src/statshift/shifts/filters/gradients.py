"""Masks and gradients of a size, as pilgram and pilgram2 draw them; each is kept per size and device.

A mask is (H,W) levels, 255 where the first of two images or colours stands alone. A gradient is (3,H,W), or (4,H,W)
with its alpha.

Reference: the packages pilgram 2.0.0 and pilgram2 2.0.10 (Apache 2.0).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from statshift.shifts.corruptions.filters import on_device
from statshift.shifts.filters.levels import TOP

Levels = NDArray[Any]
Colour = tuple[float, ...]
"""Red, green and blue as levels, and an alpha in [0,1] where it is not opaque."""
Stop = tuple[float, Colour]
Draw = Callable[..., Levels]
"""Draws a mask of a height, a width and numbers of its own."""
_DRAWN = 256  # px, the side of the gradients that Pillow has ready


def levels_of(colour: Colour) -> tuple[float, ...]:
    """Return a colour with its alpha, where it has one, as a level too."""
    return (*colour[:3], *(round(alpha * TOP) for alpha in colour[3:]))


def radial(
    height: int, width: int, length: float = 0.0, scale: float = 1.0, centre: tuple[float, float] = (0.5, 0.5)
) -> Levels:
    """Return the mask of a circle that ends at the farthest corner.

    Args:
        height: px.
        width: px.
        length: how far it is full, as a share of the way to the corner.
        scale: where it ends, likewise.
        centre: (x,y), as shares of the sides.
    """
    if length == 0 and scale >= 1 and width == height and centre == (0.5, 0.5):
        return _resized_radial(width, scale)
    left, top = width * centre[0], height * centre[1]
    right, bottom = width * (1 - centre[0]), height * (1 - centre[1])
    columns = np.linspace(-left, right, width)
    rows = np.linspace(-top, bottom, height)[:, None]
    distance = np.sqrt(columns**2 + rows**2) / math.hypot(max(left, right), max(top, bottom))
    mask = 1 - (distance - length) / max(scale - length, 0.001)
    mask = (mask * TOP).clip(0, TOP).round()
    return np.asarray(mask)


def _resized_radial(side: int, scale: float) -> Levels:
    """Return the mask of a square, which the packages enlarge from Pillow's own."""
    drawn = Image.fromarray(TOP - np.asarray(Image.radial_gradient("L")))
    inset = round((_DRAWN - _DRAWN / scale) / 2)
    box = (inset, inset, _DRAWN - inset, _DRAWN - inset)
    return np.asarray(drawn.resize((side, side), box=box), dtype=np.float64)


def downwards(height: int, width: int) -> Levels:
    """Return pilgram's mask from the top, where it is full, to the bottom."""
    return np.asarray(_resized_linear(height, width, 0.0), dtype=np.float64)


def turned(height: int, width: int, start: float) -> Levels:
    """Return pilgram's mask from the left to the right.

    It is one from the top to the bottom, from which a share is cut off, turned by 90 degrees. Where the sides differ
    it covers a square in the middle at most, and is empty beside it.
    """
    return np.asarray(_resized_linear(height, width, start).rotate(90), dtype=np.float64)


def _resized_linear(height: int, width: int, start: float) -> Image.Image:
    drawn = Image.fromarray(TOP - np.asarray(Image.linear_gradient("L")))
    return drawn.resize((width, height), box=(0, round(_DRAWN * start), _DRAWN, _DRAWN))


def rightwards(height: int, width: int, start: float) -> Levels:
    """Return pilgram2's mask from the left, where it is a share of full, to the right, truncated."""
    return np.linspace(start * TOP, 0, num=width).astype(np.uint8).astype(np.float64)[None].repeat(height, axis=0)


@on_device
def mask(draw: Draw, height: int, width: int, *arguments: Any) -> Levels:
    """Return (H,W) in [0,1]: the mask that one of these functions draws, `draw(height, width, *arguments)`."""
    return draw(height, width, *arguments) / TOP


@on_device
def linear_gradient(height: int, width: int, top: Colour, bottom: Colour) -> Levels:
    """Return (3,H,W): pilgram's gradient from the colour at the top to that at the bottom."""
    return _between(top, bottom, downwards(height, width))


@on_device
def radial_gradient(height: int, width: int, stops: Sequence[Stop]) -> Levels:
    """Return (3 or 4,H,W): a gradient from the centre outwards, of colours at shares of the way to the corner."""
    (position, colour), *others = stops
    drawn: Levels | Colour = colour
    for end, outer in others:
        drawn = _between(drawn, outer, radial(height, width, position, end))
        position = end
    return np.asarray(drawn)


def _between(first: Levels | Colour, second: Colour, mask: Levels) -> Levels:
    inside = first if isinstance(first, np.ndarray) else _flat(first)
    mixed = inside * mask + _flat(second) * (TOP - mask)
    return np.asarray(np.floor(mixed / TOP + 0.5))


def _flat(colour: Colour) -> Levels:
    return np.array(levels_of(colour), dtype=np.float64)[:, None, None]
