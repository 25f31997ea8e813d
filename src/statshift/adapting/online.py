"""A stream that is answered by a window of its newest images, to which the model is rectified anew."""

from typing import Any

import torch
from torch import Tensor, nn

from statshift._core.copying import copied
from statshift._core.errors import InputError
from statshift.adapting.rectify import By, rewrite
from statshift.models import check_input
from statshift.norms.layers import alone, batch_norms, evaluating, keeping_statistics, run


class RectifiedStream(nn.Module):
    """Answer a stream by a copy of the model that is rectified to the newest images, and anew as they change.

    With "auto" the copy goes as far as the window shows a shift beyond noise, so it is back at the source, or nearly,
    once the shift is gone. It costs two more forward passes of `window` images for every `every` images answered.
    Images that cannot be answered raise, and do not enter the window; those of another size begin a new one.

    Args:
        model: left as it is.
        window: how many of the newest images are rectified to.
        every: after how many new images; until `window` images have come, after each batch.
        protocol: see `rectified`.
        **options: of `rectified`.
    """

    def __init__(self, model: nn.Module, window: int = 32, every: int = 32, protocol: By = "auto", **options: Any):
        super().__init__()
        if window < 1 or every < 1:
            raise InputError(f"Expected `window` and `every` to be at least 1, but got {window} and {every}.")
        self.model = copied(model).eval()
        self.window, self.every = window, every
        self._options: dict[str, Any] = {"protocol": protocol} | options
        self._source = {name: value.clone() for name, value in self.model.state_dict().items() if "running_" in name}
        self._newest: Tensor | None = None
        self._waiting = 0
        self.eval()

    def reset(self) -> None:
        """Forget the stream: back to the source."""
        self._newest, self._waiting = None, 0
        self.model.load_state_dict(self._source, strict=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,K) for the next images (B,3,H,W), which are in the window already."""
        check_input(self.model, images)
        if images.device.type == "cpu" and not images.isfinite().all():
            raise InputError(f"Expected finite images, but {int((~images.isfinite()).sum())} values are not.")
        if self._newest is not None and self._newest.shape[1:] == images.shape[1:]:
            seen = torch.cat([self._newest.to(images.device), images])
        else:
            seen = images
        growing = len(seen) - len(images) < self.window
        waiting = self._waiting + len(images)
        if len(seen) > 1 and (growing or waiting >= self.every):  # one image does not tell its own noise
            self._rectify(seen[-self.window :])
            waiting = 0
        with evaluating(self.model):
            logits: Tensor = run(self.model, images)
        self._newest, self._waiting = seen[-self.window :].clone(), waiting
        return logits

    def _rectify(self, images: Tensor) -> None:
        layers = batch_norms(self.model)
        with alone(layers, nested=True), keeping_statistics(layers, unless_done=True):
            self.model.load_state_dict(self._source, strict=False)
            rewrite(self.model, images, **self._options)
