"""A stream whose batches rewrite statistics by a rule."""

from typing import Any

from torch import Tensor, nn

from statshift.adapting.families import Rule
from statshift.adapting.passes import rewrite_by
from statshift.adapting.stepping import Stepping


class Rewriting(Stepping):
    """Rewrite the model's statistics by each batch, and answer the batch in the same forward.

    Args:
        model: its own to change.
        rule: from what a layer has stored, which the batch before has left, to what it shall use.
        how: which statistics of which layers; see `AdaptationOptions.layers`.
    """

    def __init__(self, model: nn.Module, rule: Rule, how: dict[str, Any]) -> None:
        super().__init__(model)
        self.rule, self.how = rule, how

    def step(self, images: Tensor) -> Tensor:
        """Return logits (B,K)."""
        return rewrite_by(self.model, images, self.rule, **self.how)
