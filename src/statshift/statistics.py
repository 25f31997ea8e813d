"""Statistics of the channels of a feature map: measure, pool, mix.

`var` is always the biased variance, that of a forward pass.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from statshift.errors import InputError


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and biased variance of each channel.

    Attributes:
        mean: (C,) float.
        var: (C,) float, biased.
        count: how many values of a channel they are of (images times positions).
    """

    mean: Tensor
    var: Tensor
    count: int

    @property
    def unbiased_var(self) -> Tensor:
        """The variance with count - 1 in the denominator, which torch stores as `running_var`."""
        return self.var * (self.count / (self.count - 1))


def channel_statistics(features: Tensor) -> ChannelStatistics:
    """Return the statistics of features (B,C) or (B,C,*positions) over images and positions, in float32 or wider.

    Raises:
        InputError: fewer than two values in a channel, for which there is no variance.
    """
    count = features.numel() // max(1, features.shape[1])
    if count < 2:
        raise InputError(f"Expected at least two values in a channel, but got features {tuple(features.shape)}.")
    wide = features if features.dtype == torch.float64 else features.float()
    axes = [axis for axis in range(features.ndim) if axis != 1]
    var, mean = torch.var_mean(wide, dim=axes, correction=0)
    return ChannelStatistics(mean, var, count)


def pool(*parts: ChannelStatistics) -> ChannelStatistics:
    """Return the statistics of all the values together, exactly.

    Reference:
        Chan, Golub & LeVeque, "Algorithms for Computing the Sample Variance", The American Statistician 1983.
    """
    count = sum(part.count for part in parts)
    shares = [part.count / count for part in parts]
    mean = sum((part.mean * share for part, share in zip(parts, shares, strict=True)), torch.zeros(()))
    within = sum((part.var * share for part, share in zip(parts, shares, strict=True)), torch.zeros(()))
    between = sum(((part.mean - mean) ** 2 * share for part, share in zip(parts, shares, strict=True)), torch.zeros(()))
    return ChannelStatistics(mean, within + between, count)


def mix(source: ChannelStatistics, target: ChannelStatistics, source_weight: float) -> ChannelStatistics:
    """Return source and target weighted linearly in mean and in variance; this is not pooling.

    Args:
        source: its statistics.
        target: its statistics.
        source_weight: in [0,1]; 1 is the source.

    Raises:
        InputError: a weight outside [0,1].

    Reference:
        Schneider et al., NeurIPS 2020, section 3.
    """
    if not (0 <= source_weight <= 1 and math.isfinite(source_weight)):
        raise InputError(f"Expected `source_weight` in [0,1], but got {source_weight}.")
    return ChannelStatistics(
        source_weight * source.mean + (1 - source_weight) * target.mean,
        source_weight * source.var + (1 - source_weight) * target.var,
        target.count,
    )
