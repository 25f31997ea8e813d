"""`statshift rectify`."""

from pathlib import Path
from typing import Annotated

import typer

from statshift.adapting.registry import WRITABLE, spelled
from statshift.cli import options as o
from statshift.cli import typed as t
from statshift.cli.output import print_json, print_out
from statshift.cli.tables import layers_text
from statshift.cli.target import load_model_on, load_target


def rectify_command(
    model: o.Model,
    data: o.TargetData,
    out: Annotated[Path, o.out("weights, .safetensors", "File")],
    weights: o.Weights = None,
    branch: o.Branch = None,
    protocol: Annotated[str, typer.Option(help=f"{spelled(*WRITABLE)}, or py:FILE:NAME.")] = "auto",
    samples: o.Samples = 32,
    statistics: o.Statistics = "both",
    where: o.Where = "all",
    unbiased: o.Unbiased = False,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    mean: o.Mean = None,
    std: o.Std = None,
    size_multiple: o.SizeMultiple = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    interpolation: o.Interpolation = None,
    split: o.Split = None,
    skip_bad: o.SkipBad = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    model_args: o.ModelArgs = None,
    as_json: o.Json = False,
) -> None:
    """Re-estimate a model's norm statistics from unlabelled images, and write weights for the same architecture.

    With --json: the record that the weights carry.

    Example: statshift rectify --model torchvision:resnet50@IMAGENET1K_V1 --data folder:night --out night.safetensors
    """
    from statshift.adapting.options import AdaptationOptions
    from statshift.making.rectified import write_rectified

    source = load_model_on(device, model, weights, mean, std, model_args, size_multiple, branch)
    options = {"resize": resize, "crop": crop, "interpolation": interpolation, "skip_bad": skip_bad, "split": split}
    record = write_rectified(
        source,
        load_target(source, data, options),
        out,
        protocol=t.parse_functions(protocol),
        options=AdaptationOptions(samples, statistics=statistics, where=where, unbiased=unbiased),
        seed=seed,
        overwrite=overwrite,
    )
    if as_json:
        print_json(record)
        return
    images = record["data"]["images"]
    few = record["protocol"].get("samples", images)
    more = "; --samples takes more" if few < images else ""
    print_out(f"Rectified to {few:,} of {images:,} images{more}.")
    if not record["changed"]:
        print_out("Nothing was changed: the images show no shift beyond noise. These are the source's weights.")
    elif "layers" in record["protocol"]:
        print_out(f"Rewritten: {layers_text(record['protocol']['layers'])}")
    print_out(f"Written to {out}; load it into the same architecture, as with --weights {out}")
