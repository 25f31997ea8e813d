"""How many different images there are: copies, frames of one scene and pictures of nothing tell less than their number.

Images are told apart by the means of their own channels, by the measure of how far apart their own quarters are; and
those of one class by what the model predicts of them. The derivation is in docs/auto.md.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift._core.walking import modules_of
from statshift.models.pixel import extract_logits
from statshift.norms.statistics import channel_statistics

LEAST = 1 / 320
"""Share of the stored variance by which neighbouring quarters are taken to differ, at least."""
FEW = 2.5
"""With fewer effective images than this (two scenes) only a strong shift is told from what they show."""
FAINT = 1 / 32
"""Deviation of pixels within an image from which on it is taken to show something: eight grey levels of 256."""
NOTHING = 4
"""Quarters of faint pictures that show something differ by more than this many times what independent pixels would."""

SURE = 3
"""Deviations of a normal value beyond which pixels are taken to know of their neighbours."""


def likeness(means: Sequence[Tensor], apart: Sequence[Tensor]) -> Tensor:
    """Return the likeness (n,n) of images, which falls linearly from 1, where two are equal, to 0.

    It is 0 from half of the squared distance of neighbouring quarters on.

    Args:
        means: (n,C) of each layer, means of the images' own channels, in stored deviations, over the root of C.
        apart: () of each layer, half of the squared distance of neighbouring quarters, likewise.
    """
    exact = "donot_use_mm_for_euclid_dist"  # the differences of near-copies would drown in the rounding of a product
    squared = torch.stack([torch.cdist(one, one, compute_mode=exact).square() for one in means]).sum(0)
    return (1 - squared / torch.stack(list(apart)).sum()).clamp_min(0)


def effective_images(alike: Tensor) -> Tensor:
    """Return as how many independent images some count: () from 1 (copies) to n, the diversity n² / Σ_ij likeness_ij.

    Args:
        alike: (n,n) of `likeness`.

    Reference:
        Leinster & Cobbold, "Measuring diversity: the importance of species similarity", Ecology 2012, order 2.
    """
    return len(alike) ** 2 / alike.sum()


def class_directions(model: nn.Module, classes: int) -> Tensor | None:
    """Return the directions (K,d) of classes in the features before the last linear layer; None without such a layer.

    They are its centred rows, of length 1: of classes that have nothing in common any two have the cosine -1/(K-1).

    Reference:
        Papyan, Han & Donoho, "Prevalence of neural collapse during the terminal phase of deep learning training", PNAS
        2020.
    """
    linear = [one for one in modules_of(model) if isinstance(one, nn.Linear) and one.out_features == classes]
    if not linear:
        return None
    rows = linear[-1].weight.detach()
    return nn.functional.normalize(rows - rows.mean(0), dim=1)


def class_agreement(alike: Tensor, output: Any, model: nn.Module | None = None) -> Tensor:
    """Return () in [0,1] how far the classes of images that are not alike agree beyond chance.

    The agreement of two classes is the cosine of their directions, which is 0 on average over all; that of two images
    its mean over what the model predicts of them. The result is the mean over all pairs, of which those that are alike
    count as 0, with one image more that is of all classes alike, so that two images do not tell that there is one class
    only: it is 0 for balanced classes, and n (n - 1) / (n + 1)² for n different images that are surely of one class.

    Args:
        alike: (n,n) of `likeness`.
        output: what the model returned; where that is not logits (n,K) of two classes or more, nothing is told: 0.
        model: where it has no last linear layer, no two classes have anything in common.
    """
    try:
        logits = extract_logits(output)
    except InputError:
        return alike.new_zeros(())
    if logits.ndim != 2 or len(logits) != len(alike) or logits.shape[1] < 2:
        return alike.new_zeros(())
    predicted = logits.to(alike).softmax(1).nan_to_num(0)
    classes = logits.shape[1]
    directions = None if model is None else class_directions(model, classes)
    if directions is None:
        agreement = (predicted @ predicted.T - 1 / classes) / (1 - 1 / classes)
    else:
        seen = predicted @ directions.to(predicted)
        agreement = seen @ seen.T
    return ((1 - alike) * agreement).sum().clamp_min(0) / (len(alike) + 1) ** 2


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


def know_neighbours(images: Tensor) -> Tensor:
    """Return (n,) whether the pixels of each image (n,3,H,W) know of their neighbours, as those of any picture do.

    Of independent ones the correlation with the next pixel, right or below, is 0, give or take 1 over the root of their
    number. A single colour knows nothing.
    """
    pixels = images.to(torch.promote_types(images.dtype, torch.float32))
    apart = pixels - pixels.mean((2, 3), keepdim=True)
    pairs = [apart[..., 1:] * apart[..., :-1], apart[..., 1:, :] * apart[..., :-1, :]]
    together = torch.stack([pair.sum((1, 2, 3)) for pair in pairs]).sum(0)
    number = sum(pair[0].numel() for pair in pairs)
    known: Tensor = together > SURE * number**0.5 * apart.square().mean((1, 2, 3))
    return known


def without_noise(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return images (n,3,H,W) with others of them in the place of those that show nothing, and () whether any was.

    What shows nothing is told by `know_neighbours`. Where more than half of the images are so, they stay.
    """
    shown = know_neighbours(images)
    shown = shown | (2 * shown.sum() < len(images))
    others = shown.long().argsort(descending=True, stable=True)[(~shown).long().cumsum(0) % shown.sum()]
    places = torch.where(shown, torch.arange(len(images), device=images.device), others)
    return images[places], ~shown.all()
