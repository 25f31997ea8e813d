"""`statshift train`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from statshift._core.errors import InputError, unknown
from statshift.cli import options as o
from statshift.cli import typed as t
from statshift.cli.harden import history_text
from statshift.cli.output import print_json, print_out, say
from statshift.cli.progress import TrainingReport, progress_bar
from statshift.cli.target import load_target
from statshift.hardening.choices import ONE_CYCLE, OPTIMIZERS, SCHEDULES
from statshift.hardening.registry import TRAINED, defaults
from statshift.models.choices import EXCHANGES

RATES = {"sgd": ONE_CYCLE["learning_rate"], "adam": 1e-3, "adagrad": 1e-2}


def _default(flag: str) -> str:
    return defaults(flag, TRAINED)


def _rates() -> str:
    return ", ".join(f"{name} {rate:g}" for name, rate in RATES.items())


def train_command(
    model: o.Model,
    data: o.Data,
    out: Annotated[Path, o.out("weights, record and checkpoint")],
    method: Annotated[str, o.method(TRAINED)] = "standard",
    norm: Annotated[
        str | None, typer.Option(help=f"{', '.join(EXCHANGES)}; of cifar:NAME, timm and torchvision.")
    ] = None,
    model_args: o.ModelArgs = None,
    method_args: o.MethodArgs = None,
    attack: Annotated[
        str | None, o.attack(f"; of pgd-l2 or pgd-linf; default {_default('attack')}", show_default=False)
    ] = None,
    step_size: Annotated[
        str | None, o.step_size(f"{_default('step-size')}, of another --attack 2.5 * epsilon / steps")
    ] = None,
    corruption: Annotated[str | None, o.own("NAME or NAME:SEVERITY", _default("corruption"))] = None,
    ligs_weight: Annotated[float | None, o.own("Weight of 1 - LIGS in the loss", _default("ligs-weight"))] = None,
    epochs: o.Epochs = ONE_CYCLE["epochs"],
    batch_size: o.StepImages = ONE_CYCLE["batch_size"],
    optimizer: Annotated[str, typer.Option(help=f"{', '.join(OPTIMIZERS)}.")] = "sgd",
    learning_rate: Annotated[float | None, o.learning_rate(f"default {_rates()}")] = None,
    schedule: Annotated[str, typer.Option(help=f"{', '.join(SCHEDULES)}.")] = "one-cycle",
    decay_epochs: Annotated[
        str | None, typer.Option(help="Of step: epochs after which the rate is divided by 10, with commas.")
    ] = None,
    weight_decay: o.WeightDecay = ONE_CYCLE["weight_decay"],
    augment: o.Augment = ONE_CYCLE["augment"],
    window: o.Window = None,
    scale: o.Scale = None,
    aspect: o.Aspect = 1.0,
    colour: o.Colour = 0.0,
    task: o.Task = None,
    validation: o.Validation = None,
    validation_split: o.ValidationSplit = None,
    keep_best: o.KeepBest = False,
    validation_limit: Annotated[int | None, typer.Option(help="Class-balanced subset of N of them.")] = None,
    shifts: Annotated[
        str | None, o.shifts(", attacks such as pgd-l2:0.25:10, of the validation images", "clean")
    ] = None,
    severities: o.Severities = "1,3,5",
    ligs: o.Ligs = None,
    landscape: Annotated[
        bool, typer.Option("--landscape", help="After each epoch, record loss and gradient along the gradient.")
    ] = False,
    limit: o.Limit = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    attack_dtype: o.AttackDtype = None,
    compiled: o.Compiled = False,
    seed: o.Seed = 0,
    workers: o.Workers = None,
    cache: o.Cache = None,
    cache_size: o.CacheSize = None,
    split: o.Split = None,
    ignore_index: o.IgnoreIndex = None,
    label_map: o.LabelMap = None,
    mean: o.Mean = None,
    std: o.Std = None,
    size_multiple: o.SizeMultiple = None,
    as_json: o.Json = False,
) -> None:
    """Train a network from random weights, resumably: plainly, adversarially, under one corruption, or for LIGS.

    With --validation, the network is measured after each epoch. The papers' own numbers are in statshift recipes. With
    --json: the training's record.

    Example: statshift train --model cifar:resnet18 --norm group --data cifar10 --validation cifar10 --shifts
    clean,pgd-l2:0.25:10 --ligs gaussian --out runs/gn
    """
    if method not in TRAINED and not method.startswith("py:"):
        raise unknown("method", method, TRAINED)
    if shifts and not validation:
        raise InputError("Expected --validation, the images that --shifts is of.")
    for option, given in (("limit", validation_limit), ("split", validation_split)):
        if given is not None and not validation:
            raise InputError(f"Expected no --validation-{option} without --validation.")
    from statshift._core.processes import join
    from statshift.hardening.choosing import chosen_method
    from statshift.hardening.from_scratch import build
    from statshift.hardening.harden import harden
    from statshift.hardening.options import HardenOptions
    from statshift.hardening.training import TrainingOptions
    from statshift.measuring.loading import find_device, usual_workers
    from statshift.shifts.shift import CLEAN

    flags = {
        "attack": attack,
        "step-size": None if step_size is None else t.parse_fraction("step-size", step_size),
        "corruption": corruption,
        "ligs-weight": ligs_weight,
    }
    options = HardenOptions(
        chosen_method(method, flags, t.parse_method_args(method_args)),
        training=TrainingOptions(
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=RATES.get(optimizer, 1.0) if learning_rate is None else learning_rate,
            schedule=schedule,
            decay_epochs=_parse_epochs(decay_epochs),
            nesterov=optimizer == "sgd" and schedule == "one-cycle",
            weight_decay=weight_decay,
            augment=augment,
            window=t.parse_window(window),
            scale=t.parse_scale(scale),
            aspect=aspect,
            colour=colour,
            dtype=dtype,
            attack_dtype=attack_dtype,
            seed=seed,
        ),
    )
    arguments = t.parse_model_args(model_args) | ({} if norm is None else {"norm": norm})
    network = build(
        model,
        arguments,
        seed=seed,
        mean=t.parse_channels("mean", mean),
        std=t.parse_channels("std", std),
        size_multiple=size_multiple,
    ).to(find_device(device))
    images = None
    reading = {
        "workers": usual_workers(network.mean.device) if workers is None else workers,
        "cache": cache,
        "cache_size": t.parse_bytes("cache-size", cache_size),
        "ignore_index": ignore_index,
        "label_map": label_map,
    }
    if validation:
        images = load_target(
            network, validation, {"limit": validation_limit, "seed": seed, "split": validation_split, **reading}
        )
    with progress_bar() as bar:
        hardened = harden(
            network,
            data,
            options,
            out=out,
            validation=images,
            shifts=t.parse_shifts(shifts or CLEAN),
            severities=t.parse_severities(severities),
            ligs=t.parse_list(ligs or ""),
            landscape=landscape,
            keep_best=keep_best,
            device=device,
            compiled=compiled,
            task=task,
            data_options={"limit": limit, "seed": seed if limit is not None else None, "split": split, **reading},
            progress=(report := TrainingReport(bar)),
        )
    if join()[0] == 0:
        if not report.called:
            say("Every epoch was finished before; nothing was trained again.")
        if as_json:
            print_json(hardened.record)
            return
        print_out(history_text(hardened.record))
        print_out(f"\nWritten to {out}: clean.safetensors, record.json; load it into the same architecture with")
        words = ["--model", model]
        for option, value in (("--mean", mean), ("--std", std)):
            words += [] if value is None else [option, value]
        for name, value in arguments.items():
            words += ["--model-args", f"{name}={value}"]
        print_out(f"{shlex.join([*words, '--weights', str(out / 'clean.safetensors')])}, as in statshift measure.")


def _parse_epochs(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in t.parse_list(text))
    except ValueError:
        raise InputError(f"Expected --decay-epochs as whole numbers with commas, but got {text!r}.") from None
