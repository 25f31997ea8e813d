"""The section by class: each class's score beside the mean over classes, of the tasks whose score is such a mean."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from statshift.report.best import telling
from statshift.report.content import Block, ByRow, Cell, Column, Section, Series, Table
from statshift.report.damage import damaged
from statshift.report.differences import Changes
from statshift.report.subjects import Group, Subject
from statshift.report.words import accuracy_cell, bounded_cell, class_name, count_cell, listed, percent, plural, short
from statshift.results.conditions import Condition
from statshift.results.means import mean_name
from statshift.results.worded import spelt
from statshift.tasks.row import Array

MOST_DRAWN = 4
"""Subjects in a chart and a table."""


def section(groups: Sequence[Group], changes: Changes) -> Section | None:
    """Return the section, or None where no task has scores of classes."""
    blocks: list[Block] = []
    text: dict[str, None] = {}
    for group in groups:
        if group.reference.task.class_score:
            with damaged(group.reference.measured.run.path):
                blocks.append(_measures(group, f"measures-{group.number + 1}"))
                charts, told = _charts(group, telling(group, changes, MOST_DRAWN), len(groups) > 1)
                blocks += charts
                text[told] = None
    return Section("classes", "By class", tuple(text), tuple(blocks)) if blocks else None


def _charts(group: Group, subjects: Sequence[Subject], several: bool) -> tuple[list[ByRow], str]:
    """Return a chart of the clean images and one of the shifts that all share, and what they are of in words."""
    word = group.reference.task.class_score
    over: list[tuple[str, tuple[Condition, ...]]] = [("clean", (("clean", 0),))]
    if group.shared:
        over.append((mean_name(group.shared), group.shared))
    charts, told = [], ""
    for number, (name, wanted) in enumerate(over, start=1):
        scores = {one: found for one in subjects if (found := _mean(one, wanted)) is not None}
        if scores:
            title = f"{word} by class, {name}{f', over {group.data}' if several else ''}"
            charts.append(_chart(scores, word, title, f"classes-{group.number + 1}-{number}"))
            told = told or _told(group, scores, subjects)
    return charts, told


def _measures(group: Group, name: str) -> Table:
    """Return all that the task measures on clean images."""
    task = group.reference.task
    names = [one for one in task.measure_names if one not in (task.headline, "error")]
    columns = (
        Column("subject", numeric=False),
        Column("images"),
        Column("accuracy %", shade="accuracy"),
        *(Column(f"{spelt(one)} %", shade="accuracy") for one in names),
    )
    rows = [
        (
            Cell(one.label),
            count_cell(one.images),
            bounded_cell(one.summary["clean_accuracy"], one.summary["clean_interval"]),
            *(accuracy_cell(one.summary.get(f"clean_{measure}")) for measure in names),
        )
        for one in group.subjects
    ]
    return Table(name, "What is measured on clean images", columns, tuple(rows))


def _mean(subject: Subject, wanted: Sequence[Condition]) -> Array | None:
    """Return (K,), the mean over conditions, NaN of a class absent in one; None where a condition is lacking."""
    if not wanted or any(one not in subject.conditions for one in wanted):
        return None
    found = [subject.task.class_scores(subject.conditions[one]) for one in wanted]
    known = [one for one in found if one is not None]
    return np.asarray(np.mean(known, axis=0)) if known else None


def _told(group: Group, scores: dict[Subject, Array], subjects: Sequence[Subject]) -> str:
    """Return what these scores are of, and which pixels are left out of them."""
    task, names = group.reference.task, names_of(group.reference)
    text = (
        f"{task.class_score} of each class, from all pixels of a condition's images together; the mean over classes is "
        "the accuracy."
    )
    ignored = f" Pixels labelled {task.ignored} do not count." if task.ignored is not None else ""
    model, data = group.reference.record["model"], group.reference.record["data"]
    multiple = (model.get("preprocessing") or {}).get("size_multiple")
    ignored += (
        f" Images were padded to multiples of {multiple} px, and what the model said cropped." if multiple else ""
    )
    mapped = (data.get("maps") or {}).get("label_map")
    ignored += f" Labels were replaced by a file's ({short(str(mapped))})." if mapped else ""
    others = [one.label for one in group.subjects if one not in subjects]
    rest = f" Left out for legibility: {listed(others, 8)}." if others else ""
    clean = next(iter(scores.values()))
    absent = [
        class_name(label, names) for label in range(len(clean)) if np.isnan(clean[label]) and label != task.ignored
    ]
    gone = f" In no pixel of these images and answers: {listed(absent, 30)}." if absent else ""
    return f"{text}{ignored}{gone}{rest}"


def names_of(subject: Subject) -> Any:
    """Return the names of the classes as the run's examples have them."""
    return (subject.measured.run.examples or {}).get("class_names")


def _chart(scores: dict[Subject, Array], word: str, title: str, name: str) -> ByRow:
    first = next(iter(scores))
    names, width = names_of(first), max(map(len, scores.values()))
    padded = {
        one.label: np.pad(found, (0, width - len(found)), constant_values=np.nan) for one, found in scores.items()
    }
    kept = [label for label in range(width) if any(not np.isnan(found[label]) for found in padded.values())]
    rows = tuple(class_name(label, names) for label in kept)
    series = tuple(Series(label, tuple(_known(found[place]) for place in kept)) for label, found in padded.items())
    pixels = first.record["data"].get("pixel_counts") or {}
    counted = sum(count for label, count in pixels.items() if label != str(first.task.ignored))
    shares = [pixels.get(str(label), 0) / counted if counted else None for label in kept]
    columns = (
        Column("class", numeric=False),
        Column("pixels %", note="so labelled"),
        *(Column(one.label, shade="accuracy") for one in series),
    )
    body = [
        (Cell(row), Cell(percent(shares[place], "")), *(accuracy_cell(one.values[place]) for one in series))
        for place, row in enumerate(rows)
    ]
    mean = (
        Cell(f"mean of {plural(len(kept), 'class', 'classes')}"),
        Cell(""),
        *(accuracy_cell(_mean_of(one)) for one in series),
    )
    table = Table(f"{name}-table", f"{title}, %", columns, (*body, mean), folded=True, footer=1)
    counts = {one.label: one.images for one in scores}
    over = listed([f"{label} over {plural(count, 'image')}" for label, count in counts.items()])
    note = f"Not over the same images: {over}." if len(set(counts.values())) > 1 else ""
    return ByRow(name, title, f"{word}, %", rows, series, table, note)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean_of(series: Series) -> float | None:
    known = [value for value in series.values if value is not None]
    return sum(known) / len(known) if known else None
