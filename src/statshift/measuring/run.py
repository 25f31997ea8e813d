"""The loop of a measurement: every condition that lacks rows, each row kept as soon as it is there."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statshift._core import processes
from statshift._core.errors import ClassesWarning
from statshift.adapting.registry import SOURCE
from statshift.measuring.adapted import measure_condition
from statshift.measuring.examples import Examples, draw_examples
from statshift.measuring.plan import Plan
from statshift.measuring.probes import Looks, measure_ligs, unfinished_looks
from statshift.measuring.showing import data_frame, measurement_text
from statshift.results import Row, Run, baseline_errors, open_run, row_key, summarise
from statshift.results.families import kinship_of
from statshift.results.typed import Summary
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import CLEAN


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
    """What was measured: `record`, `rows` and `summary` as in the run directory; `path` is that directory, if any."""

    record: dict[str, Any]
    rows: list[Row]
    summary: Summary
    path: Path | None = None

    def __repr__(self) -> str:
        """Return a table of each protocol's accuracies in %."""
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


class _Passes:
    """The passes over the images, counted and told."""

    def __init__(self, plan: Plan, rows: Sequence[Row], progress: Tell | None) -> None:
        todo = _todo(plan, rows).values()
        self._plan = plan
        self._tell = progress
        self._passes = sum(len({(SOURCE, 0), *missing}) for missing in todo)  # the source is there to pair with
        self._before = len(plan.conditions) * len(plan.repeats()) - sum(map(len, todo))
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
    for condition in dict.fromkeys([*plan.conditions, *looks]):
        if condition not in {**todo, **looks}:
            continue
        images = plan.images.of(condition)
        repeated = [(name, plan.protocols.get(name), draw) for name, draw in todo.get(condition, ())]
        started = time.perf_counter()
        for row in measure_condition(
            plan.evaluate,
            images,
            plan.images.classes(condition),
            condition,
            repeated,
            plan.adaptation,
            plan.seed,
            passes.begin,
            None if condition in plan.images.sets else shown,
            plan.images.task_of(condition),
        ):
            rows.append(plan.images.mark(row, condition))
            if run:
                run.append(rows[-1], {"seconds": time.perf_counter() - started, "device": str(plan.evaluate.device)})
            started = time.perf_counter()
            if row_key(row)[:2] == (SOURCE, CLEAN):
                _warn_of(plan.task.doubt(row, plan.classes))
        for look in looks.get(condition, ()):
            look.add(plan.evaluate, images, condition)


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
