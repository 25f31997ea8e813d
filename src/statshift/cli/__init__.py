"""The command line: `statshift VERB`."""

import sys
from typing import Annotated

import typer

from statshift.cli.attack import attack_command
from statshift.cli.compare import compare_command
from statshift.cli.corrupt import corrupt_command
from statshift.cli.data import data_app
from statshift.cli.demo import demo_command
from statshift.cli.diagnose import diagnose_command
from statshift.cli.extract import extract_command
from statshift.cli.harden import harden_command
from statshift.cli.layers import layers_command
from statshift.cli.measure import measure_command
from statshift.cli.output import say, show_warnings_in_one_line
from statshift.cli.recipes import recipes_command
from statshift.cli.rectify import rectify_command
from statshift.cli.train import train_command
from statshift.errors import InputError
from statshift.memory import keep_freed_memory

_INTERRUPTED = 130
_RESUMED = {"attack", "corrupt", "demo", "extract", "harden", "measure", "recipes", "train"}

app = typer.Typer(
    help="Measure how a vision model fares under distribution shift, adapt it, and harden it.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("demo", short_help="Train a small network on digits and measure it.")(demo_command)
app.command("measure", short_help="Measure a model under the common corruptions.")(measure_command)
app.command("attack", short_help="Write the adversarial images of a data set.")(attack_command)
app.command("compare", short_help="Compare two runs image by image.")(compare_command)
app.command("rectify", short_help="Re-estimate norm statistics from unlabelled images, and write the weights.")(
    rectify_command
)
app.command("diagnose", short_help="Tell from unlabelled images whether rectifying will help.")(diagnose_command)
app.command("layers", short_help="List where a model can be cut, for harden.")(layers_command)
app.command("harden", short_help="Fine-tune a model against shifts, with AdvBN or what it is compared to.")(
    harden_command
)
app.command("train", short_help="Train a network from random weights: plainly, adversarially, for LIGS.")(train_command)
app.command("extract", short_help="Write a data set of the features that a model has learned.")(extract_command)
app.command("recipes", short_help="List the papers' experiments, or run one.")(recipes_command)
app.command("corrupt", short_help="Write corrupted images, or a contact sheet.")(corrupt_command)
app.add_typer(data_app, name="data", short_help="Get what the library may not ship.")


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
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0
        if code == _INTERRUPTED:  # newer versions of typer return it, older ones let KeyboardInterrupt through
            raise KeyboardInterrupt
        sys.exit(code)
    except InputError as error:
        say(f"statshift: error: {' '.join(str(error).split())}")
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        kept = (
            "; what is finished is kept, and the same command goes on from there" if _RESUMED & {*sys.argv[1:2]} else ""
        )
        say(f"statshift: interrupted{kept}.")
        sys.exit(_INTERRUPTED)
    except typer.Exit as exit_request:
        sys.exit(exit_request.exit_code)
    except OSError as error:  # a name too long, the file or pipe that takes the output
        say(f"statshift: error: {error}")
        sys.exit(2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer's parser raises, in whatever module it keeps it
            raise
        say(f"statshift: error: {' '.join(error.format_message().split())} (see --help)")
        sys.exit(2)
