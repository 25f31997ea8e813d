"""The benchmark's constants by severity, and how they scale with the image.

Reference: Hendrycks & Dietterich, ICLR 2019, and the authors' generation scripts for ImageNet-C (224 px) and
CIFAR-10-C (32 px). Each entry lists severities 1 to 5.
"""

from typing import Any

from statshift.shifts.shift import Table

Constants = dict[str, Any]


def _columns(*names: str, rows: list[tuple[Any, ...]]) -> list[Constants]:
    return [dict(zip(names, row, strict=True)) for row in rows]


def _zooms(stops: list[float], steps: list[float]) -> list[Constants]:
    return [{"stop": stop, "step": step} for stop, step in zip(stops, steps, strict=True)]


def _each(name: str, *values: float) -> list[Constants]:
    return [{name: value} for value in values]


_GLASS = ("sigma", "delta", "iterations")
_DEFOCUS = ("radius", "alias_sigma")
_MOTION = ("radius", "sigma")
_SNOW = ("loc", "scale", "zoom", "threshold", "radius", "sigma", "keep")
_FROST = ("image_weight", "frost_weight")
_FOG = ("amount", "decay")
_ELASTIC = ("alpha", "sigma", "affine")
_SPATTER = ("loc", "scale", "sigma", "threshold", "strength", "mud")
_SATURATE = ("factor", "offset")

TABLES: dict[Table, dict[str, list[Constants]]] = {
    "imagenet": {
        "gaussian_noise": _each("sigma", 0.08, 0.12, 0.18, 0.26, 0.38),
        "shot_noise": _each("photons", 60, 25, 12, 5, 3),
        "impulse_noise": _each("amount", 0.03, 0.06, 0.09, 0.17, 0.27),
        "defocus_blur": _columns(*_DEFOCUS, rows=[(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)]),
        "glass_blur": _columns(*_GLASS, rows=[(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)]),
        "motion_blur": _columns(*_MOTION, rows=[(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)]),
        "zoom_blur": _zooms([1.11, 1.16, 1.21, 1.26, 1.31], [0.01, 0.01, 0.02, 0.02, 0.03]),
        "snow": _columns(
            *_SNOW,
            rows=[
                (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
                (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
                (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
                (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
                (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
            ],
        ),
        "frost": _columns(*_FROST, rows=[(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)]),
        "fog": _columns(*_FOG, rows=[(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)]),
        "brightness": _each("added", 0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": _each("factor", 0.4, 0.3, 0.2, 0.1, 0.05),
        "elastic_transform": _columns(
            *_ELASTIC,
            rows=[
                (244 * a, 244 * s, 244 * t)
                for a, s, t in [
                    (2, 0.7, 0.1),
                    (2, 0.08, 0.2),
                    (0.05, 0.01, 0.02),
                    (0.07, 0.01, 0.02),
                    (0.12, 0.01, 0.02),
                ]
            ],
        ),
        "pixelate": _each("scale", 0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": _each("quality", 25, 18, 15, 10, 7),
        "speckle_noise": _each("sigma", 0.15, 0.2, 0.35, 0.45, 0.6),
        "gaussian_blur": _each("sigma", 1, 2, 3, 4, 6),
        "spatter": _columns(
            *_SPATTER,
            rows=[
                (0.65, 0.3, 4, 0.69, 0.6, False),
                (0.65, 0.3, 3, 0.68, 0.6, False),
                (0.65, 0.3, 2, 0.68, 0.5, False),
                (0.65, 0.3, 1, 0.65, 1.5, True),
                (0.67, 0.4, 1, 0.65, 1.5, True),
            ],
        ),
        "saturate": _columns(*_SATURATE, rows=[(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)]),
    },
    "cifar": {
        "gaussian_noise": _each("sigma", 0.04, 0.06, 0.08, 0.09, 0.10),
        "shot_noise": _each("photons", 500, 250, 100, 75, 50),
        "impulse_noise": _each("amount", 0.01, 0.02, 0.03, 0.05, 0.07),
        "defocus_blur": _columns(*_DEFOCUS, rows=[(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)]),
        "glass_blur": _columns(*_GLASS, rows=[(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)]),
        "motion_blur": _columns(*_MOTION, rows=[(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)]),
        "zoom_blur": _zooms([1.06, 1.11, 1.16, 1.21, 1.26], [0.01] * 5),
        "snow": _columns(
            *_SNOW,
            rows=[
                (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
                (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
                (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
                (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
                (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
            ],
        ),
        "frost": _columns(*_FROST, rows=[(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)]),
        "fog": _columns(*_FOG, rows=[(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)]),
        "brightness": _each("added", 0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": _each("factor", 0.75, 0.5, 0.4, 0.3, 0.15),
        "elastic_transform": _columns(
            *_ELASTIC,
            rows=[
                (32 * a, 32 * s, 32 * t)
                for a, s, t in [
                    (0, 0, 0.08),
                    (0.05, 0.2, 0.07),
                    (0.08, 0.06, 0.06),
                    (0.1, 0.04, 0.05),
                    (0.1, 0.03, 0.03),
                ]
            ],
        ),
        "pixelate": _each("scale", 0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg_compression": _each("quality", 80, 65, 58, 50, 40),
        "speckle_noise": _each("sigma", 0.06, 0.1, 0.12, 0.16, 0.2),
        "gaussian_blur": _each("sigma", 0.4, 0.6, 0.7, 0.8, 1),
        "spatter": _columns(
            *_SPATTER,
            rows=[
                (0.62, 0.1, 0.7, 0.7, 0.5, False),
                (0.65, 0.1, 0.8, 0.7, 0.5, False),
                (0.65, 0.3, 1, 0.69, 0.5, False),
                (0.65, 0.1, 0.7, 0.69, 0.6, True),
                (0.65, 0.1, 0.5, 0.68, 0.6, True),
            ],
        ),
        "saturate": _columns(*_SATURATE, rows=[(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)]),
    },
}

# Constants measured in pixels at 224 px, by corruption; those of `_WHOLE` stay whole numbers, at least 1.
_PIXELS = {
    "defocus_blur": ("radius",),
    "glass_blur": ("sigma", "delta"),
    "motion_blur": ("radius", "sigma"),
    "snow": ("radius", "sigma"),
    "elastic_transform": ("alpha", "sigma", "affine"),
    "gaussian_blur": ("sigma",),
    "spatter": ("sigma",),
}
_WHOLE = ("radius", "delta")


def table_for(side: int) -> Table:
    """Return the table used for images of this shorter side: CIFAR's below 64 px, ImageNet's from there up."""
    return "cifar" if side < 64 else "imagenet"


def constants(name: str, severity: int, side: int, table: Table, scaled: bool = True) -> Constants:
    """Return the constants of one corruption; ImageNet's pixel-valued ones scale with `side` / 224, if at all.

    CIFAR's table is never scaled. Differs: the benchmark knows 224 and 32 px only; from 64 px up ImageNet's
    constants are scaled, radii rounded to whole numbers of at least 1. Unscaled they are those of Cityscapes-C
    (Michaelis et al., 2019).
    """
    values = dict(TABLES[table][name][severity - 1])
    if scaled and table == "imagenet" and side != 224:
        for key in _PIXELS.get(name, ()):
            scaled = values[key] * side / 224
            values[key] = max(1, round(scaled)) if key in _WHOLE else scaled
    return values
