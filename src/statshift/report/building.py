"""From paths of runs to a page, and from a page to a file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from warnings import warn

from statshift._core.errors import InputError, ReportWarning
from statshift._core.files import replacing
from statshift.report import (
    attacks,
    changes,
    classes,
    families,
    layers,
    pictures,
    records,
    severities,
    streams,
    trainings,
    worst,
)
from statshift.report.advice import advice
from statshift.report.best import best, headline
from statshift.report.cautions import warnings
from statshift.report.content import Page
from statshift.report.damage import DamagedError
from statshift.report.differences import Changes
from statshift.report.findings import lead, verdicts
from statshift.report.reading import Material, read
from statshift.report.subjects import Group, group, short_spec
from statshift.report.tables import as_csv, tables
from statshift.report.tidy import tidy
from statshift.report.words import listed
from statshift.results.stream_words import name_of_stream
from statshift.results.worded import reworded, spelt
from statshift.tasks.task import Task

TITLE, ALONG = "Accuracy under shift: ", "Accuracy along {}: "


@dataclass(frozen=True)
class Survey:
    """What a report is made from: what some paths hold, sorted into groups, and the comparisons in them."""

    material: Material
    groups: list[Group]
    changes: Changes


def build_report(
    runs: str | Path | Iterable[str | Path], *, title: str | None = None, task: str | Task | None = None
) -> Page:
    """Return the page of one or several runs; the same runs make the same page.

    Args:
        runs: directories of runs, folders that hold such, or folders of trainings. The first run as it came is what
            the others are compared with, where they are over the same images.
        title: title of the page; by default the models' names.
        task: the task, or py:FILE:NAME, of runs of a task of your own.

    What is damaged below a folder that holds more, and copies of a run, are left out with a warning.

    Raises:
        InputError: a path that holds neither, no finished condition at all, or damaged files.
    """
    return _build(runs, title, task)[0]


def tidy_csv(runs: str | Path | Iterable[str | Path], *, task: str | Task | None = None) -> str:
    """Return one table of one or several runs as CSV, as `tidy` makes it.

    Args:
        runs: as in `build_report`.
        task: as in `build_report`.

    Raises:
        InputError: as in `build_report`.
    """
    survey = _survey(_read(runs, task))
    _warn(survey.material)
    return tidy(survey.groups, survey.changes)


def write_tables(
    runs: str | Path | Iterable[str | Path], folder: str | Path, *, task: str | Task | None = None
) -> Path:
    """Write all tables of one or several runs into a folder, which is made if need be, and return its path.

    Args:
        runs: as in `build_report`.
        folder: for `conditions.csv`, as `tidy_csv` returns it, and each of the page's tables as NAME.csv.
        task: as in `build_report`.

    Raises:
        InputError: as in `build_report`, or a file that cannot be written.
    """
    path = Path(folder)
    page, survey = _build(runs, None, task)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to {path}: {error.strerror}. Choose another `out`.") from error
    write_text(tidy(survey.groups, survey.changes), path / "conditions.csv")
    for table in tables(page):
        write_text(as_csv(table), path / f"{table.name}.csv")
    return path


def _build(runs: str | Path | Iterable[str | Path], title: str | None, task: str | Task | None) -> tuple[Page, Survey]:
    material = _read(runs, task)
    while True:  # what lies beside the rows is found damaged only where it is shown
        try:
            survey = _survey(material)
            page = _page(survey, title)
        except DamagedError as error:
            material = material.without(error)
        else:
            _warn(material)
            return page, survey


def _read(runs: str | Path | Iterable[str | Path], task: str | Task | None) -> Material:
    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    if not paths:
        raise InputError("Expected at least one run to report, but got none.")
    return read(paths, task)


def _survey(material: Material) -> Survey:
    groups = group(material.measured)
    return Survey(material, groups, Changes(groups))


def _warn(material: Material) -> None:
    for note in material.notes:
        warn(note, ReportWarning, stacklevel=2)


def _page(survey: Survey, title: str | None) -> Page:
    measured, groups, compared = survey.material.measured, survey.groups, survey.changes
    models = list(dict.fromkeys(short_spec(one.record["model"]) for found in groups for one in found.sources))
    sections = (
        streams.section(groups),
        families.section(groups, compared),
        severities.section(groups, compared),
        classes.section(groups, compared),
        changes.section(groups, compared),
        layers.section(groups),
        attacks.section(groups),
        pictures.section(groups, compared),
        worst.section(groups),
        trainings.section(survey.material.trainings, groups),
        records.section(measured, groups),
    )
    taken, tasks = best(groups[0], compared), [one.task for found in groups for one in found.subjects]
    words = dict.fromkeys(task.headline for task in tasks)
    page = Page(
        title=title or _title(groups) + listed(models, 3),
        lead=lead(groups),
        verdicts=verdicts(groups, compared, taken.after if taken else None),
        advice=advice(groups, compared),
        warnings=(*survey.material.notes, *warnings(measured, groups)),
        sections=tuple(section for section in sections if section),
        made_by=f"statshift {version('statshift')}",
        headline=headline(groups[0], compared),
    )
    return reworded(page, " or ".join(spelt(word) for word in words))


def _title(groups: Sequence[Group]) -> str:
    """Return what the page is about, the models aside."""
    streams = [one.stream for found in groups for one in found.sources]
    names = dict.fromkeys(name_of_stream(one) for one in streams if one)
    if not names or None in streams:
        return TITLE
    return ALONG.format(next(iter(names)) if len(names) == 1 else f"{len(names)} streams")


def write_report(
    runs: str | Path | Iterable[str | Path],
    out: str | Path = "report.html",
    *,
    title: str | None = None,
    task: str | Task | None = None,
) -> Path:
    """Write the page of one or several runs as one HTML file that needs no other, and return its path.

    Args:
        runs: as in `build_report`.
        out: file to write; it is there whole or not at all.
        title: as in `build_report`.
        task: as in `build_report`.

    Raises:
        InputError: as in `build_report`, or a file that cannot be written.
    """
    from statshift.report.page import render

    return write_text(render(build_report(runs, title=title, task=task)), out)


def is_folder(out: str | Path) -> bool:
    """Return whether a path is an existing folder's, or one without an ending that no file has yet."""
    return Path(out).is_dir() or (not Path(out).suffix and not Path(out).exists())


def write_text(text: str, out: str | Path) -> Path:
    """Write a file of text, whole or not at all, and return its path.

    Raises:
        InputError: it cannot be written.
    """
    path = Path(out)
    if path.is_dir():
        raise InputError(f"Cannot write to {path}: it is a folder. Name a file as `out`.")
    try:
        with replacing(path) as partial:
            partial.write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise InputError(f"Cannot write to {path}: {error.strerror}. Choose another `out`.") from error
    return path
