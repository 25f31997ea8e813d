"""How protocols adapt: on how many images, how often, and which statistics of which layers."""

from dataclasses import dataclass
from typing import Any

from statshift._core.errors import InputError, unknown
from statshift.norms.selection import PARTS


@dataclass(frozen=True)
class AdaptationOptions:
    """How protocols adapt.

    Attributes:
        samples: images that a protocol adapts on, and in a batch of a stream.
        draws: with how many choices of these images each condition is repeated; the same in every condition.
        include_adaptation: evaluate on the images adapted on too; by default they are held out.
        statistics: "both", "mean" or "var" are rewritten.
        where: which layers; see `statshift.norms.selection.select_layers`.
        unbiased: write the variance with count - 1 in the denominator.
        reset_every: after so many batches a stream begins at the source again; by default only at each condition.
    """

    samples: int = 32
    draws: int = 1
    include_adaptation: bool = False
    statistics: str = "both"
    where: str = "all"
    unbiased: bool = False
    reset_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "draws", "reset_every"):
            value = getattr(self, name)
            if name == "reset_every" and value is None:
                continue
            if not (isinstance(value, int) and value >= 1):
                raise InputError(f"Expected `{name}` to be an integer of at least 1, but got {value}.")
        if self.statistics not in PARTS:
            raise unknown("statistics", self.statistics, PARTS)

    @property
    def layers(self) -> dict[str, Any]:
        """What `rewrite` is told."""
        return self.written | {"where": self.where}

    @property
    def written(self) -> dict[str, Any]:
        """Which statistics are written."""
        return {"statistics": self.statistics, "unbiased": self.unbiased}
