"""The modules within a module."""

from torch import nn


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Return a module and all within it, as `model.modules()` does, of a class too that has other things of that name.

    A published ESPNet keeps a list in `modules`.
    """
    return [module for _, module in model.named_modules()]
