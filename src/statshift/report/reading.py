"""What a report is about: the runs and the trainings that some paths hold."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from statshift.corruptions import COMMON
from statshift.errors import InputError
from statshift.metrics import SEVERITIES
from statshift.results import RunResult, find_runs, read_run, summarise
from statshift.results.files import read_json
from statshift.results.rows import bits


@dataclass(frozen=True)
class Measured:
    """A run and what its rows add up to.

    Attributes:
        run: as it lies on the disk.
        summary: as `statshift.results.summarise` returns it; with no protocol where there is no row.
        reference: what CE and mCE are relative to, in words; "" where they are not.
    """

    run: RunResult
    summary: dict[str, Any]
    reference: str


@dataclass(frozen=True)
class Training:
    """A folder in which a network was hardened or trained."""

    path: Path
    record: dict[str, Any]


def read(paths: Iterable[str | Path]) -> tuple[list[Measured], list[Training]]:
    """Read the runs and trainings at some paths or below them, each once, in order.

    Raises:
        InputError: a path that is not there or holds neither, no finished condition at all, or damaged files.
    """
    runs: dict[Path, RunResult] = {}
    trainings: dict[Path, Training] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"Expected a run directory, but {path} is not there.")
        found, trained = find_runs(path), _find_trainings(path)
        if not found and not trained:
            raise InputError(
                f"{path} holds no run: expected a folder that `statshift measure` wrote (record.json, rows.jsonl)."
            )
        for one in found:
            with damaged(one):
                runs.setdefault(one.resolve(), read_run(one))
        for training in trained:
            trainings.setdefault(training.path.resolve(), training)
    if not any(run.rows for run in runs.values()):
        named = ", ".join(map(str, runs)) or "these paths"
        raise InputError(f"Expected a run with a finished condition, but there is none in {named}: measure first.")
    return [_add_up(run) for run in runs.values()], list(trainings.values())


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Tell of what lies at `path` and is not as it should be in one line.

    Raises:
        InputError: in place of what such content raises.
    """
    try:
        yield
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path} cannot be reported: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__} {error}.") from error


def _add_up(run: RunResult) -> Measured:
    with damaged(run.path):
        check_record(run.record)
        for row in run.rows:
            check_row(row)
            if int(bits(row).sum()) != row["correct"]:
                raise ValueError(f"in the row of {row['shift']} {row['severity']}: its bits are not its count")
        baseline, reference = _divisor(run)
        if not run.rows:
            return Measured(run, {"images": run.record["data"]["images"], "protocols": {}}, reference)
        summary = summarise(
            run.rows,
            table=run.record.get("alexnet"),
            baseline=baseline,
            class_counts=run.record["data"].get("class_counts"),
            seed=run.record.get("seed") or 0,
        )
        return Measured(run, summary, reference)


KINDS: dict[str, tuple[type, ...]] = {
    "model": (dict,),
    "model.spec": (str,),
    "model.arguments": (dict, NoneType),
    "model.made_by": (dict, NoneType),
    "model.norms": (dict, NoneType),
    "model.preprocessing": (dict, NoneType),
    "data": (dict,),
    "data.spec": (str,),
    "data.images": (int,),
    "data.classes": (int, NoneType),
    "model.preprocessing.mean": (list, NoneType),
    "model.preprocessing.std": (list, NoneType),
    "data.counts": (dict, NoneType),
    "data.counts.skipped": (int, NoneType),
    "data.preprocessing": (dict, NoneType),
    "corruption": (dict,),
    "shifts": (list, NoneType),
    "functions": (dict, NoneType),
    "attacks": (dict, NoneType),
    "severities": (list, NoneType),
    "protocols": (dict, list, NoneType),
    "seed": (int, NoneType),
    "environment": (dict, NoneType),
    "environment.versions": (dict, NoneType),
}
"""What a report takes the fields of a record to be."""


def check_record(record: dict[str, Any]) -> None:
    """Check the fields of a record that a report reads.

    Raises:
        TypeError: one is of another type.
    """
    for name, kinds in KINDS.items():
        value: Any = record
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, kinds):
            raise TypeError(f"in record.json, of `{name}`")
    names = [*(record.get("shifts") or []), *(record.get("protocols") or [])]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("in record.json, of a name in `shifts` or `protocols`")
    levels = [*(record.get("severities") or [])]
    if not all(isinstance(level, int) for level in levels):
        raise TypeError("in record.json, of a number in `severities`")
    for parts in (record.get("protocols"), record.get("attacks")):
        if isinstance(parts, dict) and not all(isinstance(one, dict) for one in parts.values()):
            raise TypeError("in record.json, in `protocols` or `attacks`")


def check_row(row: dict[str, Any]) -> None:
    """Check what a row is the result of.

    Raises:
        ValueError: it cannot be.
    """
    left_out = row.get("left_out", [])
    sound = (
        all(isinstance(row[name], str) for name in ("protocol", "shift"))
        and row["severity"] in (0, *SEVERITIES)
        and isinstance(row["draw"], int)
        and all(isinstance(one, int) and 0 <= one < row["images"] + len(left_out) for one in left_out)
    )
    if not sound:
        raise ValueError(f"in a row of {row['shift']!r}: its condition, draw or images left out")


def _divisor(run: RunResult) -> tuple[dict[str, float] | None, str]:
    """Return the errors that CE divides by where that was another run, and in words whose they are."""
    kept = read_json(run.path / "summary.json") or {}
    if kept.get("relative_to") == "baseline":
        shifts = kept["protocols"]["source"]["per_shift"]
        errors = {name: one["error"] / one["ce"] for name, one in shifts.items() if one["ce"]}
        return (errors if set(COMMON) <= errors.keys() else {}), f"the baseline {kept['baseline']['spec']}"
    table = run.record.get("alexnet")
    return None, f"AlexNet on {table}" if table else ""


def _find_trainings(path: Path) -> list[Training]:
    found = []
    for file in sorted(path.rglob("record.json")):
        record = None if (file.parent / "rows.jsonl").exists() else read_json(file)
        if record and isinstance(record.get("history"), list) and isinstance(record.get("hardening"), dict):
            found.append(Training(file.parent, record))
    return found
