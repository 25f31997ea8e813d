"""Linear filters and resampling on batches, the pieces that several corruptions share.

Short filters along an axis are matrices (one product each, exact borders); two-dimensional kernels go through the
Fourier transform. Matrices and kernels are built once in float64 and kept per device.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[np.float64]

_BAND = 56  # rows of a smoothing matrix that are multiplied at once
_KEPT, _KEPT_BYTES = 64, 64 << 20  # results of one function that builds arrays


def on_device(build: Callable[..., NDArray[Any]]) -> Callable[..., Tensor]:
    """Turn a function that builds an array into one that keeps it as a tensor: `f(device, *arguments)`.

    Floating arrays become float32. The most recent results are kept: 64, of at most 64 MB in all.
    """
    kept: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()

    @wraps(build)
    def built(device: torch.device, *arguments: Any) -> Tensor:
        key = (device, *arguments)
        if key not in kept:
            tensor = torch.from_numpy(np.ascontiguousarray(build(*arguments)))
            kept[key] = (tensor.float() if tensor.is_floating_point() else tensor).to(device)
        kept.move_to_end(key)
        while len(kept) > 1 and (len(kept) > _KEPT or sum(one.nbytes for one in kept.values()) > _KEPT_BYTES):
            kept.popitem(last=False)
        return kept[key]

    return built


@on_device
def channels(red: float, green: float, blue: float) -> Array:
    """Return (1, 3, 1, 1): one number for each channel."""
    return np.array([red, green, blue], dtype=np.float64).reshape(1, 3, 1, 1)


@on_device
def gaussian_matrix(side: int, sigma: float, truncate: float, edge: str) -> Array:
    """Return (side, side): Gaussian smoothing of a line, borders as `edge` ("nearest", or "reflect" as SciPy's)."""
    matrix = np.zeros((side, side))
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / max(sigma, 1e-9)) ** 2)
    weights /= weights.sum()
    for row in range(side):
        columns = row + offsets
        if edge == "nearest":
            columns = columns.clip(0, side - 1)
        else:
            columns = columns % (2 * side)
            columns = np.minimum(columns, 2 * side - 1 - columns)
        np.add.at(matrix[row], columns, weights)
    return matrix


@on_device
def box_matrix(source: int, target: int) -> Array:
    """Return (target, source): Pillow's box filter from `source` to `target` pixels."""
    matrix = np.zeros((target, source))
    scale = source / target
    width = max(scale, 1.0)
    for row in range(target):
        centre = (row + 0.5) * scale
        first = max(int(centre - width / 2 + 0.5), 0)
        last = min(int(centre + width / 2 + 0.5), source)
        offsets = (np.arange(first, last) + 0.5 - centre) * (1 / width)
        inside = (offsets > -0.5) & (offsets <= 0.5)  # a pixel whose centre lies on the box's edge counts at one end
        matrix[row, first:last] = inside / inside.sum()
    return matrix


def gaussian_blur(images: Tensor, sigma: float, truncate: float = 4.0, edge: str = "nearest") -> Tensor:
    """Smooth the last two axes of `images` by a Gaussian of `sigma` pixels."""
    for axis in (-1, -2):
        side, reach = images.shape[axis], int(truncate * sigma + 0.5)
        matrix = gaussian_matrix(images.device, side, sigma, truncate, edge)
        parts = []
        for start in range(0, side, _BAND):  # a band of the matrix holds all that is not zero in these rows
            near = slice(max(0, start - reach), start + _BAND + reach)
            band = matrix[start : start + _BAND, near]
            parts.append(images[..., near] @ band.T if axis == -1 else band @ images[..., near, :])
        images = torch.cat(parts, dim=axis)
    return images


def _fft_side(least: int) -> int:
    """Return the smallest even 2-3-5-smooth number from `least` up: a fast transform length.

    32 and 64 are passed by: on processors without AVX2, and those that MKL takes for such, transforms of these lengths
    round otherwise for other numbers of threads.
    """
    side = least + least % 2
    while True:
        rest = side
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and side not in (32, 64):
            return side
        side += 2


def correlate(images: Tensor, kernels: Tensor, pads: tuple[int, int, int, int], mode: str) -> Tensor:
    """Correlate (B,C,H,W) images with kernels through the Fourier transform.

    Args:
        images: (B, C, H, W).
        kernels: (1 or B, 1, top + 1 + bottom, left + 1 + right), centred on the pixel itself.
        pads: how far the kernel reaches: (left, right, top, bottom), in pixels.
        mode: border, as `torch.nn.functional.pad` calls it.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, pads, mode=mode)
    sides = (_fft_side(padded.shape[-2]), _fft_side(padded.shape[-1]))
    image, kernel = torch.fft.rfft2(padded, s=sides), torch.fft.rfft2(kernels, s=sides)
    spectrum = torch.complex(  # part by part: the rounding of torch's complex product depends on the place in memory
        (image.real * kernel.real).add_(image.imag * kernel.imag),
        (image.imag * kernel.real).sub_(image.real * kernel.imag),
    )
    if spectrum.shape[:2].numel() == 1:  # a single plane goes through code of its own, which rounds otherwise
        spectrum = torch.cat([spectrum, spectrum])
    filtered: Tensor = torch.fft.irfft2(spectrum, s=sides)
    return filtered[: len(images), :, :height, :width]


def motion_blur(images: Tensor, radius: int, sigma: float, angles: Tensor, towards: Literal["right", "up"]) -> Tensor:
    """Blur along a one-sided line of whole-pixel samples, per image at its own angle; borders repeat the edge.

    Args:
        images: (B, C, H, W).
        radius: the line has 2 * radius + 1 samples, the first of them the pixel itself.
        sigma: deviation of the Gaussian weights, in pixels along the line.
        angles: (B,) radians, y growing downwards, within 45 degrees of `towards`.
        towards: where the lines go; bounds the kernels' reach.
    """
    length = 2 * radius
    aside = math.ceil(length * math.sqrt(0.5))
    pads = (0, length, aside, aside) if towards == "right" else (aside, aside, length, 0)
    left, right, top, bottom = pads
    rows, columns = top + 1 + bottom, left + 1 + right
    steps = torch.arange(length + 1, dtype=torch.float64, device=images.device)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    across = torch.ceil(steps * angles.double().cos()[:, None] - 0.5).long() + left
    down = torch.ceil(steps * angles.double().sin()[:, None] - 0.5).long() + top
    kernels = images.new_zeros(len(images), rows * columns)
    kernels.scatter_add_(1, down * columns + across, (weights / weights.sum()).float().expand(len(images), -1))
    return correlate(images, kernels.view(-1, 1, rows, columns), pads, "replicate")


def sample(images: Tensor, rows: Tensor, columns: Tensor, edge_repeated: bool) -> Tensor:
    """Read (B,C,H,W) images bilinearly at pixel coordinates, mirrored beyond the borders.

    Args:
        images: (B, C, H, W).
        rows: (B, H', W') in pixels, 0 the centre of the first row.
        columns: (B, H', W') likewise.
        edge_repeated: mirror with the edge pixel repeated (SciPy's "reflect"); else without ("reflect-101").
    """
    height, width = images.shape[-2:]
    if edge_repeated:
        grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    else:
        grid = torch.stack([columns * (2 / (width - 1)) - 1, rows * (2 / (height - 1)) - 1], dim=-1)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=not edge_repeated)


def enlarge(crops: Tensor, factor: float, size: tuple[int, int]) -> Tensor:
    """Enlarge (B,C,h,w) by `factor` >= 1, bilinearly with aligned corners, and trim to `size` around the centre.

    `torch.nn.functional.interpolate` does the same, but its rounding depends on the batch.
    """
    for wanted in reversed(size):  # columns, as rows of the transposed image, then rows
        turned = crops.transpose(-1, -2).contiguous()
        low, weight = _positions(turned.device, turned.shape[-2], factor, wanted)
        near, far = turned.index_select(-2, low), turned.index_select(-2, low + 1)
        crops = far.sub_(near).mul_(weight[:, None]).add_(near)
    return crops


def _positions(device: torch.device, side: int, factor: float, wanted: int) -> tuple[Tensor, Tensor]:
    """Return for each enlarged pixel kept the source pixel before it, and the weight of the one after."""
    whole = round(side * factor)
    steps = torch.arange(wanted, dtype=torch.float64, device=device) + (whole - wanted) // 2
    places = steps * ((side - 1) / (whole - 1))
    low = places.long().clamp_(max=side - 2)
    return low, (places - low).float()


def centre_zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarge the centre of (B,C,H,W) images by `factor` >= 1 to their own size, each axis by itself."""
    height, width = images.shape[-2:]
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    return enlarge(images[..., top : top + rows, left : left + columns], factor, (height, width))


def quantise_(images: Tensor) -> Tensor:
    """Truncate values to 256 levels, as the benchmark stores its images; in place, values in [0,1] or beyond.

    A value within a thousandth of the next level counts as that level, so that rounding errors of float32 do not
    decide where an image is flat.
    """
    return images.clamp_(0, 1).mul_(255).add_(2**-10).floor_().div_(255)
