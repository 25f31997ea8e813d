"""Gotham, Kelvin, Lomo, Nashville and Toaster as commands of ImageMagick, in the steps that were published for it.

What a command does to an image is computed in float32; what it writes are 8-bit levels. Borders and frames, which the
published filters put around an image, are left out: the image keeps its size and all of its pixels.

Reference: D. Marjanovic, "Create Instagram Filters With PHP" (Nettuts+, 2012), for commands and numbers; ImageMagick 6,
for what -modulate (in HSL), -contrast, -gamma, -auto-gamma, -colorize, -level and radial-gradient compute.
Differs: ImageMagick rounds to 16 bits between the operations of one command. The published Kelvin lacks the word
-composite, and what was meant is done here.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statshift.shifts.corruptions.filters import channels, on_device
from statshift.shifts.filters.filter import Filter
from statshift.shifts.filters.gradients import Colour
from statshift.shifts.filters.levels import TOP
from statshift.shifts.filters.steps import Step

Operation = Callable[[Tensor], Tensor]
"""A function of images (B,3,H,W) in [0,1]; what it returns is clipped."""

_CROP = 1.5  # a vignette is drawn so many times as large as the image, and its centre is cut out
_LEAST = 1e-6


def command(*operations: Operation) -> Step:
    """Return the step of one command: its operations, of which the last is rounded to levels."""

    def done(images: Tensor) -> Tensor:
        images = images / TOP
        for operation in operations:
            images = operation(images).clamp_(0, 1)
        return images.mul_(TOP).round_()

    return done


def modulate(lightness: float, saturation: float) -> Operation:
    """Scale the lightness and the saturation of HSL by shares; the hue stays."""

    def modulated(images: Tensor) -> Tensor:
        high, low = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
        chroma, light = high - low, (high + low) / 2
        place = (images - low) / chroma.clamp(min=_LEAST) - 0.5  # of a channel between both, from -0.5 to 0.5
        scaled = chroma / _widest(light).clamp(min=_LEAST) * saturation
        light = light * lightness
        return light + scaled * _widest(light) * place

    return modulated


def _widest(light: Tensor) -> Tensor:
    """Return the chroma of full saturation at a lightness."""
    return 1 - (2 * light - 1).abs()


def sine_contrast(images: Tensor) -> Tensor:
    """Move the value of HSB half-way to a sine through it, as `-contrast` does."""
    value = images.amax(dim=1, keepdim=True)
    target = (value + 0.5 * (torch.sin(math.pi * (value - 0.5)) + 1)) / 2
    return images * (target / value.clamp(min=_LEAST))


def root(exponent: float) -> Operation:
    """Take the root of this exponent, as `-gamma` does."""
    return lambda images: images ** (1 / exponent)


def auto_gamma(images: Tensor) -> Tensor:
    """Take the power at which the mean of an image, over pixels and channels, would become 0.5."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64).clamp(_LEAST, 1 - _LEAST)
    return images ** (math.log(0.5) / mean.log()).float()


def colorize(share: float, colour: Colour) -> Operation:
    """Go a share of the way to a colour."""
    return lambda images: images * (1 - share) + _paint(images, colour) * share


def level_warm(images: Tensor) -> Tensor:
    """Stretch red and green, whose lower and upper 33 % become 0 and 1."""
    return torch.cat([(images[:, :2] - 0.33) / (1 - 2 * 0.33), images[:, 2:]], dim=1)


def colortone(colour: Colour, negate: bool) -> Operation:
    """Go to a colour by how light the image is, or by how dark."""

    def toned(images: Tensor) -> Tensor:
        red, green, blue = images.chunk(3, dim=1)
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        return torch.lerp(images, _paint(images, colour).expand_as(images), 1 - grey if negate else grey)

    return toned


def tint(colour: Colour, alpha: float) -> Operation:
    """Multiply by a colour, with an alpha in [0,1]."""
    return lambda images: images * (1 - alpha * (1 - _paint(images, colour)))


def vignette(colour: Colour, outwards: bool) -> Operation:
    """Multiply by a colour, opaque at the centre and clear at the edge of a circle, or the other way round."""

    def darkened(images: Tensor) -> Tensor:
        distance = _distance(images.device, *images.shape[-2:])
        alpha = distance if outwards else 1 - distance
        return images * (1 - alpha * (1 - _paint(images, colour)))

    return darkened


def _paint(images: Tensor, colour: Colour) -> Tensor:
    return channels(images.device, *(value / TOP for value in colour))


@on_device
def _distance(height: int, width: int) -> NDArray[np.float64]:
    """Return (H,W): how far out a pixel lies, 1 at half of the longer side of what a vignette is drawn on."""
    tall, wide = int(height * _CROP), int(width * _CROP)
    rows = np.arange(height)[:, None] + (tall - height) // 2 - tall / 2
    columns = np.arange(width) + (wide - width) // 2 - wide / 2
    distance: NDArray[np.float64] = np.hypot(rows, columns) / (max(tall, wide) / 2)
    return distance.clip(0, 1)


_NAVY, _MAROON, _SAND = (0x22, 0x2B, 0x6D), (0x33, 0, 0), (0xF7, 0xDA, 0xAE)
_ORANGE, _PEACH, _LAVENDER_BLUSH3, _BLACK = (255, 153, 0), (0xFF, 0x99, 0x66), (205, 193, 197), (0, 0, 0)

gotham_im = Filter(
    "gotham-im", (command(modulate(1.2, 0.1), colorize(0.2, _NAVY), root(0.5), sine_contrast, sine_contrast),)
)
kelvin_im = Filter("kelvin-im", (command(auto_gamma, modulate(1.2, 0.5), tint(_ORANGE, 0.5)),))
lomo_im = Filter("lomo-im", (command(level_warm), command(vignette(_BLACK, outwards=True))))
nashville_im = Filter(
    "nashville-im",
    (
        command(colortone(_NAVY, negate=True)),
        command(colortone(_SAND, negate=False)),
        command(sine_contrast, modulate(1.0, 1.5), auto_gamma),
    ),
)
toaster_im = Filter(
    "toaster-im",
    (
        command(colortone(_MAROON, negate=True)),
        command(modulate(1.5, 0.8), root(1.2), sine_contrast, sine_contrast),
        command(vignette(_LAVENDER_BLUSH3, outwards=True)),
        command(vignette(_PEACH, outwards=False)),
    ),
)
