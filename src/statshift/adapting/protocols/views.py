"""Statistics from single images, each seen in many augmented views, with less and less weight."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.adapting.augmenting import shifted_views, turned_views
from statshift.adapting.families import Stream
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.passes import rewrite_by
from statshift.adapting.protocol import Number
from statshift.adapting.protocols.replace import Replace
from statshift.adapting.stepping import Stepping
from statshift.models import PixelModel
from statshift.norms.layers import batch_norms, evaluating, keeping_statistics, run
from statshift.norms.selection import select_layers, write
from statshift.norms.shrinkage import stored_statistics
from statshift.norms.statistics import ChannelStatistics, mix


@dataclass(frozen=True)
class Views(Stream):
    """Move each layer's statistics by augmented views of one image after another, then answer the batch by them.

    The views of an image are one batch, normalised by its own statistics; those then weigh
    `momentum` x `decay`^i + `least_momentum` in the running ones, i from 1 over the images of the stream. Views are
    shifted by up to an eighth of the side, mirrored and turned by quarters, all at random, addressed by i.

    Attributes:
        views: of each image, 64 in the authors' code.
        momentum: 0.1 there.
        decay: 0.94 there.
        least_momentum: 0.005 there.

    Reference:
        Mirza et al., "The Norm Must Go On: Dynamic Unsupervised Domain Adaptation by Normalization" (DUA), CVPR 2022,
        the numbers are those of github.com/jmiemirza/DUA.

    Differs:
        Nothing is chosen by labels. The authors' code measures on the whole test set after each image and reports the
        least error it has met; here what answers is what the images of the stream up to now have left, or with
        "views@IMAGES" what so many images left that are not evaluated on. Variances are biased, unless `unbiased` is
        asked for. Images that are not square are not turned by single quarters.

    Raises:
        InputError: numbers that cannot be; a model without batch norm.
    """

    name = "views"
    summary = "Mirza et al., CVPR 2022, without looking at labels: views of each image"
    number = Number("views", 1, 4096)
    rewrites = True
    changes = ("statistics",)
    forwards = 65

    views: float = 64
    momentum: float = 0.1
    decay: float = 0.94
    least_momentum: float = 0.005

    def __post_init__(self) -> None:
        if not (self.views >= 1 and self.views == int(self.views)):
            raise InputError(f"Expected `views` to be an integer of at least 1, but got {self.views}.")
        for name in ("momentum", "decay", "least_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"Expected `{name}` in [0,1], but got {getattr(self, name)}.")

    def begin(self, model: nn.Module, options: AdaptationOptions) -> "Viewing":
        """Return what moves the statistics by each image of a batch, and answers it."""
        batch_norms(model.network if isinstance(model, PixelModel) else model)
        return Viewing(model, self, options)

    def weight(self, number: int) -> float:
        """Return the weight of an image's views, its number in the stream from 1."""
        return min(1.0, self.momentum * self.decay**number + self.least_momentum)


class Viewing(Stepping):
    """Answer each batch by statistics that its images' views have moved.

    Attributes:
        seen: () images of the stream up to now.
    """

    seen: Tensor

    def __init__(self, model: nn.Module, how: Views, options: AdaptationOptions) -> None:
        super().__init__(model)
        self.how, self.options = how, options
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def step(self, images: Tensor) -> Tensor:
        """Return logits (B,K)."""
        layers = select_layers(self.model, images, self.options.where)
        with keeping_statistics(layers, unless_done=True):
            for number, image in enumerate(images, int(self.seen)):
                self._move(layers, image[None], number)
            with evaluating(self.model):
                logits: Tensor = run(self.model, images)
        self.seen += len(images)
        return logits

    def _move(self, layers: dict[str, _BatchNorm], image: Tensor, number: int) -> None:
        """Move the statistics by the views of an image (1,3,H,W)."""
        draws = Draws(0, torch.tensor([number]), "views")
        views = turned_views(shifted_views(image, int(self.how.views), draws), draws)
        before = {name: _copied(stored_statistics(layer)) for name, layer in layers.items()}
        rewrite_by(self.model, views, Replace(), **self.options.layers)
        for name, layer in layers.items():
            moved = mix(before[name], stored_statistics(layer), 1 - self.how.weight(number + 1))
            write(layer, moved, self.options.statistics)


def _copied(statistics: ChannelStatistics) -> ChannelStatistics:
    return ChannelStatistics(statistics.mean.clone(), statistics.var.clone(), statistics.count)
