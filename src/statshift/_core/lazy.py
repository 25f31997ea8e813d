"""Names of a package that are imported when they are asked for (PEP 562), so that importing the package is quick."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def lazy(
    package: str, places: Mapping[str, Iterable[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return a package's `__getattr__`, `__dir__` and `__all__`.

    Type checkers do not see these names: the package imports them once more under `TYPE_CHECKING`.

    Args:
        package: its `__name__`.
        places: names by the module that has them; none may be that of a module of the package itself, which importing
            that module would put in its place.
    """
    places_of = {name: module for module, names in places.items() for name in names}

    def get(name: str) -> Any:
        if name not in places_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(places_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places_of})

    return get, names, list(places_of)
