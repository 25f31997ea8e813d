"""What a report is about: the runs and the trainings that some paths hold."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from statshift._core.errors import InputError
from statshift._core.storage import read_json
from statshift.report.damage import DamagedError, check_images_of, check_record, check_row, damaged
from statshift.report.words import short
from statshift.results import RunResult, find_runs, read_run, summarise
from statshift.results.families import kinship_of
from statshift.results.worded import as_accuracy
from statshift.shifts.registry import COMMON
from statshift.tasks.choice import task_of
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Task


@dataclass(frozen=True)
class Measured:
    """A run and what its rows add up to.

    Attributes:
        run: as it lies on the disk.
        summary: as `statshift.results.summarise` returns it, but the task's score is named as the accuracy is; with no
            protocol where there is no row.
        reference: what CE and mCE are relative to, in words; "" where they are not.
        task: what the rows are of.
    """

    run: RunResult
    summary: dict[str, Any]
    reference: str
    task: Task = CLASSIFICATION


@dataclass(frozen=True)
class Training:
    """A folder in which a network was hardened or trained."""

    path: Path
    record: dict[str, Any]


@dataclass(frozen=True)
class Material:
    """What some paths hold.

    Attributes:
        measured: the runs, in order.
        trainings: in order.
        below: folder that a run or training was found below which no path named, by its own path.
        notes: what was left out, and why.
    """

    measured: tuple[Measured, ...]
    trainings: tuple[Training, ...]
    below: Mapping[Path, Path]
    notes: tuple[str, ...] = ()

    def without(self, error: DamagedError) -> "Material":
        """Return the rest, with a note, where what is damaged was found below a folder that holds more.

        Raises:
            DamagedError: it was named itself, or nothing would be left of the folder.
        """
        places = [*(one.run.path for one in self.measured), *(one.path for one in self.trainings)]
        found = [path for path in places if error.path.is_relative_to(path) and path in self.below]
        place = max(found, key=lambda path: len(path.parts), default=None)
        if place is None:
            raise error
        folder = self.below[place].resolve()
        if not any(one.resolve().is_relative_to(folder) for one in places if one != place):
            raise error
        runs = tuple(one for one in self.measured if one.run.path != place)
        _require_rows(runs, error)
        trainings = tuple(one for one in self.trainings if one.path != place)
        rest = {path: folder for path, folder in self.below.items() if path != place}
        return Material(runs, trainings, rest, (*self.notes, _left_out(place, error)))


def read(paths: Iterable[str | Path], task: str | Task | None = None) -> Material:
    """Read the runs and trainings at some paths or below them, each once, in order; copies of a run are left out.

    Runs of a task of the user's own are read by `task`.

    Raises:
        InputError: a path that is not there or holds neither, no finished condition at all, or damaged files where a
            path names them or holds nothing else.
    """
    found: dict[Path, Measured | Training] = {}
    below: dict[Path, Path] = {}
    named: set[Path] = set()
    notes: list[str] = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"Expected a run directory, but {path} is not there.")
        faults: dict[Path, DamagedError] = {}
        sound = 0
        for place, load in _places(path, task):
            key = place.resolve()
            if key in found:
                sound += 1
                if place == path and key in named:
                    notes.append(f"The same run was given several times and is shown once: {short(str(place), 80)}.")
            else:
                try:
                    one = load(place)
                except DamagedError as error:
                    faults[place] = error
                    continue
                if one is not None:
                    found[key] = one
                    sound += 1
                    if place != path:
                        below[place] = path
            if place == path:
                named.add(key)
                below.pop(place, None)
        if faults and (path in faults or not sound):
            raise faults.get(path) or next(iter(faults.values()))
        if not sound:
            raise InputError(
                f"{path} holds no run: expected a folder that `statshift measure` wrote (record.json, rows.jsonl)."
            )
        notes += [_left_out(place, error) for place, error in faults.items()]
    runs = [one for one in found.values() if isinstance(one, Measured)]
    _require_rows(runs)
    kept, copies = _once(runs)
    trainings = tuple(one for one in found.values() if isinstance(one, Training))
    return Material(tuple(kept), trainings, below, (*dict.fromkeys([*notes, *copies]),))


def _places(path: Path, task: str | Task | None) -> list[tuple[Path, Callable[[Path], "Measured | Training | None"]]]:
    """Return where runs and trainings may be, at a path or below it, each with what reads it."""
    runs = find_runs(path)
    others = sorted(file.parent for file in path.rglob("record.json") if not (file.parent / "rows.jsonl").exists())
    return [*((one, partial(_measured, task=task)) for one in runs), *((one, _training) for one in others)]


def _measured(path: Path, task: str | Task | None) -> Measured:
    with damaged(path):
        return _add_up(read_run(path), task)


def _training(path: Path) -> Training | None:
    with damaged(path):
        record = read_json(path / "record.json")
        if record and isinstance(record.get("history"), list) and isinstance(record.get("hardening"), dict):
            return Training(path, record)
    return None


def _require_rows(runs: Sequence[Measured], reason: InputError | None = None) -> None:
    if not any(one.run.rows for one in runs):
        named = ", ".join(str(one.run.path) for one in runs) or "these paths"
        raise reason or InputError(
            f"Expected a run with a finished condition, but there is none in {named}: measure first."
        )


def _left_out(path: Path, error: DamagedError) -> str:
    return f"Left out {short(str(path), 80)}: {short(str(error), 300)}"


def _once(runs: Sequence[Measured]) -> tuple[list[Measured], list[str]]:
    """Return the runs without those that have the record and the rows of an earlier one, and what was left out."""
    kept: list[Measured] = []
    copies = []
    for one in runs:
        same = next((other for other in kept if one.run.rows and _same(one, other)), None)
        if same is None:
            kept.append(one)
        else:
            copy, first = (short(str(run.run.path), 80) for run in (one, same))
            copies.append(f"Left out {copy}: it has the record and the rows of {first}, the same run.")
    return kept, copies


def _same(one: Measured, other: Measured) -> bool:
    return (one.run.record, one.run.rows, one.reference) == (other.run.record, other.run.rows, other.reference)


def _add_up(run: RunResult, given: str | Task | None) -> Measured:
    with damaged(run.path):
        check_record(run.record)
        task = task_of(run.record, given)
        for row in run.rows:
            check_row(row)
            check_images_of(row, run.record)
            task.check_row(row)
        baseline, reference = _divisor(run)
        if not run.rows:
            return Measured(run, {"images": run.record["data"]["images"], "protocols": {}}, reference, task)
        summary = summarise(
            run.rows,
            table=run.record.get("alexnet"),
            baseline=baseline,
            class_counts=run.record["data"].get("class_counts"),
            task=task,
            kinship=kinship_of(run.record),
        )
        return Measured(run, as_accuracy(summary, task.headline), reference, task)


def _divisor(run: RunResult) -> tuple[dict[str, float] | None, str]:
    """Return the errors that CE divides by where that was another run, and in words whose they are."""
    kept = read_json(run.path / "summary.json") or {}
    if kept.get("relative_to") == "baseline":
        shifts = kept["protocols"]["source"]["per_shift"]
        errors = {name: one["error"] / one["ce"] for name, one in shifts.items() if one["ce"]}
        return (errors if set(COMMON) <= errors.keys() else {}), f"the baseline {kept['baseline']['spec']}"
    table = run.record.get("alexnet")
    return None, f"AlexNet on {table}" if table else ""
