"""`statshift compare`."""

from pathlib import Path
from typing import Annotated

import typer

from statshift._core.errors import InputError
from statshift.cli import options as o
from statshift.cli import typed as t
from statshift.cli.output import print_json, print_out
from statshift.cli.tables import comparison_text


def compare_command(
    first: Annotated[Path, typer.Argument(help="Run directory.", show_default=False)],
    second: Annotated[
        Path | None, typer.Argument(help="Run directory over the same images; by default the first.")
    ] = None,
    protocols: Annotated[
        str, typer.Option(help="Protocols of the first and of the second run, separated by a comma.")
    ] = "source,source",
    task: o.OwnTask = None,
    as_json: o.Json = False,
) -> None:
    """Compare two runs, or two protocols, condition by condition: paired intervals and McNemar's test, Holm-corrected.

    With --json: the conditions, each with its difference, interval and p-value.

    Example: statshift compare runs/r50 --protocols source,auto
    """
    names = t.parse_list(protocols)
    if len(names) != 2:
        raise InputError(f"Expected --protocols as two names with a comma, but got {protocols!r}.")
    if second is None and names[0] == names[1]:
        raise InputError(f"Expected a second run, or two protocols of {first}: --protocols source,auto.")
    from statshift.measuring.compare import compare
    from statshift.results import read_run

    runs = read_run(first), read_run(second or first)
    found = compare(*runs, protocols=(names[0], names[1]), table=runs[0].record.get("alexnet"), task=task)
    if as_json:
        print_json(found)
    else:
        print_out(comparison_text(found))
