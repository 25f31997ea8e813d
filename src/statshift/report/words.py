"""Numbers as a reader sees them: percent, points, intervals, and the cells that hold them."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from statshift.report.content import Cell

ABSENT = "-"
LONGEST_NAME = 60
"""Characters of a label's part; what is longer loses its middle."""

Interval = Sequence[float] | None


def percent(value: float | None, unit: str = " %") -> str:
    """Return a fraction in percent: "68.8 %"."""
    return ABSENT if value is None else f"{_unsigned_zero(f'{100 * value:.1f}')}{unit}"


def points(value: float, unit: str = " points") -> str:
    """Return a difference of fractions with its sign: "+8.1 points"."""
    return f"{_unsigned_zero(f'{100 * value:+.1f}')}{unit}"


def amount(low: float, value: float, high: float) -> str:
    """Return how much was gained or, of turned numbers, lost: "8.1 points [7.0, 9.2]"; with signs where 0 is held."""
    sign = "" if low > 0 else "+"
    return f"{_unsigned_zero(f'{100 * value:{sign}.1f}')} points {interval((low, high), sign)}"


def interval(bounds: Interval, sign: str = "") -> str:
    """Return both ends of an interval in percent: "[67.2, 70.4]"; "" for none."""
    if bounds is None:
        return ""
    low, high = (_unsigned_zero(f"{100 * bound:{sign}.1f}") for bound in bounds)
    return f"[{low}, {high}]"


def p_value(value: float) -> str:
    """Return a p-value to two figures."""
    return "<1e-12" if value < 1e-12 else f"{value:.2g}"


def accuracy_cell(value: float | None, bounds: Interval = None) -> Cell:
    """Return the cell of a fraction in percent, shaded, with its interval as its note."""
    return Cell(percent(value, ""), value, f"95 % interval {interval(bounds)}" if bounds and value is not None else "")


def bounded_cell(value: float | None, bounds: Interval) -> Cell:
    """Return the cell of a fraction in percent with its interval beside it."""
    return Cell(percent(value, ""), value, interval=interval(bounds) if value is not None else "")


def points_cell(value: float, bounds: Interval, note: str = "") -> Cell:
    """Return the cell of a difference of fractions, in percentage points, with its interval beside it."""
    return Cell(points(value, ""), value, note, interval(bounds, "+"))


def count_cell(value: float) -> Cell:
    """Return the cell of a whole number."""
    return Cell(f"{value:,.0f}", float(value))


def class_name(label: int, names: Any) -> str:
    """Return a class by its name, of names in order or by label as text, or its number where it has none."""
    if isinstance(names, Mapping):
        return short(str(names.get(str(label)) or f"class {label}"), 40)
    return short(str(names[label]), 40) if names and 0 <= label < len(names) and names[label] else f"class {label}"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count and its noun: "1 image", "2 images"."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def listed(names: Sequence[str], most: int = 6, conjunction: str = "and") -> str:
    """Return names as a phrase: "a, b and c", and how many more there are; names with commas are kept apart."""
    shown = list(names[:most])
    comma = "; " if any("," in name for name in shown) else ", "
    if len(names) > most:
        return f"{comma.join(shown)} {conjunction} {len(names) - most} more"
    return f" {conjunction} ".join([comma.join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def short(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a user's text as one line of visible characters, without its middle where it is long."""
    line = "".join(" " if unicodedata.category(one)[0] in "CZ" else one for one in text)
    line = " ".join(line.split())
    if len(line) <= longest:
        return line
    head = (longest - 1) // 2
    return f"{line[:head]}…{line[head + 1 - longest :]}"


def _unsigned_zero(text: str) -> str:
    return text.lstrip("+-") if float(text) == 0 else text
