"""`statshift layers`."""

from typing import Annotated

import typer

from statshift._core.tables import table
from statshift.cli import options as o
from statshift.cli.output import print_json, print_out
from statshift.cli.target import load_model_on

PHOTOGRAPH_SIDE = 224


def layers_command(
    model: o.Model,
    weights: o.Weights = None,
    size: Annotated[int | None, typer.Option(help="Side of the images, px; default the model's own, or 224.")] = None,
    mean: o.Mean = None,
    std: o.Std = None,
    model_args: o.ModelArgs = None,
    as_json: o.Json = False,
) -> None:
    """List where a model can be cut in two, for `statshift harden --at`.

    With --json: the cuts, each with its names, features and norms.

    Example: statshift layers --model torchvision:resnet50@none
    """
    import torch

    from statshift.splitting.cuts import find_cuts

    found = load_model_on("cpu", model, weights, mean, std, model_args)
    side = size or found.preprocessing.input_size or PHOTOGRAPH_SIDE
    cuts = find_cuts(found, torch.zeros(1, 3, side, side))
    if as_json:
        print_json({"model": model, "side": side, "cuts": cuts})
        return
    rows = [["layer", "also", "features", "ends in ReLU", "norms before", "behind"]]
    for cut in cuts:
        rows.append(
            [
                cut.name,
                ", ".join(cut.aliases) or "-",
                " x ".join(map(str, cut.shape)),
                "yes" if cut.rectified else "-",
                str(len(cut.norms_before)),
                str(len(cut.norms_after)),
            ]
        )
    print_out(f"{len(cuts)} cuts between the norms of {model} at {side} px\n\n{table(rows)}")
