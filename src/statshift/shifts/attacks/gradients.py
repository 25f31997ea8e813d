"""The gradient of a loss with respect to one thing, and to nothing else."""

from collections.abc import Callable

import torch
from torch import Tensor

from statshift._core.processes import mean_over_ranks

Loss = Callable[[Tensor], Tensor]

HALF_SCALE = 2.0**12
"""What the loss is multiplied by under float16, whose gradients vanish else; lowered wherever they overflow."""


def gradient_of(loss: Loss, scale: float, *, everywhere: bool = False) -> Loss:
    """Return what gives the gradient of a scaled loss at a point, and of nothing else.

    Args:
        loss: loss of a point.
        scale: divided by 16 for good wherever the gradient overflows, unless it is 1 or less.
        everywhere: take the mean over all processes.
    """

    def gradient(point: Tensor) -> Tensor:
        nonlocal scale
        point = point.detach().requires_grad_()
        while True:
            with torch.enable_grad():
                (found,) = torch.autograd.grad(loss(point) * scale, point)
            if everywhere:
                found = mean_over_ranks(found)
            if scale <= 1 or bool(found.isfinite().all()):
                return found
            scale /= 16

    return gradient
