"""What answers a stream batch after batch: begun anew now and then, or frozen once enough images have come."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from statshift._core.parts import part

Step = Callable[[Tensor], Any]
"""From a batch of images (B,3,H,W) to its logits (B,K)."""


class Restarting:
    """Answer by a step that is made anew after every so many batches.

    Args:
        make: returns a step at the source.
        every: after how many batches; None is never.
        memoryless: whether no answer depends on the batches before.
    """

    def __init__(self, make: Callable[[], Step], every: int | None, *, memoryless: bool = False) -> None:
        self._make, self._every, self._memoryless = make, every, memoryless
        self._step, self._answered = make(), 0

    def __call__(self, images: Tensor) -> Any:
        """Return the logits (B,K) of the next images (B,3,H,W)."""
        if self._every and self._answered and self._answered % self._every == 0:
            self._step = self._make()
        self._answered += 1
        with part("adapt"):
            return self._step(images)

    @property
    def resumable(self) -> bool:
        """Whether `state_dict` is all that the next answer depends on."""
        return self._memoryless or bool(getattr(self._step, "resumable", False))

    def state_dict(self) -> dict[str, Any]:
        """Return how far it is, and the state of the step."""
        step: Any = self._step
        return {"answered": self._answered, "step": {} if self._memoryless else step.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._answered = state["answered"]
        if not self._memoryless:
            step: Any = self._step
            step.load_state_dict(state["step"])


class Beginning:
    """Answer by what is made of the first images, and of those that have come while they are fewer; then frozen.

    Args:
        adapt: from images (n,3,H,W) to the step that they make of the source.
        samples: how many.
    """

    def __init__(self, adapt: Callable[[Tensor], Step], samples: int) -> None:
        self._adapt, self._samples = adapt, samples
        self._step: Step | None = None
        self._seen: Tensor | None = None

    def __call__(self, images: Tensor) -> Any:
        """Return the logits (B,K) of the next images (B,3,H,W)."""
        known = 0 if self._seen is None else len(self._seen)
        if self._step is None or known < self._samples:
            new = images[: self._samples - known]
            self._seen = new.clone() if self._seen is None else torch.cat([self._seen, new])
            with torch.enable_grad():
                self._step = self._adapt(self._seen)
        return self._step(images)
