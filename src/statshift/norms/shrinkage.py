"""What images tell of a shift: how far each layer's inputs lie from what it has stored, and how much of that is noise.

Distances are squared and in units of the stored variance, averaged over a layer's channels; all of it stays on the
model's device. The derivations are in docs/auto.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.errors import InputError
from statshift.norms.layers import before_forward, evaluating, run
from statshift.norms.statistics import ChannelStatistics, Observed, channel_statistics

TRAINING_BATCH = 32
"""Images per device in the customary training with batch norm; networks tolerate the noise of its statistics."""

NONE_MET = "The forward met none of the layers to be rectified."


@dataclass(frozen=True)
class LayerShift:
    """A layer's shift, and what sampling alone would show of one.

    Attributes:
        mean: () squared shift of the mean, per stored variance.
        var: () squared shift of the deviation, likewise; to first order half the variance's relative shift.
        mean_spread: () expected of `mean` without a shift, times the number of images.
        var_spread: () expected of `var` without a shift, times the number of images.
        images: how many were observed.
    """

    mean: Tensor
    var: Tensor
    mean_spread: Tensor
    var_spread: Tensor
    images: int

    @property
    def distance(self) -> Tensor:
        """() squared distance of mean and deviation."""
        return self.mean + self.var

    @property
    def spread(self) -> Tensor:
        """() expected of `distance` without a shift, times the number of images."""
        return self.mean_spread + self.var_spread


def distances(first: ChannelStatistics, second: ChannelStatistics, eps: float) -> tuple[Tensor, Tensor]:
    """Return the squared distances () of means and of deviations, per variance of the first, averaged over channels.

    Args:
        first: (C,).
        second: (C,).
        eps: of the layer, which keeps channels that never vary from counting.
    """
    scale = first.var + eps
    mean = (second.mean - first.mean) ** 2 / scale
    return mean.mean(), ((second.var - first.var) / (2 * scale)).square().mean()


def layer_shift(stored: ChannelStatistics, observed: Observed, eps: float) -> LayerShift:
    """Return how far `observed` lies from `stored`; `eps` is the layer's own."""
    scale = stored.var + eps
    mean_spread, var_spread = observed.spreads
    return LayerShift(
        *distances(stored, observed, eps),
        (mean_spread / scale).mean(),
        (var_spread / (2 * scale) ** 2).mean(),
        len(observed.instances.mean),
    )


def share_beyond(noise: Tensor, distance: Tensor) -> Tensor:
    """Return the share in [0,1] of a squared distance that noise of the expected square `noise` does not explain.

    It is the positive-part James-Stein factor.
    """
    return torch.where(distance > noise, 1 - noise / distance, torch.zeros_like(distance))


@torch.no_grad()
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
    shifts: dict[str, LayerShift] = {}
    met: set[str] = set()

    def observe_layer(name: str, layer: _BatchNorm, features: Tensor) -> None:
        if name in met:
            raise met_twice(name)
        met.add(name)
        if len(met) > skip:
            shifts[name] = layer_shift(stored_statistics(layer), observe(name, features), layer.eps)

    with before_forward(layers, observe_layer), evaluating(model):
        run(model, images)
    return shifts


def persisting_share(model: nn.Module, images: Tensor, layers: dict[str, _BatchNorm]) -> Tensor:
    """Return the share () in [0,1] of the shift in the last third of the layers that no noise explains.

    Noise is that of sampling, and that of batches of `TRAINING_BATCH` images, which training has made harmless. One
    forward pass of the untouched model.

    Args: as in `survey`.
    """
    wanted = last_third(len(layers))
    shifts = survey(model, images, layers, skip=len(layers) - wanted)
    if len(shifts) < wanted:  # a forward does not meet all layers, so it was another third
        shifts = survey(model, images, layers)
        wanted = last_third(len(shifts))
    return joint_share(list(shifts.values())[-wanted:])


def last_third(layers: int) -> int:
    """Return how many of so many layers are the last third, at least one."""
    return max(1, round(layers / 3))


def joint_share(shifts: Sequence[LayerShift]) -> Tensor:
    """Return the share () in [0,1] of the layers' shift that neither sampling nor training noise explains.

    Raises:
        InputError: there are no layers.
    """
    if not shifts:
        raise InputError(NONE_MET)
    distance = torch.stack([shift.distance for shift in shifts]).sum()
    spread = torch.stack([shift.spread for shift in shifts]).sum()
    return share_beyond(spread * (1 / shifts[0].images + 1 / TRAINING_BATCH), distance)


def observe(name: str, features: Tensor) -> Observed:
    """Return the statistics of what comes before the layer `name`, which an error names."""
    try:
        return channel_statistics(features)
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


def check_finite(values: dict[str, Tensor]) -> None:
    """Raise InputError naming the first layer whose values (C,) are not all finite; one transfer for all layers."""
    if not values:
        raise InputError(NONE_MET)
    if bool(torch.cat(list(values.values())).isfinite().all()):
        return
    layer = next(name for name, value in values.items() if not value.isfinite().all())
    raise InputError(f"The features before {layer} are not finite: check the images.")
