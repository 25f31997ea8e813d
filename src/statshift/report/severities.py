"""The section by corruption and severity: accuracies, CE, and small multiples."""

from collections.abc import Mapping, Sequence

from statshift.metrics.classification import SEVERITIES
from statshift.report.best import telling
from statshift.report.content import Block, Cell, Chart, Column, Panel, Section, Series, Table
from statshift.report.differences import Changes
from statshift.report.findings import no_mce, summary_table
from statshift.report.subjects import Group, Subject, kind, told_family
from statshift.report.words import ABSENT, accuracy_cell, listed
from statshift.shifts.registry import KINDS

MOST_CHARTS = 5
"""Subjects in a chart."""

ORDER = (*KINDS, "corruption", "c-bar", "filter", "style", "natural", "own")
MEAN_OF_COMMON = "mean of the 15"


def section(groups: Sequence[Group], changes: Changes) -> Section:
    """Return the section: the summary as a table, charts over severity, and a table for each subject."""
    blocks: list[Block] = [summary_table(groups)]
    for group in groups:
        blocks += _overview(group, len(groups) > 1)
        blocks += _charts(group, telling(group, changes, MOST_CHARTS), len(groups) > 1)
    number = 0
    for group in groups:
        for subject in group.subjects:
            if subject.shifts:
                number += 1
                over = f" over {group.data}" if len(groups) > 1 else ""
                blocks.append(_table(subject, group.reference, f"severities-{number}", over))
    on = f" over {groups[0].data}" if len(groups) == 1 else ""
    text = (
        f"Accuracy in percent{on}. CE divides a corruption's error, 100 less its accuracy, by the baseline's; mCE is "
        "the mean of CE over the 15 corruptions."
    )
    return Section("corruptions", "By corruption and severity", (text,), tuple(blocks))


def ordered(shifts: Sequence[str], families: Mapping[str, str]) -> list[str]:
    """Return shifts family by family, in the benchmark's order; the user's own last."""

    def place(name: str) -> tuple[bool, int]:
        told = told_family(name, families)
        return kind(name, families) != "common", ORDER.index(told) if told in ORDER else len(ORDER)

    return sorted(shifts, key=place)


def _names(group: Group) -> list[str]:
    shifts = dict.fromkeys(name for subject in group.subjects for name in subject.shifts)
    return ordered(list(shifts), group.families)


def _overview(group: Group, several: bool) -> list[Block]:
    """Return the table of shifts by subject."""
    names = _names(group)
    if not names or len(group.subjects) < 2:
        return []
    columns = (
        Column("corruption", numeric=False),
        Column("family", numeric=False),
        *(Column(subject.label, shade="accuracy") for subject in group.subjects),
    )
    rows = []
    for name in names:
        found = [subject.summary["per_shift"].get(name) for subject in group.subjects]
        cells = [accuracy_cell(one and one["accuracy"]) for one in found]
        rows.append((Cell(group.title(name)), Cell(told_family(name, group.families)), *cells))
    sums = [one.summary for one in group.subjects]
    means, errors = [one["mean_accuracy"] for one in sums], [one["mce"] for one in sums]
    summed = (
        [(Cell(MEAN_OF_COMMON), Cell(""), *map(accuracy_cell, means))] if any(one is not None for one in means) else []
    )
    if any(one is not None for one in errors):
        summed.append((Cell("mCE"), Cell(""), *(Cell(accuracy_cell(value).text) for value in errors)))
    over = f" over {group.data}" if several else ""
    title = f"Accuracy by corruption, mean of its severities{over}"
    return [Table(f"by-corruption-{group.number + 1}", title, columns, (*rows, *summed), footer=len(summed))]


def _charts(group: Group, drawn: Sequence[Subject], several: bool) -> list[Block]:
    """Return small multiples over severity: of the common corruptions, and of what else has severities."""
    names = _names(group)
    found: list[Block] = []
    left_out = [one.label for one in group.subjects if one not in drawn]
    note = f"Left out for legibility, but in the tables: {listed(left_out, 8)}." if left_out else ""
    for place, (wanted, what) in enumerate(
        ((("common",), "Common corruptions"), (("holdout", "other"), "Other shifts"))
    ):
        chosen = [name for name in names if kind(name, group.families) in wanted]
        levels = sorted({level for one in drawn for shift, level in one.conditions if shift in chosen and level})
        graded = [name for name in chosen if any((name, level) in one.conditions for one in drawn for level in levels)]
        if len(levels) < 2 or not graded:
            continue
        over = f" over {group.data}" if several else ""
        panels = tuple(
            Panel(
                group.title(name),
                tuple(_series(one, name, levels) for one in drawn if name in one.summary["per_shift"]),
            )
            for name in graded
        )
        title = f"{what}: accuracy by severity{over}, with 95 % intervals"
        name = f"chart-{group.number + 1}-{place + 1}"
        table = _chart_table(f"{name}-table", title, drawn, graded, levels)
        found.append(Chart(name, title, "severity", "accuracy, %", tuple(map(str, levels)), panels, table, note=note))
    return found


def _series(subject: Subject, shift: str, levels: Sequence[int]) -> Series:
    values, bounds = _levels(subject, shift)
    low, high = ([pair[end] if pair else None for pair in bounds] for end in (0, 1))
    places = [level - 1 for level in levels]
    columns = [tuple(column[place] for place in places) for column in (values, low, high)]
    return Series(subject.label, *columns)


def _levels(subject: Subject, shift: str) -> tuple[list[float | None], list[list[float] | None]]:
    """Return accuracies and intervals at the five severities."""
    found = subject.summary["per_shift"].get(shift)
    if found is None or len(found["by_severity"]) != len(SEVERITIES):
        return [None] * 5, [None] * 5
    return found["by_severity"], found["intervals"]


def _chart_table(
    name: str, title: str, drawn: Sequence[Subject], shifts: Sequence[str], levels: Sequence[int]
) -> Table:
    columns = (
        Column("corruption", numeric=False),
        Column("severity"),
        *(Column(subject.label, shade="accuracy") for subject in drawn),
    )
    rows = []
    for shift in shifts:
        found = [_levels(subject, shift) for subject in drawn]
        for level in levels:
            cells = [accuracy_cell(values[level - 1], bounds[level - 1]) for values, bounds in found]
            rows.append((Cell(drawn[0].title(shift)), Cell(str(level), float(level)), *cells))
    return Table(name, title, columns, tuple(rows), folded=True)


def _table(subject: Subject, reference: Subject, name: str, over: str) -> Table:
    summary = subject.summary
    with_ce = any(one["ce"] is not None for one in summary["per_shift"].values())
    columns = (
        Column("corruption", numeric=False),
        Column("family", numeric=False),
        *(Column(str(level), shade="accuracy", note=f"accuracy at severity {level}") for level in SEVERITIES),
        Column("mean accuracy", shade="accuracy", note="over the severities measured"),
        *([Column("CE", shade="error", note=f"error relative to {subject.measured.reference}")] if with_ce else []),
    )
    rows = [_row(subject, shift, with_ce) for shift in ordered(subject.shifts, subject.families)]
    means = _means(subject, with_ce)
    title = f"{subject.label}, by corruption and severity{over}"
    draws = summary.get("draws", 1)
    drawn = "orders of the stream" if subject.stream else "draws of the images adapted on"
    note = f"Averaged over {draws} {drawn}. " if draws > 1 else ""
    if summary["mce"] is None:
        note += f"No mCE: {no_mce(subject)}."
    else:
        note += f"CE and mCE are relative to {subject.measured.reference}; mCE is not 100 less the mean accuracy."
    return Table(name, title, columns, (*rows, *means), note, subject is not reference, len(means))


def _row(subject: Subject, shift: str, with_ce: bool) -> tuple[Cell, ...]:
    found = subject.summary["per_shift"][shift]
    values, bounds = _levels(subject, shift)
    cells = [accuracy_cell(value, pair) for value, pair in zip(values, bounds, strict=True)]
    if len(found["by_severity"]) == 1:
        cells[0] = Cell(ABSENT, None, "It has no severities.")
    ce = [accuracy_cell(found["ce"])] if with_ce else []
    return (
        Cell(subject.title(shift)),
        Cell(told_family(shift, subject.families)),
        *cells,
        accuracy_cell(found["accuracy"]),
        *ce,
    )


def _means(subject: Subject, with_ce: bool) -> list[tuple[Cell, ...]]:
    """Return the rows at the end: means over the 15 corruptions, and mCE, each under its own head."""
    summary = subject.summary
    if summary["mean_accuracy"] is None:
        return []
    common = [name for name in subject.shifts if kind(name, subject.families) == "common"]
    by_level = [
        sum(summary["per_shift"][name]["by_severity"][place] for name in common) / len(common) for place in range(5)
    ]
    values = [*by_level, summary["mean_accuracy"]]
    blank = Cell("")
    rows = [(Cell(MEAN_OF_COMMON), blank, *map(accuracy_cell, values), *([blank] if with_ce else []))]
    if summary["mce"] is not None:
        mce = Cell(accuracy_cell(summary["mce"]).text, None, "the mean of CE over the 15 corruptions")
        rows.append((Cell("mCE"), blank, *[blank] * len(values), mce))
    return rows
