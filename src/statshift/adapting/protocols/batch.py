"""Each batch by its own statistics."""

from dataclasses import dataclass

from torch import nn

from statshift.adapting.families import Stream
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocols.replace import Replace
from statshift.adapting.rewriting import Rewriting


@dataclass(frozen=True)
class Batch(Stream):
    """Normalise each batch by its own statistics.

    Reference:
        Nado et al., "Evaluating prediction-time batch normalization", 2020.
    """

    name = "batch"
    summary = "Nado et al., 2020: each batch by its own statistics"
    rewrites = True
    shareable = True
    changes = ("statistics",)

    def begin(self, model: nn.Module, options: AdaptationOptions) -> Rewriting:
        """Return what answers a batch by its own statistics, which stay until the next."""
        return Rewriting(model, Replace(), options.layers)
