"""A running average of the batches' statistics."""

from dataclasses import dataclass

from torch import nn

from statshift._core.errors import InputError
from statshift.adapting.families import Rule, Stream
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocol import Number
from statshift.adapting.rewriting import Rewriting
from statshift.norms.statistics import ChannelStatistics, Observed, mix

USUAL = 0.1
"""Weight of the newest batch by default."""


@dataclass(frozen=True)
class Running(Stream):
    """Normalise each batch by an exponential average, from the source on, that the batch itself has moved.

    Attributes:
        momentum: weight of the newest batch, in [0,1], in mean and in variance; None, which a record leaves out, is
            0.1.

    Raises:
        InputError: another number.
    """

    name = "running"
    summary = "an exponential average of the batches' statistics"
    number = Number("momentum", 0, 1)
    rewrites = True
    changes = ("statistics",)

    momentum: float | None = None

    def __post_init__(self) -> None:
        if self.momentum is not None and not 0 <= self.momentum <= 1:
            raise InputError(f"Expected `momentum` in [0,1], but got {self.momentum}.")

    def begin(self, model: nn.Module, options: AdaptationOptions) -> Rewriting:
        """Return what moves the model's statistics by a batch, and answers it."""
        return Rewriting(model, _Move(USUAL if self.momentum is None else self.momentum), options.layers)


@dataclass(frozen=True)
class _Move(Rule):
    """Go from what is stored to the newest batch by its weight."""

    momentum: float

    def target(self, stored: ChannelStatistics, observed: Observed, images: int) -> ChannelStatistics:
        """Return what is moved."""
        return mix(stored, observed, 1 - self.momentum)
