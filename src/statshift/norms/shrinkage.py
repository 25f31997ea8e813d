"""What images tell of a shift: how far each layer's inputs lie from what it has stored, and how much of that is noise.

Distances are squared and in units of the stored variance, averaged over a layer's channels; all of it stays on the
model's device. The derivations are in docs/auto.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.errors import InputError
from statshift.norms.layers import before_forward, evaluating, run
from statshift.norms.likeness import LEAST, class_agreement, effective_images, likeness, show_something
from statshift.norms.statistics import ChannelStatistics, Observed, channel_statistics

TRAINING_BATCH = 32
"""Images per device in the customary training with batch norm; networks tolerate the noise of its statistics."""

QUARTERS = 4
"""Values by which each scene tells how much scenes differ; of n scenes the noise is that of n - 2/4, by F's mean."""

NONE_MET = "The forward met none of the layers to be rectified."


@dataclass(frozen=True)
class LayerShift:
    """A layer's shift, and what sampling alone would show of one.

    Attributes:
        mean: () squared shift of the mean, per stored variance.
        var: () squared shift of the deviation, likewise; to first order half the variance's relative shift.
        mean_spread: () variance between images of what they add to the mean, likewise.
        var_spread: () of what they add to the deviation.
        mean_apart: () variance between neighbouring quarters of an image of what they add to the mean, likewise.
        var_apart: () of what they add to the deviation.
        means: (n,C) of the images' own channels, in stored deviations from the stored mean, over the root of C.
    """

    mean: Tensor
    var: Tensor
    mean_spread: Tensor
    var_spread: Tensor
    mean_apart: Tensor
    var_apart: Tensor
    means: Tensor

    @property
    def distance(self) -> Tensor:
        """() squared distance of mean and deviation."""
        return self.mean + self.var

    def noise(self, effective: Tensor, agreeing: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Return what is expected () of `mean` and of `var` without a shift.

        Args:
            effective: () as how many independent images these count; see `effective_images`.
            agreeing: () in [0,1], how far their classes agree; see `class_agreement`. Of sampling alone, 0.
        """
        known, times = effective - 2 / QUARTERS, 1 + effective * agreeing
        return (
            (self.mean_spread + self.mean_apart / (effective / times)) / known * times,
            (self.var_spread + self.var_apart / (effective / times)) / known * times,
        )


@dataclass(frozen=True)
class Evidence:
    """What images tell of a shift before anything is rewritten.

    Attributes:
        persisting: () share in [0,1] of the shift in the last third of the layers that no noise explains.
        certain: () share of it, at most `persisting`, that the content of a single scene does not explain either.
        effective: () as how many independent images these count, from 1 to their number.
        agreeing: () in [0,1], how far the classes of different images agree beyond chance; see `class_agreement`.
        shift: () that shift, root-mean-square, in units of its sampling noise; 1 is none.
        shares: (n,) in [0,1], how far each image shows it itself; see `own_shares`.
        output: what the untouched model returned.
    """

    persisting: Tensor
    certain: Tensor
    effective: Tensor
    agreeing: Tensor
    shift: Tensor
    shares: Tensor
    output: Any


def distances(first: ChannelStatistics, second: ChannelStatistics, eps: float) -> tuple[Tensor, Tensor]:
    """Return the squared distances () of means and of deviations, per variance of the first, averaged over channels.

    Args:
        first: (C,).
        second: (C,).
        eps: the layer's `eps`, which keeps channels that never vary from counting.
    """
    scale = first.var + eps
    mean = (second.mean - first.mean) ** 2 / scale
    return mean.mean(), ((second.var - first.var) / (2 * scale)).square().mean()


def layer_shift(stored: ChannelStatistics, observed: Observed, eps: float) -> LayerShift:
    """Return how far `observed` lies from `stored`; `eps` is the layer's own.

    Where `observed` has no quarters, for want of positions, the spread between the images stands for them; that of a
    single one is what is stored, of normal values.
    """
    scale = stored.var + eps
    between = observed.spreads if len(observed.instances.mean) > 1 else (stored.var, stored.var.square() * 2)
    parts = [*observed.spreads, *(observed.apart or between)]
    units = [scale, (2 * scale) ** 2] * 2
    mean_spread, var_spread, mean_apart, var_apart = (one / unit for one, unit in zip(parts, units, strict=True))
    return LayerShift(
        *distances(stored, observed, eps),
        mean_spread.mean(),
        var_spread.mean(),
        mean_apart.mean().clamp_min(LEAST),
        var_apart.mean(),
        (observed.instances.mean - stored.mean) / (scale * len(scale)).sqrt(),
    )


def share_beyond(noise: Tensor, distance: Tensor) -> Tensor:
    """Return the share in [0,1] of a squared distance that noise of the expected square `noise` does not explain.

    It is the positive-part James-Stein factor.
    """
    return torch.where(distance > noise, 1 - noise / distance, torch.zeros_like(distance))


def own_shares(means: Sequence[Tensor]) -> Tensor:
    """Return (n,) in [0,1] what share of the shift that images have in common each of them shows itself.

    It is the factor of the common shift of means that comes nearest to the image's own, over all layers; 1 where there
    is no shift at all.

    Args:
        means: (n,C) of each layer, as `LayerShift` has them.
    """
    along = torch.stack([own @ own.mean(0) for own in means]).sum(0)
    common = along.mean()
    return torch.where(common > 0, (along / common).clamp(0, 1), torch.ones_like(along))


def survey(model: nn.Module, images: Tensor, layers: dict[str, _BatchNorm], *, skip: int = 0) -> dict[str, LayerShift]:
    """Return the shift at each layer that a forward of the untouched model meets, in the order it meets them.

    Args:
        model: takes the images as they are.
        images: (n,3,H,W), unlabelled.
        layers: by name, with running statistics.
        skip: how many of the layers to pass by first.

    Raises:
        InputError: a layer observes a single value, or is met twice.
    """
    return survey_and_answer(model, images, layers, skip=skip)[0]


@torch.no_grad()
def survey_and_answer(
    model: nn.Module, images: Tensor, layers: dict[str, _BatchNorm], *, skip: int = 0
) -> tuple[dict[str, LayerShift], Any]:
    """Return what `survey` does, and what the model returned."""
    shifts: dict[str, LayerShift] = {}
    met: set[str] = set()

    def observe_layer(name: str, layer: _BatchNorm, features: Tensor) -> None:
        if name in met:
            raise met_twice(name)
        met.add(name)
        if len(met) > skip:
            shifts[name] = layer_shift(stored_statistics(layer), observe(name, features, quarters=True), layer.eps)

    with before_forward(layers, observe_layer), evaluating(model):
        output = run(model, images)
    return shifts, output


def gather_evidence(model: nn.Module, images: Tensor, layers: dict[str, _BatchNorm]) -> Evidence:
    """Return what the last third of the layers tells, by one forward pass of the untouched model.

    Args: as in `survey`.
    """
    wanted = last_third(len(layers))
    shifts, output = survey_and_answer(model, images, layers, skip=len(layers) - wanted)
    if len(shifts) < wanted:  # a forward does not meet all layers, so it was another third
        shifts, output = survey_and_answer(model, images, layers)
        wanted = last_third(len(shifts))
    return weigh_evidence(list(shifts.values())[-wanted:], images, output, model)


def last_third(layers: int) -> int:
    """Return how many of so many layers are the last third, at least one."""
    return max(1, round(layers / 3))


def weigh_evidence(
    shifts: Sequence[LayerShift], images: Tensor, output: Any = None, model: nn.Module | None = None
) -> Evidence:
    """Return what layers tell together.

    The noise in what persists is that of sampling, and that of batches of `TRAINING_BATCH` images, which training has
    made harmless. Pictures that show nothing count as one, of which nothing is known to persist.

    Args:
        shifts: of the layers.
        images: (n,3,H,W) that showed them.
        output: what the model returned for them; logits (n,K) tell how far their classes agree.
        model: what returned it.

    Raises:
        InputError: there are no layers.
    """
    if not shifts:
        raise InputError(NONE_MET)
    alike = likeness([shift.means for shift in shifts], [shift.mean_apart for shift in shifts])
    effective, agreeing = effective_images(alike), class_agreement(alike, output, model)
    distance = torch.stack([shift.distance for shift in shifts]).sum()
    noise = torch.stack([torch.add(*shift.noise(effective, agreeing)) for shift in shifts]).sum()
    scenes = effective / (1 + effective * agreeing)  # whose number's inverse is the noise in units of a scene's worth
    shown = show_something(images)
    persisting, certain = (
        torch.where(shown, share_beyond(noise * (1 + scenes * (content + 1 / TRAINING_BATCH)), distance), 0)
        for content in (0, 1)  # scenes' worth
    )
    counted = torch.where(shown, effective, 1)
    sampling = torch.stack([torch.add(*shift.noise(counted)) for shift in shifts]).sum()
    shares = own_shares([shift.means for shift in shifts])
    return Evidence(persisting, certain, counted, agreeing, (distance / sampling).sqrt(), shares, output)


def observe(name: str, features: Tensor, *, quarters: bool = False) -> Observed:
    """Return the statistics of what comes before the layer `name`, which an error names."""
    try:
        return channel_statistics(features, quarters=quarters)
    except InputError as error:
        raise InputError(f"The layer {name} cannot be rectified: {error}") from error


def met_twice(name: str) -> InputError:
    """Return the error for a layer that a forward meets twice."""
    return InputError(f"The layer {name} is met twice in one forward: it has no statistics of its own.")


def stored_statistics(layer: _BatchNorm) -> ChannelStatistics:
    """Return the running statistics themselves, not a copy."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return ChannelStatistics(layer.running_mean, layer.running_var, 0)


def check_finite(values: dict[str, Tensor], *flags: Tensor) -> list[bool]:
    """Check that values are finite, and return flags, by one transfer for all.

    Args:
        values: (C,) of each layer.
        flags: () bool, read along.

    Raises:
        InputError: they are not; the first layer is named.
    """
    if not values:
        raise InputError(NONE_MET)
    finite, *read = torch.stack([torch.cat(list(values.values())).isfinite().all(), *flags]).tolist()
    if finite:
        return read
    layer = next(name for name, value in values.items() if not value.isfinite().all())
    raise InputError(f"The features before {layer} are not finite: check the images.")
