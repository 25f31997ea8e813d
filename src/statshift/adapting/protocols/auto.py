"""A step towards what is observed, as far as evidence goes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from statshift.adapting.families import Rule
from statshift.norms.likeness import FEW
from statshift.norms.shrinkage import TRAINING_BATCH, layer_shift, share_beyond
from statshift.norms.statistics import ChannelStatistics, Observed


@dataclass(frozen=True)
class Auto(Rule):
    """Go half-way to the target, less by what noise explains here and by what does not reach the last layers.

    A single image, or effective ones of one or two scenes, cannot tell their own noise: they move the statistics by the
    share of one image in a training batch. The derivation is in docs/auto.md; nothing is to be tuned.
    """

    name = "auto"
    summary = "as far as evidence goes; derived in docs/auto.md"
    trusted = True

    def target(
        self,
        stored: ChannelStatistics,
        observed: Observed,
        images: int,
        *,
        eps: float,
        persisting: Tensor,
        effective: Tensor,
    ) -> ChannelStatistics:
        """Return what a layer shall use.

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
