"""Feature divergence: how far apart two data sets lie for a model, layer by layer, without labels."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.errors import InputError
from statshift.models import PixelModel, check_input
from statshift.norms.layers import batch_norms, before_forward, evaluating, run
from statshift.norms.shrinkage import check_finite, met_twice
from statshift.norms.statistics import ChannelStatistics, instance_statistics, pool


@dataclass(frozen=True)
class Divergence:
    """How far apart a model's features of two data sets lie.

    Attributes:
        layers: names of the norm layers, in execution order.
        values: (L,) at least 0, the symmetric KL divergence of each layer's channels, averaged over them.
        images: how many there were of the first set and of the second.
    """

    layers: list[str]
    values: NDArray[np.float64]
    images: tuple[int, int]


def symmetric_divergence(first: ChannelStatistics, second: ChannelStatistics) -> Tensor:
    """Return KL(A||B) + KL(B||A) (C,) float64 between the Gaussians of each channel.

    The logarithms of the two directions cancel. Equal constants (no variance in either, equal means) have divergence
    0; a constant and anything else, infinity.

    Args:
        first: (C,).
        second: (C,).

    Reference:
        Shu et al., NeurIPS 2021 (AdvBN), equation 5.
    """
    apart = (first.mean.double() - second.mean.double()).square()
    one, other = first.var.double(), second.var.double()
    found = ((one - other).square() + apart * (one + other)) / (2 * one * other)
    constants = torch.where(apart == 0, 0.0, torch.inf)
    return torch.where((one == 0) & (other == 0), constants, found)


@torch.no_grad()
def divergence(model: nn.Module, first: Iterable[Tensor], second: Iterable[Tensor]) -> Divergence:
    """Measure how far apart the model's features of two data sets lie at each norm layer, by one pass over each.

    Features are the norms' inputs. The divergence between Gaussians does not change under an affine map of a channel,
    so the norms' outputs give the same figures. Sampling alone makes it positive: compare figures of equally many
    images.

    Args:
        model: a `PixelModel`, or a module that takes the images as they are; left as found.
        first: batches of images (B,3,H,W) in [0,1] on the model's device; how they are batched does not matter.
        second: likewise, of the other data set.

    Raises:
        InputError: a model without batch norm, no batch, images that the model cannot take, features that are not
            finite, a single value in a channel, or a layer that a forward meets twice.

    Reference:
        Shu et al., NeurIPS 2021 (AdvBN), section 5.3, equation 4.

    Differs:
        A variance below the layer's `eps` counts as `eps`, as little as the norm itself tells from none: otherwise a
        channel that is constant in one set only would make its layer's divergence infinite. The paper does not say at
        which points of its layers the features are taken; here they are taken at the norms.
    """
    layers = batch_norms(model.network if isinstance(model, PixelModel) else model)
    one, images = _observe(model, layers, first, "first")
    other, other_images = _observe(model, layers, second, "second")
    names = [name for name in one if name in other]
    found = [
        symmetric_divergence(*(_floored(pooled[name], layers[name].eps) for pooled in (one, other))).mean()
        for name in names
    ]
    return Divergence(names, torch.stack(found).cpu().numpy(), (images, other_images))


def _observe(
    model: nn.Module, layers: dict[str, _BatchNorm], batches: Iterable[Tensor], which: str
) -> tuple[dict[str, ChannelStatistics], int]:
    """Return the statistics of each layer's input over all batches, in execution order, and the number of images."""
    pooled: dict[str, ChannelStatistics] = {}
    met: set[str] = set()
    count = 0

    def observe_layer(name: str, layer: _BatchNorm, features: Tensor) -> None:
        if name in met:
            raise met_twice(name)
        met.add(name)
        seen = _moments(features)
        pooled[name] = pool(pooled[name], seen) if name in pooled else seen

    with before_forward(layers, observe_layer), evaluating(model):
        for images in batches:
            check_input(model, images)
            met.clear()
            run(model, images)
            count += len(images)
    if count == 0:
        raise InputError(f"Expected at least one batch of images in `{which}`, but there is none.")
    check_finite({name: one.var for name, one in pooled.items()})
    for name, one in pooled.items():
        if one.count < 2:
            raise InputError(f"The layer {name} has a single value in a channel of `{which}`: give more images.")
    return pooled, count


def _moments(features: Tensor) -> ChannelStatistics:
    """Return the statistics (C,) float64 of features (B,C) or (B,C,*positions), a single value's included."""
    one = instance_statistics(features)
    var, mean = torch.var_mean(one.mean.double(), dim=0, correction=0)
    return ChannelStatistics(mean, one.var.double().mean(0) + var, len(one.mean) * one.count)


def _floored(statistics: ChannelStatistics, eps: float) -> ChannelStatistics:
    return replace(statistics, var=statistics.var.clamp(min=eps))
