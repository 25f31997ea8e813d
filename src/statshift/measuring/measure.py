"""Measure a model under shift: plan, run, record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from statshift._core import processes
from statshift._core.errors import InputError
from statshift._core.parts import PartClock, clocked, moments_of, sum_by_part
from statshift.adapting.choosing import Protocols
from statshift.adapting.options import AdaptationOptions
from statshift.data import ImageData
from statshift.measuring.loading import Dtype, find_device
from statshift.measuring.plan import make_plan
from statshift.measuring.planning import forecast
from statshift.measuring.profile import Watch, trace_of
from statshift.measuring.progress import Progress
from statshift.measuring.run import Measurement, run_plan
from statshift.measuring.settings import Setup, Wanted
from statshift.metrics.classification import SEVERITIES
from statshift.results import write_json_atomically
from statshift.results.typed import Summary
from statshift.shifts.conditions import Shifts
from statshift.shifts.groups import NamedShifts
from statshift.shifts.shift import CorruptionOptions
from statshift.tasks.task import Task


def measure(
    model: str | nn.Module,
    data: str | Dataset[Any] | ImageData,
    *,
    shifts: Shifts | None = None,
    severities: Sequence[int] = SEVERITIES,
    groups: str | Path | NamedShifts | None = None,
    rectify: Protocols = (),
    adaptation: AdaptationOptions | None = None,
    out: str | Path | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    dtype: Dtype = "float32",
    compiled: bool = False,
    seed: int | None = None,
    options: CorruptionOptions | None = None,
    corrupt_at: str = "benchmark",
    data_options: Mapping[str, Any] | None = None,
    baseline: str | Path | None = None,
    alexnet: str = "auto",
    ligs: Sequence[str] = (),
    examples: int = 6,
    progress: Callable[[Progress], None] | None = None,
    task: str | Task | None = None,
    full_argmax: bool = False,
    stream: str | None = None,
    clean_data: str | Dataset[Any] | ImageData | None = None,
    fast: bool = False,
    profile: bool = False,
    dry_run: bool = False,
) -> Measurement:
    """Measure a model's accuracy on clean and shifted images; the model is left as it was found.

    With `out`, finished conditions are kept in that directory, and the same call goes on where an earlier one
    stopped. Started by torchrun, `accelerate launch` or `srun`, the processes share batches and conditions, and the
    rows are those of one process.

    Args:
        model: a spec or what `load_model` returns; a bare module is taken to want ImageNet's mean and deviation.
        data: a spec (see `load_data`), a torch `Dataset`, or loaded data; with labels.
        shifts: names, "common" (the 15), "holdout" (the 4), "filters", attacks as "pgd-linf:1/255" (see
            `statshift.shifts.attacks`; never rounded to 8 bits), {"name": function} of images (B,3,H,W) in [0,1] and of
            those of `severity`, `seed` and `indices` that it names, sets of images with labels of their own such as
            "imagenet-r:DIR" (see `statshift.shifts.natural`), or a `statshift.shifts.shift.Shift` of your own; by
            default the clean images and the 15. Data that store shifts are read instead. A protocol adapts to the
            images that attack the source, and is then attacked itself.
        severities: of 1 to 5.
        groups: {"name": [shifts]}, or a YAML or JSON file of it: names that `shifts` may hold too, each with a mean of
            its own beside those of the families, within each family that it is of.
        rectify: how the model is rectified, beside the source: names as in `rectify`, "batch" (each batch by its own
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
        dtype: "float32", or "bfloat16" or "float16" for autocast, or the `torch.dtype`.
        compiled: run the model through `torch.compile`.
        seed: of shifts, attacks, the choice of images that are adapted on, and LIGS; by default that of `options`, 0.
        options: how corruptions are made.
        corrupt_at: "benchmark" corrupts photographs at 224 px, from which a model of another size resizes; "model"
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
        task: what the labels are of: "classification", "subset" (among the classes that the data have), "segmentation",
            a `Task`, or py:FILE:NAME; see `statshift.tasks`. By default segmentation of data with label maps, else
            classification.
        full_argmax: sets that lack some of the model's classes, such as ImageNet-R, are scored among all; by default
            among the classes that they have.
        stream: in which order the images come, in batches of `adaptation.samples`, every protocol answering batch
            after batch: "iid", "sorted" by class, "dirichlet:DELTA" in runs of classes, or "video:COPIES", frames of
            few scenes, each of which begins at the source in every condition; or all conditions without a reset, the
            clean images last: "continual", one after another, "gradual", rising and falling in severity, or "mixed".
            A protocol of a few images adapts to the newest, or to the first and is frozen. See docs/howto/streams.md.
        clean_data: clean images for protocols that look at some beforehand, as "eata" does; loaded as `data` is, and
            their labels are not looked at. They stand in the place of `adaptation.clean`.
        fast: run a copy of the model in channels_last, and with what else is fast on the device: bfloat16, on a GPU
            `torch.compile`, and, where no `batch_size` is given, the batch size at which an image takes least. How
            many predictions on 256 clean images differ from those in float32 stands in the record, with what was
            chosen, as `environment.fast`.
        profile: write `profile.json` and `trace.json` into `out` too: seconds by part, which every result has as its
            `profile`, and a trace of a few batches in Chrome's format. The passes that are traced are slower.
        dry_run: check everything and try a few batches of each part, but measure and write nothing. The result has no
            rows; its `forecast` tells the passes, seconds by part, memory and disk that the same call takes without.

    Raises:
        InputError: something that cannot be used, told in one line.

    Reference:
        Hendrycks & Dietterich, ICLR 2019, section 4.
    """
    options = options or CorruptionOptions()
    how = (options if seed is None else replace(options, seed=seed), corrupt_at, data_options or {})
    wanted = Wanted(shifts, severities, rectify, adaptation or AdaptationOptions(), *how, ligs, examples, task)
    wanted = replace(wanted, groups=groups, full_argmax=full_argmax, stream=stream, clean_data=clean_data)
    setup = Setup(batch_size, device, dtype, compiled, fast)
    if profile and out is None:
        raise InputError("Expected `out`, a folder for the profile, but got none.")
    where = find_device(device)
    with clocked(PartClock(moments_of(where))) as clock:
        plan = make_plan(model, data, wanted, setup, baseline, alexnet)
        if dry_run:
            nothing: Summary = {"images": len(plan.images.base), "relative_to": None, "protocols": {}}
            return Measurement(plan.record, [], nothing, forecast=forecast(plan, out, sum_by_part(clock.seconds())))
        trace = trace_of(plan, Path(out), clock) if profile and out is not None else None
        watch = Watch(clock, [tell for tell in (progress, trace) if tell])
        found = run_plan(plan, out, watch)
        if trace:
            trace.close()
        told = watch.profile(where, processes.join()[1])
    if trace and processes.join()[0] == 0:
        write_json_atomically(trace.path.with_name("profile.json"), told.describe())
    return replace(found, profile=told)
