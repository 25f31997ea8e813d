"""The summary read in ten seconds: what was measured, and each subject's figures beside the reference's."""

from collections.abc import Sequence
from dataclasses import replace

from statshift.measuring.compare import Difference
from statshift.report.content import Cell, Column, Figure, Table, Verdict
from statshift.report.differences import Change, Changes, mean_interval
from statshift.report.subjects import Group, Subject, kind, short_spec
from statshift.report.words import (
    ABSENT,
    accuracy_cell,
    bounded_cell,
    count_cell,
    interval,
    listed,
    percent,
    plural,
    points,
    short,
)

CLEAN = "clean accuracy"
WHOLE = "mean accuracy, 15 x 5"
ERROR = "mean error, 15 x 5"
MCE = "mCE"

MOST = 5
"""Models named in a sentence."""


def lead(groups: Sequence[Group]) -> str:
    """Return what was measured, on what."""
    return " ".join(_lead(group) for group in groups)


def _lead(group: Group) -> str:
    models = [subject.model for subject in group.sources]
    specs = list(dict.fromkeys(short_spec(subject.record["model"]) for subject in group.sources))
    protocols = list(dict.fromkeys(short(one.protocol, 40) for one in group.subjects if one.adapted))
    beside = " as it came" + (f" and rectified by {listed(protocols)}" if protocols else "")
    if len(models) == 1:
        who = f"{specs[0]}{beside if protocols else ''}"
    elif len(specs) == 1 and not any(specs[0].endswith(model.partition(" (")[0]) for model in models):
        who = f"{specs[0]} ({listed(models, MOST)}){f', each{beside}' if protocols else ''}"
    else:
        who = f"{len(models)} models, {listed(models, MOST)}{f', each{beside}' if protocols else ''}"
    return f"{who}, on {group.data}, {_under(group)}."


def _under(group: Group) -> str:
    """Return which conditions were measured, in words."""
    shifts = list(dict.fromkeys(name for one in group.subjects for name in one.shifts))
    common = sum(kind(name, group.families) == "common" for name in shifts)
    others = len(shifts) - common
    attacks = list(dict.fromkeys(name for one in group.subjects for name in one.attacks))
    parts = [
        *(["all 15 common corruptions"] if common == 15 else [plural(common, "common corruption")] if common else []),
        *([plural(others, "other shift" if common else "shift")] if others else []),
        *([plural(len(attacks), "attack")] if attacks else []),
    ]
    return f"clean and under {listed(parts)}" if parts else "clean"


def verdicts(groups: Sequence[Group], changes: Changes, taken: Subject | None = None) -> tuple[Verdict, ...]:
    """Return the summary of each subject, all with the same figures; `taken` is the best."""
    subjects = [subject for group in groups for subject in group.subjects]
    partial = _partial_label(subjects)
    whole = any(one.summary["mean_accuracy"] is not None for one in subjects)
    found = (_verdict(subject, groups, changes, whole, partial) for subject in subjects)
    return tuple(replace(one, best=subject is taken) for one, subject in zip(found, subjects, strict=True))


def summary_table(groups: Sequence[Group]) -> Table:
    """Return the summary as a table."""
    columns = (
        Column("subject", numeric=False),
        Column("images"),
        Column("clean accuracy %", shade="accuracy"),
        Column("mean accuracy %", shade="accuracy", note="over the conditions that the column `mean over` tells"),
        Column("mean error %", note="100 less the mean accuracy; over the 15 x 5 alone"),
        Column("mCE %", note="errors in units of the baseline's; not the mean error"),
        Column("relative mCE %", note="rises over the clean error, in units of the baseline's rise"),
        Column("mean over", numeric=False),
        Column("mCE relative to", numeric=False),
    )
    rows = [_summary_row(subject) for group in groups for subject in group.subjects]
    return Table("summary", "The summary's figures, in %", columns, tuple(rows), _NOTE, folded=True)


_NOTE = (
    "Intervals are 95 %: Wilson's for the clean accuracy, the bootstrap over images for means and mCE. Where a subject "
    "lacks one of the 15 x 5 common conditions it has neither mean error nor mCE."
)


def partial_mean(subject: Subject) -> tuple[float, tuple[float, float]] | None:
    """Return the mean accuracy over the shifts of one family that were measured, and its interval."""
    names, summary = subject.averaged, subject.summary
    if not names:
        return None
    value = sum(summary["per_shift"][name]["accuracy"] for name in names) / len(names)
    return value, mean_interval(subject.conditions, names, subject.record.get("seed") or 0)


def over(subject: Subject) -> str:
    """Return over which conditions a subject's mean is, in words."""
    if subject.summary["mean_accuracy"] is not None:
        return "15 corruptions x 5 severities"
    names = subject.averaged
    count = sum(shift in names for shift, _ in subject.conditions)
    return f"{plural(len(names), 'shift')}, {plural(count, 'condition')}" if names else ABSENT


def sentence(change: Change, *, named: bool = False) -> str:
    """Return the difference to the source in a line; `named` says to which."""
    part, name = change.mean, "" if change.whole else f" in the mean of {plural(_shared(change), 'shift')}"
    if part is None and change.clean:
        part, name = change.clean.accuracy, " on clean images"
    if part is None:
        return "Compared under attacks alone; see there."
    verdict = "" if part.low > 0 or part.high < 0 else "; neither is surely better"
    against = f", against {change.before.label}" if named else ""
    return f"{_difference(part)}{name} on the same images{against}{verdict}."


def _shared(change: Change) -> int:
    return len(change.counted)


def _difference(found: Difference) -> str:
    return f"{points(found.difference)} {interval((found.low, found.high), '+')}"


def _partial_label(subjects: Sequence[Subject]) -> str:
    """Return the name of the mean over fewer conditions than the benchmark's; "" where every subject has all."""
    counts = {len(one.averaged) for one in subjects if one.summary["mean_accuracy"] is None and one.averaged}
    if not counts:
        return ""
    return f"mean of {plural(counts.pop(), 'shift')}" if len(counts) == 1 else "mean of the shifts measured"


def _verdict(subject: Subject, groups: Sequence[Group], changes: Changes, whole: bool, partial: str) -> Verdict:
    group = groups[subject.group]
    change = changes.to_reference(subject)
    shown = change if subject.group == 0 else None
    figures = [_clean(subject, shown)]
    if whole:
        figures.append(_mean(subject, shown))
    if partial:
        figures.append(_partial(subject, shown, partial))
    if whole:
        figures.append(_error(subject, shown))
    figures.append(_mce(subject, shown))
    first = subject.group == 0
    if change:
        tone = change.tone if first else ""
        return Verdict(subject.label, tuple(figures), sentence(change, named=not first), tone, first)
    if subject is groups[0].reference:
        text = ""
    elif subject is group.reference:
        text = f"Not comparable with the first: {listed(group.differing, 3)}."
    else:
        text = f"It shares no condition with {group.reference.label}."
    return Verdict(subject.label, tuple(figures), text, compared=subject is groups[0].reference)


def _clean(subject: Subject, change: Change | None) -> Figure:
    value, bounds = subject.summary["clean_accuracy"], subject.summary["clean_interval"]
    clean = change.clean.accuracy if change and change.clean else None
    return _figure(
        CLEAN,
        value,
        bounds,
        "Share classified rightly of the images as they are in the data, nothing made of them.",
        clean,
    )


def _mean(subject: Subject, change: Change | None) -> Figure:
    note = "Accuracy averaged over the 15 common corruptions at 5 severities each; every condition counts alike."
    mean = change.mean if change and change.whole else None
    return _figure(WHOLE, subject.summary["mean_accuracy"], subject.summary["mean_interval"], note, mean)


def _partial(subject: Subject, change: Change | None, label: str) -> Figure:
    found = partial_mean(subject) if subject.summary["mean_accuracy"] is None else None
    note = f"Accuracy averaged over what was measured ({over(subject)}); it is not the benchmark's mean over 15 x 5."
    mean = change.mean if change and not change.whole and found else None
    value, bounds = found or (None, None)
    return _figure(label, value, bounds, note, mean)


def _error(subject: Subject, change: Change | None) -> Figure:
    value, bounds = subject.summary["mean_error"], subject.summary["mean_interval"]
    bounds = [1 - bounds[1], 1 - bounds[0]] if bounds else None
    found = change.mean if change and change.whole else None
    turned = Difference(1 - found.first, 1 - found.second, -found.high, -found.low) if found else None
    return _figure(ERROR, value, bounds, "100 % less the mean accuracy. It is not the mCE.", turned)


def _mce(subject: Subject, change: Change | None) -> Figure:
    value, reference = subject.summary["mce"], subject.measured.reference
    note = (
        f"Mean corruption error: errors relative to {reference}, which has 100 %; lower is better. It is not the mean "
        "error."
        if value is not None
        else f"There is no mCE: {no_mce(subject)}."
    )
    return _figure(MCE, value, subject.summary["mce_interval"], note, change.comparison.mce if change else None)


def no_mce(subject: Subject) -> str:
    """Return why a subject has no mCE."""
    count = subject.summary["mean_over"]
    if count["conditions"] < count["of"]:
        return f"{count['conditions']} of its {count['of']} conditions measured"
    return "no AlexNet baseline for this data"


def _figure(
    label: str, value: float | None, bounds: Sequence[float] | None, note: str, change: Difference | None
) -> Figure:
    if value is None:
        return Figure(label, ABSENT, note=note)
    ends = (float(bounds[0]), float(bounds[1])) if bounds else None
    difference = points(change.difference, "") if change else ""
    return Figure(label, percent(value), interval(ends), note, value, ends, difference)


def _summary_row(subject: Subject) -> tuple[Cell, ...]:
    summary = subject.summary
    whole = summary["mean_accuracy"] is not None
    found = (summary["mean_accuracy"], summary["mean_interval"]) if whole else partial_mean(subject)
    return (
        Cell(subject.label),
        count_cell(subject.images),
        bounded_cell(summary["clean_accuracy"], summary["clean_interval"]),
        bounded_cell(*(found or (None, None))),
        accuracy_cell(summary["mean_error"]),
        bounded_cell(summary["mce"], summary["mce_interval"]),
        accuracy_cell(summary["relative_mce"]),
        Cell(over(subject)),
        Cell(short(subject.measured.reference) if summary["mce"] is not None else f"no mCE: {no_mce(subject)}"),
    )
