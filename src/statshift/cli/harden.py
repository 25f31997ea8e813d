"""`statshift harden`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from statshift._core.errors import InputError
from statshift._core.tables import table
from statshift.cli import options as o
from statshift.cli import typed as t
from statshift.cli.output import print_json, print_out, say
from statshift.cli.progress import TrainingReport, progress_bar
from statshift.cli.target import load_model_on
from statshift.hardening.choices import SCHEDULES
from statshift.hardening.registry import FINE_TUNED, METHODS, defaults

if TYPE_CHECKING:
    from statshift.hardening.harden import Hardened


def _default(flag: str) -> str:
    return defaults(flag, FINE_TUNED)


def harden_command(
    model: o.Model,
    data: o.Data,
    out: Annotated[Path, o.out("weights, record and checkpoint")],
    method: Annotated[str, o.method(FINE_TUNED)] = "advbn",
    at: Annotated[
        str | None,
        typer.Option(help="Layer after which features change and weights train: see `statshift layers`; or input."),
    ] = None,
    weights: o.Weights = None,
    weights_branch: o.Branch = None,
    method_args: o.MethodArgs = None,
    steps: Annotated[int | None, o.steps(_default("steps"))] = None,
    step_size: Annotated[str | None, o.step_size(_default("step-size"))] = None,
    epsilon: Annotated[str | None, o.epsilon(f"; default {_default('epsilon')}")] = None,
    form: Annotated[
        str | None, o.own("Multiply the statistics, or add to them: multiplicative or additive", _default("form"))
    ] = None,
    part: Annotated[str | None, o.own("Perturb both, the mean or the deviation alone", _default("part"))] = None,
    no_clamp: Annotated[
        bool, typer.Option("--no-clamp", help="Of advbn: let features behind a ReLU become negative.")
    ] = False,
    perturbation: Annotated[
        str | None, o.own("Of the global batch, or of each process's local share", _default("perturbation"))
    ] = None,
    gamma: Annotated[float, typer.Option(help="Weight of the adversarial branch's loss.")] = 1.0,
    augment: o.Augment = "standard",
    window: o.Window = None,
    scale: o.Scale = None,
    aspect: o.Aspect = 1.0,
    colour: o.Colour = 0.0,
    branch: Annotated[str, typer.Option(help="Whose weights are the result, chosen beforehand: clean or adv.")] = (
        "clean"
    ),
    epochs: o.Epochs = 20,
    batch_size: o.StepImages = 256,
    accumulate: Annotated[int, typer.Option(help="Parts that a step is cut into, where memory is short.")] = 1,
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute", help="Make activations anew in the backward pass: those of one branch in memory at a time."
        ),
    ] = False,
    learning_rate: Annotated[float, o.learning_rate("of step divided by 10 half-way")] = 1e-3,
    schedule: Annotated[str, typer.Option(help=f"{', '.join(SCHEDULES)}.")] = "step",
    weight_decay: o.WeightDecay = 1e-4,
    task: o.Task = None,
    validation: o.Validation = None,
    validation_split: o.ValidationSplit = None,
    keep_best: o.KeepBest = False,
    shifts: Annotated[str | None, o.shifts(", of the validation images", "clean")] = None,
    severities: o.Severities = "1,3,5",
    limit: o.Limit = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    attack_dtype: o.AttackDtype = None,
    compiled: o.Compiled = False,
    no_channels_last: Annotated[
        bool, typer.Option("--no-channels-last", help="Keep torch's contiguous layout.")
    ] = False,
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
    cache: o.Cache = None,
    cache_size: o.CacheSize = None,
    as_json: o.Json = False,
) -> None:
    """Fine-tune a model against shifts, resumably, and write weights for the same architecture.

    With --validation, each branch is measured after each epoch. With --json: the training's record.

    Example: statshift harden --model torchvision:resnet50@IMAGENET1K_V1 --data folder:train --at conv2_3 --dtype
    bfloat16 --out hardened
    """
    if method in METHODS and method not in FINE_TUNED:
        raise InputError(f"The method {method} is one of statshift train.")
    if validation_split and not validation:
        raise InputError("Expected --validation, the images that --validation-split is of.")
    if shifts and not validation:
        raise InputError("Expected --validation, the images that --shifts is of.")
    from statshift._core.processes import join
    from statshift.hardening.choosing import chosen_method
    from statshift.hardening.harden import harden
    from statshift.hardening.options import HardenOptions
    from statshift.hardening.training import TrainingOptions
    from statshift.shifts.shift import CLEAN

    flags = {
        "steps": steps,
        "step-size": None if step_size is None else t.parse_fraction("step-size", step_size),
        "epsilon": None if epsilon is None else t.parse_fraction("epsilon", epsilon),
        "form": form,
        "part": part,
        "no-clamp": no_clamp or None,
        "perturbation": perturbation,
    }
    options = HardenOptions(
        chosen_method(method, flags, t.parse_method_args(method_args)),
        at=at,
        training=TrainingOptions(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule,
            weight_decay=weight_decay,
            accumulate=accumulate,
            recompute=recompute,
            augment=augment,
            window=t.parse_window(window),
            scale=t.parse_scale(scale),
            aspect=aspect,
            colour=colour,
            dtype=dtype,
            attack_dtype=attack_dtype,
            channels_last=not no_channels_last,
            gamma=gamma,
            seed=seed,
        ),
        branch=branch,
    )
    with progress_bar() as bar:
        hardened = harden(
            load_model_on(device, model, weights, mean, std, model_args, size_multiple, weights_branch),
            data,
            options,
            out=out,
            task=task,
            validation=validation,
            validation_split=validation_split,
            shifts=t.parse_shifts(shifts or CLEAN),
            severities=t.parse_severities(severities),
            keep_best=keep_best,
            device=device,
            compiled=compiled,
            data_options=o.data_options(
                resize=resize,
                crop=crop,
                interpolation=interpolation,
                limit=limit,
                seed=seed,
                skip_bad=skip_bad,
                split=split,
                class_map=class_map,
                ignore_index=ignore_index,
                label_map=label_map,
                workers=workers,
                cache=cache,
                cache_size=t.parse_bytes("cache-size", cache_size),
            ),
            progress=(report := TrainingReport(bar)),
        )
    if join()[0] == 0:
        _tell(hardened, out, branch, report.called, as_json)


def _tell(hardened: "Hardened", out: Path, branch: str, trained: bool, as_json: bool) -> None:
    """Print what came of it."""
    if not trained:
        say("Every epoch was finished before; nothing was trained again.")
    if as_json:
        print_json(hardened.record)
        return
    print_out(history_text(hardened.record))
    written = ", ".join(f"{name}.safetensors" for name in hardened.branches.splits)
    print_out(f"\nWritten to {out}: {written}, record.json. The result is {branch}.safetensors; load it with")
    print_out(f"--weights {out / branch}.safetensors, as in statshift measure.")


def history_text(record: Mapping[str, Any]) -> str:
    """Return the table of a training's epochs: losses, and score in % and LIGS of each branch where measured."""
    from statshift.splitting.branches import BRANCHES

    history = record["history"]
    losses = list(history[-1]["losses"])
    validation = history[-1].get("validation", {})
    measured = [(branch, name) for branch in BRANCHES for name in validation.get(branch, ())]
    rows = [["epoch", "last rate", *(f"loss {name}" for name in losses), *(f"{b}: {n}" for b, n in measured)]]
    for one in history:
        rows.append(
            [
                str(one["epoch"]),
                f"{one['learning_rate']:.2g}",
                *(f"{one['losses'][name]:.4f}" for name in losses),
                *(_figure(n, one["validation"][b][n]) for b, n in measured),
            ]
        )
    lines = [table(rows)]
    if score := record.get("validation", {}).get("score"):
        lines.append(f"\nMeasured: {score} in %.")
    if best := record.get("best"):
        lines.append(f"The best epoch is {best['epoch']}: best.safetensors.")
    return "\n".join(lines)


def _figure(name: str, value: float | None) -> str:
    from statshift.hardening.validation import LIGS

    if value is None:
        return "-"
    return f"{value:.3f}" if name.startswith(LIGS) else f"{100 * value:.1f}"
