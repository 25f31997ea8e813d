"""What answers a stream and has a state: a module that adapts its own copy of a model batch after batch."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from statshift.data.checks import check_images
from statshift.models import check_input
from statshift.norms.layers import evaluating, run


class Stepping(nn.Module):
    """Answer a stream batch after batch, as a protocol's `begin` returns it; a subclass gives `step`.

    Its `state_dict` is all that the next answer depends on, so that a stream which was stopped goes on with the same
    bits. What is neither a parameter nor a buffer goes through `get_extra_state` and `set_extra_state`.

    A batch with a value that is not finite is answered by the model as it stands, counted, and adapts nothing.

    Args:
        model: its own to change.

    Attributes:
        resumable: whether the state is all that the next answer depends on, as here it must be.
        model: in evaluation mode.
        skipped: () how many batches were not adapted to.
    """

    resumable = True
    skipped: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("skipped", torch.zeros((), dtype=torch.long))
        self.eval()

    def step(self, images: Tensor) -> Tensor:
        """Adapt to finite images (B,3,H,W) in [0,1], and return their logits (B,K)."""
        raise NotImplementedError

    def adapted(self) -> nn.Module:
        """Return the model as it answers when nothing moves any more: the stepping's own, in evaluation mode."""
        return self.model.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B,K) of the next images (B,3,H,W) in [0,1]."""
        check_images(images, in_range=False)
        finite = bool(images.isfinite().all())
        check_input(self.model, images if finite else torch.zeros_like(images))
        if finite:
            with casting_anew(images.device):
                return self.step(images)
        self.skipped += 1
        with torch.no_grad(), evaluating(self.model):
            logits: Tensor = run(self.model, images)
        return logits


def casting_anew(device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which autocast, if it is on, casts weights at each use, so that changed ones are seen."""
    kind = device.type
    if not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=False)
