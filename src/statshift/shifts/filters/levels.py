"""Arithmetic on 8-bit levels: blend modes, opacity and masks, each rounded as Pillow rounds it.

Levels are whole numbers from 0 to 255 in float32, so that a product of two of them is exact. A backdrop is what lies
below, an image (B,3,H,W) or all 256 levels of it; a source is what is laid over it, of a shape that broadcasts.

Reference: W3C, "Compositing and Blending Level 1" (2015), sections 5 and 10, for the formulas; ImageChops and
ImageMath of Pillow, by which pilgram computes them, for the rounding.
"""

import torch
from torch import Tensor

TOP = 255


def normal(backdrop: Tensor, source: Tensor) -> Tensor:
    """Return the source."""
    return source.expand_as(backdrop)


def multiply(backdrop: Tensor, source: Tensor) -> Tensor:
    """Return the product, truncated."""
    return (backdrop * source).div_(TOP).floor_()


def screen(backdrop: Tensor, source: Tensor) -> Tensor:
    """Return the complement of the complements' product."""
    return multiply(TOP - backdrop, TOP - source).neg_().add_(TOP)


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
    dark = multiply(backdrop, doubled.clamp(max=TOP))
    light = screen(backdrop, doubled.sub_(TOP).clamp_(min=0))
    return torch.where(source < 128, dark, light)


def overlay(backdrop: Tensor, source: Tensor) -> Tensor:
    """Return hard light of the backdrop over the source."""
    return hard_light(source, backdrop)


def soft_light(backdrop: Tensor, source: Tensor) -> Tensor:
    """Darken or lighten by the source, along the square or the square root of the backdrop."""
    share = backdrop / TOP
    product = (backdrop * (1 - share)).round_()
    curve = torch.where(share <= 0.25, ((16 * share - 12) * share + 4) * share, share.sqrt())
    lift = (curve - share).mul_(TOP).round_().clamp_(min=0)
    doubled = source * 2
    dark = backdrop - multiply((TOP - doubled).clamp_(min=0), product)
    light = backdrop + multiply((doubled - TOP).clamp_(min=0), lift)
    return torch.where(source <= 128, dark, light).clamp_(0, TOP)


def color_dodge(backdrop: Tensor, source: Tensor) -> Tensor:
    """Divide by the source's complement."""
    rest = TOP - source
    divided = (backdrop / rest.clamp(min=1)).mul_(TOP).clamp_(max=TOP).floor_()
    return torch.where(rest > 0, divided, (backdrop > 0) * float(TOP))


def color_burn(backdrop: Tensor, source: Tensor) -> Tensor:
    """Divide the complement by the source."""
    divided = ((TOP - backdrop) * TOP).div_(source.clamp(min=1)).floor_().neg_().add_(TOP).clamp_(min=0)
    divided = torch.where(source > 0, divided, 0.0)
    return torch.where(backdrop == TOP, float(TOP), divided)


def with_alpha(backdrop: Tensor, blended: Tensor, alpha: Tensor | int) -> Tensor:
    """Lay a blended source over an opaque backdrop, by its alpha, a level; both products are truncated."""
    kept = (backdrop * (TOP - alpha)).div_(TOP).floor_()
    return (blended * alpha).div_(TOP).floor_().add_(kept)


def with_opacity(below: Tensor, above: Tensor, opacity: float) -> Tensor:
    """Return what lies a share in [0,1] of the way from one image to another, truncated."""
    return (above - below).mul_(opacity).add_(below).trunc_()


def composite(inside: Tensor, outside: Tensor, mask: Tensor) -> Tensor:
    """Return `inside` where the mask is 255, `outside` where it is 0, and rounded means between."""
    return (inside * mask).add_(outside * (TOP - mask)).div_(TOP).add_(0.5).floor_()


def luma(images: Tensor) -> Tensor:
    """Return (B,1,H,W): the luma of images (B,3,H,W) by ITU-R 601-2, in the 16-bit fixed point of Pillow."""
    red, green, blue = images.split(1, dim=1)  # every sum below is under 2^24, and so exact
    return (red * 19595).add_(green * 38470).add_(blue * 7471).add_(0x8000).div_(1 << 16).floor_()


def at_luminosity(colour: Tensor, change: Tensor) -> Tensor:
    """Return a colour (B,3,H,W) whose luminosity is changed, clipped along its hue, truncated.

    Args:
        colour: (B,3,H,W), whole or not.
        change: (B,1,H,W), to be added to each channel.

    Reference: W3C, the same, section 10.2: SetLum and ClipColor.
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
    red, green, blue = colour.split(1, dim=1)
    return red * 0.3 + green * 0.59 + blue * 0.11
