"""What will be measured: the model, the images and the shifts, all of it checked, and the record that says so."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from statshift._core.errors import InputError
from statshift.adapting.choosing import resolve_protocols
from statshift.adapting.drawing import LARGE
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocol import Protocol
from statshift.adapting.registry import SOURCE
from statshift.data import ImageData, has_label_maps, load_data
from statshift.measuring.adapted import check_attacked, check_streamed, describe_protocols
from statshift.measuring.baselines import alexnet_for, read_baseline
from statshift.measuring.evaluate import Evaluator
from statshift.measuring.fast import find_way, in_channels_last, settle
from statshift.measuring.images import Images, read_images
from statshift.measuring.ligs import LigsOptions
from statshift.measuring.loading import dtype_name, find_device, fit_to_model, place, usual_workers
from statshift.measuring.record import describe_plan
from statshift.measuring.settings import Setup, Wanted
from statshift.measuring.streams.course import Course, member_of
from statshift.measuring.streams.find import find_course
from statshift.models import PixelModel
from statshift.norms.layers import evaluating
from statshift.results import RunResult
from statshift.shifts.clean import CLEAN_IMAGES
from statshift.shifts.conditions import Condition, conditions, resolve
from statshift.shifts.groups import names_of_groups, read_groups, spell_out
from statshift.shifts.shift import CLEAN, Shift, of_clean_images
from statshift.shifts.stored import offered, usual
from statshift.tasks.task import Task

PHOTOGRAPH = 224  # px; from here up images are photographs, which the benchmark corrupts at this size


@dataclass(frozen=True)
class Plan:
    """A measurement that can begin.

    Attributes:
        evaluate: with the model.
        images: images of all conditions.
        shifts: by name, and the clean images.
        conditions: to be measured, in order.
        protocols: by name, beside the source.
        adaptation: for all of them.
        task: what the labels are of.
        ligs: perturbations.
        examples: how many images are shown.
        seed: seed of everything drawn.
        classes: the width of the model's logits.
        record: that says all this.
        reference: the run whose errors CE divides by, if any.
        course: the order of the stream, if the images come in one.
    """

    evaluate: Evaluator
    images: Images
    shifts: Mapping[str, Shift]
    conditions: Sequence[Condition]
    protocols: Mapping[str, Protocol]
    adaptation: AdaptationOptions
    task: Task
    ligs: Sequence[LigsOptions]
    examples: int
    seed: int
    classes: int
    record: dict[str, Any] = field(repr=False)
    reference: RunResult | None = None
    course: Course | None = None

    def repeats(self) -> list[tuple[str, int]]:
        """Return what each condition is measured by: protocol and draw, the source first."""
        adapted = [(name, k) for name, one in self.protocols.items() for k in range(one.repeats(self.adaptation))]
        return [(SOURCE, 0), *adapted]

    def groups(self) -> list[list[Condition]]:
        """Return the conditions that are measured together: each alone, or those of a stream's passage."""
        return [[one] for one in self.conditions] if self.course is None else self.course.groups(self.conditions)


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
    protocols = resolve_protocols(wanted.rectify)
    course = None if wanted.stream is None else find_course(wanted.stream)
    device, ligs = find_device(setup.device), [LigsOptions(name) for name in dict.fromkeys(wanted.ligs)]
    there = offered(data)
    groups = read_groups(wanted.groups)
    chosen = resolve(spell_out(usual(data) if wanted.shifts is None else wanted.shifts, groups), wanted.options, there)
    if ligs and not of_clean_images(chosen):
        raise InputError(f"Expected clean images to measure LIGS on, but {data} stores shifted ones.")
    todo = conditions(chosen, wanted.severities)
    pixel_model = place(model, device)
    fit = partial(fit_to_model, pixel_model, device=device)
    options = _loading_options(wanted, pixel_model, data, device)
    adaptation = _with_clean_data(wanted, options, fit)
    images = read_images(data, chosen, todo, options, fit, wanted.task, masked=not wanted.full_argmax)
    task, chosen = images.task, [*images.shifts]
    todo = conditions(chosen, wanted.severities)
    if course:
        course.check(images)
        check_streamed(protocols, [shift.name for shift in chosen if shift.needs_model])
        images = course.fitted(images, wanted.options.seed)
    shifts = {CLEAN: CLEAN_IMAGES, **{one.name: one.fitted(task) for one in chosen}}
    way = find_way(device, pixel_model, dtype_name(setup.dtype)) if setup.fast else None
    setup = replace(setup, dtype=way.dtype) if way else setup
    evaluate = Evaluator(
        in_channels_last(pixel_model) if way else pixel_model,
        device,
        dtype=setup.dtype,
        compiled=setup.compiled,
        shifts=shifts,
        batch_size=setup.batch_size or _usual_batch_size(device, images.base),
        seed=wanted.options.seed,
        task=task,
        tasks=images.tasks,
    )
    with evaluating(evaluate.model):
        classes = evaluate.count_classes(images.base)
    images.check(classes)
    sizing = setup.batch_size is None and not any(shift.needs_model for shift in chosen)
    found = settle(evaluate, pixel_model, way, images.base, classes, task, sizing=sizing) if way else None
    _check_gradients(evaluate, images.base, chosen, protocols, wanted.ligs, task)
    described = _describe_protocols(evaluate, images, todo[0], protocols, adaptation, course)
    table = alexnet_for(alexnet, pixel_model.spec, images.base, classes, task)
    record = describe_plan(
        evaluate,
        images,
        chosen,
        wanted,
        setup,
        task,
        {
            "alexnet": table,
            "protocols": described,
            "groups": names_of_groups(groups, chosen, wanted.options, there),
            "stream": course and _describe_stream(course, images, todo, protocols, wanted),
        },
        {"baseline": baseline, "alexnet": alexnet},
    )
    record["environment"] |= {"fast": found} if found else {}
    reference = None if baseline is None else read_baseline(baseline, record)
    for shift in chosen:
        shift.check()
    return Plan(
        evaluate,
        images,
        shifts,
        todo,
        protocols,
        adaptation,
        task,
        ligs,
        wanted.examples,
        wanted.options.seed,
        classes,
        record,
        reference,
        course,
    )


def _usual_batch_size(device: torch.device, data: ImageData) -> int:
    if device.type != "cuda" and min(data.shape[1:]) < PHOTOGRAPH and not data.has_maps:
        return 128
    usual, pixels = 256 if device.type == "cuda" else 16, int(data.sizes.prod(1).max())
    return max(1, min(usual, usual * LARGE // pixels))


def _loading_options(
    wanted: Wanted, model: PixelModel, data: str | Dataset[Any] | ImageData, device: torch.device
) -> dict[str, Any]:
    """Add to the options of `load_data` what is left open: for `corrupt_at="model"` what the model's authors do.

    That is of photographs: images with label maps keep their size, at which a model gets them anyway. Decoding gets
    processes of its own where the model runs on a GPU.
    """
    given = {name: value for name, value in wanted.data_options.items() if value is not None}
    given.setdefault("workers", usual_workers(device))
    if wanted.corrupt_at == "benchmark" or {"resize", "crop"} & given.keys() or has_label_maps(data):
        return given
    if not model.loading_options:
        raise InputError(
            f"{model.spec} does not tell its input size: give `resize` and `crop`, or `corrupt_at` as benchmark."
        )
    return model.loading_options | given


def _with_clean_data(
    wanted: Wanted, options: Mapping[str, Any], fit: Callable[[ImageData], ImageData]
) -> AdaptationOptions:
    """Return how to adapt, with the clean images that are asked for."""
    source = wanted.clean_data
    if source is None:
        return wanted.adaptation
    clean = source if isinstance(source, ImageData) else load_data(source, **options)
    return replace(wanted.adaptation, clean=fit(clean))


def _check_gradients(
    evaluate: Evaluator,
    data: ImageData,
    shifts: Sequence[Shift],
    protocols: Mapping[str, Protocol],
    ligs: Sequence[str],
    task: Task,
) -> None:
    """Check that what needs a gradient finds a task that has one, and a model that stands still."""
    attacks = [shift.name for shift in shifts if shift.needs_model]
    for name in dict.fromkeys(ligs):
        task.check_gradients(f"LIGS under {name}")
    check_attacked(protocols, attacks)
    if attacks:
        evaluate.check_attackable(data)


def _describe_protocols(
    evaluate: Evaluator,
    images: Images,
    first: Condition,
    protocols: Mapping[str, Protocol],
    adaptation: AdaptationOptions,
    course: Course | None,
) -> dict[str, Any]:
    """Return what a record says of the protocols, which must have images enough of every set."""
    if not protocols:
        return {}
    streams = [name for name, one in protocols.items() if one.kin.adapts_on == "stream"]
    if streams and any(data.several_sizes for data in (images.base, *images.sets.values())):
        raise InputError(f"Expected images of one size for {', '.join(streams)}: give `resize` and `crop`.")
    evaluate.keeping = True
    one_image = evaluate.shifted(images.sets.get(first, images.base), first, np.zeros(1, np.int64))
    reset = "" if course is None else f"to the source at each {'draw' if course.several else 'condition and draw'}"
    describe = partial(describe_protocols, protocols, adaptation, evaluate.model, one_image, reset=reset)
    described = describe(len(images.base))
    for condition, data in sorted(images.sets.items(), key=lambda one: len(one[1]))[:1]:
        try:
            describe(len(data))
        except InputError as error:
            raise InputError(f"Of {condition}, {data.spec}: {error}") from error
    return described


def _describe_stream(
    course: Course,
    images: Images,
    todo: Sequence[Condition],
    protocols: Mapping[str, Protocol],
    wanted: Wanted,
) -> dict[str, Any]:
    """Return what a record says of the stream, whose batches must be large enough for every protocol."""
    size = wanted.adaptation.samples
    told: dict[str, Any] = {}
    for group in course.groups(todo):
        members = [member_of(one, images.sets.get(one, images.base), images.task_of(one)) for one in group]
        told = told or course.describe(images, members, size)
        least = min(map(len, course.passage(members, size, wanted.options.seed, 0).batches))
        for name, protocol in protocols.items():
            if least < protocol.least:
                raise InputError(
                    f"Expected batches of at least {protocol.least} images for {name}, but got {least}: give `samples`."
                )
    return told
