"""The 26 filters of CSSgram, as the package pilgram computes them.

Reference: Una Kravets, CSSgram (MIT), whose filters are CSS; Akiomi Kamakura, pilgram 2.0.0 (Apache 2.0), which
computes them with Pillow, and from which these steps and their order are.
"""

from torch import Tensor

from statshift.shifts.filters import gradients
from statshift.shifts.filters.filter import Filter
from statshift.shifts.filters.levels import (
    color_burn,
    color_dodge,
    composite,
    cover,
    darken,
    exclusion,
    lighten,
    multiply,
    overlay,
    screen,
    soft_light,
    with_opacity,
)
from statshift.shifts.filters.steps import (
    Step,
    Steps,
    brightened,
    colour,
    contrasted,
    fill,
    grayscale,
    hue,
    hue_rotated,
    linear_fill,
    masked,
    opacity,
    radial_fill,
    saturated,
    sepia,
)

_UNCHANGED: Steps = ()

_1977 = Filter("1977", (fill(screen, 243, 106, 188, 0.3), contrasted(1.1), brightened(1.1), saturated(1.3)))


def aden_under(draw: gradients.Draw, start: float) -> Steps:
    """Return the steps of Aden; the packages part over the mask of its shade."""
    shade = masked((fill(darken, 66, 10, 14),), _UNCHANGED, draw, start)
    return shade, hue_rotated(-20), contrasted(0.9), saturated(0.85), brightened(1.2)


aden = Filter("aden", aden_under(gradients.turned, 0.8))
brannan = Filter("brannan", (fill(lighten, 161, 44, 199, 0.31), sepia(0.5), contrasted(1.4)))
brooklyn = Filter(
    "brooklyn",
    (
        masked((fill(overlay, 168, 223, 193, 0.4),), (fill(overlay, 196, 183, 200),), gradients.radial, 0.7),
        contrasted(0.9),
        brightened(1.1),
    ),
)
clarendon = Filter("clarendon", (fill(overlay, 127, 187, 227, 0.2), contrasted(1.2), saturated(1.35)))
earlybird = Filter(
    "earlybird",
    (
        radial_fill(overlay, (0.2, (208, 186, 142)), (0.85, (54, 3, 9)), (1.0, (29, 2, 16))),
        contrasted(0.9),
        sepia(0.2),
    ),
)
gingham = Filter("gingham", (fill(soft_light, 230, 230, 250), brightened(1.05), hue_rotated(-10)))
hudson = Filter(
    "hudson",
    (
        opacity(0.5, radial_fill(multiply, (0.5, (166, 177, 255)), (1.0, (52, 33, 52)))),
        brightened(1.2),
        contrasted(0.9),
        saturated(1.1),
    ),
)
inkwell = Filter("inkwell", (sepia(0.3), contrasted(1.1), brightened(1.1), grayscale()))
kelvin = Filter("kelvin", (fill(color_dodge, 56, 44, 52), fill(overlay, 183, 125, 33)))
lark = Filter("lark", (fill(color_dodge, 34, 37, 63), fill(darken, 242, 242, 242, 0.8), contrasted(0.9)))
lofi = Filter(
    "lofi",
    (masked(_UNCHANGED, (fill(multiply, 34, 34, 34),), gradients.radial, 0.7, 1.5), saturated(1.1), contrasted(1.5)),
)
maven = Filter("maven", (hue(3, 230, 26, 0.2), sepia(0.25), brightened(0.95), contrasted(0.95), saturated(1.5)))


def _mayfair() -> Steps:
    centre = (0.4, 0.4)
    white, rose, black = fill(overlay, 255, 255, 255, 0.8), fill(overlay, 255, 200, 200, 0.6), fill(overlay, 17, 17, 17)
    light = masked((white,), (rose,), gradients.radial, 0.0, 0.3, centre)
    lit = masked((light,), (black,), gradients.radial, 0.3, 0.6, centre)
    return opacity(0.4, lit), contrasted(1.1), saturated(1.1)


mayfair = Filter("mayfair", _mayfair())
moon = Filter(
    "moon",
    (fill(soft_light, 160, 160, 160), fill(lighten, 56, 56, 56), grayscale(), contrasted(1.1), brightened(1.1)),
)
nashville = Filter(
    "nashville",
    (
        fill(darken, 247, 176, 153, 0.56),
        fill(lighten, 0, 70, 150, 0.4),
        sepia(0.2),
        contrasted(1.2),
        brightened(1.05),
        saturated(1.2),
    ),
)
perpetua = Filter("perpetua", (opacity(0.5, linear_fill(soft_light, (0, 91, 154), (230, 193, 61))),))
reyes = Filter(
    "reyes",
    (opacity(0.5, fill(soft_light, 239, 205, 173)), sepia(0.22), brightened(1.1), contrasted(0.85), saturated(0.75)),
)
rise = Filter(
    "rise",
    (
        masked((fill(multiply, 236, 205, 169, 0.15),), (fill(multiply, 50, 30, 7, 0.4),), gradients.radial, 0.55),
        opacity(0.6, masked((fill(overlay, 232, 197, 152, 0.8),), _UNCHANGED, gradients.radial, 0.0, 0.9)),
        brightened(1.05),
        sepia(0.2),
        contrasted(0.9),
        saturated(0.9),
    ),
)
slumber = Filter(
    "slumber",
    (fill(lighten, 69, 41, 12, 0.4), fill(soft_light, 125, 105, 24, 0.5), saturated(0.66), brightened(1.05)),
)
stinson = Filter("stinson", (fill(soft_light, 240, 149, 128, 0.2), contrasted(0.75), saturated(0.85), brightened(1.15)))
toaster = Filter(
    "toaster", (radial_fill(screen, (0.0, (128, 78, 15)), (1.0, (59, 0, 59))), contrasted(1.5), brightened(0.9))
)
valencia = Filter(
    "valencia", (opacity(0.5, fill(exclusion, 58, 3, 57)), contrasted(1.08), brightened(1.08), sepia(0.08))
)
walden = Filter(
    "walden",
    (opacity(0.3, fill(screen, 0, 68, 204)), brightened(1.1), hue_rotated(-10), sepia(0.3), saturated(1.6)),
)
willow = Filter(
    "willow",
    (
        radial_fill(overlay, (0.55, (212, 169, 175)), (1.5, (0, 0, 0))),
        *colour(216, 205, 203),
        grayscale(0.5),
        contrasted(0.95),
        brightened(0.9),
    ),
)


def _vignette_burn() -> Step:
    """Burn with a light grey inside a circle; outside with a blue mixed into the image, and less of it."""
    light, blue = fill(cover, 230, 231, 224), opacity(0.6, fill(cover, 43, 42, 161))
    burner = masked((light,), (blue,), gradients.radial, 0.4, 1.1)

    def burnt(images: Tensor) -> Tensor:
        inside = color_burn(images, burner(images))
        mask = gradients.mask(images.device, gradients.radial, *images.shape[-2:], 0.4, 1.1)
        return composite(inside, with_opacity(images, inside, 0.6), mask)

    return burnt


xpro2 = Filter("xpro2", (_vignette_burn(), sepia(0.3)))
