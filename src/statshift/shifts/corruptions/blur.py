"""Defocus, glass, motion, zoom and Gaussian blur."""

import math

import numpy as np
import torch
from torch import Tensor

from statshift._core.randomness import Draws
from statshift.shifts.corruptions import filters
from statshift.shifts.corruptions.corruption import corruption
from statshift.shifts.corruptions.filters import Array, on_device, quantise_


@corruption
def gaussian_blur(images: Tensor, draws: Draws, *, sigma: float) -> Tensor:
    """Smooth by a Gaussian truncated at 4 sigma, nearest-edge borders."""
    return filters.gaussian_blur(images, sigma)


@corruption
def defocus_blur(images: Tensor, draws: Draws, *, radius: float, alias_sigma: float) -> Tensor:
    """Correlate with a disk smoothed by a small Gaussian, mirrored borders."""
    kernel = _disk(images.device, radius, alias_sigma)
    reach = kernel.shape[-1] // 2
    return filters.correlate(images, kernel, (reach,) * 4, "reflect")


@on_device
def _disk(radius: float, alias_sigma: float) -> Array:
    """Return (1, 1, K, K): the smoothed disk, cut to where it is not zero."""
    half, blur_half = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    grid = np.arange(-half, half + 1)
    disk = (grid[:, None] ** 2 + grid**2 <= radius**2).astype(np.float64)
    weights = np.exp(-0.5 * (np.arange(-blur_half, blur_half + 1) / alias_sigma) ** 2)
    weights /= weights.sum()
    padded = np.pad(disk / disk.sum(), blur_half, mode="reflect")
    rows = np.sum([weight * padded[i : i + len(grid)] for i, weight in enumerate(weights)], axis=0)
    kernel = np.sum([weight * rows[:, i : i + len(grid)] for i, weight in enumerate(weights)], axis=0)
    margin = int((kernel.sum(axis=0) > 0).argmax())
    support = slice(margin, len(grid) - margin)
    return np.asarray(kernel[None, None, support, support])


@corruption
def glass_blur(images: Tensor, draws: Draws, *, sigma: float, delta: int, iterations: int) -> Tensor:
    """Blur, copy pixels from near positions in a fixed order, blur again.

    The copies are one gather: the source of a position is that of its target if the target was visited earlier,
    else the target. Chains of earlier targets are followed by pointer doubling.
    """
    blurred = quantise_(filters.gaussian_blur(images, sigma))
    height, width = images.shape[-2:]
    sources = torch.arange(height * width, device=images.device).expand(len(images), -1)
    for step in range(iterations):
        offsets = draws.integers(f"offsets {step}", 2, height, width, low=-delta, high=delta)
        sources = sources.gather(1, copy_sources(offsets[:, 0], offsets[:, 1], delta))
    flat = blurred.flatten(2)
    copied = flat.gather(2, sources[:, None].expand(-1, flat.shape[1], -1)).view_as(images)
    return filters.gaussian_blur(copied, sigma)


def copy_sources(right: Tensor, down: Tensor, delta: int) -> Tensor:
    """Return where each pixel's value comes from after one pass of glass copies.

    Rows, then columns, are visited from side - delta down to delta + 1; each visit copies the pixel at
    (row + down, column + right) as it stands at that moment.

    Args:
        right: (B, H, W) int64 offsets in {-delta, ..., delta - 1}.
        down: (B, H, W) int64, likewise.
        delta: the largest offset, in pixels.

    Returns:
        (B, H * W) int64, indices into the flattened image.
    """
    batch, height, width = right.shape
    visited = torch.zeros(height, width, dtype=torch.bool, device=right.device)
    visited[delta + 1 : height - delta + 1, delta + 1 : width - delta + 1] = True
    visited = visited.flatten()
    here = torch.arange(height * width, device=right.device)
    targets = torch.where(visited, here + (down * width + right).flatten(1), here)
    earlier = (targets > here) & visited.expand(batch, -1).gather(1, targets)
    roots = torch.where(earlier, targets, here)
    for _ in range(_doublings(delta)):
        roots = roots.gather(1, roots)
    return targets.gather(1, roots)


def _doublings(delta: int) -> int:
    """Return how many doublings follow all chains but one in 10**12; p is the chance of an earlier target."""
    p = (delta - 1) / (2 * delta) * (1 + 1 / (2 * delta))
    return math.ceil(math.log2(math.log(1e-12) / math.log(p))) if p > 0 else 0


@corruption
def motion_blur(images: Tensor, draws: Draws, *, radius: int, sigma: float) -> Tensor:
    """Blur along a one-sided line at an angle uniform in [-45, 45] degrees."""
    angles = draws.uniform("angle", low=-math.pi / 4, high=math.pi / 4)
    return filters.motion_blur(images, radius, sigma, angles, "right")


@corruption
def zoom_blur(images: Tensor, draws: Draws, *, stop: float, step: float) -> Tensor:
    """Average the image with its centre zooms of np.arange(1, stop, step)."""
    factors = np.arange(1, stop, step).tolist()
    total = images * 2  # the image itself and its zoom by 1
    for factor in factors[1:]:
        total += filters.centre_zoom(images, factor)
    return total.div_(len(factors) + 1)
