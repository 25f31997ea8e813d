"""Augmented views of one image, each a function of the image's number: what methods without training look at.

Images are in [0,1]; the operations of AugMix work on 8 bits, as its authors' do.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as T

from statshift._core.randomness import Draws

PART = 8
"""An image is shifted by up to its side over this, as CIFAR's 32 px by 4."""

FILL = 128
"""What comes in where an operation of AugMix leaves nothing, in 8 bits."""

SHIFTED_SIDE = 64
"""Images with both sides up to so many pixels are shifted before AugMix; of larger ones a part is enlarged."""

CHAINS, LINKS = 3, 3
"""AugMix mixes so many chains of one to so many operations (Hendrycks et al., ICLR 2020, section 3)."""


def shifted_views(image: Tensor, views: int, draws: Draws) -> Tensor:
    """Return views (V,3,H,W) of an image (1,3,H,W): shifted on black by up to an eighth of its side, half mirrored."""
    height, width = image.shape[2:]
    down, right = height // PART, width // PART
    padded = F.pad(image[0], (right, right, down, down))
    tops = draws.integers("down", views, low=0, high=2 * down + 1)[0].tolist()
    lefts = draws.integers("right", views, low=0, high=2 * right + 1)[0].tolist()
    cut = [padded[:, top : top + height, left : left + width] for top, left in zip(tops, lefts, strict=True)]
    return _mirrored(torch.stack(cut), draws)


def turned_views(images: Tensor, draws: Draws) -> Tensor:
    """Return images (V,3,H,W), each turned by any number of quarters; ones that are not square by 0 or 180 degrees."""
    quarter = 1 if images.shape[2] == images.shape[3] else 2
    turns = draws.integers("turn", len(images), low=0, high=4 // quarter)[0].tolist()
    return torch.stack([torch.rot90(one, turn * quarter, (1, 2)) for one, turn in zip(images, turns, strict=True)])


def augmix_views(image: Tensor, views: int, draws: Draws) -> Tensor:
    """Return views (V,3,H,W) of an image (1,3,H,W): of a part of it, mixed with what AugMix makes of that part.

    Reference:
        Hendrycks et al., "AugMix", ICLR 2020, section 3, at the mildest severity, as Zhang et al., NeurIPS 2022, take
        it: chains weighted by Dirichlet(1,1,1), and mixed with their origin by Beta(1,1).
    """
    small = max(image.shape[2:]) <= SHIFTED_SIDE
    parts = shifted_views(image, views, draws) if small else _enlarged_views(image, views, draws)
    shares = -draws.uniform("weights", views, CHAINS)[0].log()
    shares = (shares / shares.sum(1, keepdim=True)).to(parts)
    kept = draws.uniform("kept", views)[0].to(parts)
    lengths = draws.integers("length", views, CHAINS, low=1, high=LINKS + 1)[0].tolist()
    chosen = draws.integers("operation", views, CHAINS, LINKS, low=0, high=len(OPERATIONS))[0].tolist()
    levels = draws.uniform("level", views, CHAINS, LINKS, low=0.1, high=1.0)[0].tolist()
    signs = draws.integers("sign", views, CHAINS, LINKS, low=0, high=2)[0].tolist()
    made = torch.zeros_like(parts)
    for view, part in enumerate((parts * 255).round().to(torch.uint8)):
        for chain in range(CHAINS):
            changed = part
            for place in range(lengths[view][chain]):
                level = levels[view][chain][place] * (1 if signs[view][chain][place] else -1)
                changed = OPERATIONS[chosen[view][chain][place]](changed, level)
            made[view] += shares[view, chain] * changed.to(parts) / 255
    return torch.lerp(made, parts, kept.view(-1, 1, 1, 1))


def _enlarged_views(image: Tensor, views: int, draws: Draws) -> Tensor:
    """Return parts of 8 to 100 % of the area, 3:4 to 4:3, at the image's size, half of them mirrored."""
    height, width = image.shape[2:]
    areas = draws.uniform("area", views, low=0.08, high=1.0)[0] * height * width
    ratios = draws.uniform("ratio", views, low=math.log(3 / 4), high=math.log(4 / 3))[0].exp()
    places = draws.uniform("place", views, 2)[0].tolist()
    cut = []
    for area, ratio, (down, right) in zip(areas.tolist(), ratios.tolist(), places, strict=True):
        tall, wide = min(height, round(math.sqrt(area / ratio))), min(width, round(math.sqrt(area * ratio)))
        top, left = int(down * (height - tall + 1)), int(right * (width - wide + 1))
        part = image[:, :, top : top + tall, left : left + wide]
        cut.append(F.interpolate(part, (height, width), mode="bilinear", antialias=True).clamp(0, 1))
    return _mirrored(torch.cat(cut), draws)


def _mirrored(images: Tensor, draws: Draws) -> Tensor:
    mirrored = draws.integers("mirror", len(images), low=0, high=2)[0].bool().to(images.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


def _rotate(image: Tensor, level: float) -> Tensor:
    return _affine(image, angle=-float(int(level * 3)))


def _solarize(image: Tensor, level: float) -> Tensor:
    made: Tensor = T.solarize(image, 256 - int(abs(level) * 25.6))
    return made


def _shear(image: Tensor, level: float, axis: int) -> Tensor:
    angles = [0.0, 0.0]
    angles[axis] = math.degrees(math.atan(0.03 * level))
    return _affine(image, shear=angles, center=[0, 0])


def _translate(image: Tensor, level: float, axis: int) -> Tensor:
    moves = [0, 0]
    moves[axis] = int(level * image.shape[2 - axis] / 30)
    return _affine(image, translate=moves)


def _affine(image: Tensor, **how: Any) -> Tensor:
    """Return an image moved, with grey coming in."""
    given = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | how
    moved: Tensor = T.affine(image.float() - FILL, interpolation=InterpolationMode.BILINEAR, **given)
    return (moved + FILL).round().to(torch.uint8)


OPERATIONS: tuple[Callable[[Tensor, float], Tensor], ...] = (
    lambda image, level: T.autocontrast(image),
    lambda image, level: T.equalize(image),
    _rotate,
    _solarize,
    lambda image, level: _shear(image, level, 0),
    lambda image, level: _shear(image, level, 1),
    lambda image, level: _translate(image, level, 0),
    lambda image, level: _translate(image, level, 1),
    lambda image, level: T.posterize(image, 4),
)
"""AugMix's, of an image (3,H,W) uint8 and a level of 0.1 to 1 with its sign; those with a magnitude at severity 1."""
