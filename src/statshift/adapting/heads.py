"""The linear layer out of which a classifier's logits come, and the features that go into it, of any model."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift.models import extract_logits
from statshift.norms.layers import evaluating, run


@dataclass(frozen=True)
class Headed:
    """What a forward went through at its end.

    Attributes:
        logits: (B,K), in float32, or float64 where the model's are.
        features: (B,D), what the head makes them of, likewise.
        head: an `nn.Linear`, or an `nn.Conv2d` of 1x1 that sees one pixel.
        name: of the head in the model.
    """

    logits: Tensor
    features: Tensor
    head: nn.Module
    name: str

    @property
    def weight(self) -> Tensor:
        """(K,D), a row for each class, likewise."""
        weight = self.head.weight
        assert isinstance(weight, Tensor)
        return wide(weight.detach().flatten(1))

    @property
    def bias(self) -> Tensor | None:
        """(K,), if there is one, likewise."""
        bias = self.head.bias
        return wide(bias.detach()) if isinstance(bias, Tensor) else None


def through_head(model: nn.Module, images: Tensor, name: str) -> Headed:
    """Return the logits of images (B,3,H,W), with the head that the forward met and its features.

    The head is the last linear layer met whose output is what the model returns, to the bit: behind it may come what
    changes nothing, such as dropout, identities, a reshape, or another type of numbers.

    Args:
        model: in whatever mode; it runs in evaluation mode.
        images: in [0,1] for a `PixelModel`.
        name: of the protocol that asks, for messages.

    Raises:
        InputError: the logits are of several answers an image, or no linear layer returned them.
    """
    with _calls(model) as calls, evaluating(model):
        logits = answers(run(model, images), name)
    for (place, head), features, output in reversed(calls):
        if output.shape == logits.shape and _equal(output.to(logits.dtype), logits):
            return Headed(wide(logits), wide(features), head, place)
    last = f" (the last is {calls[-1][0][0]})" if calls else ""
    raise InputError(
        f"Expected a model whose logits are those of a linear layer for {name}, but none that a forward meets returns "
        f"them{last}: choose a protocol that leaves the classifier alone."
    )


def wide(values: Tensor) -> Tensor:
    """Return values as float32, or float64 where they are."""
    return values if values.dtype == torch.float64 else values.float()


def answers(output: Any, name: str) -> Tensor:
    """Return the logits (B,K) in what a model returned.

    Raises:
        InputError: they are of several answers an image, which the protocol `name` is not for.
    """
    logits = extract_logits(output)
    if logits.ndim != 2:
        raise InputError(
            f"Expected logits (B,K) for {name}, which adapts classifiers alone, but got shape {tuple(logits.shape)}."
        )
    return logits


@contextmanager
def _calls(model: nn.Module) -> Iterator[list[tuple[tuple[str, nn.Module], Tensor, Tensor]]]:
    """Collect ((name, layer), features (B,D), output (B,K)) of the linear layers that a forward meets, in order."""
    calls: list[tuple[tuple[str, nn.Module], Tensor, Tensor]] = []

    def met(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not (inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)):
            return
        pixels = () if isinstance(layer, nn.Linear) else (1, 1)
        if inputs[0].shape[2:] == output.shape[2:] == pixels:
            calls.append(((name, layer), inputs[0].flatten(1), output.flatten(1)))

    layers = {name: layer for name, layer in model.named_modules() if _is_linear(layer)}
    hooks = [layer.register_forward_hook(partial(met, name)) for name, layer in layers.items()]
    try:
        with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
            yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _equal(first: Tensor, second: Tensor) -> bool:
    """Return whether tensors have the same values, NaN in the same places."""
    return bool(((first == second) | (first.isnan() & second.isnan())).all())


def _is_linear(layer: nn.Module) -> bool:
    """Return whether a layer does to one pixel what a linear one does."""
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear)
