"""Protocols by name, as values, and out of a user's functions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from math import isfinite
from typing import Any

from statshift._core.errors import InputError
from statshift._core.registry import look_up
from statshift.adapting.families import Rule
from statshift.adapting.protocol import Protocol, check_protocol
from statshift.adapting.protocols.once import Once
from statshift.adapting.protocols.own import own, own_rule
from statshift.adapting.registry import PROTOCOLS, RULE_NAMES, SOURCE, WRITABLE, listed

Own = Mapping[str, Callable[..., Any] | Protocol]
"""A user's protocols by the names that rows shall call them."""

Protocols = str | Protocol | Sequence[str | Protocol | Own] | Own


def find(spec: str) -> Protocol:
    """Return the protocol of "NAME" or "NAME:NUMBER" ("prior:64", "running:0.1"); with "@IMAGES" behind, once.

    Raises:
        InputError: an unknown name, a number where there is none to give, or what cannot be adapted once.
    """
    adapting, at, images = spec.rpartition("@")
    if at:
        if not images.isdecimal():
            raise InputError(f"Expected NAME@IMAGES with an integer of at least 1, but got {spec!r}.")
        return Once(find(adapting), int(images))
    name, colon, text = spec.partition(":")
    kind: type[Protocol] = look_up(PROTOCOLS, "protocol", name).load()
    if not colon:
        return kind()
    number = kind.number
    if number is None:
        raise InputError(f"Expected no number for the protocol {name}, but got {spec!r}.")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not number.low <= value <= number.high:
        span = f"from {number.low} to {number.high}" if isfinite(number.high) else f"of {number.low} or more"
        raise InputError(f"Expected {name}:NUMBER, its `{number.field}` {span}, but got {spec!r}.")
    return kind(**{number.field: value})


def resolve_protocols(protocols: Protocols) -> dict[str, Protocol]:
    """Return the protocols by what rows call them, in order, none twice.

    The source is not among them: it is always measured.

    Args:
        protocols: names ("auto", "prior:64"), `Protocol` values, and mappings from a user's own names to such values,
            or to functions of (stored, observed, images), of (model, images), or of (model); see `statshift.measure`.

    Raises:
        InputError: an unknown name, a name given to two things, or a function of other arguments.
    """
    parts: Any = [protocols] if isinstance(protocols, str | Mapping) or _is_value(protocols) else protocols
    if not isinstance(parts, Iterable):
        raise InputError(
            f"Expected protocols as names or {{name: function}}, but got {parts!r}; () is the source alone."
        )
    chosen: dict[str, Protocol] = {}
    for part in parts:
        for label, protocol in _labelled(part).items():
            if label in chosen and not _alike(protocol, chosen[label]):
                raise InputError(f"The protocol name {label!r} is given twice: choose another for your function.")
            chosen[label] = protocol
    return {label: protocol for label, protocol in chosen.items() if label != SOURCE}


def once(protocol: Any, numbers: Mapping[str, Any]) -> Rule:
    """Return the rule by which a protocol rewrites statistics in one forward, with values of its options.

    Raises:
        InputError: there is none, or the values are not for it.
    """
    if isinstance(protocol, str):
        protocol = find(protocol)
    if _is_value(protocol):
        value = _made(protocol)
        rule = value.at_once
        if not isinstance(rule, Rule):
            why = value.not_exported or "it returns a model of its own"
            raise InputError(
                f"The protocol {value.label} has no statistics to write: {why}. Measure it as it is, or write those of "
                f"{listed(RULE_NAMES)}."
            )
    elif callable(protocol):
        rule = own_rule(protocol)
    else:
        raise InputError(
            f"Expected `protocol` to be a name, a function or a Protocol, but got {protocol!r}; choose from: "
            f"{', '.join(WRITABLE)}."
        )
    return rule.with_options(numbers) if numbers else rule


def _labelled(part: Any) -> dict[str, Protocol]:
    """Return by label what a part of the protocols asked for names."""
    if isinstance(part, str):
        return {part: find(part)}
    if _is_value(part):
        value = _made(part)
        return {value.label: value}
    if not isinstance(part, Mapping):
        raise InputError(f"Expected protocols as names, values or {{name: function}}, but got {part!r}.")
    for label in part:
        if label in PROTOCOLS:
            raise InputError(f"The protocol name {label!r} is taken: give your function another.")
    return {label: _made(value) if _is_value(value) else own(label, value) for label, value in part.items()}


def _is_value(given: Any) -> bool:
    return isinstance(given, Protocol) or (isinstance(given, type) and issubclass(given, Protocol))


def _made(given: Protocol | type[Protocol]) -> Protocol:
    """Return a value, of a class the one with its defaults.

    Raises:
        InputError: an option without default, or a protocol that does not say what it must.
    """
    if isinstance(given, type):
        for option in fields(given):
            if option.default is MISSING and option.default_factory is MISSING:
                raise InputError(f"Expected a value of {given.__name__}, since `{option.name}` has no default.")
        given = given()
    check_protocol(given)
    return given


def _alike(first: Protocol, second: Protocol) -> bool:
    """Return whether one protocol that ships is given twice."""
    return first.code is None and second.code is None and first == second
