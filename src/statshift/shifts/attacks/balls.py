"""Norm balls: what an attack may reach, how it steps, and where it begins.

To ship another: a class here or in a file of its own, and an attack with it in `shifts/registry.py`.
"""

import math
from typing import Any

import torch
from torch import Tensor

from statshift._core.errors import unknown
from statshift._core.randomness import Draws
from statshift.shifts.attacks.ascent import Map, directions, l2_ball, linf_ball, signs


class Ball:
    """The geometry of a norm; a user's own derives from it.

    Attributes:
        name: by which records and `PixelAttack.norm` call it.
        title: in a sentence, as in "the greatest L2 distance".
        bound: greatest radius for pixels in [0,1], whatever the shape; infinity where it depends on the shape.
    """

    name: str
    title: str = ""
    bound: float = math.inf

    def project(self, centre: Tensor, epsilon: float, low: float = -torch.inf, high: float = torch.inf) -> Map:
        """Return the projection to the ball around each row of `centre` (B,...), then to [low, high]."""
        raise NotImplementedError

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return for a gradient (B,...) the step of length 1 along which it rises fastest."""
        raise NotImplementedError

    def offset(self, shape: tuple[int, ...], epsilon: float, draws: Draws) -> Tensor:
        """Return where to begin: offsets (B,*shape) in the ball around zero, drawn for each image of `draws`."""
        raise NotImplementedError

    def largest(self, pixels: int) -> float:
        """Return the greatest distance of two images of so many values in [0,1]."""
        return self.bound


class LInf(Ball):
    """The maximum norm: every value by itself."""

    name, title, bound = "linf", "maximum-norm", 1.0

    def project(self, centre: Tensor, epsilon: float, low: float = -torch.inf, high: float = torch.inf) -> Map:
        """See `linf_ball`."""
        return linf_ball(centre, epsilon, low, high)

    def steepest(self, gradient: Tensor) -> Tensor:
        """See `signs`."""
        return signs(gradient)

    def offset(self, shape: tuple[int, ...], epsilon: float, draws: Draws) -> Tensor:
        """Return offsets that are uniform in the cube."""
        return draws.uniform("start", *shape, low=-epsilon, high=epsilon)


class L2(Ball):
    """The Euclidean norm."""

    name, title = "l2", "L2"

    def project(self, centre: Tensor, epsilon: float, low: float = -torch.inf, high: float = torch.inf) -> Map:
        """See `l2_ball`."""
        return l2_ball(centre, epsilon, low, high)

    def steepest(self, gradient: Tensor) -> Tensor:
        """See `directions`."""
        return directions(gradient)

    def offset(self, shape: tuple[int, ...], epsilon: float, draws: Draws) -> Tensor:
        """Return offsets that are uniform in the ball."""
        radius = draws.uniform("radius", 1, 1, 1).pow(1 / math.prod(shape))
        return directions(draws.normal("start", *shape)) * radius * epsilon

    def largest(self, pixels: int) -> float:
        """Return the diagonal of the cube."""
        return math.sqrt(pixels)


BALLS: dict[str, Ball] = {one.name: one for one in (LInf(), L2())}


def ball_of(norm: Any) -> Ball:
    """Return the ball of a name, or the ball itself.

    Raises:
        InputError: an unknown name.
    """
    if isinstance(norm, Ball):
        return norm
    if norm not in BALLS:
        raise unknown("norm", norm, BALLS)
    return BALLS[norm]
