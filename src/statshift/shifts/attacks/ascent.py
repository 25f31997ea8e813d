"""Projected steepest ascent: the balls, the steps, and the loop of every attack.

Geometry is apart from the algorithm: in a norm, `steepest` is the unit step along which a gradient rises fastest, and a
ball is a function that puts a point back into it.

Reference: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (ICLR 2018), section 2.1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def linf_ball(centre: Tensor, epsilon: float, low: float = -torch.inf, high: float = torch.inf) -> Map:
    """Return the projection to what is within `epsilon` of `centre` in every place, and within [low, high]."""
    least, greatest = (centre - epsilon).clamp(low, high), (centre + epsilon).clamp(low, high)
    return lambda point: torch.clamp(point, least, greatest)


def l2_ball(centre: Tensor, epsilon: float, low: float = -torch.inf, high: float = torch.inf) -> Map:
    """Return the projection to what is within a distance `epsilon` of each row of `centre` (B,...), then [low, high].

    Where `centre` is within [low, high] the second step leaves no ball; together they are not the nearest point.
    """

    def project(point: Tensor) -> Tensor:
        offset = point - centre
        share = (epsilon / _lengths(offset).clamp_min(torch.finfo(offset.dtype).tiny)).clamp_max_(1)
        return offset.mul_(share).add_(centre).clamp_(low, high)

    return project


def signs(gradient: Tensor) -> Tensor:
    """Return the step of length 1 in the maximum norm along which a gradient rises fastest; 0 where it is NaN."""
    return gradient.sign().nan_to_num()


def directions(gradient: Tensor) -> Tensor:
    """Return for each row of a gradient (B,...) the step of length 1 in L2; 0 where the row is zero or not finite."""
    greatest = gradient.flatten(1).abs().amax(1).view(-1, *[1] * (gradient.ndim - 1))
    scaled = gradient / greatest  # whose squares neither vanish nor overflow
    return torch.where(greatest.isfinite() & (greatest > 0), scaled / _lengths(scaled), 0)


def _lengths(rows: Tensor) -> Tensor:
    """Return the L2 norm of each row (B,...), as (B,1,...)."""
    lengths: Tensor = torch.linalg.vector_norm(rows.flatten(1), dim=1)
    return lengths.view(-1, *[1] * (rows.ndim - 1))


def ascend(
    start: Tensor, gradient: Map, project: Map, *, steps: int, step_size: float, steepest: Map = signs
) -> Tensor:
    """Return where `steps` steps of `step_size` along the steepest ascent lead, projected after each.

    Args:
        start: any shape.
        gradient: gradient of what is to be greatest, at a point.
        project: puts a point back where it may be.
        steps: how many.
        step_size: length of each.
        steepest: `signs` or `directions`.
    """
    point = start
    for _ in range(steps):
        point = project(point + step_size * steepest(gradient(point)))
    return point
