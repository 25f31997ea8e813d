"""`statshift layers`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from statshift._core.errors import InputError
from statshift._core.tables import table
from statshift.cli import options as o
from statshift.cli.output import print_json, print_out
from statshift.cli.target import load_model_on

if TYPE_CHECKING:
    from statshift.splitting.cuts import Cut

PHOTOGRAPH_SIDE = 224

SMALL_SIDE = 64
"""Side in px from which a network's stem halves images twice."""

TERMINAL_COLUMNS = 100
"""Of a terminal."""


def layers_command(
    model: o.Model,
    weights: o.Weights = None,
    branch: o.Branch = None,
    size: Annotated[int | None, typer.Option(help="Side of the images, px; default the model's own, or 224.")] = None,
    mean: o.Mean = None,
    std: o.Std = None,
    size_multiple: o.SizeMultiple = None,
    model_args: o.ModelArgs = None,
    as_json: o.Json = False,
) -> None:
    """List where a model can be cut in two, for `statshift harden --at`.

    With --json: the cuts, each with its names, features and norms.

    Example: statshift layers --model torchvision:resnet50@none
    """
    import torch

    from statshift.splitting.cuts import find_cuts

    found = load_model_on("cpu", model, weights, mean, std, model_args, size_multiple, branch)
    side = size or found.preprocessing.input_size or PHOTOGRAPH_SIDE
    cuts = find_cuts(found, torch.zeros(1, 3, side, side))
    if not cuts:
        raise InputError(f"Expected a model that can be cut between two batch norms, but {model} has no such place.")
    if as_json:
        print_json({"model": model, "side": side, "cuts": cuts})
        return
    number = "1 cut" if len(cuts) == 1 else f"{len(cuts)} cuts"
    where = "between the norms of" if cuts[0].norms_before else "in"
    print_out(f"{number} {where} {model} at {side} px\n\n{cuts_text(cuts)}")
    if cuts[0].norms_before and (chosen := end_of_first_stage(cuts, side)):
        print_out(
            f"\nFor AdvBN try --at {chosen.name}, the end of the first stage; on a small network, its first block too."
        )


def cuts_text(cuts: Sequence["Cut"], width: int = TERMINAL_COLUMNS) -> str:
    """Return a table of cuts of at most `width` columns, where the layers' own names leave room for it.

    Other names of a layer are left out where there is none, the papers' own last.
    """
    head = ["layer", "also", "features", "ReLU", "norms before", "behind"]
    rows = [
        [
            cut.name,
            "",
            " x ".join(map(str, cut.shape)),
            "yes" if cut.rectified else "-",
            str(len(cut.norms_before)),
            str(len(cut.norms_after)),
        ]
        for cut in cuts
    ]
    room = width - table([head, *rows]).index("\n") + len("also")
    for row, cut in zip(rows, cuts, strict=True):
        row[1] = _fitting(cut.aliases, room)
    return table([head, *rows])


def _fitting(names: Sequence[str], room: int) -> str:
    """Return the last of some names, as many as fit into so many columns."""
    for first in range(len(names)):
        text = ", ".join(["...", *names[first:]] if first else names)
        if len(text) <= room:
            return text
    return "..." if names else "-"


def end_of_first_stage(cuts: Sequence["Cut"], side: int) -> "Cut | None":
    """Return the cut at the end of a network's first stage, "conv2_3" of a ResNet-50, or None if there are no cuts.

    Features there have a quarter of a photograph's side, or all of a small image's, or the next greater size that there
    is; it is the last of the outermost modules of this size.
    """
    size = side if side < SMALL_SIDE else side // 4
    sizes = [cut.shape[1] for cut in cuts if cut.shape[1] >= size] or [cut.shape[1] for cut in cuts]
    stage = [cut for cut in cuts if cut.shape[1] == min(sizes)]
    depth = min((cut.name.count(".") for cut in stage), default=0)
    return next((cut for cut in reversed(stage) if cut.name.count(".") == depth), None)
