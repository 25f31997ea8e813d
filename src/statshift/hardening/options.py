"""How to harden: a method, where it cuts, and how it trains."""

from dataclasses import asdict, dataclass, field
from typing import Any

from statshift._core.errors import InputError, unknown
from statshift.hardening.augmentation import MIXING
from statshift.hardening.choosing import find, made
from statshift.hardening.method import Method, option_names
from statshift.hardening.registry import METHODS
from statshift.hardening.training import PAIR_OPTIONS, TrainingOptions
from statshift.models import source_hash
from statshift.splitting.branches import BRANCHES
from statshift.splitting.cuts import INPUT


@dataclass(frozen=True)
class HardenOptions:
    """How to harden; the defaults are those of Shu et al., NeurIPS 2021, section 5.1.

    Attributes:
        method: a `Method`, such as `AdvBN(FeatureAttack(steps=3))`; or a name of `METHODS` or "py:FILE:NAME", which
            stand for it with its defaults, and are replaced by it.
        at: the cut, as `statshift layers` lists them; what lies before it is frozen. "input" trains everything.
            Required by methods that change features; the default of the others is "input".
        training: epochs, batch, learning rate, augmentation and so on.
        branch: which branch's weights are the result, chosen before anything is measured: "clean" or "adv".

    Raises:
        InputError: values that cannot be.
    """

    method: str | Method = "advbn"
    at: str | None = None
    training: TrainingOptions = field(default_factory=TrainingOptions)
    branch: str = "clean"

    def __post_init__(self) -> None:
        if isinstance(self.method, str):
            object.__setattr__(self, "method", made(find(self.method)))
        method = self.chosen
        _check_name(method)
        if self.branch not in BRANCHES:
            raise unknown("branch", self.branch, BRANCHES)
        if self.branch == "adv" and not method.dual:
            raise InputError(f"The method {method.name} has no adversarial branch: choose the branch clean.")
        if method.needs_cut and self.at in (None, INPUT):
            raise InputError(
                f"Expected `at` to name the layer whose features {method.name} changes; `statshift layers` lists them."
                + (f" {method.usual_cut}" if method.usual_cut else "")
            )
        if self.at is None:
            object.__setattr__(self, "at", INPUT)
        if not method.dual and self.training.gamma != 1:
            raise InputError(f"The method {method.name} has no adversarial branch for `gamma` to weigh.")
        if self.training.attack_dtype is not None and "attack" not in option_names(method):
            raise InputError(f"The method {method.name} has no attack for `attack_dtype`.")
        method.check(self.training)
        object.__setattr__(self, "training", method.adjusted(self.training))

    @property
    def chosen(self) -> Method:
        """The method."""
        if not isinstance(self.method, Method):
            raise InputError(
                f"Expected `method` to be a name or a statshift.Method with its options, but got {self.method!r}."
            )
        return self.method

    @property
    def layer(self) -> str:
        """The cut in force."""
        return self.at or INPUT

    @property
    def by_process(self) -> bool:
        """Whether something is drawn or found in each process's share of a batch, so that results depend on it."""
        return self.chosen.by_process or self.training.augment in MIXING

    def describe(self) -> dict[str, Any]:
        """Return the options for a record; what the method does not use is left out."""
        training = asdict(self.training)
        for name in ("checkpoint_every", "recompute"):  # which change no weights
            del training[name]
        for name in (*PAIR_OPTIONS, "attack_dtype"):
            if training[name] == getattr(TrainingOptions, name):
                del training[name]
        described: dict[str, Any] = {
            "method": self.chosen.name,
            "reference": self.chosen.summary,
            "at": self.at,
            "branch": self.branch,
            "training": training,
        }
        own = {} if _ships(self.chosen) else {"source_hash": source_hash(type(self.chosen))}
        return described | self.chosen.describe() | own


def _ships(method: Method) -> bool:
    """Return whether a method is the one that ships under its name."""
    kind, entry = type(method), METHODS.get(method.name)
    return entry is not None and entry.path == f"{kind.__module__}:{kind.__qualname__}"


SAID_OF_EVERY_METHOD = ("method", "reference", "at", "branch", "training", "processes", "source_hash")
"""What a record says of every method, so that no option can be called so."""


def _check_name(method: Method) -> None:
    if not method.name:
        raise InputError(f"Expected {type(method).__name__} to have a `name`, as a record has it.")
    if method.name in METHODS and not _ships(method):
        raise InputError(f"Expected {type(method).__name__} to have a name of its own, but {method.name} ships.")
    taken = [name for name in option_names(method) if name in SAID_OF_EVERY_METHOD]
    if taken:
        raise InputError(
            f"Expected {type(method).__name__} to have no option {taken[0]!r}, which every record has: call it "
            "otherwise."
        )
