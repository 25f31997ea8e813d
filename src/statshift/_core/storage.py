"""Files that survive `kill -9` and a full disk: lines appended whole, JSON replaced whole, one writer."""

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from statshift._core.errors import InputError
from statshift._core.files import remove_partials, replacing
from statshift._core.parsing import read_object


def write_json_atomically(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON so that `path` holds all of the old or all of the new.

    Raises:
        InputError: if it cannot be written; the old file stays.
    """
    text = json.dumps(content, indent=2, allow_nan=False)
    text = re.sub(
        r"\[\n[\d\s.,eE+-]*\]", lambda numbers: " ".join(numbers[0].split()), text
    )  # a list of numbers: one line
    write_bytes_atomically(path, f"{text}\n".encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds all of the old or all of the new.

    Raises:
        InputError: if it cannot be written; the old file stays.
    """
    try:
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise _unwritable(path, error) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object that a file holds; None where there is no file.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    if not path.is_file():
        return None
    content = read_object(path)
    if content is None:
        raise InputError(f"{path} is damaged: it is not a JSON object. Remove it to have it made again.")
    return content


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Append `content` as one line of compact JSON and see it onto the disk, or leave the file as it was.

    Raises:
        InputError: if it cannot be written.
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    try:
        with path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                _write(file, f"{text}\n".encode())
            except BaseException:
                with contextlib.suppress(OSError):  # what is left of the line is cut when the file is next opened
                    file.truncate(end)
                raise
    except OSError as error:
        raise _unwritable(path, error) from error


def read_lines(path: Path) -> list[bytes]:
    """Return the lines that end in a newline, without it; none where there is no file."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def keep_lines(path: Path, lines: list[bytes]) -> None:
    """Cut off what follows `lines`, the first lines of the file."""
    size = sum(len(line) + 1 for line in lines)
    if path.exists() and path.stat().st_size > size:
        with path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())


def lock(path: Path) -> int:
    """Open and lock the file `path`, made if need be, against other processes.

    The lock ends when the returned descriptor is closed or the process dies, however it dies. It is not
    inherited, so that no orphaned worker holds on to it. A file system without locks gives no guard.

    Raises:
        InputError: if another process holds the lock.
        OSError: if the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            os.close(descriptor)
            raise InputError(
                f"Another process is writing to {path.parent}: wait for it, or choose another directory."
            ) from None
    return descriptor


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a folder, made if need be, for this process alone; what a killed one left half written goes.

    Raises:
        InputError: it cannot be made, or another process writes to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        guard = lock(folder / ".lock")
    except OSError as error:
        raise InputError(f"Cannot write to {folder}: {error.strerror}. Choose another directory.") from error
    try:
        remove_partials(folder)
        yield
    finally:
        os.close(guard)


@contextlib.contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Keep a file that is to be written for this process alone; its folder is made if need be.

    Raises:
        InputError: it cannot be made, or another process writes to it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        guard = lock(path.with_name(f".{path.name}.lock"))
    except OSError as error:
        raise InputError(f"Cannot write to {path.parent}: {error.strerror}. Choose another folder.") from error
    try:
        yield
    finally:
        os.close(guard)


def _write(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"Cannot write to {path}: {error.strerror}. "
        "What was finished is kept: make room or mend the disk, then run the same command again."
    )
