"""`statshift report`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from statshift._core.errors import unknown
from statshift.cli import options as o
from statshift.cli.output import print_out

PAGE = Path("report.html")
FORMATS = ("html", "csv", "markdown")


def report_command(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders that hold some; the first is the reference.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help=f"File to write; by default {PAGE}, and of csv and markdown standard output. Of csv a name without an "
            "ending is a folder, and each table a file of its own there.",
        ),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="html, one page that needs no other file; csv, one table with a row for each run, protocol and "
            "condition; or markdown, the page's tables.",
        ),
    ] = "html",
    task: o.OwnTask = None,
    title: Annotated[str | None, typer.Option(help="Of the page; by default the models' names.")] = None,
) -> None:
    """Make a page of one or several runs: a summary, what changed and how sure that is, images, what to do next.

    Runs over the same images are compared image by image, each with the first; folders of trainings may be given too.

    Example: statshift report runs/resnet50 runs/hardened --out report.html
    """
    if format_ not in FORMATS:
        raise unknown("format", format_, FORMATS)
    from statshift.report import (
        as_markdown,
        build_report,
        is_folder,
        tables,
        tidy_csv,
        write_report,
        write_tables,
        write_text,
    )

    if format_ == "html":
        page = write_report(runs, PAGE if out is None else out, title=title, task=task)
        print_out(f"Written to {page}: open it in a browser.")
        return
    if format_ == "csv" and out is not None and is_folder(out):
        print_out(f"Written to {write_tables(runs, out, task=task)}.")
        return
    text = (
        tidy_csv(runs, task=task)
        if format_ == "csv"
        else as_markdown(tables(build_report(runs, title=title, task=task)))
    )
    if out is None:
        sys.stdout.write(text)
    else:
        print_out(f"Written to {write_text(text, out)}.")
