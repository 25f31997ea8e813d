"""A recipe from a YAML file; it is data, of which nothing runs but what `py:` names when the recipe is run."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from fractions import Fraction
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from statshift._core.errors import InputError, unknown
from statshift.adapting.options import AdaptationOptions
from statshift.hardening.options import HardenOptions
from statshift.hardening.registry import METHODS
from statshift.hardening.training import TrainingOptions
from statshift.measuring.loading import Dtype
from statshift.recipes.configuration import Network, Recipe, RecipeError
from statshift.recipes.strict import load, shown
from statshift.recipes.writing import ADAPTATION, SECTIONS, TRAINING

_WRONG = object()
"""What stands for a value that was told to be wrong."""

STAND_INS: dict[Any, Any] = {
    HardenOptions: HardenOptions("standard"),
    Network: Network("cifar:resnet20"),
    AdaptationOptions: AdaptationOptions(),
    str: "",
    float: 0.0,
}
"""What stands for a label's that is wrong, so that the label is known to the checks that follow."""


def read_recipe(path: str | Path) -> Recipe:
    """Return the recipe of a file.

    Raises:
        InputError: the file cannot be read, or is wrong; all faults are told at once, each with its place.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"Cannot read the recipe {path}: {reason}.") from error
    return parse_recipe(text, str(path))


def parse_recipe(text: str, where: str = "The recipe") -> Recipe:
    """Return the recipe of a file's text; `where` names it in errors.

    Raises:
        InputError: as `read_recipe`.
    """
    content, faults = load(text, where), _Faults()
    shared = {name: content.pop(name, None) for name in (TRAINING, ADAPTATION)}
    content = {name: value for name, value in content.items() if _known(name, SECTIONS, "", faults)}
    for name in ("name", "title"):
        if not isinstance(content.get(name), str):
            _wrong("text", content.get(name), name, faults)
            content[name] = ""
    content = {name: _labelled(value) for name, value in content.items()}
    content["files"] = _with(content.get("files"), lambda path: "" if path is None else path)
    content["options"] = _with(content.get("options"), lambda one: {} if one is None else one)
    _share(content, shared, faults)
    built = _fields(Recipe, content, "", faults)
    try:
        recipe = Recipe(**{name: value for name, value in built.items() if value is not _WRONG})
    except RecipeError as error:
        for fault in error.faults:
            if not _follows(fault, faults.found, built):
                faults.add("", fault)
    if faults.found:
        raise RecipeError(faults.found, where)
    return recipe


class _Faults:
    """What is wrong so far, each with its place."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, place: str, what: str) -> None:
        self.found.append(f"{place}: {what}" if place else what)


def _follows(fault: str, found: Sequence[str], built: Mapping[str, Any]) -> bool:
    """Return whether a fault only follows from one that is found: of a part, or its labels, that could not be read."""
    part, _, what = fault.partition(": ")
    unread = {name for name, value in built.items() if value is _WRONG}
    entries = any(one.startswith(f"{part}[") for one in found)
    unlabelled = bool(unread & {"options", "networks"}) and ("label" in what.partition("'")[0])
    return part in unread or entries or unlabelled


def _share(content: dict[str, Any], shared: Mapping[str, Any], faults: _Faults) -> None:
    """Give every label what is said of all, and one list of shifts to all."""
    options, networks = content.get("options"), content.get("networks")
    labels = list(options or networks or {}) if isinstance(options or networks, dict) else []
    for name, kind in ((TRAINING, TrainingOptions), (ADAPTATION, AdaptationOptions)):
        given = shared[name]
        if given is None:
            continue
        if not isinstance(given, dict):
            _wrong("names and values", given, name, faults)
            continue
        built = _fields(kind, given, name, faults)
        good = {key: given[key] for key, value in built.items() if value is not _WRONG}
        if name == ADAPTATION:
            own = content.get("adaptation") or {}
            if isinstance(own, dict):
                content["adaptation"] = {label: _merged(good, own.get(label)) for label in labels} | {
                    label: one for label, one in own.items() if label not in labels
                }
        elif isinstance(options, dict):
            content["options"] = {
                label: one | {"training": _merged(good, one.get("training"))} if isinstance(one, dict) else one
                for label, one in options.items()
            }
    if isinstance(content.get("shifts"), list):
        content["shifts"] = dict.fromkeys(labels, content["shifts"])


def _merged(common: Mapping[str, Any], own: Any) -> Any:
    return _Merged({**common, **own}, own) if isinstance(own, dict) else _Merged(common, {}) if own is None else own


class _Merged(dict[str, Any]):
    """What is said of all labels and of one; `own` is the latter."""

    def __init__(self, merged: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        super().__init__(merged)
        self.own = own


def _labelled(value: Any) -> Any:
    """Return a mapping with labels that are text, whatever YAML takes them for."""
    return {str(label): one for label, one in value.items()} if isinstance(value, dict) else value


def _with(value: Any, change: Any) -> Any:
    return (
        {key: change(one) for key, one in value.items()} if isinstance(value, dict) else {} if value is None else value
    )


def _known(key: Any, choices: Any, place: str, faults: _Faults) -> bool:
    if key in choices:
        return True
    faults.add(_below(place, key), str(unknown("key", key, choices)))
    return False


def _below(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)


def _fields(kind: Any, given: Mapping[str, Any], place: str, faults: _Faults) -> dict[str, Any]:
    """Return the fields of a dataclass that are given and known, each built or `_WRONG`."""
    hints = get_type_hints(kind)
    return {
        name: _build(hints[name], value, _place_of(kind, given, place, name), faults)
        for name, value in given.items()
        if _known(name, hints, place, faults) and not (value is None and hints[name] in (str, Dtype))  # an empty one
    }


def _place_of(kind: Any, given: Mapping[str, Any], place: str, name: str) -> str:
    """Return where a value stands: what is said of all labels stands once."""
    if isinstance(given, _Merged) and name not in given.own:
        return f"{TRAINING if kind is TrainingOptions else ADAPTATION}.{name}"
    return _below(place, name)


def _build(kind: Any, value: Any, place: str, faults: _Faults) -> Any:
    """Return a value of a type, or `_WRONG` after telling why not."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in inner:
            return None
        return _build(next(one for one in inner if one is not NoneType), value, place, faults)
    if kind is HardenOptions:
        return _build_options(value, place, faults)
    if is_dataclass(kind):
        return _build_dataclass(kind, value, place, faults)
    if origin is not None and issubclass(origin, Mapping):
        return _build_mapping(inner[1], value, place, faults)
    if origin is not None and issubclass(origin, Sequence):
        if not isinstance(value, list):
            return _wrong("a list", value, place, faults)
        found = tuple(_build(inner[0], one, f"{place}[{number}]", faults) for number, one in enumerate(value))
        return tuple(one for one in found if one is not _WRONG)
    if kind is float:
        return _build_number(value, place, faults)
    if kind is Any:
        return tuple(value) if isinstance(value, list) else value
    if type(value) is not kind:
        words = {str: "text", int: "a whole number", bool: "true or false"}
        return _wrong(words[kind], value, place, faults)
    if kind is int and abs(value) >= 2**63:
        return _wrong("a whole number of at most 63 bits", value, place, faults)
    return value


def _build_dataclass(kind: Any, value: Any, place: str, faults: _Faults) -> Any:
    if not isinstance(value, dict):
        return _wrong("names and values", value, place, faults)
    built = {name: one for name, one in _fields(kind, value, place, faults).items() if one is not _WRONG}
    if lacking := [f.name for f in fields(kind) if _is_required(f) and f.name not in built]:
        for name in lacking:
            if name not in value:
                faults.add(place, f"Expected `{name}`, but there is none.")
        return _WRONG
    return _made(kind, built, value, place, faults)


def _build_options(value: Any, place: str, faults: _Faults) -> Any:
    """Return how a label trains: the options of its method stand beside where it cuts."""
    if not isinstance(value, dict):
        return _wrong("names and values", value, place, faults)
    name = value.get("method", HardenOptions.method)
    entry = METHODS.get(name) if isinstance(name, str) else None
    if entry is None:
        faults.add(_below(place, "method"), str(unknown("method", str(name), METHODS)))
    options = entry.options if entry else [option for one in METHODS.values() for option in one.options]
    common = [field.name for field in fields(HardenOptions)]
    given = {key: one for key, one in value.items() if _known(key, [*common, *options], place, faults)}
    rest = {key: one for key, one in given.items() if key in common and key != "method"}
    built = {key: one for key, one in _fields(HardenOptions, rest, place, faults).items() if one is not _WRONG}
    if entry is None:
        return _WRONG
    own = {key: one for key, one in given.items() if key in options}
    method = _build_dataclass(entry.load(), own, place, faults)
    return _WRONG if method is _WRONG else _made(HardenOptions, built | {"method": method}, value, place, faults)


def _made(kind: Any, built: Mapping[str, Any], value: Mapping[str, Any], place: str, faults: _Faults) -> Any:
    """Return a dataclass made of its fields, or `_WRONG` after telling what cannot be."""
    try:
        return kind(**built)
    except InputError as error:
        for fault in re.split(r"(?<=\.) (?=Expected |Unknown )", str(error)):
            named = re.search(r"`(\w+)`", fault) or re.match(r"Unknown (\w+)", fault)
            known = named is not None and named[1] in get_type_hints(kind)
            faults.add(_place_of(kind, value, place, named[1]) if named and known else place, fault)
        return _WRONG


def _is_required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _build_mapping(inner: Any, value: Any, place: str, faults: _Faults) -> Any:
    if value is None:
        return {}
    if not isinstance(value, dict):
        return _wrong("names and values", value, place, faults)
    built = {str(key): _build(inner, one, _below(place, key), faults) for key, one in value.items()}
    return {key: STAND_INS.get(inner, ()) if one is _WRONG else one for key, one in built.items()}


def _build_number(value: Any, place: str, faults: _Faults) -> Any:
    """Return a float; also of "1e-3", which YAML takes for text, and of "8/255"."""
    try:
        if isinstance(value, str):
            value = float(Fraction(value)) if "/" in value else float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except (ValueError, ArithmeticError):
        pass
    return _wrong("a finite number" if isinstance(value, float) else "a number", value, place, faults)


def _wrong(expected: str, value: Any, place: str, faults: _Faults) -> Any:
    faults.add(place, f"Expected {expected}, but got {shown(value)}.")
    return _WRONG
