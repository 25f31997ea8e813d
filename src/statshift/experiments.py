"""Run a recipe on the authors' data and network or on any other: train and measure it, or time its steps."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.utils.data import Dataset

from statshift.branches import Branches
from statshift.data import ImageData, check_labels, load_data
from statshift.errors import InputError
from statshift.evaluation import DTYPES, find_device
from statshift.hardening import DUAL, HardenOptions, harden
from statshift.measurement import Measurement, measure
from statshift.measurement import Progress as Measured
from statshift.models import PixelModel, load_model, load_weights
from statshift.objectives import Batch, Targets
from statshift.protocols import Protocols
from statshift.recipes import BASE, NOT_TRAINED, recipe
from statshift.shifts import CLEAN, Shifts
from statshift.streams import Draws
from statshift.training import Objective, Step, TrainingOptions

Makes = str | Callable[[], PixelModel]
"""A model's spec, or what makes a fresh one."""


def run_recipe(
    name: str,
    model: Makes,
    data: str | Dataset[Any] | ImageData,
    out: str | Path,
    *,
    validation: str | Dataset[Any] | ImageData,
    training: TrainingOptions | None = None,
    at: Sequence[str] | None = None,
    shifts: Shifts = (CLEAN, "common"),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    protocols: Protocols = (),
    device: str = "auto",
    compiled: bool = False,
    data_options: Mapping[str, Any] | None = None,
    training_progress: Callable[[str], Callable[[Step], None]] | None = None,
    measuring_progress: Callable[[str], Callable[[Measured], None]] | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Train each of a recipe's configurations from a fresh model, and measure every branch of the result.

    Training goes into `out`/LABEL and measurements into `out`/LABEL/measured-BRANCH; the same call goes on where an
    earlier one stopped. The model as it was is measured too, under the label "base".

    Args:
        name: one of `RECIPES` that trains.
        model: a spec, or what makes a fresh model.
        data: to train on, with labels.
        out: folder, made if need be.
        validation: to measure on, with labels.
        training: in the papers' place; see `recipe`.
        at: layers, in the papers' place.
        shifts: to measure under.
        severities: of these shifts.
        protocols: to rectify by, beside the source; see `measure`.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        compiled: train through `torch.compile`.
        data_options: further arguments of `load_data`, where data are not loaded, for both data sets.
        training_progress: given a label, returns what is called after each step.
        measuring_progress: given a label and branch, returns what is called after each batch.

    Returns:
        By label and branch ("clean, auto" where rectified by the protocol auto): `clean_accuracy`; `mean_of_shifts`,
        accuracy over all shifts measured; and `mce`, as fractions, None where not measured or not defined; `images`
        and `conditions`, what they are over.

    Raises:
        InputError: something that cannot be used, told in one line.
    """
    chosen = recipe(name, training, at)
    if name in NOT_TRAINED:
        raise InputError(f"The recipe {name} trains nothing: {NOT_TRAINED[name]}.")
    make, folder = _maker(model), Path(out)

    def measured(network: Any, label: str, branch: str) -> dict[str, dict[str, Any]]:
        found = measure(
            network,
            validation,
            shifts=shifts,
            severities=severities,
            protocols=protocols,
            out=folder / label / f"measured-{branch}",
            device=device,
            data_options=data_options,
            progress=measuring_progress and measuring_progress(f"{label}, {branch}"),
        )
        return {branch if one == "source" else f"{branch}, {one}": figures for one, figures in _figures(found).items()}

    results = {BASE: measured(make(), BASE, "clean")}
    for label, options in chosen.options.items():
        begun = make()
        if label in chosen.begins_with:
            load_weights(begun.network, folder / chosen.begins_with[label] / "clean.safetensors")
        done = harden(
            begun,
            data,
            options,
            out=folder / label,
            device=device,
            compiled=compiled,
            data_options=data_options,
            progress=training_progress and training_progress(label),
        )
        results[label] = {}
        for branch, one in done.branches.splits.items():
            results[label] |= measured(one.model, label, branch)
    return results


def _maker(model: Makes) -> Callable[[], PixelModel]:
    return partial(load_model, model) if isinstance(model, str) else model


def _figures(found: Measurement) -> dict[str, dict[str, Any]]:
    """Return by protocol what a measurement found, and over what."""
    conditions = list(dict.fromkeys((row["shift"], row["severity"]) for row in found.rows))
    return {
        protocol: {
            "clean_accuracy": one["clean_accuracy"],
            "mean_of_shifts": fmean(s["accuracy"] for s in one["per_shift"].values()) if one["per_shift"] else None,
            "mce": one["mce"],
            "images": one.get("images", found.summary["images"]),
            "conditions": conditions,
        }
        for protocol, one in found.summary["protocols"].items()
    }


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
