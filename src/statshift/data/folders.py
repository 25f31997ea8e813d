"""What lies in a folder: its images and class folders, without opening a file or asking for its size."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from statshift._core.errors import DataWarning, InputError

INTEGERS = "integers"
"""The order of class folders whose names are integers, where sorted as text they would have another."""

EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}

SYSTEM = {
    *("#recycle", "#snapshot", "$recycle.bin", "@__thumb", "@eadir", "@recently-snapshot", "@recycle", "__macosx"),
    *("__pycache__", "desktop.ini", "ehthumbs.db", "lost+found", "recycler", "system volume information", "thumbs.db"),
}
"""Names, in small letters, of what operating systems and network disks put beside a user's files. A folder named
`trash` may well be a class."""


@dataclass
class Listing:
    """What was seen in a folder.

    Attributes:
        others: how many files are no images, by their extension.
        passed_by: the paths of hidden and system files and folders, and of run directories.
        shown: those of `passed_by` that are images, or hold some.
    """

    others: int = 0
    passed_by: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    def warn(self, root: Path) -> None:
        """Tell what images were passed by."""
        if self.shown:
            first = os.path.relpath(self.shown[0], root)
            warnings.warn(
                f"{len(self.shown)} hidden, system or run files or folders with images in {root} are passed by, such "
                f"as {first}.",
                DataWarning,
                stacklevel=4,
            )

    def top(self, root: Path) -> tuple[list[Path], list[str]]:
        """Return the image files directly in a folder, and the names of the folders, each sorted.

        Raises:
            InputError: the folder cannot be read.
        """
        entries = self.entries(root)
        return list(self._files(entries)), [entry.name for entry in entries if entry.is_dir()]

    def images(self, place: Path) -> Iterator[Path]:
        """Yield the image files in a folder, at any depth, in the order of their names; folders by links are left out.

        Raises:
            InputError: a folder cannot be read.
        """
        for entry in self.entries(place):
            if entry.is_dir(follow_symlinks=False):
                yield from self.images(Path(entry.path))
            else:
                yield from self._files([entry])

    def _files(self, entries: Sequence[os.DirEntry[str]]) -> Iterator[Path]:
        for entry in entries:
            if not entry.is_file():
                continue
            if is_image(entry.name):
                yield Path(entry.path)
            else:
                self.others += 1

    def entries(self, place: Path) -> list[os.DirEntry[str]]:
        """Return what lies in a folder, by name, but for what is passed by.

        Raises:
            InputError: the folder cannot be read.
        """
        kept = []
        for entry in _sorted_entries(place):
            if not (is_hidden(entry.name) or (entry.is_dir() and is_run(entry.path))):
                kept.append(entry)
                continue
            self.passed_by.append(entry.path)
            if _shows_images(entry):
                self.shown.append(entry.path)
        return kept


def is_image(name: str) -> bool:
    """Return whether a file is an image, by its extension."""
    return Path(name).suffix.lower() in EXTENSIONS


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or the operating system's."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_run(place: str) -> bool:
    """Return whether a folder is one that statshift wrote: it holds a record."""
    return Path(place, "record.json").is_file()


def order_classes(names: list[str]) -> tuple[list[str], bool]:
    """Return the names of class folders in the order of their labels, and whether that differs from sorted text.

    Names that are all integers are sorted as such: 2 comes before 10.
    """
    as_text = sorted(names)
    if not all(name.isascii() and name.removeprefix("-").isdecimal() for name in names):
        return as_text, False
    ordered = sorted(as_text, key=int)
    return ordered, ordered != as_text


def _sorted_entries(place: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"Cannot read the folder {place}: {error.strerror}.") from error


def _shows_images(entry: os.DirEntry[str]) -> bool:
    """Return whether something passed by is an image, or a folder with one at any depth."""
    if not entry.is_dir(follow_symlinks=False):
        return is_image(entry.name)
    with suppress(OSError):  # what may not be read, such as lost+found, shows nothing
        return any(is_image(name) for _, _, names in os.walk(entry.path) for name in names)
    return False
