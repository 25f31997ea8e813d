"""`statshift measure`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from statshift._core.errors import InputError
from statshift.adapting.registry import spelled
from statshift.cli import options as o
from statshift.cli import typed as t
from statshift.cli.along import stream_text
from statshift.cli.output import print_json, print_out, say
from statshift.cli.plan import forecast_text
from statshift.cli.progress import MeasurementReport, progress_bar
from statshift.cli.tables import fast_text, layers_text, summary_text
from statshift.cli.target import load_model_on
from statshift.making.choices import STYLE_SIZE
from statshift.measuring.streams.choices import STREAMS


def measure_command(
    model: o.Model,
    data: o.Data,
    out: Annotated[Path, o.out("the run's rows, record and summary")],
    weights: o.Weights = None,
    branch: o.Branch = None,
    shifts: Annotated[
        str | None,
        o.shifts(
            ", attacks such as pgd-linf:1/255, sets such as imagenet-r:DIR",
            "clean,common, or those that the data store",
        ),
    ] = None,
    groups: o.Groups = None,
    severities: o.Severities = "1,2,3,4,5",
    rectify: Annotated[
        str | None,
        typer.Option(
            "--rectify",
            help=f"Protocols to measure beside the source: {spelled()}, NAME@IMAGES (once, then frozen), py:FILE:NAME.",
        ),
    ] = None,
    samples: o.Samples = 32,
    draws: Annotated[int, typer.Option(help="Repeat with so many choices of these images.")] = 1,
    include_adaptation: Annotated[
        bool, typer.Option("--include-adaptation", help="Evaluate on the images adapted on too.")
    ] = False,
    statistics: o.Statistics = "both",
    where: o.Where = "all",
    unbiased: o.Unbiased = False,
    reset_every: Annotated[
        int | None, typer.Option(help="Streams begin at the source again after so many batches.")
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(help=f"Order in which every protocol answers, batch after batch: {', '.join(STREAMS.values())}."),
    ] = None,
    clean_data: Annotated[
        str | None, typer.Option(help="Clean images that a protocol may look at beforehand, as eata does.")
    ] = None,
    ligs: o.Ligs = None,
    task: o.Task = None,
    full_argmax: Annotated[
        bool,
        typer.Option("--full-argmax", help="Score sets that lack classes, such as ImageNet-R, among all classes."),
    ] = False,
    examples: Annotated[int, typer.Option(help="Images to show under shift in a report; 0 for none.")] = 6,
    limit: o.Limit = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images at once; default 256 on a GPU, on the CPU 16 photographs or 128 small.")
    ] = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    compiled: o.Compiled = False,
    seed: o.Seed = 0,
    workers: o.Workers = None,
    mean: o.Mean = None,
    std: o.Std = None,
    size_multiple: o.SizeMultiple = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    interpolation: o.Interpolation = None,
    model_args: o.ModelArgs = None,
    split: o.Split = None,
    class_map: o.ClassMap = None,
    ignore_index: o.IgnoreIndex = None,
    label_map: o.LabelMap = None,
    skip_bad: o.SkipBad = False,
    table: o.Table = None,
    scale_constants: o.ScaleConstants = "yes",
    corrupt_at: Annotated[
        str, typer.Option(help="Corrupt at 224 px (benchmark) or at the model's input size (model).")
    ] = "benchmark",
    no_quantise: Annotated[
        bool, typer.Option("--no-quantise", help="Do not round corrupted pixels to 8 bits.")
    ] = False,
    reencode: Annotated[
        bool, typer.Option("--reencode", help="Store corrupted images as JPEG of quality 85, as ImageNet-C.")
    ] = False,
    frost: o.Frost = None,
    decoder: o.DecoderOfShift = None,
    styles: Annotated[Path | None, o.like(o.Styles)] = None,
    encoder: o.EncoderOfShift = None,
    alpha: o.Alpha = 1.0,
    style_size: o.StyleSize = STYLE_SIZE,
    baseline: Annotated[Path | None, typer.Option(help="Run whose errors CE and mCE divide by.")] = None,
    alexnet: Annotated[str, typer.Option(help="AlexNet they divide by else: imagenet, cifar10, cifar100, none.")] = (
        "auto"
    ),
    cache: o.Cache = None,
    cache_size: o.CacheSize = None,
    as_json: o.Json = False,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Run as is fast here: channels_last, bfloat16, compiled; tell what that changes."),
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", help="Write profile.json, seconds by part, and trace.json, of a few batches, into --out."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Measure and write nothing: tell passes, seconds, memory and disk by a short trial."
        ),
    ] = False,
) -> None:
    """Measure a model's accuracy on clean and corrupted images, resumably.

    With --json: the run's summary; with --dry-run, what it tells.

    Example: statshift measure --model torchvision:resnet50@IMAGENET1K_V1 --data folder:val --limit 1000 --rectify auto
    --out runs/r50
    """
    from statshift._core.processes import join
    from statshift.adapting.options import AdaptationOptions
    from statshift.measuring.measure import measure
    from statshift.shifts.shift import CorruptionOptions

    adaptation = AdaptationOptions(
        samples=samples,
        draws=draws,
        include_adaptation=include_adaptation,
        statistics=statistics,
        where=where,
        unbiased=unbiased,
        reset_every=reset_every,
    )
    if not rectify and (adaptation != AdaptationOptions() or stream or clean_data):
        raise InputError("Expected a protocol to adapt by: add --rectify auto, or leave out what concerns it.")
    with progress_bar() as bar:
        found = measure(
            load_model_on("cpu", model, weights, mean, std, model_args, size_multiple, branch),
            data,
            shifts=None if shifts is None else t.parse_shifts(shifts),
            severities=t.parse_severities(severities),
            groups=groups,
            rectify=t.parse_functions(rectify or ""),
            adaptation=adaptation,
            out=out,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            compiled=compiled,
            seed=seed,
            options=CorruptionOptions(
                table=t.parse_table(table),
                quantise=not no_quantise,
                reencode=reencode,
                frost=frost,
                scale_constants=t.parse_choice("scale-constants", scale_constants),
                style=o.style_options(decoder, styles, encoder=encoder, alpha=alpha, style_size=style_size),
            ),
            corrupt_at=corrupt_at,
            data_options={
                "resize": resize,
                "crop": crop,
                "interpolation": interpolation,
                "limit": limit,
                "seed": seed,
                "skip_bad": skip_bad,
                "split": split,
                "class_map": class_map,
                "ignore_index": ignore_index,
                "label_map": label_map,
                "workers": workers,
                "cache": cache,
                "cache_size": t.parse_bytes("cache-size", cache_size),
            },
            baseline=baseline,
            alexnet=alexnet,
            ligs=t.parse_list(ligs or ""),
            examples=examples,
            task=task,
            full_argmax=full_argmax,
            stream=stream,
            clean_data=clean_data,
            fast=fast,
            progress=(report := MeasurementReport(bar)),
            profile=profile,
            dry_run=dry_run,
        )
    if found.forecast:
        if join()[0] == 0:
            print_json(found.forecast.describe()) if as_json else print_out(forecast_text(found.forecast))
        return
    if join()[0] == 0:
        if not report.called and not ligs:
            say("Every condition was finished before; nothing was measured again.")
        elif found.profile:
            say(f"{found.profile}.")
        if as_json:
            print_json(found.summary)
            return
        print_out(summary_text(found.summary))
        if chosen := found.record["environment"].get("fast"):
            print_out(f"\n{fast_text(chosen)}")
        if found.record.get("stream"):
            print_out(f"\n{stream_text(found.rows, found.record, task)}")
        rewritten = {layers_text(one["layers"]) for one in found.record["protocols"].values() if "layers" in one}
        for layers in sorted(rewritten):
            print_out(f"\nRewritten: {layers}")
        print_out(f"\nWritten to {out}. A page of it: {shlex.join(['statshift', 'report', str(out)])}")
