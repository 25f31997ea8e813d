"""A run directory: `record.json`, append-only `rows.jsonl`, `timings.jsonl`, `summary.json`, and what lies beside."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from statshift._core.errors import InputError
from statshift._core.files import remove_partials
from statshift._core.parsing import parse_json
from statshift._core.storage import append_line, keep_lines, lock, read_json, read_lines, write_json_atomically
from statshift.results.ahead import Timed, drop_ahead, read_ahead
from statshift.results.records import read_record, settle_record
from statshift.tasks.classification import bits
from statshift.tasks.row import Key, Row, row_key

BESIDE = ("layers.json", "ligs.json", "examples/examples.json")
"""What a later sitting goes on with, beside the rows."""


def read_run(path: str | Path) -> "RunResult":
    """Read a run without changing it; a torn last row, of a run killed or still going, is left out.

    Raises:
        InputError: if `path` is not a run directory, or its files are damaged.
    """
    path = Path(path)
    layers, ligs, examples = (read_json(path / name) for name in BESIDE)
    return RunResult(path, read_record(path), _read_rows(path / "rows.jsonl")[0], layers, ligs or {}, examples)


def find_runs(path: str | Path) -> list[Path]:
    """Return `path` if it is a run directory, else all run directories below it, sorted; maybe none."""
    path = Path(path)
    if _is_run(path):
        return [path]
    return sorted(found.parent for found in path.rglob("record.json") if _is_run(found.parent))


def _is_run(path: Path) -> bool:
    return all((path / name).is_file() for name in ("record.json", "rows.jsonl"))


def check_run_place(path: Path) -> None:
    """Check that a path may be a run directory, of which nothing is read and nothing written.

    Raises:
        InputError: it is a file, holds something else, or cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: choose a directory for the run.")
    try:
        held = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")} if path.exists() else set()
    except OSError as error:
        raise InputError(f"Cannot write to {path}: {error.strerror}. Choose another directory.") from error
    if held and "record.json" not in held:
        raise InputError(f"{path} is not empty and holds no record.json: choose another directory.")
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise InputError(f"Cannot write to {path}: {there} is a file. Choose another directory.")
    if not os.access(there, os.W_OK):
        raise InputError(f"Cannot write to {path}: {there} is not to be written to. Choose another directory.")


def open_run(path: str | Path, record: Mapping[str, Any]) -> "Run":
    """Create a run directory, or open the one that an earlier sitting left, for this process alone.

    A torn last row is cut off: its condition is not done.

    Args:
        path: a directory that does not exist, is empty or holds a run; names with a leading dot do not count.
        record: what the run is, in JSON types.

    Raises:
        InputError: if the directory cannot be written, holds another run (the fields that differ are named)
            or something else, is damaged, or another process is writing to it.
    """
    path = Path(path)
    check_run_place(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        guard = lock(path / ".lock")
    except OSError as error:
        raise InputError(f"Cannot write to {path}: {error.strerror}. Choose another directory.") from error
    try:
        remove_partials(path)
        rows, lines = _read_rows(path / "rows.jsonl")
        ahead = read_ahead(path)
        for row in rows:
            if ahead.pop(row_key(row), None):
                drop_ahead(path, row_key(row))
        settled = settle_record(path, record, fresh=not (rows or ahead))
        if not (rows or ahead):  # what an earlier record left is of another run
            for name in BESIDE:
                (path / name).unlink(missing_ok=True)
        keep_lines(path / "rows.jsonl", lines)
        keep_lines(path / "timings.jsonl", read_lines(path / "timings.jsonl"))
    except BaseException:
        os.close(guard)
        raise
    return Run(path, settled, rows, guard, ahead)


@dataclass(frozen=True)
class RunResult:
    """What a run directory holds.

    Attributes:
        path: path of the directory.
        record: what the run is.
        rows: one for each finished condition, protocol and draw.
        layers: the shift at each layer under some conditions, where the model has norms to tell it.
        ligs: Local Input Gradient Similarity by perturbation, where it was measured.
        examples: which the example images are, and the files of their strips, if there are any.
    """

    path: Path
    record: dict[str, Any]
    rows: list[Row]
    layers: dict[str, Any] | None = None
    ligs: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, Any] | None = None


class Run:
    """A run open for writing: its record, its finished rows, and the one way to add to them.

    `ahead` holds by key what an earlier sitting of several processes found before its turn, see
    `statshift.results.ahead`.
    """

    def __init__(
        self,
        path: Path,
        record: dict[str, Any],
        rows: list[Row],
        guard: int,
        ahead: Mapping[Key, Timed] | None = None,
    ) -> None:
        self.path = path
        self.record = record
        self.rows = rows
        self.ahead = ahead or {}
        self._guard: int | None = guard

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def done(self) -> set[Key]:
        """The (protocol, shift, severity, draw) of the finished rows."""
        return {row_key(row) for row in self.rows}

    def append(self, row: Row, timing: Mapping[str, Any] | None = None) -> None:
        """Put a finished row on the disk, then its timing (seconds, device), which is never compared.

        Raises:
            InputError: if the condition has its row already, or the disk is full; earlier rows are untouched.
        """
        key = row_key(row)
        if key in self.done:
            raise InputError(f"Expected a condition that is not done, but got {key} again.")
        append_line(self.path / "rows.jsonl", row)
        self.rows.append(row)
        if timing is not None:
            protocol, shift, severity, draw = key
            condition = {"protocol": protocol, "shift": shift, "severity": severity, "draw": draw}
            append_line(self.path / "timings.jsonl", {**condition, **timing})

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, whole or not at all."""
        write_json_atomically(self.path / "summary.json", summary)

    def close(self) -> None:
        """Let others write to the directory; closing again does nothing."""
        if self._guard is not None:
            os.close(self._guard)
            self._guard = None


def _read_rows(path: Path) -> tuple[list[Row], list[bytes]]:
    """Return the rows and the lines they came from; the last line alone may be broken, and is left out."""
    lines = read_lines(path)
    rows: dict[Key, Row] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
            key = row_key(row)
            for part in (row, row.get("paired_source")):
                if part is not None and "bits" in part:
                    bits(part)
        except (ValueError, KeyError, TypeError, AttributeError):
            if number < len(lines):
                raise InputError(f"{path} is damaged: line {number} of {len(lines)} is not a row.") from None
            return list(rows.values()), lines[:-1]
        if key in rows:
            raise InputError(f"{path} is damaged: line {number} repeats {key}.")
        rows[key] = row
    return list(rows.values()), lines
