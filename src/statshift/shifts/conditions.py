"""Shifts by name, and the conditions of a run: each shift at each of its severities."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from statshift._core.errors import InputError, unknown
from statshift.models import import_value
from statshift.shifts.corruptions.corruption import check_severity
from statshift.shifts.functions import FunctionShift, ShiftFunction
from statshift.shifts.registry import GROUPS, SHIFTS
from statshift.shifts.shift import CLEAN, CorruptionOptions, Shift

Asked = str | Shift | Mapping[str, ShiftFunction]
Shifts = Asked | Sequence[Asked]
"""What a user gives: names, groups, values, and mappings from names to functions of their own."""


TYPED: dict[str, str] = {}
"""By the name of a user's own shift, how the command named its file."""


def import_shift(spec: str) -> Asked:
    """Return the shift of "py:FILE:NAME": a value or class of `Shift` as it is, a function by its name."""
    found = import_value(spec.removeprefix("py:"))
    if isinstance(found, type) and issubclass(found, Shift):
        found = found()
    if isinstance(found, Shift):
        TYPED[found.name] = spec
        return found
    if not callable(found):
        raise InputError(f"Expected {spec} to be a shift or a function, but got {type(found).__name__}.")
    return {spec.rpartition(":")[2]: found}


@dataclass(frozen=True)
class Condition:
    """One shift at one severity; severity 0 is that of the clean images and of a shift without severities."""

    shift: str
    severity: int

    def __str__(self) -> str:
        return f"{self.shift} {self.severity}" if self.severity else self.shift


def resolve(
    shifts: Shifts, how: CorruptionOptions | None = None, offered: Mapping[str, Shift] | None = None
) -> list[Shift]:
    """Return shifts in the order given, groups spelled out, none twice.

    Args:
        shifts: names, groups (such as "common"), attacks such as "pgd-linf:1/255", sets of images such as
            "imagenet-r:DIR" or "NAME=imagenet-v2:DIR", values of `Shift`, and mappings from a user's own names to
            functions; a mapping alone stands for the clean images and what it holds.
        how: the run's options.
        offered: the shifts that the data store, where they do; by default those that ship, which are made.

    Raises:
        InputError: an unknown name, a name given to two things, or no shift at all.
    """
    how = how or CorruptionOptions()
    parts: Iterable[Asked]
    parts = [CLEAN, shifts] if isinstance(shifts, Mapping) else [shifts] if isinstance(shifts, str | Shift) else shifts
    found: dict[str, Shift] = {}
    for part in parts:
        if isinstance(part, Mapping | Shift):
            own = [part] if isinstance(part, Shift) else [FunctionShift(name, one, how) for name, one in part.items()]
            for one in own:
                _check_own(one, found, offered)
                found[one.name] = one
        else:
            for one in _named(part, how, offered):
                if found.setdefault(one.name, one).typed != one.typed:
                    raise InputError(
                        f"Expected one set called {one.name}, but got {found[one.name].typed} and {one.typed}: give "
                        f"one a name, as NAME={one.typed}."
                    )
    if not found:
        raise InputError(f"Expected at least one shift; choose from: {', '.join(_choices(offered))}.")
    return list(found.values())


def conditions(shifts: Iterable[Shift], severities: Sequence[int]) -> list[Condition]:
    """Return every shift at every severity that is asked for and that it has.

    Args:
        shifts: what `resolve` returns.
        severities: integers from 1 to 5.

    Raises:
        InputError: a severity that is not an integer from 1 to 5, or none that a shift has.
    """
    for severity in severities:
        check_severity(severity)
    if not severities:
        raise InputError("Expected at least one severity from 1 to 5.")
    levels = sorted({int(severity) for severity in severities})
    return [Condition(shift.name, level) for shift in shifts for level in shift.at(levels)]


def _named(name: str, how: CorruptionOptions, offered: Mapping[str, Shift] | None) -> list[Shift]:
    """Return the shifts of a name, of a group, or of a name with numbers."""
    choices = _choices(offered)
    if name in choices:
        names = [one for one in GROUPS.get(name, (name,)) if one in choices]
        return [offered[one] if offered else SHIFTS[one].load().configured(one, how) for one in names]
    if isinstance(name, str) and (entry := SHIFTS.get(name.partition(":")[0].rpartition("=")[2])):
        one: Shift = entry.load()
        if not one.paired or not (offered or "=" in name):  # a set has images of its own, whatever the data store
            return one.spelled(name, how)
    numbered = [f"{one.name}:{one.options[0].upper()}" for one in SHIFTS.values() if one.options and not offered]
    raise unknown("shift", name, [*choices, *numbered])


def _choices(offered: Mapping[str, Shift] | None) -> list[str]:
    """Return the names by which shifts without numbers can be asked for, and groups of which any is there."""
    there = offered or [name for name, entry in SHIFTS.items() if not entry.options]
    groups = [group for group, names in GROUPS.items() if any(name in there for name in names)]
    return [CLEAN, *groups, *(name for name in there if name != CLEAN)]


def _check_own(shift: Shift, found: Mapping[str, Shift], offered: Mapping[str, Shift] | None) -> None:
    """Check that a value which a user gives has a name of its own, and severities and images to be of.

    Raises:
        InputError: it has not.
    """
    name = getattr(shift, "name", None)
    if not isinstance(name, str) or not name:
        raise InputError(f"Expected a `name` for the shift {type(shift).__name__}, but got {name!r}.")
    entry = SHIFTS.get(name.partition(":")[0])
    ships = entry is not None and isinstance(shift, type(entry.load()))
    if name in found or (not ships and (entry is not None or name in _choices(offered))):
        raise InputError(f"The shift name {name!r} is taken: give your function another.")
    for severity in shift.severities:
        check_severity(severity)
    if not shift.paired and not shift.reads:
        raise InputError(f"Expected the shift {name!r} to read images of its own (`reads`), since it is not paired.")
    if offered and not shift.reads:
        raise InputError(f"Expected clean images to make {name!r} of, but the data store shifted ones.")
