"""A method: what a training step minimises, with all that is its own; each is a file of `methods`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from statshift.hardening.batch import Batch, Losses
from statshift.hardening.registry import EITHER
from statshift.hardening.training import TrainingOptions
from statshift.splitting.branches import Branches


@dataclass(frozen=True)
class Flag:
    """An option of the command line that sets something of a method.

    Attributes:
        name: without the dashes before it.
        field: field of the method, or of one of its fields, as "attack.steps".
        read: from what was typed to values by field; None takes it as it is.
    """

    name: str
    field: str
    read: Callable[[Any], Mapping[str, Any]] | None = None

    def values(self, typed: Any) -> Mapping[str, Any]:
        """Return values by field."""
        return {self.field: typed} if self.read is None else self.read(typed)


@dataclass(frozen=True)
class Method:
    """What a step minimises; its fields are its options.

    A method of one's own is a frozen dataclass upon this one with a `name` and `losses`. It is called with the branches
    and a batch, of whose labels it learns by `batch.targets.loss(logits)` alone.

    Attributes:
        name: as a user gives it and a record has it.
        family: "fine-tuning", "from random weights" or "either".
        summary: where it is from, for the record.
        title: what a report calls weights that it made.
        needs_cut: whether it changes features, so that a layer must be named.
        usual_cut: a sentence on where that is, for who names none.
        dual: whether it has an adversarial branch, with norms of its own.
        second_order: whether it takes gradients of gradients.
        flags: its options on the command line.
    """

    name: ClassVar[str] = ""
    family: ClassVar[str] = EITHER
    summary: ClassVar[str] = ""
    title: ClassVar[str] = ""
    needs_cut: ClassVar[bool] = False
    usual_cut: ClassVar[str] = ""
    dual: ClassVar[bool] = False
    second_order: ClassVar[bool] = False
    flags: ClassVar[tuple[Flag, ...]] = ()

    def losses(self, branches: Branches, batch: Batch) -> Losses:
        """Return the mean loss of each branch that it trains; that of "adv" is weighed by gamma.

        Args:
            branches: in training mode; `branches.prefix(images)` has no gradient, `branches.suffix(features, branch)`
                returns logits (B,K).
            batch: images (B,3,H,W) in [0,1] with targets and draws.
        """
        raise NotImplementedError

    def __call__(self, branches: Branches, batch: Batch) -> Losses:
        """Return the losses."""
        return self.losses(branches, batch)

    def check(self, training: TrainingOptions, compiled: bool = False) -> None:
        """Check that it can be trained so.

        Args:
            training: the options.
            compiled: whether the branches run through `torch.compile`.

        Raises:
            InputError: it cannot.
        """

    def adjusted(self, training: TrainingOptions) -> TrainingOptions:
        """Return the training options with what the method is of itself."""
        return training

    def describe(self) -> dict[str, Any]:
        """Return its options for a record."""
        return asdict(self)

    @property
    def by_process(self) -> bool:
        """Whether something is drawn or found in each process's share of a batch, so that results depend on it."""
        return False


def option_names(method: Method | type[Method]) -> tuple[str, ...]:
    """Return the names of a method's options, in order."""
    return tuple(field.name for field in fields(method))
