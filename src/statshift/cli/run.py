"""`statshift run`."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from statshift._core.errors import InputError
from statshift.cli import options as o
from statshift.cli import typed as t
from statshift.cli.output import print_json, print_out, say
from statshift.cli.progress import MeasurementReport, TrainingReport, progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress

    from statshift.recipes import Recipe


def run_command(
    target: Annotated[
        str, typer.Argument(metavar="FILE-OR-NAME", help="A recipe of `statshift recipes`, or a file of yours.")
    ],
    model: Annotated[str | None, o.like(o.Model)] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images: digits, cifar10, ... as in measure, to train on, or where nothing is trained to measure on.",
            show_default=False,
        ),
    ] = None,
    validation: o.Validation = None,
    out: Annotated[Path | None, o.out("weights, records and runs, by label")] = None,
    weights: o.Weights = None,
    file: Annotated[
        list[str] | None,
        typer.Option(help="Weights that the recipe needs, NAME=PATH; may be repeated.", show_default=False),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A variant of ImageNet to measure besides, NAME=DIR, of those that the recipe has; may be repeated.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Run these alone, with commas; the first column of the table.", show_default=False),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Layer after which features change and weights train: see `statshift layers`; or input."),
    ] = None,
    one_cycle: Annotated[
        bool,
        typer.Option("--one-cycle", help="From random weights: 30 epochs, adversarially 20, in the papers' place."),
    ] = False,
    epochs: Annotated[int | None, o.like(o.Epochs)] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images in a step, over all processes. Where nothing is trained, images at once.", show_default=False
        ),
    ] = None,
    learning_rate: Annotated[float | None, o.learning_rate("default the recipe's")] = None,
    shifts: Annotated[str | None, o.shifts(", attacks as pgd-linf:1/255", "the recipe's")] = None,
    severities: Annotated[str | None, o.like(o.Severities)] = None,
    samples: Annotated[int | None, o.like(o.Samples)] = None,
    draws: Annotated[
        int | None, typer.Option(help="Repeat with so many choices of these images.", show_default=False)
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A second data set: print how far apart the features of the two lie instead.")
    ] = None,
    limit: o.Limit = None,
    device: o.Device = "auto",
    dtype: Annotated[str | None, o.like(o.Dtype)] = None,
    seed: Annotated[int | None, o.like(o.Seed)] = None,
    mean: o.Mean = None,
    std: o.Std = None,
    size_multiple: o.SizeMultiple = None,
    model_args: o.ModelArgs = None,
    as_json: o.Json = False,
) -> None:
    """Run a recipe, resumably, and print its figures beside the published ones.

    A name with a path separator or the ending .yaml or .yml is a file, as `statshift recipes copy` writes it; what
    flags say goes before what it says. With --json: ours and theirs by label, and over what.

    Example: statshift run rectify-imagenet --data folder:val --labels resnet50 --limit 1000 --out runs/table3
    """
    from statshift._core.processes import join
    from statshift.cli.published import result_document, result_text
    from statshift.models import load_model
    from statshift.recipes.running import check_complete, run_recipe, with_files, with_sets

    chosen = _chosen(target, at, one_cycle, None if labels is None else t.parse_list(labels))
    measuring = {"batch_size": batch_size, "dtype": dtype, "seed": seed}
    numbers = {"epochs": epochs, "learning_rate": learning_rate, "samples": samples, "draws": draws, **measuring}
    chosen, rest = _with_numbers(chosen, numbers, measuring)
    chosen = with_files(chosen, _by_name(file, "--file NAME=PATH"))
    chosen = with_sets(chosen, _by_name(sets, "--set NAME=DIR"))
    flags = {"--model": model, "--weights": weights, "--mean": mean, "--std": std, "--size-multiple": size_multiple}
    _check_none(chosen, flags)
    given: dict[str, Any] = {"model": model, "data": data, "validation": validation, "out": out, "against": against}
    given |= {"shifts": shifts, "severities": severities, "draws": draws}
    check_complete(chosen, given | {name: rest.get(name) for name in ("batch_size", "dtype")}, _flag)
    arguments, make = t.parse_model_args(model_args), None
    if "model" in chosen.requires:
        make = partial(
            load_model,
            model or chosen.spec,
            weights=weights,
            mean=t.parse_channels("mean", mean),
            std=t.parse_channels("std", std),
            size_multiple=size_multiple,
            model_args=arguments,
        )
    with progress_bar() as bar:
        found = run_recipe(
            chosen,
            make,
            data,
            out,
            validation=validation,
            shifts=None if shifts is None else t.parse_shifts(shifts),
            severities=None if severities is None else t.parse_severities(severities),
            against=against,
            batch_size=rest.get("batch_size"),
            device=device,
            dtype=rest.get("dtype") or "float32",
            seed=seed or 0,
            model_args=None if make else arguments,
            data_options={} if limit is None else {"limit": limit, "seed": seed or 0},
            training_progress=_following(bar, TrainingReport, "training"),
            measuring_progress=_following(bar, MeasurementReport, "measuring"),
        )
    if join()[0] == 0:
        trained_on, measured_on = chosen.images(data, validation)
        of, written = measured_on or trained_on, "" if out is None else f"\n\nWritten to {out}."
        _show(as_json, result_document(chosen, found, of), result_text(chosen, found, of) + written)


def _with_numbers(
    chosen: "Recipe", numbers: Mapping[str, Any], measuring: Mapping[str, Any]
) -> tuple["Recipe", dict[str, Any]]:
    """Return a recipe with the numbers that are given, and those of `measuring` that are not its own."""
    from statshift.recipes import changed

    own = {field.name for one in chosen.numbers.values() for field in fields(one)}
    rest = {name: value for name, value in measuring.items() if name not in own}
    changes = {name: value for name, value in numbers.items() if name not in rest and value is not None}
    return changed(chosen, **changes), rest


def _check_none(chosen: "Recipe", flags: Mapping[str, Any]) -> None:
    """Check that nothing is said of a model, where a recipe takes none."""
    excess = [flag for flag, value in flags.items() if value is not None]
    if excess and chosen.networks:
        raise InputError(
            f"Expected no {', '.join(excess)} for the recipe {chosen.name}, which builds its own networks."
        )


def _chosen(target: str, at: str | None, one_cycle: bool, labels: list[str] | None) -> "Recipe":
    """Return the recipe of a name or of a file."""
    from statshift.recipes import RECIPES, changed, read_recipe, recipe

    if not _is_file(target):
        if target not in RECIPES:
            _hint_at_a_file(target)
        return recipe(target, at=None if at is None else t.parse_list(at), one_cycle=one_cycle, labels=labels)
    if excess := [flag for flag, given in (("--at", at), ("--one-cycle", one_cycle)) if given]:
        raise InputError(f"Expected no {', '.join(excess)} with a file: change {target} instead.")
    return changed(read_recipe(target), labels)


def _hint_at_a_file(target: str) -> None:
    """Tell of a file where what was typed reads as a name."""
    for path in (target, f"{target}.yaml", f"{target}.yml"):
        if Path(path).is_file():
            typed = path if _is_file(path) else f"./{path}"
            raise InputError(f"Unknown recipe {target!r}, but there is a file: statshift run {shlex.quote(typed)}.")


def _is_file(target: str) -> bool:
    return "/" in target or "\\" in target or Path(target).suffix in (".yaml", ".yml")


def _by_name(pairs: list[str] | None, expected: str) -> dict[str, str]:
    """Return {"augmix": "a.pt"} for ["augmix=a.pt"]."""
    found = {}
    for pair in pairs or []:
        name, equals, path = pair.partition("=")
        if not (equals and name and path):
            raise InputError(f"Expected {expected}, but got {pair!r}.")
        found[name] = path
    return found


def _flag(name: str) -> str:
    """Return "--batch-size" for "batch_size", and "--file resnet20=PATH" for "files[resnet20]"."""
    return f"--file {name[6:-1]}=PATH" if name.startswith("files[") else f"--{name.replace('_', '-')}"


def _show(as_json: bool, document: Mapping[str, Any], text: str) -> None:
    if as_json:
        print_json(document)
    else:
        print_out(text)


def _following(bar: "Progress", report: "Callable[[Progress], Any]", verb: str) -> Callable[[str], Any]:
    """Return what begins a new line of the bar for a label, in the last one's place."""
    from statshift._core.processes import join

    def begin(label: str) -> Any:
        for task in bar.task_ids:
            bar.update(task, visible=False)
        if join()[0] == 0:
            say(f"{verb} {label}")
        return report(bar)

    return begin
