"""The optimisation landscape: how much the loss and its gradient change along one step of gradient descent."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from statshift._core.errors import InputError
from statshift._core.walking import modules_of
from statshift.models import check_input, extract_logits
from statshift.norms.layers import run

BatchLoss = Callable[[Tensor, Tensor], Tensor]
"""From logits (B,K) and labels to a scalar."""


@dataclass(frozen=True)
class Landscape:
    """What was met at each of S points on the way down the gradient, at the weights minus a step size times it.

    Attributes:
        step_sizes: (S,) above 0.
        losses: (S,), infinite where they are not finite.
        gradient_changes: (S,), L2 distance of the gradient there from that at the start; infinite where not finite.
        loss: at the start.
        gradient_norm: L2 norm of the gradient at the start.
    """

    step_sizes: tuple[float, ...]
    losses: tuple[float, ...]
    gradient_changes: tuple[float, ...]
    loss: float
    gradient_norm: float

    @property
    def loss_range(self) -> tuple[float, float]:
        """The least and the greatest loss on the way, the start not counted: the variation of the loss."""
        return min(self.losses), max(self.losses)

    @property
    def gradient_range(self) -> tuple[float, float]:
        """The least and the greatest change of the gradient: the less, the further the gradient predicts."""
        return min(self.gradient_changes), max(self.gradient_changes)

    @property
    def smoothness(self) -> float:
        """The greatest change of the gradient over the distance moved, "effective beta"; NaN where nothing moves.

        The less, the smoother.
        """
        if self.gradient_norm == 0:
            return math.nan
        walk = zip(self.step_sizes, self.gradient_changes, strict=True)
        return max(change / step_size / self.gradient_norm for step_size, change in walk)

    def describe(self) -> dict[str, Any]:
        """Return all of it as JSON takes it; what is not finite is None."""
        return {
            "step_sizes": list(self.step_sizes),
            "losses": [_finite(value) for value in self.losses],
            "gradient_changes": [_finite(value) for value in self.gradient_changes],
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "loss_range": [_finite(value) for value in self.loss_range],
            "gradient_range": [_finite(value) for value in self.gradient_range],
            "smoothness": _finite(self.smoothness),
        }


def step_sizes_around(learning_rate: float, count: int = 8) -> tuple[float, ...]:
    """Return `count` step sizes from 1/2 to 4 times the learning rate in use, at equal ratios."""
    if not (math.isfinite(learning_rate) and learning_rate > 0) or count < 2:
        raise InputError(
            f"Expected `learning_rate` above 0 and `count` of at least 2, but got {learning_rate} and {count}."
        )
    return tuple(learning_rate / 2 * 8 ** (i / (count - 1)) for i in range(count))


def landscape(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    step_sizes: Sequence[float],
    loss: BatchLoss = F.cross_entropy,
    training: bool = True,
) -> Landscape:
    """Walk down the gradient of a batch's loss and measure the loss and its gradient at each step size.

    The gradient is that with respect to all trainable weights. It costs one forward and one backward pass at the start
    and at each point. Every point begins with the buffers and the random state of the start, so that dropout draws the
    same mask everywhere, that of torch's generators as they stand. Rounding is a floor under `smoothness`, of the
    relative error of a gradient over the step size: take float64 for small steps.

    Args:
        model: a `PixelModel`, or a module that takes the images as they are; on its own device; left as found.
        images: (B,3,H,W) in [0,1].
        labels: (B,), or what else `loss` takes.
        step_sizes: finite and above 0, in any order; see `step_sizes_around`.
        loss: loss of logits (B,K) and labels (B,), the mean over the batch.
        training: take the loss as a training step sees it, after `model.train()`: batch norms normalise by the batch
            and dropout drops. Otherwise all modules evaluate.

    Raises:
        InputError: a model without trainable weights or whose loss does not depend on them, images that it cannot
            take, step sizes that are not above 0, or a loss or gradient at the start that is not finite.

    Reference:
        Santurkar et al., "How does batch normalization help optimization?" (NeurIPS 2018), section 3; the ranges and
        the smoothness are the three panels of its figures, and of appendix H of the ICLR 2021 submission on LIGS.
    """
    step_sizes = tuple(map(float, step_sizes))
    if not step_sizes or not all(math.isfinite(step_size) and step_size > 0 for step_size in step_sizes):
        raise InputError(f"Expected `step_sizes` to be finite numbers above 0, but got {list(step_sizes)}.")
    check_input(model, images)
    if labels.ndim == 0 or len(labels) != len(images):
        shapes = f"{tuple(images.shape)} and {tuple(labels.shape)}"
        raise InputError(f"Expected images (B,3,H,W) and labels of as many, but got shapes {shapes}.")
    start = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    if not start:
        raise InputError("Expected a model with trainable weights, but none requires a gradient.")

    def at(weights: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return _loss_and_gradient(model, weights, images, labels, loss)

    with _in_mode(model, training), torch.inference_mode(False):
        first, gradient = at({name: weight.clone() for name, weight in start.items()})
        losses, norms = [first], [_norm(gradient)]
        for step_size in step_sizes:
            moved = {name: torch.sub(weight, gradient[name], alpha=step_size) for name, weight in start.items()}
            found, other = at(moved)
            losses.append(found)
            norms.append(_norm({name: other[name] - gradient[name] for name in other}))

    values, changes = torch.stack([torch.stack(losses), torch.stack(norms)]).tolist()
    if not (math.isfinite(values[0]) and math.isfinite(changes[0])):
        raise InputError(
            "Expected a finite loss and gradient at the start, "
            f"but the loss is {values[0]} and the gradient's norm {changes[0]}."
        )
    return Landscape(
        step_sizes=step_sizes,
        losses=tuple(value if math.isfinite(value) else math.inf for value in values[1:]),
        gradient_changes=tuple(change if math.isfinite(change) else math.inf for change in changes[1:]),
        loss=values[0],
        gradient_norm=changes[0],
    )


class _Moved(nn.Module):
    """A model that answers from other weights and buffers than its own."""

    def __init__(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.state = model, state
        self.training = model.training

    def forward(self, images: Tensor) -> Any:
        return functional_call(self.model, self.state, (images,))


def _loss_and_gradient(
    model: nn.Module, weights: dict[str, Tensor], images: Tensor, labels: Tensor, loss: BatchLoss
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss () float64 and its gradient where the trainable weights are `weights`, which are used up."""
    others = {name: value for name, value in (*model.named_parameters(), *model.named_buffers()) if name not in weights}
    copies = {name: value.detach().clone() for name, value in others.items()}
    device = next(iter(weights.values())).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        for weight in weights.values():
            weight.requires_grad_()
        found = loss(extract_logits(run(_Moved(model, weights | copies), images)), labels)
        if found.ndim != 0:
            raise InputError(f"Expected `loss` to return a scalar, but got shape {tuple(found.shape)}.")
        if not found.requires_grad:
            raise InputError("Expected a loss that depends on the model's weights, but no gradient reaches them.")
        gradients = torch.autograd.grad(found, list(weights.values()), allow_unused=True, materialize_grads=True)
    return found.detach().double(), dict(zip(weights, gradients, strict=True))


def _norm(vectors: dict[str, Tensor]) -> Tensor:
    """Return the L2 norm () float64 over all of them."""
    norms = [torch.linalg.vector_norm(vector, dtype=torch.float64) for vector in vectors.values()]
    whole: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return whole


@contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Call `model.train(training)` and, whatever happens, give each module its own train flag back."""
    flags = [(module, module.training) for module in modules_of(model)]
    try:
        model.train(training)
        yield
    finally:
        for module, flag in flags:
            if module.training != flag:
                module.training = flag


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
