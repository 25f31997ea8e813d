"""JSON that others may have written: finite numbers, and no more nesting or text than a run has."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

DEEPEST = 50
"""Levels of lists and objects."""

LONGEST = 100_000
"""Characters of a text, other than a row's bits, whose length follows from the number of its images."""

LARGEST = 64 << 20
"""Bytes of a file that holds one object."""


def parse_json(text: bytes) -> Any:
    """Return what JSON stands for.

    Raises:
        ValueError: it is no JSON, holds a number that is not finite, or is nested too deep or too long.
    """
    try:
        found = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level, depth = [found], 0
    while level := [one for one in level if isinstance(one, dict | list | str)]:
        if depth > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")
        below: list[Any] = []
        for one in level:
            if isinstance(one, str):
                if len(one) > LONGEST:
                    raise ValueError(f"a text of {len(one):,} characters is longer than {LONGEST:,}")
            elif isinstance(one, list):
                below += one
            else:
                below += one.keys()
                below += (value for name, value in one.items() if name != "bits" or not isinstance(value, str))
        level, depth = below, depth + 1
    return found


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object that a file holds, or None if it holds something else or cannot be read."""
    try:
        if path.stat().st_size > LARGEST:
            return None
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")
