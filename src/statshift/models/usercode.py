"""A user's own Python, imported only when a spec names it."""

import importlib
import importlib.util
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


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"Expected py:FILE_OR_MODULE:FUNCTION to name a file, but {path} is not a file.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
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
