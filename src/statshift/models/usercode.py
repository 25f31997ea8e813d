"""A user's own Python, imported only when a spec names it."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from statshift.errors import InputError, unknown


def import_function(target: str) -> Callable[..., Any]:
    r"""Return the function that `FILE_OR_MODULE:FUNCTION` names; this runs the file or module.

    Split at the last colon, so that `C:\models\mine.py:build` works. A file may import its neighbours.

    Raises:
        InputError: the target is malformed, or there is no such file, module or function.
    """
    place, _, name = target.rpartition(":")
    if not place or not name.isidentifier():
        raise InputError(f"Expected py:FILE_OR_MODULE:FUNCTION, but got 'py:{target}'.")
    module = _import_file(Path(place).expanduser()) if place.endswith(".py") else _import_module(place)
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise unknown(f"function of {place},", name, own)
    return function


def source_hash(thing: object) -> str | None:
    """Return 16 hexadecimal characters of SHA-256 over the file that defines a function or class, or None."""
    try:
        path = inspect.getsourcefile(thing)  # type: ignore[arg-type]  # raises TypeError for what it does not take
        return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except (TypeError, OSError):
        return None


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"Expected py:FILE_OR_MODULE:FUNCTION to name a file, but {path} is not a file.")
    name = f"statshift_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up here
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it needs is not
        raise InputError(f"No file or module {name!r}; expected py:FILE_OR_MODULE:FUNCTION.") from error
