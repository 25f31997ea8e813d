"""Adversarial batch normalisation: training on the worst case of a batch's feature statistics."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.data.checks import check_images
from statshift.hardening.batch import Batch, Losses
from statshift.hardening.method import Flag, Method
from statshift.hardening.passes import attacked
from statshift.hardening.registry import FINE_TUNING
from statshift.models import PixelModel
from statshift.shifts.attacks import FeatureAttack, attack_features, batch_moments, perturb
from statshift.splitting.branches import Branches
from statshift.tasks.choice import task_of_labels
from statshift.tasks.task import Task


@dataclass(frozen=True)
class AdvBN(Method):
    """Fine-tune on features and on their worst-case statistics.

    Attributes:
        attack: how the statistics are perturbed.

    Reference:
        Shu et al., NeurIPS 2021, Algorithm 1.
    """

    name = "advbn"
    family = FINE_TUNING
    summary = "Shu et al., NeurIPS 2021"
    title = "AdvBN"
    needs_cut = True
    usual_cut = "The papers' choice for AdvBN is the end of a ResNet's first stage, conv2_3 of a ResNet-50."
    dual = True
    flags = (
        Flag("steps", "attack.steps"),
        Flag("step-size", "attack.step_size"),
        Flag("epsilon", "attack.epsilon"),
        Flag("form", "attack.form"),
        Flag("part", "attack.part"),
        Flag("no-clamp", "attack.clamp", read=lambda typed: {"attack.clamp": not typed}),
        Flag("perturbation", "attack.perturbation"),
    )

    attack: FeatureAttack = field(default_factory=FeatureAttack)

    def losses(self, branches: Branches, batch: Batch) -> Losses:
        """Return the losses of the features, and of those perturbed in the adversarial branch."""
        attack, cut = self.attack, branches.splits["clean"].cut
        assert cut is not None
        features = branches.prefix(batch.images)
        relu = attack.clamp and cut.rectified
        with attacked(branches, batch) as suffix:
            factors = attack_features(
                features,
                lambda worst: batch.targets.loss(suffix(worst)),
                attack,
                relu=relu,
                loss_scale=batch.loss_scale,
            )
        worst = perturb(features, factors, batch_moments(features, attack), attack, relu=relu)
        return {
            "clean": batch.targets.loss(branches.suffix(features, "clean")),
            "adv": batch.targets.loss(branches.suffix(worst, "adv")),
        }

    def describe(self) -> dict[str, Any]:
        """Return the attack with the radius in force; records call the form its kind."""
        told = asdict(self.attack)
        return {"attack": {"kind": told.pop("form"), **told, "epsilon": self.attack.bound}}

    @property
    def by_process(self) -> bool:
        """Where each process perturbs the statistics of its own share."""
        return self.attack.perturbation == "local"


def advbn_losses(
    branches: Branches,
    images: Tensor,
    labels: Tensor,
    attack: FeatureAttack | None = None,
    *,
    task: str | Task | None = None,
) -> Losses:
    """Return AdvBN's losses of a batch, for a training loop of one's own: step down their sum.

    The images are as they are, augmented by the loop if at all; the model runs in the dtype of the autocast in force.

    Args:
        branches: in training mode, with a twin; train those of their parameters that require a gradient.
        images: (B,3,H,W); in [0,1] where the model is a `PixelModel`, else as the model takes them.
        labels: (B,) int64, or label maps (B,H,W), or as `task` has them, on the images' device.
        attack: the numbers; default those of the paper.
        task: what labels are of, as for `attack_images`.

    Returns:
        The mean loss of each branch, "clean" and "adv".

    Raises:
        InputError: branches without a cut or twin; of a `PixelModel`, images and labels that do not fit, or pixels that
            are not in [0,1].
    """
    if "adv" not in branches.splits or branches.splits["clean"].cut is None:
        raise InputError("Expected branches with a twin behind a cut: Branches(model, LAYER, images).")
    own = task_of_labels(labels, task)
    if isinstance(branches.clean, PixelModel):
        check_images(images)
        labels = own.checked_labels(labels, images)
    kind = images.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    undrawn = Draws(0, torch.arange(len(images)), "loop")  # AdvBN draws nothing
    return AdvBN(attack or FeatureAttack()).losses(branches, Batch(images, own.targets(labels), undrawn, dtype))
