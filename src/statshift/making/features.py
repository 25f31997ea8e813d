"""The features of a model, which its last layer takes, and images that are made to have those of others.

Reference: Ilyas et al., "Adversarial Examples Are Not Bugs, They Are Features" (NeurIPS 2019), section 3.1;
    Benz et al., "Batch Normalization Increases Adversarial Vulnerability" (ICLR 2021 submission), equation 3.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift._core.randomness import bits, keys
from statshift.norms.layers import before_forward, run
from statshift.shifts.attacks import attackable, gradient_of, logits_of
from statshift.shifts.attacks.ascent import ascend, directions


def find_head(model: nn.Module, images: Tensor) -> nn.Module:
    """Return the linear layer or 1x1 convolution that puts out the logits, whose input are the features.

    It is the last of them that a forward of images (B,3,H,W) meets.

    Raises:
        InputError: there is none, or it has another width than the logits.
    """
    met: list[str] = []
    heads: dict[str, Any] = {name: module for name, module in model.named_modules() if _width(module)}
    with attackable(model), torch.no_grad(), before_forward(heads, lambda name, layer, features: met.append(name)):
        classes = logits_of(model, images).shape[1]
    last = heads[met[-1]] if met else None
    if last is None or _width(last) != classes:
        seen = f"{met[-1]} with {_width(last)} outputs" if last is not None else "none"
        raise InputError(
            f"Expected a model whose {classes} logits come from a linear layer or a 1x1 convolution, whose input are "
            f"the features, but the last that an image meets is {seen}."
        )
    found: nn.Module = last
    return found


def _width(module: Any) -> int:
    """Return how many outputs a linear layer or a 1x1 convolution has; 0 for any other module."""
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1} else 0


def head_features(model: nn.Module, head: nn.Module, images: Tensor) -> Tensor:
    """Return the features (B,D), what a head takes in a forward of images (B,3,H,W), flattened."""
    caught: list[Tensor] = []
    heads: dict[str, Any] = {"head": head}
    with before_forward(heads, lambda name, layer, features: caught.append(features)):
        run(model, images)
    return caught[-1].flatten(1)


def row_distances(first: Tensor, second: Tensor) -> Tensor:
    """Return the L2 distance (B,) between the rows of two tensors (B,...)."""
    found: Tensor = torch.linalg.vector_norm((first - second).flatten(1), dim=1)
    return found


def match_features(
    model: nn.Module,
    head: nn.Module,
    images: Tensor,
    starts: Tensor,
    *,
    steps: int,
    step_size: float,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """Return images (B,3,H,W) in [0,1] whose features are as near to those of others as steps from `starts` lead.

    Args:
        model: left as it was found.
        head: see `find_head`.
        images: (B,3,H,W) in [0,1], whose features are wanted.
        starts: (B,3,H,W) in [0,1].
        steps: how many.
        step_size: length of each, in L2.
        on_step: called before each.

    Reference:
        Benz et al., ICLR 2021 submission, equation 3.
    """
    with attackable(model):
        wanted = head_features(model, head, images).detach()

        def closeness(point: Tensor) -> Tensor:
            if on_step:
                on_step()
            return -row_distances(head_features(model, head, point), wanted).sum()

        box = partial(torch.clamp, min=0, max=1)
        return ascend(starts, gradient_of(closeness, 1.0), box, steps=steps, step_size=step_size, steepest=directions)


def draw_starts(labels: NDArray[np.int64], indices: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return for each image the position (N,) of one drawn uniformly from all that have another label.

    Args:
        labels: (N,) from 0 up.
        indices: (N,) of the images in the whole of the data, to which the draws are addressed.
        seed: seed of the draws.

    Raises:
        InputError: all labels are the same.
    """
    counts = np.bincount(labels)
    if np.count_nonzero(counts) < 2:
        raise InputError(f"Expected images of two classes or more, but all are of class {labels[0]}.")
    words = bits(keys(seed, torch.from_numpy(indices), "extraction/start"), 2).numpy().astype(np.int64) & 0x7FFFFFFF
    ranks = (words[:, 0] << 31 | words[:, 1]) % (len(labels) - counts[labels])
    before = (np.cumsum(counts) - counts)[labels]  # images of lesser labels
    by_class = np.argsort(labels, kind="stable")
    return by_class[np.where(ranks < before, ranks, ranks + counts[labels])]


def feature_distance(model: nn.Module, head: nn.Module, wanted: Tensor, images: Tensor) -> Tensor:
    """Return how far (B,) the features of images are from those of the images wanted."""
    with attackable(model), torch.no_grad():
        return row_distances(*(head_features(model, head, one) for one in (images, wanted)))
