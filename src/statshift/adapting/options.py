"""How protocols adapt: on how many images, how often, and which statistics of which layers."""

from dataclasses import dataclass, field
from typing import Any

from statshift._core.errors import InputError, unknown
from statshift.data import ImageData, integers_hash
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
        reset_every: after so many batches a stream begins at the source again; by default only where it begins.
        clean: clean images, for protocols that weigh by them what must not be forgotten; labels are not looked at.
    """

    samples: int = 32
    draws: int = 1
    include_adaptation: bool = False
    statistics: str = "both"
    where: str = "all"
    unbiased: bool = False
    reset_every: int | None = None
    clean: ImageData | None = field(default=None, repr=False)

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

    @property
    def recorded(self) -> dict[str, Any]:
        """All of it for a record: of clean images, where there are any, their number and hashes."""
        told = {name: value for name, value in vars(self).items() if name != "clean"}
        return told if self.clean is None else told | {"clean": describe_clean(self.clean)}


def describe_clean(data: ImageData) -> dict[str, Any]:
    """Return what a record says of clean images: which, how many, and hashes of their content and places."""
    return {
        "data": data.spec,
        "images": len(data),
        "hash": data.content_hash(),
        "indices_hash": integers_hash(data.indices),
    }
