"""What a step of each method costs: one batch, timed."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import Dataset

from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.data import ImageData, load_data
from statshift.hardening.batch import Batch, takes_channels_last
from statshift.hardening.batches import Batches
from statshift.hardening.options import HardenOptions
from statshift.hardening.pairs import augmentation_of
from statshift.hardening.trainer import Objective
from statshift.measuring.loading import DTYPES, dtype_name, find_device, fit_to_model
from statshift.models import PixelModel, load_model
from statshift.splitting.branches import Branches
from statshift.tasks.choice import task_for
from statshift.tasks.task import Task


def step_costs(
    model: str | Callable[[], PixelModel],
    data: str | Dataset[Any] | ImageData,
    options: Mapping[str, HardenOptions],
    *,
    repeats: int = 5,
    device: str | torch.device = "auto",
    trace: bool = True,
    data_options: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, float]]:
    """Time one step of each method, without optimiser and loading: forward, attack and backward on one batch.

    After a step each to warm up, the methods take turns; what counts is the least of each one's times.

    Args:
        model: a spec, or what makes a fresh model.
        data: with labels; the first batch is used as it is, unaugmented; of data with label maps, the first windows.
        options: methods by label; ratios are to the first.
        repeats: turns, at least 1.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N", or a `torch.device`.
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
    make = partial(load_model, model) if isinstance(model, str) else model
    steps: dict[str, Callable[[], None]] = {}
    counts: dict[str, int] = {}
    for label, one in options.items():
        fresh = make().to(where)
        if not isinstance(data, ImageData):
            data = load_data(data, **(fresh.loading_options | dict(data_options or {})))
        data = fit_to_model(fresh, data, where)
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
    task = task_for(data)
    if task.labels_of(data) is None:
        raise InputError(f"Expected labels to train on, but {data.spec} has none.")
    task.check_labels(data, model.num_classes)
    batch = _first_batch(model, data, options, task)
    images = batch.images
    found = Branches(model, options.layer, images[:2], dual=options.chosen.dual, trace=trace)
    if training.channels_last and takes_channels_last(options.chosen, where):
        found.to(memory_format=torch.channels_last)
        batch = replace(batch, images=images.contiguous(memory_format=torch.channels_last))
    objective = Objective(found.train(), options.chosen)

    def step() -> None:
        torch.stack(list(objective(batch).values())).sum().backward()  # type: ignore[no-untyped-call]
        found.zero_grad()

    return step, size


def _first_batch(model: PixelModel, data: ImageData, options: HardenOptions, task: Task) -> Batch:
    """Return the first images as they are, or of data with label maps the first windows of a training."""
    training, where = options.training, model.mean.device
    size, dtype = min(training.batch_size, len(data)), DTYPES[dtype_name(training.dtype)]
    if data.has_maps:
        augmentation = augmentation_of(training, data, model.mean)
        batches = Batches(data, augmentation, size, 1, 0, where, dtype, channels_last=False, task=task)
        return next(batches.epoch(0))[0]
    pixels, positions = next(data.batches(size))
    draws = Draws(training.seed, torch.from_numpy(data.indices[positions]), "step cost")
    return Batch(pixels.to(where).float() / 255, task.targets(task.labels(data, positions).to(where)), draws, dtype)
