"""The command line: `statshift VERB`."""

import sys
from typing import Annotated, Any

import typer

from statshift.cli.compare import compare_command
from statshift.cli.corrupt import corrupt_command
from statshift.cli.data import data_app
from statshift.cli.demo import demo_command
from statshift.cli.measure import measure_command
from statshift.cli.output import say, show_warnings_in_one_line
from statshift.errors import InputError
from statshift.memory import keep_freed_memory

# The error classes of typer's parser, wherever this version of typer keeps them.
_CommandLineError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    help="Measure how a vision model fares under distribution shift.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("demo")(demo_command)
app.command("measure")(measure_command)
app.command("compare")(compare_command)
app.command("corrupt")(corrupt_command)
app.add_typer(data_app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("statshift"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Measure how a vision model fares under distribution shift."""


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    show_warnings_in_one_line()
    keep_freed_memory()
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0)
    except InputError as error:
        say(f"statshift: error: {' '.join(str(error).split())}")
        sys.exit(2)
    except _CommandLineError as error:
        if error.format_message():
            say(f"statshift: error: {' '.join(error.format_message().split())} (see --help)")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        say("statshift: interrupted; what was finished is kept, and the same command goes on from there.")
        sys.exit(130)
