"""Adaptive instance normalization: features get the channel statistics of others, a style's.

Reference: Huang & Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization" (ICCV 2017).
"""

import math

import torch
from torch import Tensor

from statshift._core.errors import InputError
from statshift.norms.statistics import ChannelStatistics, instance_statistics

CONSTANT = 1e-6
"""A channel whose deviation is at most this share of its mean is constant, but for float32's rounding."""


def adain(features: Tensor, style: ChannelStatistics, alpha: float = 1.0) -> Tensor:
    """Return features whose channels have, image by image, the mean and the deviation of a style.

    A channel that is constant in an image stays constant, at the style's mean: it has no deviation to scale.

    Args:
        features: (B,C,h,w).
        style: `mean` and biased `var`, (C,) for all images or (B,C) for each its own, as `instance_statistics` returns
            them of a style's features.
        alpha: how far to go, in [0,1]; 0 returns the features as they are, 1 those with the style's statistics.

    Raises:
        InputError: features or statistics of another shape, or an alpha that is not in [0,1].

    Reference:
        Huang & Belongie, ICCV 2017, equations 8 and 14.

    Differs:
        No eps is added to a variance, so that the statistics are the style's in channels of small variance too; the
        authors add 1e-5. The variance is biased, which the authors' is not.
    """
    check_alpha(alpha)
    if features.ndim != 4:
        raise InputError(f"Expected features (B,C,h,w), but got shape {tuple(features.shape)}.")
    shape = tuple(features.shape[:2])
    for name, values in (("mean", style.mean), ("var", style.var)):
        if tuple(values.shape) not in (shape, shape[1:]):
            raise InputError(
                f"Expected the style's `{name}` to be of shape {shape[1:]} or {shape}, as the features' channels, but "
                f"got {tuple(values.shape)}."
            )
    own = instance_statistics(features)
    deviation = own.var.sqrt()
    least = torch.clamp(own.mean.abs() * CONSTANT, min=2 * math.sqrt(torch.finfo(own.var.dtype).tiny))
    scale = torch.where(deviation > least, style.var.to(own.var).sqrt() / deviation, 0)
    scale = alpha * scale + (1 - alpha)
    mean = torch.lerp(own.mean, style.mean.to(own.mean).expand(shape), alpha)
    centred = features - own.mean[..., None, None]
    return torch.addcmul(mean[..., None, None], centred, scale[..., None, None]).to(features.dtype)


def check_alpha(alpha: float) -> None:
    """Raise InputError unless `alpha` is in [0,1]."""
    if not 0 <= alpha <= 1:
        raise InputError(f"Expected `alpha` in [0,1], but got {alpha}.")
