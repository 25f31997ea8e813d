"""Rows that were found before their turn, each a file of its own in a run directory until those before it are there."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from statshift._core.storage import read_json, write_bytes_atomically
from statshift.tasks.row import Key, Row, row_key

AHEAD = "ahead"
"""The folder in a run directory."""

Timed = tuple[Row, dict[str, Any]]
"""A row, and what is never compared: seconds and device."""


def write_ahead(run: Path, row: Row, timing: Mapping[str, Any]) -> None:
    """Put a row into the folder, where any process of a launch may write.

    Raises:
        InputError: it cannot be written.
    """
    content = json.dumps({"row": row, "timing": timing}, separators=(",", ":"), allow_nan=False)
    path = _path(run, row_key(row))
    path.parent.mkdir(exist_ok=True)
    write_bytes_atomically(path, content.encode())


def take_ahead(run: Path, key: Key) -> Timed | None:
    """Return a row of the folder; None if it is not there.

    Raises:
        InputError: the file is damaged.
    """
    return _read(_path(run, key))


def drop_ahead(run: Path, key: Key) -> None:
    """Remove a row from the folder, and the folder with the last."""
    path = _path(run, key)
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def read_ahead(run: Path) -> dict[Key, Timed]:
    """Return the rows of the folder.

    Raises:
        InputError: a file is damaged.
    """
    found = [content for path in sorted((run / AHEAD).glob("*.json")) if (content := _read(path))]
    return {row_key(row): (row, timing) for row, timing in found}


def _read(path: Path) -> Timed | None:
    content = read_json(path)
    return None if content is None else (content["row"], content["timing"])


def _path(run: Path, key: Key) -> Path:
    return run / AHEAD / f"{hashlib.sha256(repr(key).encode(errors='surrogatepass')).hexdigest()[:16]}.json"
