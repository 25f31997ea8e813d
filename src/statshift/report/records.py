"""The section with each run's record, whole, and with what differs between them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from statshift._core.storage import read_lines
from statshift.report.content import Block, Cell, Column, Facts, Section, Table
from statshift.report.reading import Measured
from statshift.report.subjects import Group
from statshift.report.words import short

LONGEST_VALUE = 200
TOLD = ("families", "groups", "own_severities", "titles")
"""What a record says of shifts, which differs where they do."""


def section(measured: Sequence[Measured], groups: Sequence[Group]) -> Section:
    """Return the section."""
    names = {id(one.measured): one.model for group in groups for one in group.sources}
    labels = [names.get(id(one), short(one.run.path.name)) for one in measured]
    blocks: list[Block] = []
    if len(measured) > 1:
        table = _differences(measured, labels)
        if table.rows:
            blocks.append(table)
    for number, (one, label) in enumerate(zip(measured, labels, strict=True), start=1):
        values = {
            "path": str(one.run.path),
            "rows": len(one.run.rows),
            "seconds": round(seconds(one), 1),
            "record": one.run.record,
        }
        blocks.append(Facts(f"record-{number}", f"{label}: {short(str(one.run.path), 80)}", values))
    text = "What makes each figure what it is: model and weights, images and how they were corrupted, versions."
    return Section("records", "Records", (text,), tuple(blocks))


def seconds(measured: Measured) -> float:
    """Return for how long a run was measured, in all; what its file of timings does not tell counts as nothing."""
    total = 0.0
    for line in read_lines(measured.run.path / "timings.jsonl"):
        try:
            total += float(json.loads(line)["seconds"])
        except (ValueError, KeyError, TypeError):
            continue
    return total


def flattened(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field of a nested mapping by its dotted name."""
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _differences(measured: Sequence[Measured], labels: Sequence[str]) -> Table:
    records = [{key: value for key, value in one.run.record.items() if key not in TOLD} for one in measured]
    fields = [dict(flattened(one)) for one in records]
    rows = []
    for name in dict.fromkeys(key for one in fields for key in one):
        values = [one.get(name) for one in fields]
        if any(value != values[0] for value in values):
            rows.append((Cell(short(name)), *(Cell(_shown(value)) for value in values)))
    columns = Column("field", numeric=False), *(Column(label, numeric=False) for label in labels)
    return Table("record-differences", "What differs between the runs' records", columns, tuple(rows))


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return short("-" if value is None else text, LONGEST_VALUE)
