"""Means by family of shift, each over conditions of the same images; families stand side by side, never in one mean."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from types import MappingProxyType
from typing import Any

from statshift.results.conditions import Condition, Conditions, average_draws, mean_score
from statshift.results.means import chosen
from statshift.shifts.registry import GROUPS, MEAN_FAMILIES, WITHOUT_MEAN, family_of, mean_family
from statshift.tasks.row import Row
from statshift.tasks.task import Task


@dataclass(frozen=True)
class Kinship:
    """What a run says of its shifts beside their names.

    Attributes:
        families: family of each shift; one that is not told is that of what ships by the name, else "own".
        groups: shifts of each group that the user made.
        beside: by a set of images of its own, the condition with the clean images of its classes.
    """

    families: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)

    def family(self, shift: str) -> str:
        """Return the family of a shift."""
        return str(self.families.get(shift) or family_of(shift))


UNTOLD = Kinship()
"""Of rows alone: families are those of what ships by the shifts' names."""


def kinship_of(record: Mapping[str, Any]) -> Kinship:
    """Return what a record says of its shifts; one of old says nothing."""
    sets = {name: told.get("beside") for name, told in (record.get("sets") or {}).items() if isinstance(told, Mapping)}
    beside = {name: str(other) for name, other in sets.items() if other}
    return Kinship(record.get("families") or {}, record.get("groups") or {}, beside)


@dataclass(frozen=True)
class _Side:
    """A protocol's rows, the source's beside them if it is adapted, and figures that were made before."""

    conditions: Conditions
    paired: Conditions | None
    task: Task
    known: Mapping[frozenset[Condition], Mapping[str, Any]]


def family_means(
    conditions: Conditions,
    kinship: Kinship,
    task: Task,
    paired: Conditions | None = None,
    known: Mapping[frozenset[Condition], Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return `per_family`, and `per_group` and `per_set` where there are any.

    A mean counts each condition alike. Corruptions are the benchmark's 15; the hold-out ones and a user's have means
    of their own, and so have two published lists of one family. A user's group has one for each of its families.
    Shifts with sets of images of their own have a mean where they are parts of one collection, COLLECTION/PART, image
    by image; others stand alone.

    Args:
        conditions: a protocol's rows.
        kinship: what the run says of its shifts.
        task: what the rows are of.
        paired: the source's rows over the same images; adds `gain`.
        known: means that were made already, by their conditions.
    """
    side = _Side(conditions, paired, task, known)
    shifts = [name for name in dict.fromkeys(name for name, _ in conditions) if kinship.family(name) != "clean"]
    places = {name: _place(name, kinship.family(name), conditions) for name in shifts}
    families: dict[str, list[str]] = {}
    for name, place in places.items():
        if place is not None:
            families.setdefault(place, []).append(name)
    order = [*MEAN_FAMILIES]
    ordered = sorted(families, key=lambda one: order.index(one) if one in order else len(order))
    listed = {name: members for family in ordered for name, members in _by_list(family, families[family]).items()}
    groups: dict[str, list[str]] = {}
    for group, members in kinship.groups.items():
        there = [name for name in members if places.get(name) is not None]
        parts = dict.fromkeys(kinship.family(name) for name in there)
        for family in parts:
            own = [name for name in there if kinship.family(name) == family]
            groups[group if len(parts) == 1 else f"{group} ({family})"] = own
    alone = [name for name, place in places.items() if place is None and name not in kinship.beside.values()]
    found = {
        "per_family": {name: _mean(side, members) for name, members in listed.items()},
        "per_group": {name: _mean(side, members) for name, members in groups.items()},
        "per_set": {name: _set(side, name, kinship) for name in alone},
    }
    return {name: one for name, one in found.items() if one or name == "per_family"}


def _place(name: str, family: str, conditions: Conditions) -> str | None:
    """Return which mean a shift counts in, or None where it stands alone."""
    if family in WITHOUT_MEAN:
        return None
    if not any("set" in draws[0] for (shift, _), draws in conditions.items() if shift == name):
        return mean_family(name, family)
    collection, part, _ = name.partition("/")
    return f"{family} ({collection})" if part else None


def _by_list(family: str, shifts: Sequence[str]) -> dict[str, Sequence[str]]:
    """Return the shifts of a family by its lists, where several that ship make it up and none is all of it."""
    lists = {group: members for group, members in GROUPS.items() if {*members} <= {*shifts}}
    whole = {name for members in lists.values() for name in members} == {*shifts}
    if len(lists) < 2 or not whole or any({*members} == {*shifts} for members in lists.values()):
        return {family: shifts}
    return dict(lists)


def _mean(side: _Side, members: Collection[str]) -> dict[str, Any]:
    """Return a mean over all conditions of some shifts, what it is over, and the hardest of several."""
    wanted = [one for one in side.conditions if one[0] in members]
    headline = side.task.headline
    found: dict[str, Any] = {
        "shifts": list(dict.fromkeys(name for name, _ in wanted)),
        "severities": sorted({level for _, level in wanted if level}),
        "conditions": len(wanted),
        **(side.known.get(frozenset(wanted)) or _figures(side, wanted)),
    }
    if len(found["shifts"]) == 1:
        return found
    scores = {name: _score(side, [one for one in wanted if one[0] == name]) for name in found["shifts"]}
    hardest = min(scores, key=lambda name: scores[name])
    return found | {"hardest": {"shift": hardest, headline: scores[hardest]}}


def _score(side: _Side, wanted: Sequence[Condition]) -> float:
    return fmean(average_draws(side.conditions[one], side.task)[side.task.headline] for one in wanted)


def _figures(side: _Side, wanted: Sequence[Condition]) -> dict[str, Any]:
    """Return a mean with its interval and its gain; these are None where the images are not as many everywhere."""
    numbers = {_images(side.conditions[one][0]) for one in wanted}
    task, headline = side.task, side.task.headline
    found: dict[str, Any] = {headline: _score(side, wanted), "interval": None}
    if side.paired is not None:
        found["gain"] = None
    if len(numbers) > 1:
        return found
    sides = [mean_score(*chosen(one, wanted)) for one in (side.paired, side.conditions) if one is not None]
    found["interval"] = list(task.interval(sides[-1]))
    if side.paired is not None:
        change = task.difference(*sides)
        found["gain"] = {headline: change.difference, "interval": [change.low, change.high]}
    return found


def _set(side: _Side, name: str, kinship: Kinship) -> dict[str, Any]:
    """Return the figures of a set of images of its own, beside those of the clean images of its classes."""
    found = {"family": kinship.family(name), **_alone(side, name)}
    other = kinship.beside.get(name)
    there = any(shift == other for shift, _ in side.conditions)
    return found | ({"beside": {"shift": other, **_alone(side, other)}} if other and there else {})


def _alone(side: _Side, name: str) -> dict[str, Any]:
    wanted = [one for one in side.conditions if one[0] == name]
    return {"images": side.conditions[wanted[0]][0]["images"], **_figures(side, wanted)}


def _images(row: Row) -> int:
    """Return how many images a row's are of, those left out among them."""
    return row["images"] + len(row.get("left_out", []))
