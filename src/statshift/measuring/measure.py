"""Measure a model under shift: one row for each condition, kept as soon as it is finished."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from statshift._core import processes
from statshift._core.errors import InputError, unknown
from statshift.adapting.choosing import Protocols, resolve_protocols
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.registry import SOURCE
from statshift.data import ImageData, has_clean, load_data, stored_shifts
from statshift.measuring.adapted import check_attacked, describe_protocols, measure_condition
from statshift.measuring.baselines import alexnet_for, read_baseline
from statshift.measuring.evaluate import Evaluator, describe_attack
from statshift.measuring.examples import Examples, draw_examples
from statshift.measuring.ligs import LigsOptions
from statshift.measuring.loading import find_device, fit_to_model, place
from statshift.measuring.probes import measure_ligs, unfinished_looks
from statshift.metrics.uncertainty import wilson_interval
from statshift.models import PixelModel
from statshift.norms.layers import evaluating
from statshift.results import (
    Row,
    baseline_errors,
    open_run,
    row_key,
    summarise,
)
from statshift.results.provenance import (
    REPEATED,
    answers_of,
    describe_corruption,
    describe_data,
    describe_environment,
    describe_functions,
    describe_model,
    describe_request,
    places_of,
)
from statshift.shifts.attacks import is_attack, parse_attack
from statshift.shifts.conditions import CLEAN, Condition, CorruptionOptions, Shifts, apply, conditions, resolve
from statshift.shifts.corruptions import SEVERITIES, warn_without_photographs

MOST_EXAMPLES = 64
PHOTOGRAPH = 224  # px; from here up images are photographs, which the benchmark corrupts at this size


@dataclass(frozen=True)
class Progress:
    """How far a measurement is.

    Attributes:
        condition: at work now.
        protocol: at work now.
        number: of its pass, from 0.
        passes: to make in this sitting.
        finished_before: passes that an earlier sitting made.
        images: finished in this pass.
        images_per_pass: in each pass.
    """

    condition: Condition
    protocol: str
    number: int
    passes: int
    finished_before: int
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
    protocols: Protocols = (),
    adaptation: AdaptationOptions | None = None,
    out: str | Path | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    dtype: str = "float32",
    compiled: bool = False,
    options: CorruptionOptions | None = None,
    at: str = "benchmark",
    data_options: Mapping[str, Any] | None = None,
    baseline: str | Path | None = None,
    alexnet: str = "auto",
    ligs: Sequence[str] = (),
    examples: int = 6,
    progress: Callable[[Progress], None] | None = None,
) -> Measurement:
    """Measure a model's accuracy on clean and shifted images; the model is left as it was found.

    With `out`, finished conditions are kept in that directory, and the same call goes on where an earlier one
    stopped. Started by torchrun or `accelerate launch`, the processes share the batches, and the rows are those of
    one process.

    Args:
        model: a spec or what `load_model` returns; a bare module is taken to want ImageNet's mean and deviation.
        data: a spec (see `load_data`), a torch `Dataset`, or loaded data; with labels.
        shifts: names, "common" (the 15), "holdout" (the 4), attacks as "pgd-linf:1/255" (see
            `statshift.shifts.attacks`; never rounded to 8 bits), or {"name": function} (see
            `statshift.shifts.conditions.apply`); by default the clean images and the 15. Data that store shifts are
            read instead. A protocol adapts to the images that attack the source, and is then attacked itself.
        severities: of 1 to 5.
        protocols: how the model is rectified, beside the source: names as in `rectify`, "batch" (each batch by its own
            statistics), "running" (their exponential average, "running:MOMENTUM"), "full" (the whole set's), or
            a `Protocol` value, or {"name": function} of (stored, observed, images), which returns a layer's statistics,
            of (model, images),
            which returns the model to be evaluated, or of (model), which returns what answers batch after batch, and
            runs without gradients unless it enables them. Each function has a model of its own; each condition begins
            at the source.
        adaptation: on how many images, how often, and which statistics of which layers.
        out: run directory, made if need be.
        batch_size: images in a batch; by default 256 on a GPU, on the CPU 16 photographs or 128 smaller images.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N", or a `torch.device`.
        dtype: "float32", or "bfloat16" or "float16" for autocast.
        compiled: run the model through `torch.compile`.
        options: how corruptions are made, and the seed.
        at: "benchmark" corrupts photographs at 224 px, from which a model of another size resizes; "model"
            corrupts at the model's own input size, with scaled constants.
        data_options: further arguments of `load_data`, where `data` is not loaded.
        baseline: a run directory whose errors CE and mCE divide by, in AlexNet's place.
        alexnet: whose AlexNet they divide by otherwise: "imagenet", "cifar10", "cifar100", "none", or "auto", which
            goes by the data and the number of classes.
        ligs: perturbations with which the source's Local Input Gradient Similarity is measured on the clean images, of
            `statshift.measuring.ligs.PERTURBATIONS`.
        examples: so many images, the same for every model, are shown under conditions in `out`, and each row says what
            is predicted of them; 0 for none. A directory that has some goes on with those.
        progress: called before the first batch and after each.

    Raises:
        InputError: something that cannot be used, told in one line.

    Reference:
        Hendrycks & Dietterich, ICLR 2019, section 4.
    """
    options, adaptation = options or CorruptionOptions(), adaptation or AdaptationOptions()
    adapted = resolve_protocols(protocols)
    where = find_device(device)
    similar = [LigsOptions(name) for name in dict.fromkeys(ligs)]
    if batch_size is not None and batch_size < 1:
        raise InputError(f"Expected `batch_size` to be at least 1, but got {batch_size}.")
    if not 0 <= examples <= MOST_EXAMPLES:
        raise InputError(f"Expected `examples` from 0 to {MOST_EXAMPLES}, but got {examples}.")
    stored = stored_shifts(data) if isinstance(data, str) else {}
    if ligs and stored:
        raise InputError(f"Expected clean images to measure LIGS on, but {data} stores shifted ones.")
    if shifts is None:
        shifts = ("common",) if isinstance(data, str) and not has_clean(data) else (CLEAN, "common")
    names, functions = resolve(shifts, list(stored) or None)
    wanted = conditions(names, severities, functions, stored)
    pixel_model = place(model, where)
    fit = partial(fit_to_model, pixel_model, device=where)
    load = _loader(data, _loading_options(data_options or {}, pixel_model, at, where), bool(stored), fit)
    first = load(wanted[0])
    labels = _labels(first)

    def shift(images: Tensor, condition: Condition, indices: Tensor) -> Tensor:
        return images if stored else apply(images, condition, indices, options, functions)

    size = batch_size or (256 if where.type == "cuda" else 16 if min(first.shape[1:]) >= PHOTOGRAPH else 128)
    attacks = {} if stored else {name: parse_attack(name) for name in names if is_attack(name)}
    check_attacked(adapted, attacks)
    evaluate = Evaluator(
        pixel_model,
        where,
        dtype=dtype,
        compiled=compiled,
        shift=shift,
        batch_size=size,
        attacks=attacks,
        seed=options.seed,
    )
    with evaluating(pixel_model):
        classes = evaluate.count_classes(first)
    if attacks:
        evaluate.check_attackable(first)
    _warn_of_fewer_classes(first, classes)
    described = {}
    if adapted:
        evaluate.keeping = True
        one_image = evaluate.shifted(first, wanted[0], np.zeros(1, np.int64))
        described = describe_protocols(adapted, adaptation, pixel_model, one_image, len(labels))
    record: dict[str, Any] = {
        "model": describe_model(pixel_model),
        "answers": answers_of(pixel_model, first.shape),
        "data": describe_data(first, labels),
        "corruption": {"stored": True} if stored else describe_corruption(options, first.shape, at),
        "alexnet": alexnet_for(alexnet, pixel_model.spec, first, classes),
        "shifts": names,
        "functions": describe_functions(functions),
        **(
            {"attacks": {name: describe_attack(attack, batch_size=size) for name, attack in attacks.items()}}
            if attacks
            else {}
        ),
        "severities": sorted(set(severities)),
        "protocols": {SOURCE: {}} | described,
        "seed": options.seed,
        "dtype": dtype,
        "asked": describe_request(
            {
                **{name: value for name, value in (data_options or {}).items() if name in REPEATED},
                **{name: getattr(options, name) for name in ("table", "frost")},
                **{name: getattr(adaptation, name) for name in ("draws", "reset_every")},
                "weights": pixel_model.weights_file,
                "baseline": baseline,
                "alexnet": None if alexnet == "auto" else alexnet,
                "ligs": ",".join(dict.fromkeys(ligs)),
                "functions": places_of(functions),
                "available": len(first.source),
            }
        ),
        "environment": describe_environment(where) | {"batch_size": size, "compiled": compiled},
    }
    reference = None if baseline is None else read_baseline(baseline, record)
    if "frost" in names and not stored:
        warn_without_photographs(options.frost)
    class_counts = record["data"]["class_counts"]
    first_process = processes.join()[0] == 0
    with open_run(out, record) if out is not None and first_process else nullcontext() as run:
        rows = processes.from_first(list(run.rows) if run else [])
        done = {row_key(row) for row in rows}
        pictured = Examples(run.path / "examples", first, examples) if run and examples else None
        shown = processes.from_first(pictured.positions if pictured else draw_examples(first, examples))
        repeats = [
            (SOURCE, 0),
            *((name, draw) for name, one in adapted.items() for draw in range(one.repeats(adaptation))),
        ]
        todo = {
            condition: missing
            for condition in wanted
            if (missing := [one for one in repeats if (one[0], *astuple(condition), one[1]) not in done])
        }
        passes = sum(len({(SOURCE, 0), *missing}) for missing in todo.values())  # the source is there to pair with
        finished_before, number = len(wanted) * len(repeats) - sum(map(len, todo.values())), -1

        def begin(condition: Condition, name: str) -> Callable[[int], None]:
            nonlocal number
            number += 1
            start = Progress(condition, name, number, passes, finished_before, 0, len(labels))

            def tell(finished: int) -> None:
                if progress and first_process:
                    progress(replace(start, images=finished))

            tell(0)
            return tell

        looks = (
            unfinished_looks(run.path, pixel_model, first, wanted, options.seed, pictured, not stored) if run else {}
        )
        for condition in dict.fromkeys([*wanted, *looks]):
            if condition not in {**todo, **looks}:
                continue
            images = load(condition)
            if not np.array_equal(_labels(images), labels):
                raise InputError(f"The labels of {images.spec} at {condition} differ from those at {wanted[0]}.")
            repeated = [(name, adapted.get(name), draw) for name, draw in todo.get(condition, ())]
            started = time.perf_counter()
            for row in measure_condition(
                evaluate, images, len(class_counts), condition, repeated, adaptation, options.seed, begin, shown
            ):
                rows.append(row)
                if run:
                    run.append(row, {"seconds": time.perf_counter() - started, "device": str(where)})
                started = time.perf_counter()
                if row_key(row)[:2] == (SOURCE, CLEAN):
                    _warn_near_chance(row, classes)
            for look in looks.get(condition, ()):
                look.add(evaluate, images, condition)
        summary = summarise(
            rows,
            table=record["alexnet"],
            baseline=baseline_errors(reference.rows) if reference else None,
            class_counts=class_counts,
        )
        similarities_found = measure_ligs(
            evaluate, first, similar, run.path / "ligs.json" if run else None, options.seed
        )
        if similarities_found:
            summary["ligs"] = similarities_found
        if reference:
            summary["baseline"] = {name: reference.record["model"][name] for name in ("spec", "weights_hash")}
        if run:
            run.write_summary(summary)
    return Measurement(run.record if run else record, rows, summary, None if out is None else Path(out))


def _loading_options(options: Mapping[str, Any], model: PixelModel, at: str, device: torch.device) -> dict[str, Any]:
    """Add to the options of `load_data` what the caller leaves open: for `at="model"` what the model's authors do.

    Decoding gets processes of its own where the model runs on a GPU.
    """
    if at not in ("benchmark", "model"):
        raise unknown("place of corruption", at, ["benchmark", "model"])
    given = {name: value for name, value in options.items() if value is not None}
    given.setdefault("workers", min(8, torch.get_num_threads()) if device.type == "cuda" else 0)
    if at == "benchmark" or {"resize", "crop"} & given.keys():
        return given
    if not model.loading_options:
        raise InputError(
            f"{model.spec} does not tell its input size: give --resize and --crop, or --corrupt-at benchmark."
        )
    return model.loading_options | given


def _loader(
    data: Any, options: Mapping[str, Any], stored: bool, fit: Callable[[ImageData], ImageData]
) -> Callable[[Condition], ImageData]:
    """Return what loads the images of a condition: always the same ones, unless the data store shifts.

    Their labels are those that `fit` gives them.
    """
    if stored:  # each condition is read once, so nothing is kept
        return lambda condition: fit(
            load_data(
                data,
                shift=None if condition.shift == CLEAN else (condition.shift, condition.severity),
                cache_bytes=0,
                **options,
            )
        )
    loaded = fit(data if isinstance(data, ImageData) else load_data(data, **options))
    return lambda condition: loaded


def _labels(data: ImageData) -> NDArray[np.int64]:
    if data.labels is None:
        raise InputError(f"Expected labelled images to measure accuracy, but {data.spec} has no labels.")
    return data.labels


def _warn_of_fewer_classes(data: ImageData, classes: int) -> None:
    if data.classes is not None and data.classes != classes:
        warnings.warn(
            f"{data.spec} has {data.classes} classes and the model {classes}: labels are taken to be the model's first "
            f"{data.classes} classes; if they are others, map them with --class-map.",
            stacklevel=3,
        )


def _warn_near_chance(clean: Row, classes: int) -> None:
    low, _ = wilson_interval(clean["correct"], clean["images"])
    if float(low) < 1 / classes + 0.05 * (1 - 1 / classes):
        warnings.warn(
            f"Clean accuracy is {clean['correct'] / clean['images']:.1%} with {classes} classes, near chance: are the "
            "weights trained ones (--weights), do the labels mean the model's classes (--class-map), and are --mean "
            "and --std those of the training?",
            stacklevel=3,
        )
