"""`statshift diagnose`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from statshift._core.errors import InputError
from statshift._core.tables import table
from statshift.cli import options as o
from statshift.cli.output import print_json, print_out
from statshift.cli.target import load_model_on, load_target

if TYPE_CHECKING:
    from torch import Tensor

    from statshift.adapting.diagnose import Diagnosis
    from statshift.data import ImageData
    from statshift.models import PixelModel
    from statshift.norms.divergence import Divergence


def diagnose_command(
    model: o.Model,
    data: o.TargetData,
    weights: o.Weights = None,
    branch: o.Branch = None,
    samples: o.Samples = 32,
    against: Annotated[
        str | None, typer.Option(help="A second data set: print how far apart the features of the two lie instead.")
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(help="With --against, weights of the same architecture to put beside; may be repeated."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="File for the plot: .png, .svg or .pdf.")] = None,
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
    model_args: o.ModelArgs = None,
    as_json: o.Json = False,
) -> None:
    """Tell from a few unlabelled images whether adapting a model to them will help, and by which protocol.

    Example: statshift diagnose --model torchvision:resnet50@IMAGENET1K_V1 --data folder:night --plot night.png

    With --against it prints instead the symmetric KL divergence between the features of two data sets, by layer and
    model; sampling alone makes it positive, so give it hundreds of images.

    With --json: the layers, their shift and noise, the sentence, the protocol and the advice; with --against, each
    model's divergences.

    Example: statshift diagnose --model timm:resnet50 --data folder:night --against folder:day --samples 1000 --beside
    robust.safetensors --plot divergence.png
    """
    from statshift.adapting.diagnose import diagnose
    from statshift.adapting.drawing import draw_images
    from statshift.adapting.plots import check_plot
    from statshift.norms.divergence import divergence

    if plot is not None:
        check_plot(plot)
    if beside and against is None:
        raise InputError("Expected --against SPEC, a second data set, with --beside, but there is none.")
    names = _names(weights, beside or [])
    source = load_model_on(device, model, weights, mean, std, model_args, size_multiple, branch)
    options = {"resize": resize, "crop": crop, "interpolation": interpolation, "skip_bad": skip_bad, "split": split}
    target = load_target(source, data, options)
    if against is None:
        _print_diagnosis(diagnose(source, draw_images(target, samples, seed).to(source.mean.device)), plot, as_json)
        return
    others = [load_model_on(device, model, file, mean, std, model_args, size_multiple) for file in beside or []]
    reference = load_target(source, against, options)
    found = {
        name: divergence(one, _drawn(one, target, samples, seed), _drawn(one, reference, samples, seed))
        for name, one in zip(names, [source, *others], strict=True)
    }
    _print_divergences(found, (data, against), plot, as_json)


def _print_diagnosis(found: "Diagnosis", plot: Path | None, as_json: bool) -> None:
    if plot is not None:
        if not found.layers:
            raise InputError(f"Cannot plot to {plot}: the model stores no statistics (its norms: {found.norms}).")
        from statshift.adapting.plots import plot_diagnosis

        plot_diagnosis(found, plot)
    if as_json:
        told = ("ratios", "number", "sentence", "protocol", "advice")
        own = {name: getattr(found, name) for name in told}
        print_json(vars(found) | own)
        return
    rows = [["layer", "shift", "noise", "shift / noise"]]
    for name, shift, noise, ratio in zip(found.layers, found.shift, found.noise, found.ratios, strict=True):
        rows.append([name, f"{shift:.3f}", f"{noise:.3f}", f"{ratio:.1f}"])
    if found.layers:
        title = f"Distance from the stored statistics, in stored deviations, {found.images} images"
        print_out(f"{title}\n\n{table(rows)}\n")
    print_out(found.sentence)
    if found.advice:
        print_out(found.advice)
    if plot is not None:
        print_out(f"\nPlotted to {plot}.")


def _print_divergences(found: "dict[str, Divergence]", pair: tuple[str, str], plot: Path | None, as_json: bool) -> None:
    if plot is not None:
        from statshift.adapting.plots import plot_divergence

        plot_divergence(found, plot)
    if as_json:
        print_json({"data": pair, "models": found})
        return
    first = next(iter(found.values()))
    rows = [["layer", *found]]
    for name, *values in zip(first.layers, *(one.values for one in found.values()), strict=True):
        rows.append([name, *(f"{value:.4f}" for value in values)])
    count = f"{first.images[0]} images of each"
    print_out(f"Symmetric KL divergence of the features, {' || '.join(pair)}, {count}\n\n{table(rows)}")
    if plot is not None:
        print_out(f"\nPlotted to {plot}.")


def _drawn(model: "PixelModel", data: "ImageData", samples: int, seed: int) -> "Iterator[Tensor]":
    """Yield the images of `draw_images` batch by batch, on the model's device."""
    from statshift.adapting.drawing import adaptation_positions, full_batches

    positions = adaptation_positions(data.indices, samples, seed, 0)
    for images, _ in data.groups([positions[batch] for batch in full_batches(samples)]):
        yield images.to(model.mean.device).float() / 255


def _names(weights: Path | None, beside: list[Path]) -> list[str]:
    """Return a name for each model: the stems of the files, or where two are alike, the files themselves."""
    files = [weights or Path("model"), *beside]
    for names in ([file.stem for file in files], [str(file) for file in files]):
        if len(set(names)) == len(names):
            return names
    raise InputError(f"Expected different files as --weights and --beside, but got {', '.join(map(str, files))}.")
