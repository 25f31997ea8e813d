"""The 19 common corruptions on batched tensors, addressed by seed and image index.

Reference: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019.
"""

from pathlib import Path

import torch
from torch import Tensor

from statshift._core.errors import unknown
from statshift.metrics.classification import SEVERITIES as SEVERITIES
from statshift.shifts.corruptions.constants import table_for as table_for
from statshift.shifts.corruptions.corruption import REENCODE_QUALITY as REENCODE_QUALITY
from statshift.shifts.corruptions.corruption import SMALLEST as SMALLEST
from statshift.shifts.corruptions.corruption import Corruption as Corruption
from statshift.shifts.corruptions.corruption import check_severity as check_severity
from statshift.shifts.corruptions.frost import frost_source as frost_source
from statshift.shifts.registry import C_BAR as C_BAR
from statshift.shifts.registry import COMMON as COMMON
from statshift.shifts.registry import CORRUPTIONS as CORRUPTIONS
from statshift.shifts.registry import HOLDOUT as HOLDOUT
from statshift.shifts.registry import SHIFTS
from statshift.shifts.shift import CorruptionOptions
from statshift.shifts.shift import Table as Table


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
    scale_constants: bool = True,
) -> Tensor:
    """Corrupt images as the common-corruption benchmark does.

    An image's corrupted pixels depend on its index, the name, severity and seed alone: not on the batch, its order
    or the device.

    Args:
        images: (B, 3, H, W) floating, RGB in [0,1], sides of at least 32 px; left as they are. On the CPU range
            and NaN are checked.
        name: one of `CORRUPTIONS`, or of ImageNet-C-bar or CIFAR-10-C-bar (see docs/c-bar.md).
        severity: 1 to 5.
        seed: any integer.
        indices: (B,) the images' indices in their data set; 0, 1, ... by default.
        table: "imagenet" or "cifar" constants; by default CIFAR's below 64 px.
        quantise: truncate to multiples of 1/255, as the benchmark stores its images.
        reencode: store as JPEG of quality 85 and read again, as ImageNet-C's files were.
        frost: folder of the frost photographs; see `find_photographs`.
        scale_constants: ImageNet's constants in pixels grow with the shorter side, over 224 px; False takes them as
            they stand at any size, as Cityscapes-C is made.

    Returns:
        (B, 3, H, W) of the images' dtype and device, in [0,1].

    Raises:
        InputError: an unknown name, a severity out of range, images of another shape, type, size or range.

    Reference:
        Hendrycks & Dietterich, ICLR 2019, section 3 and the authors' scripts; Michaelis et al., "Benchmarking
        Robustness in Object Detection", 2019, for other sizes; Mintun et al., NeurIPS 2021, for C-bar.
    """
    if name not in (names := (*CORRUPTIONS, *C_BAR)):
        raise unknown("corruption", name, names)
    how = CorruptionOptions(seed, table, quantise, reencode, frost, scale_constants)
    places = torch.arange(len(images) if isinstance(images, Tensor) else 0) if indices is None else indices
    chosen = SHIFTS[name].load().configured(name, how)
    corrupted: Tensor = chosen.make(images, severity, seed=seed, indices=places)
    return corrupted
