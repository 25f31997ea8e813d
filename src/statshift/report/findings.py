"""The summary read in ten seconds: what was measured, and each subject's figures beside the reference's."""

from collections.abc import Sequence
from dataclasses import replace

from statshift.report.content import Cell, Column, Figure, Table, Verdict
from statshift.report.differences import Change, Changes
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
from statshift.results.conditions import Condition
from statshift.results.means import mean_name, mean_over
from statshift.results.stream_words import batches_of_stream, name_of_stream
from statshift.tasks.figures import Difference

CLEAN_ACCURACY = "clean accuracy"
WHOLE_BENCHMARK = "mean accuracy, 15 x 5"
MCE = "mCE"

MOST_NAMES = 5
"""Models named in a sentence."""


def lead(groups: Sequence[Group]) -> str:
    """Return what was measured, on what."""
    return " ".join(_lead(group) for group in groups)


def _lead(group: Group) -> str:
    models = [subject.model for subject in group.sources]
    specs = list(dict.fromkeys(short_spec(subject.record["model"]) for subject in group.sources))
    protocols = list(dict.fromkeys(short(one.protocol, 40) for one in group.subjects if one.adapted))
    stream = group.reference.stream
    how = "adapted" if stream else "rectified"
    beside = " as it came" + (f" and {how} by {listed(protocols)}" if protocols else "")
    if len(models) == 1:
        who = f"{specs[0]}{beside if protocols else ''}"
    elif len(specs) == 1 and not any(specs[0].endswith(model.partition(" (")[0]) for model in models):
        who = f"{specs[0]} ({listed(models, MOST_NAMES)}){f', each{beside}' if protocols else ''}"
    else:
        who = f"{len(models)} models, {listed(models, MOST_NAMES)}{f', each{beside}' if protocols else ''}"
    order = f" as {name_of_stream(stream)} in {batches_of_stream(stream)}" if stream else ""
    return f"{who}, on {group.data}{order}, {_under(group)}."


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
    partial = partial_conditions(groups)
    whole = any(one.summary["mean_accuracy"] is not None for one in subjects)
    with_mce = any(one.summary["mce"] is not None for one in subjects)
    found = (_verdict(subject, groups, changes, whole, partial, with_mce) for subject in subjects)
    choice = "simplest of the best" if taken and _is_topped(taken, groups[0]) else ""
    return tuple(
        replace(one, best=subject is taken, choice=choice if subject is taken else "")
        for one, subject in zip(found, subjects, strict=True)
    )


def _is_topped(taken: Subject, group: Group) -> bool:
    """Return whether another subject of a group has a higher mean, over the same conditions as the one taken."""
    whole = taken.summary["mean_accuracy"] is not None
    partial = {one: partial_mean(one, () if whole else group.shared) for one in group.subjects}
    means = {one: one.summary["mean_accuracy"] if whole else found and found[0] for one, found in partial.items()}
    own = means[taken]
    return own is not None and any(value is not None and value > own for value in means.values())


def summary_table(groups: Sequence[Group]) -> Table:
    """Return the summary as a table."""
    with_mce = any(one.summary["mce"] is not None for group in groups for one in group.subjects)
    columns = (
        Column("subject", numeric=False),
        Column("images"),
        Column("clean accuracy %", shade="accuracy"),
        Column("mean accuracy %", shade="accuracy", note="over the conditions that the column `mean over` tells"),
        *([Column("mCE %", note="errors in units of the baseline's; lower is better")] if with_mce else []),
        *([Column("relative mCE %", note=RELATIVE)] if with_mce else []),
        Column("mean over", numeric=False),
        *([Column("mCE relative to", numeric=False)] if with_mce else []),
    )
    rows = [_summary_row(subject, group, with_mce) for group in groups for subject in group.subjects]
    counted = all(subject.task.counts_images for group in groups for subject in group.subjects)
    note = (_WILSON if counted else _RESAMPLED) + _NOTE
    return Table("summary", "The summary's figures, in %", columns, tuple(rows), note, folded=True)


RELATIVE = "rises over the clean error, in units of the baseline's rise"
_WILSON = "Intervals are 95 %: Wilson's for the clean accuracy, and for means and mCE over images with one value each. "
_RESAMPLED = (
    "Intervals are 95 %, each task's own: where its score is no share of images, over resamples of the images. "
)
_NOTE = (
    "Where a subject lacks one of the 15 x 5 common conditions its mean is over those that all subjects were measured "
    "under."
)


def partial_conditions(groups: Sequence[Group]) -> tuple[Condition, ...]:
    """Return the conditions of the column of means over fewer than 15 x 5; () where there is no need for one."""
    for group in groups:
        lacking = any(one.summary["mean_accuracy"] is None and one.shifts for one in group.subjects)
        if lacking and group.shared:
            return group.shared
    return ()


def partial_mean(subject: Subject, wanted: Sequence[Condition]) -> tuple[float, Sequence[float]] | None:
    """Return the mean accuracy over conditions and its interval; None where a subject lacks one, or there is none."""
    if not wanted or any(one not in subject.conditions for one in wanted):
        return None
    return mean_over(subject.conditions, wanted, subject.task)


def sentence(change: Change, *, named: bool = False) -> str:
    """Return the difference to the source in a line; `named` says to which."""
    part, name = change.mean, "" if change.whole or not change.over else f" in the {change.name}"
    if part is None and change.clean:
        part, name = change.clean.accuracy, " on clean images"
    if part is None:
        return "No mean to compare: see the conditions one by one."
    verdict = "" if part.low > 0 or part.high < 0 else "; not significant"
    against = f", against {change.before.label}" if named else ""
    return f"{_difference(part)}{name} on the same images{against}{_beside(change, part)}{verdict}."


def _beside(change: Change, part: Difference) -> str:
    """Return what the source has on the images of the difference, where its own figures are over more."""
    if change.comparison.images == change.before.images:
        return ""
    share = percent(part.first)
    right = f"of which the source has {share} right" if change.before.task.counts_images else f"source {share}"
    return f" ({change.comparison.images:,}, {right})"


def _difference(found: Difference) -> str:
    return f"{points(found.difference)} {interval((found.low, found.high), '+')}"


def _verdict(
    subject: Subject,
    groups: Sequence[Group],
    changes: Changes,
    whole: bool,
    partial: tuple[Condition, ...],
    with_mce: bool,
) -> Verdict:
    group = groups[subject.group]
    change = changes.to_reference(subject)
    shown = change if subject.group == 0 else None
    figures = [_clean(subject, shown)]
    if whole:
        figures.append(_mean(subject, shown))
    if partial:
        figures.append(_partial(subject, shown, partial))
    if with_mce:
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
    note = f"{subject.task.meaning} as they are in the data, nothing made of them."
    note += " They come last in the stream." if subject.stream and subject.stream["clean_last"] else ""
    return _figure(CLEAN_ACCURACY, value, bounds, note, clean)


def _mean(subject: Subject, change: Change | None) -> Figure:
    note = "Accuracy averaged over the 15 common corruptions at 5 severities each; every condition counts alike."
    mean = change.comparison.mean_accuracy if change else None
    return _figure(WHOLE_BENCHMARK, subject.summary["mean_accuracy"], subject.summary["mean_interval"], note, mean)


def _partial(subject: Subject, change: Change | None, wanted: tuple[Condition, ...]) -> Figure:
    found = partial_mean(subject, wanted)
    note = (
        f"Accuracy averaged over the {plural(len(wanted), 'condition')} that all subjects here were measured under; it "
        "is not the benchmark's mean over 15 x 5."
    )
    change = change if change and change.over == wanted else None
    value, bounds = found or (None, None)
    return _figure(mean_name(wanted), value, bounds, note, change.partial if change and found else None)


def _mce(subject: Subject, change: Change | None) -> Figure:
    value, reference = subject.summary["mce"], subject.measured.reference
    note = (
        f"Mean corruption error: errors relative to {reference}, which has 100 %; lower is better. It is not 100 "
        "less the mean accuracy."
        if value is not None
        else f"There is no mCE: {no_mce(subject)}."
    )
    return _figure(MCE, value, subject.summary["mce_interval"], note, change.comparison.mce if change else None)


def no_mce(subject: Subject) -> str:
    """Return why a subject has no mCE."""
    count = subject.summary["mean_over"]
    if count["conditions"] < count["of"]:
        return f"it needs all {count['of']} conditions; {count['conditions']} were measured"
    return "no AlexNet baseline for this data"


def _figure(
    label: str, value: float | None, bounds: Sequence[float] | None, note: str, change: Difference | None
) -> Figure:
    if value is None:
        return Figure(label, ABSENT, note=note)
    ends = (float(bounds[0]), float(bounds[1])) if bounds else None
    difference = points(change.difference, "") if change else ""
    return Figure(label, percent(value), interval(ends), note, value, ends, difference)


def _summary_row(subject: Subject, group: Group, with_mce: bool) -> tuple[Cell, ...]:
    summary = subject.summary
    whole = summary["mean_accuracy"] is not None
    found = (summary["mean_accuracy"], summary["mean_interval"]) if whole else partial_mean(subject, group.shared)
    over = "mean of 15 x 5" if whole else mean_name(group.shared) if found else ABSENT
    mce = bounded_cell(summary["mce"], summary["mce_interval"]), accuracy_cell(summary["relative_mce"])
    relative = short(subject.measured.reference) if summary["mce"] is not None else f"no mCE: {no_mce(subject)}"
    return (
        Cell(subject.label),
        count_cell(subject.images),
        bounded_cell(summary["clean_accuracy"], summary["clean_interval"]),
        bounded_cell(*(found or (None, None))),
        *(mce if with_mce else ()),
        Cell(over),
        *([Cell(relative)] if with_mce else []),
    )
