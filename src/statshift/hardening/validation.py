"""What is looked at after each epoch: validation images under shifts, and the landscape of the training images."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statshift._core.errors import InputError, NoGradientError
from statshift.adapting.drawing import adaptation_positions
from statshift.data import ImageData, load_data, loading_options
from statshift.hardening.landscape import landscape, step_sizes_around
from statshift.hardening.training import TrainingOptions
from statshift.measuring.loading import count_classes, fit_to_model
from statshift.measuring.measure import measure
from statshift.models import PixelModel
from statshift.results import Row
from statshift.results.provenance import describe_data
from statshift.shifts.conditions import Shifts, conditions, resolve
from statshift.shifts.shift import CLEAN, Shift, of_clean_images
from statshift.shifts.stored import offered
from statshift.splitting.branches import Branches
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Task

READING = ("workers", "cache", "cache_size")
"""Options of `load_data` that change no pixel."""

LIGS = "LIGS"
"""What the name of a measured similarity begins with, in a history; the other names are of accuracies."""


@dataclass(frozen=True)
class Validation:
    """How a training is looked at after each epoch.

    Attributes:
        data: to measure on; None for none.
        shifts: shifts of these.
        severities: severities of these shifts.
        ligs: perturbations with which LIGS is measured.
        walk: whether the landscape is walked.
        device: as of `measure`.
        task: what the labels are of.
        described: what a record says of the images and shifts.
    """

    data: Any
    shifts: Shifts
    severities: Sequence[int]
    ligs: Sequence[str]
    walk: bool
    device: str | torch.device
    task: Task
    described: Mapping[str, Any] = field(default_factory=dict)

    @property
    def looks(self) -> bool:
        """Whether there is anything to look at."""
        return self.data is not None or self.walk

    def describe(self) -> dict[str, Any]:
        """Return what a record says of it."""
        described: dict[str, Any] = {}
        if self.data is not None:
            described["validation"] = dict(self.described) | ({"ligs": list(self.ligs)} if self.ligs else {})
        if self.walk:
            described["landscape"] = "after each epoch"
        return described

    def look(self, branches: Branches, images: ImageData, training: TrainingOptions) -> dict[str, Any]:
        """Return what is measured of branches that train on images."""
        measured: dict[str, Any] = {}
        if self.data is not None:
            measured = {branch: self._measured(one.model) for branch, one in branches.splits.items()}
        if self.walk:
            measured["landscape"] = _walk(branches, images, training, self.task)
        return measured

    def _measured(self, model: torch.nn.Module) -> dict[str, Any]:
        """Return the score under each condition, and LIGS under each perturbation.

        None is what cannot be measured of a network that is dead: attacks and LIGS, which need a gradient.
        """
        parts = [self.shifts] if isinstance(self.shifts, str | Mapping | Shift) else list(self.shifts)
        asked = [resolve(part, offered=offered(self.data)) for part in parts]
        attacks = [shift.name for shifts in asked for shift in shifts if shift.needs_model]
        others = [part for part, made in zip(parts, asked, strict=True) if not all(one.needs_model for one in made)]
        others = others or [CLEAN]
        look = partial(
            measure, model, self.data, severities=self.severities, device=self.device, task=self.task, examples=0
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Clean (pixel )?accuracy is")  # near chance, as it may be at first
            try:
                measured = look(shifts=self.shifts)
            except NoGradientError:
                measured = look(shifts=others)
            similar: dict[str, Any] = {}
            with suppress(NoGradientError):
                similar = look(shifts=CLEAN, ligs=self.ligs).summary["ligs"] if self.ligs else {}
        scores: dict[str, Any] = {_condition(row): self.task.measures(row)[self.task.headline] for row in measured.rows}
        scores |= {attack: None for attack in attacks if attack not in scores}
        return scores | {f"{LIGS} {name}": similar.get(name, {}).get("mean") for name in self.ligs}


def prepare(
    data: Any,
    model: PixelModel,
    data_options: Mapping[str, Any] | None,
    *,
    split: str | None = None,
    shifts: Shifts,
    severities: Sequence[int],
    ligs: Sequence[str],
    walk: bool,
    device: str | torch.device,
    task: Task,
) -> Validation:
    """Return how to look at a training; images are loaded once, unless they store shifts.

    Raises:
        InputError: images or shifts that cannot be measured; better now than after an epoch.
    """
    if data is None:
        if ligs:
            raise InputError("Expected validation images to measure LIGS on.")
        return Validation(None, shifts, severities, ligs, walk, device, task)
    given = {**_preprocessing(data_options), "split": split}
    loading = loading_options(data, given, model.loading_options, split=None)
    chosen = resolve(shifts, offered=offered(data))
    conditions(chosen, severities)
    described: dict[str, Any] = {
        **({} if task == CLASSIFICATION else {"score": task.headline}),
        "data": data,
        "shifts": [shift.name for shift in chosen],
        "severities": list(severities),
    }
    if of_clean_images(chosen):
        data = data if isinstance(data, ImageData) else load_data(data, **loading)
        data = fit_to_model(model, data, model.mean.device)
        labels = task.labels_of(data)
        if labels is None:
            raise InputError(f"Expected labels to validate with, but {data.spec} has none.")
        count_classes(model, data, task)
        described["data"] = describe_data(data, labels, task)
    return Validation(data, shifts, severities, ligs, walk, device, task, described)


def _preprocessing(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return those options that concern validation images as well: how they are read, not which."""
    names = ("resize", "crop", "interpolation", "class_map", "skip_bad", "ignore_index", "label_map")
    return {name: value for name, value in (given or {}).items() if name in (*names, *READING)}


def _walk(branches: Branches, data: ImageData, training: TrainingOptions, task: Task) -> dict[str, Any]:
    """Return the landscape where a training is, on as many of the images as a batch has, always the same ones.

    Of images of several sizes they are of the most frequent one.
    """
    device = next(branches.parameters()).device
    alike = np.flatnonzero((data.sizes == data.shape[1:]).all(1))
    drawn = alike[adaptation_positions(data.indices[alike], min(training.batch_size, len(alike)), training.seed, 0)]
    ((pixels, _),) = data.groups([drawn])
    labels = task.labels(data, drawn).to(device)
    sizes = step_sizes_around(training.learning_rate)
    inputs = pixels.to(device).float() / 255

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return task.targets(labels).loss(logits)

    return landscape(branches.clean, inputs, labels, step_sizes=sizes, loss=loss).describe()


def _condition(row: Row) -> str:
    return f"{row['shift']} {row['severity']}" if row["severity"] else str(row["shift"])
