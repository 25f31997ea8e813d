"""The section on what changed: each protocol beside its source, each run beside the first, on the same images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from statshift.measuring.compare import SIGNIFICANT, ConditionComparison
from statshift.report.content import Block, Cell, Column, Fold, Section, Table
from statshift.report.differences import Change, Changes, conditions_in_words
from statshift.report.severities import ordered
from statshift.report.subjects import Group, condition_name, told_family
from statshift.report.words import accuracy_cell, count_cell, listed, p_value, points_cell
from statshift.tasks.figures import Difference

TEST = (
    "Differences are in points: the subject less what it is against, over the same images, with 95 % intervals. A "
    "condition is significantly better or worse where the test, adjusted by Holm over the conditions compared, has p "
    f"below {SIGNIFICANT}; all others are undecided. The test is "
)
DRAWS = (
    "Draws share their images and are no further evidence: where there are several, an image has one value, its mean "
    "over them, and the test is the normal one of these values."
)


OPEN = 2
"""Comparisons whose table by corruption is open."""


def section(groups: Sequence[Group], changes: Changes) -> Section | None:
    """Return the section, or None where there is nothing to compare."""
    told = [change for group in groups for change in changes.told(group)]
    if not told:
        return None
    blocks: list[Block | Fold] = [_overall(told)]
    for number, change in enumerate(told, start=1):
        by_shift, by_condition = (
            _by_shift(change, f"change-{number}"),
            _by_condition(change, f"change-{number}-conditions"),
        )
        if number <= OPEN:
            blocks += [by_shift, replace(by_condition, folded=True)]
        else:
            blocks.append(
                Fold(f"change-{number}-tables", f"{_against(change)}, by corruption", (by_shift, by_condition))
            )
    several = any(one.draws > 1 for change in told for one in change.comparison.conditions)
    return Section("changes", "What changed", (_test(told), *([DRAWS] if several else [])), tuple(blocks))


def _test(told: Sequence[Change]) -> str:
    return f"{TEST}{listed(list(dict.fromkeys(change.before.task.test for change in told)), conjunction='or')}."


def _against(change: Change) -> str:
    return f"{change.after.label} against {change.before.label}"


def _overall(told: Sequence[Change]) -> Table:
    columns = (
        Column("subject", numeric=False),
        Column("against", numeric=False),
        Column("images"),
        Column("clean accuracy", shade="difference"),
        Column("mean accuracy", shade="difference", note="over 15 x 5 conditions, or over what the cell says"),
        Column("mCE", note="less is better"),
        Column("better", note="conditions, significantly"),
        Column("worse", note="conditions, significantly; the cell says which"),
        Column("undecided", note="conditions of which these images do not tell"),
    )
    rows = []
    for change in told:
        better, worse = change.gained, change.lost
        open_ = len(change.comparison.conditions) - len(better) - len(worse)
        over = "" if change.whole or not change.over else change.name
        rows.append(
            (
                Cell(change.after.label),
                Cell(change.before.label),
                count_cell(change.comparison.images),
                _cell(change.clean.accuracy if change.clean else None),
                _cell(change.mean, over),
                _cell(change.comparison.mce),
                count_cell(len(better)),
                replace(count_cell(len(worse)), note=conditions_in_words(worse, 8)),
                count_cell(open_),
            )
        )
    return Table("changes", "What changed overall, in points", columns, tuple(rows))


def _by_shift(change: Change, name: str) -> Table:
    columns = (
        Column("corruption", numeric=False),
        Column("family", numeric=False),
        Column("before, %", shade="accuracy"),
        Column("after, %", shade="accuracy"),
        Column("difference, points", shade="difference", note="with a 95 % interval"),
        Column("better at", numeric=False, note="severities, significantly"),
        Column("worse at", numeric=False, note="severities, significantly"),
    )
    rows = []
    names = [shift for shift in change.shifts if shift != "clean"]
    families = change.after.families
    for shift in [*(["clean"] if "clean" in change.shifts else []), *_attacks_last(names, families)]:
        found = change.shifts[shift]
        cells = accuracy_cell(found.first), accuracy_cell(found.second), _cell(found)
        sure = [_levels([one for one in side if one.shift == shift]) for side in (change.gained, change.lost)]
        rows.append(
            (
                Cell(change.after.title(shift)),
                Cell("" if shift == "clean" else told_family(shift, families)),
                *cells,
                *map(Cell, sure),
            )
        )
    return Table(name, f"{_against(change)}, by corruption", columns, tuple(rows))


def _by_condition(change: Change, name: str) -> Table:
    counted = change.before.task.counts_images
    sides = ("right before only", "right after only") if counted else ("higher before", "higher after")
    columns = (
        Column("condition", numeric=False),
        Column("before, %", shade="accuracy"),
        Column("after, %", shade="accuracy"),
        Column("difference, points", shade="difference"),
        *(Column(one, note="images, over all draws") for one in sides),
        Column("p", note="of the paired test, adjusted by Holm over the conditions"),
        Column("verdict", numeric=False),
    )
    rows = []
    for one in change.comparison.conditions:
        cells = accuracy_cell(one.accuracy.first), accuracy_cell(one.accuracy.second), _cell(one.accuracy)
        counts = count_cell(one.only_first), count_cell(one.only_second)
        p = Cell(p_value(one.adjusted_p_value), one.adjusted_p_value)
        rows.append((Cell(condition_name((one.shift, one.severity))), *cells, *counts, p, Cell(one.verdict)))
    return Table(name, f"{_against(change)}, by condition", columns, tuple(rows))


def _cell(found: Difference | None, note: str = "") -> Cell:
    return Cell("-") if found is None else points_cell(found.difference, (found.low, found.high), note)


def _levels(conditions: Sequence[ConditionComparison]) -> str:
    return ", ".join(str(level) if level else "yes" for level in sorted(one.severity for one in conditions))


def _attacks_last(names: Sequence[str], families: Mapping[str, str]) -> list[str]:
    shifts = [name for name in names if families[name] != "attack"]
    return [*ordered(shifts, families), *(name for name in names if name not in shifts)]
