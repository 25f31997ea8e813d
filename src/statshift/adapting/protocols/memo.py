"""One step for one image, on what its augmented views say together; then the model is the source again."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.adapting.augmenting import SHIFTED_SIDE, augmix_views
from statshift.adapting.families import Stream
from statshift.adapting.heads import answers
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocol import Number
from statshift.adapting.stepping import Stepping
from statshift.models import PixelModel
from statshift.norms.layers import (
    before_forward,
    check_changeable,
    evaluating,
    keeping_statistics,
    run,
    running_norms,
)
from statshift.norms.selection import select_layers, write
from statshift.norms.shrinkage import met_twice, observe, stored_statistics
from statshift.norms.statistics import mix

SIZES = {True: (0.005, 32), False: (0.00025, 64)}
"""Step size and views for small images, as CIFAR's, and for larger ones, as ImageNet's."""


@dataclass(frozen=True)
class Memo(Stream):
    """Answer each image by a model of its own, one step of gradient descent away from the source.

    The step lowers the entropy of the mean probabilities over augmented views of the image, and moves all weights.
    In both forwards batch norms use the source's statistics mixed with those of what they see, which count as one
    image beside `prior`. No image depends on another; it is slow, and here to compare with.

    Attributes:
        step_size: None is the authors': 0.005 for images of up to 64 px, else 0.00025.
        views: of an image; None is the authors': 32 for images of up to 64 px, else 64.
        prior: as how many images the source's statistics count, 16 in the paper (single-point adaptation of batch
            norm, Schneider et al., NeurIPS 2020).

    Reference:
        Zhang, Levine & Finn, "MEMO: Test Time Robustness via Adaptation and Augmentation", NeurIPS 2022, section 3,
        and appendix A; the numbers are those of github.com/zhangmarvin/memo.

    Differs:
        Plain gradient descent everywhere, where the authors take AdamW for two networks on ImageNet. Views are
        addressed by the image's number in the stream, on tensors, and a part that does not fit is cut to the image.

    Raises:
        InputError: numbers that cannot be; in a step, a model that does not answer with logits (B,K).
    """

    name = "memo"
    summary = "Zhang et al., NeurIPS 2022: one step for each image, forgotten after it"
    number = Number("step_size", 0, 1000)
    not_frozen = "begins at the source with each image"
    changes = ("statistics", "weights")
    forwards = 65
    backwards = 64

    step_size: float | None = None
    views: int | None = None
    prior: float = 16

    def __post_init__(self) -> None:
        if self.step_size is not None and not 0 <= self.step_size < math.inf:
            raise InputError(f"Expected `step_size` to be 0 or more, but got {self.step_size}.")
        if self.views is not None and not (isinstance(self.views, int) and self.views >= 1):
            raise InputError(f"Expected `views` to be an integer of at least 1, but got {self.views}.")
        if not 0 <= self.prior < math.inf:
            raise InputError(f"Expected `prior` to be 0 or more, but got {self.prior}.")

    def begin(self, model: nn.Module, options: AdaptationOptions) -> "Apiece":
        """Return what answers image by image."""
        return Apiece(model, self, options)


class Apiece(Stepping):
    """Answer each image by a step from the source.

    Attributes:
        seen: () images of the stream up to now.
    """

    seen: Tensor

    def __init__(self, model: nn.Module, how: Memo, options: AdaptationOptions) -> None:
        super().__init__(model)
        check_changeable(model)
        self.how, self.options = how, options
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self._weights = [weight for weight in model.parameters() if weight.is_floating_point()]
        for weight in self._weights:
            weight.requires_grad_(True)

    def step(self, images: Tensor) -> Tensor:
        """Return logits (B,K)."""
        norms = running_norms(self.model.network if isinstance(self.model, PixelModel) else self.model)
        layers = select_layers(self.model, images, self.options.where) if norms else {}
        numbered = enumerate(images, int(self.seen))
        logits = torch.cat([self._answer(layers, image[None], number) for number, image in numbered])
        self.seen += len(images)
        return logits

    def _answer(self, layers: dict[str, _BatchNorm], image: Tensor, number: int) -> Tensor:
        """Return the logits (1,K) of an image (1,3,H,W)."""
        step_size, count = SIZES[max(image.shape[2:]) <= SHIFTED_SIDE]
        step_size = step_size if self.how.step_size is None else self.how.step_size
        draws = Draws(0, torch.tensor([number]), "memo")
        views = augmix_views(image, self.how.views or count, draws)
        with torch.enable_grad(), self._mixing(layers):
            loss = marginal_entropy(answers(run(self.model, views), self.how.name))
            slopes = torch.autograd.grad(loss, self._weights, allow_unused=True)
        with torch.no_grad(), _given_back(self._weights):
            for weight, slope in zip(self._weights, slopes, strict=True):
                if slope is not None:
                    weight.sub_(slope, alpha=step_size)
            with self._mixing(layers):
                return answers(run(self.model, image), self.how.name)

    @contextmanager
    def _mixing(self, layers: dict[str, _BatchNorm]) -> Iterator[None]:
        """Let each layer use what it has stored, mixed with what it sees; afterwards it has its own again."""
        met: set[str] = set()

        @torch.no_grad()
        def rewrite(name: str, layer: _BatchNorm, features: Tensor) -> None:
            if name in met:
                raise met_twice(name)
            met.add(name)
            weight = self.how.prior / (self.how.prior + 1)
            write(layer, mix(stored_statistics(layer), observe(name, features), weight), self.options.statistics)

        with keeping_statistics(layers), before_forward(layers, rewrite), evaluating(self.model):
            yield


def marginal_entropy(logits: Tensor) -> Tensor:
    """Return () the entropy in nats of the mean of the probabilities of views (V,K)."""
    log_mean = logits.log_softmax(1).logsumexp(0) - math.log(len(logits))
    return -(log_mean.exp() * log_mean).sum()


@contextmanager
def _given_back(weights: list[nn.Parameter]) -> Iterator[None]:
    """Give weights back as they are."""
    kept = [weight.detach().clone() for weight in weights]
    try:
        yield
    finally:
        for weight, value in zip(weights, kept, strict=True):
            weight.copy_(value)
