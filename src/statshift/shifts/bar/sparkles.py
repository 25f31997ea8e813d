"""Light and shade of rays about a point."""

import math

import torch
from torch import Tensor

from statshift._core.randomness import Draws
from statshift.shifts.bar.corruption import axes, bar_corruption, plane

_FEWEST, _MOST = 50, 200  # rays about a point


@bar_corruption
def sparkles(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Whiten about five points, uniform in the image, with rays of about 0.01 level of the side, at least 1 px."""
    radius = 0.01 * level * side
    rays = draws.integers("rays", 5, low=_FEWEST, high=_MOST)
    lengths = draws.normal("lengths", 5, _MOST).mul_(0.25).add_(1).mul_(radius).clamp_(min=1)
    centres = draws.uniform("centres", 5, 2)
    kept = images.new_ones(len(images), *images.shape[-2:])
    for point in range(5):
        glow = _glow(images, centres[:, point], lengths[:, point], rays[:, point], 1.0)
        kept.addcmul_(kept, glow, value=-1)
    return _whitened(images, kept)


@bar_corruption
def inverse_sparkles(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Whiten all but the rays about a point near the middle: of about a quarter of the side, falling by 0.13 level."""
    rays = draws.integers("rays", low=_FEWEST, high=_MOST)
    lengths = draws.normal("lengths", _MOST).mul_(0.25).add_(1).mul_(0.25 * side)
    centre = draws.uniform("centre", 2, low=0.25, high=0.75)
    glow = _glow(images, centre, lengths, rays, 0.13 * level)
    return _whitened(images, glow)


def _whitened(images: Tensor, kept: Tensor) -> Tensor:
    """Return images of which a share (B,H,W) is kept, and the rest is white."""
    return torch.lerp(images.new_ones(()), images, kept[:, None])


def _glow(images: Tensor, centre: Tensor, lengths: Tensor, rays: Tensor, power: float) -> Tensor:
    """Return (B,H,W) in [0,1]: (length / distance)**(2 power), weaker between rays.

    Args:
        images: (B,3,H,W).
        centre: (B,2), row and column as shares of the sides.
        lengths: (B,R) in pixels, the first `rays` of which are met.
        rays: (B,) int64.
        power: how fast it falls.
    """
    height, width = images.shape[-2:]
    rows, columns = axes(images)
    y = rows - plane(centre[:, 0] * height)
    x = columns - plane(centre[:, 1] * width)
    turn = torch.atan2(x, y).add_(math.pi).mul_(plane(rays / (2 * math.pi))).flatten(1)
    steps = torch.arange(lengths.shape[1] + 2, device=images.device) % rays[:, None]
    around = lengths.gather(1, steps)  # the first two again at the end, where an angle may be pi
    ray, between = turn.long(), turn.frac_()
    length = around.gather(1, ray).addcmul_(around.diff().gather(1, ray), between).view(-1, height, width)
    glow = length.square_().div_((x * x + y * y).add_(1e-4))
    if power != 1:
        glow.pow_(power)
    strength = between.sub_(0.5).square_().view_as(glow)
    return glow.addcmul_(glow, strength, value=-1).clamp_(0, 1)
