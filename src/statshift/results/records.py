"""What makes two sittings the same run: the identity in `record.json`."""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from statshift._core.errors import InputError
from statshift._core.identity import differing, flat
from statshift._core.parsing import read_object
from statshift._core.storage import write_json_atomically

FREE = ("environment", "model.made_by", "model.checkpoint", "asked")
"""Fields of a record that may differ between two sittings: versions, device, batch size, workers; who made the
weights, whose hash must be the same, and what their file held beside them; and the words in which it was asked for, by
which a report repeats it."""

GROWING = (
    *("shifts", "families", "groups", "own_severities", "titles", "attacks", "stylised", "sets", "severities"),
    "protocols",
)
"""Keys whose lists or mappings a later sitting may extend; the record keeps the union."""


def read_record(directory: Path) -> dict[str, Any]:
    """Return a run directory's record.

    Raises:
        InputError: if there is none, or it is not a JSON object.
    """
    path = directory / "record.json"
    if not path.is_file():
        raise InputError(f"{directory} is not a run directory: it holds no record.json.")
    record = read_object(path)
    if record is None:
        raise InputError(f"{path} is damaged: it is not a JSON object.")
    return record


def settle_record(directory: Path, record: Mapping[str, Any], *, fresh: bool = False) -> dict[str, Any]:
    """Write the directory's record, or check `record` against it unless `fresh`; return the one that holds.

    Raises:
        InputError: if the directory's record is of another run; the first three differing fields are named.
    """
    new: dict[str, Any] = json.loads(json.dumps(record))
    path = directory / "record.json"
    if fresh or not path.exists():
        write_json_atomically(path, new)
        return new
    kept = check_same_run(directory, new)
    merged = kept | {name: _union(directory, kept.get(name), new.get(name)) for name in GROWING if name in kept | new}
    if merged != kept:
        write_json_atomically(path, merged)
    return merged


def check_same_run(directory: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run directory's record.

    Raises:
        InputError: it is of another run than `record`, in JSON types; the first three differing fields are named.
    """
    kept = read_record(directory)
    _require_same(directory, _identity(kept), _identity(record))
    return kept


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the identity by their dotted names."""
    return {
        name: value
        for name, value in flat(record).items()
        if not any(name == other or name.startswith(f"{other}.") for other in (*FREE, *GROWING))
    }


def _require_same(directory: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    names = differing(there, now)
    if names:
        told = "; ".join(
            f"`{name}`: {reprlib.repr(there.get(name))} in the directory, {reprlib.repr(now.get(name))} now"
            for name in names[:3]
        )
        more = f"; and {len(names) - 3} more" if len(names) > 3 else ""
        raise InputError(f"{directory} holds another run ({told}{more}): choose another directory, or delete this one.")


def _union(directory: Path, kept: Any, new: Any) -> Any:
    """Return what either holds; of mappings, what both hold must be the same."""
    if kept is None or new is None:
        return new if kept is None else kept
    if isinstance(kept, list):
        return kept + [item for item in new if item not in kept]
    for name in kept.keys() & new.keys():
        _require_same(directory, flat({name: kept[name]}), flat({name: new[name]}))
    return kept | new
