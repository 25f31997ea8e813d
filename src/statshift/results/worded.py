"""One form for the figures and texts of every task: that of classification, whose score is the accuracy."""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from statshift.results.family_rows import FAMILY_SECTIONS

T = TypeVar("T")

SPELT = {"miou": "mIoU", "per_image_miou": "mIoU by image"}
"""Headlines that are not spelt as their words are."""

CODES = ("shade",)
"""Fields that are no text."""


def as_accuracy(summary: Mapping[str, Any], headline: str) -> dict[str, Any]:
    """Return a summary in which the score of a task, its headline, stands where the accuracy of classification does."""
    protocols = {name: _protocol(one, headline) for name, one in summary["protocols"].items()}
    return {**summary, "protocols": protocols}


def _protocol(found: Mapping[str, Any], headline: str) -> dict[str, Any]:
    renamed = _renamed(found, headline)
    renamed["per_shift"] = {shift: _renamed(one, headline) for shift, one in found["per_shift"].items()}
    if renamed["measured_mean"]:
        renamed["measured_mean"] = _mean(found["measured_mean"], headline)
    if renamed.get("gain"):
        renamed["gain"] = _renamed(found["gain"], headline)
    for section in FAMILY_SECTIONS:
        if section in found:
            renamed[section] = {name: _mean(one, headline) for name, one in found[section].items()}
    if "paired_source" in found:
        renamed["paired_source"] = _protocol(found["paired_source"], headline)
    return renamed


def _mean(found: Mapping[str, Any], headline: str) -> dict[str, Any]:
    """Return a mean in which the parts that are figures too are renamed."""
    parts = {name: _mean(one, headline) if isinstance(one, Mapping) else one for name, one in found.items()}
    return _renamed(parts, headline)


def _renamed(found: Mapping[str, Any], headline: str) -> dict[str, Any]:
    pattern = re.compile(rf"((?:clean_|mean_)?){re.escape(headline)}((?:_by_draw|_deviation)?)")
    scores = {name: match.expand(r"\1accuracy\2") for name in found if (match := pattern.fullmatch(name))}
    others = {name: value for name, value in found.items() if name in scores or name not in scores.values()}
    return {scores.get(name, name): value for name, value in others.items()}


def spelt(headline: str) -> str:
    """Return a headline as a reader sees it: "mIoU"."""
    return SPELT.get(headline, headline.replace("_", " "))


def _as_written(headline: str, first: str) -> str:
    words = spelt(headline)
    return words[:1].upper() + words[1:] if first == "A" and words.partition(" ")[0].islower() else words


def reworded(value: T, headline: str) -> T:
    """Return texts, alone or in data classes and tuples, with a headline for "accuracy", but for that of pixels."""
    found: Any = value
    if isinstance(value, str):
        found = re.sub(r"(?<![Pp]ixel )[Aa]ccuracy", lambda match: _as_written(headline, match[0][0]), value)
    elif isinstance(value, tuple):
        found = tuple(reworded(one, headline) for one in value)
    elif is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.init and field.name not in CODES]
        found = replace(value, **{name: reworded(getattr(value, name), headline) for name in names})
    made: T = found
    return made
