"""The forward pass in which all layers are rectified, each before it normalises.

So later layers see inputs that earlier ones have already rectified.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from inspect import Parameter, signature
from typing import Any, Protocol, cast
from warnings import warn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.errors import FewImagesWarning, InputError, SkippedLayerWarning, unknown
from statshift.models import check_input
from statshift.norms.kinds import without_statistics
from statshift.norms.layers import alone, batch_norms, before_forward, evaluating, keeping_statistics, run
from statshift.norms.likeness import FEW
from statshift.norms.selection import PARTS, select_layers, write
from statshift.norms.shrinkage import check_finite, gather_evidence, met_twice, observe, stored_statistics
from statshift.norms.sizes import fit_size
from statshift.norms.statistics import ChannelStatistics, Observed

FEW_IMAGES = (
    "The images to rectify to are alike: copies, frames of one or two scenes, images of one class, or pictures of "
    "nothing. No shift is told from what they show; give different images."
)
SKIPPED = (
    "no running statistics are kept there, so these layers are not rectified: they normalise each batch by its own."
)
OFFERED = ("eps", "persisting", "certain", "effective", "agreeing")
"""What a rule gets that names it as a keyword without a default: of the layer, and of the images' `Evidence`."""

Seen = dict[str, tuple[ChannelStatistics, Observed]]


class LayerRule(Protocol):
    """What decides on each layer's statistics."""

    @property
    def target(self) -> Callable[..., ChannelStatistics]:
        """From what a layer has stored, what it observes and the number of images to what it shall use."""

    @property
    def asked(self) -> set[str]:
        """Which of `OFFERED` it gets."""

    @property
    def trusted(self) -> bool:
        """Whether what it returns is finite wherever what is observed is, so that it is not looked at."""


def rewrite_by(model: nn.Module, images: Tensor, rule: LayerRule, **how: Any) -> Tensor:
    """Rewrite the statistics as `rewrite_statistics` does; the model is as it was if something is raised."""
    layers = batch_norms(model)
    with alone(layers, nested=True), keeping_statistics(layers, unless_done=True):
        return rewrite_statistics(model, images, rule, **how)


@torch.no_grad()
def rewrite_statistics(
    model: nn.Module,
    images: Tensor,
    rule: LayerRule,
    *,
    statistics: str = "both",
    where: str = "all",
    unbiased: bool = False,
) -> Tensor:
    """Rewrite the running statistics of the model's batch norms; return what that forward returned.

    Args:
        model: as in `rectified`; it stays changed, also if something is raised.
        images: (n,3,H,W).
        rule: what decides.
        statistics: "both", "mean" or "var".
        where: see `select_layers`.
        unbiased: write the variance with count - 1 in the denominator.

    Raises:
        InputError: what `rectified` raises.
    """
    check_input(model, images)
    fit_size(model, [images.shape[-2:]])
    if statistics not in PARTS:
        raise unknown("statistics", statistics, PARTS)
    layers = select_layers(model, images, where)
    asked = rule.asked
    evidence: dict[str, Tensor] = {}
    if asked & set(OFFERED[1:]):
        evidence = vars(gather_evidence(model, images, layers if where == "all" else select_layers(model, images)))
    seen: Seen = {}

    def decide(name: str) -> ChannelStatistics:
        offered = {"eps": layers[name].eps, **evidence}
        decided = rule.target(*seen[name], len(images), **{what: offered[what] for what in asked})
        if not isinstance(decided, ChannelStatistics):
            raise InputError(f"Expected the protocol to return ChannelStatistics, but got {type(decided).__name__}.")
        return decided

    def rectify_layer(name: str, layer: _BatchNorm, features: Tensor) -> None:
        if name in seen:
            raise met_twice(name)
        stored = stored_statistics(layer)
        observed = observe(name, features, quarters="certain" in asked)
        seen[name] = deepcopy(stored) if unbiased else stored, observed
        write(layer, decide(name), statistics)

    with before_forward(layers, rectify_layer), evaluating(model):
        output = run(model, images)
    _check(layers, seen, evidence, len(images), rule.trusted)
    if passed := without_statistics(model):
        warn(f"{', '.join(passed)}: {SKIPPED}", SkippedLayerWarning, stacklevel=2)
    if unbiased:  # only now: the pass itself normalises by the biased variance, as a training forward does
        for name, (stored, observed) in seen.items():
            seen[name] = stored, replace(observed, var=observed.unbiased_var)
            write(layers[name], decide(name), statistics)
    return cast(Tensor, output)


def offered_to(function: Callable[..., Any]) -> set[str]:
    """Return what a function asks for of `OFFERED`."""
    taken = signature(function).parameters
    return {
        name
        for name in OFFERED
        if name in taken and taken[name].kind is Parameter.KEYWORD_ONLY and taken[name].default is Parameter.empty
    }


def _check(layers: dict[str, _BatchNorm], seen: Seen, evidence: dict[str, Tensor], images: int, trusted: bool) -> None:
    """Check that what was observed and written is finite, and warn of images that are alike, by one transfer."""
    few = []
    if evidence and images > 1:
        few = [(evidence["effective"] < min(FEW, 0.9 * images)) & (evidence["persisting"] == 0)]
    looked_at = {
        name: observed.var if trusted else _written_and_seen(layers[name], observed)
        for name, (_, observed) in seen.items()
    }
    if any(check_finite(looked_at, *few)):
        warn(FEW_IMAGES, FewImagesWarning, stacklevel=2)


def _written_and_seen(layer: _BatchNorm, observed: Observed) -> Tensor:
    stored = stored_statistics(layer)
    return torch.cat([values.to(observed.var) for values in (observed.var, stored.mean, stored.var)])
