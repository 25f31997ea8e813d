"""The loop of a measurement: every condition that lacks rows, each row kept as soon as it is there."""

import time
import warnings
from collections.abc import Generator, Iterator, MutableMapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
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
from statshift.measuring.ledger import Ledger
from statshift.measuring.plan import Plan
from statshift.measuring.probes import Looks, measure_ligs, unfinished_looks
from statshift.measuring.profile import Profile
from statshift.measuring.progress import PassCounter, Tell, group_of, rows_in_turn, rows_lacking
from statshift.measuring.sharing import Shares, Todo, share_out
from statshift.measuring.showing import data_frame, measurement_text
from statshift.measuring.streamed import Answering, Met, Turn, meet
from statshift.norms.layers import evaluating
from statshift.results import Row, Run, baseline_errors, open_run, row_key, summarise
from statshift.results.families import kinship_of
from statshift.results.typed import Summary
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import CLEAN
from statshift.tasks.task import Results

if TYPE_CHECKING:
    from statshift.measuring.planning import Forecast


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


STREAMING = "streams"
"""The folder in a run directory with the states of passages at work."""


def run_plan(plan: Plan, out: str | Path | None, progress: Tell | None) -> Measurement:
    """Measure what a plan says, and return it; with `out`, go on where an earlier sitting stopped."""
    rank, world = processes.join()
    with open_run(out, plan.record) if out is not None and rank == 0 else nullcontext() as run:
        rows, ahead = processes.from_first((list(run.rows), run.ahead) if run else ([], {}))
        if run and not (rows or ahead):  # what an earlier record left is of another run
            rmtree(run.path / STREAMING, ignore_errors=True)
        asked = plan.images.base, plan.examples, plan.task
        pictured = Examples(run.path / "examples", *asked) if run and plan.examples else None
        shown = pictured.positions if pictured else draw_examples(*asked)
        lacking = rows_lacking(plan, rows)
        ledger = Ledger(rows, rows_in_turn(plan, lacking), ahead, run, _seen(out))
        todo = rows_lacking(plan, [*rows, *(row for row, _ in ahead.values())])
        shares = share_out(plan, todo, world)
        passes = PassCounter(plan, todo, shares, progress if rank == 0 else None)
        looks: Looks = {}
        if run:
            looks = unfinished_looks(
                run.path, plan.evaluate.model, plan.images.base, plan.conditions, plan.shifts, plan.seed, pictured
            )
        _measure_all(plan, ledger, shares, looks, passes, processes.from_first(shown))
        if run:
            rmtree(run.path / STREAMING, ignore_errors=True)
        summary = _summary(plan, run, ledger.rows)
        if run:
            run.write_summary(summary)
    return Measurement(run.record if run else plan.record, ledger.rows, summary, None if out is None else Path(out))


def _seen(out: str | Path | None) -> Path | None:
    """Return the run directory where this process finds the one that the first writes to, as on one machine."""

    def told() -> tuple[int, bytes] | None:
        with suppress(OSError):
            path = Path(out or "", "record.json")
            return path.stat().st_ino, path.read_bytes()
        return None

    if out is None:
        return None
    first = processes.from_first(told() if processes.join()[0] == 0 else None)
    return Path(out) if first and told() == first else None


def _measure_all(
    plan: Plan,
    ledger: Ledger,
    shares: Shares,
    looks: Looks,
    passes: PassCounter,
    shown: NDArray[np.int64],
) -> None:
    """Add the rows that are lacking, and what is looked at beside them."""
    with closing(_put(plan, ledger, shares, looks, passes, shown)) as rows:
        for put in rows:
            if row_key(put)[:2] == (SOURCE, CLEAN):
                _warn_of(plan.task.doubt(put, plan.classes))


def _put(
    plan: Plan, ledger: Ledger, shares: Shares, looks: Looks, passes: PassCounter, shown: NDArray[np.int64]
) -> Generator[Row, None, None]:
    """Yield rows as they are put: what is measured together, then what processes take apart."""
    folder = ledger.folder / STREAMING if ledger.folder else None

    def add(measured: Iterator[tuple[Condition, Row]], *, apart: bool = False) -> Iterator[Row]:
        started = time.perf_counter()
        for condition, row in measured:
            timing = {"seconds": time.perf_counter() - started, "device": str(plan.evaluate.device)}
            yield from ledger.add(plan.images.mark(row, condition), timing, apart=apart)
            started = time.perf_counter()

    yield from ledger.settle()
    known: dict[Condition, Results] = {}
    for group in [*plan.groups(), *([one] for one in looks if one not in plan.conditions)]:
        together = any(one in shares.together for one in group)
        if not together and not any(one in looks for one in group):
            continue
        met = meet(plan.images, group, shown)
        if together:
            asked_again = any(one in part for part in shares.apart for one in group)
            yield from add(_measured(plan, met, shares.together, passes, folder, known if asked_again else None))
        for one in met:
            for look in looks.get(one.condition, ()):
                look.add(plan.evaluate, one.data, one.condition)
    if not shares.apart:
        return
    for number in processes.dealt(len(shares.apart)):
        part = shares.apart[number]
        passes.turn_to(number)
        with processes.apart():
            met = meet(plan.images, group_of(plan, part), shown)
            before = known if met[0].condition in known else None
            yield from add(_measured(plan, met, part, passes, folder, before), apart=True)
    yield from ledger.share(processes.gather(ledger.own))
    passes.end()


def _measured(
    plan: Plan,
    met: Sequence[Met],
    todo: Todo,
    passes: PassCounter,
    folder: Path | None,
    known: MutableMapping[Condition, Results] | None,
) -> Iterator[tuple[Condition, Row]]:
    """Yield the rows that the conditions of a passage lack; before any, the source is measured, to pair with.

    What it answers is looked up in `known`, if that is given, and added.
    """
    if plan.course:
        yield from _along(plan, met, todo, passes, folder, {} if known is None else known)
        return
    condition = met[0].condition
    repeated = [(name, plan.protocols.get(name), draw) for name, draw in todo.get(condition, ())]
    for row in measure_condition(
        plan.evaluate,
        met[0].data,
        met[0].classes,
        condition,
        repeated,
        plan.adaptation,
        plan.seed,
        passes.begin,
        met[0].examples,
        met[0].task,
        known,
    ):
        yield condition, row


def _along(
    plan: Plan,
    met: Sequence[Met],
    todo: Todo,
    passes: PassCounter,
    folder: Path | None,
    known: MutableMapping[Condition, Results],
) -> Iterator[tuple[Condition, Row]]:
    """Yield the rows that the conditions of a passage lack along a stream."""
    assert plan.course
    plan.evaluate.keep([one.condition for one in met])
    with evaluating(plan.evaluate.model):
        for one in met:
            if one.condition not in known:
                known[one.condition] = plan.evaluate(one.data, one.condition, passes.begin(one.condition, SOURCE))
    source = [known[one.condition] for one in met]
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
