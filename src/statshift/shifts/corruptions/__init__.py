"""The 19 common corruptions on batched tensors, addressed by seed and image index.

Reference: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor

from statshift._core.errors import InputError, unknown
from statshift._core.randomness import Draws
from statshift.data.checks import check_images
from statshift.metrics.classification import SEVERITIES as SEVERITIES
from statshift.shifts.corruptions import blur, digital, noise, weather
from statshift.shifts.corruptions.constants import TABLES, constants
from statshift.shifts.corruptions.constants import Table as Table
from statshift.shifts.corruptions.constants import table_for as table_for
from statshift.shifts.corruptions.filters import quantise_
from statshift.shifts.corruptions.frost import find_photographs, photographs
from statshift.shifts.corruptions.frost import frost_source as frost_source
from statshift.shifts.corruptions.frost import warn_without_photographs as warn_without_photographs
from statshift.shifts.corruptions.jpeg import compress
from statshift.shifts.corruptions.spatter import spatter

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": spatter,
    "saturate": digital.saturate,
}
CORRUPTIONS = tuple(_FUNCTIONS)
COMMON = CORRUPTIONS[:15]
HOLDOUT = CORRUPTIONS[15:]
SMALLEST = 32  # px, the shorter side

_CACHE = 1 << 20  # values corrupted at once on the CPU, so that the intermediate results stay in cache
REENCODE_QUALITY = 85  # ImageNet-C is stored as JPEG of this quality


@torch.no_grad()
def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    *,
    seed: int = 0,
    indices: Tensor | None = None,
    table: Table | None = None,
    quantise: bool = True,
    reencode: bool = False,
    frost: str | Path | None = None,
) -> Tensor:
    """Corrupt images as the common-corruption benchmark does.

    An image's corrupted pixels depend on its index, the name, severity and seed alone: not on the batch, its order
    or the device.

    Args:
        images: (B, 3, H, W) floating, RGB in [0,1], sides of at least 32 px; left as they are. On the CPU range
            and NaN are checked.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: any integer.
        indices: (B,) the images' indices in their data set; 0, 1, ... by default.
        table: "imagenet" or "cifar" constants; by default CIFAR's below 64 px.
        quantise: truncate to multiples of 1/255, as the benchmark stores its images.
        reencode: store as JPEG of quality 85 and read again, as ImageNet-C's files were.
        frost: folder of the frost photographs; see `find_photographs`.

    Returns:
        (B, 3, H, W) of the images' dtype and device, in [0,1].

    Raises:
        InputError: an unknown name, a severity out of range, images of another shape, type, size or range.

    Reference:
        Hendrycks & Dietterich, ICLR 2019, section 3 and the authors' scripts.
    """
    if name not in _FUNCTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    check_severity(severity)
    try:
        seed = operator.index(seed)
    except TypeError:
        raise InputError(f"Expected `seed` to be an integer, but got {seed!r}.") from None
    check_images(images, least=0)
    height, width = images.shape[-2:]
    if images.shape[1] != 3:
        raise InputError(f"Expected images (B,3,H,W), RGB, but got shape {tuple(images.shape)}.")
    if min(height, width) < SMALLEST:
        raise InputError(f"Expected images of at least {SMALLEST} px, but got {height} x {width}.")
    side = min(height, width)
    if table is not None and table not in TABLES:
        raise unknown("table", table, TABLES)
    table = table or table_for(side)
    arguments = constants(name, severity, side, table)
    if name == "frost":
        warn_without_photographs(frost)
        folder = find_photographs(frost)
        arguments["photographs"] = photographs(folder, (height, width), table == "cifar", images.device)
    indices = torch.arange(len(images), device=images.device) if indices is None else torch.as_tensor(indices)
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise InputError(f"Expected `indices` to be integers, but got {indices.dtype}.")
    if indices.shape != images.shape[:1]:
        raise InputError(f"Expected `indices` of shape ({len(images)},), but got {tuple(indices.shape)}.")
    indices = indices.to(images.device, torch.int64)
    out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    chunk = max(1, _CACHE // (3 * height * width)) if images.device.type == "cpu" else max(1, len(images))
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        draws = Draws(seed, indices[part], f"{name}/{severity}")
        with _full_precision(images.device):
            result = _FUNCTIONS[name](images[part].float().contiguous(), draws, **arguments)
            out[part] = finish(result, quantise, reencode)
    return out.to(images.dtype)


def finish(images: Tensor, quantise: bool, reencode: bool) -> Tensor:
    """Store float32 images as the benchmark does, in place: clipped to [0,1], truncated to 8 bits, as JPEG."""
    images = quantise_(images) if quantise else images.clamp_(0, 1)
    return compress(images, REENCODE_QUALITY) if reencode else images


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Keep products in float32, whatever autocast or the caller's matmul precision say."""
    backend = (torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn).matmul
    kept = backend.fp32_precision
    backend.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        backend.fp32_precision = kept


def check_severity(severity: object) -> None:
    """Raise InputError unless `severity` is an integer from 1 to 5."""
    if isinstance(severity, bool) or not isinstance(severity, Integral) or severity not in SEVERITIES:
        raise InputError(f"Expected `severity` to be an integer from 1 to 5, but got {severity!r}.")
