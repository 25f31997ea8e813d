"""AutoAttack, by the package torchattacks where it is installed."""

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError, unknown
from statshift.models import class_logits
from statshift.norms.layers import run

NAMES = {"linf": "Linf", "l2": "L2"}


class _Logits(nn.Module):
    """A model that returns nothing but its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        return class_logits(run(self.model, images))


@dataclass(frozen=True)
class AutoAttack:
    """The standard ensemble: APGD on cross-entropy, targeted APGD, targeted FAB and Square, each on what withstands.

    Attributes:
        epsilon: radius of the ball, in the units of pixels in [0,1].
        norm: "linf" or "l2".

    Raises:
        InputError: values that cannot be.

    Reference:
        Croce & Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks"
        (ICML 2020), section 4.
    """

    epsilon: float
    norm: str = "linf"

    def __post_init__(self) -> None:
        if self.norm not in NAMES:
            raise unknown("norm", self.norm, NAMES)
        if not 0 < self.epsilon <= (1 if self.norm == "linf" else math.inf) or math.isinf(self.epsilon):
            raise InputError(
                f"Expected `epsilon` above 0 and, of pixels in [0,1], at most 1, but got {self.epsilon:g}."
            )

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, classes: int, seed: int) -> Tensor:
        """Return adversarial images (B,3,H,W); the draws are of the batch, not addressed by image.

        Args:
            model: in evaluation mode, its weights without gradient.
            images: (B,3,H,W) in [0,1].
            labels: (B,).
            classes: K, at least 4, as the targeted attacks need.
            seed: seed of the draws; torch's generators are given back as they were.

        Raises:
            InputError: the package is not installed, or the classes are too few.
        """
        if classes < 4:
            raise InputError(f"Expected a model of at least 4 classes for AutoAttack, but got {classes}.")
        try:
            torchattacks: Any = import_module("torchattacks")
        except ImportError:
            raise InputError("AutoAttack needs the package torchattacks: pip install torchattacks.") from None
        with torch.random.fork_rng([images.device] if images.device.type == "cuda" else []):
            attack = torchattacks.AutoAttack(
                _Logits(model), NAMES[self.norm], self.epsilon, n_classes=classes, seed=seed
            )
            found: Tensor = attack(images, labels)
        return found.detach()
