"""`statshift attack`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from statshift._core.errors import InputError, unknown
from statshift.cli import options as o
from statshift.cli import typed as t
from statshift.cli.output import print_json, print_out, say
from statshift.cli.progress import MakingReport, progress_bar
from statshift.cli.target import load_model_on
from statshift.shifts.registry import ATTACKS


def attack_command(
    model: o.Model,
    data: o.Data,
    out: Annotated[Path, o.out("images.npz and record.json")],
    attack: Annotated[str, o.attack(f", or NAME with --epsilon: {', '.join(ATTACKS)}")] = "pgd-linf",
    epsilon: Annotated[str | None, o.epsilon(", of pixels in [0,1]")] = None,
    steps: Annotated[int | None, o.steps("20")] = None,
    step_size: Annotated[str | None, o.step_size("2.5 * epsilon / steps")] = None,
    target: Annotated[
        str | None, typer.Option(help="Drive images to a class: random, or next.", show_default=False)
    ] = None,
    no_random_start: Annotated[bool, typer.Option("--no-random-start", help="Begin at the image itself.")] = False,
    weights: o.Weights = None,
    branch: o.Branch = None,
    limit: o.Limit = None,
    batch_size: Annotated[int, typer.Option(help="Images at once.")] = 128,
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
    split: o.Split = None,
    class_map: o.ClassMap = None,
    ignore_index: o.IgnoreIndex = None,
    label_map: o.LabelMap = None,
    skip_bad: o.SkipBad = False,
    as_json: o.Json = False,
) -> None:
    """Write the adversarial images of a data set, resumably, and say what the model makes of them.

    In measure the same attacks are shifts, and are not rounded to 8 bits. With --json: the record.

    Example: statshift attack --model cifar:resnet56 --weights net.pt --data cifar10 --attack pgd-l2:0.25
    --out adversarial
    """
    attack, radius, steps = _parse_attack(attack, epsilon, steps)
    given: dict[str, Any] = {
        "steps": steps,
        "step_size": None if step_size is None else t.parse_fraction("step-size", step_size),
        "target": target,
        "random_start": False if no_random_start else None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    from statshift.making.adversarial import write_adversarial
    from statshift.shifts.attacks import attack_named

    chosen = attack_named(attack)
    if excess := [name for name in given if name not in chosen.options]:
        raise InputError(f"Expected no {', '.join(excess)} for {attack}, which has no such option.")
    with progress_bar() as bar:
        report = MakingReport(bar, "attack")
        made = write_adversarial(
            load_model_on(device, model, weights, mean, std, model_args, size_multiple, branch),
            data,
            chosen(radius, **given),
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
                split=split,
                class_map=class_map,
                ignore_index=ignore_index,
                label_map=label_map,
                workers=workers,
            ),
            progress=report,
        ).record
    if not report.called:
        say("Every image was finished before; nothing was attacked again.")
    if as_json:
        print_json(made)
        return
    found = made["found"]
    clean, after, rounded = (100 * found[name] for name in ("accuracy_clean", "accuracy", "accuracy_rounded"))
    print_out(f"Accuracy over {found['images']:,} images: clean {clean:.1f} %, {attack} {after:.1f} %,")
    print_out(f"as stored in 8 bits {rounded:.1f} %.")
    print_out(f"Mean distance: {found['l2_distance']:.4g} in L2, {255 * found['linf_distance']:.3g}/255 at most.")
    print_out(f"\nWritten to {out}: images.npz, record.json. Use it as --data npz:{out / 'images.npz'}")


def _parse_attack(text: str, epsilon: str | None, steps: int | None) -> tuple[str, float, int | None]:
    """Return name, radius and steps of NAME:EPSILON[:STEPS], or of NAME and the two options."""
    name, colon, _ = text.partition(":")
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    if not colon:
        if epsilon is None:
            raise InputError(f"Expected the attack's radius, as --attack {name}:EPSILON or by --epsilon.")
        return name, t.parse_fraction("epsilon", epsilon), steps
    from statshift.shifts.attacks import PixelAttack, parse_attack

    found = parse_attack(text)
    own = found.steps if isinstance(found, PixelAttack) and text.count(":") > 1 else None
    if twice := [option for option, value in (("--epsilon", epsilon), ("--steps", own and steps)) if value is not None]:
        raise InputError(f"Expected {' and '.join(twice)} once, but --attack {text} has it too.")
    return name, found.epsilon, steps if own is None else own
