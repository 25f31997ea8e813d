"""Run a recipe on the authors' data and network or on any other: train and measure it, or time its steps."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.utils.data import Dataset

from statshift.branches import Branches
from statshift.data import ImageData, check_labels, load_data
from statshift.data.sampling import balanced_subset
from statshift.errors import InputError
from statshift.evaluation import DTYPES, find_device
from statshift.hardening import DUAL, HardenOptions, harden
from statshift.measurement import Measurement, measure
from statshift.measurement import Progress as Measured
from statshift.models import PixelModel, load_model, load_weights
from statshift.objectives import Batch, Targets
from statshift.protocols import SOURCE, Protocols
from statshift.recipes import BASE, NOT_TRAINED, Recipe, recipe
from statshift.scratch import build
from statshift.shifts import CLEAN, Shifts
from statshift.streams import Draws
from statshift.training import Objective, Step, TrainingOptions

Makes = str | Callable[[], PixelModel]
"""A model's spec, or what makes a fresh one."""

TREND_IMAGES = 1000
"""Measured after each epoch: Benz et al., ICLR 2021 submission, appendix B.2."""


def run_recipe(
    name: str | Recipe,
    model: Makes | None,
    data: str | Dataset[Any] | ImageData | None,
    out: str | Path,
    *,
    validation: str | Dataset[Any] | ImageData | None = None,
    training: TrainingOptions | None = None,
    at: Sequence[str] | None = None,
    shifts: Shifts | None = None,
    severities: Sequence[int] | None = None,
    protocols: Protocols = (),
    device: str = "auto",
    compiled: bool = False,
    model_args: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    training_progress: Callable[[str], Callable[[Step], None]] | None = None,
    measuring_progress: Callable[[str], Callable[[Measured], None]] | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Train each of a recipe's configurations, from a fresh model or random weights, and measure every branch of it.

    Training goes into `out`/LABEL and measurements into `out`/LABEL/measured-BRANCH; the same call goes on where an
    earlier one stopped. A model that is given is measured as it was too, under the label "base".

    Args:
        name: one of `RECIPES` that trains, or what `recipe` returned.
        model: a spec, or what makes a fresh model; None where the recipe has networks of its own.
        data: to train on, with labels; None, and no `validation`, is the recipe's own, if it has some.
        out: folder, made if need be.
        validation: to measure on, with labels.
        training: in the papers' place; see `recipe`.
        at: layers, in the papers' place.
        shifts: to measure under, in the recipe's place: mostly the clean images and the 15, or the clean and attacked.
        severities: of these shifts, likewise.
        protocols: to rectify by, beside the source; see `measure`.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        compiled: train through `torch.compile`.
        model_args: further arguments of the recipe's own networks, such as `num_classes`.
        data_options: further arguments of `load_data`, where data are not loaded, for both data sets.
        training_progress: given a label, returns what is called after each step.
        measuring_progress: given a label and branch, returns what is called after each batch.

    Returns:
        By label and branch ("clean, auto" where rectified by the protocol auto): `clean_accuracy`; `mean_of_shifts`,
        accuracy over all shifts measured; `mce`, as fractions, None where not measured or not defined; `shifts`, the
        accuracy under each; `ligs`, the mean by perturbation; `images` and `conditions`, what they are over; and
        `smoothness` at the end of the last epoch where the landscape was walked.

    Raises:
        InputError: something that cannot be used, told in one line.
    """
    chosen = name if isinstance(name, Recipe) else recipe(name, training, at)
    if chosen.name in NOT_TRAINED:
        raise InputError(f"The recipe {chosen.name} trains nothing: {NOT_TRAINED[chosen.name]}.")
    make, folder = _maker_for(chosen, model, model_args), Path(out)
    data, validation = _images_for(chosen, data, validation)
    sample = _sample(validation, data_options) if chosen.trend else None

    def measured(network: Any, label: str, branch: str) -> dict[str, dict[str, Any]]:
        found = measure(
            network,
            validation,
            shifts=chosen.shifts.get(label, (CLEAN, "common")) if shifts is None else shifts,
            severities=chosen.severities if severities is None else severities,
            protocols=protocols,
            ligs=chosen.ligs,
            out=folder / label / f"measured-{branch}",
            device=device,
            data_options=data_options,
            progress=measuring_progress and measuring_progress(f"{label}, {branch}"),
        )
        return {branch if one == SOURCE else f"{branch}, {one}": figures for one, figures in _figures(found).items()}

    results = {} if chosen.networks else {BASE: measured(make(BASE), BASE, "clean")}
    for label, options in chosen.options.items():
        begun = make(label)
        if label in chosen.begins_with:
            load_weights(begun.network, folder / chosen.begins_with[label] / "clean.safetensors")
        done = harden(
            begun,
            data,
            options,
            out=folder / label,
            validation=sample,
            shifts=chosen.trend or (CLEAN,),
            ligs=chosen.ligs if chosen.trend else (),
            walk=chosen.walk,
            device=device,
            compiled=compiled,
            data_options=data_options,
            progress=training_progress and training_progress(label),
        )
        results[label] = {}
        for branch, one in done.branches.splits.items():
            results[label] |= measured(one.model, label, branch)
        if chosen.walk:
            walked = done.record["history"][-1]["validation"]["landscape"]
            results[label]["clean"]["smoothness"] = walked["smoothness"]
    return results


def _maker(model: Makes) -> Callable[[], PixelModel]:
    return partial(load_model, model) if isinstance(model, str) else model


def _maker_for(
    chosen: Recipe, model: Makes | None, model_args: Mapping[str, Any] | None
) -> Callable[[str], PixelModel]:
    """Return what makes the model of a label, before it is trained."""
    if not chosen.networks:
        if model is None or model_args:
            raise InputError(
                f"Expected a model for the recipe {chosen.name}, with its arguments, and nothing beside it."
            )
        fresh = _maker(model)
        return lambda label: fresh()
    if model is not None:
        raise InputError(f"Expected no model for the recipe {chosen.name}, which builds its own networks.")

    def make(label: str) -> PixelModel:
        network = chosen.networks[label]
        arguments = {**network.arguments, **(model_args or {})}
        return build(network.spec, arguments, seed=chosen.options[label].training.seed)

    return make


def _images_for(chosen: Recipe, data: Any, validation: Any) -> tuple[Any, Any]:
    """Return what to train and to measure on."""
    if data is None and validation is None and chosen.data:
        return chosen.data, chosen.data
    if data is None or validation is None:
        raise InputError(f"Expected data and validation data for the recipe {chosen.name}, but got only one or none.")
    return data, validation


def _sample(data: Any, options: Mapping[str, Any] | None) -> ImageData:
    """Return the class-balanced 1,000 of the images that are measured after each epoch."""
    given = {name: value for name, value in (options or {}).items() if value is not None}
    images = data if isinstance(data, ImageData) else load_data(data, **given)
    if images.labels is None:
        raise InputError(f"Expected labels to validate with, but {images.spec} has none.")
    chosen = balanced_subset(images.labels, TREND_IMAGES)
    return replace(images, indices=images.indices[chosen], labels=images.labels[chosen])


def _figures(found: Measurement) -> dict[str, dict[str, Any]]:
    """Return by protocol what a measurement found, and over what."""
    conditions = list(dict.fromkeys((row["shift"], row["severity"]) for row in found.rows))
    similar = {name: one["mean"] for name, one in found.summary.get("ligs", {}).items()}
    figures = {}
    for protocol, one in found.summary["protocols"].items():
        shifts = {name: shift["accuracy"] for name, shift in one["per_shift"].items()}
        figures[protocol] = {
            "clean_accuracy": one["clean_accuracy"],
            "mean_of_shifts": fmean(shifts.values()) if shifts else None,
            "mce": one["mce"],
            "shifts": shifts,
            "ligs": similar if protocol == SOURCE else {},
            "images": one.get("images", found.summary["images"]),
            "conditions": conditions,
        }
    return figures


def step_costs(
    model: Makes,
    data: str | Dataset[Any] | ImageData,
    options: Mapping[str, HardenOptions],
    *,
    repeats: int = 5,
    device: str = "auto",
    trace: bool = True,
    data_options: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, float]]:
    """Time one step of each method, without optimiser and loading: forward, attack and backward on one batch.

    After a step each to warm up, the methods take turns; what counts is the least of each one's times.

    Args:
        model: a spec, or what makes a fresh model.
        data: with labels; the first batch is used as it is, unaugmented.
        options: methods by label; ratios are to the first.
        repeats: turns, at least 1.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        trace: as in `harden`.
        data_options: further arguments of `load_data`, where `data` is not loaded.

    Returns:
        By label: `seconds`; `ratio` to the first label's; `images` in the batch.

    Raises:
        InputError: no turn, no method, or data without labels.
    """
    if repeats < 1 or not options:
        raise InputError(f"Expected at least one method and one repeat, but got {len(options)} and {repeats}.")
    where = find_device(device)
    gpu = where.type == "cuda"
    make = _maker(model)
    steps: dict[str, Callable[[], None]] = {}
    counts: dict[str, int] = {}
    for label, one in options.items():
        fresh = make().to(where)
        if not isinstance(data, ImageData):
            data = load_data(data, **(fresh.loading_options | dict(data_options or {})))
        steps[label], counts[label] = _step_of(fresh, data, one, trace)
    seconds = dict.fromkeys(steps, float("inf"))
    with torch.random.fork_rng([where] if gpu else []):
        for turn in range(repeats + 1):
            for label, step in steps.items():
                if gpu:
                    torch.cuda.synchronize(where)
                started = time.perf_counter()
                step()
                if gpu:
                    torch.cuda.synchronize(where)
                if turn:
                    seconds[label] = min(seconds[label], time.perf_counter() - started)
    reference = next(iter(seconds.values()))
    return {
        label: {"seconds": one, "ratio": one / reference, "images": counts[label]} for label, one in seconds.items()
    }


def _step_of(model: PixelModel, data: ImageData, options: HardenOptions, trace: bool) -> tuple[Callable[[], None], int]:
    """Return what takes a step on the first images, which leaves no gradient, and how many these are."""
    training, where = options.training, model.mean.device
    size = min(training.batch_size, len(data))
    pixels, positions = next(data.batches(size))
    if data.labels is None:
        raise InputError(f"Expected labels to train on, but {data.spec} has none.")
    check_labels(data, model.num_classes)
    images = pixels.to(where).float() / 255
    assert options.at is not None
    found = Branches(model, options.at, images[:2], dual=options.method in DUAL, trace=trace)
    if training.channels_last:
        found.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    targets = Targets(torch.from_numpy(data.labels[positions]).to(where))
    draws = Draws(training.seed, torch.from_numpy(data.indices[positions]), "step cost")
    batch = Batch(images, targets, draws, DTYPES[training.dtype])
    objective = Objective(found.train(), options.steps_of)

    def step() -> None:
        torch.stack(list(objective(batch).values())).sum().backward()  # type: ignore[no-untyped-call]
        found.zero_grad()

    return step, size
