"""Folders that `save_to_disk` of Hugging Face's `datasets` wrote: `hf-datasets:DIR[:SPLIT]`."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from statshift._core.errors import InputError
from statshift.data.files import existing_folder
from statshift.data.sources import Source


def hf_datasets(rest: str, *, split: str | None = None) -> Source:
    """Return the images of a saved `Dataset`, or of one split of a saved `DatasetDict`, in the order of its rows.

    Images are the column of type `Image`. Labels are the column of type `ClassLabel`, whose names name the classes, or
    else the only column of integers; where there is none, or all are -1, there are no labels.

    Args:
        rest: the folder, or `DIR:SPLIT`.
        split: the split, where it is not named in `rest`.

    Raises:
        InputError: `datasets` is not installed, the folder cannot be read, there are several splits and none is named,
            or the columns do not tell which one is meant.
    """
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise InputError("hf-datasets:DIR needs datasets: pip install 'statshift[datasets]'.") from error
    folder, named = (rest, "") if Path(rest).expanduser().is_dir() else rest.rpartition(":")[::2]
    if named and split not in (None, named):
        raise InputError(f"Expected one split of {folder}, but got {named} and {split}.")
    root = existing_folder(folder or rest)
    try:
        loaded = datasets.load_from_disk(str(root))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"Cannot read {root} as a folder that `save_to_disk` of datasets wrote ({reason}).") from error
    rows = _split(loaded, root, named or split)
    image, label = _columns(datasets, rows.features, root)
    labels = None if label is None else _labels(rows, label, root)
    names = None if labels is None else getattr(rows.features[label], "names", None)
    return SavedRows(
        rest,
        rows=rows.select_columns([image]).with_format(None).cast_column(image, datasets.Image(decode=False)),
        column=image,
        files=tuple(Path(one["filename"]) for one in rows.cache_files),
        labels=labels,
        class_names=None if names is None else tuple(names),
    )


def _split(loaded: Any, root: Path, name: str | None) -> Any:
    """Return the rows of the split that is named, or of the only one."""
    if not isinstance(loaded, dict):
        if name is not None:
            raise InputError(f"Expected no split for {root}, which has none, but got {name}.")
        return loaded
    if name is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if name not in loaded:
        got = "none is named" if name is None else f"got {name}"
        raise InputError(f"Expected one of the splits {', '.join(loaded)} of {root}, but {got}.")
    return loaded[name]


def _columns(datasets: Any, features: Any, root: Path) -> tuple[str, str | None]:
    """Return the names of the columns of images and of labels."""
    images = [name for name, one in features.items() if isinstance(one, datasets.Image)]
    if len(images) != 1:
        found = f"{len(images)}: {', '.join(images)}" if images else f"none among {', '.join(features)}"
        raise InputError(f"Expected one column of type Image in {root}, but got {found}.")
    labels = [name for name, one in features.items() if isinstance(one, datasets.ClassLabel)]
    kind = "type ClassLabel"
    if not labels:
        kind = "integers"
        labels = [name for name, one in features.items() if "int" in str(getattr(one, "dtype", ""))]
    if len(labels) > 1:
        raise InputError(
            f"Expected one column of {kind} in {root}, but got {len(labels)}: {', '.join(labels)}; save it without the "
            "others (`remove_columns`)."
        )
    return images[0], labels[0] if labels else None


def _labels(rows: Any, column: str, root: Path) -> NDArray[np.int64] | None:
    """Return the labels; None where all are -1, which stands for an unknown one."""
    table = rows.select_columns([column]).with_format("arrow")[:]
    values = table.column(column)
    if values.null_count:
        raise InputError(f"Expected a label in every row of {root}, but {values.null_count} have none in {column}.")
    labels = np.asarray(values.to_numpy(), np.int64)
    return None if len(labels) and (labels == -1).all() else labels


@dataclass(frozen=True, eq=False, kw_only=True)
class SavedRows(Source):
    """Encoded images in the rows of Arrow files.

    Attributes:
        rows: a `datasets.Dataset` that does not decode.
        column: its column of images.
        files: the Arrow files.
    """

    rows: Any
    column: str
    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def open(self, index: int) -> Image.Image:
        """Open the bytes in the row."""
        return Image.open(io.BytesIO(self._bytes(index)))

    def content(self) -> bytes:
        """Return the names and sizes of the files, and the column."""
        lines = [f"{path.name} {path.stat().st_size}\n" for path in self.files]
        return "".join([*lines, self.column]).encode(errors="surrogateescape")

    def stamp(self) -> bytes:
        """Return the files' paths, sizes and times of change, and the column."""
        found = ((path.absolute(), path.stat()) for path in self.files)
        lines = [f"{path} {file.st_size} {file.st_mtime_ns}\n" for path, file in found]
        return "".join([*lines, self.column]).encode(errors="surrogateescape")

    def files_hash(self, indices: Sequence[int]) -> str:
        """Hash the images' rows and bytes, one after the other."""
        digest = hashlib.sha256()
        for index in indices:
            digest.update(f"{index} {hashlib.sha256(self._bytes(index)).hexdigest()}\n".encode())
        return digest.hexdigest()[:16]

    def _bytes(self, index: int) -> bytes:
        content = (self.rows[int(index)][self.column] or {}).get("bytes")
        if content is None:
            raise InputError(f"Cannot read {self.name(index)}: the row holds no bytes of an image.")
        return bytes(content)
