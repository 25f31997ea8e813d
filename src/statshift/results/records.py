"""What makes two sittings the same run: the identity in `record.json`."""

import json
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from statshift._core.errors import InputError
from statshift._core.storage import write_json_atomically
from statshift.results.parsing import read_object

FREE = ("environment", "model.made_by")
"""Fields of a record that may differ between two sittings: versions, device, batch size, workers; and who made the
weights, whose hash must be the same."""

GROWING = ("shifts", "attacks", "severities", "protocols")
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
    kept = read_record(directory)
    _require_same(directory, dict(_identity(kept)), dict(_identity(new)))
    merged = kept | {name: _union(directory, kept.get(name), new.get(name)) for name in GROWING if name in kept | new}
    if merged != kept:
        write_json_atomically(path, merged)
    return merged


def _identity(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every field of the identity; an absent one counts as None."""
    for key, value in record.items():
        name = prefix + key
        if name in FREE or name in GROWING:
            continue
        if isinstance(value, dict):
            yield from _identity(value, f"{name}.")
        else:
            yield name, value


def _require_same(directory: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    differing = [
        f"`{name}`: {reprlib.repr(there.get(name))} in the directory, {reprlib.repr(now.get(name))} now"
        for name in there | now
        if there.get(name) != now.get(name)
    ]
    if differing:
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise InputError(f"{directory} holds another run ({'; '.join(differing[:3])}{more}): choose another directory.")


def _union(directory: Path, kept: Any, new: Any) -> Any:
    """Return what either holds; of mappings, what both hold must be the same."""
    if kept is None or new is None:
        return new if kept is None else kept
    if isinstance(kept, list):
        return kept + [item for item in new if item not in kept]
    for name in kept.keys() & new.keys():
        _require_same(directory, dict(_identity(kept[name], f"{name}.")), dict(_identity(new[name], f"{name}.")))
    return kept | new
