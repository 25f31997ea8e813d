"""Brightness, contrast, elastic transform, pixelate, JPEG compression and saturate."""

import numpy as np
import torch
from torch import Tensor

from statshift._core.randomness import Draws
from statshift.shifts.corruptions import filters
from statshift.shifts.corruptions.corruption import corruption
from statshift.shifts.corruptions.jpeg import compress


@corruption
def brightness(images: Tensor, draws: Draws, *, added: float) -> Tensor:
    """Add to the value of HSV and clip it: hue and saturation stay, so the colour is scaled."""
    value = images.amax(dim=1, keepdim=True)
    scaled = images / value * (value + added).clamp_(max=1)
    return torch.where(value > 0, scaled, added)


@corruption
def saturate(images: Tensor, draws: Draws, *, factor: float, offset: float) -> Tensor:
    """Map the saturation of HSV to factor * S + offset, clipped; a grey pixel has the hue of red."""
    value, low = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    chroma = value - low
    saturation = chroma / value.clamp(min=1e-6)
    target = saturation.mul(factor).add_(offset).clamp_(0, 1)
    # Each channel lies below the value by a share of the chroma; for grey, red's share is 0 and the others' is 1.
    share = (value - images) / chroma.clamp(min=1e-6)
    share = torch.where(chroma > 0, share, filters.channels(images.device, 0.0, 1.0, 1.0))
    return value - share.mul_(target).mul_(value)


@corruption
def contrast(images: Tensor, draws: Draws, *, factor: float) -> Tensor:
    """Pull every channel towards its mean over the image."""
    means = images.mean(dim=(2, 3), keepdim=True)
    return (images - means).mul_(factor).add_(means)


@corruption
def pixelate(images: Tensor, draws: Draws, *, scale: float) -> Tensor:
    """Shrink by a box filter and enlarge again, on 8-bit values as Pillow does (columns first, then rows)."""
    height, width = images.shape[-2:]
    small = int(height * scale), int(width * scale)
    levels = images.mul(255).round_()
    for target in (small, (height, width)):
        across = filters.box_matrix(images.device, levels.shape[-1], target[1])
        down = filters.box_matrix(images.device, levels.shape[-2], target[0])
        levels = (levels @ across.T).add_(0.5 + 2**-10).floor_()
        levels = (down @ levels).add_(0.5 + 2**-10).floor_()
    return levels.div_(255)


@corruption
def elastic_transform(images: Tensor, draws: Draws, *, alpha: float, sigma: float, affine: float) -> Tensor:
    """Warp by a random affine map of three points, then displace by smoothed uniform fields.

    The points lie a third of the shorter side around the centre. The affine map mirrors its borders without
    repeating the edge; displacement and smoothing (sigma pixels, truncated at 3 sigma) repeat it.
    """
    height, width = images.shape[-2:]
    rows = torch.arange(height, dtype=torch.float32, device=images.device)[:, None]
    columns = torch.arange(width, dtype=torch.float32, device=images.device)
    moved = draws.uniform("affine", 3, 2, low=-affine, high=affine)
    inverse, shift = _inverse_affine(moved, (height, width))
    inverse, shift = inverse[..., None, None], shift[..., None, None]
    warped = filters.sample(
        images,
        inverse[:, 1, 0] * columns + inverse[:, 1, 1] * rows + shift[:, 1],
        inverse[:, 0, 0] * columns + inverse[:, 0, 1] * rows + shift[:, 0],
        edge_repeated=False,
    )
    if alpha == 0:
        return warped
    fields = draws.uniform("fields", 2, height, width, low=-1.0)
    if sigma > 0:
        fields = filters.gaussian_blur(fields, sigma, truncate=3.0, edge="reflect")
    fields = fields * alpha
    return filters.sample(warped, rows + fields[:, 1], columns + fields[:, 0], edge_repeated=True)


@filters.on_device
def _three_points(height: int, width: int) -> filters.Array:
    """Return (3, 2): the (x, y) of the points that the affine map moves."""
    third = min(height, width) // 3
    return np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]) * third + [width // 2, height // 2]


def _inverse_affine(moved: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return (B,2,2) and (B,2): the map from warped (x, y) back to the image, given how three points move (B,3,2)."""
    points = _three_points(moved.device, *size).double()
    landed = points + moved
    (a, b), (c, d) = (landed[:, 1:] - landed[:, :1]).permute(2, 1, 0)
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    edges = (points[1:] - points[:1]).T
    inverse = edges @ adjugate / (a * d - b * c)[:, None, None]
    shift = points[0] - (inverse @ landed[:, 0, :, None])[..., 0]
    return inverse.float(), shift.float()


@corruption
def jpeg_compression(images: Tensor, draws: Draws, *, quality: int) -> Tensor:
    """Compress as Pillow does at this quality and decompress."""
    return compress(images, quality)
