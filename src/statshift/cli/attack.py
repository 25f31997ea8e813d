"""`statshift attack`."""

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from statshift.adversaries import write_adversarial
from statshift.attacks import ATTACKS, STEPPED
from statshift.cli import options as o
from statshift.cli.output import MakingReport, print_out, progress_bar, say
from statshift.cli.target import load_model_on
from statshift.errors import InputError, unknown


def attack_command(
    model: o.Model,
    data: o.Data,
    epsilon: Annotated[str, typer.Option(help="Radius, of pixels in [0,1]: 0.25, or 1/255.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder: images.npz and record.json.", show_default=False)],
    attack: Annotated[str, typer.Option(help=f"{', '.join(ATTACKS)}.")] = "pgd-linf",
    steps: Annotated[int | None, typer.Option(help="How many; default 20.", show_default=False)] = None,
    step_size: Annotated[
        str | None, typer.Option(help="Of each; default 2.5 * epsilon / steps.", show_default=False)
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Drive images to a class: random, or next.", show_default=False)
    ] = None,
    no_random_start: Annotated[bool, typer.Option("--no-random-start", help="Begin at the image itself.")] = False,
    weights: o.Weights = None,
    limit: o.Limit = None,
    batch_size: Annotated[int, typer.Option(help="Images at once.")] = 128,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    workers: o.Workers = None,
    mean: o.Mean = None,
    std: o.Std = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    interpolation: o.Interpolation = None,
    model_args: o.ModelArgs = None,
    class_map: o.ClassMap = None,
    skip_bad: o.SkipBad = False,
) -> None:
    """Write the adversarial images of a data set, resumably, and say what the model makes of them.

    In measure the same attacks are shifts, as NAME:EPSILON[:STEPS], and are not rounded to 8 bits.

    Example: statshift attack --model cifar:resnet56 --weights net.pt --data cifar10 --attack pgd-l2 --epsilon 0.25
    --out adversarial
    """
    if attack not in ATTACKS:
        raise unknown("attack", attack, ATTACKS)
    given: dict[str, Any] = {
        "steps": steps,
        "step_size": None if step_size is None else _number("step-size", step_size),
        "target": target,
        "random_start": False if no_random_start else None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if given and attack not in STEPPED:
        raise InputError(f"Expected no {', '.join(given)} for {attack}, which has no such option.")
    with progress_bar() as bar:
        report = MakingReport(bar, "attack")
        found = write_adversarial(
            load_model_on(device, model, weights, mean, std, model_args),
            data,
            ATTACKS[attack](_number("epsilon", epsilon), **given),
            out=out,
            batch_size=batch_size,
            seed=seed,
            device=device,
            data_options=o.data_options(
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
        ).record["found"]
    if not report.called:
        say("Every image was finished before; nothing was attacked again.")
    clean, after, rounded = (100 * found[name] for name in ("accuracy_clean", "accuracy", "accuracy_rounded"))
    print_out(f"Accuracy over {found['images']:,} images: clean {clean:.1f} %, {attack} {after:.1f} %,")
    print_out(f"as stored in 8 bits {rounded:.1f} %.")
    print_out(f"Mean distance: {found['l2_distance']:.4g} in L2, {255 * found['linf_distance']:.3g}/255 at most.")
    print_out(f"\nWritten to {out}: images.npz, record.json. Use it as --data npz:{out / 'images.npz'}")


def _number(name: str, text: str) -> float:
    try:
        return float(Fraction(text.strip()))
    except (ValueError, ArithmeticError):
        raise InputError(f"Expected --{name} as a number or a fraction such as 1/255, but got {text!r}.") from None
