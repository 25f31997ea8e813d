"""A step towards what is observed, as far as evidence goes."""

from dataclasses import dataclass

from torch import Tensor

from statshift.adapting.families import Rule
from statshift.norms.shrinkage import layer_shift, share_beyond
from statshift.norms.statistics import ChannelStatistics, Observed


@dataclass(frozen=True)
class Auto(Rule):
    """Go half-way to the target, or further where no scene's content explains the shift; less by what noise explains.

    How much scenes differ is told by how much the images do and by their own quarters, so that a single one tells its
    noise too. The derivation is in docs/auto.md; nothing is to be tuned.
    """

    name = "auto"
    summary = "as far as evidence goes; derived in docs/auto.md"
    trusted = True
    sparing = True
    shared = True

    def target(
        self,
        stored: ChannelStatistics,
        observed: Observed,
        images: int,
        *,
        eps: float,
        persisting: Tensor,
        certain: Tensor,
        agreeing: Tensor,
    ) -> ChannelStatistics:
        """Return what a layer shall use.

        Args:
            stored: what the layer has stored.
            observed: what it observes.
            images: how many they are of.
            eps: the layer's own.
            persisting: () in [0,1], of `Evidence`.
            certain: () from 0 to `persisting`, likewise.
            agreeing: () in [0,1], likewise.
        """
        shift = layer_shift(stored, observed, eps)
        noises = (
            (spread + apart / images) / images + (spread + apart / images) * agreeing
            for spread, apart in ((shift.mean_spread, shift.mean_apart), (shift.var_spread, shift.var_apart))
        )
        mean_weight, var_weight = (
            (persisting + certain) / 2 * share_beyond(noise, distance)
            for noise, distance in zip(noises, (shift.mean, shift.var), strict=True)
        )
        return ChannelStatistics(
            stored.mean + mean_weight * (observed.mean - stored.mean),
            stored.var + var_weight * (observed.var - stored.var),
            observed.count,
        )
