"""A method by its name, or out of a user's file, and with options by their names."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any

from statshift._core.errors import InputError, unknown
from statshift._core.registry import look_up
from statshift.hardening.method import Method
from statshift.hardening.registry import METHODS
from statshift.models import import_function

MethodOrKind = type[Method] | Method
"""A method to be made, or one that is."""


def find(name: str) -> MethodOrKind:
    """Return the method of a name, or of "py:FILE:NAME", which runs that file.

    Raises:
        InputError: there is none.
    """
    if not name.startswith("py:"):
        shipped: type[Method] = look_up(METHODS, "method", name).load()
        return shipped
    own: Any = import_function(name[3:])
    if not (isinstance(own, Method) or (isinstance(own, type) and issubclass(own, Method))):
        raise InputError(f"Expected {name} to be a statshift.Method, a class or a value, but it is neither.")
    return own


def made(found: MethodOrKind, values: Mapping[str, Any] | None = None) -> Method:
    """Return a method with values by option, those that are not given as they are.

    Args:
        found: the method.
        values: by name of an option, or of one of its fields, as "attack.steps".

    Raises:
        InputError: an unknown option, a value that cannot be, or an option without default that is not given.
    """
    known = {field.name: field for field in fields(found)}
    whole: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for path, value in (values or {}).items():
        option, _, inner = path.partition(".")
        if option not in known:
            raise unknown(f"option of the method {found.name}", option, known)
        if inner:
            parts.setdefault(option, {})[inner] = value
        else:
            whole[option] = value
    for option, inside in parts.items():
        value = whole.get(option, _value(found, option))
        inner_known = {field.name for field in fields(value)} if hasattr(value, "__dataclass_fields__") else set()
        for inner in inside:
            if inner not in inner_known:
                raise unknown(f"option {option} of the method {found.name},", inner, sorted(inner_known))
        whole[option] = replace(value, **inside)
    if isinstance(found, Method):
        return replace(found, **whole)
    for option in known:
        if option not in whole and _value(found, option) is MISSING:
            raise InputError(f"Expected `{option}` for the method {found.name}, which has no default for it.")
    return found(**whole)


def _value(found: MethodOrKind, option: str) -> Any:
    """Return what an option is, or is by default; MISSING where it has none."""
    if isinstance(found, Method):
        return getattr(found, option)
    (field,) = (one for one in fields(found) if one.name == option)
    return field.default if field.default_factory is MISSING else field.default_factory()


def chosen_method(name: str, flags: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> Method:
    """Return the method that a command line names.

    Args:
        name: name of the method.
        flags: what was typed, by name of the flag; None where nothing was.
        values: as of `made`.

    Raises:
        InputError: a flag that is another method's, or values that cannot be.
    """
    found = find(name)
    typed = {flag: value for flag, value in flags.items() if value is not None}
    own = {flag.name: flag for flag in found.flags}
    if excess := [flag for flag in typed if flag not in own]:
        told = ", ".join(f"--{flag}" for flag in excess)
        raise InputError(f"Expected no {told} for the method {found.name}: that is of {', '.join(_takers(excess[0]))}.")
    given: dict[str, Any] = {}
    for flag, value in typed.items():
        given |= own[flag].values(value)
    return made(found, given | dict(values or {}))


def _takers(flag: str) -> list[str]:
    """Return the names of the methods that take a flag."""
    return [name for name, entry in METHODS.items() if flag in entry.flags]
