"""Each batch by its own statistics."""

from dataclasses import dataclass

from torch import Tensor, nn

from statshift.adapting.families import Stream
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.passes import rewrite_by
from statshift.adapting.protocol import Step
from statshift.adapting.protocols.replace import Replace
from statshift.norms.layers import keeping_statistics
from statshift.norms.selection import select_layers


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

    def begin(self, model: nn.Module, options: AdaptationOptions) -> Step:
        """Return what answers a batch, and gives the statistics back."""

        def step(images: Tensor) -> Tensor:
            with keeping_statistics(select_layers(model, images)):
                return rewrite_by(model, images, Replace(), **options.layers)

        return step
