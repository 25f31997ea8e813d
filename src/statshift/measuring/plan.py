"""What will be measured: the model, the images and the shifts, all of it checked, and the record that says so."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from statshift._core.errors import InputError, unknown
from statshift.adapting.protocols import SOURCE, Protocol, Protocols, resolve_protocols
from statshift.data import ImageData, check_labels, load_data
from statshift.measuring.adapted import AdaptationOptions, describe_protocols
from statshift.measuring.baselines import alexnet_for, read_baseline
from statshift.measuring.evaluate import Evaluator, find_device
from statshift.measuring.ligs import LigsOptions
from statshift.models import PixelModel, load_model
from statshift.norms.layers import evaluating
from statshift.results import RunResult
from statshift.results.provenance import (
    answers_of,
    describe_corruption,
    describe_data,
    describe_environment,
    describe_model,
    describe_own,
    set_hash,
)
from statshift.shifts.clean import CLEAN_IMAGES
from statshift.shifts.conditions import Condition, Shifts, conditions, resolve
from statshift.shifts.shift import CLEAN, CorruptionOptions, Shift, of_clean_images
from statshift.shifts.stored import offered, usual

MOST_EXAMPLES = 64
PHOTOGRAPH = 224  # px; from here up images are photographs, which the benchmark corrupts at this size


@dataclass(frozen=True)
class Wanted:
    """What is asked for, beside model and data; the arguments of `measure` by these names."""

    shifts: Shifts | None
    severities: Sequence[int]
    protocols: Protocols
    adaptation: AdaptationOptions
    options: CorruptionOptions
    at: str
    data_options: Mapping[str, Any]
    ligs: Sequence[str]
    examples: int

    def __post_init__(self) -> None:
        if not 0 <= self.examples <= MOST_EXAMPLES:
            raise InputError(f"Expected `examples` from 0 to {MOST_EXAMPLES}, but got {self.examples}.")
        if self.at not in ("benchmark", "model"):
            raise unknown("place of corruption", self.at, ["benchmark", "model"])


@dataclass(frozen=True)
class Setup:
    """How the model runs; the arguments of `measure` by these names."""

    batch_size: int | None
    device: str
    dtype: str
    compiled: bool

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"Expected `batch_size` to be at least 1, but got {self.batch_size}.")


@dataclass(frozen=True)
class Images:
    """The images of a run.

    Attributes:
        base: those that the model is measured on, with labels.
        first: the condition that tells which they are, where they are read.
        sets: of conditions whose shifts bring images and labels of their own.
        read: returns the images of any condition.
    """

    base: ImageData
    first: Condition
    sets: Mapping[Condition, ImageData]
    read: Callable[[Condition], ImageData]

    def of(self, condition: Condition) -> ImageData:
        """Return the images of a condition, with labels: its own set, or those that are the base's one by one.

        Raises:
            InputError: they should be the base's and have other labels.
        """
        if condition in self.sets:
            return self.sets[condition]
        found = self.read(condition)
        if not np.array_equal(labels_of(found), labels_of(self.base)):
            raise InputError(f"The labels of {found.spec} at {condition} differ from those at {self.first}.")
        return found

    def classes(self, condition: Condition) -> int:
        """Return the number of classes of a condition's images."""
        data = self.sets.get(condition, self.base)
        return max(len(np.bincount(labels_of(data))), data.classes or 0)

    def mark(self, condition: Condition) -> dict[str, str]:
        """Return what a row of the condition says of its images: nothing of the base's, else a hash of its set."""
        return {"set": set_hash(self.sets[condition])} if condition in self.sets else {}


@dataclass(frozen=True)
class Plan:
    """A measurement that can begin.

    Attributes:
        evaluate: with the model.
        images: of all conditions.
        shifts: by name, and the clean images.
        conditions: to be measured, in order.
        protocols: by name, beside the source.
        adaptation: for all of them.
        ligs: perturbations.
        examples: how many images are shown.
        seed: of everything drawn.
        classes: the width of the model's logits.
        record: that says all this.
        reference: the run whose errors CE divides by, if any.
    """

    evaluate: Evaluator
    images: Images
    shifts: Mapping[str, Shift]
    conditions: Sequence[Condition]
    protocols: Mapping[str, Protocol]
    adaptation: AdaptationOptions
    ligs: Sequence[LigsOptions]
    examples: int
    seed: int
    classes: int
    record: dict[str, Any] = field(repr=False)
    reference: RunResult | None = None

    def repeats(self) -> list[tuple[str, int]]:
        """Return what each condition is measured by: protocol and draw, the source first."""
        adapted = [(name, k) for name, one in self.protocols.items() for k in range(self.adaptation.repeats(one))]
        return [(SOURCE, 0), *adapted]


def make_plan(
    model: str | nn.Module,
    data: str | Dataset[Any] | ImageData,
    wanted: Wanted,
    setup: Setup,
    baseline: str | Path | None,
    alexnet: str,
) -> Plan:
    """Return the plan of a measurement; see `measure`.

    Raises:
        InputError: something that cannot be used, told in one line.
    """
    protocols = {one.name: one for one in resolve_protocols(wanted.protocols)}
    device, ligs = find_device(setup.device), [LigsOptions(name) for name in dict.fromkeys(wanted.ligs)]
    there = offered(data)
    asked = usual(data) if wanted.shifts is None else wanted.shifts
    chosen = resolve(asked, wanted.options, there)
    if ligs and not of_clean_images(chosen):
        raise InputError(f"Expected clean images to measure LIGS on, but {data} stores shifted ones.")
    todo = conditions(chosen, wanted.severities)
    pixel_model = _prepare(model, device)
    images = _images(data, chosen, todo, _loading_options(wanted, pixel_model, device))
    shifts = {CLEAN: CLEAN_IMAGES, **{one.name: one for one in chosen}}
    evaluate = Evaluator(
        pixel_model,
        device,
        dtype=setup.dtype,
        compiled=setup.compiled,
        shifts=shifts,
        batch_size=setup.batch_size or _usual_batch_size(device, images.base),
        seed=wanted.options.seed,
    )
    with evaluating(pixel_model):
        classes = evaluate.count_classes(images.base)
    _check_sets(images, classes)
    _check_attacks(evaluate, images.base, chosen, protocols)
    described = _describe_protocols(evaluate, images, todo[0], protocols, wanted.adaptation)
    table = alexnet_for(alexnet, pixel_model.spec, images.base, classes)
    record = _describe(evaluate, images, chosen, wanted, setup, {"alexnet": table, "protocols": described})
    reference = None if baseline is None else read_baseline(baseline, record)
    for shift in chosen:
        shift.check()
    return Plan(
        evaluate,
        images,
        shifts,
        todo,
        protocols,
        wanted.adaptation,
        ligs,
        wanted.examples,
        wanted.options.seed,
        classes,
        record,
        reference,
    )


def labels_of(data: ImageData) -> NDArray[np.int64]:
    """Return the labels (N,).

    Raises:
        InputError: there are none.
    """
    if data.labels is None:
        raise InputError(f"Expected labelled images to measure accuracy, but {data.spec} has no labels.")
    return data.labels


def _prepare(model: str | nn.Module, device: torch.device) -> PixelModel:
    """Return the model on the device; a caller's own module is copied if it lies elsewhere."""
    if isinstance(model, str):
        return load_model(model).to(device)
    network = model.network if isinstance(model, PixelModel) else model
    if any(tensor.device != device for tensor in [*network.parameters(), *network.buffers()]):
        model = deepcopy(model)
    return (model if isinstance(model, PixelModel) else load_model(model)).to(device)


def _usual_batch_size(device: torch.device, data: ImageData) -> int:
    return 256 if device.type == "cuda" else 16 if min(data.shape[1:]) >= PHOTOGRAPH else 128


def _loading_options(wanted: Wanted, model: PixelModel, device: torch.device) -> dict[str, Any]:
    """Add to the options of `load_data` what the caller leaves open: for `at="model"` what the model's authors do.

    Decoding gets processes of its own where the model runs on a GPU.
    """
    given = {name: value for name, value in wanted.data_options.items() if value is not None}
    given.setdefault("workers", min(8, torch.get_num_threads()) if device.type == "cuda" else 0)
    if wanted.at == "benchmark" or {"resize", "crop"} & given.keys():
        return given
    if not model.loading_options:
        raise InputError(
            f"{model.spec} does not tell its input size: give --resize and --crop, or --corrupt-at benchmark."
        )
    return model.loading_options | given


def _images(data: Any, shifts: Sequence[Shift], todo: Sequence[Condition], options: Mapping[str, Any]) -> Images:
    """Return the images of the conditions, those that stand alone read already."""
    by_name = {shift.name: shift for shift in shifts}

    def load(source: Any, **more: Any) -> ImageData:
        return source if isinstance(source, ImageData) else load_data(source, **{**options, **more})

    def read(condition: Condition) -> ImageData | None:
        shift = by_name.get(condition.shift, CLEAN_IMAGES)
        found = shift.data(condition.severity, load)
        if found is None and shift.reads:
            raise InputError(f"Expected the shift {condition.shift!r} to give images at {condition}, but got none.")
        return found

    sets = {one: found for one in todo if not by_name[one.shift].paired and (found := read(one)) is not None}
    of_base = (read(one) for one in todo if one not in sets)
    first = next(of_base, None)
    base = load(data) if first is None else first
    labels_of(base)

    def of(condition: Condition) -> ImageData:
        return base if (found := read(condition)) is None else found

    return Images(base, todo[0], sets, of)


def _check_sets(images: Images, classes: int) -> None:
    """Check the labels of the sets, and warn where fewer classes than the model's are taken to be its first ones."""
    for data in images.sets.values():
        labels_of(data)
        check_labels(data, classes)
    for data in (images.base, *images.sets.values()):
        if data.classes is not None and data.classes != classes:
            warnings.warn(
                f"{data.spec} has {data.classes} classes and the model {classes}: labels are taken to be the model's "
                f"first {data.classes} classes; if they are others, map them with --class-map.",
                stacklevel=4,
            )


def _check_attacks(
    evaluate: Evaluator, data: ImageData, shifts: Sequence[Shift], protocols: Mapping[str, Protocol]
) -> None:
    """Check that what needs a model finds one that stands still and has a gradient."""
    attacks = [shift.name for shift in shifts if shift.needs_model]
    streams = [one.name for one in protocols.values() if one.kind == "stream"]
    if attacks and streams:
        raise InputError(
            f"Cannot attack {', '.join(streams)}, whose statistics move with every batch: measure "
            f"{', '.join(attacks)} without, or by another protocol."
        )
    if attacks:
        evaluate.check_attackable(data)


def _describe_protocols(
    evaluate: Evaluator,
    images: Images,
    first: Condition,
    protocols: Mapping[str, Protocol],
    adaptation: AdaptationOptions,
) -> dict[str, Any]:
    """Return what a record says of the protocols, which must have images enough of every set."""
    if not protocols:
        return {}
    evaluate.keeping = True
    one_image = evaluate.shifted(images.sets.get(first, images.base), first, np.zeros(1, np.int64))
    fewest = min(len(data) for data in (images.base, *images.sets.values()))
    return describe_protocols(list(protocols.values()), adaptation, evaluate.model, one_image, fewest)


def _describe(
    evaluate: Evaluator,
    images: Images,
    shifts: Sequence[Shift],
    wanted: Wanted,
    setup: Setup,
    found: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the record; `found` is the AlexNet and what the protocols are."""
    base, size = images.base, evaluate.batch_size
    sections: dict[str, dict[str, Any]] = {}
    for shift in shifts:
        for section, told in shift.describe(size).items():
            sections.setdefault(section, {}).update(told)
    if images.sets:
        sections["sets"] = {str(one): describe_data(data, data.labels) for one, data in images.sets.items()}
    corruption = sections.pop("corruption", None) or describe_corruption(wanted.options, base.shape, wanted.at)
    return {
        "model": describe_model(evaluate.model),
        "answers": answers_of(evaluate.model, base.shape),
        "data": describe_data(base, labels_of(base)),
        "corruption": corruption,
        "alexnet": found["alexnet"],
        "shifts": [shift.name for shift in shifts],
        "families": {shift.name: shift.family for shift in shifts},
        "functions": describe_own(shifts),
        **sections,
        "severities": sorted(set(wanted.severities)),
        "protocols": {SOURCE: {}} | found["protocols"],
        "seed": wanted.options.seed,
        "dtype": setup.dtype,
        "environment": describe_environment(evaluate.device) | {"batch_size": size, "compiled": setup.compiled},
    }
