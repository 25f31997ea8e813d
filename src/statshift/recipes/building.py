"""Values of a recipe's fields, built of plain data by their types; what cannot be is told with its place."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from fractions import Fraction
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from statshift._core.errors import InputError, unknown
from statshift._core.strict import shown_value
from statshift.adapting.options import AdaptationOptions
from statshift.hardening.options import HardenOptions
from statshift.hardening.registry import METHODS
from statshift.hardening.training import TrainingOptions
from statshift.measuring.loading import Dtype
from statshift.recipes.networks import Network
from statshift.recipes.parts import DataPart
from statshift.recipes.writing import ADAPTATION, TRAINING

WRONG = object()
"""What stands for a value that was told to be wrong."""

STAND_INS: dict[Any, Any] = {
    HardenOptions: HardenOptions("standard"),
    Network: Network("cifar:resnet20"),
    AdaptationOptions: AdaptationOptions(),
    DataPart: DataPart(),
    str: "",
    float: 0.0,
}
"""What stands for a label's that is wrong, so that the label is known to the checks that follow."""


class Faults:
    """What is wrong so far, each with its place."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, place: str, what: str) -> None:
        """Tell what is wrong at a place."""
        self.found.append(f"{place}: {what}" if place else what)


class Merged(dict[str, Any]):
    """What is said of all labels and of one; `own` is the latter."""

    def __init__(self, merged: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        super().__init__(merged)
        self.own = own


def is_known(key: Any, choices: Any, place: str, faults: Faults) -> bool:
    """Return whether a key is among the choices, after telling where it is not."""
    if key in choices:
        return True
    faults.add(_below(place, key), str(unknown("key", key, choices)))
    return False


def _below(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)


def fields_of(kind: Any, given: Mapping[str, Any], place: str, faults: Faults) -> dict[str, Any]:
    """Return the fields of a dataclass that are given and known, each built or `WRONG`."""
    hints = get_type_hints(kind)
    return {
        name: build_value(hints[name], value, _place_of(kind, given, place, name), faults)
        for name, value in given.items()
        if is_known(name, hints, place, faults) and not (value is None and hints[name] in (str, Dtype))  # an empty one
    }


def _place_of(kind: Any, given: Mapping[str, Any], place: str, name: str) -> str:
    """Return where a value stands: what is said of all labels stands once."""
    if isinstance(given, Merged) and name not in given.own:
        return f"{TRAINING if kind is TrainingOptions else ADAPTATION}.{name}"
    return _below(place, name)


def build_value(kind: Any, value: Any, place: str, faults: Faults) -> Any:
    """Return a value of a type, or `WRONG` after telling why not."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in inner:
            return None
        return build_value(next(one for one in inner if one is not NoneType), value, place, faults)
    if kind is HardenOptions:
        return _build_options(value, place, faults)
    if is_dataclass(kind):
        return _build_dataclass(kind, value, place, faults)
    if origin is not None and issubclass(origin, Mapping):
        return _build_mapping(inner[1], value, place, faults)
    if origin is not None and issubclass(origin, Sequence):
        if not isinstance(value, list):
            return tell_wrong("a list", value, place, faults)
        found = tuple(build_value(inner[0], one, f"{place}[{number}]", faults) for number, one in enumerate(value))
        return tuple(one for one in found if one is not WRONG)
    if kind is float:
        return _build_number(value, place, faults)
    if kind is Any:
        return tuple(value) if isinstance(value, list) else value
    if type(value) is not kind:
        words = {str: "text", int: "a whole number", bool: "true or false"}
        return tell_wrong(words[kind], value, place, faults)
    if kind is int and abs(value) >= 2**63:
        return tell_wrong("a whole number of at most 63 bits", value, place, faults)
    return value


def _build_dataclass(kind: Any, value: Any, place: str, faults: Faults) -> Any:
    if not isinstance(value, dict):
        return tell_wrong("names and values", value, place, faults)
    built = {name: one for name, one in fields_of(kind, value, place, faults).items() if one is not WRONG}
    if lacking := [f.name for f in fields(kind) if _is_required(f) and f.name not in built]:
        for name in lacking:
            if name not in value:
                faults.add(place, f"Expected `{name}`, but there is none.")
        return WRONG
    return _made(kind, built, value, place, faults)


def _build_options(value: Any, place: str, faults: Faults) -> Any:
    """Return how a label trains: the options of its method stand beside where it cuts."""
    if not isinstance(value, dict):
        return tell_wrong("names and values", value, place, faults)
    name = value.get("method", HardenOptions.method)
    entry = METHODS.get(name) if isinstance(name, str) else None
    if entry is None:
        faults.add(_below(place, "method"), str(unknown("method", str(name), METHODS)))
    options = entry.options if entry else [option for one in METHODS.values() for option in one.options]
    common = [field.name for field in fields(HardenOptions)]
    given = {key: one for key, one in value.items() if is_known(key, [*common, *options], place, faults)}
    rest = {key: one for key, one in given.items() if key in common and key != "method"}
    built = {key: one for key, one in fields_of(HardenOptions, rest, place, faults).items() if one is not WRONG}
    if entry is None:
        return WRONG
    own = {key: one for key, one in given.items() if key in options}
    method = _build_dataclass(entry.load(), own, place, faults)
    return WRONG if method is WRONG else _made(HardenOptions, built | {"method": method}, value, place, faults)


def _made(kind: Any, built: Mapping[str, Any], value: Mapping[str, Any], place: str, faults: Faults) -> Any:
    """Return a dataclass made of its fields, or `WRONG` after telling what cannot be."""
    try:
        return kind(**built)
    except InputError as error:
        for fault in re.split(r"(?<=\.) (?=Expected |Unknown )", str(error)):
            named = re.search(r"`(\w+)`", fault) or re.match(r"Unknown (\w+)", fault)
            known = named is not None and named[1] in get_type_hints(kind)
            faults.add(_place_of(kind, value, place, named[1]) if named and known else place, fault)
        return WRONG


def _is_required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _build_mapping(inner: Any, value: Any, place: str, faults: Faults) -> Any:
    if value is None:
        return {}
    if not isinstance(value, dict):
        return tell_wrong("names and values", value, place, faults)
    built = {str(key): build_value(inner, one, _below(place, key), faults) for key, one in value.items()}
    return {key: STAND_INS.get(inner, ()) if one is WRONG else one for key, one in built.items()}


def _build_number(value: Any, place: str, faults: Faults) -> Any:
    """Return a float; also of "1e-3", which YAML takes for text, and of "8/255"."""
    try:
        if isinstance(value, str):
            value = float(Fraction(value)) if "/" in value else float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except (ValueError, ArithmeticError):
        pass
    return tell_wrong("a finite number" if isinstance(value, float) else "a number", value, place, faults)


def tell_wrong(expected: str, value: Any, place: str, faults: Faults) -> Any:
    """Tell what was expected of a value, and return `WRONG`."""
    faults.add(place, f"Expected {expected}, but got {shown_value(value)}.")
    return WRONG
