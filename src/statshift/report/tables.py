"""A page's tables, those of its charts among them, as CSV and as Markdown."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from statshift.report.content import ByRow, Cell, Chart, Column, Page, Table, blocks_of
from statshift.report.words import ABSENT

INTERVAL = Column("95 % interval", numeric=False)


def tables(page: Page) -> list[Table]:
    """Return all tables of a page, in order; a chart counts as its table, and intervals have columns of their own."""
    found = (block.table if isinstance(block, Chart | ByRow) else block for block in blocks_of(page))
    return [spread(block) for block in found if isinstance(block, Table)]


def spread(table: Table) -> Table:
    """Return a table whose cells' intervals are columns of their own."""
    wide = [any(row[place].interval for row in table.rows) for place in range(len(table.columns))]
    if not any(wide):
        return table

    def widened(parts: Sequence[tuple[Any, Any]]) -> tuple[Any, ...]:
        pairs = zip(parts, wide, strict=True)
        return tuple(one for both, twice in pairs for one in both[: 1 + twice])

    columns = widened([(column, INTERVAL) for column in table.columns])
    rows = tuple(
        widened([(replace(cell, interval=""), Cell(cell.interval or ABSENT)) for cell in row]) for row in table.rows
    )
    return replace(table, columns=columns, rows=rows)


def as_csv(table: Table) -> str:
    """Return a table as CSV: the head and the rows, cells as they are shown; no number has a separator of thousands."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.label for column in table.columns])
    for row in table.rows:
        pairs = zip(row, table.columns, strict=True)
        writer.writerow([_plain(cell.text) if column.numeric else cell.text for cell, column in pairs])
    return file.getvalue()


def as_markdown(found: Sequence[Table]) -> str:
    """Return tables as Markdown, each under its title; what would be markup in a text is escaped."""
    parts = []
    for table in found:
        lines = [[column.label for column in table.columns], *([cell.text for cell in row] for row in table.rows)]
        head, *rows = (f"| {' | '.join(map(escaped, line))} |" for line in lines)
        rule = f"|{'|'.join('---:' if column.numeric else '---' for column in table.columns)}|"
        note = [f"\n{escaped(table.note)}"] if table.note else []
        parts.append("\n".join([f"### {escaped(table.title)}\n", head, rule, *rows, *note]))
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Return text for one cell of a Markdown table: one line, shown as it is."""
    line = re.sub(r"([\\`*|~]|\[(?![+-]?\d)|\](?=[(\[:])|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))
    return line.replace("&", "&amp;").replace("<", "&lt;")


def _plain(text: str) -> str:
    return text.replace(",", "") if re.fullmatch(r"[+-]?[\d,]+(\.\d+)?", text) else text
