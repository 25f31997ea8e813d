"""The loop of a measurement: every condition that lacks rows, each row kept as soon as it is there."""

import time
import warnings
from collections.abc import Callable, Generator, Iterator, MutableMapping, Sequence
from contextlib import closing, nullcontext, suppress
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
from statshift.measuring.ledger import Ledger
from statshift.measuring.plan import Plan
from statshift.measuring.probes import Looks, measure_ligs, unfinished_looks
from statshift.measuring.profile import Profile
from statshift.measuring.sharing import Shares, Todo, share_out
from statshift.measuring.showing import data_frame, measurement_text
from statshift.measuring.streamed import Answering, Met, Turn, meet
from statshift.norms.layers import evaluating
from statshift.results import Row, Run, baseline_errors, open_run, row_key, summarise
from statshift.results.families import kinship_of
from statshift.results.typed import Summary
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import CLEAN
from statshift.tasks.row import Key
from statshift.tasks.task import Results

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
        at_once: passes that are at work at once, each on a process of its own.
    """

    condition: Condition
    protocol: str
    number: int
    passes: int
    finished_before: int
    images: int
    images_per_pass: int
    at_once: int = 1


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

Tell = Callable[[Progress], None]


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
        ledger = Ledger(rows, _order(plan, lacking), ahead, run, _seen(out))
        todo = rows_lacking(plan, [*rows, *(row for row, _ in ahead.values())])
        shares = share_out(plan, todo, world)
        passes = _Passes(plan, todo, shares, progress if rank == 0 else None)
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


def rows_lacking(plan: Plan, rows: Sequence[Row]) -> Todo:
    """Return which protocols and draws each unfinished condition lacks."""
    done = {row_key(row) for row in rows}
    lacking = {
        condition: [(name, draw) for name, draw in plan.repeats() if (name, *astuple(condition), draw) not in done]
        for condition in plan.conditions
    }
    return {condition: missing for condition, missing in lacking.items() if missing}


def _order(plan: Plan, todo: Todo) -> list[Key]:
    """Return the keys of the rows that are lacking, in the order in which a single process finds them."""
    return [
        (name, *astuple(condition), draw)
        for group in plan.groups()
        for name, draw in plan.repeats()
        for condition in group
        if (name, draw) in todo.get(condition, ())
    ]


def passes_to_make(plan: Plan, todo: Todo) -> list[tuple[Condition, str, int]]:
    """Return the passes over images that a sitting makes for what is lacking: condition, protocol and draw."""
    return [
        (condition, *one)
        for group in plan.groups()
        if (missing := [one for condition in group for one in todo.get(condition, ())])
        for one in dict.fromkeys([(SOURCE, 0), *missing])  # the source is there to pair with
        for condition in group
    ]


class _Passes:
    """The passes over the images, counted and told."""

    def __init__(self, plan: Plan, todo: Todo, shares: Shares, progress: Tell | None) -> None:
        self._plan = plan
        self._tell = progress
        self._passes = len(passes_to_make(plan, todo))
        self._before = len(plan.conditions) * len(plan.repeats()) - sum(map(len, todo.values()))
        self._number = -1
        self._at_once = 1
        self._latest: Progress | None = None
        sizes = [len(_group_of(plan, part)) * len(_repeats(part, shares)) for part in shares.apart]
        self._firsts = self._passes - np.cumsum(sizes[::-1])[::-1]

    def turn_to(self, part: int) -> None:
        """Go on with what is done apart, by its number; what stands before it is done or at work."""
        self._number = int(self._firsts[part]) - 1
        self._at_once = processes.join()[1]

    def end(self) -> None:
        """Tell that all passes are finished, those of other processes too."""
        images = len(self._plan.images.base)
        end = Progress(self._plan.conditions[-1], SOURCE, self._passes - 1, self._passes, self._before, images, images)
        self._say(
            replace(self._latest, number=end.number, images=self._latest.images_per_pass) if self._latest else end
        )

    def _say(self, progress: Progress) -> None:
        self._latest = progress
        if self._tell:
            self._tell(progress)

    def begin(self, condition: Condition, name: str) -> Callable[[int], None]:
        """Count a pass, and return what is told how many of its images are finished."""
        self._number += 1
        images = len(self._plan.images.sets.get(condition, self._plan.images.base))
        start = Progress(condition, name, self._number, self._passes, self._before, 0, images, self._at_once)

        def tell(finished: int) -> None:
            self._say(replace(start, images=finished))

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
            now = first + number, self._passes, self._before, done, images, self._at_once
            self._say(Progress(at_work, name, *now))

        return tell


def _group_of(plan: Plan, part: Todo) -> list[Condition]:
    return next(group for group in plan.groups() if any(one in part for one in group))


def _repeats(part: Todo, shares: Shares) -> set[tuple[str, int]]:
    """Return what passes are made of in a part that is done apart: the source's too, unless it is known by then."""
    repeats = {repeat for missing in part.values() for repeat in missing}
    return repeats if any(one in shares.together for one in part) else repeats | {(SOURCE, 0)}


def _measure_all(
    plan: Plan,
    ledger: Ledger,
    shares: Shares,
    looks: Looks,
    passes: _Passes,
    shown: NDArray[np.int64],
) -> None:
    """Add the rows that are lacking, and what is looked at beside them."""
    with closing(_put(plan, ledger, shares, looks, passes, shown)) as rows:
        for put in rows:
            if row_key(put)[:2] == (SOURCE, CLEAN):
                _warn_of(plan.task.doubt(put, plan.classes))


def _put(
    plan: Plan, ledger: Ledger, shares: Shares, looks: Looks, passes: _Passes, shown: NDArray[np.int64]
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
            met = meet(plan.images, _group_of(plan, part), shown)
            before = known if met[0].condition in known else None
            yield from add(_measured(plan, met, part, passes, folder, before), apart=True)
    yield from ledger.share(processes.gather(ledger.own))
    passes.end()


def _measured(
    plan: Plan,
    met: Sequence[Met],
    todo: Todo,
    passes: _Passes,
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
    passes: _Passes,
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
