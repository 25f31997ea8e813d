"""The modules within a module."""

from collections.abc import Mapping

from torch import nn


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Return a module and all within it, as `model.modules()` does, of a class too that has other things of that name.

    A published ESPNet keeps a list in `modules`.
    """
    return [module for _, module in model.named_modules()]


def put_in_place(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Put other modules in the places of some within a model: under every name, and in lists that the model keeps."""
    for parent in modules_of(model):
        for name, child in list(parent._modules.items()):  # named_children would skip a second name
            if child is not None and child in new:
                parent._modules[name] = new[child]
        for kept in [value for value in vars(parent).values() if isinstance(value, list)]:
            kept[:] = [new.get(one, one) if isinstance(one, nn.Module) else one for one in kept]
