"""Fast AutoAugment: policies that were found by density matching, each of some 500 pairs of operations."""

import math
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from random import Random

from PIL import Image, ImageDraw, ImageEnhance, ImageOps

Pair = tuple[tuple[str, float, float], tuple[str, float, float]]
"""Two operations, each with its probability and its level, both in [0,1]."""

RANGES: dict[str, tuple[float, float]] = {
    "ShearX": (-0.3, 0.3),
    "ShearY": (-0.3, 0.3),
    "TranslateX": (-0.45, 0.45),
    "TranslateY": (-0.45, 0.45),
    "Rotate": (-30, 30),
    "AutoContrast": (0, 1),
    "Invert": (0, 1),
    "Equalize": (0, 1),
    "Solarize": (0, 256),
    "Posterize": (4, 8),
    "Contrast": (0.1, 1.9),
    "Color": (0.1, 1.9),
    "Brightness": (0.1, 1.9),
    "Sharpness": (0.1, 1.9),
    "Cutout": (0, 0.2),
}
"""By operation, its value at level 0 and at 1: slopes, shares of the sides, degrees, thresholds, bits, factors."""

SIGNED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
"""The operations that go the other way every other time."""

CUTOUT_COLOUR = (125, 123, 114)
"""What a cutout is filled with: ImageNet's mean."""

UNDRAWN: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "ShearX": lambda image, value: _moved(image, 1, value, 0, 0, 1, 0),
    "ShearY": lambda image, value: _moved(image, 1, 0, 0, value, 1, 0),
    "TranslateX": lambda image, value: _moved(image, 1, 0, value * image.width, 0, 1, 0),
    "TranslateY": lambda image, value: _moved(image, 1, 0, 0, 0, 1, value * image.height),
    "Rotate": lambda image, value: image.rotate(value),
    "AutoContrast": lambda image, value: ImageOps.autocontrast(image),
    "Invert": lambda image, value: ImageOps.invert(image),
    "Equalize": lambda image, value: ImageOps.equalize(image),
    "Solarize": lambda image, value: ImageOps.solarize(image, math.ceil(value)),  # whole, as what is below it
    "Posterize": lambda image, value: ImageOps.posterize(image, int(value)),
    "Contrast": lambda image, value: ImageEnhance.Contrast(image).enhance(value),
    "Color": lambda image, value: ImageEnhance.Color(image).enhance(value),
    "Brightness": lambda image, value: ImageEnhance.Brightness(image).enhance(value),
    "Sharpness": lambda image, value: ImageEnhance.Sharpness(image).enhance(value),
}
"""The operations that draw nothing."""


def fast_autoaugment(image: Image.Image, policy: str, rng: Random) -> Image.Image:
    """Return an RGB image after one pair of a policy, each operation with its probability; of the same size.

    Args:
        image: RGB, of any size.
        policy: "cifar10" or "imagenet".
        rng: all draws are its.

    Reference:
        Lim et al., Fast AutoAugment, NeurIPS 2019: the policies that its authors publish for reduced CIFAR-10 with a
        Wide-ResNet and for reduced ImageNet with a ResNet-50 (github.com/kakaobrain/fast-autoaugment, archive.py), and
        their operations (augmentations.py).

    Differs:
        Probabilities and levels have four digits behind the point.
    """
    for name, probability, level in rng.choice(policy_of(policy)):
        if rng.random() <= probability:
            image = operated(image, name, level, rng)
    return image


def operated(image: Image.Image, name: str, level: float, rng: Random) -> Image.Image:
    """Return an RGB image after an operation of `RANGES` at a level in [0,1]."""
    low, high = RANGES[name]
    value = low + level * (high - low)
    if name == "Cutout":
        return _cut_out(image, value * image.width, rng)
    if name in SIGNED and rng.random() < 0.5:
        value = -value
    return UNDRAWN[name](image, value)


@cache
def policy_of(name: str) -> tuple[Pair, ...]:
    """Return the pairs of a policy, "cifar10" or "imagenet"."""
    lines = (files("statshift.hardening") / "policies" / f"{name}.txt").read_text("ascii").splitlines()
    return tuple(_pair(line.split()) for line in lines)


def _pair(words: list[str]) -> Pair:
    first, second = ((words[at], float(words[at + 1]), float(words[at + 2])) for at in (0, 3))
    return first, second


def _moved(image: Image.Image, *matrix: float) -> Image.Image:
    """Return an image of which pixel (x, y) was at a matrix's place; what was outside is black."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


def _cut_out(image: Image.Image, side: float, rng: Random) -> Image.Image:
    """Return an image with a grey square about a place drawn, cut at the border."""
    if side <= 0:
        return image
    centre = rng.uniform(0, image.width), rng.uniform(0, image.height)
    left, top = (int(max(0, place - side / 2)) for place in centre)
    image = image.copy()
    corner = min(image.width, left + side), min(image.height, top + side)
    ImageDraw.Draw(image).rectangle((left, top, *corner), CUTOUT_COLOUR)
    return image
