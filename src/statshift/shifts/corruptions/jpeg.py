"""JPEG compression in tensors: what baseline JPEG does to an image, without entropy coding (which loses nothing).

The arithmetic is libjpeg's, whole numbers after each stage (ITU-T T.81; chroma at half resolution, "fancy"
triangle upsampling). Planes are float32, which holds their whole numbers exactly; products that pass 2**24 are taken
in float64.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from statshift.shifts.corruptions.filters import Array, on_device

# ITU-T T.81, tables K.1 and K.2.
_LUMINANCE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMINANCE = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 "
    "99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"
)
_FIXED = 1 << 16  # libjpeg's colour conversion works in 16-bit fixed point


def compress(images: Tensor, quality: int) -> Tensor:
    """Return (B,3,H,W) images after JPEG of `quality` (1 to 100) with 4:2:0 chroma, values multiples of 1/255."""
    height, width = images.shape[-2:]
    padded = _extend(images, height % 2, -width % 16)
    luma, chroma = _to_ycc(padded.mul(255).round_())
    # libjpeg fills the last blocks to the right before it halves the chroma, and downwards after.
    chroma = _halve(chroma)
    luma, chroma = _extend(luma, -luma.shape[-2] % 8, 0), _extend(chroma, -chroma.shape[-2] % 8, 0)
    luma = _code(luma, _quantisation(images.device, _LUMINANCE, quality))
    chroma = _code(chroma, _quantisation(images.device, _CHROMINANCE, quality))
    chroma = _double(chroma[..., : (height + 1) // 2, : (width + 1) // 2])
    return _to_rgb(luma[..., :height, :width], chroma[..., :height, :width]).div_(255)


def _extend(planes: Tensor, down: int, right: int) -> Tensor:
    """Repeat the last row `down` times and the last column `right` times."""
    return F.pad(planes, (0, right, 0, down), mode="replicate") if down or right else planes


@on_device
def _quantisation(table: str, quality: int) -> Array:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((np.array(table.split(), dtype=np.int64) * scale + 50) // 100, 1, 255).astype(np.float64)


@on_device
def _transform() -> Array:
    """Return (8, 8): libjpeg's integer cosine transform, times 2**13 (Loeffler, Ligtenberg & Moschytz, 1989)."""
    d = np.eye(8, dtype=np.int64)
    even, odd = [d[i] + d[7 - i] for i in range(4)], [d[i] - d[7 - i] for i in range(4)]
    outer, inner = even[0] - even[3], even[1] - even[2]
    turn = 4433 * (outer + inner)
    z1, z2 = -7373 * (odd[3] + odd[0]), -20995 * (odd[2] + odd[1])
    z5 = 9633 * sum(odd)
    z3, z4 = -16069 * (odd[3] + odd[1]) + z5, -3196 * (odd[2] + odd[0]) + z5
    rows = [
        8192 * sum(even),
        12299 * odd[0] + z1 + z4,
        turn + 6270 * outer,
        25172 * odd[1] + z2 + z3,
        8192 * (even[0] + even[3] - even[1] - even[2]),
        16819 * odd[2] + z2 + z4,
        turn - 15137 * inner,
        2446 * odd[3] + z1 + z3,
    ]
    return np.stack(rows).astype(np.float64)


def _along_rows(plane: Tensor, matrix: Tensor, shift: int) -> Tensor:
    """Multiply every 8 neighbours along a row by `matrix`, divide by 2**shift and round."""
    return _rounded(plane.view(-1, 8).double() @ matrix.T, shift).view(plane.shape)


def _along_columns(plane: Tensor, matrix: Tensor, shift: int) -> Tensor:
    return _rounded(matrix @ plane.view(-1, 8, plane.shape[-1]).double(), shift).view(plane.shape)


def _rounded(product: Tensor, shift: int) -> Tensor:
    return product.mul_(2.0**-shift).add_(0.5).floor_().float()


def _code(plane: Tensor, table: Tensor) -> Tensor:
    """Transform, quantise, and back: (B,C,H,W) of whole numbers in [0,255], sides multiples of 8.

    The shifts are those of libjpeg's accurate integer transform: rows carry 2 extra bits into the columns, and the
    result is 8 times the orthonormal transform.
    """
    forward = _transform(plane.device).double()
    backward = forward.T
    scaled = _along_columns(_along_rows(plane - 128, forward, 11), forward, 15)
    steps = table.view(8, 1, 8)
    cells = scaled.view(-1, 8, plane.shape[-1] // 8, 8)
    levels = cells.abs().div_(steps * 8).add_(0.5 + 1e-5).floor_().mul_(cells.sign_()).mul_(steps)
    levels = levels.view(plane.shape)
    return _along_rows(_along_columns(levels, backward, 11), backward, 18).add_(128).clamp_(0, 255)


def _weighted(red: Tensor, green: Tensor, blue: Tensor, weights: tuple[float, float, float], offset: int) -> Tensor:
    r, g, b = (round(weight * _FIXED) for weight in weights)
    return (red * r).add_(green * g).add_(blue * b).add_(offset).div_(_FIXED).floor_()


def _to_ycc(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return luma (B,1,H,W) and both chromas (B,2,H,W)."""
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    half, centre = _FIXED // 2, 128 * _FIXED + _FIXED // 2 - 1
    luma = _weighted(red, green, blue, (0.299, 0.587, 0.114), half)
    cb = _weighted(red, green, blue, (-0.168735892, -0.331264108, 0.5), centre)
    cr = _weighted(red, green, blue, (0.5, -0.418687589, -0.081312411), centre)
    return luma, torch.cat([cb, cr], dim=1)


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    cb, cr = chroma.double().sub_(128).mul_(2.0**-16).chunk(2, dim=1)
    red = luma + cr.mul(91881).add_(0.5).floor_().float()
    green = luma + cb.mul(-22554).sub_(cr, alpha=46802).add_(0.5).floor_().float()
    blue = luma + cb.mul(116130).add_(0.5).floor_().float()
    return torch.cat([red, green, blue], dim=1).clamp_(0, 255)


def _halve(plane: Tensor) -> Tensor:
    """Average 2x2 pixels; libjpeg's rounding bias alternates 1, 2 along a row."""
    total = plane[..., ::2, ::2] + plane[..., ::2, 1::2] + plane[..., 1::2, ::2] + plane[..., 1::2, 1::2]
    bias = torch.arange(total.shape[-1], device=plane.device) % 2 + 1
    return total.add_(bias).div_(4).floor_()


def _double(plane: Tensor) -> Tensor:
    """Enlarge twofold with weights 3/4 and 1/4 of the nearest and next pixel, rows then columns, edges repeated."""
    batch, channels, height, width = plane.shape
    near = F.pad(plane, (1, 1, 1, 1), mode="replicate")
    rows = torch.stack([3 * near[..., 1:-1, :] + near[..., :-2, :], 3 * near[..., 1:-1, :] + near[..., 2:, :]], dim=3)
    rows = rows.view(batch, channels, 2 * height, width + 2)
    centre = 3 * rows[..., 1:-1]
    left, right = centre + rows[..., :-2] + 8, centre + rows[..., 2:] + 7
    return torch.stack([left, right], dim=-1).div_(16).floor_().view(batch, channels, 2 * height, 2 * width)
