"""Run a recipe on the authors' data and network or on any other; check before that all is there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from statshift._core.errors import InputError, unknown
from statshift.adapting.choosing import Protocols
from statshift.data import ImageData
from statshift.data.loading import STORED, WITH_LABEL_MAPS, check_scheme
from statshift.hardening.training import Step, TrainingOptions
from statshift.measuring.loading import Dtype, dtype_name
from statshift.measuring.progress import Progress
from statshift.recipes.catalogue import recipe
from statshift.recipes.configuration import Recipe
from statshift.recipes.options import DataOrSpec, Makes, RunOptions
from statshift.shifts.conditions import Shifts

REFUSABLE = (
    *("out", "model", "validation", "against"),
    *("batch_size", "dtype", "draws", "rectify", "shifts", "severities"),
)
"""What a recipe may have no place for, in the order in which it is told."""


def run_recipe(
    name: str | Recipe,
    model: Makes | None,
    data: DataOrSpec | None,
    out: str | Path | None,
    *,
    validation: DataOrSpec | None = None,
    training: TrainingOptions | None = None,
    at: Sequence[str] | None = None,
    shifts: Shifts | None = None,
    severities: Sequence[int] | None = None,
    rectify: Protocols = (),
    files: Mapping[str, str | Path] | None = None,
    sets: Mapping[str, str | Path] | None = None,
    against: str | ImageData | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    dtype: Dtype = "float32",
    compiled: bool = False,
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    training_progress: Callable[[str], Callable[[Step], None]] | None = None,
    measuring_progress: Callable[[str], Callable[[Progress], None]] | None = None,
) -> dict[str, Any]:
    """Train each of a recipe's configurations and measure every branch of it, or measure its networks as they are.

    Training goes into `out`/LABEL and measurements into `out`/LABEL/measured-BRANCH, or where nothing is trained into
    `out`/LABEL; the same call goes on where an earlier one stopped. A model that is given is measured as it was too,
    under the label "base".

    Args:
        name: one of `RECIPES`, or what `recipe` or `read_recipe` returned.
        model: a spec, or what makes a fresh model; None is the recipe's own.
        data: to train on, with labels, or where nothing is trained to measure on; None, and no `validation`, is the
            recipe's own, if it has some.
        out: folder, made if need be; None for "cost" and "branches", which write nothing.
        validation: to measure on after training, with labels; None is the test part of data that have one.
        training: in the papers' place; see `recipe`.
        at: layers, in the papers' place.
        shifts: to measure under, in the recipe's place: mostly the clean images and the 15, or the clean and attacked.
        severities: of these shifts, likewise.
        rectify: protocols to adapt by, in the recipe's place, beside the source; see `measure`.
        files: weights by the names of the recipe's `files`.
        sets: folders by the names of the recipe's `sets`, which are measured besides.
        against: the second data set of the recipe "divergence".
        batch_size: of measuring networks as they are; see `measure`. That of training is in the recipe.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N", or a `torch.device`.
        dtype: likewise.
        compiled: train through `torch.compile`.
        seed: of corruptions and adaptation, where nothing is trained. That of training is in the recipe.
        model_args: further arguments of the recipe's own networks, such as `num_classes`.
        data_options: further arguments of `load_data`, where data are not loaded, for all data sets.
        training_progress: given a label, returns what is called after each step.
        measuring_progress: given a label and branch, returns what is called after each batch.

    Returns:
        By label and branch ("clean, auto" where rectified by the protocol auto), or of a recipe with domains by label
        and domain ("dusk", "dusk, auto"), or where nothing is trained by label and protocol ("source", "replace"):
        `clean_accuracy`; `mean_of_shifts`, accuracy over all shifts measured;
        `mce`, as fractions, None where not measured or not defined; `shifts`, the accuracy under each; `ligs`, the mean
        by perturbation; of another task `clean_SCORE` in the place of `clean_accuracy`, and the `headline`, SCORE;
        `images` and `conditions`, what they are over; and `smoothness` at the end of the last epoch
        where the landscape was walked. Of a recipe that studies networks, by label under "analysis": `figures` by name,
        and `images`. Of "cost" what `step_costs` returns, of "branches" `AUTHORS_BRANCH`.

    Raises:
        InputError: something that cannot be used, or all that is missing, told in one line before anything runs.
    """
    chosen = with_files(name if isinstance(name, Recipe) else recipe(name, training, at), files or {})
    chosen = with_sets(chosen, sets or {})
    options = RunOptions(
        model=model,
        data=data,
        out=out,
        validation=validation,
        shifts=shifts,
        severities=severities,
        rectify=rectify or None,
        against=against,
        batch_size=batch_size,
        device=device,
        dtype=None if dtype_name(dtype) == "float32" else dtype,
        compiled=compiled,
        seed=seed,
        model_args=model_args,
        data_options=data_options,
        training_progress=training_progress,
        measuring_progress=measuring_progress,
    )
    check_complete(chosen, vars(options))
    return chosen.run(options)


def with_files(chosen: Recipe, files: Mapping[str, str | Path]) -> Recipe:
    """Return a recipe with paths of weights; see `Recipe.files`.

    Raises:
        InputError: a name that the recipe does not have.
    """
    for name in files:
        if name not in chosen.files:
            if not chosen.files:
                raise InputError(f"Expected no files for the recipe {chosen.name}, but got {name!r}.")
            raise unknown(f"file of the recipe {chosen.name}", name, chosen.files)
    return replace(chosen, files=dict(chosen.files) | {name: str(path) for name, path in files.items()})


def with_sets(chosen: Recipe, sets: Mapping[str, str | Path]) -> Recipe:
    """Return a recipe with folders of sets of images; see `MeasuringRecipe.sets`.

    Raises:
        InputError: a name that the recipe does not have.
    """
    if not sets:
        return chosen
    own = getattr(chosen, "sets", {})
    if not own:
        raise InputError(f"Expected no sets for the recipe {chosen.name}, but got {', '.join(map(repr, sets))}.")
    for name in sets:
        if name not in own:
            raise unknown(f"set of the recipe {chosen.name}", name, own)
    changes: dict[str, Any] = {"sets": dict(own) | {name: str(path) for name, path in sets.items()}}
    return replace(chosen, **changes)


def check_complete(chosen: Recipe, given: Mapping[str, Any], flag: Callable[[str], str] = "`{}`".format) -> None:
    """Check that a recipe has all that it needs, before anything runs.

    Args:
        chosen: the recipe.
        given: arguments of `run_recipe` by name, and `draws`; None where not given.
        flag: how what is missing is named: these, and "files[NAME]".

    Raises:
        InputError: all that is missing, is not there or has no place in the recipe.
    """
    data, validation = chosen.images(given.get("data"), given.get("validation"))
    images = [one for one in (data, validation, given.get("against")) if isinstance(one, str)]
    for one in images:
        check_scheme(one)
    places = (*chosen.requires, *chosen.takes)
    if unwanted := [name for name in REFUSABLE if given.get(name) is not None and name not in places]:
        reasons = {"out": "writes nothing"} | ({"model": "builds its own networks"} if chosen.networks else {})
        why = reasons.get(unwanted[0], "has no place for it")
        told = ", ".join(map(flag, unwanted))
        raise InputError(f"Expected no {told} for the recipe {chosen.name}, which {why}.")
    filled = {"model": chosen.spec or None, "data": data, "validation": validation}
    missing = [flag(name) for name in chosen.requires if given.get(name) is None and filled.get(name) is None]
    missing += [flag(f"files[{name}]") for name in chosen.unsupplied]
    several = len({network.weights for network in chosen.networks.values()}) > 1
    fewer = f"; {flag('labels')} makes do with some of the files" if chosen.unsupplied and several else ""
    absent = _absent(chosen, images) if chosen.requires else []
    faults = [f"Expected {', '.join(missing)} for the recipe {chosen.name}{fewer}."] if missing else []
    faults += [f"The recipe {chosen.name} needs what is not there: {', '.join(absent)}."] if absent else []
    if faults:
        raise InputError(" ".join(faults))


def _absent(chosen: Recipe, images: Sequence[str]) -> list[str]:
    """Return the paths of weights and of data that are not there."""
    used = {network.weights for network in chosen.networks.values()}
    paths = [path for name, path in chosen.files.items() if path and name in used]
    places = [place for place in (*map(_place_of, images), *getattr(chosen, "sets", {}).values()) if place]
    absent = [path for path in dict.fromkeys(paths) if not Path(path).expanduser().is_file()]
    return absent + [path for path in dict.fromkeys(places) if not Path(path).expanduser().exists()]


def _place_of(spec: str) -> str:
    """Return the path in a spec that must be there, or ""."""
    scheme, _, rest = spec.partition(":")
    return rest if scheme in ("folder", "npz", *STORED, *WITH_LABEL_MAPS) else ""
