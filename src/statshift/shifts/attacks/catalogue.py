"""The pixel attacks that ship, and as they are written on a command line."""

from functools import partial

from statshift._core.errors import unknown
from statshift.shifts.attacks.attack import Attack, How
from statshift.shifts.attacks.autoattack import AutoAttack
from statshift.shifts.attacks.pixels import PixelAttack
from statshift.shifts.registry import ATTACKS, SHIFTS

STEPPED = ("epsilon", "steps", "step_size", "target", "random_start")
"""The numbers of projected ascent that a user may give."""


def fgsm(epsilon: float) -> PixelAttack:
    """Return the fast gradient sign method: one step to the border of the ball.

    Reference:
        Goodfellow et al., "Explaining and Harnessing Adversarial Examples" (ICLR 2015), section 4.
    """
    return PixelAttack(epsilon, epsilon or 1.0, 1, random_start=False)


FGSM = Attack("fgsm", build=fgsm)
PGD_LINF = Attack("pgd-linf", build=PixelAttack, options=STEPPED)
PGD_L2 = Attack("pgd-l2", build=partial(PixelAttack, norm="l2"), options=STEPPED)
CW_LINF = Attack("cw-linf", build=partial(PixelAttack, loss="cw"), options=STEPPED)
CW_L2 = Attack("cw-l2", build=partial(PixelAttack, norm="l2", loss="cw"), options=STEPPED)
AUTOATTACK_LINF = Attack("autoattack-linf", build=AutoAttack)
AUTOATTACK_L2 = Attack("autoattack-l2", build=partial(AutoAttack, norm="l2"))


def attack_named(name: str) -> Attack:
    """Return the attack of a name, which lacks its numbers.

    Raises:
        InputError: an unknown name.
    """
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    found: Attack = SHIFTS[name].load()
    return found


def parse_attack(spec: str) -> How:
    """Return the numbers of "NAME:EPSILON" or "NAME:EPSILON:STEPS", as in "pgd-linf:1/255".

    Raises:
        InputError: an unknown name, or no such numbers.
    """
    how = attack_named(spec.partition(":")[0]).configured(spec).how
    assert how is not None
    return how
