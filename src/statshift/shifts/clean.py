"""No shift: the images as they are."""

from statshift.shifts.shift import CLEAN, Shift


class Clean(Shift):
    """The clean images, with which every other shift is compared."""

    name = CLEAN
    family = "clean"


CLEAN_IMAGES = Clean()
