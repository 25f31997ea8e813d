"""Which class is which: maps from class folders to a model's classes, and ImageNet's own numbering."""

import codecs
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statshift._core.errors import InputError
from statshift.data.files import existing_file

FORMS = (
    'JSON {"folder": index}, {"0": "folder"}, {"0": ["folder", "name"]} or ["folder", ...], lines `folder index`, or '
    "one folder a line"
)
IMAGENET_CLASSES = 1000
LARGEST_INDEX = 2**31
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_class_map(path: Path, folders: list[str]) -> NDArray[np.int64]:
    """Return the class index of each folder.

    Args:
        path: path of a map in UTF-8, UTF-16 or Latin-1: JSON of folder to index (Hugging Face's `label2id`), of index
            to folder (`id2label`), of index to several names (Keras), or of names in order; or text, with lines
            `folder index`, or with one name a line, whose number from 0 is the index (timm).
        folders: names.

    Raises:
        InputError: the map cannot be read, or does not give each folder one index.
    """
    text = decode(existing_file(path).read_bytes())
    wanted = [_plain(name) for name in folders]
    table: dict[str, set[Any]] = {}
    for name, index in _pairs(text, path, set(wanted)):
        table.setdefault(_plain(name), set()).add(_integer(name, index, path))
    for name in wanted:
        found = table.get(name, set())
        if not found:
            raise _not_a_map(path, f"{name!r} is not in it")
        if len(found) > 1:
            first, second, *_ = sorted(found)
            raise InputError(f"Expected one class index for {name} in {path}, but got {first} and {second}.")
    return np.array([min(table[name]) for name in wanted], np.int64)


def decode(content: bytes) -> str:
    """Return a file's text by its byte order mark, else UTF-8, else UTF-16 where zero bytes show it, else Latin-1."""
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    if b"\0" in content:
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be", "replace")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _plain(name: str) -> str:
    """Return a name in composed characters; one that is not UTF-8 on the disk as Latin-1."""
    try:
        name.encode()
    except UnicodeEncodeError:
        name = os.fsencode(name).decode("latin-1")
    return unicodedata.normalize("NFC", name)


def _pairs(text: str, path: Path, folders: set[str]) -> Iterable[tuple[str, Any]]:
    """Return the names and their indices as they are written, whichever form the map has."""
    if path.suffix == ".json" or text.lstrip()[:1] in ("{", "["):
        try:
            return list(_json_pairs(json.loads(text), path))
        except (ValueError, RecursionError) as error:
            raise _not_a_map(path, f"it is no JSON: {error}") from error
    lines = [line.strip() for line in text.splitlines()]
    if folders <= {_plain(line) for line in lines}:  # a name may end in a number too
        return [(line, number) for number, line in enumerate(lines) if line]
    pairs = [line.rsplit(maxsplit=1) for line in lines if line]
    if not any(len(pair) == 2 and _is_integer(pair[1]) for pair in pairs):
        missing = next(iter(sorted(folders - {_plain(line) for line in lines})))
        raise _not_a_map(path, f"{missing!r} is not in it")
    for pair in pairs:
        if len(pair) != 2:
            raise _not_a_map(path, f"a line is {pair[0]!r}")
    return [(name, index) for name, index in pairs]


def _json_pairs(content: Any, path: Path) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for key in ("label2id", "id2label"):  # a model's config.json
            if isinstance(content.get(key), dict):
                content = content[key]
                break
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        yield from ((name, index) for index, name in enumerate(content))
        return
    if not isinstance(content, dict):
        raise _not_a_map(path, f"it is JSON of {json.dumps(content)[:40]}")
    names = list(content.values())
    by_index = all(map(_is_integer, content))
    if by_index and all(isinstance(name, str) for name in names) and not all(map(_is_integer, names)):
        yield from ((name, index) for index, name in content.items())
    elif by_index and all(isinstance(name, list) and all(isinstance(one, str) for one in name) for name in names):
        yield from ((one, index) for index, several in content.items() for one in several)
    else:
        yield from content.items()


def _is_integer(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdecimal()


def _integer(name: str, index: Any, path: Path) -> int:
    """Return an index; True and 1.5 are none."""
    text = str(index)
    if isinstance(index, bool) or not isinstance(index, int | str) or not _is_integer(text) or len(text) > 10:
        shown = json.dumps(index)[:40]
        raise InputError(f"Expected the class index of {name} in {path} to be an integer, but got {shown}.")
    if not 0 <= int(text) < LARGEST_INDEX:
        raise InputError(f"Expected the class index of {name} in {path} to be from 0 up, but got {text}.")
    return int(text)


def _not_a_map(path: Path, reason: str) -> InputError:
    return InputError(f"Expected {path} to map folders to class indices ({FORMS}), but {reason}.")


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet's 1,000 classes by index, from timm."""
    info: Any = import_module("timm.data").ImageNetInfo("imagenet-1k")
    return tuple(info.label_names())


@cache
def read_synsets(name: str) -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet-R or -A in a file of timm's, by index."""
    return tuple(_timm_file(name).split())


@cache
def imagenet_lemmas() -> dict[str, list[int]]:
    """Return the indices of ImageNet's classes by name, such as "tench, Tinca tinca"; a few names are of two."""
    lines = _timm_file("imagenet_synset_to_lemma.txt").splitlines()
    names = dict(line.split("\t", 1) for line in lines if "\t" in line)
    found: dict[str, list[int]] = {}
    for index, wordnet in enumerate(imagenet_classes()):
        found.setdefault(names[wordnet], []).append(index)
    return found


def _timm_file(name: str) -> str:
    return (files("timm.data") / "_info" / name).read_text()


def imagenet_indices(names: tuple[str, ...] | None) -> NDArray[np.int64] | None:
    """Return the index among ImageNet's 1,000 classes of each WordNet id; None where a name is no such id.

    Also None where there are all 1,000: sorted, they have their indices.
    """
    if not names or not all(len(name) == 9 and name[0] == "n" and name[1:].isdecimal() for name in names):
        return None
    known = {name: index for index, name in enumerate(imagenet_classes())}
    if len(names) >= len(known) or not known.keys() >= set(names):
        return None
    return np.array([known[name] for name in names], np.int64)
