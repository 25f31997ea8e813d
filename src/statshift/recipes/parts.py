"""A part of the data that a recipe is given: a folder below it, a split of it."""

from dataclasses import dataclass
from typing import Any

from statshift._core.errors import unknown

GIVEN = ("data", "validation")


@dataclass(frozen=True)
class DataPart:
    """A part of the data that a recipe is given.

    Attributes:
        of: which data, "data" or "validation".
        below: the folder below theirs; "" is their own.
        split: of these; see `load_data`. "" is what is usual.
    """

    of: str = "data"
    below: str = ""
    split: str = ""

    def faults(self) -> list[str]:
        """Return what is wrong with it, "field: what"."""
        return [f"of: {unknown('data', self.of, GIVEN)}"] if self.of not in GIVEN else []

    def spec(self, given: str) -> str:
        """Return the spec of the part of data with a spec."""
        return f"{given}/{self.below}" if self.below else given

    @property
    def options(self) -> dict[str, Any]:
        """What is given to `load_data`."""
        return {"split": self.split} if self.split else {}
