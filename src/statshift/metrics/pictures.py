"""How near pictures are to their originals: PSNR and SSIM."""

import torch
from torch import Tensor
from torch.nn import functional as F

from statshift._core.errors import InputError

WINDOW = 11
"""px, the side of SSIM's window."""

DEVIATION = 1.5
"""px, the deviation of the Gaussian within it."""


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio (B,) in dB of images (B,C,H,W) in [0,1]; infinite where they are equal."""
    _check_alike(images, references)
    errors = (images.double() - references.double()).square().flatten(1).mean(1)
    return -10 * errors.log10()


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Return the structural similarity (B,), at most 1, of images (B,C,H,W) in [0,1].

    It is the mean over the channels and over the places at which the whole window lies within the image.

    Raises:
        InputError: tensors of other shapes, or images smaller than the window of 11 px.

    Reference:
        Wang et al., "Image Quality Assessment" (IEEE TIP 2004), section III.B: a Gaussian window of 11 x 11 px and
        deviation 1.5, K1 = 0.01, K2 = 0.03, and a range of 1.

    Differs:
        Wang et al. compare grey images.
    """
    _check_alike(images, references)
    if min(images.shape[-2:]) < WINDOW:
        raise InputError(f"Expected images of at least {WINDOW} px for SSIM, but got {tuple(images.shape[-2:])}.")
    first, second = images.float(), references.float()
    stacked = torch.cat([first, second, first * first, second * second, first * second])
    mean, other, square, other_square, product = _blurred(stacked).chunk(5)
    variance, other_variance, covariance = square - mean**2, other_square - other**2, product - mean * other
    low, high = 0.01**2, 0.03**2
    similar = (2 * mean * other + low) * (2 * covariance + high)
    scale = (mean**2 + other**2 + low) * (variance + other_variance + high)
    return (similar / scale).flatten(1).mean(1).double()


def _blurred(images: Tensor) -> Tensor:
    """Return the Gaussian means of images (B,C,H,W) over all windows that lie within them."""
    places = torch.arange(WINDOW, device=images.device) - WINDOW // 2
    weights = (-(places**2) / (2 * DEVIATION**2)).exp()
    weights = (weights / weights.sum()).view(1, 1, 1, -1)
    planes = images.flatten(0, 1)[:, None]
    blurred = F.conv2d(F.conv2d(planes, weights), weights.transpose(2, 3))
    return blurred.view(*images.shape[:2], *blurred.shape[2:])


def _check_alike(images: Tensor, references: Tensor) -> None:
    if images.shape != references.shape or images.ndim != 4:
        raise InputError(
            f"Expected images (B,C,H,W) and references of one shape, but got {tuple(images.shape)} and "
            f"{tuple(references.shape)}."
        )
