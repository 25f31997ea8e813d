"""Projected ascent by sign steps, and the balls that it is projected to: the loop of every attack.

Reference: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (ICLR 2018), section 2.1.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def linf_ball(
    centre: Tensor, epsilon: float, low: float = -torch.inf, high: float = torch.inf
) -> tuple[Tensor, Tensor]:
    """Return the least and greatest values within `epsilon` of `centre` in every place, and within [low, high]."""
    return (centre - epsilon).clamp(low, high), (centre + epsilon).clamp(low, high)


def ascend(
    start: Tensor,
    gradient: Callable[[Tensor], Tensor],
    ball: tuple[Tensor, Tensor],
    *,
    steps: int,
    step_size: float,
) -> Tensor:
    """Return where `steps` steps of `step_size` along the gradient's sign lead, projected to a ball after each.

    Args:
        start: any shape.
        gradient: of what is to be greatest, at a point; where it is NaN no step is taken.
        ball: least and greatest values, of the shape of `start`.
        steps: how many.
        step_size: of each.
    """
    point = start
    for _ in range(steps):
        direction = gradient(point).sign().nan_to_num()
        point = torch.clamp(point + step_size * direction, *ball)
    return point
