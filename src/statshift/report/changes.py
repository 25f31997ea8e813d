"""The section on what changed: each protocol beside its source, each run beside the first, on the same images."""

from collections.abc import Sequence

from statshift.comparison import ConditionComparison, Difference
from statshift.report.content import Block, Cell, Column, Section, Table
from statshift.report.differences import SURE, Change, Changes, describe_sure
from statshift.report.severities import ordered
from statshift.report.subjects import Group, condition_name, family
from statshift.report.words import (
    accuracy_cell,
    count_cell,
    interval,
    p_value,
    percent,
    plural,
    points,
    points_cell,
    short,
)

TEST = (
    "Differences are in percentage points of accuracy, the second less the first, over the same images, with 95 % "
    "intervals. A condition is called surely better or worse where McNemar's exact test, adjusted by Holm over the "
    f"conditions compared, has p below {SURE}; of all others these images do not tell."
)
DRAWS = "Where there are several draws the test counts them together, as if their images were others; intervals do not."


def section(groups: Sequence[Group], changes: Changes) -> Section | None:
    """Return the section, or None where there is nothing to compare."""
    told = [change for group in groups for change in changes.told(group)]
    if not told:
        return None
    blocks: list[Block] = [_overall(told)]
    for number, change in enumerate(told, start=1):
        blocks += [_by_shift(change, f"change-{number}"), _by_condition(change, f"change-{number}-conditions")]
    several = any(one.draws > 1 for change in told for one in change.comparison.conditions)
    text = [TEST, *([DRAWS] if several else []), *(describe(change) for change in told)]
    return Section("changes", "What changed", tuple(text), tuple(blocks))


def describe(change: Change) -> str:
    """Return in words what is sure of a change and what is not."""
    parts = [f"{change.after.label} against {change.before.label}:"]
    if change.mean:
        over = "over the 15 x 5" if change.whole else "over the shifts that both were measured under"
        parts.append(f"mean accuracy {over} {_from_to(change.mean)}.")
    if change.clean:
        parts.append(f"{'Clean' if change.mean else 'clean'} accuracy {_from_to(change.clean.accuracy)}.")
    if change.comparison.mce:
        parts.append(f"mCE {_from_to(change.comparison.mce)}; less is better.")
    count = len(change.comparison.conditions)
    better, worse = change.gained, change.lost
    open_ = count - len(better) - len(worse)
    parts.append(f"Of {plural(count, 'condition')} {len(better)} became surely better and {len(worse)} surely worse")
    parts.append(f"({describe_sure(worse)});" if worse else "(none);")
    parts.append(f"of {open_} these images do not tell.")
    if not better and not worse:
        parts.append("Nothing is sure of any single condition.")
    return " ".join(parts)


def _from_to(found: Difference) -> str:
    bounds = interval((found.low, found.high), "+")
    return f"{percent(found.first)} -> {percent(found.second)}, {points(found.difference)} {bounds}"


def _overall(told: Sequence[Change]) -> Table:
    columns = (
        Column("subject", numeric=False),
        Column("against", numeric=False),
        Column("images"),
        Column("clean, points", shade="difference"),
        Column("95 % interval", numeric=False),
        Column("mean accuracy, points", shade="difference"),
        Column("95 % interval", numeric=False),
        Column("mean over", numeric=False),
        Column("mCE, points", note="less is better"),
        Column("95 % interval", numeric=False),
        Column("surely better", note="conditions"),
        Column("surely worse", note="conditions"),
        Column("conditions"),
    )
    rows = []
    for change in told:
        clean = change.clean.accuracy if change.clean else None
        over = "15 x 5" if change.whole else "shared shifts"
        counts = len(change.gained), len(change.lost), len(change.comparison.conditions)
        rows.append(
            (
                Cell(change.after.label),
                Cell(change.before.label),
                count_cell(change.comparison.images),
                *_cells(clean),
                *_cells(change.mean),
                Cell(over if change.mean else "-"),
                *_cells(change.comparison.mce),
                *map(count_cell, counts),
            )
        )
    return Table("changes", "What changed overall, percentage points on the same images", columns, tuple(rows))


def _by_shift(change: Change, name: str) -> Table:
    columns = (
        Column("corruption", numeric=False),
        Column("family", numeric=False),
        Column("before", shade="accuracy"),
        Column("after", shade="accuracy"),
        Column("difference, points", shade="difference"),
        Column("95 % interval", numeric=False, note="by the bootstrap over images"),
        Column("surely better at", numeric=False, note="severities"),
        Column("surely worse at", numeric=False, note="severities"),
    )
    rows = []
    names = [shift for shift in change.shifts if shift != "clean"]
    for shift in [*(["clean"] if "clean" in change.shifts else []), *_attacks_last(names)]:
        found = change.shifts[shift]
        cells = accuracy_cell(found.first), accuracy_cell(found.second), *_cells(found)
        sure = [_levels([one for one in side if one.shift == shift]) for side in (change.gained, change.lost)]
        rows.append((Cell(short(shift)), Cell("" if shift == "clean" else family(shift)), *cells, *map(Cell, sure)))
    title = f"{change.after.label} against {change.before.label}, by corruption, accuracy in %"
    return Table(name, title, columns, tuple(rows))


def _by_condition(change: Change, name: str) -> Table:
    columns = (
        Column("condition", numeric=False),
        Column("before", shade="accuracy"),
        Column("after", shade="accuracy"),
        Column("difference, points", shade="difference"),
        Column("95 % interval", numeric=False),
        Column("right before only", note="images, over all draws"),
        Column("right after only", note="images, over all draws"),
        Column("p", note="McNemar's exact test, adjusted by Holm over the conditions"),
        Column("sure", numeric=False),
    )
    rows = []
    for one in change.comparison.conditions:
        cells = accuracy_cell(one.accuracy.first), accuracy_cell(one.accuracy.second), *_cells(one.accuracy)
        counts = count_cell(one.only_first), count_cell(one.only_second)
        p = Cell(p_value(one.adjusted_p_value), one.adjusted_p_value)
        verdict = "" if one.adjusted_p_value >= SURE else "better" if one.accuracy.difference > 0 else "worse"
        rows.append((Cell(condition_name((one.shift, one.severity))), *cells, *counts, p, Cell(verdict)))
    title = f"{change.after.label} against {change.before.label}, by condition, accuracy in %"
    return Table(name, title, columns, tuple(rows), folded=True)


def _cells(found: Difference | None) -> tuple[Cell, Cell]:
    if found is None:
        return Cell("-"), Cell("-")
    return points_cell(found.difference), Cell(interval((found.low, found.high), "+"))


def _levels(conditions: Sequence[ConditionComparison]) -> str:
    return ", ".join(str(one.severity) if one.severity else "yes" for one in conditions)


def _attacks_last(names: Sequence[str]) -> list[str]:
    shifts = [name for name in names if family(name) != "attack"]
    return [*ordered(shifts), *(name for name in names if name not in shifts)]
