"""What is wrong with a recipe: all its faults in one error, each with its place, and checks that return faults."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from statshift._core.errors import InputError
from statshift.adapting.choosing import find
from statshift.shifts.conditions import resolve


class RecipeError(InputError):
    """What is wrong with a recipe, each fault with its place; the message joins them.

    Attributes:
        faults: one line each.
        where: the recipe's file, or "".
    """

    def __init__(self, faults: Sequence[str], where: str = "") -> None:
        self.where = where
        nearest = re.compile(r"(Did you mean '[^']*')\? Choose from: .*")
        self.faults = tuple(dict.fromkeys(nearest.sub(r"\1?", fault).rstrip(".") for fault in faults))
        count = f"{len(self.faults)} faults" if len(self.faults) > 1 else "1 fault"
        super().__init__(
            (f"{where} has {count}: " if where else "") + re.sub(r"(?<![?])$", ".", "; ".join(self.faults))
        )

    @property
    def lines(self) -> str:
        """The message with a line for each fault, where there are several."""
        if len(self.faults) == 1:
            return str(self)
        head = f"{self.where or 'The recipe'} has {len(self.faults)} faults:"
        return "\n".join([head, *(f"  - {fault}" for fault in self.faults)])


def refused(place: str, values: Iterable[Any], check: Callable[[Any], object]) -> list[str]:
    """Return a fault at a place for each value that a check raises of."""
    faults = []
    for value in values:
        try:
            check(value)
        except InputError as error:
            faults.append(f"{place}: {error}")
    return faults


def check_shift(name: str) -> None:
    """Check the name of a shift, if it is not a file's."""
    if not name.startswith("py:"):
        resolve([name])


def check_protocol_name(name: str) -> None:
    """Check the name of a protocol, if it is not a file's."""
    if not name.startswith("py:"):
        find(name)


def names_a_folder(label: str) -> bool:
    """Return whether a label is one folder's name, and not "." or a path that leads elsewhere."""
    return bool(label.strip()) and label not in (".", "..") and not re.search(r'[/\\:*?"<>|\x00-\x1f]', label)
