"""The pixel attacks by name, and as they are written on a command line."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial

from statshift._core.errors import InputError, unknown
from statshift.shifts import choices
from statshift.shifts.attacks.autoattack import AutoAttack
from statshift.shifts.attacks.pixels import PixelAttack


def fgsm(epsilon: float) -> PixelAttack:
    """Return the fast gradient sign method: one step to the border of the ball.

    Reference:
        Goodfellow et al., "Explaining and Harnessing Adversarial Examples" (ICLR 2015), section 4.
    """
    return PixelAttack(epsilon, epsilon or 1.0, 1, random_start=False)


ATTACKS: dict[str, Callable[..., PixelAttack | AutoAttack]] = {
    "fgsm": fgsm,
    "pgd-linf": PixelAttack,
    "pgd-l2": partial(PixelAttack, norm="l2"),
    "cw-linf": partial(PixelAttack, loss="cw"),
    "cw-l2": partial(PixelAttack, norm="l2", loss="cw"),
    "autoattack-linf": AutoAttack,
    "autoattack-l2": partial(AutoAttack, norm="l2"),
}
"""The attacks by name; each takes `epsilon`, those of `STEPPED` what else `PixelAttack` has."""


STEPPED = choices.STEPPED


def parse_attack(spec: str) -> PixelAttack | AutoAttack:
    """Return the attack of "NAME:EPSILON" or "NAME:EPSILON:STEPS", as in "pgd-linf:1/255".

    Raises:
        InputError: an unknown name, or no such numbers.
    """
    name, *numbers = spec.split(":")
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    try:
        epsilon, steps = float(Fraction(numbers[0].strip())), [int(number) for number in numbers[1:]]
        if len(steps) > (name in STEPPED):
            raise ValueError
    except (ValueError, IndexError, ArithmeticError):
        shape = f"{name}:EPSILON[:STEPS]" if name in STEPPED else f"{name}:EPSILON"
        raise InputError(f"Expected the attack as {shape}, such as {name}:1/255, but got {spec!r}.") from None
    return ATTACKS[name](epsilon, **({"steps": steps[0]} if steps else {}))


def is_attack(name: str) -> bool:
    """Tell whether the name of a shift is that of an attack."""
    return name.partition(":")[0] in ATTACKS
