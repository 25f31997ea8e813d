"""Groups of shifts that a user makes, in a file or in Python: one name for several."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from statshift._core.errors import InputError
from statshift._core.parsing import parse_json
from statshift._core.strict import load_strictly, shown_value
from statshift.shifts.conditions import Asked, Shifts, import_shift, resolve
from statshift.shifts.registry import GROUPS, SHIFTS
from statshift.shifts.shift import CorruptionOptions, Shift

NamedShifts = Mapping[str, Sequence[Asked]]
"""By its name, what each group is of: as in `Shifts`, but no other of the user's groups."""

FORM = "groups, NAME: [SHIFT, ...]"


def read_groups(given: str | Path | NamedShifts | None) -> dict[str, list[Asked]]:
    """Return the groups of a YAML or JSON file, or of a mapping; what py:FILE:NAME names is imported, once.

    Raises:
        InputError: the file cannot be read, holds something else, or the name of a group is taken.
    """
    if given is None:
        return {}
    path = None if isinstance(given, Mapping) else Path(given).expanduser()
    where = "`groups`" if path is None else str(path)
    content: Mapping[Any, Any] = given if isinstance(given, Mapping) else _read(Path(given).expanduser(), where)
    imported: dict[str, Asked] = {}
    groups: dict[str, list[Asked]] = {}
    for name, listed in content.items():
        members = listed
        if path is not None and isinstance(listed, list):  # the filter 1977 is a number in YAML
            members = [str(one) if type(one) is int and str(one) in SHIFTS else one for one in listed]
        _check(name, members, where, of_file=path is not None)
        for one in members:
            if isinstance(one, str) and one.startswith("py:") and one not in imported:
                imported[one] = import_shift(one)
        groups[name] = [imported.get(one, one) if isinstance(one, str) else one for one in members]
    return groups


def spell_out(shifts: Shifts, groups: NamedShifts) -> Shifts:
    """Return shifts with a user's groups spelled out, nothing in them twice."""
    if isinstance(shifts, Mapping | Shift) or not groups:
        return shifts
    found: list[Asked] = []
    for part in [shifts] if isinstance(shifts, str) else shifts:
        own = groups.get(part) if isinstance(part, str) else None
        found += [one for one in (own or [part]) if not any(one is other for other in found)]
    return found


def names_of_groups(
    groups: NamedShifts, chosen: Sequence[Shift], how: CorruptionOptions, offered: Mapping[str, Shift]
) -> dict[str, list[str]]:
    """Return by group the names of its shifts, of the groups that have one among the chosen.

    Raises:
        InputError: a member that is no shift, or groups of which no shift is measured.
    """
    there = {shift.name for shift in chosen}
    found = {}
    for name, members in groups.items():
        try:
            names = [shift.name for shift in resolve(members, how, offered)]
        except InputError as error:
            raise InputError(f"In the group {name!r}: {error}") from error
        if there & {*names}:
            found[name] = names
    if groups and not found:
        raise InputError(f"Expected a group, or a shift of one, in `shifts`; groups are: {', '.join(groups)}.")
    return found


def _read(path: Path, where: str) -> Mapping[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"Cannot read the groups {where}: {reason}.") from error
    if path.suffix.lower() != ".json":
        return load_strictly(text, where, FORM)
    try:
        content = parse_json(text.encode())
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"Expected {where} to hold {FORM}, but got {shown_value(content)}.")
    return content


def _check(name: Any, members: Any, where: str, *, of_file: bool) -> None:
    """Check the name of a group, and that it has members that may be shifts.

    Raises:
        InputError: it has not.
    """
    if not isinstance(name, str) or not name.strip() or name != name.strip() or {*name} & {*",:="}:
        raise InputError(f"Expected a name without , : and = for a group in {where}, but got {shown_value(name)}.")
    if name in (*SHIFTS, *GROUPS):
        raise InputError(f"The name {name!r} is taken by what ships: give the group in {where} another.")
    kinds = str if of_file else (str, Mapping, Shift)
    wrong = isinstance(members, str | Mapping | Shift) or not isinstance(members, Sequence)
    if wrong or not members or not all(isinstance(one, kinds) for one in members):
        raise InputError(f"Expected the group {name!r} in {where} as a list of shifts, but got {shown_value(members)}.")
