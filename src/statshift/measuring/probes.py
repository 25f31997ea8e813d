"""What is read out of the source beside its rows: the shift at each layer, and LIGS."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from statshift._core import processes
from statshift._core.errors import InputError
from statshift.adapting.diagnose import Diagnosis, diagnose
from statshift.adapting.drawing import adaptation_positions
from statshift.data import ImageData
from statshift.measuring.evaluate import Evaluator
from statshift.measuring.examples import Examples, attempt, middle_conditions
from statshift.measuring.ligs import LigsOptions, checked, similarities
from statshift.models import PixelModel
from statshift.norms.layers import running_norms
from statshift.results import read_json, write_json_atomically
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import CLEAN, Shift, of_clean_images
from statshift.tasks.task import Task

IMAGES = 32
"""With so many images a layer's shift is read out."""


def highest_conditions(conditions: Iterable[Condition], shifts: Mapping[str, Shift]) -> list[Condition]:
    """Return the clean images, and each shift that needs no model at its highest severity."""
    highest = {CLEAN: Condition(CLEAN, 0)}
    for condition in conditions:
        before = highest.get(condition.shift)
        if not shifts[condition.shift].needs_model and (before is None or before.severity < condition.severity):
            highest[condition.shift] = condition
    return list(highest.values())


class LayerShifts:
    """The file with the shift that conditions make at each layer; see `statshift.adapting.diagnose`.

    Args:
        path: what an earlier sitting found is kept.
        model: the source.
        data: the run's images.
        seed: seed of the draw of images, which a protocol's first draw adapts on too.
    """

    def __init__(self, path: Path, model: PixelModel, data: ImageData, seed: int) -> None:
        self._path = path
        self._seed = seed
        self._kept = read_json(path) or {}
        self._possible = len(data) > 1 and bool(running_norms(model.network))

    def lack(self, condition: Condition) -> bool:
        """Return whether a condition can be read out and is not."""
        return self._possible and str(condition) not in self._kept.get("conditions", {})

    def add(self, evaluate: Evaluator, data: ImageData, condition: Condition) -> None:
        """Read out the shift of a condition; where that fails, a warning says why and nothing is kept."""
        positions = adaptation_positions(data.indices, min(IMAGES, len(data)), self._seed, 0)

        def describe() -> dict[str, Any]:
            return describe_diagnosis(diagnose(evaluate.model, evaluate.shifted(data, condition, positions)))

        found = attempt("read out the layers' shift", describe)
        if found is None:
            return
        common = {name: found.pop(name) for name in ("images", "layers")} | {"noise": found["noise"]}
        if not self._kept or condition.shift == CLEAN:
            self._kept |= common
        self._kept.setdefault("conditions", {})[str(condition)] = found
        write_json_atomically(self._path, self._kept)


Looks = dict[Condition, list[Examples | LayerShifts]]
"""By condition, what is looked at beside the rows."""


def unfinished_looks(
    path: Path,
    model: PixelModel,
    data: ImageData,
    conditions: Sequence[Condition],
    shifts: Mapping[str, Shift],
    seed: int,
    examples: Examples | None,
) -> Looks:
    """Return by condition what a run directory lacks yet beside the rows.

    Args:
        path: directory of the run.
        model: the source.
        data: the images, or those of the first condition where data store shifts.
        conditions: conditions of the run.
        shifts: shifts of the conditions, by name; where they are made, the clean images are there, measured or not.
        seed: seed of the choice of images.
        examples: the run's, if it has any.
    """
    looks: list[tuple[Examples | LayerShifts, list[Condition]]]
    looks = [(LayerShifts(path / "layers.json", model, data, seed), highest_conditions(conditions, shifts))]
    if examples:
        looks.append((examples, middle_conditions(one for one in conditions if shifts[one.shift].paired)))
    there = [*([Condition(CLEAN, 0)] if of_clean_images(shifts.values()) else []), *conditions]
    lacking = {one: [look for look, places in looks if one in places and look.lack(one)] for one in there}
    return {condition: found for condition, found in lacking.items() if found}


def describe_diagnosis(found: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis in JSON types.

    Raises:
        InputError: a number that is not finite.
    """
    described: dict[str, Any] = {
        "images": found.images,
        "layers": found.layers,
        "shift": found.shift.tolist(),
        "noise": found.noise.tolist(),
        "number": found.number,
        "persisting": found.persisting,
        "sentence": found.sentence,
    }
    numbers = [*described["shift"], *described["noise"], found.number, found.persisting]
    if not np.isfinite(numbers).all():
        raise InputError("The shift of some layer is not finite.")
    return described


def measure_ligs(
    evaluate: Evaluator, data: ImageData, wanted: Sequence[LigsOptions], path: Path | None, seed: int, task: Task
) -> dict[str, Any]:
    """Return mean, interval and counts of each perturbation, and of those that an earlier sitting kept."""
    kept = processes.from_first((read_json(path) if path else None) or {})
    for options in wanted:
        if options.perturbation in kept:
            continue
        similar = partial(similarities, evaluate.model, options=options, seed=seed, task=task)
        values = evaluate.per_image(data, similar)
        kept |= {options.perturbation: checked(values, seed).describe() | {"scale": options.scale}}
        if path:
            write_json_atomically(path, kept)
    return kept
