"""An attack as a shift: images made against the model that is measured."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift._core.numbers import parse_number
from statshift.shifts.attacks.autoattack import AutoAttack
from statshift.shifts.attacks.balls import Ball, ball_of
from statshift.shifts.attacks.pixels import PixelAttack
from statshift.shifts.attacks.whitebox import attack_images, check_attack
from statshift.shifts.shift import CorruptionOptions, Shift, numbers_of
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Task

How = PixelAttack | AutoAttack


@dataclass(frozen=True, eq=False)
class Attack(Shift):
    """An attack on pixels, of which a spec tells the numbers: "NAME:EPSILON" or "NAME:EPSILON:STEPS".

    Attributes:
        name: with the numbers, as rows call it.
        how: the numbers in force; None of an attack that still lacks them.
        build: makes `how` of `epsilon` and the others of `options`.
        options: names of the numbers; a spec tells the first, and the second where it is "steps".
        title: in a report.
        task: what labels are of; its losses rise.
    """

    name: str
    how: How | None = None
    build: Callable[..., How] = field(default=PixelAttack, repr=False)
    options: tuple[str, ...] = ("epsilon",)
    title: str = ""
    task: Task = field(default=CLASSIFICATION, repr=False)
    family = "attack"
    needs_model = True

    def __call__(self, epsilon: float, **numbers: Any) -> How:
        """Return the numbers of an attack of this radius."""
        return self.build(epsilon, **numbers)

    def configured(self, spec: str, how: CorruptionOptions | None = None) -> "Attack":
        """Return the attack with the numbers of a spec, as in "pgd-linf:1/255:20".

        Raises:
            InputError: no such numbers.
        """
        name, *numbers = spec.split(":")
        stepped = "steps" in self.options
        shape = f"{name}:EPSILON[:STEPS]" if stepped else f"{name}:EPSILON"
        wrong = f"Expected the attack as {shape}, such as {name}:1/255, but got {spec!r}"
        if not 1 <= len(numbers) <= 1 + stepped:
            raise InputError(f"{wrong}.")
        try:
            epsilon = parse_number(numbers[0].strip())
        except ValueError as error:
            raise InputError(f"{wrong}: {error}.") from None
        try:
            steps = [int(number) for number in numbers[1:]]
        except ValueError:
            raise InputError(f"{wrong}: the steps {numbers[1]!r} are not an integer.") from None
        return replace(self, name=spec, how=self.build(epsilon, **({"steps": steps[0]} if steps else {})))

    def fitted(self, task: Task) -> "Attack":
        """Return the attack on the losses of a task.

        Raises:
            InputError: the task has none, or the attack needs one class an image.
        """
        if self.how is not None:
            check_attack(self.how, task, self.name)
        return self if task == self.task else replace(self, task=task)

    def make(
        self,
        images: Tensor,
        severity: int,
        *,
        seed: int,
        indices: Tensor,
        labels: Tensor | None = None,
        model: nn.Module | None = None,
    ) -> Tensor:
        """Return adversarial images against the model as it is, never rounded; see `attack_images`."""
        assert self.how is not None
        assert labels is not None
        assert model is not None
        how, own = self.how, self.task
        return attack_images(model, images, labels, how, task=own, seed=seed, indices=indices, check=False)

    def describe(self, batch_size: int) -> Mapping[str, Mapping[str, Any]]:
        """Return the attack's numbers."""
        assert self.how is not None
        return {"attacks": {self.name: describe_attack(self.how, batch_size)}}

    def code(self) -> Any:
        """Return a user's own norm ball, or what else is their own."""
        ball = ball_of(self.how.norm) if self.how else None
        own = isinstance(ball, Ball) and not type(ball).__module__.startswith("statshift.")
        return type(ball) if own else super().code()

    def numbers(self) -> dict[str, Any]:
        """Return those of a norm ball of one's own, or of what else is."""
        ball = ball_of(self.how.norm) if self.how else None
        return numbers_of(ball) if ball is not None and self.code() is type(ball) else super().numbers()


def describe_attack(attack: How, batch_size: int) -> dict[str, Any]:
    """Return an attack's numbers for a record: the step size in force, or of AutoAttack the batch that it draws by."""
    own = {"step_size": attack.length} if isinstance(attack, PixelAttack) else {"batch_size": batch_size}
    return asdict(attack) | {"norm": ball_of(attack.norm).name} | own
