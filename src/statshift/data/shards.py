"""Tar shards as WebDataset names what is in them: `shards/val-{000000..000049}.tar`, keys `jpg` and `cls`."""

import hashlib
import io
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import numpy as np
from PIL import Image

from statshift._core.errors import InputError
from statshift.data.files import existing_file
from statshift.data.sources import Source

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")
LABEL_KEY = "cls"

TarImage = tuple[Path, str, int, int]
"""Of an image: its shard, its name there, where its bytes begin, and how many they are."""


def webdataset(rest: str) -> Source:
    """Return the images of tar shards in order, with the class index of `cls` where each has one.

    Args:
        rest: a path; `{000..049}` stands for each of these numbers, `*` for anything.

    Raises:
        InputError: there are no such files, one is no plain tar file, or some images have a label and others not.
    """
    shards = [path for pattern in _numbered(rest) for path in _matching(pattern)]
    members: list[TarImage] = []
    labels: list[int | None] = []
    ignored = 0
    for shard in shards:
        found, others = _read_index(shard)
        ignored += others
        for member, label in found:
            members.append(member)
            labels.append(label)
    known = [label for label in labels if label is not None]
    if known and len(known) < len(labels):
        _, name, _, _ = members[labels.index(None)]
        raise InputError(f"Expected a `{LABEL_KEY}` for every image of {rest}, but {name} has none.")
    return Shards(rest, members=members, labels=np.array(known, np.int64) if known else None, ignored=ignored)


def _numbered(text: str) -> list[str]:
    """Return a text with {FIRST..LAST} as texts with each number from the first to the last, as many digits."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if found is None:
        return [text]
    numbers = range(int(found[1]), int(found[2]) + 1)
    before, after = text[: found.start()], text[found.end() :]
    return [one for number in numbers for one in _numbered(f"{before}{number:0{len(found[1])}}{after}")]


def _matching(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if "*" not in pattern or path.is_file():
        return [existing_file(path)]
    paths = [Path(one) for one in sorted(glob(str(path)))]  # noqa: PTH207
    if not paths:
        raise InputError(f"Expected tar files, but there are none at {pattern}.")
    return paths


def _read_index(shard: Path) -> tuple[list[tuple[TarImage, int | None]], int]:
    """Return the images of a shard with their labels, and how many other files it holds; no image is read."""
    images: dict[str, TarImage] = {}
    labels: dict[str, int] = {}
    others = 0
    try:
        with tarfile.open(shard, "r:") as tar:
            for one in tar:
                if not one.isfile():
                    continue
                folder, _, name = one.name.rpartition("/")
                stem, _, kind = name.partition(".")
                key = f"{folder}/{stem}"
                if kind.lower() in IMAGE_KEYS:
                    if key in images:
                        raise InputError(f"Expected one image of {key} in {shard}, but got two.")
                    images[key] = (shard, one.name, one.offset_data, one.size)
                elif kind.lower() == LABEL_KEY:
                    content = tar.extractfile(one)
                    assert content is not None
                    labels[key] = int(content.read())
                else:
                    others += 1
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(f"Cannot read {shard} as an uncompressed tar file with class indices ({error}).") from error
    return [(member, labels.get(key)) for key, member in images.items()], others


@dataclass(frozen=True, eq=False, kw_only=True)
class Shards(Source):
    """Images within tar files."""

    members: Sequence[TarImage]

    def __len__(self) -> int:
        return len(self.members)

    def open(self, index: int) -> Image.Image:
        """Open the bytes within the shard."""
        return Image.open(io.BytesIO(self._bytes(index)))

    def content(self) -> bytes:
        """Return the names of the shards, and the names and sizes in them."""
        lines = (f"{shard.name} {name} {size}\n" for shard, name, _, size in self.members)
        return "".join(lines).encode(errors="surrogateescape")

    def stamp(self) -> bytes:
        """Return the shards' paths, sizes and times of change, and the places in them."""
        shards = dict.fromkeys(shard for shard, _, _, _ in self.members)
        found = ((shard.absolute(), shard.stat()) for shard in shards)
        lines = [f"{path} {file.st_size} {file.st_mtime_ns}\n" for path, file in found]
        places = (f"{shard.name} {start} {size}\n" for shard, _, start, size in self.members)
        return "".join([*lines, *places]).encode(errors="surrogateescape")

    def files_hash(self, indices: Sequence[int]) -> str:
        """Hash the images' names and bytes, one after the other."""
        digest = hashlib.sha256()
        for index in indices:
            line = f"{self.label_of(index)} {hashlib.sha256(self._bytes(index)).hexdigest()}\n"
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    def label_of(self, index: int) -> str:
        """Return the shard's name and the image's in it."""
        shard, name, _, _ = self.members[index]
        return f"{shard.name}/{name}"

    def name(self, index: int) -> str:
        """Return the shard's path and the image's name in it."""
        shard, name, _, _ = self.members[index]
        return f"{shard}/{name}"

    def _bytes(self, index: int) -> bytes:
        shard, _, start, size = self.members[index]
        try:
            with shard.open("rb") as file:
                file.seek(start)
                return file.read(size)
        except OSError as error:
            raise InputError(f"Cannot read {shard}: {error.strerror}.") from error
