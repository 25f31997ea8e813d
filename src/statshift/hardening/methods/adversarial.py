"""Adversarial training with one set of norms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from statshift._core.errors import InputError
from statshift.hardening.batch import Batch, Losses
from statshift.hardening.method import Flag
from statshift.hardening.methods.pixels import AttacksPixels
from statshift.hardening.passes import autocast, features_of
from statshift.shifts.attacks import PixelAttack, attack_pixels, attackable, parse_attack
from statshift.splitting.branches import Branches

PAPERS_ATTACK = PixelAttack(epsilon=0.5, step_size=0.1, steps=7, norm="l2")
SPEC = "pgd-l2:0.5:7"
"""The paper's attack, as a shift is named."""


def _read(typed: str) -> Mapping[str, Any]:
    """Return the attack of a name such as "pgd-linf:8/255:7"."""
    attack = parse_attack(typed)
    if not isinstance(attack, PixelAttack):
        raise InputError(f"Expected `attack` to train against to be PGD, but got {typed!r}.")
    return {"attack": PAPERS_ATTACK if typed == SPEC else attack}


@dataclass(frozen=True)
class Adversarial(AttacksPixels):
    """Train on attacked images alone, by one set of norms; the attack sees the model in evaluation mode.

    Attributes:
        attack: attack on the images.

    Reference:
        Madry et al., ICLR 2018, section 2.1; Benz et al., ICLR 2021 submission, appendix B.1, Table 5.
    """

    name = "adversarial"
    summary = "Madry et al., ICLR 2018: PGD on the images, which alone are trained on, by one set of norms"
    title = "adversarially trained"
    flags = (*AttacksPixels.flags, Flag("attack", "attack", _read))

    attack: PixelAttack = PAPERS_ATTACK

    def losses(self, branches: Branches, batch: Batch) -> Losses:
        """Return the loss of the attacked images."""
        with autocast(batch), attackable(branches):
            worst = attack_pixels(
                batch.images,
                lambda images: batch.targets.loss(branches.suffix(features_of(branches, images), "clean").double()),
                self.attack,
                batch.draws_on_device,
                loss_scale=batch.loss_scale,
            )
        return {"adv": batch.targets.loss(branches.suffix(branches.prefix(worst), "clean"))}
