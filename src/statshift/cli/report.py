"""`statshift report`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from statshift.cli.output import print_out
from statshift.errors import unknown
from statshift.report import as_csv, as_markdown, build, tables, write_report, write_text

PAGE = Path("report.html")
TABLES = {"csv": as_csv, "markdown": as_markdown}


def report_command(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders that hold some; the first is the reference.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help=f"File to write; by default {PAGE}, and of csv and markdown standard output."),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="html, one page that needs no other file; or the tables as csv or markdown.")
    ] = "html",
    title: Annotated[str | None, typer.Option(help="Of the page; by default the models' names.")] = None,
) -> None:
    """Make a page of one or several runs: a summary, what changed and how sure that is, images, what to do next.

    Runs over the same images are compared image by image, each with the first; folders of trainings may be given too.

    Example: statshift report runs/resnet50 runs/hardened --out report.html
    """
    if format_ not in ("html", *TABLES):
        raise unknown("format", format_, ["html", *TABLES])
    if format_ == "html":
        print_out(f"Written to {write_report(runs, out or PAGE, title=title)}: open it in a browser.")
        return
    text = TABLES[format_](tables(build(runs, title=title)))
    if out is None:
        sys.stdout.write(text)
    else:
        print_out(f"Written to {write_text(text, out)}.")
