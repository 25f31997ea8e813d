"""How many different images there are: copies, frames of one scene and flat pictures tell less than their number.

Images are told apart by the means of their own channels. The derivation is in docs/auto.md.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BETWEEN = 1 / 20
"""Share of a layer's variance that is, at least, between the channel means of images of different scenes."""
LEAST = 1 / 16
"""Share of the stored variance below which that of the images is not believed."""
FEW = 2.5
"""With fewer effective images than this (two scenes), the spread between them is too uncertain to know noise by."""


def least_spread(total: Tensor) -> Tensor:
    """Return the variance () between different images' means that is taken for granted.

    Args:
        total: () variance over images and positions, in units of the stored variance, averaged over channels.
    """
    return BETWEEN * total.clamp_min(LEAST)


def effective_images(means: Sequence[Tensor], least: Sequence[Tensor]) -> Tensor:
    """Return as how many independent images some images count: () from 1 (copies) to n.

    It is the diversity n² / Σ_ij likeness_ij. The likeness of two images falls linearly from 1, where they are equal,
    to 0 at half of the squared distance that different images have at least.

    Args:
        means: (n,C) of each layer, means of the images' own channels, in stored deviations, over the root of C.
        least: () of each layer, its `least_spread`.

    Reference:
        Leinster & Cobbold, "Measuring diversity: the importance of species similarity", Ecology 2012, order 2.
    """
    exact = "donot_use_mm_for_euclid_dist"  # the differences of near-copies would drown in the rounding of a product
    squared = torch.stack([torch.cdist(one, one, compute_mode=exact).square() for one in means]).sum(0)
    likeness = (1 - squared / torch.stack(list(least)).sum()).clamp_min(0)
    return len(squared) ** 2 / likeness.sum()
