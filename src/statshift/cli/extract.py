"""`statshift extract`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from statshift.cli import options as o
from statshift.cli import typed as t
from statshift.cli.output import print_json, print_out, say
from statshift.cli.progress import MakingReport, progress_bar
from statshift.cli.target import load_model_on
from statshift.making.choices import BATCH_SIZE, EPSILON, KINDS, STEP_SIZE


def extract_command(
    model: o.Model,
    data: o.Data,
    kind: Annotated[str, typer.Option(help=f"{', '.join(KINDS)}.", show_default=False)],
    out: Annotated[Path, o.out("images.npz and record.json")],
    weights: o.Weights = None,
    branch: o.Branch = None,
    steps: Annotated[int | None, o.steps("1000 of robust and nonrobust, 100 of the others")] = None,
    step_size: Annotated[str | None, o.step_size(f"{STEP_SIZE:g} in L2")] = None,
    epsilon: Annotated[
        str | None, o.epsilon(f", in L2, of random, deterministic and conflict; default {EPSILON:g}")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images at once; so many are kept at once.")] = BATCH_SIZE,
    split: Annotated[
        str | None, typer.Option(help="train or test, of data that have them; default train.", show_default=False)
    ] = None,
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
    """Write a data set of the robust or the non-robust features that a model has learned, resumably.

    robust is of an adversarially trained model, the other kinds of a standard one; conflict takes a data set of the
    kind robust as its --data. With --json: the record.

    Example: statshift extract --model cifar:resnet56 --weights standard.pt --data cifar10 --kind deterministic --out
    d-det
    """
    from statshift.making.extraction import ExtractionOptions, extract

    options = ExtractionOptions(
        steps,
        STEP_SIZE if step_size is None else t.parse_fraction("step-size", step_size),
        EPSILON if epsilon is None else t.parse_fraction("epsilon", epsilon),
        batch_size,
        seed,
    )
    with progress_bar() as bar:
        report = MakingReport(bar, "extract")
        made = extract(
            load_model_on(device, model, weights, mean, std, model_args, size_multiple, branch),
            data,
            kind,
            options,
            out=out,
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
    if not report.called:
        say("Every image was finished before; nothing was extracted again.")
    if as_json:
        print_json(made)
        return
    print_out(found_text(made["found"]))
    print_out(f"\nWritten to {out}: images.npz, record.json. Use it as --data npz:{out / 'images.npz'}")


def found_text(found: dict[str, Any]) -> str:
    """Return what was found of an extraction's images, in words."""
    lines = [f"{found['images']:,} images, {found['l2_distance']:.3f} in L2 on average from those they began at."]
    if "feature_distance_initial" in found:
        before, after, rounded = (found[f"feature_distance_{name}"] for name in ("initial", "final", "rounded"))
        lines.append(f"Mean distance of the features: {before:.4g} -> {after:.4g}, {rounded:.4g} in 8 bits.")
    else:
        final, rounded = (100 * found[f"taken_for_target_{name}"] for name in ("final", "rounded"))
        lines.append(f"Taken by the model for their target: {final:.1f} %, {rounded:.1f} % in 8 bits.")
    return "\n".join(lines)
