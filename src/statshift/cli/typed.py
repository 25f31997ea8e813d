"""What is typed on the command line, as values; a fault is told in one line."""

import ast
import re
from collections.abc import Callable
from typing import Any

from statshift._core import numbers
from statshift._core.errors import InputError
from statshift.models.usercode import import_function


def parse_list(text: str) -> list[str]:
    """Return the parts of a list separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_severities(text: str) -> list[int]:
    """Return the severities of "1,3,5"; whether they are from 1 to 5 is checked where they are used."""
    try:
        return [int(part) for part in parse_list(text)]
    except ValueError:
        raise InputError(f"Expected --severities as numbers from 1 to 5 with commas, but got {text!r}.") from None


def parse_window(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) of "512x256", which is WIDTHxHEIGHT; None for None."""
    if text is None:
        return None
    width, times, height = text.lower().partition("x")
    if not (times and width.strip().isdigit() and height.strip().isdigit()):
        raise InputError(f"Expected --window as WIDTHxHEIGHT in px, such as 512x256, but got {text!r}.")
    return int(height), int(width)


def parse_bytes(name: str, text: str | None) -> int | None:
    """Return the bytes of "20GB", "1.5 TB" or a plain number, thousands by 1000; None for None."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)B?", text.strip().upper())
    if found is None:
        raise InputError(f"Expected --{name} in bytes, such as 20GB or 500MB, but got {text!r}.")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2] or " "))


def parse_scale(text: str | None) -> tuple[float, float] | None:
    """Return the two factors of "0.5,2"; None for None."""
    if text is None:
        return None
    parts = [parse_fraction("scale", part) for part in parse_list(text)]
    if len(parts) != 2:
        raise InputError(f"Expected --scale as the least and the greatest factor, such as 0.5,2, but got {text!r}.")
    return parts[0], parts[1]


def parse_functions(text: str) -> list[Any]:
    """Return names as they are, and py:FILE:FUNCTION as a mapping from the function's name to the function."""
    return [
        {part.rpartition(":")[2]: import_function(part[3:])} if part.startswith("py:") else part
        for part in parse_list(text)
    ]


def parse_shifts(text: str) -> list[Any]:
    """Return names as they are, and py:FILE:NAME as the function or shift that it names."""
    from statshift.shifts.conditions import import_shift

    return [import_shift(part) if part.startswith("py:") else part for part in parse_list(text)]


def parse_channels(name: str, text: str | None) -> tuple[float, ...] | None:
    """Return the three numbers of "0.5,0.5,0.5", "127/255,127/255,127/255" or "0.5", or None for None."""
    if text is None:
        return None
    parts = parse_list(text)
    wrong = f"Expected --{name} as three numbers with commas, or one for all three channels, but got {text!r}"
    if len(parts) not in (1, 3):
        raise InputError(f"{wrong}, which are {len(parts)}.")
    try:
        values = tuple(map(numbers.parse_number, parts))
    except ValueError as error:
        raise InputError(f"{wrong}: {error}.") from None
    return values if len(values) == 3 else values * 3


def parse_fraction(name: str, text: str) -> float:
    """Return the number of "0.25", "1/255" or "0.5/255"."""
    try:
        return numbers.parse_number(text.strip())
    except ValueError:
        raise InputError(f"Expected --{name} as a number or a fraction such as 1/255, but got {text!r}.") from None


def parse_table(text: str | None) -> Any:
    """Return the name of a table of constants, checked."""
    if text not in (None, "imagenet", "cifar"):
        raise InputError(f"Expected --table to be imagenet or cifar, but got {text!r}.")
    return text


def parse_choice(name: str, text: str) -> bool:
    """Return whether the answer is yes, of yes and no."""
    if text not in ("yes", "no"):
        raise InputError(f"Expected --{name} to be yes or no, but got {text!r}.")
    return text == "yes"


def parse_model_args(pairs: list[str] | None) -> dict[str, Any]:
    """Return {"width": 2} for ["width=2"]; values are Python literals, or else text."""
    return _parse_pairs(pairs, "--model-args", str.isidentifier)


def parse_method_args(pairs: list[str] | None) -> dict[str, Any]:
    """Return {"attack.steps": 3} for ["attack.steps=3"], likewise."""
    return _parse_pairs(pairs, "--method-args", lambda key: all(part.isidentifier() for part in key.split(".")))


def _parse_pairs(pairs: list[str] | None, flag: str, fits: Callable[[str], bool]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not fits(key):
            raise InputError(f"Expected {flag} KEY=VALUE, but got {pair!r}.")
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = value
    return arguments
