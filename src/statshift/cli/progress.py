"""What the command line shows of work that goes on: a bar on standard error, or where that is no terminal lines."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from statshift.cli.output import console, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from statshift.hardening.training import Step
    from statshift.measuring.progress import Progress as Measured


@contextmanager
def progress_bar() -> Iterator["Progress"]:
    """Show a bar with the time left on standard error; where that is no terminal, a line a minute."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from statshift.cli.lines import Lines

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
            say(f"The first pass took {seconds:.1f} s; about {duration(seconds * (at.passes - 1) / at.at_once)} to go.")


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
            epochs, steps = ("epoch", "epochs")[at.epochs > 1], ("step", "steps")[at.steps > 1]
            say(f"{at.epochs} {epochs}, {at.steps:,} {steps}{before}.")
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
            doing = f"{self._verb.removesuffix('e')}ing"
            self._task = self._bar.add_task(doing, total=total, completed=int(done), unit="images")
        self._bar.update(self._task, completed=done)


def duration(seconds: float) -> str:
    """Return a time for people: "45 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
