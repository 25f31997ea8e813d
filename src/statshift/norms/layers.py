"""The normalization layers of a model, and the guards that every reading of a model runs under."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.copying import check_initialised
from statshift._core.errors import InputError
from statshift._core.walking import modules_of
from statshift.norms.kinds import COMPILED, check_reachable, keeps_statistics, no_statistics, norms_of


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models into evaluation mode and, whatever happens, give each module its own train flag back."""
    flags = [(module, module.training) for model in models for module in modules_of(model)]
    training = [module for module, flag in flags if flag]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module, flag in flags:
            if module.training != flag:
                module.training = flag


def running_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch norms that keep running statistics, by name, in the order of the model's modules; maybe none."""
    return {name.replace(COMPILED, ""): module for name, module in model.named_modules() if keeps_statistics(module)}


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch norms that keep running statistics, by name, of a model that must have some.

    What counts is told by `keeps_statistics`; a module that the model uses under several names counts once.

    Raises:
        InputError: there is none; the norms that the model has are named.
    """
    check_initialised(model)
    found = running_norms(model)
    if not found:
        raise no_statistics(model)
    return found


def lacking_statistics(model: nn.Module) -> str:
    """Return in words why no statistics of a model can be rewritten, with the norms that it has; "" if some can.

    Raises:
        InputError: its layers cannot be reached, or are not initialised.
    """
    check_initialised(model)
    if running_norms(model):
        return ""
    check_reachable(model)
    return f"it has no batch normalization with running statistics; its norms are: {norms_of(model)}"


def check_changeable(model: nn.Module) -> None:
    """Check that a model's tensors can be written to and differentiated.

    Raises:
        InputError: they were made in inference mode.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_inference() and not torch.is_inference_mode_enabled():
            raise InputError(
                f"Expected ordinary weights, but {name} was made in torch.inference_mode, and can be neither changed "
                "nor differentiated: build the model outside of it, or give a copy (copy.deepcopy)."
            )


class _FromHookError(Exception):
    """What a hook raised, on its way through the model."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


@contextmanager
def before_forward(layers: dict[str, _BatchNorm], hook: Callable[[str, _BatchNorm, Tensor], None]) -> Iterator[None]:
    """Call `hook(name, layer, features)` before each layer's forward while the context lasts; nothing of it survives.

    It is called however the layer is: by its module, by keyword or as `layer.forward(features)`, which torch's own
    hooks pass by. Compiled models run as written meanwhile.
    """

    def call(name: str, layer: _BatchNorm, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(forward)
        def met(*inputs: Tensor, **named: Tensor) -> Tensor:
            try:
                features = next(iter([*inputs, *named.values()]))
                hook(name, layer, features.dequantize() if features.is_quantized else features)
            except Exception as error:  # not the model's: `run` shall not take it for one
                raise _FromHookError(error) from error
            return forward(*inputs, **named)

        return met

    before = {name: vars(layer).get("forward") for name, layer in layers.items()}
    for name, layer in layers.items():
        vars(layer)["forward"] = call(name, layer, layer.forward)
    try:
        with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
            yield
    except _FromHookError as wrapped:
        raise wrapped.error from wrapped.error.__cause__
    finally:
        for name, own in before.items():
            vars(layers[name]).pop("forward")
            if own is not None:
                vars(layers[name])["forward"] = own


@torch.no_grad()
def execution_order(model: nn.Module, layers: dict[str, _BatchNorm], image: Tensor) -> list[str]:
    """Return the names of the layers that a forward of `image` (1,3,H,W) meets, in the order it meets them."""
    order: list[str] = []
    with before_forward(layers, lambda name, layer, features: order.append(name)), evaluating(model):
        run(model, image)
    return list(dict.fromkeys(order))


@contextmanager
def keeping_statistics(layers: dict[str, _BatchNorm], *, unless_done: bool = False) -> Iterator[None]:
    """Give the layers their running statistics back, whatever happens; holds copies of these buffers only.

    Args:
        layers: by name.
        unless_done: give them back only if something is raised.
    """
    for layer in layers.values():
        check_changeable(layer)
    kept = [(layer, [buffer.clone() for buffer in layer.buffers(recurse=False)]) for layer in layers.values()]
    done = False
    try:
        yield
        done = True
    finally:
        if not (done and unless_done):
            with torch.no_grad():
                for layer, buffers in kept:
                    for buffer, value in zip(layer.buffers(recurse=False), buffers, strict=True):
                        buffer.copy_(value)


_LENT: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Layers whose statistics are being rewritten, and the thread that does it."""

_LENDING = threading.Lock()


@contextmanager
def alone(layers: dict[str, _BatchNorm], *, nested: bool = False) -> Iterator[None]:
    """Have the layers' statistics to oneself while the context lasts.

    Args:
        layers: by name.
        nested: also within another such context of the same thread.

    Raises:
        InputError: somebody else has one of them.
    """
    thread = threading.get_ident()
    with _LENDING:
        taken = [name for name, layer in layers.items() if layer in _LENT and not (nested and _LENT[layer] == thread)]
        if taken:
            raise InputError(
                f"The model is already being rectified, its layer {taken[0]} at least, by another context or thread: "
                "end that one first, or rectify a copy (`statshift.rectify`)."
            )
        mine = [layer for layer in layers.values() if layer not in _LENT]
        _LENT.update(dict.fromkeys(mine, thread))
    try:
        yield
    finally:
        with _LENDING:
            for layer in mine:
                del _LENT[layer]


@contextmanager
def aside(layers: dict[str, _BatchNorm]) -> Iterator[None]:
    """Let the layers write to copies of their buffers; then they have their own again, which nothing has written to.

    So a graph that holds these buffers may still be walked backwards, which after `keeping_statistics` it may not.
    """
    own = [(layer, dict(layer.named_buffers(recurse=False))) for layer in layers.values()]
    try:
        for layer, buffers in own:
            for name, buffer in buffers.items():
                setattr(layer, name, buffer.clone())
        yield
    finally:
        for layer, buffers in own:
            for name, buffer in buffers.items():
                setattr(layer, name, buffer)


def run(model: nn.Module, images: Tensor) -> Any:
    """Return what the model returns for images (B,3,H,W).

    Raises:
        InputError: it raises; what it says is told in one line, with the images' shape.
    """
    try:
        return model(images)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(f"The model fails on images of shape {tuple(images.shape)}: {reason}") from error
