"""Tables in plain text."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as aligned text: the first column to the left, a rule under the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:]])


def short_table(rows: Sequence[Sequence[str]], most: int = 8) -> str:
    """Return a table of the head and at most so many rows: the first and the last, and how many are between."""
    head, *body = rows
    if len(body) <= most:
        return table(rows)
    first, last = body[: most // 2], body[len(body) - most // 2 :]
    between = [f"... {len(body) - len(first) - len(last)} more", *[""] * (len(head) - 1)]
    return table([head, *first, between, *last])


def percent(value: float | None, sign: str = "") -> str:
    """Return a fraction in percent with one decimal; "-" where there is none."""
    return "-" if value is None else f"{100 * value:{sign}.1f}"
