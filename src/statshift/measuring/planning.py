"""What a measurement will take here, told from its plan and a short trial, before anything is measured."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from statshift._core import processes
from statshift._core.footprint import peak_device_memory, peak_memory
from statshift._core.parts import REST
from statshift.adapting.drawing import adaptation_positions
from statshift.adapting.registry import SOURCE
from statshift.measuring.examples import draw_examples, middle_conditions
from statshift.measuring.images import labels_of
from statshift.measuring.joining import of_type
from statshift.measuring.memory import KEPT_BYTES
from statshift.measuring.plan import Plan
from statshift.measuring.probes import IMAGES, highest_conditions
from statshift.measuring.progress import passes_to_make, rows_lacking
from statshift.measuring.trying import Cost, Tried, try_ligs, try_looks, try_protocol, try_shift, try_source
from statshift.norms.layers import running_norms
from statshift.results import Row, make_row, read_run, row_key, summarise
from statshift.results.ahead import read_ahead
from statshift.results.families import kinship_of
from statshift.results.records import check_same_run
from statshift.results.runs import check_run_place
from statshift.shifts.conditions import Condition

FLOAT = 4
"""Bytes of a pixel's channel as shifted images are kept."""


@dataclass(frozen=True)
class Passes:
    """The passes of one protocol, and how often each image goes through the model in them.

    Attributes:
        passes: over the images of a condition.
        images: in all of them.
        forwards: of images, those of the adaptation to a stream among them; without an attack's.
        backwards: likewise.
    """

    passes: int
    images: int
    forwards: float
    backwards: float


@dataclass(frozen=True)
class Forecast:
    """What a measurement will take; of several processes the first is told of.

    Attributes:
        protocols: passes by protocol.
        finished_before: rows that an earlier sitting made.
        parts: seconds by part, as in a `Profile`.
        memory: bytes of main memory at most; None where the system does not tell.
        device_memory: bytes of the GPU's memory at most; None on the CPU.
        disk: bytes written, without pictures of examples.
        trial: seconds that the trial took.
        device: where the model runs.
        processes: how many share the work.
    """

    protocols: Mapping[str, Passes]
    finished_before: int
    parts: Mapping[str, float]
    memory: int | None
    device_memory: int | None
    disk: int
    trial: float
    device: str
    processes: int

    @property
    def passes(self) -> int:
        """Passes over images."""
        return sum(one.passes for one in self.protocols.values())

    @property
    def images(self) -> int:
        """Images in all passes."""
        return sum(one.images for one in self.protocols.values())

    @property
    def seconds(self) -> float:
        """Wall time."""
        return sum(self.parts.values())

    def describe(self) -> dict[str, Any]:
        """Return all of it in JSON types."""
        protocols = {name: vars(one) for name, one in self.protocols.items()}
        told = {"passes": self.passes, "images": self.images, "seconds": self.seconds}
        return told | {"images_per_second": self.images / self.seconds} | vars(self) | {"protocols": protocols}


def forecast(plan: Plan, out: str | Path | None, before: Mapping[str, float]) -> Forecast:
    """Try a few batches of each part of a measurement, and return what all of it will take; nothing is written.

    Of a condition the shift is tried once, of a protocol one condition; what is shown beside the rows is told by one
    trial. Several processes try at the same time.

    Args:
        plan: the measurement.
        out: its directory, whose rows are not measured again.
        before: seconds by part that making the plan took, as they come again.

    Raises:
        InputError: the directory cannot be one, or holds another run.
    """
    began = time.perf_counter()
    rows = _rows_there(plan, out)
    passes = passes_to_make(plan, rows_lacking(plan, rows))
    protocols = {
        name: _passes_of(plan, name, [condition for condition, one, _ in passes if one == name])
        for name in dict.fromkeys(name for _, name, _ in passes)
    }
    parts = defaultdict(float, before)
    disk = 0
    keeping = plan.evaluate.keeping
    if passes:
        try:
            disk = _add_trials(plan, passes, out is not None, parts)
        finally:
            plan.evaluate.keep(None)
            plan.evaluate.keeping = keeping
    return Forecast(
        protocols,
        len(rows),
        dict(parts),
        _with_room(plan, peak_memory(), read=True),
        _with_room(plan, peak_device_memory(plan.evaluate.device), read=False),
        disk,
        time.perf_counter() - began,
        str(plan.evaluate.device),
        processes.join()[1],
    )


def _rows_there(plan: Plan, out: str | Path | None) -> list[Row]:
    """Return the rows that a directory holds, those found before their turn among them."""
    rows: list[Row] = []
    if out is not None and processes.join()[0] == 0:
        check_run_place(Path(out))
        if (Path(out) / "record.json").is_file():
            found = {row_key(row): row for row in read_run(out).rows}
            rows = list((found | {key: row for key, (row, _) in read_ahead(Path(out)).items()}).values())
        if rows:
            check_same_run(Path(out), json.loads(json.dumps(plan.record)))
    return processes.from_first(rows)


def _passes_of(plan: Plan, name: str, conditions: Sequence[Condition]) -> Passes:
    images = sum(_count(plan, one) for one in conditions)
    protocol = plan.protocols.get(name)
    forwards, backwards = (protocol.forwards, protocol.backwards) if protocol else (1, 0)
    return Passes(len(conditions), images, images * forwards, images * backwards)


def _count(plan: Plan, condition: Condition) -> int:
    return len(plan.images.sets.get(condition, plan.images.base))


def _add_trials(
    plan: Plan, passes: Sequence[tuple[Condition, str, int]], written: bool, parts: defaultdict[str, float]
) -> int:
    """Add the seconds of all passes, and of what stands beside them; return the bytes that are written."""
    first = next((one for one, *_ in passes if not plan.evaluate.attacks(one)), passes[0][0])
    source = try_source(plan, first)
    _add(parts, source.start)
    adapted = {
        name: try_protocol(plan, name, first, source.some)
        for name in dict.fromkeys(name for _, name, _ in passes)
        if name != SOURCE
    }
    for cost in adapted.values():
        _add(parts, cost.start)
    shift = _try_shifts(plan, [one for one, *_ in passes])
    read: set[Condition | None] = set()
    made: set[Condition] = set()
    for condition, name, _ in passes:
        images = _count(plan, condition)
        own = condition if plan.shifts[condition.shift].reads or condition in plan.images.sets else None
        costs = dict(source.warm if own in read and _fits(plan) else source.cold)
        if name != SOURCE:
            costs |= dict.fromkeys(("model", REST), 0.0)
            _add(parts, adapted[name].of(images))
        if condition not in made:
            _add(parts, shift[condition].of(images))
        elif not _is_kept(plan, condition) or plan.evaluate.attacks(condition):
            _add(parts, replace(shift[condition], once={}).of(images))
        _add(parts, {part: images * seconds for part, seconds in costs.items()})
        read.add(own)
        made.add(condition)
    if written:
        _add_looks(plan, first, shift, parts)
    for options in plan.ligs:
        found = try_ligs(plan, options, source.some)
        _add(parts, {name: len(plan.images.base) * seconds for name, seconds in found.items()})
    began = time.perf_counter()
    disk = _bytes_written(plan, source, first, passes)
    _add(parts, {REST: time.perf_counter() - began})
    return disk


def _add_looks(plan: Plan, tried: Condition, shift: Mapping[Condition, Cost], parts: defaultdict[str, float]) -> None:
    """Add what is looked at beside the rows of the conditions that are measured; examples cost their shift alone."""
    remade: list[tuple[Condition, int]] = []
    if running_norms(plan.evaluate.model.network):
        remade = [(one, IMAGES) for one in highest_conditions(plan.conditions, plan.shifts) if one in shift]
        found = try_looks(plan, tried)
        _add(parts, {REST: len(remade) * sum(found.values())})
    remade += [(one, plan.examples) for one in middle_conditions(plan.conditions) if one in shift]
    for condition, images in remade:
        if not _is_kept(plan, condition):
            _add(parts, replace(shift[condition], once={}).of(min(images, _count(plan, condition))))


def _add(parts: defaultdict[str, float], more: Mapping[str, float]) -> None:
    for name, seconds in more.items():
        parts[name] += seconds


def _try_shifts(plan: Plan, conditions: Sequence[Condition]) -> dict[Condition, Cost]:
    """Return what each condition's shift costs; what is read shifted costs nothing more."""
    costs: dict[Condition, Cost] = {}
    warm: set[str] = set()
    for condition in dict.fromkeys(conditions):
        costs[condition] = Cost({}, {})
        if not plan.shifts[condition.shift].reads:
            costs[condition] = try_shift(plan, condition, warm=condition.shift in warm)
        warm.add(condition.shift)
    return costs


def _fits(plan: Plan) -> bool:
    """Return whether all decoded images stay, in memory or in a file."""
    data = plan.images.base
    return data.file is not None or int(data.sizes.prod(axis=1).sum()) * (4 if data.has_maps else 3) <= data.cache_bytes


def _is_kept(plan: Plan, condition: Condition) -> bool:
    """Return whether the shifted images of a condition are kept for its other passes."""
    group = next(group for group in plan.groups() if condition in group)
    data = plan.images.sets.get(condition, plan.images.base)
    room = KEPT_BYTES // (math.prod(data.shape) * FLOAT) - sum(
        _count(plan, one) for one in group[: group.index(condition)]
    )
    return bool(plan.protocols) and len(data) <= room and not data.several_sizes


def _with_room(plan: Plan, peak: int | None, *, read: bool) -> int | None:
    """Return a peak of the trial with the images that a whole pass keeps: decoded ones, or shifted ones."""
    if peak is None:
        return None
    data, device = plan.images.base, plan.evaluate.device
    decoded = min(data.cache_bytes, int(data.sizes.prod(axis=1).sum()) * (4 if data.has_maps else 3))
    if data.file is not None:
        decoded = 0
    shifted = len(data) * math.prod(data.shape) * FLOAT if _is_kept(plan, plan.conditions[0]) else 0
    return peak + decoded * read + shifted * (read == (device.type == "cpu"))


def _bytes_written(
    plan: Plan, source: Tried, condition: Condition, passes: Sequence[tuple[Condition, str, int]]
) -> int:
    """Make the rows of all passes out of answers that were tried, and sum them up; return the bytes of the files."""
    images = plan.images
    data, task = images.of(condition), images.task_of(condition)
    labels, places = labels_of(data, task), torch.arange(len(data)) % len(source.some)
    whole = of_type(source.results, [one[places] for one in source.results])
    rows: list[Row] = []
    for name in dict.fromkeys(name for _, name, _ in passes):
        protocol = plan.protocols.get(name)
        named: dict[str, Any] = {
            "protocol": name,
            "shift": condition.shift,
            "severity": condition.severity,
            "task": task,
            "examples": None if condition in images.sets else draw_examples(images.base, plan.examples, images.task),
        }
        if protocol:
            named |= {"source": whole}
        if protocol and protocol.kin.adapts_on == "few" and not plan.course:
            few = adaptation_positions(data.indices, protocol.taking(plan.adaptation).samples, plan.seed, 0)
            named |= {"adapted_on": few, "held_out": not plan.adaptation.include_adaptation}
        row = make_row(whole, labels, images.classes(condition), **named)
        for other, one, draw in passes:
            if one == name:
                rows.append({**row, "shift": other.shift, "severity": other.severity, "draw": draw})
    summary = summarise(
        rows,
        table=plan.record["alexnet"],
        class_counts=plan.record["data"].get("class_counts", []),
        task=plan.task,
        kinship=kinship_of(plan.record),
    )
    lines = [json.dumps(row, separators=(",", ":")) for row in rows]
    return sum(map(len, [*lines, *(json.dumps(one, indent=2) for one in (plan.record, summary))]))
