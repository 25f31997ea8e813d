"""A data set of made images in a folder: written in parts as they are finished, joined at the end, resumable."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from statshift._core.errors import InputError
from statshift._core.files import replacing
from statshift._core.resumption import interruptible
from statshift.data.files import load_array
from statshift.results import alone, settle_record, write_json_atomically
from statshift.results.records import read_record

RECORD, IMAGES_FILE, PART_FILES = "record.json", "images.npz", "part-*.npz"
FOUND = "found"
CONTENT = ("images", "labels", "source_labels", "indices")
"""The arrays of the result; what else a part holds is averaged for the record."""

Arrays = dict[str, NDArray[Any]]
Make = Callable[[Sequence[int], Callable[[float], None]], Iterator[Arrays]]
"""Makes batches, given their numbers and what to call with the images done of the one at work."""


@dataclass(frozen=True)
class Written:
    """A data set on the disk.

    Attributes:
        path: its folder, with `images.npz` and `record.json`; load it as `npz:PATH/images.npz`.
        record: what was made, of what, and what was found.
    """

    path: Path
    record: dict[str, Any]


def write_in_parts(
    folder: Path,
    identity: Mapping[str, Any],
    environment: Mapping[str, Any],
    count: int,
    size: int,
    make: Make,
    progress: Callable[[float, int], None] | None = None,
) -> Written:
    """Write `images.npz` and `record.json` into a folder; the same call goes on where an earlier one was stopped.

    Args:
        folder: made if need be.
        identity: what the parts must have been made with.
        environment: what may differ between two sittings.
        count: images in all.
        size: images in a part.
        make: makes the parts.
        progress: called with (images done, images in all) as it begins and whenever `make` tells; never if all was
            finished before.

    Raises:
        InputError: a folder that holds something else, or a part that cannot be made or written.
    """
    with held(folder, (IMAGES_FILE, PART_FILES)):
        record = _settled(folder, {**identity, "environment": dict(environment)})
        if not (FOUND in record and (folder / IMAGES_FILE).exists()):
            _make_parts(folder, count, size, make, progress)
            arrays, found = _joined(folder, count, size)
            _write_arrays(folder / IMAGES_FILE, arrays)
            record = record | {FOUND: found}
            write_json_atomically(folder / RECORD, record)
        for path in folder.glob(PART_FILES):
            path.unlink()
    return Written(folder, record)


@contextmanager
def held(folder: Path, own: Sequence[str]) -> Iterator[None]:
    """Keep a folder, made if need be, for this process alone; `own` are the names, or patterns, of what may lie in it.

    Raises:
        InputError: it cannot be made, holds something else, or another process writes to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = [path for path in folder.iterdir() if not path.name.startswith(".")]
        foreign = [path for path in held if not any(map(path.match, (RECORD, *own)))]
        if foreign or (held and not (folder / RECORD).exists()):
            reason = f"{foreign[0].name} besides" if foreign else f"no {RECORD}"
            raise InputError(f"{folder} is not empty and holds {reason}: choose another directory.")
    except OSError as error:
        raise InputError(f"Cannot write to {folder}: {error.strerror}. Choose another directory.") from error
    with alone(folder):
        yield


def _settled(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the folder's record, written if it is the first; what was found is part of it if all was finished.

    Raises:
        InputError: the folder's images or parts were made with something else, which is named.
    """
    begun = (folder / IMAGES_FILE).exists() or any(folder.glob(PART_FILES))
    kept = read_record(folder) if begun else {}
    return settle_record(folder, {**record, **({FOUND: kept[FOUND]} if FOUND in kept else {})}, fresh=not begun)


def _make_parts(folder: Path, count: int, size: int, make: Make, progress: Callable[[float, int], None] | None) -> None:
    """Make the parts that are missing; Ctrl-C waits for the one at work.

    Raises:
        InputError: a part cannot be made or written; those before it are kept.
    """
    missing = [number for number, path in enumerate(_parts(folder, count, size)) if not path.exists()]
    done = count - sum(min(size, count - number * size) for number in missing)

    def on_step(more: float) -> None:
        if progress:
            progress(done + more, count)

    on_step(0)
    with interruptible() as stop:
        try:
            for number, arrays in zip(missing, make(missing, on_step), strict=True):
                _write_arrays(_parts(folder, count, size)[number], arrays)
                done += len(arrays["images"])
                if stop.is_set():
                    raise KeyboardInterrupt
        except torch.OutOfMemoryError:
            raise InputError(f"Out of memory with {size} images at once; choose a smaller batch size.") from None


def _parts(folder: Path, count: int, size: int) -> list[Path]:
    """Return the files of all parts, there or not."""
    return [folder / PART_FILES.replace("*", f"{number:05d}") for number in range(-(-count // size))]


def _joined(folder: Path, count: int, size: int) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays of all parts joined, and the means of what was measured of each image."""
    joined: dict[str, list[NDArray[Any]]] = {}
    for path in _parts(folder, count, size):
        for name, values in load_array(path).items():
            joined.setdefault(name, []).append(values)
    arrays = {name: np.concatenate(joined.pop(name)) for name in CONTENT if name in joined}
    means = {name: math.fsum(np.concatenate(values).tolist()) / count for name, values in sorted(joined.items())}
    return arrays, {"images": count, **means}


def _write_arrays(path: Path, arrays: Any) -> None:
    try:
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise InputError(
            f"Cannot write {path}: {error.strerror}. Finished parts are kept: make room, then run it again."
        ) from error
