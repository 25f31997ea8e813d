"""`statshift diagnose`."""

from pathlib import Path
from typing import Annotated

import typer

from statshift.cli import options as o
from statshift.cli.output import print_out, table
from statshift.cli.target import load_model_on, load_target
from statshift.diagnosis import diagnose
from statshift.plots import check_plot, plot_diagnosis
from statshift.protocols import draw_images


def diagnose_command(
    model: o.Model,
    data: o.TargetData,
    weights: o.Weights = None,
    samples: o.Samples = 32,
    plot: Annotated[Path | None, typer.Option(help="File for the plot: .png, .svg or .pdf.")] = None,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    mean: o.Mean = None,
    std: o.Std = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    interpolation: o.Interpolation = None,
    skip_bad: o.SkipBad = False,
    model_args: o.ModelArgs = None,
) -> None:
    """Tell from a few unlabelled images whether rectifying a model to them will help.

    Example: statshift diagnose --model torchvision:resnet50@IMAGENET1K_V1 --data folder:night --plot night.png
    """
    if plot is not None:
        check_plot(plot)
    source = load_model_on(device, model, weights, mean, std, model_args)
    options = {"resize": resize, "crop": crop, "interpolation": interpolation, "skip_bad": skip_bad}
    images = draw_images(load_target(source, data, options), samples, seed)
    found = diagnose(source, images.to(source.mean.device))
    rows = [["layer", "shift", "noise", "shift / noise"]]
    for name, shift, noise, ratio in zip(found.layers, found.shift, found.noise, found.ratios, strict=True):
        rows.append([name, f"{shift:.3f}", f"{noise:.3f}", f"{ratio:.1f}"])
    print_out(f"Distance from the stored statistics, in stored deviations, {found.images} images\n\n{table(rows)}")
    print_out(f"\n{found.sentence}")
    if plot is not None:
        plot_diagnosis(found, plot)
        print_out(f"\nPlotted to {plot}.")
