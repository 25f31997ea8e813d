"""Which modules are batch norms with statistics, whoever wrote them, and what to say of a model that has none."""

from typing import TypeGuard

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from statshift._core.errors import InputError
from statshift._core.walking import modules_of

COMPILED = "_orig_mod."
"""What `torch.compile` puts before the names of the modules in a module."""

WITHOUT = "`measure` without protocols works with any model, and `harden` by the method standard trains any"


def keeps_statistics(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Return whether a module is a batch norm with running statistics.

    It is one of torch's or derived from them, or a module of others that holds the same: `running_mean`, `running_var`
    and `eps`, "Norm" or "ABN" in the name of its class (torchvision's and detectron2's FrozenBatchNorm2d, in-place
    ABN). Instance norms are none: their statistics are of single images.
    """
    if isinstance(module, _InstanceNorm):
        return False
    if not isinstance(getattr(module, "running_mean", None), torch.Tensor):
        return False
    name = type(module).__name__.lower()
    return isinstance(module, _BatchNorm) or (
        ("norm" in name or "abn" in name)
        and isinstance(getattr(module, "running_var", None), torch.Tensor)
        and isinstance(getattr(module, "eps", None), float)
    )


def check_reachable(model: nn.Module) -> None:
    """Check that the layers of a model can be reached from outside.

    Raises:
        InputError: it is scripted, traced or exported, which hides them.
    """
    modules = modules_of(model)
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        raise InputError(
            "Expected a model whose norm layers can be reached, but it is scripted or traced (torch.jit): give the "
            f"module that it was made from, and script or trace the result. As it is, {WITHOUT.partition(',')[0]}."
        )
    if any("training_ir" in vars(module) or "_guards_fn" in dict(module.named_children()) for module in modules):
        raise InputError(
            "Expected a model whose norm layers can be reached, but it is exported (torch.export): give the module "
            f"that it was made from, and export the result. As it is, {WITHOUT.partition(',')[0]}."
        )


def no_statistics(model: nn.Module) -> InputError:
    """Return the error for a model without a batch norm that keeps statistics; it names the norms there are."""
    try:
        check_reachable(model)
    except InputError as hidden:
        return hidden
    return InputError(
        f"Expected a model with batch normalization and running statistics, but its norms are: {norms_of(model)}. "
        f"{WITHOUT}."
    )


def norms_of(model: nn.Module) -> str:
    """Return the kinds of norms in a model, in words; what holds norms is none itself, whatever its name."""
    named = [module for module in modules_of(model) if "norm" in type(module).__name__.lower()]
    ids = set(map(id, named))
    kinds = {type(norm).__name__ for norm in named if ids.isdisjoint(map(id, modules_of(norm)[1:]))}
    return ", ".join(sorted(kinds)) or "none"


def without_statistics(model: nn.Module) -> list[str]:
    """Return the names of the batch norms that keep no running statistics, and normalise each batch by its own."""
    return [
        name.replace(COMPILED, "")
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is None
    ]
