"""What ships, told without importing it: a registry maps names to entries, and an entry knows where its value lies."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from statshift._core.errors import unknown


@dataclass(frozen=True)
class Entry:
    """A shift, protocol, method or task that ships.

    Attributes:
        name: as a user gives it.
        family: family of like things, as a report groups them.
        summary: one line on what it is and where it is from.
        path: "MODULE:ATTRIBUTE" of the value.
        title: what a report calls it; the name where there is none.
        options: names of the fields that it takes, in order.
        flags: flags of the command line that are its own, each with what it is by default, in words.
        groups: names by which it is asked for, or told of, with others of its family.
    """

    name: str
    family: str
    summary: str
    path: str
    title: str = ""
    options: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import and return the value."""
        module, _, attribute = self.path.partition(":")
        return getattr(import_module(module), attribute)


Registry = Mapping[str, Entry]


def registry(*entries: Entry) -> dict[str, Entry]:
    """Return entries by name, in the order given."""
    return {entry.name: entry for entry in entries}


def members(entries: Registry, group: str) -> tuple[str, ...]:
    """Return the names of the entries of a group, or of a family, in order."""
    return tuple(name for name, entry in entries.items() if group in (entry.family, *entry.groups))


def look_up(entries: Registry, kind: str, name: str) -> Entry:
    """Return the entry of a name.

    Args:
        entries: to look in.
        kind: what they are, for the message.
        name: as the user gave it.

    Raises:
        InputError: no entry has this name; the nearest is told.
    """
    if name not in entries:
        raise unknown(kind, name, entries)
    return entries[name]
