"""Grey over parts of the image: squares of a turned board, and lines."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from statshift._core.randomness import Draws
from statshift.shifts.bar.corruption import axes, bar_corruption, plane

_GREY = 128  # of 255


@bar_corruption
def checkerboard_cutout(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Grey the black squares of a turned board, each with chance level / 10; their side is 0.1 to 0.25 of the image's.

    As in the authors' code, squares on both sides of an axis through the corner (0, 0) share a draw.
    """
    angle = draws.uniform("angle", high=2 * math.pi)
    scale = draws.uniform("scale", low=0.1, high=0.25) * side
    rows, columns = axes(images)
    cosine, sine = plane(angle.cos() / scale), plane(angle.sin() / scale)
    across = cosine * rows + sine * columns
    down = cosine * columns - sine * rows
    reach = math.ceil(math.hypot(*images.shape[-2:]) / (0.1 * side)) + 1
    chosen = draws.uniform("squares", 2 * reach + 1, 2 * reach + 1) < level / 10
    square = (across.trunc() + reach).mul_(2 * reach + 1).add_(down.trunc()).add_(reach).long()
    black = across.floor().add_(down.floor()).remainder_(2) == 0
    covered = black & chosen.flatten(1).gather(1, square.flatten(1)).view_as(black)
    return torch.where(covered[:, None], _GREY / 255, images)


@bar_corruption
def lines(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Draw smooth grey lines, level / 10 to a pixel of the side, two sides long and about one direction.

    Their middles are uniform in the image, the direction is uniform, and they turn from it by up to 18 to 180 degrees.
    One is drawn over the other on 8-bit values.
    """
    height, width = images.shape[-2:]
    count = int(level / 10 * side)
    spread = draws.uniform("spread", 1, low=0.1) * (2 * math.pi)
    angle = draws.uniform("angle", 1, high=2 * math.pi) + spread * (draws.uniform("turns", count) - 0.5)
    reach = torch.stack([angle.cos(), angle.sin()], dim=-1) * side
    middle = draws.uniform("middles", count, 2) * torch.tensor([height, width], device=images.device)
    places, strength = _line_pixels(
        (middle - reach).long(), (middle + reach).long(), (height, width), 2 * int(side) + 1
    )
    canvas = F.pad(images.flatten(2) * 255, (0, 1))  # one more place for what lies outside
    for line in range(count):
        place = places[:, line, None].expand(-1, 3, -1)
        below = canvas.gather(2, place)
        drawn = torch.lerp(below, below.new_tensor(float(_GREY)), strength[:, line, None])
        canvas.scatter_(2, place, drawn.add_(2**-10).floor_())
    return canvas[..., :-1].reshape(images.shape) / 255


def _line_pixels(start: Tensor, stop: Tensor, size: tuple[int, int], longest: int) -> tuple[Tensor, Tensor]:
    """Return (B,N,P) places of flat images and strengths of lines, each pixel of a line once; outside is H * W.

    A step along the longer extent meets the pixel on the line's path, and those beside it that Zingl's walk meets:
    the next one, and the last one where the path has stepped. A strength is 1 less the distance from the line.

    Args:
        start: (B,N,2) int64, row and column.
        stop: (B,N,2) int64, likewise.
        size: (H,W).
        longest: no line takes more steps.

    Reference:
        Zingl, "A Rasterizing Algorithm for Drawing Curves", 2012, section 7.
    """
    height, width = size
    extent, sign = (stop - start).abs(), (stop - start).sign()
    long, short = extent.amax(-1, keepdim=True), extent.amin(-1, keepdim=True)
    step = torch.arange(longest + 1, device=start.device)
    path = _path(step, short, long)
    along, beside = step.repeat(3).expand(*path.shape[:2], -1), torch.cat([path, path + 1, path - 1], dim=-1)
    distance = (beside * long - along * short).abs() / torch.hypot(long.float(), short.float())
    met = torch.cat([step <= long, step < long, path > _path((step - 1).clamp(min=0), short, long)], dim=-1)
    upright = extent[..., :1] >= extent[..., 1:]
    row = start[..., :1] + sign[..., :1] * torch.where(upright, along, beside)
    column = start[..., 1:] + sign[..., 1:] * torch.where(upright, beside, along)
    met &= (along <= long) & (distance < 1) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return torch.where(met, row * width + column, height * width), torch.where(met, 1 - distance, 0.0)


def _path(step: Tensor, short: Tensor, long: Tensor) -> Tensor:
    """Return how far a line has gone along its shorter extent at each step along the longer."""
    return (2 * step + 1) * short // (2 * long)
