"""`statshift recipes`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.progress import Progress

from statshift.attacks import is_attack
from statshift.cli import options as o
from statshift.cli.output import MeasurementReport, TrainingReport, print_out, progress_bar, say, table
from statshift.errors import InputError
from statshift.experiments import run_recipe, step_costs
from statshift.hardening import AUTHORS_BRANCH, LIGS
from statshift.models import load_model
from statshift.processes import join
from statshift.recipes import BASE, COLUMNS, NOT_TRAINED, RECIPES, Recipe, recipe
from statshift.results.summary import BENCHMARK

ABSENT = "not in our copy"


def recipes_command(
    name: Annotated[str | None, typer.Argument(help=f"{', '.join(RECIPES)}; none lists them.")] = None,
    model: Annotated[
        str | None, typer.Option(help="As in harden; not for recipes with networks of their own.", show_default=False)
    ] = None,
    data: Annotated[str | None, typer.Option(help="Images to train on.", show_default=False)] = None,
    validation: Annotated[str | None, typer.Option(help="Images to measure on.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder: weights, records and runs, by label.", show_default=False)
    ] = None,
    weights: o.Weights = None,
    labels: Annotated[
        str | None, typer.Option(help="Train these alone, with commas; the first column of the table.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Layer in the papers' place; position takes several, with commas.")
    ] = None,
    one_cycle: Annotated[
        bool,
        typer.Option("--one-cycle", help="From random weights: 30 epochs, adversarially 20, in the papers' place."),
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images; default the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a step, over all processes; likewise.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest; likewise.")] = None,
    shifts: Annotated[
        str | None, typer.Option(help="To measure under, as in measure; default the recipe's, or clean,common.")
    ] = None,
    severities: Annotated[
        str | None, typer.Option(help="Of 1 to 5, with commas; default the recipe's, or all.")
    ] = None,
    limit: o.Limit = None,
    device: o.Device = "auto",
    dtype: Annotated[str, typer.Option(help="Of training: float32, bfloat16 or float16.")] = "float32",
    seed: o.Seed = 0,
    mean: o.Mean = None,
    std: o.Std = None,
    model_args: o.ModelArgs = None,
) -> None:
    """List the papers' experiments, or run one, resumably, and print its figures beside the published ones.

    Example: statshift recipes position --model torchvision:resnet50@IMAGENET1K_V1 --data folder:train --validation
    folder:val --dtype bfloat16 --out runs/position
    """
    if name is None:
        print_out(listing())
        return
    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "dtype": dtype,
        "seed": seed,
    }
    chosen = recipe(
        name,
        at=None if at is None else o.split(at),
        one_cycle=one_cycle,
        labels=None if labels is None else o.split(labels),
        **{key: value for key, value in given.items() if value is not None},
    )
    if name == "branches":
        print_out(branches_text())
        return
    needed = {"--data": data, "--validation": validation} if data or validation or not chosen.data else {}
    if name in NOT_TRAINED:
        needed = {"--data": data}
    else:
        needed["--out"] = None if out is None else str(out)
    if chosen.networks:
        unwanted = {"--model": model, "--weights": weights, "--mean": mean, "--std": std}
        if excess := [option for option, value in unwanted.items() if value is not None]:
            raise InputError(f"Expected no {', '.join(excess)} for the recipe {name}, which builds its own networks.")
    else:
        needed = {"--model": model} | needed
    if missing := [option for option, value in needed.items() if value is None]:
        raise InputError(f"Expected {', '.join(missing)} for the recipe {name}.")
    make, arguments = None, o.parse_model_args(model_args)
    if not chosen.networks:
        assert model is not None
        make = partial(
            load_model,
            model,
            weights=weights,
            mean=o.parse_channels("mean", mean),
            std=o.parse_channels("std", std),
            model_args=arguments,
        )
    chosen_images = {} if limit is None else {"limit": limit, "seed": seed}
    if name == "cost":
        assert make is not None
        assert data is not None
        costs = step_costs(make, data, chosen.options, device=device, data_options=chosen_images)
        print_out(costs_text(chosen, costs))
        return
    assert out is not None
    with progress_bar() as bar:
        found = run_recipe(
            chosen,
            make,
            data,
            out,
            validation=validation,
            shifts=None if shifts is None else o.parse_functions(shifts),
            severities=None if severities is None else o.parse_severities(severities),
            device=device,
            model_args=arguments if chosen.networks else None,
            data_options=chosen_images,
            training_progress=_following(bar, TrainingReport, "training"),
            measuring_progress=_following(bar, MeasurementReport, "measuring"),
        )
    if join()[0] == 0:
        print_out(networks_text(chosen, found) if chosen.networks else recipe_text(chosen, found))
        print_out(f"\nWritten to {out}.")


def _following(bar: Progress, report: Callable[[Progress], Any], verb: str) -> Callable[[str], Any]:
    """Return what begins a new line of the bar for a label, in the last one's place."""

    def begin(label: str) -> Any:
        for task in bar.task_ids:
            bar.update(task, visible=False)
        if join()[0] == 0:
            say(f"{verb} {label}")
        return report(bar)

    return begin


def listing() -> str:
    """Return the recipes with their sources."""
    width = max(map(len, RECIPES)) + 2
    lines = []
    for name in RECIPES:
        one = recipe(name)
        count = "" if name in NOT_TRAINED else f" ({len(one.options)} trainings)"
        lines += [f"{name:<{width}}{one.title}{count}", f"{'':<{width}}{one.source}"]
    return "\n".join(lines)


def branches_text() -> str:
    """Return the authors' choice of branch by data set."""
    rows = [["data set", "branch"], *([name, branch] for name, branch in AUTHORS_BRANCH.items())]
    one = recipe("branches")
    return f"{one.title[0].upper()}{one.title[1:]} ({one.source})\n\n{table(rows)}"


def costs_text(chosen: Recipe, costs: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table of what `step_costs` found."""
    rows = [["method", "ms", "ratio", "published"]]
    for label, one in costs.items():
        rows.append([label, f"{1000 * one['seconds']:.1f}", f"{one['ratio']:.2f}", ABSENT])
    images = {int(one["images"]) for one in costs.values()}
    return "\n".join(
        [
            f"{chosen.name}: {chosen.title} ({chosen.source})",
            f"Least time of a step on {', '.join(map(str, images))} images, without optimiser and loading. "
            f"{chosen.note}\n",
            table(rows),
        ]
    )


def recipe_text(chosen: Recipe, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return a table of what `run_recipe` found, in %, beside what the authors print.

    A figure that they have and our copy of the paper does not print is "not in our copy"; "-" is where there is none.
    """
    printed = [figures for figures in chosen.published.values() if figures]
    columns = [column for column in COLUMNS if any(column in figures for figures in printed)]
    heads = [f"their {COLUMNS[column]}" for column in columns] or ["published"]
    rows = [["label", "branch", "clean", "mean of shifts", "mCE", *heads]]
    for label in dict.fromkeys([BASE, *found, *chosen.published]):
        theirs = _theirs(chosen, label, columns)
        for branch, one in found.get(label, {"-": {}}).items():
            ours = [_percent(one.get(column)) for column in ("clean_accuracy", "mean_of_shifts", "mce")]
            rows.append([label, branch, *ours, *theirs])
            theirs = [""] * len(heads)
    lines = [f"{chosen.name}: {chosen.title} ({chosen.source})", *dict.fromkeys(_over(found))]
    if printed:
        lines.append("Theirs are of a ResNet-50 over whole ImageNet and its variants.")
    return "\n".join([*lines, *([chosen.note] if chosen.note else []), "", table(rows)])


def networks_text(chosen: Recipe, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return a table of what `run_recipe` found of a recipe's own networks, beside what the authors print.

    Accuracies, of which "corrupted" is the mean over corruptions, and mCE are in %; LIGS and smoothness are not.
    """
    ours = {label: _own_figures(by_branch["clean"]) for label, by_branch in found.items()}
    columns = list(dict.fromkeys(name for figures in ours.values() for name in figures))
    printed = {name for figures in chosen.published.values() for name in figures or {}}
    theirs = [name for name in columns if name in printed]
    heads = [f"their {name}" for name in theirs] or ["published"]
    rows = [["label", *(name if name != "mce" else "mCE" for name in columns), *heads]]
    for label in chosen.options:
        published = chosen.published.get(label, {})
        cells = [ABSENT] if published is None else [_percent(published.get(name)) for name in theirs] or ["-"]
        figures = ours.get(label, {})
        rows.append([label, *(_figure(name, figures.get(name)) for name in columns), *cells])
    every = [one for by_branch in found.values() for one in by_branch.values()]
    over = ", ".join(f"{count:,}" for count in sorted({one["images"] for one in every}))
    under = _conditions_text(list(dict.fromkeys(condition for one in every for condition in one["conditions"])))
    lines = [
        f"{chosen.name}: {chosen.title} ({chosen.source})",
        f"Ours are over {over} images under {under}.",
    ]
    return "\n".join([*lines, *([chosen.note] if chosen.note else []), "", table(rows)])


def _own_figures(one: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the columns of one network."""
    corruptions = [accuracy for shift, accuracy in one["shifts"].items() if not is_attack(shift)]
    figures = {
        "clean": one["clean_accuracy"],
        **{shift: accuracy for shift, accuracy in one["shifts"].items() if is_attack(shift)},
        **({"corrupted": fmean(corruptions)} if corruptions else {}),
        **({} if one["mce"] is None else {"mce": one["mce"]}),
        **{f"LIGS {name}": value for name, value in one["ligs"].items()},
    }
    return figures | ({"smoothness": one["smoothness"]} if "smoothness" in one else {})


def _figure(name: str, value: float | None) -> str:
    if value is None or name == "smoothness":
        return "-" if value is None else f"{value:.3g}"
    return f"{value:.3f}" if name.startswith(LIGS) else _percent(value)


def _theirs(chosen: Recipe, label: str, columns: Sequence[str]) -> list[str]:
    figures = chosen.published.get(label, {})
    if figures is None:
        return [ABSENT] * max(1, len(columns))
    return [_percent(figures.get(column)) for column in columns] or ["-"]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _over(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return what our figures are over: how many images, which conditions; a line for each that differs."""
    return [
        f"Ours, in %, are over {one['images']:,} images under {_conditions_text(one['conditions'])}."
        for by_branch in found.values()
        for one in by_branch.values()
    ]


def _conditions_text(conditions: Sequence[tuple[str, int]]) -> str:
    """Return "clean; fog, snow at 1, 3" for conditions."""
    levels: dict[str, list[int]] = {}
    for shift, severity in conditions:
        levels.setdefault(shift, []).append(severity)
    groups: dict[tuple[int, ...], list[str]] = {}
    for shift, own in levels.items():
        groups.setdefault(tuple(own), []).append(shift)
    parts = []
    for severities, shifts in groups.items():
        named = "the 15 common corruptions" if set(shifts) == set(BENCHMARK) else ", ".join(shifts)
        parts.append(named if severities == (0,) else f"{named} at severity {', '.join(map(str, severities))}")
    return "; ".join(parts)
