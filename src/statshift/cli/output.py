"""What the command line prints: one-line messages, results and JSON documents, each where it belongs."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import fields, is_dataclass
from functools import cache
from io import TextIOWrapper
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

READER_GONE = 1  # as typer ends where it meets a closed pipe


@cache
def console() -> "Console":
    """Return what writes on standard error."""
    from rich.console import Console

    return Console(
        stderr=True,
        force_terminal=None if sys.stderr and sys.stderr.isatty() else False,  # a log is none, as FORCE_COLOR may say
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


def say(message: str) -> None:
    """Print one line beside the progress bar, on standard error."""
    console().print(message)


def print_any_name() -> None:
    """Let standard output and error show in escapes what they cannot encode, where they would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


_documents: list[TextIO] = []
"""Where `print_json` writes, if not on `sys.stdout`."""


@contextmanager
def only_documents() -> Iterator[None]:
    """Keep standard output for `print_json`: what else prints there, such as a user's model, goes to standard error.

    A process's own standard output stays so, for what is printed as it ends.
    """
    theirs = sys.stdout
    with suppress(OSError, ValueError):  # none of its own
        if theirs.fileno() == 1 and isinstance(theirs, TextIOWrapper):
            theirs.flush()
            own = os.fdopen(os.dup(1), "w", encoding=theirs.encoding, errors=theirs.errors)
            os.dup2(2, 1)
            theirs = own
    _documents.append(theirs)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _documents.remove(theirs)
        if theirs is not sys.stdout:
            theirs.close()


def deliver() -> int:
    """Hand on what was printed; return 0, or the exit code where standard output does not take it.

    A reader that has gone, as `head` does, is no error to tell of.
    """
    stream = next(iter(_documents), sys.stdout)
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # the interpreter flushes again as it ends
        if isinstance(error, BrokenPipeError):
            return READER_GONE
        say(f"statshift: error: Cannot write to standard output: {error.strerror}.")
        return 2
    return 0


def show_warnings_in_one_line(worded: Callable[[str], str] = str) -> None:
    """Make `warnings.warn` print its message alone, once, and on the first of several processes only.

    Args:
        worded: returns a message in the command's own words.
    """

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        say(f"statshift: warning: {worded(str(message))}")

    warnings.showwarning = show
    warnings.filterwarnings("ignore", module=r"(?!statshift)" if os.environ.get("RANK", "0") == "0" else "")


def print_out(text: str) -> None:
    """Print a result on standard output."""
    sys.stdout.write(f"{text}\n")


def print_json(document: Any) -> None:
    """Print one JSON document on standard output: dataclasses as objects, paths as text, what is not finite as null."""
    stream = next(iter(_documents), sys.stdout)
    stream.write(f"{json.dumps(_plain(document), indent=2, allow_nan=False)}\n")


def _plain(value: Any) -> Any:
    """Return a value made of what JSON knows."""
    import numpy as np

    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not isfinite(value) else value
