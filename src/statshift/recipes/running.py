"""Run a recipe on the authors' data and network or on any other: train and measure, or measure alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.utils.data import Dataset

from statshift._core.errors import InputError, unknown
from statshift.adapting.choosing import Protocols
from statshift.adapting.registry import SOURCE
from statshift.data import ImageData, load_data
from statshift.data.loading import check_scheme
from statshift.data.sampling import balanced_subset
from statshift.hardening.from_scratch import build
from statshift.hardening.harden import harden
from statshift.hardening.training import Step, TrainingOptions
from statshift.measuring.loading import Dtype, dtype_name
from statshift.measuring.measure import measure
from statshift.measuring.run import Measurement
from statshift.measuring.run import Progress as Measured
from statshift.models import PixelModel, import_function, load_model, load_weights, read_made_by
from statshift.recipes import BASE, Recipe, recipe
from statshift.recipes.studies import Setting, study
from statshift.shifts.conditions import Shifts, import_shift
from statshift.shifts.registry import averaged, family_of
from statshift.shifts.shift import CLEAN, Shift

Makes = str | Callable[[], PixelModel]
"""A model's spec, or what makes a fresh one."""

Images = str | Dataset[Any] | ImageData
"""Data, or their spec."""

SHIFTED = ("distances", "similarities", "embedding")
"""The analyses of images under a shift."""

ELSEWHERE = {"branches": "authors_branch", "costs": "step_costs"}
"""What `run_recipe` does not do, and where it is."""

MEASURING = {"batch_size": (), "dtype": (), "draws": (), "rectify": (), "shifts": SHIFTED, "severities": SHIFTED}
"""What concerns measuring, and the analyses that take it all the same."""

TREND_IMAGES = 1000
"""Measured after each epoch: Benz et al., ICLR 2021 submission, appendix B.2."""


def run_recipe(
    name: str | Recipe,
    model: Makes | None,
    data: Images | None,
    out: str | Path,
    *,
    validation: Images | None = None,
    training: TrainingOptions | None = None,
    at: Sequence[str] | None = None,
    shifts: Shifts | None = None,
    severities: Sequence[int] | None = None,
    rectify: Protocols = (),
    files: Mapping[str, str | Path] | None = None,
    against: str | ImageData | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    dtype: Dtype = "float32",
    compiled: bool = False,
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    training_progress: Callable[[str], Callable[[Step], None]] | None = None,
    measuring_progress: Callable[[str], Callable[[Measured], None]] | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Train each of a recipe's configurations and measure every branch of it, or measure its networks as they are.

    Training goes into `out`/LABEL and measurements into `out`/LABEL/measured-BRANCH, or where nothing is trained into
    `out`/LABEL; the same call goes on where an earlier one stopped. A model that is given is measured as it was too,
    under the label "base".

    Args:
        name: one of `RECIPES`, or what `recipe` or `read_recipe` returned.
        model: a spec, or what makes a fresh model; None is the recipe's own.
        data: to train on, with labels, or where nothing is trained to measure on; None, and no `validation`, is the
            recipe's own, if it has some.
        out: folder, made if need be.
        validation: to measure on after training, with labels; None is the test part of data that have one.
        training: in the papers' place; see `recipe`.
        at: layers, in the papers' place.
        shifts: to measure under, in the recipe's place: mostly the clean images and the 15, or the clean and attacked.
        severities: of these shifts, likewise.
        rectify: protocols to adapt by, in the recipe's place, beside the source; see `measure`.
        files: weights by the names of the recipe's `files`.
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
        By label and branch ("clean, auto" where rectified by the protocol auto), or where nothing is trained by label
        and protocol ("source", "replace"): `clean_accuracy`; `mean_of_shifts`, accuracy over all shifts measured;
        `mce`, as fractions, None where not measured or not defined; `shifts`, the accuracy under each; `ligs`, the mean
        by perturbation; `images` and `conditions`, what they are over; and `smoothness` at the end of the last epoch
        where the landscape was walked. Of a recipe that does something else, by label under "analysis": `figures` by
        name, and `images`.

    Raises:
        InputError: something that cannot be used, or all that is missing, told in one line before anything runs.
    """
    chosen = with_files(name if isinstance(name, Recipe) else recipe(name, training, at), files or {})
    if chosen.analysis in ELSEWHERE:
        raise InputError(f"The recipe {chosen.name} trains nothing: see `{ELSEWHERE[chosen.analysis]}`.")
    given: dict[str, Any] = {"model": model, "data": data, "validation": validation, "out": out, "against": against}
    given |= {"shifts": shifts, "severities": severities, "batch_size": batch_size, "rectify": rectify or None}
    check_complete(chosen, given | {"dtype": None if dtype_name(dtype) == "float32" else dtype})
    make = _maker_for(chosen, model, model_args, seed)
    images, validation = images_for(chosen, data, validation)
    _check_files(chosen, make)
    if chosen.analysis:
        setting = Setting(
            images,
            Path(out),
            _shifts(shifts) or next((_shifts(one) for one in chosen.shifts.values()), ("gaussian_noise",)),
            severities or chosen.severities,
            protocol=next(iter(chosen.protocols), "replace"),
            adaptation=chosen.adaptation,
            against=against,
            seed=seed,
            device=device,
            data_options=dict(data_options or {}),
            progress=measuring_progress,
        )
        found = study(chosen.analysis, {label: partial(make, label) for label in chosen.labels}, setting)
        return {label: {"analysis": one} for label, one in found.items()}

    def measured(
        network: Any, label: str, folder: Path, told: str, source: str, default: Any = None, **more: Any
    ) -> dict[str, Any]:
        found = measure(
            network,
            images if validation is None else validation,
            shifts=_shifts(shifts) or _shifts(chosen.shifts.get(label)) or default,
            severities=chosen.severities if severities is None else severities,
            rectify=rectify or _functions(chosen.protocols) or (),
            adaptation=chosen.adaptation.get(label),
            ligs=chosen.ligs,
            out=folder,
            device=device,
            data_options=data_options,
            progress=measuring_progress and measuring_progress(told),
            **more,
        )
        named = {SOURCE: source or SOURCE}
        return {
            named.get(one, f"{source}, {one}" if source else one): figures for one, figures in _figures(found).items()
        }

    if not chosen.trains:
        how = {"batch_size": batch_size, "dtype": dtype, "seed": seed}
        return {label: measured(make(label), label, Path(out) / label, label, "", **how) for label in chosen.labels}
    return _train_all(
        chosen, make, images, validation, Path(out), measured, compiled, device, data_options, training_progress
    )


def _train_all(
    chosen: Recipe,
    make: Callable[[str], PixelModel],
    data: Any,
    validation: Any,
    folder: Path,
    measured: Callable[..., dict[str, Any]],
    compiled: bool,
    device: str | torch.device,
    data_options: Mapping[str, Any] | None,
    progress: Callable[[str], Callable[[Step], None]] | None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Train each label, and measure each branch of it."""
    sample = _sample(validation, data_options) if chosen.trend else None

    def of_branch(network: Any, label: str, branch: str) -> dict[str, Any]:
        place = folder / label / f"measured-{branch}"
        return measured(network, label, place, f"{label}, {branch}", branch, (CLEAN, "common"))

    results = {} if chosen.networks else {BASE: of_branch(make(BASE), BASE, "clean")}
    for label, options in chosen.options.items():
        begun = make(label)
        if label in chosen.begins_with:
            begins_with = folder / chosen.begins_with[label] / "clean.safetensors"
            load_weights(begun.network, begins_with)
            begun.mark(read_made_by(begins_with))
        done = harden(
            begun,
            data,
            options,
            out=folder / label,
            validation=sample,
            shifts=_shifts(chosen.trend) or (CLEAN,),
            ligs=chosen.ligs if chosen.trend else (),
            landscape=chosen.walk,
            device=device,
            compiled=compiled,
            data_options=data_options,
            progress=progress and progress(label),
        )
        results[label] = {}
        for branch, one in done.branches.splits.items():
            results[label] |= of_branch(one.model, label, branch)
        if chosen.walk:
            walked = done.record["history"][-1]["validation"]["landscape"]
            results[label]["clean"]["smoothness"] = walked["smoothness"]
    return results


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


def check_complete(chosen: Recipe, given: Mapping[str, Any], flag: Callable[[str], str] = "`{}`".format) -> None:
    """Check that a recipe has all that it needs, before anything runs.

    Args:
        chosen: the recipe.
        given: `model`, `data`, `validation`, `out`, `against` and those of `MEASURING`, None where not given.
        flag: how what is missing is named: these, and "files[NAME]".

    Raises:
        InputError: all that is missing, is not there or has no place in the recipe.
    """
    data, validation = images_for(chosen, given.get("data"), given.get("validation"))
    trains = chosen.trains
    wanted = {} if chosen.builds else {"model": given.get("model") or chosen.model or None}
    wanted |= {"data": data} | ({"validation": validation} if trains else {})
    wanted |= {"against": given.get("against")} if chosen.analysis == "divergence" else {}
    wanted |= {"out": given.get("out")} if chosen.analysis != "costs" else {}
    for one in (data, validation, given.get("against")):
        if isinstance(one, str):
            check_scheme(one)
    unwanted = [
        *(["out"] if chosen.analysis == "costs" and given.get("out") is not None else []),
        *(["model"] if chosen.builds and given.get("model") is not None else []),
        *(["validation"] if not trains and given.get("validation") is not None else []),
        *(["against"] if chosen.analysis != "divergence" and given.get("against") is not None else []),
    ]
    if chosen.analysis:
        taken = [name for name, analyses in MEASURING.items() if chosen.analysis in analyses]
        unwanted += [name for name in MEASURING if name not in taken and given.get(name) is not None]
    if unwanted:
        why = {"model": "builds its own networks", "out": "writes nothing"}.get(unwanted[0], "has no place for it")
        told = ", ".join(map(flag, unwanted))
        raise InputError(f"Expected no {told} for the recipe {chosen.name}, which {why}.")
    missing = [flag(name) for name, value in wanted.items() if value is None]
    missing += [flag(f"files[{name}]") for name in chosen.unsupplied]
    several = len({network.weights for network in chosen.networks.values()}) > 1
    fewer = f"; {flag('labels')} makes do with some of the files" if chosen.unsupplied and several else ""
    used = {network.weights for network in chosen.networks.values()}
    paths = [path for name, path in chosen.files.items() if path and name in used]
    places = [_place_of(one) for one in (data, validation, given.get("against")) if isinstance(one, str)]
    absent = [path for path in dict.fromkeys(paths) if not Path(path).expanduser().is_file()]
    absent += [path for path in dict.fromkeys(places) if path and not Path(path).expanduser().exists()]
    faults = [f"Expected {', '.join(missing)} for the recipe {chosen.name}{fewer}."] if missing else []
    faults += [f"The recipe {chosen.name} needs what is not there: {', '.join(absent)}."] if absent else []
    if faults:
        raise InputError(" ".join(faults))


def _check_files(chosen: Recipe, make: Callable[[str], PixelModel]) -> None:
    """Check that each file of weights fits its network, before anything runs.

    Raises:
        InputError: those that do not, all told at once.
    """
    faults, seen = [], set()
    for label, network in chosen.networks.items():
        if network.weights and repr(network) not in seen:
            seen.add(repr(network))
            try:
                make(label)
            except InputError as error:
                faults.append(f"{label}: {error}")
    if faults:
        raise InputError(" ".join(faults))


def images_for(chosen: Recipe, data: Any, validation: Any) -> tuple[Any, Any]:
    """Return what to train and to measure on, None where it is still to be given; what is given goes before.

    Data that have a training part and a test part, and a recipe's own data, need no others to measure on.
    """
    if not chosen.trains:
        return (chosen.data or None if data is None else data), None
    if data is None and validation is None:
        return chosen.data or None, chosen.validation or chosen.data or None
    if validation is None:
        validation = chosen.validation or (data if _has_parts(data) else None)
    return data, validation


def _has_parts(data: Any) -> bool:
    scheme, _, rest = data.partition(":") if isinstance(data, str) else ("", "", "")
    return scheme in ("cifar10", "cifar100", "svhn") or (scheme, rest) == ("digits", "")


def _place_of(spec: str) -> str:
    """Return the path in a spec that must be there, or ""."""
    scheme, _, rest = spec.partition(":")
    return rest if scheme in ("folder", "npz", "cifar-c", "imagenet-c") else ""


def _shifts(names: Any) -> Any:
    """Return names as they are, but for each py:FILE:NAME the function or shift that it names."""
    if names is None or isinstance(names, str | Mapping | Shift):
        return names
    return tuple(import_shift(one) if isinstance(one, str) and one.startswith("py:") else one for one in names)


def _functions(names: Any) -> Any:
    """Return names as they are, but for each py:FILE:FUNCTION a mapping from the function's name to the function."""
    if names is None or isinstance(names, str | Mapping):
        return names
    return tuple(
        {one.rpartition(":")[2]: import_function(one[3:])} if isinstance(one, str) and one.startswith("py:") else one
        for one in names
    )


def _maker(model: Makes) -> Callable[[], PixelModel]:
    return partial(load_model, model) if isinstance(model, str) else model


def _maker_for(
    chosen: Recipe, model: Makes | None, model_args: Mapping[str, Any] | None, seed: int
) -> Callable[[str], PixelModel]:
    """Return what makes the model of a label, before it is trained."""
    if not chosen.networks:
        if model_args:
            raise InputError(
                f"Expected no `model_args` for the recipe {chosen.name}, which takes a loaded model: give them "
                "where it is loaded."
            )
        fresh = _maker(model or chosen.model)
        return lambda label: fresh()

    def make(label: str) -> PixelModel:
        network = chosen.networks[label]
        own = chosen.options[label].training.seed if chosen.trains else seed
        more: dict[str, Any] = {"mean": network.mean, "std": network.std}
        arguments = {**network.arguments, **(model_args or {})}
        if network.weights:
            return load_model(network.spec, weights=chosen.files[network.weights], model_args=arguments, **more)
        if chosen.trains:
            return build(network.spec, arguments, seed=own, **more)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(own)  # of what is not pretrained
            return load_model(network.spec, model_args=arguments, **more)

    return make


def _sample(data: Any, options: Mapping[str, Any] | None) -> ImageData:
    """Return the class-balanced 1,000 of the images that are measured after each epoch."""
    given = {name: value for name, value in (options or {}).items() if value is not None}
    images = data if isinstance(data, ImageData) else load_data(data, **given)
    if images.labels is None:
        raise InputError(f"Expected labels to validate with, but {images.spec} has none.")
    chosen = balanced_subset(images.labels, TREND_IMAGES)
    return replace(images, indices=images.indices[chosen], labels=images.labels[chosen])


def _figures(found: Measurement) -> dict[str, dict[str, Any]]:
    """Return by protocol what a measurement found, and over what."""
    conditions = list(dict.fromkeys((row["shift"], row["severity"]) for row in found.rows))
    similar = {name: one["mean"] for name, one in found.summary.get("ligs", {}).items()}
    figures, families = {}, found.record.get("families", {})
    own = {name: family for name, family in families.items() if family != family_of(name)}
    for protocol, one in found.summary["protocols"].items():
        shifts = {name: shift["accuracy"] for name, shift in one["per_shift"].items()}
        counted = averaged({name: families.get(name, family_of(name)) for name in shifts})
        figures[protocol] = {
            "clean_accuracy": one["clean_accuracy"],
            "mean_of_shifts": fmean(shifts[name] for name in counted) if counted else None,
            "mce": one["mce"],
            "shifts": shifts,
            "ligs": similar if protocol == SOURCE else {},
            "images": one.get("images", found.summary["images"]),
            "conditions": conditions,
            **({"families": own} if own else {}),
        }
    return figures
