"""Training on images and on attacked images, which have norms of their own: adversarial training, and AdvProp."""

from dataclasses import dataclass

from statshift.hardening.batch import Batch, Losses
from statshift.hardening.methods.pixels import AttacksPixels
from statshift.hardening.passes import attacked
from statshift.hardening.registry import FINE_TUNING
from statshift.shifts.attacks import PixelAttack, attack_pixels
from statshift.splitting.branches import Branches

PRINTED = PixelAttack(epsilon=1 / 255, step_size=1 / 255, steps=3)
"""Radius and step that Shu et al. print (section 5.4, for segmentation); the number of steps is that of AdvBN there."""

PGD5 = PixelAttack(epsilon=4 / 255, step_size=1 / 255, steps=5)
"""Xie et al., section 5.1."""


@dataclass(frozen=True)
class _Auxiliary(AttacksPixels):
    """Fine-tune on images and on images attacked by PGD, which have norms of their own."""

    family = FINE_TUNING
    dual = True

    def losses(self, branches: Branches, batch: Batch) -> Losses:
        """Return the losses of the images, and of those attacked in the adversarial branch."""
        with attacked(branches, batch) as suffix:
            prefix = branches.splits["adv"].prefix
            worst = attack_pixels(
                batch.images,
                lambda images: batch.targets.loss(suffix(prefix(images)).double()),
                self.attack,
                batch.draws_on_device,
                loss_scale=batch.loss_scale,
            )
        losses = {}
        for branch, images in (("clean", batch.images), ("adv", worst)):
            losses[branch] = batch.targets.loss(branches.suffix(branches.prefix(images), branch))
        return losses


@dataclass(frozen=True)
class PixelAT(_Auxiliary):
    """Adversarial training of pixels, with auxiliary norms.

    Attributes:
        attack: attack on the images.

    Reference:
        Madry et al., ICLR 2018, section 2.1; Shu et al., NeurIPS 2021, section 5.1 ("Adv. Training").
    """

    name = "pixel-at"
    summary = "PGD on the images (Madry et al., ICLR 2018) with auxiliary norms, as in Shu et al., section 5.1"
    title = "pixel-level adversarial training"

    attack: PixelAttack = PRINTED


@dataclass(frozen=True)
class AdvProp(_Auxiliary):
    """AdvProp.

    Attributes:
        attack: attack on the images.

    Reference:
        Xie et al., CVPR 2020, section 4.
    """

    name = "advprop"
    summary = "Xie et al., CVPR 2020"
    title = "AdvProp"

    attack: PixelAttack = PGD5
