"""Statistics of the channels of a feature map: measure, pool, mix.

`var` is always the biased variance, that of a forward pass.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from statshift._core.errors import InputError


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


@dataclass(frozen=True)
class Observed(ChannelStatistics):
    """What a layer observes in some images, and how far that would move with other images.

    Attributes:
        instances: mean and variance (B,C) of each image's own channels.
        quarters: those (R,2,B,C) of the left and right part of its R rows of parts, of `quarter_statistics`; None where
            they were not asked for, or maps have a single column.
    """

    instances: ChannelStatistics
    quarters: ChannelStatistics | None = None

    @property
    def spreads(self) -> tuple[Tensor, Tensor]:
        """Biased variances (C,) between images of what an image adds to `mean` and to `var`."""
        from_mean = (self.instances.mean - self.mean).square_()
        from_var = (self.instances.var + from_mean - self.var).square_()
        return from_mean.mean(0), from_var.mean(0)

    @property
    def apart(self) -> tuple[Tensor, Tensor] | None:
        """Variances (C,) between neighbouring quarters of what they add to `mean` and to `var`, None without any."""
        if self.quarters is None:
            return None
        adds = self.quarters.mean, self.quarters.var + (self.quarters.mean - self.mean).square_()
        from_mean, from_var = ((left - right).square_().mean(0) / 2 for left, right in (one.unbind(1) for one in adds))
        return from_mean.mean(0), from_var.mean(0)


def instance_statistics(features: Tensor) -> ChannelStatistics:
    """Return the statistics (B,C) of each image's own channels, features (B,C) or (B,C,*positions).

    They are float32, or float64 where the features are.

    Reference:
        Benz et al., WACV 2021, equation 3.
    """
    wide = features if features.dtype == torch.float64 else features.float()
    if wide.ndim == 2:
        return ChannelStatistics(wide, torch.zeros_like(wide), 1)
    wide = wide.flatten(2)
    images, channels, positions = wide.shape
    if wide.is_cuda:
        var, mean = torch.var_mean(wide, dim=2, correction=0)
    else:  # where torch.var_mean takes ten times as long; one channel to a group, so these are its moments
        tiny = torch.finfo(wide.dtype).tiny
        _, mean, inverse = torch.native_group_norm(wide, None, None, images, channels, positions, channels, tiny)
        var = inverse.pow(-2)
    return ChannelStatistics(mean, var, positions)


def quarter_statistics(features: Tensor) -> ChannelStatistics | None:
    """Return the statistics (R,2,B,C) of the quarters of each image's own channels.

    Features of shape (B,C,H,W) have R = 2 rows of a left and a right quarter, those of one row R = 1; a middle row or
    column is left out. Leading dimensions of more count as rows. Features of a single column have no quarters: None.

    Args:
        features: (B,C) or (B,C,*positions).
    """
    if features.ndim == 2 or features.shape[-1] < 2:
        return None
    maps = features.unsqueeze(2) if features.ndim == 3 else features.flatten(2, -2)
    rows, columns = maps.shape[2:]
    height, width = max(1, rows // 2), columns // 2
    parts = [
        instance_statistics(maps[:, :, top : top + height, left : left + width])
        for top in sorted({0, rows - height})
        for left in (0, columns - width)
    ]
    mean, var = (torch.stack([getattr(one, name) for one in parts]) for name in ("mean", "var"))
    return ChannelStatistics(mean.view(-1, 2, *mean.shape[1:]), var.view(-1, 2, *var.shape[1:]), parts[0].count)


def channel_statistics(features: Tensor, *, quarters: bool = False) -> Observed:
    """Return the statistics of features (B,C) or (B,C,*positions) over images and positions.

    Args:
        features: at least two values of each channel.
        quarters: measure the quarters of the maps too.

    Raises:
        InputError: fewer than two values in a channel, for which there is no variance.
    """
    one = instance_statistics(features)
    images = len(one.mean)
    if images * one.count < 2:
        raise InputError(f"Expected at least two values in a channel, but got features {tuple(features.shape)}.")
    mean = one.mean.mean(0)
    between = (one.mean - mean).square_().mean(0)
    parts = quarter_statistics(features) if quarters else None
    return Observed(mean, one.var.mean(0).add_(between), images * one.count, one, parts)


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
