"""`statshift visualise`."""

from pathlib import Path
from typing import Annotated

import typer

from statshift._core.errors import InputError
from statshift.cli import options as o
from statshift.cli import typed as t
from statshift.cli.output import print_json, print_out
from statshift.cli.target import load_model_on
from statshift.making.choices import ADVBN_BATCH, ADVBN_STEP_SIZE, REST, STRENGTHS_SHOWN


def visualise_command(
    model: o.Model,
    decoder: o.Decoder,
    images: Annotated[str, typer.Option(help="Images, as --data elsewhere: folder:DIR, ...", show_default=False)],
    out: Annotated[Path, o.out("a .png file, or each image too; a run's folder for its report", "File or folder")],
    steps: Annotated[
        str,
        typer.Option(help="Steps of the ascent, one number a column, with commas; 0 only decodes.", metavar="<int>"),
    ] = ",".join(map(str, STRENGTHS_SHOWN)),
    weights: o.Weights = None,
    branch: o.Branch = None,
    encoder: o.Encoder = None,
    loss: o.AttackLoss = REST,
    step_size: Annotated[str | None, o.step_size(f"{ADVBN_STEP_SIZE:g}")] = None,
    epsilon: Annotated[str | None, o.epsilon(", of a factor; default steps * step size - 0.1")] = None,
    shown: Annotated[int, typer.Option(help="Images in the picture, the first of the batch.")] = 8,
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
    """Show images as the adversary of feature statistics changes them, by its strength, and what the model says.

    Originals, the same decoded (m = 0), and the worst cases of the first batch. With --json: the table and record.

    Example: statshift visualise --model timm:resnet50 --decoder decoder.safetensors --images folder:val --out worst.png
    """
    from statshift.making.visualise import visualise

    found = visualise(
        load_model_on(device, model, weights, mean, std, model_args, size_multiple, branch),
        o.codec(decoder, encoder, device),
        images,
        steps=_parse_steps(steps),
        step_size=ADVBN_STEP_SIZE if step_size is None else t.parse_fraction("step-size", step_size),
        epsilon=None if epsilon is None else t.parse_fraction("epsilon", epsilon),
        loss=loss,
        out=out,
        shown=shown,
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
    )
    if as_json:
        print_json({"out": out, "columns": found.table(), "record": found.record})
        return
    print_out(f"The batch of {found.record['batch']} images:")
    for row in found.table():
        accuracy = "" if row["accuracy"] is None else f"{100 * row['accuracy']:5.1f} % right"
        distance = "" if row["psnr"] is None else f"{row['psnr']:6.1f} dB"
        print_out(f"  {row['name']:9}{accuracy:15}{distance}".rstrip())
    print_out(f"\nWritten to {out}.")


def _parse_steps(text: str) -> list[int]:
    try:
        return [int(part) for part in t.parse_list(text)]
    except ValueError:
        raise InputError(f"Expected --steps as numbers from 0 up with commas, but got {text!r}.") from None
