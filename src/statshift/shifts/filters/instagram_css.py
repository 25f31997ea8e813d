"""The 14 filters that the package pilgram2 adds, of instagram.css, and the one of CSSgram's that it computes otherwise.

Reference: Pablo Caravaca, instagram.css (MIT), whose filters are CSS; pilgram2 2.0.10 (Apache 2.0), which computes
them with Pillow, and from which these steps and their order are.
"""

from statshift.shifts.filters import gradients
from statshift.shifts.filters.cssgram import aden_under
from statshift.shifts.filters.filter import Filter
from statshift.shifts.filters.levels import darken, lighten, multiply, overlay, screen
from statshift.shifts.filters.steps import (
    brightened,
    contrasted,
    fill,
    hue_rotated,
    radial_fill,
    saturated,
    sepia,
)

_BLACK = (0, 0, 0)

aden_pilgram2 = Filter("aden-pilgram2", aden_under(gradients.rightwards, 0.2))
amaro = Filter("amaro", (fill(multiply, 125, 105, 24, 0.1), sepia(0.2), brightened(1.15), saturated(1.4)))
ashby = Filter("ashby", (fill(lighten, 125, 105, 24, 0.35), sepia(0.5), contrasted(1.2), saturated(1.8)))
charmes = Filter(
    "charmes",
    (
        fill(darken, 125, 105, 24, 0.25),
        sepia(0.25),
        contrasted(1.25),
        brightened(1.25),
        saturated(1.35),
        hue_rotated(-5),
    ),
)
crema = Filter(
    "crema",
    (
        fill(multiply, 125, 105, 24, 0.25),
        sepia(0.5),
        contrasted(1.25),
        brightened(1.15),
        saturated(0.9),
        hue_rotated(-2),
    ),
)
dogpatch = Filter("dogpatch", (sepia(0.35), saturated(1.1), contrasted(1.5)))
ginza = Filter(
    "ginza",
    (
        fill(darken, 125, 105, 24, 0.15),
        sepia(0.25),
        contrasted(1.15),
        brightened(1.2),
        saturated(1.35),
        hue_rotated(-5),
    ),
)
hefe = Filter(
    "hefe",
    (
        radial_fill(multiply, (0.0, (*_BLACK, 0.0)), (1.0, (*_BLACK, 0.25))),
        sepia(0.4),
        contrasted(1.5),
        brightened(1.2),
        saturated(1.4),
        hue_rotated(-10),
    ),
)
helena = Filter(
    "helena", (fill(overlay, 158, 175, 30, 0.25), sepia(0.5), contrasted(1.05), brightened(1.05), saturated(1.35))
)
juno = Filter(
    "juno", (fill(overlay, 127, 187, 227, 0.2), sepia(0.35), contrasted(1.15), brightened(1.15), saturated(1.8))
)
ludwig = Filter(
    "ludwig", (fill(overlay, 125, 105, 24, 0.1), sepia(0.25), contrasted(1.05), brightened(1.05), saturated(2.0))
)
poprocket = Filter(
    "poprocket",
    (radial_fill(screen, (0.4, (206, 39, 70, 0.65)), (1.0, (*_BLACK, 0.0))), sepia(0.15), brightened(1.2)),
)
sierra = Filter(
    "sierra",
    (
        radial_fill(screen, (0.0, (128, 78, 15, 0.5)), (1.0, (*_BLACK, 0.65))),
        sepia(0.25),
        contrasted(1.5),
        brightened(0.9),
        hue_rotated(-15),
    ),
)
skyline = Filter("skyline", (sepia(0.15), contrasted(1.25), brightened(1.25), saturated(1.2)))
sutro = Filter(
    "sutro",
    (
        radial_fill(darken, (0.5, (*_BLACK, 0.0)), (0.9, (*_BLACK, 0.5))),
        sepia(0.4),
        contrasted(1.2),
        brightened(0.9),
        saturated(1.4),
        hue_rotated(-10),
    ),
)
