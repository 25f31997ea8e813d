"""How many different images there are: copies, frames of one scene and pictures of nothing tell less than their number.

Images are told apart by the means of their own channels, by the measure of how far apart their own quarters are. The
derivation is in docs/auto.md.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from statshift.norms.statistics import channel_statistics

LEAST = 1 / 320
"""Share of the stored variance by which neighbouring quarters are taken to differ, at least."""
FEW = 2.5
"""With fewer effective images than this (two scenes) only a strong shift is told from what they show."""
FAINT = 1 / 32
"""Deviation of pixels within an image from which on it is taken to show something: eight grey levels of 256."""
NOTHING = 4
"""Quarters of faint pictures that show something differ by more than this many times what independent pixels would."""


def effective_images(means: Sequence[Tensor], apart: Sequence[Tensor]) -> Tensor:
    """Return as how many independent images some images count: () from 1 (copies) to n.

    It is the diversity n² / Σ_ij likeness_ij. The likeness of two images falls linearly from 1, where they are equal,
    to 0 at half of the squared distance of neighbouring quarters.

    Args:
        means: (n,C) of each layer, means of the images' own channels, in stored deviations, over the root of C.
        apart: () of each layer, half of the squared distance of neighbouring quarters, likewise.

    Reference:
        Leinster & Cobbold, "Measuring diversity: the importance of species similarity", Ecology 2012, order 2.
    """
    exact = "donot_use_mm_for_euclid_dist"  # the differences of near-copies would drown in the rounding of a product
    squared = torch.stack([torch.cdist(one, one, compute_mode=exact).square() for one in means]).sum(0)
    likeness = (1 - squared / torch.stack(list(apart)).sum()).clamp_min(0)
    return len(squared) ** 2 / likeness.sum()


def show_something(images: Tensor) -> Tensor:
    """Return () whether images (n,3,H,W) show more than one colour each, or the noise of a covered lens.

    Such pictures are faint, and their quarters differ by no more than means of so many independent pixels.
    """
    seen = channel_statistics(images, quarters=True)
    within = seen.instances.var.mean()
    strong = within > FAINT**2
    if seen.apart is None or seen.quarters is None:
        return strong
    return strong | (seen.apart[0].mean() > NOTHING * within / seen.quarters.count)
