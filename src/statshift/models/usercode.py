"""A user's own Python, imported only when a spec names it."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from statshift._core.errors import InputError, unknown
from statshift.models.sources import file_hash, local_files

NAMED_FILES: dict[Path, str] = {}
"""The files of users that were imported, and what they were called by."""

IMPORTED: dict[str, str] = {}
"""What the files of users and their own imports were when they were imported, by the name of the module."""


def import_function(target: str) -> Callable[..., Any]:
    """Return the function that `FILE_OR_MODULE:FUNCTION` names; see `import_value`."""
    module, value = _imported(target, "FUNCTION")
    if not callable(value):
        raise unknown(f"function of {target.rpartition(':')[0]},", target.rpartition(":")[2], _names_of(module))
    function: Callable[..., Any] = value
    return function


def import_value(target: str) -> Any:
    r"""Return what `FILE_OR_MODULE:NAME` names, a function or not; this runs the file or module.

    Split at the last colon, so that `C:\models\mine.py:build` works. A file may import its neighbours.

    Raises:
        InputError: the target is malformed, or there is no such file, module or name.
    """
    module, value = _imported(target, "NAME")
    if value is None:
        raise unknown(f"name of {target.rpartition(':')[0]},", target.rpartition(":")[2], _names_of(module))
    return value


def _imported(target: str, what: str) -> tuple[ModuleType, Any]:
    """Return a module and what it has of a name, None where it has nothing."""
    place, _, name = target.rpartition(":")
    if not place or not name.isidentifier():
        raise InputError(f"Expected py:FILE_OR_MODULE:{what}, but got 'py:{target}'.")
    module = _module_of(place)
    return module, getattr(module, name, None)


def _names_of(module: ModuleType) -> list[str]:
    """Return the names that a module defines itself."""
    return [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]


def check_arguments(spec: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check that a function can be called with these arguments alone.

    Raises:
        InputError: it needs others, or does not take these.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of what is written in C
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        given = f"does not take the model arguments {dict(arguments)}" if arguments else "cannot be called"
        raise InputError(f"{spec} {given}: {error}. Its arguments are those in `model_args`.") from None


def error_text(error: BaseException) -> str | None:
    """Return an error of a user's own code with the places in that code alone, or None where it has none.

    A first line names the file as the user did, and what is wrong; each place follows with its line of code. Of an
    `InputError` that tells of another error, the places are that error's.
    """
    told = str(error) if isinstance(error, InputError) else ""
    if told:
        if error.__cause__ is None or isinstance(error.__cause__, InputError):
            return None
        error = error.__cause__
    frames = [(name, at) for at in traceback.extract_tb(error.__traceback__) if (name := _named(at.filename))]
    lines = [f'  File "{name}", line {at.lineno}, in {at.name}\n    {at.line}' for name, at in frames]
    if isinstance(error, SyntaxError) and (named := _named(error.filename or "")):
        frames.append((named, traceback.FrameSummary(named, error.lineno or 1, "")))
        lines.append(f'  File "{named}", line {error.lineno}\n    {(error.text or "").strip()}'.rstrip())
        what = f"{type(error).__name__}: {error.msg}"
    elif isinstance(error, SystemExit):
        what = f"it ends the process, by SystemExit({'' if error.code is None else repr(error.code)})"
    else:
        what = "".join(traceback.format_exception_only(error)).strip()
    if not frames:
        return None
    what = told or what
    for path, name in NAMED_FILES.items():
        what = what.replace(_module_name(path), Path(name).stem)
    return "\n".join([f"error in {frames[-1][0]}: {what}", *lines])


def target_hash(target: str) -> str | None:
    """Return `file_hash` of the file that `FILE_OR_MODULE:FUNCTION` names, which is imported; None if it has none."""
    path = _module_of(target.rpartition(":")[0]).__file__
    return file_hash(Path(path)) if path is not None and path.endswith(".py") else None


def _named(filename: str) -> str:
    """Return what the user calls a file of code, or "" where it is neither theirs nor lies beside one of theirs."""
    path = Path(filename).resolve()
    if path in NAMED_FILES:
        return NAMED_FILES[path]
    beside = [Path(name).with_name(path.name) for own, name in NAMED_FILES.items() if own.parent == path.parent]
    return str(beside[0]) if beside and path.suffix == ".py" else ""


def _module_name(path: Path) -> str:
    return f"statshift_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}_{path.stem}"


def _module_of(place: str) -> ModuleType:
    return _import_file(Path(place).expanduser(), place) if place.endswith(".py") else _import_module(place)


def _import_file(path: Path, typed: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"Expected py:FILE_OR_MODULE:FUNCTION to name a file, but {path} is not a file.")
    NAMED_FILES[path.resolve()] = typed
    name = _module_name(path)
    if name in sys.modules:
        if IMPORTED.get(name) == file_hash(path):
            return sys.modules[name]
        _forget(name, path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up here
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    writing, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a file edited in the same second is read anew
    try:
        spec.loader.exec_module(module)
        IMPORTED[name] = file_hash(path)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
        sys.dont_write_bytecode = writing
    return module


def _forget(name: str, path: Path) -> None:
    """Have a file that was edited, and its own imports, imported anew."""
    del sys.modules[name]
    files = local_files(path)
    for other, module in list(sys.modules.items()):
        place = getattr(module, "__file__", None)
        if isinstance(place, str) and other != "__main__" and Path(place).resolve() in files:
            del sys.modules[other]


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it needs is not
        raise InputError(f"No file or module {name!r}; expected py:FILE_OR_MODULE:FUNCTION.") from error
