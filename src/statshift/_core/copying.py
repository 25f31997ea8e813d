"""Copies of modules, also of those that `copy.deepcopy` refuses."""

from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import nn

from statshift._core.errors import InputError
from statshift._core.walking import modules_of

Module = TypeVar("Module", bound=nn.Module)


def copied(model: Module, shared: dict[int, Any] | None = None) -> Module:
    """Return a copy of a module.

    Pruned and old-style weight-normed modules hold weights that are made anew of others before each forward, and that
    `deepcopy` refuses; the copy has their values without their graph.

    Args:
        model: left as found.
        shared: tensors that the copy shares, by their `id`.

    Raises:
        InputError: a module that is not initialised yet.
    """
    check_initialised(model)
    made = dict(shared or {})
    for module in modules_of(model):
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                made[id(value)] = value.detach().clone()
    with torch.no_grad():  # else the weights of a copied torch.jit module are computed ones
        found = deepcopy(model, made)
    for ours, theirs in zip(model.parameters(), found.parameters(), strict=True):
        theirs.requires_grad_(ours.requires_grad)
    return found


def check_initialised(model: nn.Module) -> None:
    """Check that all of a module's tensors have a shape.

    Raises:
        InputError: one gets its own with the first batch.
    """
    for tensors in (model.named_parameters(), model.named_buffers()):
        for name, tensor in tensors:
            if torch.nn.parameter.is_lazy(tensor):
                raise InputError(
                    f"Expected an initialised model, but {name} gets its shape with the first batch (a lazy module): "
                    "run one batch through it first."
                )
