"""What the command line shows: tables in plain text, progress, one-line messages."""

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

from statshift._core.tables import table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from statshift.hardening.training import Step
    from statshift.measuring.compare import Comparison
    from statshift.measuring.run import Progress as Measured
    from statshift.tasks.figures import Difference

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


@contextmanager
def progress_bar() -> Iterator["Progress"]:
    """Show a bar with the time left on standard error; where that is no terminal, a line a minute."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from statshift.cli.progress import Lines

    with Lines(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console(),
        disable=not console().is_terminal,
    ) as bar:
        yield bar


class MeasurementReport:
    """Follow a measurement: how many passes, how long the first took, a bar for the rest."""

    def __init__(self, bar: "Progress") -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, unit="images")

    @property
    def called(self) -> bool:
        """Whether there was anything to measure."""
        return self._bar.tasks[self._task].total is not None

    def __call__(self, at: "Measured") -> None:
        """Move the bar; called before the first batch of a pass and after each."""
        task = self._bar.tasks[self._task]
        total = at.passes * at.images_per_pass
        if task.total is None:
            before = f"; {at.finished_before} finished before" if at.finished_before else ""
            say(f"{at.passes} {'pass' if at.passes == 1 else 'passes'} over {at.images_per_pass:,} images{before}.")
        done = at.number * at.images_per_pass + at.images
        at_work = str(at.condition) if at.protocol == "source" else f"{at.condition}, {at.protocol}"
        self._bar.update(self._task, description=at_work, completed=done, total=total)
        if at.number == 0 and at.images == at.images_per_pass and at.passes > 1:
            seconds = task.elapsed or 0.0
            say(f"The first pass took {seconds:.1f} s; about {duration(seconds * (at.passes - 1))} to go.")


class TrainingReport:
    """Follow a training: epoch, steps, and the mean losses of both branches in this epoch so far."""

    def __init__(self, bar: "Progress") -> None:
        self._bar = bar
        self._task = bar.add_task("training", total=None, unit="steps")
        self._epoch = 0

    @property
    def called(self) -> bool:
        """Whether there was anything to train."""
        return self._epoch > 0

    def __call__(self, at: "Step") -> None:
        """Move the bar; called after each step."""
        from statshift._core.processes import join

        losses = ", ".join(f"{name} {value:.3f}" for name, value in at.losses.items())
        first = join()[0] == 0
        if self._epoch == 0 and first:
            before = f", of which {at.step - 1} were taken before" if at.step > 1 else ""
            say(f"{at.epochs} {'epoch' if at.epochs == 1 else 'epochs'}, {at.steps:,} steps{before}.")
        if first and not console().is_terminal:  # where there is no bar
            if 0 < self._epoch < at.epoch:
                say(f"Epoch {self._epoch} of {at.epochs} is done.")
            if at.step == at.steps:
                say(f"Epoch {at.epochs} of {at.epochs} is done.")
        self._epoch = at.epoch
        description = f"epoch {at.epoch}/{at.epochs}, loss {losses}" if losses else f"epoch {at.epoch}/{at.epochs}"
        self._bar.update(self._task, description=description, completed=at.step, total=at.steps)


class MakingReport:
    """Follow the making of images, with a bar that begins where an earlier sitting stopped; `verb` says of what."""

    def __init__(self, bar: "Progress", verb: str) -> None:
        self._bar, self._verb = bar, verb
        self._task: TaskID | None = None

    @property
    def called(self) -> bool:
        """Whether there was anything to make."""
        return self._task is not None

    def __call__(self, done: float, total: int) -> None:
        """Move the bar."""
        if self._task is None:
            before = f", of which {done:,.0f} were finished before" if done else ""
            say(f"{total:,} images to {self._verb}{before}.")
            self._task = self._bar.add_task(f"{self._verb}ing", total=total, completed=int(done), unit="images")
        self._bar.update(self._task, completed=done)


def duration(seconds: float) -> str:
    """Return a time for people: "45 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def summary_text(found: Mapping[str, Any]) -> str:
    """Return the tables of a run, one for each protocol, and one that puts the protocols beside the source."""
    from statshift.results.worded import as_accuracy, reworded

    headline = found.get("headline", "accuracy")
    summary = as_accuracy(found, headline)
    texts = [_protocol_text(name, protocol, summary) for name, protocol in summary["protocols"].items()]
    text = "\n\n".join([*texts, *_gains(summary["protocols"]), *_similarities(summary.get("ligs", {}))])
    return reworded(text, headline)


def layers_text(names: list[str], most: int = 6) -> str:
    """Return how many layers these are, and the first and last of them."""
    shown = names if len(names) <= most else [*names[: most // 2], "...", *names[-most // 2 :]]
    return f"{len(names)} norm {'layer' if len(names) == 1 else 'layers'}: {', '.join(shown)}."


def _gains(protocols: dict[str, Any]) -> Iterator[str]:
    """Yield a table of what each protocol gains on the source, over the same images."""
    adapted = {name: one for name, one in protocols.items() if "paired_source" in one}
    if not adapted:
        return
    over = list(dict.fromkeys(name for one in adapted.values() if (name := _mean_and_gain(one)[2])))
    head = ["protocol", "images", "draws", "clean: source", "adapted", "gain"]
    rows = [[*head, "mean: source", "adapted", "gain", "95 % interval", "least gain"]]
    for name, one in adapted.items():
        source = one["paired_source"]
        mean, gain, _ = _mean_and_gain(one)
        value = gain and next(iter(gain.values()))
        clean = one["clean_accuracy"], source["clean_accuracy"]
        rows.append(
            [
                *(name, str(one["images"]), str(one["draws"])),
                *(_percent(clean[1]), _percent(clean[0])),
                _percent(None if None in clean else clean[0] - clean[1], "+"),
                *(_percent(None if mean is None else mean - value), _percent(mean), _percent(value, "+")),
                *(_signed(*gain["interval"]) if gain else "-", _least(one, source)),
            ]
        )
    means = f"; means: {' or '.join(over)}" if over else ""
    yield f"Accuracy in % of each protocol and of the source over the same images{means}\n\n{table(rows)}"


def _mean_and_gain(protocol: dict[str, Any]) -> tuple[Any, Any, str]:
    """Return a mean accuracy, its gain on the source and what it is over: all 75 conditions, or those measured."""
    if protocol["mean_accuracy"] is not None:
        return protocol["mean_accuracy"], protocol["gain"], "mean of 15 x 5"
    some = protocol["measured_mean"]
    return (some["accuracy"], some["gain"], some["over"]) if some else (None, None, "")


def _similarities(ligs: dict[str, Any]) -> Iterator[str]:
    """Yield the table of the source's LIGS under each perturbation."""
    if ligs:
        rows = [["perturbation", "scale", "LIGS", "95 % interval", "images", "left out"]]
        for name, one in ligs.items():
            low, high = one["interval"]
            counts = [str(one["images"]), str(one["left_out"])]
            rows.append([name, f"{one['scale']:g}", f"{one['mean']:.3f}", f"{low:.3f} to {high:.3f}", *counts])
        yield f"Local Input Gradient Similarity (LIGS) of the source on the clean images\n\n{table(rows)}"


def _least(protocol: dict[str, Any], source: dict[str, Any]) -> str:
    """Return what a protocol gains on the source in the condition where it gains least, and which that is."""
    gains = {
        f"{shift} {severity}" if len(found["by_severity"]) > 1 else shift: accuracy - before
        for shift, found in protocol["per_shift"].items()
        for severity, (accuracy, before) in enumerate(
            zip(found["by_severity"], source["per_shift"][shift]["by_severity"], strict=True), start=1
        )
        if accuracy is not None and before is not None
    }
    if protocol["clean_accuracy"] is not None:
        gains["clean"] = protocol["clean_accuracy"] - source["clean_accuracy"]
    least = min(gains, key=lambda name: gains[name])
    return f"{100 * gains[least]:+.1f} {least}"


def _protocol_text(name: str, protocol: dict[str, Any], summary: dict[str, Any]) -> str:
    images, draws = protocol.get("images", summary["images"]), protocol.get("draws", 1)
    title = f"Accuracy in % over {images:,} images, protocol {name}{f', {draws} draws' if draws > 1 else ''}"
    with_ce = any(shift["ce"] is not None for shift in protocol["per_shift"].values())
    head = ["shift", "1", "2", "3", "4", "5", "mean", *(["CE"] if with_ce else [])]
    rows = [head]
    for shift, found in protocol["per_shift"].items():
        levels = found["by_severity"]
        cells = [_percent(level) for level in levels] if len(levels) == 5 else [""] * 5
        rows.append([shift, *cells, _percent(found["accuracy"]), *([_percent(found["ce"])] if with_ce else [])])
    lines = [title]
    if protocol["clean_accuracy"] is not None:
        lines.append(f"clean {_with_interval(protocol, 'clean_accuracy', 'clean_interval')}")
    if len(rows) > 1:
        lines += ["", table(rows), ""]
    return "\n".join([*lines, *_means(protocol, summary)])


def _means(protocol: dict[str, Any], summary: dict[str, Any]) -> Iterator[str]:
    if protocol["mean_accuracy"] is None:
        some, over = protocol["measured_mean"], protocol["mean_over"]
        if some:
            yield f"{some['over']}  {_with_interval(some, 'accuracy', 'interval')}"
            yield (
                f"No mean accuracy or mCE: they need all {over['of']} conditions; {over['conditions']} "
                f"{'was' if over['conditions'] == 1 else 'were'} measured."
            )
        return
    yield f"mean accuracy  {_with_interval(protocol, 'mean_accuracy', 'mean_interval')}  over the 15 x 5"
    if protocol.get("mean_accuracy_deviation") is not None:
        yield f"               deviation between draws {_percent(protocol['mean_accuracy_deviation'])} %"
    yield f"mean error     {_percent(protocol['mean_error'])} %"
    if protocol["mce"] is not None:
        relative = protocol["relative_mce"]
        yield (
            f"mCE            {_with_interval(protocol, 'mce', 'mce_interval')}  (100 = {_reference(summary)}; this is "
            "not the mean error)"
        )
        if relative is not None:
            yield f"relative mCE   {_percent(relative)} %"


def _reference(summary: dict[str, Any]) -> str:
    kind, _, name = summary["relative_to"].partition(":")
    return f"AlexNet on {name}" if kind == "alexnet" else f"the baseline {summary['baseline']['spec']}"


def _percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def _with_interval(found: dict[str, Any], value: str, interval: str) -> str:
    low, high = found[interval]
    return f"{_percent(found[value])} % [{_percent(low)}, {_percent(high)}]"


def comparison_text(comparison: "Comparison") -> str:
    """Return the table of a comparison, second less first, and what it comes to."""
    rows = [["condition", "first", "second", "difference", "95 % interval", "only first", "only second", "p (Holm)"]]
    for one in comparison.conditions:
        condition = f"{one.shift} {one.severity}" if one.severity else one.shift
        rows.append(
            [
                condition,
                *_difference_cells(one.accuracy),
                str(one.only_first),
                str(one.only_second),
                f"{one.adjusted_p_value:.2g}" + ("*" if one.verdict else ""),
            ]
        )
    draws = max(one.draws for one in comparison.conditions)
    repeated = f", each with its mean over {draws} draws" if draws > 1 else ""
    lines = [
        f"Accuracy in % over the same {comparison.images:,} images{repeated}; differences are second less first",
        table(rows),
    ]
    means = {"mean accuracy over the 15 x 5": comparison.mean_accuracy, "mCE": comparison.mce}
    if comparison.measured_mean:
        means[comparison.measured_over] = comparison.measured_mean
    for name, figure in means.items():
        if figure is not None:
            first, second, difference, interval = _difference_cells(figure)
            lines.append(f"{name}: {first} -> {second}, difference {difference} {interval}")
    from statshift.results.worded import reworded

    return reworded("\n".join([*lines, _verdict(comparison)]), comparison.headline)


def _verdict(comparison: "Comparison") -> str:
    """Return in a sentence whether the second is better: in the mean, and in how many conditions."""
    counts = {
        verdict: sum(one.verdict == verdict for one in comparison.conditions) for verdict in ("better", "worse", "")
    }
    told = f"significantly better in {counts['better']}, worse in {counts['worse']}, undecided in {counts['']}"
    of = f"of {len(comparison.conditions)} {'condition' if len(comparison.conditions) == 1 else 'conditions'}"
    mean = comparison.mean_accuracy or comparison.measured_mean
    if mean is None:
        return f"Verdict: the second is {told} {of}."
    name = "better" if mean.low > 0 else "worse" if mean.high < 0 else "not significantly different"
    return f"Verdict: the second is {name} in the mean; by condition {told} {of}."


def _difference_cells(figure: "Difference") -> list[str]:
    return [
        _percent(figure.first),
        _percent(figure.second),
        f"{100 * figure.difference:+.1f}",
        _signed(figure.low, figure.high),
    ]


def _signed(low: float, high: float) -> str:
    return f"[{100 * low:+.1f}, {100 * high:+.1f}]"


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
