"""Another look at images: their colours, place and side changed a little, addressed by the images."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from statshift._core.randomness import Draws

BRIGHTNESS, CONTRAST, SATURATION, GAMMA = (0.6, 1.4), (0.7, 1.3), (0.5, 1.5), (0.7, 1.3)
"""Factors, and an exponent, from least to largest."""

HUE = 0.06
"""Turns of the colours about the greys, at most."""

DEGREES, SHIFT, ZOOM = 15.0, 1 / 16, (0.9, 1.1)
"""Degrees and shares of the side, at most, either way; factors."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma."""


def look(images: Tensor, draws: Draws) -> Tensor:
    """Return images (B,3,H,W) in [0,1] in other colours, then turned, moved, scaled and, half of them, mirrored.

    Args:
        images: (B,3,H,W) in [0,1].
        draws: of the images.

    Reference:
        The views of Doebler et al., "Robust mean teacher", CVPR 2023, which are those of Cohen and Giryes, "KATANA",
        2021; without blur and noise.

    Differs:
        Each image has numbers of its own. Colours change in one order. The hue turns in the plane of constant luma.
    """
    return moved(recoloured(images, draws), draws)


def recoloured(images: Tensor, draws: Draws) -> Tensor:
    """Return images in [0,1] with other brightness, contrast, saturation, hue and gamma, in this order."""

    def factor(name: str, between: tuple[float, float]) -> Tensor:
        return draws.uniform(name, 1, 1, 1, low=between[0], high=between[1]).to(images)

    grey = torch.tensor(LUMA, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    found = (images * factor("brightness", BRIGHTNESS)).clamp(0, 1)
    mean = (found * grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    found = (mean + (found - mean) * factor("contrast", CONTRAST)).clamp(0, 1)
    luma = (found * grey).sum(1, keepdim=True)
    angle = 2 * math.pi * factor("hue", (-HUE, HUE))
    chroma = _turned(found - luma, angle, grey) * factor("saturation", SATURATION)
    return (luma + chroma).clamp(0, 1) ** factor("gamma", GAMMA)


def _turned(chroma: Tensor, angle: Tensor, grey: Tensor) -> Tensor:
    """Return colours of no luma turned about the greys by an angle (B,1,1,1): their luma stays 0."""
    across = (chroma.roll(1, 1) - chroma.roll(-1, 1)) / math.sqrt(3)
    turned = chroma * angle.cos() + across * angle.sin()
    return turned - (turned * grey).sum(1, keepdim=True)


def moved(images: Tensor, draws: Draws) -> Tensor:
    """Return images turned, moved, scaled and, half of them, mirrored; what comes into sight is their reflection."""
    numbers = draws.uniform("place", 5, low=-1.0, high=1.0).to(images)
    angle, across, down, size, side = numbers.unbind(1)
    angle = angle * math.radians(DEGREES)
    scale = 1 / (1 + size * (ZOOM[1] - 1))
    height, width = images.shape[-2:]
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    mirror = side.sign()
    rows = [
        torch.stack([cosine * mirror, -sine * height / width, 2 * SHIFT * across], 1),
        torch.stack([sine * mirror * width / height, cosine, 2 * SHIFT * down], 1),
    ]
    grid = affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return grid_sample(images, grid, "bilinear", "reflection", align_corners=False).clamp(0, 1)
