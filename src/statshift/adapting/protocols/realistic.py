"""A prior for each layer, from how far its statistics have gone, and an average over batches."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.errors import InputError
from statshift.adapting.families import Stream
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocol import Number
from statshift.adapting.stepping import Stepping
from statshift.models import PixelModel, extract_logits
from statshift.norms.divergence import symmetric_divergence
from statshift.norms.layers import batch_norms, before_forward, evaluating, keeping_statistics, run
from statshift.norms.selection import select_layers, write
from statshift.norms.shrinkage import check_finite, met_twice, observe, stored_statistics
from statshift.norms.statistics import ChannelStatistics, mix

MOMENTA = ((64, 1.0), (4, 0.1), (1, 0.01))
"""The newest batch's weight, by its images at least: the authors', for CIFAR's 10 and 100 classes."""

MOMENTA_OF_MANY = ((200, 1.0), (16, 0.1), (1, 0.01))
"""Likewise for ImageNet's 1000 classes, of which a batch shows few."""

MANY = 1000
"""Classes."""

LEAST_VAR = 1e-5
"""What the divergence has beside the variances."""


@dataclass(frozen=True)
class Realistic(Stream):
    """Normalise by a mixture of the source's statistics and an average over batches, with a weight for each layer.

    A first forward moves each layer's average (test-time exponential moving average) by the batch, and measures its
    symmetric Kullback-Leibler divergence from the source, as of independent normal channels. Divergences,
    standardised over the layers and cut at one deviation to either side, become source weights from 0 to `most`. A
    second forward answers, by the mixture's mean and variance. An average of the weights, from 0 on, is what the next
    batch's first forward mixes by.

    Attributes:
        momentum: the newest batch's weight in the average of statistics, in [0,1]; None is the authors' for its
            number of images and the number of classes, see `MOMENTA`.
        most: the largest source weight, 1/2 in the authors' code.
        weight_momentum: the newest batch's weight in the average of the layers' weights, 0.1 there.

    Reference:
        Su et al., "Unraveling Batch Normalization for Realistic Test-Time Adaptation", AAAI 2024; numbers, the order
        of the two forwards and 1e-5 beside the variances in the divergence are those of
        github.com/kiwi12138/RealisticTTA.

    Differs:
        The average of statistics begins at the source's, not at mean 0 and variance 1, which makes no difference for
        the momentum 1. Variances are biased, unless `unbiased` is asked for. Layers that all lie equally far, or a
        single one, have half the largest weight.

    Raises:
        InputError: numbers that cannot be; in a step, a model without batch norm.
    """

    name = "realistic"
    summary = "Su et al., AAAI 2024: a prior for each layer"
    number = Number("momentum", 0, 1)
    rewrites = True
    changes = ("statistics",)
    forwards = 2

    momentum: float | None = None
    most: float = 0.5
    weight_momentum: float = 0.1

    def __post_init__(self) -> None:
        for name in ("momentum", "most", "weight_momentum"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"Expected `{name}` in [0,1], but got {value}.")

    def begin(self, model: nn.Module, options: AdaptationOptions) -> "Mixing":
        """Return what moves each layer's average and weight by a batch, and answers it."""
        return Mixing(model, self, options)


class Averaged(nn.Module):
    """What is kept of a norm layer.

    Attributes:
        source_mean: (C,) what the source has stored.
        source_var: (C,).
        mean: (C,) the average over the stream.
        var: (C,).
        weight: () the average source weight.
    """

    source_mean: Tensor
    source_var: Tensor
    mean: Tensor
    var: Tensor
    weight: Tensor

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__()
        stored = stored_statistics(layer)
        for part, value in (("mean", stored.mean), ("var", stored.var)):
            wide = value if value.dtype == torch.float64 else value.float()
            self.register_buffer(f"source_{part}", wide.clone())
            self.register_buffer(part, wide.clone())
        self.register_buffer("weight", self.mean.new_zeros(()))

    @property
    def source(self) -> ChannelStatistics:
        """What the source has stored."""
        return ChannelStatistics(self.source_mean, self.source_var, 0)

    @property
    def average(self) -> ChannelStatistics:
        """The average over the stream."""
        return ChannelStatistics(self.mean, self.var, 0)


class Mixing(Stepping):
    """Answer each batch by a mixture of each layer's statistics at the source and over the stream.

    Attributes:
        kept: of each norm layer, in the order of the model's modules.
    """

    def __init__(self, model: nn.Module, how: Realistic, options: AdaptationOptions) -> None:
        super().__init__(model)
        self.how, self.options = how, options
        layers = batch_norms(model.network if isinstance(model, PixelModel) else model)
        self.kept = nn.ModuleList(map(Averaged, layers.values()))
        self._by_name = {name: cast(Averaged, kept) for name, kept in zip(layers, self.kept, strict=True)}
        self._classes: int | None = None

    @torch.no_grad()
    def step(self, images: Tensor) -> Tensor:
        """Return logits (B,K)."""
        layers = select_layers(self.model, images, self.options.where)
        with keeping_statistics(layers, unless_done=True):
            averages = self._observe(layers, images)
            check_finite({name: average.var for name, average in averages.items()})
            apart = [distance(self._by_name[name].source, average) for name, average in averages.items()]
            weights = dict(zip(averages, layer_weights(torch.stack(apart), self.how.most), strict=True))
            logits = self._run(
                layers, images, lambda name, _: mixture(self._by_name[name].source, averages[name], weights[name])
            )
        share = self.how.weight_momentum
        for name, average in averages.items():
            kept = self._by_name[name]
            kept.mean.copy_(average.mean)
            kept.var.copy_(average.var)
            kept.weight.mul_(1 - share).add_(share * weights[name])
        return logits

    def _observe(self, layers: dict[str, _BatchNorm], images: Tensor) -> dict[str, ChannelStatistics]:
        """Return by layer, in the order of execution, the average that the batch has moved."""
        momentum = self.how.momentum
        if momentum is None:
            momentum = usual_momentum(len(images), self._count_classes(images))
        averages: dict[str, ChannelStatistics] = {}

        def move(name: str, features: Tensor) -> ChannelStatistics:
            if name in averages:
                raise met_twice(name)
            kept, seen = self._by_name[name], observe(name, features)
            if self.options.unbiased:
                seen = replace(seen, var=seen.unbiased_var)
            averages[name] = mix(seen, kept.average, momentum)
            return mixture(kept.source, averages[name], kept.weight)

        self._run(layers, images, move)
        return averages

    def _run(
        self, layers: dict[str, _BatchNorm], images: Tensor, target: Callable[[str, Tensor], ChannelStatistics]
    ) -> Tensor:
        """Return the logits of a forward in which each layer uses what `target` returns for its features."""

        def rewrite(name: str, layer: _BatchNorm, features: Tensor) -> None:
            write(layer, target(name, features), self.options.statistics)

        with before_forward(layers, rewrite), evaluating(self.model):
            logits: Tensor = run(self.model, images)
        return logits

    def _count_classes(self, images: Tensor) -> int:
        """Return how many classes the model tells apart, which a forward of one image counts the first time."""
        if self._classes is None:
            with evaluating(self.model):
                self._classes = extract_logits(run(self.model, images[:1])).shape[1]
        return self._classes


def mixture(source: ChannelStatistics, target: ChannelStatistics, source_weight: Tensor) -> ChannelStatistics:
    """Return mean and variance of values of which a share () is of the source and the rest of the target."""
    apart = (source.mean - target.mean).square()
    return ChannelStatistics(
        torch.lerp(target.mean, source.mean, source_weight),
        torch.lerp(target.var, source.var, source_weight) + source_weight * (1 - source_weight) * apart,
        target.count,
    )


def distance(source: ChannelStatistics, target: ChannelStatistics) -> Tensor:
    """Return () half the sum of both Kullback-Leibler divergences of independent normal channels."""
    one, other = (replace(statistics, var=statistics.var + LEAST_VAR) for statistics in (source, target))
    return (symmetric_divergence(one, other).sum() / 2).to(target.mean)


def layer_weights(distances: Tensor, most: float) -> Tensor:
    """Return source weights (L,) from 0 to `most`: the distances (L,) in deviations from their mean, cut at 1."""
    apart, width = distances - distances.mean(), distances.std(correction=0)
    return (torch.where(width > 0, apart / width, 0).clamp(-1, 1) + 1) / 2 * most


def usual_momentum(images: int, classes: int) -> float:
    """Return the authors' weight of a newest batch of so many images of so many classes."""
    table = MOMENTA_OF_MANY if classes >= MANY else MOMENTA
    return next(momentum for least, momentum in table if images >= least)
