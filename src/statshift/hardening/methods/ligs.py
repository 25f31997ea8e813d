"""Local Input Gradient Similarity (LIGS) as a regularizer."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from statshift._core.errors import InputError
from statshift.hardening.batch import Batch, Losses
from statshift.hardening.method import Flag, Method
from statshift.hardening.passes import features_of
from statshift.hardening.registry import FROM_SCRATCH
from statshift.hardening.training import TrainingOptions
from statshift.measuring.ligs import LigsOptions, losses_and_cosines
from statshift.norms.layers import aside, running_norms
from statshift.splitting.branches import Branches


@dataclass(frozen=True)
class LigsRegularised(Method):
    """Train on the images, and for input gradients alike at x and x + nu: the loss adds weight * (1 - LIGS).

    Both gradients are taken as training sees the network; running statistics are of the images alone.

    Attributes:
        ligs: what the gradients are compared with, noise or "fgsm".
        weight: weight of the term, above 0.

    Raises:
        InputError: values that cannot be.

    Reference:
        Benz et al., ICLR 2021 submission, section 4.1, Figure 5.
    """

    name = "ligs"
    family = FROM_SCRATCH
    summary = "Local Input Gradient Similarity as a regularizer, Benz et al., ICLR 2021 submission, section 4.1"
    title = "LIGS-regularised"
    second_order = True
    flags = (Flag("ligs-weight", "weight"),)

    ligs: LigsOptions = field(default_factory=LigsOptions)
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise InputError(f"Expected `weight` above 0, but got {self.weight}.")
        if self.ligs.perturbation == "pgd":
            raise InputError("The method ligs compares with noise or fgsm, not pgd.")

    def losses(self, branches: Branches, batch: Batch) -> Losses:
        """Return the loss of the images, and the weighed term."""
        norms = running_norms(branches)
        losses, cosines = losses_and_cosines(
            lambda images: batch.targets.losses(branches.suffix(features_of(branches, images), "clean").double()),
            batch.images,
            self.ligs,
            batch.draws_on_device,
            quietly=lambda: aside(norms),
        )
        return {"clean": losses.mean(), "ligs": self.weight * (1 - cosines.mean())}

    def check(self, training: TrainingOptions, compiled: bool = False) -> None:
        """Check what gradients of gradients cannot have."""
        if training.dtype == "float16":
            raise InputError("The method ligs takes gradients of gradients, which overflow float16: choose bfloat16.")
        if training.augment == "augmix":
            raise InputError("The method ligs has a loss for each image, and has no place for augmix.")
        if compiled:
            raise InputError("The method ligs takes gradients of gradients, which torch.compile has none of.")
        if training.recompute:
            raise InputError("The method ligs takes gradients of gradients: leave out `recompute`.")

    def describe(self) -> dict[str, Any]:
        """Return what the gradients are compared with, and the weight."""
        return {"ligs": asdict(self.ligs) | {"weight": self.weight}}
