"""The section on how weights were made: options, and losses by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

from statshift.report.content import Block, Cell, Chart, Column, Facts, Panel, Section, Series, Table
from statshift.report.damage import damaged
from statshift.report.reading import Training
from statshift.report.subjects import Group
from statshift.report.words import listed, short


def section(trainings: Sequence[Training], groups: Sequence[Group]) -> Section | None:
    """Return the section, or None where no path holds a training."""
    if not trainings:
        return None
    blocks: list[Block] = []
    text = ["Losses on the training images, in nats, mean over each epoch."]
    for number, training in enumerate(trainings, start=1):
        with damaged(training.path / "record.json"):
            name = f"{short(training.path.name, 40)} ({short(str(training.record['hardening'].get('method')))})"
            text.append(_weights(name, training.record, groups))
            blocks += _losses(name, training.record["history"], number)
            options = {key: value for key, value in training.record.items() if key != "history"}
            blocks.append(Facts(f"training-{number}", f"{name}: options and record", options))
    return Section("training", "Training", tuple(text), tuple(blocks))


def _weights(name: str, record: Mapping[str, Any], groups: Sequence[Group]) -> str:
    """Return which measured subjects have the weights that a training made."""
    hashes = record.get("weights_hash")
    made = hashes if isinstance(hashes, Mapping) else {"weights": hashes}
    parts = []
    for branch, weights in made.items():
        models = [
            one.model
            for group in groups
            for one in group.sources
            if weights and one.record["model"].get("weights_hash") == weights
        ]
        parts.append(
            f"{short(str(branch))} {short(str(weights))}{f', measured here as {listed(models)}' if models else ''}"
        )
    begun = record.get("model", {}).get("weights_hash")
    return f"{name}: begun with weights {short(str(begun))}; made {'; '.join(parts)}."


def _losses(name: str, history: Sequence[Mapping[str, Any]], number: int) -> list[Block]:
    names = list(dict.fromkeys(branch for epoch in history for branch in epoch.get("losses", {})))
    if not history or not names:
        return []
    title = f"{name}: losses by epoch"
    columns = Column("epoch"), Column("learning rate"), *(Column(f"loss, {short(branch)}") for branch in names)
    rows, values = [], {branch: [epoch.get("losses", {}).get(branch) for epoch in history] for branch in names}
    for place, epoch in enumerate(history):
        rate = epoch.get("learning_rate")
        losses = (values[branch][place] for branch in names)
        rows.append((Cell(str(epoch["epoch"]), float(epoch["epoch"])), *map(_cell, (rate, *losses))))
    table = Table(f"losses-{number}-table", title, columns, tuple(rows))
    if len(history) < 2:
        return [table]
    series = tuple(Series(short(branch), tuple(found)) for branch, found in values.items())
    x = tuple(str(epoch["epoch"]) for epoch in history)
    panels = (Panel(name, series),)
    return [Chart(f"losses-{number}", title, "epoch", "loss, nats", x, panels, table, percent=False, wide=True)]


def _cell(value: float | None) -> Cell:
    return Cell("-") if value is None else Cell(f"{value:.4g}", float(value))
