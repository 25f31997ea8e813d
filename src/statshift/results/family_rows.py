"""The lines of a table by family: which means stand in one line, and what they are over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from statshift.shifts.registry import MEAN_FAMILIES

FAMILY_SECTIONS = ("per_family", "per_group", "per_set")


@dataclass(frozen=True)
class FamilyRow:
    """A line of the table.

    Attributes:
        label: the family, the user's group, or a set of images that stands alone.
        section: key of the summaries that holds it.
        shifts: names of the shifts that its means are over; of a set its own.
        severities: ascending; () of shifts without.
        found: the figures of each protocol, as in its summary; None of one that has none over the same conditions.
    """

    label: str
    section: str
    shifts: tuple[str, ...]
    severities: tuple[int, ...]
    found: tuple[Mapping[str, Any] | None, ...]

    @property
    def count(self) -> str:
        """The number of shifts, or the only one's name; of a set its number of images."""
        if self.section == "per_set":
            return f"{max(one['images'] for one in self.found if one):,} images"
        return str(len(self.shifts)) if len(self.shifts) > 1 else self.shifts[0]

    @property
    def levels(self) -> str:
        """The severities: "1 to 5" or "1, 3"; "-" for none."""
        first, last = (*self.severities[:1], 0)[0], (0, *self.severities)[-1]
        if len(self.severities) > 2 and last - first == len(self.severities) - 1:
            return f"{first} to {last}"
        return ", ".join(map(str, self.severities)) or "-"

    @property
    def over(self) -> str:
        """What the means are over: "15 at severity 3", "fog at severities 1 to 5", "46 shifts" or "2,000 images"."""
        if self.severities:
            return f"{self.count} at {'severity' if len(self.severities) == 1 else 'severities'} {self.levels}"
        return f"{self.count} shifts" if len(self.shifts) > 1 else self.count

    @property
    def hardest(self) -> Mapping[str, Any] | None:
        """The hardest shift of the first protocol that has figures: its name and its score; None of one alone."""
        there = next(one for one in self.found if one)
        return there.get("hardest")


def family_rows(summaries: Sequence[Mapping[str, Any]]) -> list[FamilyRow]:
    """Return the lines: families, then groups, then sets of images, each of these with its clean images below it.

    What is over other shifts, severities or numbers of conditions stands in a line of its own.

    Args:
        summaries: of protocols, as `summarise` gives them.
    """
    rows = []
    for section in FAMILY_SECTIONS:
        tables = [one.get(section, {}) for one in summaries]
        for name in dict.fromkeys(name for one in tables for name in one):
            overs = [one.get(name) and _over(one[name]) for one in tables]
            for over in dict.fromkeys(filter(None, overs)):
                found = tuple(one[name] if own == over else None for one, own in zip(tables, overs, strict=True))
                family = next(one["family"] for one in found if one) if section == "per_set" else ""
                rows.append(FamilyRow(_label(name, section, family), section, over[0] or (name,), over[1], found))
                beside = tuple(one and one.get("beside") for one in found)
                if any(beside):
                    rows.append(FamilyRow(f"clean, the classes of {name}", section, _beside(beside), (), beside))
    return rows


def is_telling(rows: Sequence[FamilyRow]) -> bool:
    """Return whether the table says more than the mean over the common corruptions, or the score of one shift."""
    return len(rows) > 1 or any(len(one.shifts) > 1 and one.label != MEAN_FAMILIES["corruption"] for one in rows)


def _over(found: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...], int]:
    return tuple(found.get("shifts", ())), tuple(found.get("severities", ())), found.get("conditions", 1)


def _label(name: str, section: str, family: str) -> str:
    if section == "per_group":
        return f"group {name}"
    return f"{family}: {name}" if family else MEAN_FAMILIES.get(name, name)


def _beside(found: Sequence[Mapping[str, Any] | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(one["shift"]) for one in found if one))
