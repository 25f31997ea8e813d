"""Measure a model under shift: one row for each condition, kept as soon as it is finished."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from statshift import processes
from statshift.corruptions import SEVERITIES, table_for
from statshift.data import ImageData, load_data, stored_shifts
from statshift.errors import InputError, unknown
from statshift.evaluation import Evaluator, find_device
from statshift.layers import evaluating
from statshift.metrics import ALEXNET
from statshift.models import PixelModel, load_model
from statshift.provenance import describe_corruption, describe_data, describe_environment, describe_model
from statshift.results import Row, baseline_errors, make_row, open_run, read_run, row_key, summarise
from statshift.shifts import CLEAN, Condition, CorruptionOptions, Shifts, conditions, resolve
from statshift.uncertainty import wilson_interval

PHOTOGRAPH = 224  # px; from here up images are photographs, which the benchmark corrupts at this size


@dataclass(frozen=True)
class Progress:
    """How far a measurement is: `images` of pass `number` (from 0) of `passes`, `images_per_pass` each."""

    condition: Condition
    number: int
    passes: int
    images: int
    images_per_pass: int


@dataclass(frozen=True)
class Measurement:
    """What was measured: `record`, `rows` and `summary` as in the run directory; `path` is that directory, if any."""

    record: dict[str, Any]
    rows: list[Row]
    summary: dict[str, Any]
    path: Path | None = None


def measure(
    model: str | nn.Module,
    data: str | Dataset[Any] | ImageData,
    *,
    shifts: Shifts | None = None,
    severities: Sequence[int] = SEVERITIES,
    out: str | Path | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    compiled: bool = False,
    options: CorruptionOptions | None = None,
    at: str = "benchmark",
    model_options: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    baseline: str | Path | None = None,
    alexnet: str = "auto",
    progress: Callable[[Progress], None] | None = None,
) -> Measurement:
    """Measure a model's accuracy on clean and shifted images; the model is left as it was found.

    With `out`, finished conditions are kept in that directory, and the same call goes on where an earlier one
    stopped. Started by torchrun or `accelerate launch`, the processes share the batches, and the rows are those of
    one process.

    Args:
        model: a spec (see `load_model`), a `PixelModel`, or a module whose input is normalised by ImageNet's mean
            and deviation.
        data: a spec (see `load_data`), a torch `Dataset`, or loaded data; with labels.
        shifts: names, "common" (the 15), "holdout" (the 4), or {"name": function} (see `statshift.shifts.apply`);
            by default the clean images and the 15. Data that store shifts are read instead.
        severities: of 1 to 5.
        out: run directory, made if need be.
        batch_size: images in a batch; by default 256 on a GPU, on the CPU 16 photographs or 128 smaller images.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        dtype: "float32", or "bfloat16" or "float16" for autocast.
        compiled: run the model through `torch.compile`.
        options: how corruptions are made, and the seed.
        at: "benchmark" corrupts photographs at 224 px, from which a model of another size resizes; "model"
            corrupts at the model's own input size, with scaled constants.
        model_options: further arguments of `load_model`, where `model` is a spec.
        data_options: further arguments of `load_data`, where `data` is not loaded.
        baseline: a run directory whose errors CE and mCE divide by, in AlexNet's place.
        alexnet: whose AlexNet they divide by otherwise: "imagenet", "cifar10", "cifar100", "none", or "auto", which
            goes by the data and the number of classes.
        progress: called before the first batch and after each.

    Raises:
        InputError: something that cannot be used, told in one line.

    Reference:
        Hendrycks & Dietterich, ICLR 2019, section 4.
    """
    options = options or CorruptionOptions()
    where = find_device(device)
    if batch_size is not None and batch_size < 1:
        raise InputError(f"Expected `batch_size` to be at least 1, but got {batch_size}.")
    divisor = None if baseline is None else baseline_errors(read_run(baseline).rows)
    stored = stored_shifts(data) if isinstance(data, str) else {}
    names, functions = resolve(_default(data, stored) if shifts is None else shifts, list(stored) or None)
    wanted = conditions(names, severities, functions)
    pixel_model = _prepare(model, where, model_options or {})
    load = _loader(data, _with_preprocessing(data_options or {}, pixel_model, at), bool(stored))
    first = load(wanted[0])
    labels = _labels(first)
    size = batch_size or (256 if where.type == "cuda" else 16 if min(first.shape[1:]) >= PHOTOGRAPH else 128)
    evaluate = Evaluator(
        pixel_model, where, dtype=dtype, compiled=compiled, options=options, functions=functions, batch_size=size
    )
    with evaluating(pixel_model):
        classes = evaluate.count_classes(first)
    alexnet_table = _alexnet(alexnet, pixel_model.spec, first, classes)
    record: dict[str, Any] = {
        "model": describe_model(pixel_model),
        "data": describe_data(first, labels),
        "corruption": {"stored": True} if stored else describe_corruption(options, first.shape, at),
        "alexnet": alexnet_table,
        "shifts": names,
        "severities": sorted(set(severities)),
        "protocols": ["source"],
        "seed": options.seed,
        "dtype": dtype,
        "environment": describe_environment(where) | {"batch_size": size, "compiled": compiled},
    }
    class_counts = record["data"]["class_counts"]
    rank, _ = processes.join()
    run = open_run(out, record) if out is not None and rank == 0 else None
    try:
        rows = processes.from_first(list(run.rows) if run else [])
        done = {row_key(row) for row in rows}
        todo = [one for one in wanted if ("source", one.shift, one.severity, 0) not in done]
        with evaluating(pixel_model):
            for number, condition in enumerate(todo):
                started = time.perf_counter()
                images = load(condition)
                if not np.array_equal(_labels(images), labels):
                    raise InputError(f"The labels of {images.spec} at {condition} differ from those at {wanted[0]}.")
                tell = _teller(progress if rank == 0 else None, condition, number, len(todo), len(images))
                statistics = evaluate(images, condition, tell)
                row = make_row(
                    statistics, labels, len(class_counts), shift=condition.shift, severity=condition.severity
                )
                rows.append(row)
                if run:
                    run.append(row, {"seconds": time.perf_counter() - started, "device": str(where)})
        _warn_near_chance(rows, classes)
        summary = summarise(rows, table=alexnet_table, baseline=divisor, class_counts=class_counts, seed=options.seed)
        if run:
            run.write_summary(summary)
    finally:
        if run:
            run.close()
    return Measurement(run.record if run else record, rows, summary, None if out is None else Path(out))


def _default(data: Any, stored: Mapping[str, Any]) -> Shifts:
    """Return the clean images, where there are any, and the 15, or whatever of them the data store."""
    if not stored:
        return (CLEAN, "common")
    try:
        load_data(data, limit=1)
    except InputError:
        return ("common",)
    return (CLEAN, "common")


def _prepare(model: str | nn.Module, device: torch.device, options: Mapping[str, Any]) -> PixelModel:
    """Return the model on the device; a caller's own module is copied if it lies elsewhere."""
    if isinstance(model, str):
        return load_model(model, **options).to(device)
    pixel_model = model if isinstance(model, PixelModel) else load_model(model)
    tensors = [*pixel_model.parameters(), *pixel_model.buffers()]
    return pixel_model if all(tensor.device == device for tensor in tensors) else deepcopy(pixel_model).to(device)


def _with_preprocessing(options: Mapping[str, Any], model: PixelModel, at: str) -> dict[str, Any]:
    """Add to the options of `load_data` what the model says of resizing, where the caller does not."""
    if at not in ("benchmark", "model"):
        raise unknown("place of corruption", at, ["benchmark", "model"])
    wishes = model.preprocessing
    options = {"interpolation": wishes.interpolation} | {k: v for k, v in options.items() if v is not None}
    if at == "model" and not {"resize", "crop"} & options.keys():
        options |= {"resize": wishes.resize or wishes.input_size, "crop": wishes.crop or wishes.input_size}
    return options


def _loader(data: Any, options: Mapping[str, Any], stored: bool) -> Callable[[Condition], ImageData]:
    """Return what loads the images of a condition: always the same ones, unless the data store shifts."""
    if stored:
        return lambda condition: load_data(
            data, shift=None if condition.shift == CLEAN else (condition.shift, condition.severity), **options
        )
    loaded = data if isinstance(data, ImageData) else load_data(data, **options)
    return lambda condition: loaded


def _labels(data: ImageData) -> NDArray[np.int64]:
    if data.labels is None:
        raise InputError(f"Expected labelled images to measure accuracy, but {data.spec} has no labels.")
    return data.labels


def _alexnet(choice: str, model: str, data: ImageData, classes: int) -> str | None:
    """Return which AlexNet's errors CE divides by; "auto" goes by the specs, the images' size and the classes."""
    if choice not in ("auto", "none", *ALEXNET):
        raise unknown("AlexNet", choice, ["auto", "none", *ALEXNET])
    if choice != "auto":
        return None if choice == "none" else choice
    scheme, small = data.spec.partition(":")[0], table_for(min(data.shape[1:])) == "cifar"
    if classes == 1000 and not small:
        return "imagenet"
    said_so = scheme in ("cifar10", "cifar100", "cifar-c")
    likely = scheme in ("npz", "folder") and model.startswith("cifar:")
    return {10: "cifar10", 100: "cifar100"}.get(classes) if small and (said_so or likely) else None


def _teller(
    progress: Callable[[Progress], None] | None, condition: Condition, number: int, passes: int, images: int
) -> Callable[[int], None]:
    def tell(done: int) -> None:
        if progress:
            progress(Progress(condition, number, passes, done, images))

    tell(0)
    return tell


def _warn_near_chance(rows: Sequence[Row], classes: int) -> None:
    clean = next((row for row in rows if row["shift"] == CLEAN), None)
    if clean is None:
        return
    low, _ = wilson_interval(clean["correct"], clean["images"])
    if float(low) < 1 / classes + 0.05 * (1 - 1 / classes):
        warnings.warn(
            f"Clean accuracy is {clean['correct'] / clean['images']:.1%} with {classes} classes, near chance: do the "
            "labels mean the model's classes (--class-map), and are --mean and --std those it was trained with?",
            stacklevel=3,
        )
