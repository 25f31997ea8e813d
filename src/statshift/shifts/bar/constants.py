"""The levels of severities 1 to 5, by benchmark; the functions tell what a level, from 0 to 10, is of each corruption.

Reference: Mintun et al., NeurIPS 2021, and the authors' lists for ImageNet-C-bar (224 px) and CIFAR-10-C-bar (32 px).
"""

from typing import Any

from statshift.shifts.shift import Table

BAR_LEVELS: dict[Table, dict[str, tuple[float, ...]]] = {
    "imagenet": {
        "blue_noise_sample": (0.8, 1.6, 2.4, 4.0, 5.6),
        "plasma_noise": (4.75, 7.0, 8.5, 9.25, 10.0),
        "checkerboard_cutout": (2.0, 3.0, 4.0, 5.0, 6.0),
        "cocentric_sine_waves": (3.0, 5.0, 8.0, 9.0, 10.0),
        "single_frequency_greyscale": (1.0, 1.5, 2.0, 4.5, 5.0),
        "brownish_noise": (1.0, 2.0, 3.0, 4.0, 5.0),
        "perlin_noise": (4.6, 5.2, 5.8, 7.6, 8.8),
        "inverse_sparkles": (1.0, 2.0, 4.0, 9.0, 10.0),
        "sparkles": (1.0, 2.0, 3.0, 5.0, 6.0),
        "caustic_refraction": (2.35, 3.2, 4.9, 6.6, 9.15),
    },
    "cifar": {
        "blue_noise_sample": (0.7, 1.4, 2.1, 3.5, 4.2),
        "checkerboard_cutout": (1.0, 2.0, 3.0, 4.0, 5.0),
        "inverse_sparkles": (1.0, 1.5, 2.5, 4.5, 5.0),
        "pinch_and_twirl": (5.5, 6.0, 6.5, 8.5, 10.0),
        "ripple": (5.5, 6.0, 6.5, 7.5, 8.0),
        "brownish_noise": (2.5, 4.0, 5.5, 6.5, 7.0),
        "circular_motion_blur": (2.8, 3.6, 4.4, 5.2, 6.0),
        "lines": (0.5, 1.0, 1.5, 2.0, 2.5),
        "sparkles": (0.7, 3.5, 5.6, 6.3, 7.0),
        "transverse_chromatic_abberation": (1.0, 2.0, 5.0, 9.0, 10.0),
    },
}

SIDES: dict[Table, int] = {"imagenet": 224, "cifar": 32}
"""Sides of the benchmarks' images, px."""


def bar_constants(name: str, severity: int, side: int, table: Table, scaled: bool = True) -> dict[str, Any]:
    """Return the level of a corruption at a severity, and the side (px) in which its lengths are told.

    A corruption of one benchmark alone has that one's levels, whatever the table. Lengths grow with the shorter side,
    as in the authors' formulas; unscaled they are those of the benchmark's own side.
    """
    if name not in BAR_LEVELS[table]:
        table = "cifar" if table == "imagenet" else "imagenet"
    return {"level": BAR_LEVELS[table][name][severity - 1], "side": float(side if scaled else SIDES[table])}
