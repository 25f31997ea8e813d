"""Shifts by name: the clean images, the common corruptions, an attack, or a function of the user's own."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from statshift._core.errors import InputError, unknown
from statshift.shifts.attacks import ATTACKS, is_attack, parse_attack
from statshift.shifts.corruptions import COMMON, CORRUPTIONS, HOLDOUT, Table, check_severity, corrupt, finish

CLEAN = "clean"
GROUPS = {"common": COMMON, "holdout": HOLDOUT}

ShiftFunction = Callable[..., Tensor]
Shifts = str | Sequence[str | Mapping[str, ShiftFunction]] | Mapping[str, ShiftFunction]


@dataclass(frozen=True)
class CorruptionOptions:
    """How corruptions are made; see `statshift.corrupt`."""

    seed: int = 0
    table: Table | None = None
    quantise: bool = True
    reencode: bool = False
    frost: str | Path | None = None


@dataclass(frozen=True)
class Condition:
    """One shift at one severity; severity 0 is that of the clean images and of a shift without severities."""

    shift: str
    severity: int

    def __str__(self) -> str:
        return f"{self.shift} {self.severity}" if self.severity else self.shift


def resolve(shifts: Shifts, stored: Sequence[str] | None = None) -> tuple[list[str], dict[str, ShiftFunction]]:
    """Return the names of shifts in the order given, groups spelled out, none twice, and the user's own functions.

    Args:
        shifts: names, groups ("common", "holdout"), attacks such as "pgd-linf:1/255", and mappings from a user's own
            names to functions; a mapping alone stands for the clean images and what it holds.
        stored: the shifts that the data store; by default the common corruptions, which are made.

    Raises:
        InputError: an unknown name, a name given to two things, or no shift at all.
    """
    parts: Sequence[str | Mapping[str, ShiftFunction]]
    parts = [CLEAN, shifts] if isinstance(shifts, Mapping) else [shifts] if isinstance(shifts, str) else shifts
    names: dict[str, None] = {}
    functions: dict[str, ShiftFunction] = {}
    choices = [CLEAN, *GROUPS, *(CORRUPTIONS if stored is None else stored)]
    for part in parts:
        if isinstance(part, Mapping):
            taken = [name for name in part if name in choices or name in functions or is_attack(name)]
            if taken:
                raise InputError(f"The shift name {taken[0]!r} is taken: give your function another.")
            functions.update(part)
            names.update(dict.fromkeys(part))
        elif part in choices:
            names.update(dict.fromkeys(name for name in GROUPS.get(part, (part,)) if name in choices))
        elif stored is None and isinstance(part, str) and is_attack(part):
            parse_attack(part)
            names[part] = None
        else:
            raise unknown("shift", part, [*choices, *(f"{name}:EPSILON" for name in ATTACKS if stored is None)])
    if not names:
        raise InputError(f"Expected at least one shift; choose from: {', '.join(choices)}.")
    return list(names), functions


def conditions(
    names: Sequence[str],
    severities: Sequence[int],
    functions: Mapping[str, ShiftFunction] | None = None,
    stored: Mapping[str, Sequence[int]] | None = None,
) -> list[Condition]:
    """Return every shift at every severity that is asked for and that it has.

    Args:
        names: of the shifts.
        severities: of 1 to 5.
        functions: a user's own shifts; one that takes no `severity` has severity 0 alone.
        stored: the severities of shifts that the data store, where they do.

    Raises:
        InputError: a severity that is not an integer from 1 to 5, or none that a shift has.
    """
    for severity in severities:
        check_severity(severity)
    if not severities:
        raise InputError("Expected at least one severity from 1 to 5.")
    levels = sorted({int(severity) for severity in severities})
    single = {
        CLEAN,
        *(() if stored else filter(is_attack, names)),
        *(name for name, function in (functions or {}).items() if "severity" not in _keywords(function)),
    }
    found = []
    for name in names:
        own = [0] if name in single else [level for level in levels if level in (stored or {}).get(name, levels)]
        if not own:
            raise InputError(f"The data store {name} at the severities {stored and stored[name]}, none of {levels}.")
        found += [Condition(name, level) for level in own]
    return found


def apply(
    images: Tensor,
    condition: Condition,
    indices: Tensor,
    options: CorruptionOptions,
    functions: Mapping[str, ShiftFunction],
) -> Tensor:
    """Return (B,3,H,W) images in [0,1] under a condition.

    A user's function takes images (B,3,H,W) in [0,1] and those of the keywords `severity`, `seed` and `indices`
    that it names, and returns the same shape; it is quantised as a built-in one.

    Raises:
        InputError: a user's function returns another shape or values that are not in [0,1].
    """
    if condition.shift in functions:
        function = functions[condition.shift]
        given = {"severity": condition.severity, "seed": options.seed, "indices": indices}
        shifted = function(images.clone(), **{name: given[name] for name in _keywords(function)})
        _check_shifted(shifted, images, condition)
        shifted = shifted.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        return finish(shifted, options.quantise, options.reencode)
    if condition.shift == CLEAN:
        return images
    return corrupt(
        images,
        condition.shift,
        condition.severity,
        seed=options.seed,
        indices=indices,
        table=options.table,
        quantise=options.quantise,
        reencode=options.reencode,
        frost=options.frost,
    )


def _keywords(function: ShiftFunction) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a built-in function, which takes images alone
        return []
    return [name for name in ("severity", "seed", "indices") if name in parameters]


def _check_shifted(shifted: Tensor, images: Tensor, condition: Condition) -> None:
    if not isinstance(shifted, Tensor) or shifted.shape != images.shape:
        found = tuple(shifted.shape) if isinstance(shifted, Tensor) else type(shifted).__name__
        raise InputError(f"Expected the shift {condition.shift!r} to return {tuple(images.shape)}, but got {found}.")
    inside = ((shifted >= 0) & (shifted <= 1)).all()
    if shifted.device.type != "cpu":
        torch._assert_async(inside)
    elif not inside:
        low, high = torch.aminmax(shifted.float())
        raise InputError(
            f"Expected the shift {condition.shift!r} to return pixels in [0,1], but got values from "
            f"{float(low):.4g} to {float(high):.4g}."
        )
