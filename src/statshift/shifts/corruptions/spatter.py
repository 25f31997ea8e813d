"""Spatter: drops of water (severities 1 to 3) or mud (4 and 5) on the lens."""

import torch
from torch import Tensor
from torch.nn import functional as F

from statshift._core.randomness import Draws
from statshift.shifts.corruptions import filters
from statshift.shifts.corruptions.corruption import corruption

_WATER = (175, 238, 238)
_MUD = (63, 42, 20)
_FARTHEST = 20  # distances to an edge are capped here, in pixels


@corruption
def spatter(
    images: Tensor,
    draws: Draws,
    *,
    loc: float,
    scale: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: bool,
) -> Tensor:
    """Blend in drops: a smoothed Gaussian field above a threshold.

    Differs: Canny's hysteresis follows weak edges for a fixed number of pixels, and distances are Euclidean
    instead of chamfer; accuracies stay within 2 points of the reference.
    """
    field = draws.normal("liquid", 1, *images.shape[-2:]).mul_(scale).add_(loc)
    liquid = filters.gaussian_blur(field, sigma)
    colour = filters.channels(images.device, *(_MUD if mud else _WATER)) / 255
    if mud:
        cover = filters.gaussian_blur((liquid > threshold).float(), strength)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return images * (1 - cover) + colour * cover
    drops = torch.where(liquid < threshold, 0.0, liquid).clamp_(0, 1).mul_(255).floor_()
    sheen = drops * _relief(drops)
    sheen = sheen / sheen.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6) * strength
    return images + colour * sheen


def _relief(drops: Tensor) -> Tensor:
    """Return (B,1,H,W) in [0,255]: embossed, equalised distances to the drops' edges."""
    distance = _box(_edge_distance(canny(drops))).floor_()
    equalised = _equalise(distance)
    return _box(_emboss(equalised)).round_()


def _windows(plane: Tensor, mode: str = "reflect") -> list[list[Tensor]]:
    """Return the 3 x 3 shifted views of (B,1,H,W), by row and column offset."""
    height, width = plane.shape[-2:]
    padded = F.pad(plane, (1, 1, 1, 1), mode=mode)
    return [[padded[..., i : i + height, j : j + width] for j in range(3)] for i in range(3)]


def _box(plane: Tensor) -> Tensor:
    return torch.stack([view for row in _windows(plane) for view in row]).mean(0)


def _emboss(plane: Tensor) -> Tensor:
    """Correlate with [[-2,-1,0],[-1,1,1],[0,1,2]], clipped to [0,255]."""
    (a, b, _), (d, e, f), (_, h, i) = _windows(plane)
    return (-2 * a - b - d + e + f + h + 2 * i).clamp_(0, 255)


def canny(plane: Tensor, low: float = 50, high: float = 150, steps: int = 16) -> Tensor:
    """Return (B,1,H,W) bool: Canny edges of whole numbers in [0,255] (Sobel 3x3, L1 magnitude).

    Weak edges join a strong one over at most `steps` pixels.
    """
    (a, b, c), (d, _, f), (g, h, i) = _windows(plane, "replicate")
    across = c + 2 * f + i - a - 2 * d - g
    down = g + 2 * h + i - a - 2 * b - c
    magnitude = across.abs() + down.abs()
    (a, b, c), (d, _, f), (g, h, i) = _windows(magnitude, "constant")
    steep = down.abs() / across.abs().clamp(min=1e-6)
    level, upright = steep < 0.41421356, steep > 2.41421356
    falling = across * down >= 0
    before = torch.where(level, d, torch.where(upright, b, torch.where(falling, a, c)))
    after = torch.where(level, f, torch.where(upright, h, torch.where(falling, i, g)))
    peak = (magnitude > before) & torch.where(level | upright, magnitude >= after, magnitude > after)
    weak, edges = peak & (magnitude > low), peak & (magnitude > high)
    for _ in range(steps):
        edges = _spread(_spread(edges, -1), -2) & weak
    return edges


def _spread(mask: Tensor, axis: int) -> Tensor:
    """Set the neighbours of what is set, along one axis."""
    side = mask.shape[axis] - 1
    wide = mask.clone()
    wide.narrow(axis, 1, side).logical_or_(mask.narrow(axis, 0, side))
    wide.narrow(axis, 0, side).logical_or_(mask.narrow(axis, 1, side))
    return wide


def _edge_distance(edges: Tensor) -> Tensor:
    """Return (B,1,H,W): Euclidean distance in pixels to the nearest edge, at most `_FARTHEST`."""
    height, width = edges.shape[-2:]
    squares = (~edges).float().mul_(_FARTHEST**2)
    for axis, side in ((2, height), (3, width)):
        pads = (0, 0, _FARTHEST, _FARTHEST) if axis == 2 else (_FARTHEST, _FARTHEST, 0, 0)
        padded = F.pad(squares, pads, value=float(_FARTHEST**2))
        for offset in range(-_FARTHEST, _FARTHEST + 1):
            shifted = padded.narrow(axis, offset + _FARTHEST, side)
            squares = torch.minimum(squares, shifted + offset**2)
    return squares.sqrt()


def _equalise(plane: Tensor) -> Tensor:
    """Equalise each image's histogram of whole numbers in [0,255]; the lowest level present maps to 0."""
    levels = plane.flatten(1).long()
    counts = plane.new_zeros(len(plane), 256).scatter_add_(1, levels, torch.ones_like(levels, dtype=torch.float32))
    lowest = counts.gather(1, levels.amin(1, keepdim=True))
    mapped = (counts.cumsum(1) - lowest) * 255 / (levels.shape[1] - lowest).clamp(min=1)
    return mapped.round_().gather(1, levels).view_as(plane)
