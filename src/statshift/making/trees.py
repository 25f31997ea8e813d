"""Made images as trees of PNG files in the classes' folders: written batch by batch, resumable, shared out by batches.

A batch is finished when its arrays lie in a file of their own, which is written after its images; one that is not is
made again whole, so that a killed job ends with the bytes of one that was not.
"""

import io
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from statshift._core import processes
from statshift._core.errors import InputError
from statshift._core.files import replacing
from statshift._core.resumption import interruptible
from statshift.data import ImageData
from statshift.data.files import load_array
from statshift.making.corrupted import class_folders, to_bytes, write_names
from statshift.making.shards import FOUND, RECORD, Arrays, Written, held
from statshift.results import settle_record, write_json_atomically
from statshift.results.records import read_record

ARRAYS_FILE, FINISHED, NAMES_FILE = "batches.npz", ".batches", "names.json"
WRITERS = 4
"""Threads that encode; Pillow lets go of the interpreter meanwhile."""

PNG_EFFORT = 1
"""Of zlib, 1 to 9: files that are a fifth larger than by 6, in a third of the time."""


@dataclass(frozen=True)
class MadeBatch:
    """What was made of a batch of images.

    Attributes:
        trees: by tree, images (B,3,H,W), multiples of 1/255.
        arrays: what is kept of it, each joined with those of the other batches on its first side; of floats (B,), which
            are measured, the record tells the means.
    """

    trees: Mapping[str, Tensor]
    arrays: Arrays


Groups = Sequence[NDArray[np.int64]]
MakeBatches = Callable[[Groups], Iterator[MadeBatch]]
"""Makes batches, given the positions of the images of each."""


def write_trees(
    folder: Path,
    identity: Mapping[str, Any],
    environment: Mapping[str, Any],
    data: ImageData,
    trees: Sequence[str],
    batch_size: int,
    make: MakeBatches,
    progress: Callable[[float, int], None] | None = None,
) -> Written:
    """Write FOLDER/TREE/CLASS/NUMBER.png of each image, `batches.npz` and `record.json`; the same call goes on.

    Batch k holds the images from `k * batch_size` on, in the data's order, whoever makes it: processes take whole
    batches in turn. An image's number is its place in the whole data set; `names.json` has the files' names by it.

    Args:
        folder: made if need be.
        identity: what the images must have been made with.
        environment: what may differ between two sittings.
        data: the images, with labels (N,).
        trees: names of the trees.
        batch_size: images at once.
        make: makes the batches.
        progress: called in the first process with (images done, images in all), of several processes an estimate; never
            if all was finished before.

    Raises:
        InputError: a folder that holds something else, or images that cannot be made or written.
    """
    rank, world = processes.join()
    own = (*trees, ARRAYS_FILE, NAMES_FILE)
    with held(folder, own) if rank == 0 else nullcontext():
        record = _settled(folder, {**identity, "environment": dict(environment)}, trees) if rank == 0 else {}
        groups = data.batch_positions(batch_size)
        lacking = [number for number in range(len(groups)) if not _part(folder, number).exists()]
        record, lacking = processes.from_first((record, [] if FOUND in record else lacking))
        if FOUND not in record:
            if rank == 0:
                _make_folders(folder, data, trees)
            processes.gather(None)  # the folders are there
            before = len(data) - sum(len(groups[number]) for number in lacking)
            tell = _teller(progress if rank == 0 else None, before, len(data), world)
            _write_lacking(folder, data, groups, lacking[rank::world], make, tell)
            processes.gather(None)  # every process is done
            if rank == 0:
                record = _finish(folder, record, len(groups), len(data))
            record = processes.from_first(record)
        if rank == 0:
            shutil.rmtree(folder / FINISHED, ignore_errors=True)
    return Written(folder, record)


def _settled(folder: Path, record: Mapping[str, Any], trees: Sequence[str]) -> dict[str, Any]:
    """Return the folder's record, written if it is the first; what was found is part of it if all was finished.

    Raises:
        InputError: the folder's images were made with something else, which is named.
    """
    begun = (folder / ARRAYS_FILE).exists() or any((folder / FINISHED).glob("*.npz"))
    kept = read_record(folder) if begun else {}
    whole = FOUND in kept and all((folder / tree).is_dir() for tree in trees)
    return settle_record(folder, {**record, **({FOUND: kept[FOUND]} if whole else {})}, fresh=not begun)


def _make_folders(folder: Path, data: ImageData, trees: Sequence[str]) -> None:
    try:
        (folder / FINISHED).mkdir(exist_ok=True)
        for tree in trees:
            for name in class_folders(data):  # empty ones too: the sorted folders are the labels
                (folder / tree / name).mkdir(parents=True, exist_ok=True)
        write_names(data, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _write_lacking(
    folder: Path, data: ImageData, groups: Groups, mine: Sequence[int], make: MakeBatches, tell: Callable[[int], None]
) -> None:
    """Make and write this process's batches, one being encoded while the next is made; Ctrl-C waits for those two.

    Raises:
        InputError: a batch cannot be made or written; those before it are kept.
    """
    tell(0)
    with interruptible() as stop, ThreadPoolExecutor(WRITERS) as pool:
        encoding: tuple[int, MadeBatch, list[Future[None]]] | None = None

        def finish() -> None:
            if encoding is None:
                return
            number, made, files = encoding
            for file in files:
                file.result()
            with replacing(_part(folder, number)) as unfinished, unfinished.open("wb") as content:
                np.savez(content, **made.arrays)  # type: ignore[arg-type]
            tell(len(groups[number]))

        try:
            for number, made in zip(mine, make([groups[number] for number in mine]), strict=True):
                finish()
                encoding = number, made, _encode(pool, folder, data, groups[number], made)
                if stop.is_set():
                    break
            finish()
        except OSError as error:
            raise _unwritable(folder, error) from error
        except torch.OutOfMemoryError:
            most = max(map(len, groups))
            raise InputError(f"Out of memory with {most} images at once; choose a smaller batch size.") from None
        if stop.is_set():
            raise KeyboardInterrupt


def _encode(
    pool: ThreadPoolExecutor, folder: Path, data: ImageData, positions: NDArray[np.int64], made: MadeBatch
) -> list[Future[None]]:
    """Begin to write the images of a batch."""
    assert data.labels is not None
    names, files = class_folders(data), []
    for tree, images in made.trees.items():
        for pixels, position in zip(to_bytes(images), positions, strict=True):
            place = folder / tree / names[data.labels[position]]
            files.append(pool.submit(_write_png, place / f"{data.indices[position]:08d}.png", pixels))
    return files


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    encoded = io.BytesIO()  # Pillow's own writer does not notice a full disk
    Image.fromarray(pixels).save(encoded, "PNG", compress_level=PNG_EFFORT)
    path.write_bytes(encoded.getbuffer())


def _finish(folder: Path, record: Mapping[str, Any], batches: int, count: int) -> dict[str, Any]:
    """Join the arrays of all batches, and return the record with the means of what was measured."""
    joined: dict[str, list[NDArray[Any]]] = {}
    for number in range(batches):
        for name, values in load_array(_part(folder, number)).items():
            joined.setdefault(name, []).append(values)
    arrays = {name: np.concatenate(values) for name, values in joined.items()}
    measured = sorted(name for name, values in arrays.items() if values.ndim == 1 and values.dtype.kind == "f")
    found = {"images": count, **{name: float(arrays[name].mean(dtype=np.float64)) for name in measured}}
    try:
        with replacing(folder / ARRAYS_FILE) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise _unwritable(folder, error) from error
    finished = {**record, FOUND: found}
    write_json_atomically(folder / RECORD, finished)
    return finished


def _part(folder: Path, number: int) -> Path:
    """Return the file with the arrays of a batch, there or not."""
    return folder / FINISHED / f"{number:06d}.npz"


def _teller(
    progress: Callable[[float, int], None] | None, before: int, count: int, world: int
) -> Callable[[int], None]:
    """Return what is told of images that are done now; the other processes are taken to be as far."""
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(min(count, before + world * done), count)

    return tell


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"Cannot write to {folder}: {error.strerror or error}. Finished batches are kept: make room, then run it again."
    )
