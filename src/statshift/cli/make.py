"""`statshift make`: data sets of images that a network makes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from statshift._core.errors import InputError
from statshift.cli import options as o
from statshift.cli import typed as t
from statshift.cli.output import print_json, print_out, say
from statshift.cli.progress import MakingReport, progress_bar
from statshift.cli.target import load_model_on
from statshift.making.choices import (
    ADVBN_BATCH,
    ADVBN_EPSILON,
    ADVBN_STEP_SIZE,
    ADVBN_STEPS,
    REST,
    STYLE_BATCH,
    STYLE_SIZE,
)

make_app = typer.Typer(add_completion=False, rich_markup_mode=None)


@make_app.callback()
def _make() -> None:
    """Make data sets of images through a decoder.

    Example: statshift make advbn --model timm:resnet50 --decoder decoder.safetensors --data folder:val --out advbn
    """


@make_app.command("advbn")
def advbn_command(
    model: o.Model,
    decoder: o.Decoder,
    data: o.Data,
    out: Annotated[Path, o.out("advbn/ and reconstructed/ as image trees, batches.npz, record.json")],
    weights: o.Weights = None,
    branch: o.Branch = None,
    encoder: o.Encoder = None,
    loss: o.AttackLoss = REST,
    steps: Annotated[int, o.steps("6")] = ADVBN_STEPS,
    step_size: Annotated[str | None, o.step_size(f"{ADVBN_STEP_SIZE:g}")] = None,
    epsilon: Annotated[
        str | None, o.epsilon(f", of a factor; default {ADVBN_EPSILON:g}, of other steps m * step size - 0.1")
    ] = None,
    no_control: Annotated[
        bool, typer.Option("--no-control", help="Leave out the same images with factors of one.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(help="Images at once, whose statistics are perturbed together.")
    ] = ADVBN_BATCH,
    split: o.Split = None,
    limit: o.Limit = None,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    workers: o.Workers = None,
    mean: o.Mean = None,
    std: o.Std = None,
    size_multiple: o.SizeMultiple = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    interpolation: o.Interpolation = None,
    model_args: o.ModelArgs = None,
    class_map: o.ClassMap = None,
    skip_bad: o.SkipBad = False,
    as_json: o.Json = False,
) -> None:
    """Write images with the worst statistics of their features, as ImageNet-AdvBN, and the control, resumably.

    The statistics are those of a batch in the data's order: an image depends on its batch. With --json: the record.

    Example: statshift make advbn --model timm:resnet50 --decoder decoder.safetensors --data folder:val --out advbn
    """
    from statshift.making.advbn import write_advbn
    from statshift.shifts.attacks import FeatureAttack

    size = ADVBN_STEP_SIZE if step_size is None else t.parse_fraction("step-size", step_size)
    usual = (steps, size) == (ADVBN_STEPS, ADVBN_STEP_SIZE)
    radius = (ADVBN_EPSILON if usual else None) if epsilon is None else t.parse_fraction("epsilon", epsilon)
    attack = FeatureAttack(steps, size, radius)
    with progress_bar() as bar:
        report = MakingReport(bar, "make")
        made = write_advbn(
            load_model_on(device, model, weights, mean, std, model_args, size_multiple, branch),
            o.codec(decoder, encoder, device),
            data,
            out=out,
            attack=attack,
            loss=loss,
            control=not no_control,
            batch_size=batch_size,
            device=device,
            data_options=o.data_options(
                split=split,
                resize=resize,
                crop=crop,
                interpolation=interpolation,
                limit=limit,
                seed=seed,
                skip_bad=skip_bad,
                class_map=class_map,
                workers=workers,
            ),
            progress=report,
        ).record
    from statshift._core.processes import join

    if join()[0] > 0:
        return
    if not report.called:
        say("Every image was finished before; nothing was made again.")
    if as_json:
        print_json(made)
        return
    print_out(advbn_text(made))
    print_out(f"\nWritten to {out}: {', '.join(made['trees'])}, batches.npz, record.json.")
    print_out(f"Use it as --data folder:{out / made['trees'][0]}{_read_back(made)}")


def advbn_text(made: dict[str, Any]) -> str:
    """Return what was made, in words."""
    found, attack = made["found"], made["attack"]
    lines = [
        f"{found['images']:,} images in batches of {made['batches']['size']}: {attack['steps']} steps of "
        f"{attack['step_size']:g} within {attack['epsilon']:g}, after {made['decoder']['at']}."
    ]
    told = ", ".join(f"{name} {found[f'psnr_{name}']:.1f} dB" for name in made["trees"])
    return "\n".join([*lines, f"Mean PSNR against the originals: {told}."])


def _read_back(made: dict[str, Any]) -> str:
    """Return the flags with which images are read as they are, whatever the model's authors do with photographs."""
    _, height, width = made["data"]["shape"]
    return f" --resize {height} --crop {width}" if height == width >= 32 else ""


@make_app.command("stylised")
def stylised_command(
    decoder: o.Decoder,
    styles: o.Styles,
    data: o.Data,
    out: Annotated[Path, o.out("stylised/ as an image tree, batches.npz, record.json")],
    model: Annotated[str | None, o.like(o.Model)] = None,
    weights: o.Weights = None,
    branch: o.Branch = None,
    encoder: o.Encoder = None,
    alpha: o.Alpha = 1.0,
    style_size: o.StyleSize = STYLE_SIZE,
    batch_size: Annotated[int, typer.Option(help="Images at once.")] = STYLE_BATCH,
    split: o.Split = None,
    limit: o.Limit = None,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    workers: o.Workers = None,
    mean: o.Mean = None,
    std: o.Std = None,
    size_multiple: o.SizeMultiple = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    interpolation: o.Interpolation = None,
    model_args: o.ModelArgs = None,
    class_map: o.ClassMap = None,
    skip_bad: o.SkipBad = False,
    as_json: o.Json = False,
) -> None:
    """Write images with the styles of others, by AdaIN, resumably.

    Each image gets one style of the folder, drawn by its place in the data. In measure the same is the shift stylised.
    What is made is not Stylized-ImageNet. With --json: the record.

    Example: statshift make stylised --model torchvision:vgg19@IMAGENET1K_V1 --decoder decoder.safetensors
    --styles paintings --data folder:val --out stylised
    """
    from statshift._core.processes import join
    from statshift.making.stylised import write_stylised

    first: Any = encoder
    if model is not None:
        if encoder is not None:
            raise InputError("Expected --model or pytorch-AdaIN's --encoder, but got both.")
        first = load_model_on(device, model, weights, mean, std, model_args, size_multiple, branch)
    with progress_bar() as bar:
        report = MakingReport(bar, "make")
        made = write_stylised(
            first,
            decoder,
            styles,
            data,
            out=out,
            alpha=alpha,
            style_size=style_size,
            batch_size=batch_size,
            seed=seed,
            device=device,
            data_options={
                name: value
                for name, value in o.data_options(
                    split=split,
                    resize=resize,
                    crop=crop,
                    interpolation=interpolation,
                    limit=limit,
                    seed=seed,
                    skip_bad=skip_bad,
                    class_map=class_map,
                    workers=workers,
                ).items()
                if value is not None
            },
            progress=report,
        ).record
    if join()[0] > 0:
        return
    if not report.called:
        say("Every image was finished before; nothing was made again.")
    if as_json:
        print_json(made)
        return
    found, told = made["found"], made["styles"]
    print_out(f"{found['images']:,} images with the styles of {told['images']:,}, alpha {made['alpha']:g}.")
    print_out(f"\nWritten to {out}: stylised, batches.npz, record.json.")
    print_out(f"Use it as --data folder:{out / 'stylised'}{_read_back(made)}")
