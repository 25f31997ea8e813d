"""What the methods share that attack pixels."""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from statshift._core.errors import InputError
from statshift.hardening.method import Flag, Method
from statshift.shifts.attacks import PixelAttack


@dataclass(frozen=True)
class AttacksPixels(Method):
    """A method that trains on attacked images.

    Attributes:
        attack: attack on the images.

    Raises:
        InputError: an attack on another loss than is trained on, or to a target.
    """

    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("steps", "attack.steps"),
        Flag("step-size", "attack.step_size"),
        Flag("epsilon", "attack.epsilon"),
    )

    attack: PixelAttack = field(default_factory=PixelAttack)

    def __post_init__(self) -> None:
        if (self.attack.loss, self.attack.target) != ("cross-entropy", "none"):
            raise InputError(
                "Expected an attack on the cross-entropy and without target to train against, but got "
                f"{self.attack.loss} with the target {self.attack.target}."
            )

    def describe(self) -> dict[str, Any]:
        """Return the attack with the step size in force."""
        return {"attack": asdict(self.attack) | {"step_size": self.attack.length}}
