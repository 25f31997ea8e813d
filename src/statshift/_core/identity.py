"""What makes two sittings the same job: the fields in which their records differ."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ANSWERS = "answers"
"""The field that holds a model's answers to a probe."""

TOLERANCE = 1e-2
"""By how much answers may differ, of the largest: TF32 on a GPU, and other kernels, move them by a few thousandths."""

BY_CONTENT = (
    *("cifar10", "cifar100", "folder", "folders", "npz", "py", "svhn"),
    *("seg", "cityscapes", "gta5", "synthia", "voc"),
)
"""Schemes whose path says nothing: the record holds hashes of what lies there."""

BY_PLACE = ("cifar-c", "imagenet-c")
"""Schemes whose path counts, however it is spelt: of what lies there the record holds a part only."""


def flat(nested: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found


def differing(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of the fields of two flat records that are not the same; an absent one counts as None."""
    return [name for name in {**there, **now} if not _is_same(name, there.get(name), now.get(name))]


def _is_same(name: str, first: Any, second: Any) -> bool:
    if first == second:
        return True
    if name == ANSWERS and isinstance(first, list) and isinstance(second, list):
        return _are_close(first, second)
    return isinstance(first, str) and isinstance(second, str) and _is_same_spec(first, second)


def _are_close(first: list[float], second: list[float]) -> bool:
    most = TOLERANCE * max(map(abs, [*first, *second]), default=0.0)
    return len(first) == len(second) and all(
        math.isclose(a, b, rel_tol=0, abs_tol=most) for a, b in zip(first, second, strict=True)
    )


def _is_same_spec(first: str, second: str) -> bool:
    """Return whether two specs name one thing, as far as their text can tell."""
    (scheme, _, place), (other, _, elsewhere) = first.partition(":"), second.partition(":")
    if scheme != other:
        return False
    if scheme in BY_PLACE:
        return Path(place).expanduser().resolve() == Path(elsewhere).expanduser().resolve()
    return scheme in BY_CONTENT and (scheme != "py" or place.rpartition(":")[2] == elsewhere.rpartition(":")[2])
