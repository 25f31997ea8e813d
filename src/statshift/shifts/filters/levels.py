"""Arithmetic on 8-bit levels: blend modes, opacity and masks, each rounded as Pillow rounds it.

Levels are whole numbers from 0 to 255 in float32, so that a product of two of them is exact. Choices between two
values are sums here: `torch.where` costs as much as 30 products on some CPUs. A backdrop is what lies
below, an image (B,3,H,W) or all 256 levels of it; a source is what is laid over it, of a shape that broadcasts.

Reference: W3C, "Compositing and Blending Level 1" (2015), sections 5 and 10, for the formulas; ImageChops and
ImageMath of Pillow, by which pilgram computes them, for the rounding.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statshift.shifts.corruptions.filters import on_device

TOP = 255


def cover(backdrop: Tensor, source: Tensor) -> Tensor:
    """Return the source."""
    return source.expand_as(backdrop)


def multiply(backdrop: Tensor, source: Tensor) -> Tensor:
    """Return the product, truncated."""
    return (backdrop * source).div_(TOP).floor_()


def screen(backdrop: Tensor, source: Tensor) -> Tensor:
    """Return the complement of the complements' product."""
    return TOP - multiply(TOP - backdrop, TOP - source)


def darken(backdrop: Tensor, source: Tensor) -> Tensor:
    """Return the darker of both."""
    return torch.minimum(backdrop, source)


def lighten(backdrop: Tensor, source: Tensor) -> Tensor:
    """Return the lighter of both."""
    return torch.maximum(backdrop, source)


def exclusion(backdrop: Tensor, source: Tensor) -> Tensor:
    """Return the screen less the product."""
    return screen(backdrop, source).sub_(multiply(backdrop, source))


def hard_light(backdrop: Tensor, source: Tensor) -> Tensor:
    """Multiply by the source, doubled, where it is dark; screen with it where it is light."""
    doubled = source * 2
    dark = multiply(backdrop, doubled.clamp(max=TOP))  # the backdrop itself where the source is light
    light = screen(backdrop, doubled.sub_(TOP).clamp_(min=0))  # and here where it is dark
    return light.add_(dark).sub_(backdrop)


def overlay(backdrop: Tensor, source: Tensor) -> Tensor:
    """Return hard light of the backdrop over the source."""
    return hard_light(source, backdrop)


def soft_light(backdrop: Tensor, source: Tensor) -> Tensor:
    """Darken or lighten by the source, along the square or the square root of the backdrop."""
    product = (TOP - backdrop).mul_(backdrop).div_(TOP).round_()
    lift = _lift(backdrop.device).index_select(0, backdrop.to(torch.int32).flatten()).view(backdrop.shape)
    dark = (TOP - 2 * source).clamp_(min=0)
    light = (2 * source - TOP).clamp_(min=0)
    light = (light - 1).clamp_(max=1).mul_(light)  # 0 at a source of 128, which counts as dark
    return multiply(light, lift).add_(backdrop).sub_(multiply(dark, product))


@on_device
def _lift() -> NDArray[np.float64]:
    """Return (256,): how far the square root, made gentle near black, lies above each level."""
    share = np.arange(TOP + 1) / TOP
    curve = np.where(share <= 0.25, ((16 * share - 12) * share + 4) * share, np.sqrt(share))
    lift: NDArray[np.float64] = ((curve - share) * TOP).round().clip(0)
    return lift


def color_dodge(backdrop: Tensor, source: Tensor) -> Tensor:
    """Divide by the source's complement."""
    rest = TOP - source
    divided = (backdrop / rest.clamp(min=1)).mul_(TOP).clamp_(max=TOP).floor_()
    return torch.where(rest > 0, divided, (backdrop > 0) * float(TOP))


def color_burn(backdrop: Tensor, source: Tensor) -> Tensor:
    """Divide the complement by the source; by 1 where it is 0, which is black too."""
    return (TOP - backdrop).mul_(TOP).div_(source.clamp(min=1)).floor_().neg_().add_(TOP).clamp_(min=0)


def with_alpha(backdrop: Tensor, blended: Tensor, alpha: Tensor | int) -> Tensor:
    """Lay a blended source over an opaque backdrop, by its alpha, a level; both products are truncated."""
    kept = (backdrop * (TOP - alpha)).div_(TOP).floor_()
    return (blended * alpha).div_(TOP).floor_().add_(kept)


def with_opacity(below: Tensor, above: Tensor, opacity: float) -> Tensor:
    """Return what lies a share in [0,1] of the way from one image to another, truncated."""
    return (above - below).mul_(opacity).add_(below).trunc_()


def composite(inside: Tensor, outside: Tensor, share: Tensor) -> Tensor:
    """Return rounded means, a share in [0,1] of `inside`: a mask's level over 255, so that no mean lies half-way."""
    return torch.lerp(outside, inside, share).add_(0.5).floor_()


def luma(images: Tensor) -> Tensor:
    """Return (B,1,H,W): the luma of images (B,3,H,W) by ITU-R 601-2, in the 16-bit fixed point of Pillow."""
    red, green, blue = images.chunk(3, dim=1)  # every sum below is under 2^24, and so exact
    return (red * 19595).add_(green * 38470).add_(blue * 7471).add_(0x8000).div_(1 << 16).floor_()


def at_luminosity(colour: Tensor, change: Tensor) -> Tensor:
    """Return a colour (B,3,H,W) whose luminosity is changed, clipped along its hue, truncated.

    Args:
        colour: (B,3,H,W), whole or not.
        change: (B,1,H,W), to be added to each channel.

    Reference: W3C, the same, section 9.2: SetLum and ClipColor.
    """
    colour = colour + change
    light = luminosity(colour)
    low, high = colour.amin(dim=1, keepdim=True), colour.amax(dim=1, keepdim=True)
    raised = (colour - low).mul_(light).div_(light - low)
    colour = torch.where(low < 0, raised, colour)
    lowered = (colour - light).mul_(TOP - light).div_(high - light).add_(light)
    return torch.where(high > TOP, lowered, colour).clamp_(0, TOP).floor_()


def luminosity(colour: Tensor) -> Tensor:
    """Return (B,1,H,W): the luminosity of colours (B,3,H,W), not rounded."""
    red, green, blue = colour.chunk(3, dim=1)
    return red * 0.3 + green * 0.59 + blue * 0.11
