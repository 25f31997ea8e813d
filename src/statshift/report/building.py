"""From paths of runs to a page, and from a page to a file."""

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from statshift.errors import InputError
from statshift.files import replacing
from statshift.report import attacks, changes, layers, pictures, records, severities, trainings
from statshift.report.advice import advice
from statshift.report.best import best, headline
from statshift.report.cautions import warnings
from statshift.report.content import Page
from statshift.report.differences import Changes
from statshift.report.findings import lead, verdicts
from statshift.report.reading import read
from statshift.report.subjects import group, short_spec
from statshift.report.words import listed

TITLE = "Accuracy under shift: "


def build(runs: str | Path | Iterable[str | Path], *, title: str | None = None) -> Page:
    """Return the page of one or several runs; the same runs make the same page.

    Args:
        runs: directories of runs, folders that hold such, or folders of trainings. The first run as it came is what
            the others are compared with, where they are over the same images.
        title: of the page; by default the models' names.

    Raises:
        InputError: a path that holds neither, no finished condition at all, or damaged files.
    """
    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    if not paths:
        raise InputError("Expected at least one run to report, but got none.")
    measured, trained = read(paths)
    groups = group(measured)
    compared = Changes(groups)
    models = list(dict.fromkeys(short_spec(one.record["model"]) for found in groups for one in found.sources))
    sections = (
        severities.section(groups, compared),
        changes.section(groups, compared),
        layers.section(groups),
        attacks.section(groups),
        pictures.section(groups, compared),
        trainings.section(trained, groups),
        records.section(measured, groups),
    )
    taken = best(groups[0], compared)
    return Page(
        title=title or TITLE + listed(models, 3),
        lead=lead(groups),
        verdicts=verdicts(groups, compared, taken.after if taken else None),
        advice=advice(groups, compared),
        warnings=warnings(measured, groups),
        sections=tuple(section for section in sections if section),
        made_by=f"statshift {version('statshift')}",
        headline=headline(groups[0], compared),
    )


def write_report(
    runs: str | Path | Iterable[str | Path], out: str | Path = "report.html", *, title: str | None = None
) -> Path:
    """Write the page of one or several runs as one HTML file that needs no other, and return its path.

    Args:
        runs: as in `build`.
        out: file to write; it is there whole or not at all.
        title: as in `build`.

    Raises:
        InputError: as in `build`, or a file that cannot be written.
    """
    from statshift.report.page import render

    return write_text(render(build(runs, title=title)), out)


def write_text(text: str, out: str | Path) -> Path:
    """Write a file of text, whole or not at all, and return its path.

    Raises:
        InputError: it cannot be written.
    """
    path = Path(out)
    if path.is_dir():
        raise InputError(f"Cannot write to {path}: it is a folder. Name a file with --out.")
    try:
        with replacing(path) as partial:
            partial.write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise InputError(f"Cannot write to {path}: {error.strerror}. Choose another file with --out.") from error
    return path
