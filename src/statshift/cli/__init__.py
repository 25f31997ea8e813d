"""The command line: `statshift VERB`."""

import os
import shlex
import signal
import sys
import threading
from collections import UserDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from statshift._core.errors import InputError
from statshift._core.memory import keep_freed_memory
from statshift._core.slurm import take_launch_variables
from statshift.cli.flags import in_flags
from statshift.cli.output import deliver, only_documents, print_any_name, say, show_warnings_in_one_line
from statshift.models.usercode import error_text

FAILED, INTERRUPTED = 1, 130
RESUMED = {"attack", "corrupt", "decoder", "demo", "extract", "harden", "make", "measure", "run", "train"}

STORY: dict[str, list[tuple[str, str, str]]] = {
    "Try": [("demo", "demo:demo_command", "See all of it on handwritten digits: minutes, on the CPU.")],
    "Measure": [("measure", "measure:measure_command", "Measure a model's accuracy, clean and under shifts.")],
    "Adapt": [
        ("diagnose", "diagnose:diagnose_command", "Tell from unlabelled images whether rectifying will help."),
        ("rectify", "rectify:rectify_command", "Re-estimate the norm statistics from them; write weights."),
    ],
    "Harden": [
        ("layers", "layers:layers_command", "List where a model can be cut, for harden --at."),
        ("harden", "harden:harden_command", "Fine-tune it against shifts, by AdvBN or its rivals."),
    ],
    "Show": [
        ("compare", "compare:compare_command", "Compare two runs image by image, with intervals."),
        ("report", "report:report_command", "Write one page of runs, to look at and to pass on."),
        ("visualise", "visualise:visualise_command", "Picture what an adversary of feature statistics does."),
    ],
    "Make": [
        ("train", "train:train_command", "Train a network from random weights."),
        ("attack", "attack:attack_command", "Write the adversarial images of a data set."),
        ("extract", "extract:extract_command", "Write a data set of the features a model has learned."),
        ("corrupt", "corrupt:corrupt_command", "Write corrupted images, or a contact sheet."),
        ("decoder", "decoder:decoder_command", "Train what makes images of a model's features."),
        ("make", "make:make_app", "Write images of worst-case statistics, or stylised."),
    ],
    "Papers": [
        ("recipes", "recipes:recipes_app", "List the papers' experiments, or copy one to edit."),
        ("run", "run:run_command", "Run one, and print its figures beside the published."),
    ],
    "Set up": [
        ("data", "data:data_app", "Get the photographs that the library may not ship."),
        ("doctor", "doctor:doctor_command", "Check versions, devices, data and extras."),
    ],
}
"""The verbs in the order in which one meets them, each with its module and function here, and its short help."""

EXAMPLE = "statshift measure --model timm:resnet50 --data folder:val --out run"


class Verbs(UserDict[str, Any]):
    """The commands by verb; a command's module is imported when the command is asked for."""

    def __getitem__(self, name: str) -> Any:
        if isinstance(self.data[name], str):
            self.data[name] = _command(name, self.data[name])
        return self.data[name]


def _command(name: str, path: str) -> Any:
    """Return the command that "MODULE:FUNCTION" of this room is."""
    module, _, function = path.partition(":")
    verb = getattr(import_module(f"statshift.cli.{module}"), function)
    group = typer.Typer(add_completion=False, rich_markup_mode=None)
    group.callback()(_root)  # so that it is a group, though of one command
    if isinstance(verb, typer.Typer):
        assert verb.registered_callback is not None
        group.add_typer(verb, name=name, help=getdoc(verb.registered_callback.callback))
    else:
        group.command(name)(verb)
    return cast(Any, typer.main.get_command(group)).commands[name]


class Story(TyperGroup):
    """The help of `statshift` alone: the story on one screen of 24 lines, 80 columns wide."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = Verbs({name: path for verbs in STORY.values() for name, path, _ in verbs})

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs."""
        return list(self.commands)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write it."""
        lines = [
            "Usage: statshift VERB [OPTIONS]",
            "",
        ]
        for stage, verbs in STORY.items():
            for number, (name, _, text) in enumerate(verbs):
                lines.append(f"  {'' if number else stage:9}{name:10}{text}")
        lines += [f"Example: {EXAMPLE}", "All of a verb: statshift VERB --help. The version: statshift --version."]
        formatter.write("\n".join([*lines, ""]))


app = typer.Typer(
    cls=Story,
    help="Measure how a vision model fares under distribution shift, adapt it, and harden it.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


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
    take_launch_variables()
    show_warnings_in_one_line(partial(in_flags, _asked(words)))
    keep_freed_memory()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler prints lines of its own below it
    with _ended_as_interrupted(words), only_documents() if "--json" in words else nullcontext():
        code = _run(words)
        code = deliver() or code
    sys.exit(code)


def _asked(words: list[str]) -> Callable[[], Any]:
    """Return what finds the command that the words name, in a group too; None where they name none."""

    def find() -> Any:
        command = typer.main.get_group(app).get_command(None, words[0])  # type: ignore[arg-type]
        return getattr(command, "commands", {}).get(words[1] if len(words) > 1 else "", command)

    return find


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
    except InputError as error:
        if error_text(error) is not None:
            raise
        of_a_file = getattr(error, "where", "")  # whose parts are named as they stand there
        say(f"statshift: error: {error.lines if of_a_file else in_flags(_asked(words), error.lines)}")
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
def _ended_as_interrupted(words: list[str]) -> Iterator[None]:
    """Let SIGTERM, which a cluster's scheduler sends, end the command as Ctrl-C does, at any time.

    While torch is imported the process ends at once: nothing is begun yet, and torch's C++ aborts on an exception.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def interrupt(number: int, frame: Any) -> None:
        if os.getpid() == own and _half_imported("torch"):
            os.write(2, f"statshift: interrupted{_resumed_by(words)}\n".encode(errors="backslashreplace"))
            os._exit(INTERRUPTED)
        if os.getpid() == own or number == signal.SIGINT:
            raise KeyboardInterrupt
        os._exit(128 + number)  # a process that decodes images, forked from this one

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as behind nohup
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _half_imported(name: str) -> bool:
    return getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False)
