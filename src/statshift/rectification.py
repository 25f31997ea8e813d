"""Rectify: re-estimate batch-norm statistics from a few unlabelled images, by published protocols, by name.

A protocol is a function from what a layer has stored and what it observes in the images to what it shall use. All
layers are rectified in one forward pass, each before it normalises, so that later layers see inputs already rectified
by earlier ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace as with_changes
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift.errors import InputError, unknown
from statshift.layers import batch_norms, before_forward, evaluating, execution_order, keeping_statistics
from statshift.models import PixelModel
from statshift.statistics import ChannelStatistics, channel_statistics, mix

THIRDS = ("front", "middle", "end")
PARTS = ("both", "mean", "var")


def source(stored: ChannelStatistics, observed: ChannelStatistics, images: int) -> ChannelStatistics:
    """Keep what is stored: the untouched model."""
    return stored


def replace(stored: ChannelStatistics, observed: ChannelStatistics, images: int) -> ChannelStatistics:
    """Replace what is stored by the statistics of the images.

    Reference:
        Benz et al., WACV 2021, section 4.
    """
    return observed


def prior(
    stored: ChannelStatistics, observed: ChannelStatistics, images: int, *, prior_count: float = 16
) -> ChannelStatistics:
    """Mix linearly in mean and in variance, as if what is stored were of `prior_count` images (0 or more).

    Reference:
        Schneider et al., NeurIPS 2020, section 3.
    """
    if not prior_count >= 0:
        raise InputError(f"Expected `prior_count` to be 0 or more, but got {prior_count}.")
    return mix(stored, observed, 1 - images / (prior_count + images))


Protocol = Callable[..., ChannelStatistics]
PROTOCOLS: dict[str, Protocol] = {"source": source, "replace": replace, "prior": prior}


def rectify(model: nn.Module, images: Tensor, protocol: str | Protocol = "replace", **options: Any) -> nn.Module:
    """Return a copy of the model whose batch-norm statistics are re-estimated from images; see `rectified`."""
    adapted = deepcopy(model)
    _rewrite(adapted, images, protocol, **options)
    return adapted


@contextmanager
def rectified(
    model: nn.Module, images: Tensor, protocol: str | Protocol = "replace", **options: Any
) -> Iterator[nn.Module]:
    """Re-estimate the batch-norm statistics of the model itself while the context lasts.

    What is written are the layers' running statistics, so it holds in evaluation mode whatever is called in between,
    and the layers' own `eps`, affine terms and activations stay. One forward pass of the images; on leaving, also by
    an exception, the model is as it was found.

    Args:
        model: a `PixelModel`, or a module that takes the images as they are.
        images: (n,3,H,W), unlabelled.
        protocol: a name in `PROTOCOLS`, or a function of (stored, observed, number of images).
        **options: `statistics`: "both", "mean" or "var" are rewritten. `where`: "all"; "front", "middle" or "end",
            thirds of the layers in execution order as `numpy.array_split` makes them; or a pattern of layer names.
            `unbiased`: write the variance with count - 1 in the denominator, as torch's own cumulative mode does;
            by default the biased one, with which evaluation reproduces the forward that was measured. Others go to
            the protocol (`prior_count`).

    Raises:
        InputError: a model without batch norm, no image, a single value in a channel, NaN in features, a layer met
            twice in a forward, or an option that cannot be.

    Reference:
        Benz et al., WACV 2021, sections 4 (protocol), 6.2 (mean or variance alone), 6.3 (thirds).
    """
    with keeping_statistics(batch_norms(model)):
        _rewrite(model, images, protocol, **options)
        yield model


@torch.no_grad()
def _rewrite(
    model: nn.Module,
    images: Tensor,
    protocol: str | Protocol,
    *,
    statistics: str = "both",
    where: str = "all",
    unbiased: bool = False,
    **numbers: Any,
) -> None:
    """Rewrite the running statistics of the model's batch norms."""
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise unknown("protocol", protocol, PROTOCOLS)
        protocol = PROTOCOLS[protocol]
    if statistics not in PARTS:
        raise unknown("statistics", statistics, PARTS)
    if images.ndim != 4 or len(images) == 0:
        raise InputError(f"Expected at least one image, (n, 3, H, W), but got shape {tuple(images.shape)}.")
    layers = select_layers(model, images, where)
    decide = partial(protocol, images=len(images), **numbers)
    seen: dict[str, tuple[ChannelStatistics, ChannelStatistics]] = {}

    def rectify_layer(name: str, layer: _BatchNorm, features: Tensor) -> None:
        if name in seen:
            raise InputError(f"The layer {name} is met twice in one forward: it has no statistics of its own.")
        try:
            observed = channel_statistics(features)
        except InputError as error:
            raise InputError(f"The layer {name} cannot be rectified: {error}") from error
        stored = _stored(layer)
        seen[name] = stored, observed
        _write(layer, decide(stored, observed), statistics)

    with before_forward(layers, rectify_layer), evaluating(model):
        model(images)
    _check_finite(seen)
    if unbiased:  # only now: the pass itself normalises by the biased variance, as a training forward does
        for name, (stored, observed) in seen.items():
            _write(layers[name], decide(stored, with_changes(observed, var=observed.unbiased_var)), statistics)


def select_layers(model: nn.Module, images: Tensor, where: str = "all") -> dict[str, _BatchNorm]:
    """Return the batch norms that `where` names, by name; see `rectified`.

    Raises:
        InputError: the pattern matches no layer.
    """
    layers = batch_norms(model.network if isinstance(model, PixelModel) else model)
    if where == "all":
        return layers
    if where in THIRDS:
        third = np.array_split(execution_order(model, layers, images[:1]), 3)[THIRDS.index(where)]
        return {name: layers[name] for name in third.tolist()}
    chosen = {name: layer for name, layer in layers.items() if fnmatchcase(name, where)}
    if not chosen:
        raise unknown("place or pattern of layers", where, ["all", *THIRDS, *layers])
    return chosen


def _stored(layer: _BatchNorm) -> ChannelStatistics:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return ChannelStatistics(layer.running_mean.clone(), layer.running_var.clone(), 0)


def _write(layer: _BatchNorm, target: ChannelStatistics, statistics: str) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    if statistics != "var":
        layer.running_mean.copy_(target.mean)
    if statistics != "mean":
        layer.running_var.copy_(target.var)


def _check_finite(seen: dict[str, tuple[ChannelStatistics, ChannelStatistics]]) -> None:
    """Raise InputError naming the first layer that observed what is not finite; one transfer for all layers."""
    if not seen:
        raise InputError("The forward met none of the layers to be rectified.")
    finite = torch.stack([observed.var.isfinite().all() for _, observed in seen.values()]).tolist()
    if not all(finite):
        raise InputError(f"The features before {list(seen)[finite.index(False)]} are not finite: check the images.")
