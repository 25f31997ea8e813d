"""The untouched model."""

from dataclasses import dataclass

from statshift.adapting.families import Rule
from statshift.adapting.registry import SOURCE, UNTOUCHED
from statshift.norms.statistics import ChannelStatistics, Observed


@dataclass(frozen=True)
class Source(Rule):
    """Keep what is stored: the untouched model."""

    name = SOURCE
    family = UNTOUCHED
    summary = "the model as it is, beside which all others are measured"
    trusted = True
    changes = ()
    not_exported = "it changes nothing"

    def target(self, stored: ChannelStatistics, observed: Observed, images: int) -> ChannelStatistics:
        """Return what is stored."""
        return stored
