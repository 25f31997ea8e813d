"""The steps of which filters are made: functions of images (B,3,H,W), as whole levels in float32, to such images.

A step that looks at one channel of one pixel is a table of 256 levels a channel. Tables that follow one another are
one table, so that laying a colour over an image, its opacity, contrast and brightness cost a single look-up.

Reference: W3C, "Filter Effects Module Level 1", section 8, and SVG 1.1, feColorMatrix, for the formulas; pilgram for
what is rounded when.
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from statshift.shifts.filters import gradients, levels
from statshift.shifts.filters.levels import TOP

Step = Callable[[Tensor], Tensor]
Steps = tuple[Step, ...]
Blend = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Table:
    """A step by channel and level.

    Attributes:
        values: (3,256) levels.
    """

    values: Tensor
    kept: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __call__(self, images: Tensor) -> Tensor:
        """Return images (B,3,H,W) looked up."""
        if images.device not in self.kept:
            offsets = torch.tensor([0.0, 256.0, 512.0])[:, None, None]
            self.kept[images.device] = self.values.flatten().to(images.device), offsets.to(images.device)
        values, offsets = self.kept[images.device]
        places = (images + offsets).to(torch.int32)
        return values.index_select(0, places.view(-1)).view(places.shape)


def tabulated(step: Step) -> Table:
    """Return a step that looks at one channel of one pixel as a table."""
    every = torch.arange(256.0).expand(1, 3, 1, 256)
    return Table(step(every)[0, :, 0].float().contiguous())


def merged(steps: Steps) -> Steps:
    """Return steps that do the same, in which no table follows another."""
    kept: list[Step] = []
    for step in steps:
        before = kept[-1] if kept else None
        if isinstance(step, Table) and isinstance(before, Table):
            kept[-1] = Table(step.values.gather(1, before.values.long()))
        else:
            kept.append(step)
    return tuple(kept)


def stepped(steps: Steps, images: Tensor) -> Tensor:
    """Return images after steps, one after the other."""
    return reduce(lambda done, step: step(done), steps, images)


# Steps by channel and level


def brightened(amount: float) -> Step:
    """Multiply every level, rounded."""
    return tabulated(lambda images: images.double().mul(amount).round_().clamp_(0, TOP))


def contrasted(amount: float) -> Step:
    """Stretch levels around the middle, rounded."""
    shift = -127.5 * amount
    return tabulated(lambda images: images.double().mul(amount).add(shift).add(127.5).round_().clamp_(0, TOP))


def fill(mode: Blend, *colour: float) -> Step:
    """Lay a colour over images: red, green and blue as levels, and an alpha in [0,1] where it is not opaque."""
    source, alpha = _source(torch.tensor(gradients.levels_of(colour), dtype=torch.float32)[:, None, None])
    return tabulated(lambda images: _laid(mode, images, source, alpha))


def _source(drawn: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return what is laid over images and its alpha, of (3 or 4,H,W)."""
    return drawn[:3], (drawn[3:] if len(drawn) > 3 else None)


def _laid(mode: Blend, images: Tensor, source: Tensor, alpha: Tensor | None) -> Tensor:
    blended = mode(images, source)
    return blended if alpha is None else levels.with_alpha(images, blended, alpha)


# Steps across channels


def _matrix(*rows: tuple[float, float, float]) -> Step:
    """Return the step that maps (red, green, blue) by a matrix, rounded, as `Image.convert` does."""

    def mapped(images: Tensor) -> Tensor:
        different = dict.fromkeys(rows)  # one, where all that is left is grey
        height, width = images.shape[-2:]
        out, part = images.new_empty(len(images), len(different), height, width), torch.empty_like(images[:, 0])
        first, *others = images.unbind(1)
        for row, mixed in zip(different, out.unbind(1), strict=True):
            torch.mul(first, row[0], out=mixed)
            for channel, weight in zip(others, row[1:], strict=True):
                mixed.add_(torch.mul(channel, weight, out=part))  # product and sum are each rounded, as in C
        return out.add_(0.5).clamp_(0, TOP).floor_().expand(-1, 3, -1, -1)

    return mapped


def grayscale(amount: float = 1.0) -> Step:
    """Pull colours towards their luminance; 1 is all the way."""
    rest, weights = 1 - min(amount, 1), (0.2126, 0.7152, 0.0722)
    own, others = (0.7874, 0.2848, 0.9278), (-0.2126, -0.7152, -0.0722)
    return _matrix(*_towards(weights, own, others, rest))


def saturated(amount: float) -> Step:
    """Push colours away from their luminance, or towards it below 1."""
    weights, own, others = (0.213, 0.715, 0.072), (0.787, 0.285, 0.928), (-0.213, -0.715, -0.072)
    return _matrix(*_towards(weights, own, others, amount))


def sepia(amount: float) -> Step:
    """Pull colours towards brown; 1 is all the way."""
    rest = 1 - min(amount, 1)
    brown = ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131))
    change = ((0.607, -0.769, -0.189), (-0.349, 0.314, -0.168), (-0.272, -0.534, 0.869))
    return _matrix(*(_sum(row, more, rest) for row, more in zip(brown, change, strict=True)))


def hue_rotated(degrees: float) -> Step:
    """Turn hues."""
    weights = (0.213, 0.715, 0.072)
    cosines = ((0.787, -0.715, -0.072), (-0.213, 0.285, -0.072), (-0.213, -0.715, 0.928))
    sines = ((-0.213, -0.715, 0.928), (0.143, 0.140, -0.283), (-0.787, 0.715, 0.072))
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _matrix(*(_sum(_sum(weights, even, cosine), odd, sine) for even, odd in zip(cosines, sines, strict=True)))


Weights = tuple[float, float, float]


def _sum(row: Weights, change: Weights, amount: float) -> Weights:
    red, green, blue = (value + amount * more for value, more in zip(row, change, strict=True))
    return red, green, blue


def _towards(weights: Weights, own: Weights, others: Weights, amount: float) -> list[Weights]:
    """Return the matrix that mixes each channel with the luminance."""
    rows = [tuple(own[k] if k == channel else others[k] for k in range(3)) for channel in range(3)]
    return [_sum(weights, (red, green, blue), amount) for red, green, blue in rows]


def grey(images: Tensor) -> Tensor:
    """Set every channel to the luma."""
    return levels.luma(images).expand(-1, 3, -1, -1)


def colour(*source: int) -> Steps:
    """Lay the hue and the saturation of a colour over images, which keep their luminosity."""
    over = torch.tensor(source, dtype=torch.float32)[None, :, None, None]
    return grey, tabulated(lambda images: levels.at_luminosity(over, images[:, :1] - levels.luma(over)))


def hue(*source: float) -> Step:
    """Lay the hue of a colour, with an alpha in [0,1], over images, which keep saturation and luminosity.

    What comes out depends on an image's luma and on the range of its channels alone, and is looked up by both.
    """
    *colour_, alpha = gradients.levels_of(source)
    above = torch.tensor(colour_)[None, :, None, None]
    above = above - above.min()
    every = torch.arange(256.0)
    hued = above * every / above.max()
    values = levels.at_luminosity(hued, every[:, None] - levels.luminosity(hued)).view(3, -1)
    kept: dict[torch.device, Tensor] = {}

    def laid(images: Tensor) -> Tensor:
        if images.device not in kept:
            kept[images.device] = values.to(images.device)
        spread = images.amax(dim=1) - images.amin(dim=1)
        places = levels.luma(images)[:, 0].mul_(256).add_(spread).to(torch.int32)
        looked = [channel.index_select(0, places.flatten()).view(places.shape) for channel in kept[images.device]]
        return levels.with_alpha(images, torch.stack(looked, dim=1), int(alpha))

    return laid


# Steps by place


def radial_fill(mode: Blend, *stops: gradients.Stop) -> Step:
    """Lay a gradient over images, of colours at shares of the way from the centre to the corner."""

    def laid(images: Tensor) -> Tensor:
        drawn = gradients.radial_gradient(images.device, *images.shape[-2:], stops)
        return _laid(mode, images, *_source(drawn))

    return laid


def linear_fill(mode: Blend, top: gradients.Colour, bottom: gradients.Colour) -> Step:
    """Lay a gradient over images, from a colour at the top to one at the bottom."""
    return lambda images: mode(images, gradients.linear_gradient(images.device, *images.shape[-2:], top, bottom))


def masked(inside: Steps, outside: Steps, draw: gradients.Draw, *arguments: Hashable) -> Step:
    """Return the step that does one thing inside a mask of `gradients`, and another outside."""
    inside, outside = merged(inside), merged(outside)

    def mixed(images: Tensor) -> Tensor:
        mask = gradients.mask(images.device, draw, *images.shape[-2:], *arguments)
        return levels.composite(stepped(inside, images), stepped(outside, images), mask)

    return mixed


def opacity(share: float, *steps: Step) -> Step:
    """Return the step that goes a share in [0,1] of the way that others go."""
    steps = merged(steps)

    def part(images: Tensor) -> Tensor:
        return levels.with_opacity(images, stepped(steps, images), share)

    return tabulated(part) if all(isinstance(step, Table) for step in steps) else part
