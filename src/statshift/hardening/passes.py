"""Forward passes of an attack in a training step: with a gradient to the images, under an autocast of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from statshift.hardening.batch import Batch
from statshift.norms.layers import evaluating
from statshift.splitting.branches import Branches


def features_of(branches: Branches, images: Tensor) -> Tensor:
    """Return the features (B,C,H,W) of images (B,3,H,W) as `Branches.prefix`, but with a gradient to the images."""
    with evaluating(branches.clean):
        return branches.splits["clean"].prefix(images)


def autocast(batch: Batch) -> torch.autocast:
    """Return an attack's own autocast, which keeps no weights that lack a gradient."""
    mixed = batch.attacked_in if batch.attacked_in in (torch.bfloat16, torch.float16) else None
    return torch.autocast(batch.images.device.type, mixed, enabled=mixed is not None, cache_enabled=False)


@contextmanager
def attacked(branches: Branches, batch: Batch) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield the adversarial suffix under an autocast of its own."""
    dtype = None if batch.attacked_in == torch.float32 else batch.attacked_in
    with autocast(batch), branches.attacked(dtype) as suffix:
        yield suffix
