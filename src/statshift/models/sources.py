"""What a user's code is: the file that defines it, and the files of theirs that it imports."""

import ast
import hashlib
import inspect
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

INSTALLED = ("site-packages", "dist-packages")
LIBRARIES = (
    Path(__file__).resolve().parents[1],
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")),
)


def source_hash(thing: object) -> str | None:
    """Return `file_hash` of the file that defines a function, class or module, or None where there is none."""
    try:
        path = inspect.getsourcefile(thing)  # type: ignore[arg-type]  # raises TypeError for what it does not take
        return None if path is None else file_hash(Path(path))
    except (TypeError, OSError):
        return None


def file_hash(path: Path) -> str:
    """Return 16 hexadecimal characters of SHA-256 over a file and the user's own files that it imports.

    Raises:
        OSError: the file cannot be read.
    """
    files = local_files(path)
    own = files.pop(path.resolve())
    digest = hashlib.sha256(own)
    for name, content in sorted((os.path.relpath(other, path.resolve().parent), files[other]) for other in files):
        digest.update(f"\n{Path(name).as_posix()} {hashlib.sha256(content).hexdigest()}".encode())
    return digest.hexdigest()[:16]


def local_files(path: Path) -> dict[Path, bytes]:
    """Return what a file of code and all that it imports hold, by resolved path; what is installed is passed by.

    Imports are read from the text, those inside functions too, and found where this process found them, else beside
    the file.

    Raises:
        OSError: a file cannot be read.
    """
    start = path.resolve()
    found: dict[Path, bytes] = {}
    todo = [start]
    while todo:
        at = todo.pop()
        if at not in found:
            found[at] = at.read_bytes()
            todo += [] if _is_installed(at) else _imported(at, found[at], start.parent)
    return found


def _imported(path: Path, content: bytes, folder: Path) -> list[Path]:
    """Return the user's own files that a file imports."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return []
    candidates = [_find(name, level, path, folder) for name, level in _names(tree)]
    return [one for one in candidates if one is not None and not _is_installed(one)]


def _names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the dotted name and the leading dots of each module that may be imported, packages before their parts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names, level = [alias.name for alias in node.names], 0
        elif isinstance(node, ast.ImportFrom):
            base, level = node.module or "", node.level
            names = [f"{base}.{alias.name}".strip(".") for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from ((".".join(parts[:count]), level) for count in range(1, len(parts) + 1))


def _find(name: str, level: int, path: Path, folder: Path) -> Path | None:
    """Return the file of a module that `path` imports, or None where there is none."""
    loaded = getattr(sys.modules.get(name), "__file__", None) if level == 0 else None
    if loaded is not None:
        return Path(loaded).resolve() if loaded.endswith(".py") and Path(loaded).is_file() else None
    roots = [folder, *map(Path, sys.path)] if level == 0 else [path.parents[level - 1]]
    below = Path(*name.split("."))
    places = (
        root / inside for root in roots for inside in (below / "__init__.py", below.with_name(f"{below.name}.py"))
    )
    return next((place.resolve() for place in places if place.is_file()), None)


def _is_installed(path: Path) -> bool:
    return any(part in INSTALLED for part in path.parts) or any(map(path.is_relative_to, LIBRARIES))
