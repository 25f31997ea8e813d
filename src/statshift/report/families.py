"""The section by family of shift: a mean for each, sets of images alone, and none over two families."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from statshift.report.content import Cell, Column, Section, Table
from statshift.report.differences import Changes, difference_over
from statshift.report.findings import partial_mean
from statshift.report.subjects import Group, Subject
from statshift.report.words import ABSENT, bounded_cell, listed, percent, points_cell, short
from statshift.results.conditions import Condition
from statshift.results.family_rows import FamilyRow, family_rows, is_telling
from statshift.tasks.figures import Difference

TEXT = (
    "Each family has a mean of its own, in which each of its conditions counts alike; there is none over two "
    "families. A set with images of its own stands alone, beside the clean images of its classes where the model "
    "chooses among fewer."
)

MOST_IN_FAMILY = 40
"""Shifts named where a reader points at their number."""


def section(groups: Sequence[Group], changes: Changes) -> Section | None:
    """Return the section, or None where there is but one mean, of the common corruptions."""
    tables = []
    for group in groups:
        rows = family_rows([subject.summary for subject in group.subjects])
        if is_telling(rows):
            over = f" over {group.data}" if len(groups) > 1 else ""
            tables.append(_table(group, rows, changes, over))
    return Section("families", "By family", (TEXT,), tuple(tables)) if tables else None


def _table(group: Group, rows: Sequence[FamilyRow], changes: Changes, over: str) -> Table:
    gains = {subject: _before(subject, group) for subject in group.subjects}
    columns = [Column("family", numeric=False)]
    for subject, before in gains.items():
        columns.append(Column(subject.label, shade="accuracy", note="the mean, with a 95 % interval"))
        if before:
            note = f"of {subject.label} over {before.label}, on the same images, in points"
            columns.append(Column(f"gain of {subject.label}", shade="difference", note=note))
    least = f"the shift of the family under which {group.reference.label} scores least, or else the next that has it"
    columns.append(Column("over", numeric=False, note="the shifts and severities of the mean, each condition alike"))
    columns.append(Column("hardest", numeric=False, note=least))
    lines = [_line(row, gains, changes) for row in rows]
    if any(subject.summary["clean_accuracy"] is not None for subject in gains):
        lines.insert(0, _clean(gains, changes))
    title = f"Accuracy by family, in %{', and gains in points' if any(gains.values()) else ''}{over}"
    return Table(f"by-family-{group.number + 1}", title, tuple(columns), tuple(lines))


def _before(subject: Subject, group: Group) -> Subject | None:
    """Return what a subject gains on: its own source, or the reference; None for the latter."""
    own = next((one for one in group.sources if subject.adapted and one.measured is subject.measured), None)
    return own or (group.reference if subject is not group.reference else None)


def _clean(gains: Mapping[Subject, Subject | None], changes: Changes) -> tuple[Cell, ...]:
    cells = [Cell("clean")]
    for subject, before in gains.items():
        cells.append(bounded_cell(subject.summary["clean_accuracy"], subject.summary["clean_interval"]))
        if before:
            change = changes.of(before, subject)
            cells.append(_gain(change.clean.accuracy if change and change.clean else None))
    return (*cells, Cell(ABSENT), Cell(ABSENT))


def _line(row: FamilyRow, gains: Mapping[Subject, Subject | None], changes: Changes) -> tuple[Cell, ...]:
    names = listed([short(name) for name in row.shifts], MOST_IN_FAMILY)
    cells = [Cell(short(row.label))]
    first = next(subject for subject, found in zip(gains, row.found, strict=True) if found)
    wanted = [one for one in first.conditions if one[0] in row.shifts]
    for (subject, before), found in zip(gains.items(), row.found, strict=True):
        cells.append(_score(subject, found, wanted))
        if before:
            cells.append(_gain(difference_over(before, subject, wanted)))
    return (*cells, Cell(short(row.over), note=names), Cell(_hardest(row.hardest) if row.hardest else ABSENT))


def _score(subject: Subject, found: Mapping[str, Any] | None, wanted: Sequence[Condition]) -> Cell:
    """Return a subject's mean: what its summary has, or that over the conditions wanted, where it has more of them."""
    if not found:
        return bounded_cell(*(partial_mean(subject, wanted) or (None, None)))
    score = bounded_cell(found["accuracy"], found["interval"])
    return replace(score, note=f"hardest: {_hardest(found['hardest'])}") if "hardest" in found else score


def _hardest(found: Mapping[str, Any]) -> str:
    return f"{short(found['shift'])} ({percent(found['accuracy'], '')})"


def _gain(found: Difference | None) -> Cell:
    return Cell(ABSENT) if found is None else points_cell(found.difference, (found.low, found.high))
