"""The command line: `statshift VERB`."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from statshift._core.errors import InputError
from statshift._core.memory import keep_freed_memory
from statshift.cli.attack import attack_command
from statshift.cli.compare import compare_command
from statshift.cli.corrupt import corrupt_command
from statshift.cli.data import data_app
from statshift.cli.demo import demo_command
from statshift.cli.diagnose import diagnose_command
from statshift.cli.doctor import doctor_command
from statshift.cli.extract import extract_command
from statshift.cli.flags import in_flags
from statshift.cli.harden import harden_command
from statshift.cli.layers import layers_command
from statshift.cli.measure import measure_command
from statshift.cli.output import deliver, only_documents, print_any_name, say, show_warnings_in_one_line
from statshift.cli.recipes import recipes_app
from statshift.cli.rectify import rectify_command
from statshift.cli.report import report_command
from statshift.cli.run import run_command
from statshift.cli.train import train_command
from statshift.models.usercode import error_text
from statshift.recipes import RecipeError

FAILED, INTERRUPTED = 1, 130
RESUMED = {"attack", "corrupt", "demo", "extract", "harden", "measure", "run", "train"}

Verb = Callable[..., None] | typer.Typer
STORY: dict[str, list[tuple[str, Verb, str]]] = {
    "Try": [("demo", demo_command, "See all of it on handwritten digits: minutes, on the CPU.")],
    "Measure": [("measure", measure_command, "Measure a model's accuracy, clean and under shifts.")],
    "Adapt": [
        ("diagnose", diagnose_command, "Tell from unlabelled images whether rectifying will help."),
        ("rectify", rectify_command, "Re-estimate the norm statistics from them; write weights."),
    ],
    "Harden": [
        ("layers", layers_command, "List where a model can be cut, for harden --at."),
        ("harden", harden_command, "Fine-tune it against shifts, by AdvBN or its rivals."),
    ],
    "Show": [
        ("compare", compare_command, "Compare two runs image by image, with intervals."),
        ("report", report_command, "Write one page of runs, to look at and to pass on."),
    ],
    "Make": [
        ("train", train_command, "Train a network from random weights."),
        ("attack", attack_command, "Write the adversarial images of a data set."),
        ("extract", extract_command, "Write a data set of the features a model has learned."),
        ("corrupt", corrupt_command, "Write corrupted images, or a contact sheet."),
    ],
    "Papers": [
        ("recipes", recipes_app, "List the papers' experiments, or copy one to edit."),
        ("run", run_command, "Run one, and print its figures beside the published."),
    ],
    "Set up": [
        ("data", data_app, "Get the photographs that the library may not ship."),
        ("doctor", doctor_command, "Check versions, devices, data and extras."),
    ],
}
"""The verbs in the order in which one meets them, each with its short help."""

EXAMPLE = "statshift measure --model timm:resnet50 --data folder:val --out run"


class Story(TyperGroup):
    """The help of `statshift` alone: the story on one screen of 24 lines, 80 columns wide."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write it."""
        lines = [
            "Usage: statshift VERB [OPTIONS]",
            "",
            "Measure how a vision model fares under shift, adapt it, harden it.",
            "",
        ]
        for stage, verbs in STORY.items():
            for number, (name, _, text) in enumerate(verbs):
                lines.append(f"  {'' if number else stage:9}{name:10}{text}")
        lines += ["", f"Example: {EXAMPLE}", "All of a verb: statshift VERB --help. The version: statshift --version."]
        formatter.write("\n".join([*lines, ""]))


app = typer.Typer(
    cls=Story,
    help="Measure how a vision model fares under distribution shift, adapt it, and harden it.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for _name, _verb, _text in (verb for verbs in STORY.values() for verb in verbs):
    if isinstance(_verb, typer.Typer):
        assert _verb.registered_callback is not None
        app.add_typer(_verb, name=_name, short_help=_text, help=getdoc(_verb.registered_callback.callback))
    else:
        app.command(_name, short_help=_text)(_verb)


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
    """Run the command line; exit codes: 0 done, 1 failed or not read to the end, 2 bad input, 130 interrupted."""
    words = sys.argv[1:] or ["--help"]
    print_any_name()
    show_warnings_in_one_line(partial(in_flags, _command(words)))
    keep_freed_memory()
    with _ended_as_interrupted(), only_documents() if "--json" in words else nullcontext():
        code = _run(words)
        code = deliver() or code
    sys.exit(code)


def _command(words: list[str]) -> Callable[[], Any]:
    """Return what finds the command that the words name; None where they name none."""
    return lambda: typer.main.get_group(app).get_command(None, words[0])  # type: ignore[arg-type]


def _run(words: list[str]) -> int:
    """Run one command and return its exit code; what went wrong is told, in one line but for a user's own code."""
    try:
        return _call(words)
    except (Exception, SystemExit) as error:
        if (told := error_text(error)) is None:
            raise
        say(f"statshift: {told}")
        return FAILED


def _call(words: list[str]) -> int:
    try:
        code = app(words, standalone_mode=False) or 0
        if code == INTERRUPTED:  # newer versions of typer return it, older ones let KeyboardInterrupt through
            raise KeyboardInterrupt
        return code
    except RecipeError as error:
        say(f"statshift: error: {error.lines}")
    except InputError as error:
        if error_text(error) is not None:
            raise
        say(f"statshift: error: {in_flags(_command(words), ' '.join(str(error).split()))}")
    except (KeyboardInterrupt, typer.Abort):
        say(f"statshift: interrupted{_resumed_by(words)}")
        return INTERRUPTED
    except typer.Exit as exit_request:
        return exit_request.exit_code
    except OSError as error:  # a name too long, the file or pipe that takes the output
        if error_text(error) is not None:
            raise
        if code := deliver():
            return code
        say(f"statshift: error: {error}")
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer's parser raises, in whatever module it keeps it
            raise
        say(f"statshift: error: {' '.join(error.format_message().split())} (see --help)")
    return 2


def _resumed_by(words: list[str]) -> str:
    """Return how to go on after an interruption: the command itself, as a shell takes it, where it keeps its work."""
    if words[0] not in RESUMED:
        return "."
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "; what is finished is kept, and the same launch goes on from there."
    name = ["python", "-m", "statshift"] if Path(sys.argv[0]).name == "__main__.py" else ["statshift"]
    return f"; what is finished is kept. To go on: {shlex.join([*name, *words])}"


@contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, which a cluster's scheduler sends, end the command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def interrupt(number: int, frame: Any) -> None:
        if os.getpid() == own:
            raise KeyboardInterrupt
        os._exit(128 + number)  # a process that decodes images, forked from this one

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
