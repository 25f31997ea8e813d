"""Other labels for those that label maps hold: `--label-map`."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statshift._core.errors import InputError
from statshift.data.classes import decode
from statshift.data.files import existing_file
from statshift.data.maps import LABEL_VALUES
from statshift.data.sources import Source

IGNORED = "ignore"
LABEL_MAP_FORMS = f'JSON {{"old": new}} or lines `old new`, each from 0 to {LABEL_VALUES - 1}, or new as `{IGNORED}`'


def relabelled(source: Source, path: str | Path, ignore_index: int) -> Source:
    """Return the source with the labels of its maps as a file says; see `read_label_map`."""
    assert source.maps is not None
    table = read_label_map(Path(path), ignore_index)
    names: dict[int, list[str]] = {}
    for old, name in enumerate(source.class_names or ()):
        if table[old] not in (-1, ignore_index):
            names.setdefault(int(table[old]), []).append(name)
    return replace(
        source,
        maps=replace(source.maps, table=table),
        class_names=None,
        mapped_names={new: " or ".join(olds) for new, olds in sorted(names.items())} or None,
    )


def read_label_map(path: Path, ignore_index: int) -> NDArray[np.int64]:
    """Return (256,) the new label of each old one, -1 where the file gives none.

    The ignored value stays so unless the file says otherwise.

    Args:
        path: path of a file with JSON {"old": new}, or with lines `old new`: whole numbers, or `ignore` as the new one.
        ignore_index: the value that marks pixels which are left out.

    Raises:
        InputError: the file is none of these, or gives a label twice.
    """
    table = np.full(LABEL_VALUES, -1, np.int64)
    for old, new in _label_pairs(decode(existing_file(path).read_bytes()), path):
        before, after = _label(old, path), ignore_index if new == IGNORED else _label(new, path)
        if table[before] not in (-1, after):
            raise InputError(f"Expected one new label for {before} in {path}, but got {table[before]} and {after}.")
        table[before] = after
    if table[ignore_index] < 0:
        table[ignore_index] = ignore_index
    return table


def _label_pairs(text: str, path: Path) -> Iterable[tuple[Any, Any]]:
    """Return old and new labels as they are written."""
    if path.suffix == ".json" or text.lstrip()[:1] == "{":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _no_label_map(path, f"it is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise _no_label_map(path, f"it is JSON of {json.dumps(content)[:40]}")
        return content.items()
    lines = [line.split() for line in text.splitlines() if line.strip()]
    for words in lines:
        if len(words) != 2:
            raise _no_label_map(path, f"a line is {' '.join(words)[:40]!r}")
    return [(old, new) for old, new in lines]


def _label(written: Any, path: Path) -> int:
    """Return a label; True and 1.5 are none."""
    text = str(written)
    if isinstance(written, bool) or not (text.isascii() and text.isdecimal()) or not int(text[:9]) < LABEL_VALUES:
        raise _no_label_map(path, f"a label is {text[:40]!r}")
    return int(text)


def _no_label_map(path: Path, reason: str) -> InputError:
    return InputError(f"Expected {path} to map labels to labels ({LABEL_MAP_FORMS}), but {reason}.")
