"""The section by layer: the shift that conditions make in the features, in units of sampling noise."""

from collections.abc import Mapping, Sequence
from typing import Any

from statshift.adapting.diagnose import LIKELY
from statshift.report.content import Block, Cell, Chart, Column, Fold, Panel, Section, Series, Table
from statshift.report.damage import damaged
from statshift.report.reading import Measured
from statshift.report.subjects import Group
from statshift.report.words import percent, short

MOST_SHIFTS = 4
"""Conditions in a chart, beside the clean images: those with the largest shift."""


def section(groups: Sequence[Group]) -> Section | None:
    """Return the section, or None where no run tells of its layers."""
    blocks: list[Block | Fold] = []
    for place, subject in enumerate((one for group in groups for one in group.sources), start=1):
        layers = subject.measured.run.layers
        if layers:
            with damaged(subject.measured.run.path / "layers.json"):
                found = _blocks(subject.model, layers, place)
                title = f"{subject.model}: shift by layer, and what it tells"
                blocks += [Fold(f"layers-of-{place}", title, tuple(found))] if blocks else found
    if not blocks:
        return None
    text = (
        "How far the mean and deviation of each norm layer's features lie from what the model has stored, divided by "
        "how far they would lie from sampling so few images alone: 1 is no shift. Unlabelled images tell it before any "
        "accuracy is measured. What counts is whether a shift reaches the last third of the layers: rectifying likely "
        f"helps where at least {100 * LIKELY:.0f} % of it there is beyond noise (persisting), may help a little below "
        "that, and is needless where there is none."
    )
    return Section("layers", "Layers", (text,), tuple(blocks))


def readouts(measured: Measured) -> dict[str, dict[str, float]]:
    """Return by condition `number` and `persisting`, the largest shift first; the clean images are left out."""
    with damaged(measured.run.path / "layers.json"):
        found = dict((measured.run.layers or {}).get("conditions", {}))
        numbers = {
            name: {part: float(one[part]) for part in ("number", "persisting")}
            for name, one in found.items()
            if name != "clean"
        }
        return dict(sorted(numbers.items(), key=lambda item: -item[1]["number"]))


def _blocks(model: str, layers: Mapping[str, Any], place: int) -> list[Block]:
    conditions = layers["conditions"]
    ranked = sorted(conditions, key=lambda name: -conditions[name]["number"])
    chosen = [
        *(["clean"] if "clean" in conditions else []),
        *[name for name in ranked if name != "clean"][:MOST_SHIFTS],
    ]
    names = [short(str(name)) for name in layers["layers"]]
    values = {name: _ratios(conditions[name], layers, len(names)) for name in chosen}
    title = f"{model}: shift by layer, from {layers['images']} images, in units of sampling noise"
    head = Column("number"), Column("layer", numeric=False), *(Column(short(name)) for name in chosen)
    rows = [
        (Cell(str(number), float(number)), Cell(name), *(_cell(values[one][number - 1]) for one in chosen))
        for number, name in enumerate(names, start=1)
    ]
    series = tuple(Series(short(name), tuple(values[name])) for name in chosen)
    chart = Chart(
        f"layers-{place}",
        title,
        "layer, from the first to the last",
        "shift / noise",
        tuple(map(str, range(1, len(names) + 1))),
        (Panel(model, series),),
        Table(f"layers-{place}-table", title, head, tuple(rows), folded=True),
        percent=False,
        wide=True,
    )
    return [chart, _verdicts(model, conditions, ranked, place)]


def _verdicts(model: str, conditions: Mapping[str, Any], ranked: Sequence[str], place: int) -> Table:
    columns = (
        Column("condition", numeric=False),
        Column("shift / noise", note="where it reaches the last third of the layers; 1 is no shift"),
        Column("persisting %", note="share of the shift in the last third that no noise explains"),
        Column("rectifying", numeric=False),
    )
    rows = []
    for name in ranked:
        one = conditions[name]
        share = Cell(percent(one["persisting"], ""), float(one["persisting"]))
        rows.append((Cell(short(name)), _cell(one["number"]), share, Cell(_verdict(float(one["persisting"])))))
    return Table(f"readout-{place}", f"{model}: what the layers tell of each condition", columns, tuple(rows))


def _verdict(persisting: float) -> str:
    if persisting == 0:
        return "no shift beyond noise"
    return "likely helps" if persisting >= LIKELY else "may help a little"


def _ratios(condition: Mapping[str, Any], layers: Mapping[str, Any], count: int) -> list[float | None]:
    shift, noise = condition["shift"], condition.get("noise", layers["noise"])
    if len(shift) != count or len(noise) != count:
        raise ValueError(f"of {count} layers {len(shift)} have a shift")
    return [float(a) / float(b) if b > 0 else None for a, b in zip(shift, noise, strict=True)]


def _cell(value: float | None) -> Cell:
    return Cell("-") if value is None else Cell(f"{value:.1f}", float(value))
