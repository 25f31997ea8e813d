"""Rectify: re-estimate batch-norm statistics from a few unlabelled images, by published protocols, by name.

A protocol is a function from what a layer has stored and what it observes in the images to what it shall use. All
layers are rectified in one forward pass, each before it normalises, so that later layers see inputs already rectified
by earlier ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace as with_changes
from inspect import Parameter, signature
from typing import Any, cast
from warnings import warn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.copying import copied
from statshift._core.errors import FewImagesWarning, InputError, SkippedLayerWarning, unknown
from statshift.models import check_input
from statshift.norms.kinds import without_statistics
from statshift.norms.layers import alone, batch_norms, before_forward, evaluating, keeping_statistics, run
from statshift.norms.likeness import FEW
from statshift.norms.selection import PARTS, select_layers, write
from statshift.norms.shrinkage import (
    TRAINING_BATCH,
    check_finite,
    gather_evidence,
    layer_shift,
    met_twice,
    observe,
    share_beyond,
    stored_statistics,
)
from statshift.norms.statistics import ChannelStatistics, Observed, mix


def source(stored: ChannelStatistics, observed: Observed, images: int) -> ChannelStatistics:
    """Keep what is stored: the untouched model."""
    return stored


def replace(stored: ChannelStatistics, observed: Observed, images: int) -> ChannelStatistics:
    """Replace what is stored by the statistics of the images.

    Reference:
        Benz et al., WACV 2021, section 4.
    """
    return observed


def prior(stored: ChannelStatistics, observed: Observed, images: int, *, prior_count: float = 16) -> ChannelStatistics:
    """Mix linearly in mean and in variance, as if what is stored were of `prior_count` images (0 or more).

    Reference:
        Schneider et al., NeurIPS 2020, section 3.
    """
    if not prior_count >= 0:
        raise InputError(f"Expected `prior_count` to be 0 or more, but got {prior_count}.")
    return mix(stored, observed, 1 - images / (prior_count + images))


def auto(
    stored: ChannelStatistics,
    observed: Observed,
    images: int,
    *,
    eps: float,
    persisting: Tensor,
    effective: Tensor,
) -> ChannelStatistics:
    """Go half-way to the target, less by what noise explains here and by what does not reach the last layers.

    A single image, or effective ones of one or two scenes, cannot tell their own noise: they move the statistics by the
    share of one image in a training batch. The derivation is in docs/auto.md; nothing is to be tuned.

    Args:
        stored: what the layer has stored.
        observed: what it observes.
        images: how many they are of.
        eps: the layer's own.
        persisting: () in [0,1], of `Evidence`.
        effective: () from 1 to `images`, of `Evidence`.
    """
    shift = layer_shift(stored, observed, eps)
    mean_noise, var_noise = shift.noise(effective)
    mean_weight, var_weight = (
        torch.where(effective < FEW, 1 / TRAINING_BATCH, persisting / 2 * share_beyond(noise, distance))
        for noise, distance in ((mean_noise, shift.mean), (var_noise, shift.var))
    )
    return ChannelStatistics(
        stored.mean + mean_weight * (observed.mean - stored.mean),
        stored.var + var_weight * (observed.var - stored.var),
        observed.count,
    )


LayerRule = Callable[..., ChannelStatistics]
PROTOCOLS: dict[str, LayerRule] = {"source": source, "replace": replace, "prior": prior, "auto": auto}
STREAMS = ("batch", "running")
"""Protocols whose statistics move while they predict; see `statshift.adapting.online`."""
FULL = "full"
NUMBERS = {"prior": ("prior_count", 0, float("inf")), "running": ("momentum", 0, 1)}
"""What a protocol takes as "NAME:NUMBER", from where to where."""
FEW_IMAGES = (
    "The images to rectify to are alike: copies, frames of one or two scenes, or flat pictures. They are taken as a "
    "single one, which moves the statistics by 1/32 at most; give different images."
)
SKIPPED = (
    "no running statistics are kept there, so these layers are not rectified: they normalise each batch by its own."
)
OFFERED = ("eps", "persisting", "effective")
"""What a protocol gets that names it as a keyword without a default: of the layer, and of the images' `Evidence`."""


def rectify(model: nn.Module, images: Tensor, protocol: str | LayerRule = "auto", **options: Any) -> nn.Module:
    """Return a copy of the model whose batch-norm statistics are re-estimated from images; see `rectified`."""
    adapted = copied(model)
    _rewrite(adapted, images, protocol, **options)
    return adapted


@contextmanager
def rectified(
    model: nn.Module, images: Tensor, protocol: str | LayerRule = "auto", **options: Any
) -> Iterator[nn.Module]:
    """Re-estimate the batch-norm statistics of the model itself while the context lasts.

    What is written are the layers' running statistics, and the layers are put into evaluation mode; their own `eps`,
    affine terms and activations stay. One forward pass of the images, two for "auto" (three where a forward does not
    meet all norm layers); on leaving, also by an exception, the model is as it was found. One context of one thread
    has a model at a time.

    Args:
        model: a `PixelModel`, or a module that takes the images as they are.
        images: (n,3,H,W), unlabelled; in [0,1] for a `PixelModel`.
        protocol: a name in `PROTOCOLS`, with its number as in "prior:64" if wanted, or a function of (stored,
            observed, number of images) that returns what a layer shall use; what it names of `OFFERED` as keywords
            without a default, it gets.
        **options: `statistics`: "both", "mean" or "var" are rewritten. `where`: see `select_layers`. `unbiased`:
            write the variance with count - 1 in the denominator, as torch's own cumulative mode does; by default the
            biased one, with which evaluation reproduces the forward that was measured. Others go to the protocol
            (`prior_count`).

    Raises:
        InputError: a model without batch norm, no image, images that the model cannot take or that are not
            in its range, a single value in a
            channel, NaN in features, a layer met twice in a forward, an option that cannot be,
            or a model that is being rectified already.

    Reference:
        Benz et al., WACV 2021, sections 4 (protocol), 6.2 (mean or variance alone), 6.3 (thirds).
    """
    layers = batch_norms(model)
    with alone(layers), keeping_statistics(layers), evaluating(*layers.values()):
        _rewrite(model, images, protocol, **options)
        yield model


def rewrite(model: nn.Module, images: Tensor, protocol: str | LayerRule, **options: Any) -> Tensor:
    """Rewrite the running statistics of the model's batch norms; return what that forward returned.

    Args as in `rectified`; the model stays changed, unless something is raised.
    """
    layers = batch_norms(model)
    with alone(layers, nested=True), keeping_statistics(layers, unless_done=True):
        return _rewrite(model, images, protocol, **options)


@torch.no_grad()
def _rewrite(
    model: nn.Module,
    images: Tensor,
    protocol: str | LayerRule,
    *,
    statistics: str = "both",
    where: str = "all",
    unbiased: bool = False,
    **numbers: Any,
) -> Tensor:
    check_input(model, images)
    if statistics not in PARTS:
        raise unknown("statistics", statistics, PARTS)
    layers = select_layers(model, images, where)
    if isinstance(protocol, str):
        protocol, numbers = _named(protocol, numbers)
    elif not callable(protocol):
        raise InputError(
            f"Expected `protocol` to be a name or a function, but got {protocol!r}; choose from: "
            f"{', '.join(PROTOCOLS)}."
        )
    _check_numbers(protocol, numbers)
    asked = _offered(protocol)
    evidence: dict[str, Tensor] = {}
    if asked & {"persisting", "effective"}:
        evidence = vars(gather_evidence(model, images, layers if where == "all" else select_layers(model, images)))
    seen: dict[str, tuple[ChannelStatistics, Observed]] = {}

    def decide(name: str) -> ChannelStatistics:
        offered = {"eps": layers[name].eps, **evidence}
        target = protocol(*seen[name], len(images), **numbers, **{one: offered[one] for one in asked})
        if not isinstance(target, ChannelStatistics):
            raise InputError(f"Expected the protocol to return ChannelStatistics, but got {type(target).__name__}.")
        return target

    def rectify_layer(name: str, layer: _BatchNorm, features: Tensor) -> None:
        if name in seen:
            raise met_twice(name)
        stored = stored_statistics(layer)
        seen[name] = deepcopy(stored) if unbiased else stored, observe(name, features)
        write(layer, decide(name), statistics)

    with before_forward(layers, rectify_layer), evaluating(model):
        output = run(model, images)
    few = [evidence["effective"] < min(FEW, 0.9 * len(images))] if evidence and len(images) > 1 else []
    if protocol in PROTOCOLS.values():
        read = check_finite({name: observed.var for name, (_, observed) in seen.items()}, *few)
    else:
        written = {name: _written_and_seen(layers[name], observed) for name, (_, observed) in seen.items()}
        read = check_finite(written, *few)
    if passed := without_statistics(model):
        warn(f"{', '.join(passed)}: {SKIPPED}", SkippedLayerWarning, stacklevel=2)
    if any(read):
        warn(FEW_IMAGES, FewImagesWarning, stacklevel=2)
    if unbiased:  # only now: the pass itself normalises by the biased variance, as a training forward does
        for name, (stored, observed) in seen.items():
            seen[name] = stored, with_changes(observed, var=observed.unbiased_var)
            write(layers[name], decide(name), statistics)
    return cast(Tensor, output)


def parse_protocol(spec: str) -> tuple[str, dict[str, float]]:
    """Return the name and the numbers of "NAME" or "NAME:NUMBER" ("prior:64", "running:0.1").

    Raises:
        InputError: an unknown name, or a number where there is none to give.
    """
    name, colon, number = spec.partition(":")
    known = (*PROTOCOLS, *STREAMS, FULL)
    if name not in known:
        raise unknown("protocol", name, known)
    if not colon:
        return name, {}
    if name not in NUMBERS:
        raise InputError(f"Expected no number for the protocol {name}, but got {spec!r}.")
    what, low, high = NUMBERS[name]
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InputError(f"Expected {name}:NUMBER, its `{what}` from {low} to {high}, but got {spec!r}.")
    return name, {what: value}


def _named(spec: str, numbers: dict[str, Any]) -> tuple[LayerRule, dict[str, Any]]:
    """Return the function and the numbers of a protocol that rewrites statistics once."""
    name, given = parse_protocol(spec)
    if name in STREAMS:
        raise InputError(
            f"The protocol {name} has no statistics to write: they move with every batch. Measure it as it is, or "
            "write those of auto, prior or replace."
        )
    return PROTOCOLS["replace" if name == FULL else name], given | numbers


def _written_and_seen(layer: _BatchNorm, observed: Observed) -> Tensor:
    stored = stored_statistics(layer)
    return torch.cat([one.to(observed.var) for one in (observed.var, stored.mean, stored.var)])


def _offered(protocol: LayerRule) -> set[str]:
    """Return what a protocol asks for of `OFFERED`."""
    taken = signature(protocol).parameters
    return {
        name
        for name in OFFERED
        if name in taken and taken[name].kind is Parameter.KEYWORD_ONLY and taken[name].default is Parameter.empty
    }


def _check_numbers(protocol: LayerRule, numbers: dict[str, Any]) -> None:
    taken = signature(protocol).parameters.values()
    needed = [one for one in taken if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    if len(needed) > 3 or (len(needed) < 3 and not any(one.kind is one.VAR_POSITIONAL for one in taken)):
        raise InputError(
            "Expected the protocol to be a function of (stored, observed, images), but it needs "
            f"({', '.join(one.name for one in needed)}); `measure` takes others."
        )
    known = {one.name for one in taken if one.kind is one.KEYWORD_ONLY} - _offered(protocol)
    unknown_numbers = [name for name in numbers if name not in known]
    if unknown_numbers and not any(one.kind is one.VAR_KEYWORD for one in taken):
        raise unknown("option of the protocol", unknown_numbers[0], ["statistics", "where", "unbiased", *sorted(known)])
