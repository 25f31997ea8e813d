"""`statshift decoder`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from statshift.cli import options as o
from statshift.cli.output import print_json, print_out, say
from statshift.cli.progress import TrainingReport, progress_bar
from statshift.cli.target import load_model_on
from statshift.decoding.choices import BATCH_SIZE, CROP, DEPTH, EPOCHS, LEARNING_RATE, LOSSES, WIDTH


def decoder_command(
    model: o.Model,
    at: Annotated[
        str, typer.Option(help="Layer after which features are decoded: see `statshift layers`.", show_default=False)
    ],
    data: o.TargetData,
    out: Annotated[Path, o.out("a .safetensors file", "File")],
    weights: o.Weights = None,
    branch: o.Branch = None,
    loss: Annotated[str, typer.Option(help=f"What is lowered: {', '.join(LOSSES)}.")] = LOSSES[0],
    validation: Annotated[
        str | None, typer.Option(help="Images to judge it on; default a tenth of --data.", show_default=False)
    ] = None,
    width: Annotated[int, typer.Option(help="Channels at the images' own resolution.")] = WIDTH,
    depth: Annotated[int, typer.Option(help="Convolutions at each resolution below.")] = DEPTH,
    patch: Annotated[
        int | None, typer.Option(help=f"Side of the random crops to train on, px; default {CROP}.", show_default=False)
    ] = None,
    epochs: o.Epochs = EPOCHS,
    batch_size: o.StepImages = BATCH_SIZE,
    learning_rate: Annotated[float, o.learning_rate("of Adam, by one cycle")] = LEARNING_RATE,
    dtype: o.Dtype = "float32",
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
    """Train a decoder that makes images of a model's features at a layer; the model stays as it is. Resumable.

    It is judged on images that it has not seen: PSNR, SSIM, and how much accuracy the model keeps on reconstructions.
    With --json: the record.

    Example: statshift decoder --model torchvision:resnet50@IMAGENET1K_V1 --at conv2_3 --data folder:train --out
    conv2_3.safetensors
    """
    from statshift._core.processes import join
    from statshift.making.decoder import train_decoder
    from statshift.making.decoder_options import DecoderOptions

    options = DecoderOptions(width, depth, patch, epochs, batch_size, learning_rate, dtype, seed)
    with progress_bar() as bar:
        report = TrainingReport(bar)
        made = train_decoder(
            load_model_on(device, model, weights, mean, std, model_args, size_multiple, branch),
            at,
            data,
            out=out,
            loss=loss,
            options=options,
            validation=validation,
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
        )
    if join()[0] != 0:
        return
    if not report.called:
        say("The decoder was finished before; nothing was trained again.")
    if as_json:
        print_json(made)
        return
    print_out(judged_text(made["found"]))
    print_out(f"\nWritten to {out}: a decoder of {at}. Use it as --decoder {out}")


def judged_text(found: dict[str, Any]) -> str:
    """Return in words how good reconstructions are."""
    similar = "" if found["ssim"] is None else f", SSIM {found['ssim']:.3f}"
    lines = [f"{found['images']:,} images that it has not seen: PSNR {found['psnr']:.2f} dB{similar}."]
    if "accuracy" in found:
        before, after = (100 * found[name] for name in ("accuracy", "accuracy_reconstructed"))
        kept = "" if found["accuracy_kept"] is None else f": {100 * found['accuracy_kept']:.1f} % is kept"
        lines.append(f"Accuracy {before:.1f} %, on reconstructions {after:.1f} %{kept}.")
    lines.append(f"The model says the same of {100 * found['agreement']:.1f} % of reconstructions as of the images.")
    return "\n".join(lines)
