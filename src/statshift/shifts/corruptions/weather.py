"""Snow, frost and fog."""

import math
from typing import Any

import torch
from torch import Tensor

from statshift._core.randomness import Draws
from statshift.shifts.corruptions import filters
from statshift.shifts.corruptions.corruption import Corruption, corruption
from statshift.shifts.corruptions.filters import quantise_
from statshift.shifts.corruptions.frost import Photographs, find_photographs, photographs, warn_without_photographs
from statshift.shifts.shift import Table


@corruption
def snow(
    images: Tensor,
    draws: Draws,
    *,
    loc: float,
    scale: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    keep: float,
) -> Tensor:
    """Whiten the image and add a layer of blurred flakes and the same layer turned by 180 degrees."""
    height, width = images.shape[-2:]
    flakes = draws.normal("flakes", 1, math.ceil(height / zoom), math.ceil(width / zoom)).mul_(scale).add_(loc)
    flakes = filters.enlarge(flakes, zoom, (height, width))
    layer = quantise_(torch.where(flakes < threshold, 0.0, flakes))
    angles = draws.uniform("angle", low=-0.75 * math.pi, high=-0.25 * math.pi)
    layer = quantise_(filters.motion_blur(layer, radius, sigma, angles, "up"))
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    grey = (red * 0.299).add_(green * 0.587).add_(blue * 0.114)
    white = torch.maximum(images, grey.mul_(1.5).add_(0.5)).mul_(1 - keep)
    return white.add_(images * keep).add_(layer).add_(layer.flip(-2, -1))


def _frost(
    images: Tensor, draws: Draws, photographs: Photographs, *, image_weight: float, frost_weight: float
) -> Tensor:
    """Blend in a random crop of one of five photographs of frost."""
    return photographs.crops(draws).mul_(frost_weight).add_(images * image_weight)


class Frost(Corruption):
    """Frost, which needs photographs beside its constants."""

    def check(self) -> None:
        """Warn where there are none."""
        warn_without_photographs(self.how.frost)

    def arguments(self, severity: int, size: tuple[int, int], table: Table, device: torch.device) -> dict[str, Any]:
        """Return the constants, and the photographs."""
        self.check()
        folder = find_photographs(self.how.frost)
        found = photographs(folder, size, table == "cifar", device, self.how.scale_constants)
        return super().arguments(severity, size, table, device) | {"photographs": found}


frost = Frost("frost", _frost)
"""A random crop of one of five photographs of frost, blended in."""


@corruption
def fog(images: Tensor, draws: Draws, *, amount: float, decay: float) -> Tensor:
    """Add a plasma cloud and scale by max / (max + amount), max over the image."""
    height, width = images.shape[-2:]
    side = 1 << (max(height, width) - 1).bit_length()
    cloud = plasma(draws.uniform("cloud", side, side, low=-1.0), decay)
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return (images + cloud[:, None, :height, :width] * amount).mul_(brightest / (brightest + amount))


def plasma(field: Tensor, decay: float) -> Tensor:
    """Return a plasma fractal in [0,1] by the diamond-square algorithm on a wrapped grid.

    Args:
        field: (B, side, side) uniform in (-1, 1), side a power of two: the draw used at each position.
        decay: the roughness is divided by this at each level, from 100 on.
    """
    cloud = torch.zeros_like(field)
    side = field.shape[-1]
    step, roughness = side, 100.0
    while step >= 2:
        half = step // 2
        corners = cloud[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        middles = (pairs + pairs.roll(-1, 2)).div_(4).add_(field[:, half::step, half::step] * roughness**2)
        cloud[:, half::step, half::step] = middles
        above = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        cloud[:, ::step, half::step] = above.div_(4).add_(field[:, ::step, half::step] * roughness**2)
        beside = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        cloud[:, half::step, ::step] = beside.div_(4).add_(field[:, half::step, ::step] * roughness**2)
        step, roughness = half, roughness / decay
    lowest, highest = cloud.aminmax(dim=1)
    lowest, highest = lowest.amin(1)[:, None, None], highest.amax(1)[:, None, None]
    return cloud.sub_(lowest).div_(highest - lowest)
