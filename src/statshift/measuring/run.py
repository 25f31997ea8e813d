"""The loop of a measurement: every condition that lacks rows, each row kept as soon as it is there."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from statshift._core import processes
from statshift._core.errors import ClassesWarning
from statshift.adapting.registry import SOURCE
from statshift.measuring.adapted import measure_condition
from statshift.measuring.examples import Examples, draw_examples
from statshift.measuring.plan import Plan
from statshift.measuring.probes import Looks, measure_ligs, unfinished_looks
from statshift.measuring.profile import Profile
from statshift.measuring.showing import data_frame, measurement_text
from statshift.measuring.streamed import Answering, Met, Turn, meet
from statshift.norms.layers import evaluating
from statshift.results import Row, Run, baseline_errors, open_run, row_key, summarise
from statshift.results.families import kinship_of
from statshift.results.typed import Summary
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import CLEAN

if TYPE_CHECKING:
    from statshift.measuring.planning import Forecast


@dataclass(frozen=True)
class Progress:
    """How far a measurement is.

    Attributes:
        condition: at work now.
        protocol: at work now.
        number: number of its pass, from 0.
        passes: to make in this sitting.
        finished_before: passes that an earlier sitting made.
        images: finished in this pass.
        images_per_pass: in each pass.
    """

    condition: Condition
    protocol: str
    number: int
    passes: int
    finished_before: int
    images: int
    images_per_pass: int


@dataclass(frozen=True)
class Measurement:
    """What was measured: `record`, `rows` and `summary` as in the run directory; `path` is that directory, if any.

    `profile` tells where the seconds of this sitting went. Of a dry run there is no more than the record and the
    `forecast`.
    """

    record: dict[str, Any]
    rows: list[Row]
    summary: Summary
    path: Path | None = None
    profile: Profile | None = field(default=None, compare=False)
    forecast: "Forecast | None" = None

    def __repr__(self) -> str:
        """Return a table of each protocol's accuracies in %; of a dry run the forecast."""
        if self.forecast:
            return repr(self.forecast)
        return measurement_text(self.record, self.summary)

    def to_pandas(self) -> Any:
        """Return the rows as a `pandas.DataFrame`; see `statshift.measuring.showing.data_frame`."""
        return data_frame(self.rows)


Tell = Callable[[Progress], None]
Todo = Mapping[Condition, Sequence[tuple[str, int]]]
"""The protocols and draws that a condition lacks rows of."""


def run_plan(plan: Plan, out: str | Path | None, progress: Tell | None) -> Measurement:
    """Measure what a plan says, and return it; with `out`, go on where an earlier sitting stopped."""
    first_process = processes.join()[0] == 0
    with open_run(out, plan.record) if out is not None and first_process else nullcontext() as run:
        rows = processes.from_first(list(run.rows) if run else [])
        asked = plan.images.base, plan.examples, plan.task
        pictured = Examples(run.path / "examples", *asked) if run and plan.examples else None
        shown = pictured.positions if pictured else draw_examples(*asked)
        todo, passes = _todo(plan, rows), _Passes(plan, rows, progress if first_process else None)
        looks: Looks = {}
        if run:
            looks = unfinished_looks(
                run.path, plan.evaluate.model, plan.images.base, plan.conditions, plan.shifts, plan.seed, pictured
            )
        _measure_all(plan, run, rows, todo, looks, passes, processes.from_first(shown))
        summary = _summary(plan, run, rows)
        if run:
            run.write_summary(summary)
    return Measurement(run.record if run else plan.record, rows, summary, None if out is None else Path(out))


def _todo(plan: Plan, rows: Sequence[Row]) -> Todo:
    """Return which protocols and draws each unfinished condition lacks."""
    done = {row_key(row) for row in rows}
    lacking = {
        condition: [(name, draw) for name, draw in plan.repeats() if (name, *astuple(condition), draw) not in done]
        for condition in plan.conditions
    }
    return {condition: missing for condition, missing in lacking.items() if missing}


def passes_to_make(plan: Plan, rows: Sequence[Row]) -> list[tuple[Condition, str, int]]:
    """Return the passes over images that a sitting makes where these rows are there: condition, protocol and draw."""
    todo = _todo(plan, rows)
    return [
        (condition, *one)
        for group in plan.groups()
        if (missing := [one for condition in group for one in todo.get(condition, ())])
        for one in dict.fromkeys([(SOURCE, 0), *missing])  # the source is there to pair with
        for condition in group
    ]


class _Passes:
    """The passes over the images, counted and told."""

    def __init__(self, plan: Plan, rows: Sequence[Row], progress: Tell | None) -> None:
        todo = _todo(plan, rows)
        self._plan = plan
        self._tell = progress
        self._passes = len(passes_to_make(plan, rows))
        self._before = len(plan.conditions) * len(plan.repeats()) - sum(map(len, todo.values()))
        self._number = -1

    def begin(self, condition: Condition, name: str) -> Callable[[int], None]:
        """Count a pass, and return what is told how many of its images are finished."""
        self._number += 1
        images = len(self._plan.images.sets.get(condition, self._plan.images.base))
        start = Progress(condition, name, self._number, self._passes, self._before, 0, images)

        def tell(finished: int) -> None:
            if self._tell:
                self._tell(replace(start, images=finished))

        tell(0)
        return tell

    def along(self, met: Sequence[Met], name: str) -> Callable[[int], None]:
        """Count as many passes as a passage comes to conditions, and return what is told of their images."""
        first, ends = self._number + 1, np.cumsum([len(one.data) for one in met])
        self._number += len(met)
        course = self._plan.course
        at_work = Condition(course.spec, 0) if course and course.several else met[0].condition

        def tell(finished: int) -> None:
            number = min(int(np.searchsorted(ends, finished)), len(met) - 1)
            images = len(met[number].data)
            done = finished - int(ends[number]) + images
            if self._tell:
                self._tell(Progress(at_work, name, first + number, self._passes, self._before, done, images))

        return tell


def _measure_all(
    plan: Plan,
    run: Run | None,
    rows: list[Row],
    todo: Todo,
    looks: Looks,
    passes: _Passes,
    shown: NDArray[np.int64],
) -> None:
    """Add the rows that are lacking, and what is looked at beside them."""
    folder = run.path / "streams" if run else None
    if folder and not rows:  # what an earlier record left is of another run
        rmtree(folder, ignore_errors=True)
    alone = [[one] for one in looks if one not in plan.conditions]
    for group in [*plan.groups(), *alone]:
        if not any(one in todo or one in looks for one in group):
            continue
        met = meet(plan.images, group, shown)
        started = time.perf_counter()
        measured = _along(plan, met, todo, passes, folder) if plan.course else _one(plan, met[0], todo, passes)
        for condition, row in measured:
            rows.append(plan.images.mark(row, condition))
            if run:
                run.append(rows[-1], {"seconds": time.perf_counter() - started, "device": str(plan.evaluate.device)})
            started = time.perf_counter()
            if row_key(row)[:2] == (SOURCE, CLEAN):
                _warn_of(plan.task.doubt(row, plan.classes))
        for one in met:
            for look in looks.get(one.condition, ()):
                look.add(plan.evaluate, one.data, one.condition)
    if folder:
        rmtree(folder, ignore_errors=True)


def _one(plan: Plan, met: Met, todo: Todo, passes: _Passes) -> Iterator[tuple[Condition, Row]]:
    """Yield the rows that a condition lacks."""
    repeated = [(name, plan.protocols.get(name), draw) for name, draw in todo.get(met.condition, ())]
    for row in measure_condition(
        plan.evaluate,
        met.data,
        met.classes,
        met.condition,
        repeated,
        plan.adaptation,
        plan.seed,
        passes.begin,
        met.examples,
        met.task,
    ):
        yield met.condition, row


def _along(
    plan: Plan, met: Sequence[Met], todo: Todo, passes: _Passes, folder: Path | None
) -> Iterator[tuple[Condition, Row]]:
    """Yield the rows that the conditions of a passage lack; before any, the source is measured, to pair with."""
    assert plan.course
    if not any(one.condition in todo for one in met):
        return
    plan.evaluate.keep([one.condition for one in met])
    with evaluating(plan.evaluate.model):
        source = [plan.evaluate(one.data, one.condition, passes.begin(one.condition, SOURCE)) for one in met]
    answering = Answering(plan.evaluate, plan.course, plan.adaptation, plan.seed, folder)
    for name, draw in plan.repeats():
        lacking = [one.condition for one in met if (name, draw) in todo.get(one.condition, ())]
        if not lacking:
            continue
        if name == SOURCE:
            made: Iterator[Row] = (one.row(found) for one, found in zip(met, source, strict=True))
        else:
            turn = Turn(name, plan.protocols[name], draw)
            made = answering.rows(turn, met, source, passes.along(met, name))
        yield from ((one.condition, row) for one, row in zip(met, made, strict=True) if one.condition in lacking)


def _summary(plan: Plan, run: Run | None, rows: Sequence[Row]) -> Summary:
    """Return what the rows add up to, with LIGS, which an earlier sitting may have kept in a file."""
    reference, ligs = plan.reference, run.path / "ligs.json" if run else None
    summary = summarise(
        rows,
        table=plan.record["alexnet"],
        baseline=baseline_errors(reference.rows, task=plan.task) if reference else None,
        class_counts=plan.record["data"].get("class_counts", []),
        task=plan.task,
        kinship=kinship_of(run.record if run else plan.record),
    )
    if similar := measure_ligs(plan.evaluate, plan.images.base, plan.ligs, ligs, plan.seed, plan.task):
        summary["ligs"] = similar
    if reference:
        summary["baseline"] = {name: reference.record["model"][name] for name in ("spec", "weights_hash")}
    return summary


def _warn_of(doubt: str | None) -> None:
    if doubt:
        warnings.warn(doubt, ClassesWarning, stacklevel=5)
