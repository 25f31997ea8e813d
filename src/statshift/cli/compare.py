"""`statshift compare`."""

from pathlib import Path
from typing import Annotated

import typer

from statshift.cli.output import comparison_text, print_out
from statshift.comparison import compare
from statshift.results import read_run


def compare_command(
    first: Annotated[Path, typer.Argument(help="Run directory.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Run directory over the same images.", show_default=False)],
) -> None:
    """Compare two runs condition by condition: paired intervals and McNemar's test, Holm-corrected.

    Example: statshift compare runs/r50 runs/r50-augmix
    """
    runs = read_run(first), read_run(second)
    print_out(comparison_text(compare(*runs, table=runs[0].record.get("alexnet"))))
