"""A user's function of images as a shift."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from statshift.metrics.classification import SEVERITIES
from statshift.shifts.corruptions.corruption import finish
from statshift.shifts.shift import CorruptionOptions, Shift

ShiftFunction = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class FunctionShift(Shift):
    """A function of images (B,3,H,W) in [0,1] and of those of `severity`, `seed` and `indices` that it names.

    It returns the same shape, and is quantised as a built-in corruption; one that takes no `severity` has none.
    """

    name: str
    function: ShiftFunction = field(repr=False)
    how: CorruptionOptions = field(default_factory=CorruptionOptions)

    def __post_init__(self) -> None:
        object.__setattr__(self, "severities", SEVERITIES if "severity" in _keywords(self.function) else ())

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
        """Return what the function returns; see `Shift.make`."""
        given = {"severity": severity, "seed": seed, "indices": indices}
        return self.function(images, **{name: given[name] for name in _keywords(self.function)})

    def quantised(self, images: Tensor) -> Tensor:
        """Return images stored as those of a corruption are."""
        return finish(images, self.how.quantise, self.how.reencode)

    def code(self) -> Any:
        """Return the function."""
        return self.function


def _keywords(function: ShiftFunction) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a built-in function, which takes images alone
        return []
    return [name for name in ("severity", "seed", "indices") if name in parameters]
