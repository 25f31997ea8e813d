"""The forward pass in which all layers are rectified, each before it normalises.

So later layers see inputs that earlier ones have already rectified.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
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
from statshift.norms.likeness import FEW, without_noise
from statshift.norms.selection import PARTS, select_layers, write
from statshift.norms.shrinkage import NONE_MET, check_finite, gather_evidence, met_twice, observe, stored_statistics
from statshift.norms.sizes import fit_size
from statshift.norms.statistics import ChannelStatistics, Observed

FEW_IMAGES = (
    "The images to rectify to are alike: copies, frames of one or two scenes, pictures of nothing, or images in which "
    "the model sees one class. No shift is told from what they show; give different images."
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

    @property
    def shared(self) -> bool:
        """Whether a stream answers by the source too; see `Rewritten.answer`. It gets evidence then."""


@dataclass(frozen=True)
class Rewritten:
    """What a rewriting forward returned and saw; none of it has been waited for.

    Attributes:
        output: what the model returned; of images that show nothing, that of others.
        replaced: () whether there are such.
        evidence: of a survey of the untouched model, if the rule asked for any, by name; see `Evidence`.
        looked_at: of each layer, (C,) values that must be finite.
        images: how many there were.
    """

    output: Any
    replaced: Tensor
    evidence: dict[str, Any]
    looked_at: dict[str, Tensor]
    images: int

    @property
    def finite(self) -> Tensor:
        """() whether all that must be finite is."""
        return torch.cat(list(self.looked_at.values())).isfinite().all()

    @property
    def alike(self) -> Tensor | None:
        """() whether the images, or their classes, are too alike to tell a shift, and tell none; None unless known."""
        if not self.evidence or self.images < 2:
            return None
        scenes: Tensor = 1 / (1 / self.evidence["effective"] + self.evidence["agreeing"])
        few = scenes < min(FEW, 0.9 * self.images)
        alike: Tensor = few & (self.evidence["persisting"] == 0)
        return alike

    def answer(self, output: Any, where: Tensor) -> Any:
        """Return what to answer the images themselves, each by how far it shows the shift that they have in common.

        Args:
            output: (n,...) of the rectified model; the answer lies between it and what the untouched model returned.
                What is no such tensor of numbers is the answer.
            where: () bool, whether the evidence is of these images; if not, the answer is `output`.
        """
        source, shares = self.evidence["output"], self.evidence["shares"]
        numbers = isinstance(output, Tensor) and output.is_floating_point() and len(output) == len(shares)
        return between(source, output, torch.where(where, shares, 1)) if numbers else output

    def check(self) -> None:
        """Check that all is finite, and warn of images that are alike, by one transfer.

        Raises:
            InputError: it is not; the first layer is named.
        """
        if any(check_finite(self.looked_at, *([] if self.alike is None else [self.alike]))):
            warn(FEW_IMAGES, FewImagesWarning, stacklevel=2)


def between(source: Tensor, rectified: Tensor, shares: Tensor) -> Tensor:
    """Return the source's answer, moved to the rectified one's by the shares; at 0, 1 and where both agree, to the bit.

    Args:
        source: (n,...), what the untouched model returned.
        rectified: (n,...), what the rectified one did.
        shares: (n,) in [0,1].
    """
    share = shares.to(rectified).view(-1, *[1] * (rectified.ndim - 1))
    return torch.where(source == rectified, rectified, source.lerp(rectified, share))  # infinities among them


def rewrite_by(model: nn.Module, images: Tensor, rule: LayerRule, **how: Any) -> Tensor:
    """Rewrite the statistics as `rewrite_statistics` does; the model is as it was if something is raised."""
    layers = batch_norms(model)
    with alone(layers, nested=True), keeping_statistics(layers, unless_done=True):
        return rewrite_statistics(model, images, rule, **how)


def rewrite_statistics(model: nn.Module, images: Tensor, rule: LayerRule, **how: Any) -> Tensor:
    """Rewrite the running statistics of the model's batch norms; return what that forward returned.

    Args: as in `rewrite_unchecked`.

    Raises:
        InputError: what `rectified` raises.
    """
    made = rewrite_unchecked(model, images, rule, **how)
    made.check()
    return cast(Tensor, made.output)


@torch.no_grad()
def rewrite_unchecked(
    model: nn.Module,
    images: Tensor,
    rule: LayerRule,
    *,
    statistics: str = "both",
    where: str = "all",
    unbiased: bool = False,
) -> Rewritten:
    """Rewrite the running statistics as `rewrite_statistics` does, whether or not what is written is finite.

    Args:
        model: as in `rectified`; it stays changed, also if something is raised.
        images: (n,3,H,W).
        rule: what decides.
        statistics: "both", "mean" or "var".
        where: see `select_layers`.
        unbiased: write the variance with count - 1 in the denominator.

    Raises:
        InputError: what `rectified` raises, but of features that are not finite.
    """
    check_input(model, images)
    fit_size(model, [images.shape[-2:]])
    if statistics not in PARTS:
        raise unknown("statistics", statistics, PARTS)
    layers = select_layers(model, images, where)
    asked = rule.asked
    evidence: dict[str, Any] = {}
    replaced = torch.zeros((), dtype=torch.bool, device=images.device)
    if rule.shared or asked & set(OFFERED[1:]):
        images, replaced = without_noise(images)
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
    if not seen:
        raise InputError(NONE_MET)
    looked_at = {
        name: observed.var if rule.trusted else _written_and_seen(layers[name], observed)
        for name, (_, observed) in seen.items()
    }
    if passed := without_statistics(model):
        warn(f"{', '.join(passed)}: {SKIPPED}", SkippedLayerWarning, stacklevel=2)
    if unbiased:  # only now: the pass itself normalises by the biased variance, as a training forward does
        for name, (stored, observed) in seen.items():
            seen[name] = stored, replace(observed, var=observed.unbiased_var)
            write(layers[name], decide(name), statistics)
    return Rewritten(output, replaced, evidence, looked_at, len(images))


def offered_to(function: Callable[..., Any]) -> set[str]:
    """Return what a function asks for of `OFFERED`."""
    taken = signature(function).parameters
    return {
        name
        for name in OFFERED
        if name in taken and taken[name].kind is Parameter.KEYWORD_ONLY and taken[name].default is Parameter.empty
    }


def _written_and_seen(layer: _BatchNorm, observed: Observed) -> Tensor:
    stored = stored_statistics(layer)
    return torch.cat([values.to(observed.var) for values in (observed.var, stored.mean, stored.var)])
