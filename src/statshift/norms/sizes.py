"""Which sizes a network that answers for each pixel takes: found by trying, before anything else runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import gcd

import torch
from torch import nn

from statshift.models import PixelModel, extract_logits, pixel_model
from statshift.norms.layers import evaluating

MULTIPLES = (8, 16, 32, 64)
"""What is tried, in px, where a network fails at the images' own size."""


def fit_size(model: nn.Module, sizes: Iterable[Iterable[int]]) -> int | None:
    """Find the `size_multiple` that a model in pixel space needs for images of some sizes, and set it on the model.

    Nothing is tried where it is set already, where the model resizes images to a size of its own, and of any other
    module. Else one grey image of the least even size goes through the network. Where it raises, or answers with more
    pixels than the image has, images padded to multiples of 8, 16, 32 and 64 px are tried in this order, and the first
    is set at which there are logits for each pixel. A classifier is so never padded. Weights, train flags and random
    numbers are left as they were.

    Args:
        model: as it is, compiled or not.
        sizes: (height, width) of the images that it will be given, in px.

    Returns:
        The multiple; None where none is needed, or none helps: running the model then says what is wrong.
    """
    inner = pixel_model(model)
    if inner is None or inner.preprocessing.input_size is not None or inner.preprocessing.size_multiple is not None:
        return None if inner is None else inner.preprocessing.size_multiple
    hardest = _hardest(sizes)
    if hardest <= inner.known_sizes:
        return None
    before = inner.preprocessing
    with _trying(inner):
        if all(_takes(inner, size, by_pixel=False) for size in hardest):
            inner.known_sizes |= hardest
            return None
        for multiple in MULTIPLES:
            inner.preprocessing = replace(before, size_multiple=multiple)
            odd = {(_odd_multiple(height, multiple), _odd_multiple(width, multiple)) for height, width in hardest}
            if all(_takes(inner, size, by_pixel=True) for size in odd):
                return multiple
    inner.preprocessing = before
    return None


def _hardest(sizes: Iterable[Iterable[int]]) -> set[tuple[int, int]]:
    """Return one or two of the sizes: those whose height and whose width can be halved least often."""
    all_sizes = sorted({(int(height), int(width)) for height, width in sizes})
    return {min(all_sizes, key=lambda size: gcd(size[side], MULTIPLES[-1])) for side in (0, 1) if all_sizes}


def _odd_multiple(length: int, multiple: int) -> int:
    """Return an odd multiple, of at least a length: what takes it takes all, where 64 px would not tell 8 from 32."""
    return multiple * (-(-length // multiple) | 1)


def _takes(model: PixelModel, size: tuple[int, int], *, by_pixel: bool) -> bool:
    """Return whether the network answers an image of a size, not with more pixels than it has."""
    image = torch.full((1, 3, *size), 0.5, device=model.mean.device)
    try:
        entered = model.normalise(image)
        shape = extract_logits(model.network(entered)).shape
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError):
        return False
    if len(shape) != 4:
        return not by_pixel
    return shape[2] <= entered.shape[2] and shape[3] <= entered.shape[3]


@contextmanager
def _trying(model: PixelModel) -> Iterator[None]:
    """Let a model run without leaving a trace."""
    device = model.mean.device
    with evaluating(model), torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
