"""SAR: sharpness-aware entropy on reliable images, and back to the source before it collapses."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift.adapting.affine import AffineStepping, AffineStream, affine_terms, entropy, norm_layers

FROZEN = 0.25
"""Share of the norm layers, the last ones, that are not trained."""


class SarStepping(AffineStepping):
    """Answer a batch, climb to where its entropy is worst nearby, and step by the gradient found there."""

    def adapt(self, images: Tensor) -> Tensor:
        """Return the logits (B,K) from before the step."""
        logits = self.told(images)
        margin = self.how.entropy_margin * math.log(logits.shape[1])
        entropies = entropy(logits)
        reliable = entropies < margin
        gradients = self.gradients(entropies[reliable].mean()) if reliable.any() else None
        if gradients is None:
            return logits
        sharp = None
        with self.perturbed(gradients):
            worst = entropy(self.told(images, kept=False))
            reliable = reliable & (worst < margin)
            if reliable.any():
                loss = worst[reliable].mean()
                sharp = self.gradients(loss)
        if sharp is not None:
            self.step_by(sharp)
            self.recover(loss.detach())
        return logits

    @contextmanager
    def perturbed(self, gradients: Sequence[Tensor | None]) -> Iterator[None]:
        """Move the terms up along their gradients, together by `radius`, while the context lasts."""
        norm = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm()
        own = [term.detach().clone() for term in self.terms.values()]
        try:
            with torch.no_grad():
                for term, gradient in zip(self.terms.values(), gradients, strict=True):
                    if gradient is not None:
                        term.add_(gradient * (self.how.radius / (norm + 1e-12)))
            yield
        finally:
            with torch.no_grad():
                for term, value in zip(self.terms.values(), own, strict=True):
                    term.copy_(value)

    def recover(self, loss: Tensor) -> None:
        """Remember an average of the losses (), and go back to the source once it is too low."""
        average = self.memory.get("loss")
        self.memory["loss"] = loss if average is None else self.how.keep * average + (1 - self.how.keep) * loss
        if self.memory["loss"] < self.how.reset_below:
            self.reset()


@dataclass(frozen=True)
class Sar(AffineStream):
    """Minimise the entropy of reliable images where it is flat, and begin anew before all predictions are one.

    The affine terms of the last quarter of the norm layers stay as they are.

    Attributes:
        learning_rate: None, which a record leaves out, is 0.001 for a model with layer norms, and 0.00025 for others.
        optimiser: None is "sgd".
        entropy_margin: E_0, below which an image is reliable, in units of ln K, the largest entropy that there is.
        radius: rho, how far the climb goes, as the Euclidean norm over all terms.
        reset_below: e_0, the average loss in nats at which a collapse is feared.
        keep: weight of the losses remembered against the newest, in [0,1].

    Raises:
        InputError: other numbers.

    Reference:
        Niu et al., "Towards stable test-time adaptation in dynamic wild world", ICLR 2023; numbers of
        github.com/mr-eggplant/SAR, for ImageNet alone: 0.001 for ViT and 0.00025 for ResNets, 0.4 ln K, 0.05, 0.2, 0.9.

    Differs:
        The layers left out are a share of all, in the order in which the model holds them, which are the paper's
        blocks 9 to 11 and last norm of a ViT-B and layer4 of a ResNet-18, and 14 norms where layer4 of a ResNet-50 has
        10. Batches without a reliable image make no step. What is remembered of losses is forgotten at a reset.
    """

    name = "sar"
    summary = "Niu et al., ICLR 2023"
    forwards = 2
    backwards = 2
    stepping = SarStepping
    rates: ClassVar[Mapping[bool, float]] = {True: 0.001, False: 0.00025}

    entropy_margin: float = 0.4
    radius: float = 0.05
    reset_below: float = 0.2
    keep: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.entropy_margin > 0:
            raise InputError(f"Expected `entropy_margin` above 0, but got {self.entropy_margin}.")
        for name in ("radius", "reset_below"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"Expected `{name}` to be 0 or more, but got {getattr(self, name)}.")
        if not 0 <= self.keep <= 1:
            raise InputError(f"Expected `keep` in [0,1], but got {self.keep}.")

    def usual(self, model: nn.Module, classes: int) -> Mapping[str, Any]:
        """Return the paper's numbers for a model with or without layer norms."""
        layered = any("layernorm" in type(layer).__name__.lower() for layer in norm_layers(model).values())
        return {"optimiser": "sgd", "learning_rate": self.rates[layered]}

    def chosen(self, layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
        """Return those norm layers whose affine terms are trained: all but the last quarter, and at least one."""
        names = [name for name, layer in layers.items() if affine_terms({name: layer})]
        trained = max(min(1, len(names)), len(names) - math.ceil(FROZEN * len(names)))
        return {name: layers[name] for name in names[:trained]}
