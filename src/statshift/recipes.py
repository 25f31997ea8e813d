"""The authors' experiments as configurations: a recipe is a function that returns what to train, by label.

`run_recipe` trains and measures them, on the authors' data and network or on any other. Figures are published ones only
where our copies of the papers print them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.utils.data import Dataset

from statshift.attacks import FeatureAttack
from statshift.branches import Branches
from statshift.data import ImageData, check_labels, load_data
from statshift.errors import InputError, unknown
from statshift.evaluation import DTYPES, find_device
from statshift.hardening import AUTHORS_BRANCH, DUAL, HardenOptions, harden
from statshift.measurement import Measurement, measure
from statshift.measurement import Progress as Measured
from statshift.models import PixelModel, load_model, load_weights
from statshift.objectives import Batch, Targets
from statshift.protocols import Protocols
from statshift.shifts import CLEAN, Shifts
from statshift.streams import Draws
from statshift.training import Objective, Step, TrainingOptions

Figures = Mapping[str, float]
Makes = str | Callable[[], PixelModel]
"""A model's spec, or what makes a fresh one."""

BASE = "base"
"""The label of the model as it was before."""

COLUMNS = {"clean": "clean", "mce": "mCE", "instagram": "Instagram", "sketch": "Sketch", "style": "Stylized"}
"""What the papers' tables give: top-1 accuracy on ImageNet and its variants, and mCE on ImageNet-C."""

PAPERS = TrainingOptions()
POSITIONS = ("conv2_3", "conv3_4", "conv4_6")
PLACE = POSITIONS[:1]
STRENGTHS = (1, 2, 4, 6, 8)
GAMMAS = (0.5, 1.0, 1.5, 2.0)
SUBMISSION = "Shu et al., the ICLR 2021 submission"


@dataclass(frozen=True)
class Recipe:
    """What to train, and what the authors found.

    Attributes:
        name: as in `RECIPES`.
        title: what it compares.
        source: paper, table or section.
        options: how to harden, by label.
        published: by label, the figures in [0,1] by the keys of `COLUMNS`; None where the authors have some that our
            copy of the paper does not print. A label that is not here is none of theirs, and one that is not in
            `options` is not trained.
        note: in what ours and theirs differ, or what the paper leaves open.
        begins_with: labels whose training begins with the weights of another label's clean branch.
    """

    name: str
    title: str
    source: str
    options: Mapping[str, HardenOptions] = field(default_factory=dict)
    published: Mapping[str, Figures | None] = field(default_factory=dict)
    note: str = ""
    begins_with: Mapping[str, str] = field(default_factory=dict)


def _percents(*figures: float) -> Figures:
    """Return figures as the papers print them, the last columns of `COLUMNS`, as fractions."""
    return dict(zip(list(COLUMNS)[-len(figures) :], (figure / 100 for figure in figures), strict=True))


STANDARD_TRAINING = _percents(76.7, 67.2, 24.1, 7.4)
STANDALONE = _percents(72.7, 69.5, 27.9, 11.9)
AUTOAUGMENT = _percents(72.1, 70.1, 26.7, 8.2)
WITH_AUTOAUGMENT = _percents(68.6, 71.1, 30.3, 14.1)


def position(training: TrainingOptions = PAPERS, at: Sequence[str] = POSITIONS) -> Recipe:
    """AdvBN after each of some layers."""
    training = replace(training, augment="autoaugment")
    return Recipe(
        "position",
        "where AdvBN is placed",
        "Shu et al., NeurIPS 2021, Table 2",
        {layer: HardenOptions("advbn", layer, training) for layer in at},
        {
            BASE: _percents(76.1, 76.7, 67.2, 24.1, 7.4),
            "conv2_3": _percents(76.5, 68.6, 71.1, 30.3, 14.1),
            "conv3_4": _percents(76.2, 70.0, 70.2, 33.2, 19.5),
            "conv4_6": _percents(75.3, 75.0, 68.5, 26.1, 11.0),
        },
    )


def strength(training: TrainingOptions = PAPERS, at: Sequence[str] = PLACE) -> Recipe:
    """AdvBN with ever more steps of 0.2, each radius m * 0.2 - 0.1."""
    training, layer = replace(training, augment="autoaugment"), _only("strength", at)
    options = {f"m={m}": HardenOptions("advbn", layer, training, FeatureAttack(steps=m)) for m in STRENGTHS}
    return Recipe(
        "strength",
        "how strong the attack is",
        "Shu et al., NeurIPS 2021, Figure 4",
        options,
        dict.fromkeys([BASE, *options]),
        "The figure's values of m are not printed in our copy; these are a choice around the authors' 6.",
    )


def additive(training: TrainingOptions = PAPERS, at: Sequence[str] = PLACE) -> Recipe:
    """AdvBN with factors of the statistics, and with shifts of them."""
    training, layer = replace(training, augment="autoaugment"), _only("additive", at)
    kinds = ("multiplicative", "additive")
    return Recipe(
        "additive",
        "factors of the statistics, or shifts",
        f"{SUBMISSION}, appendix E, Table 10",
        {kind: HardenOptions("advbn", layer, training, FeatureAttack(kind=kind)) for kind in kinds},
        dict.fromkeys([BASE, *kinds]),
        "Both with the same numbers, as the authors'.",
    )


def gamma(training: TrainingOptions = PAPERS, at: Sequence[str] = PLACE) -> Recipe:
    """AdvBN with weights of the adversarial loss."""
    training, layer = replace(training, augment="autoaugment"), _only("gamma", at)
    options = {f"gamma={one:g}": HardenOptions("advbn", layer, replace(training, gamma=one)) for one in GAMMAS}
    return Recipe(
        "gamma",
        "the weight of the adversarial loss",
        f"{SUBMISSION}, appendix E, Table 10",
        options,
        dict.fromkeys([BASE, *options]),
    )


def augmentation(training: TrainingOptions = PAPERS, at: Sequence[str] = PLACE) -> Recipe:
    """What AdvBN gains and what AutoAugment gains: each alone, and both."""
    layer = _only("augmentation", at)
    return Recipe(
        "augmentation",
        "AdvBN and AutoAugment, each alone and both",
        f"{SUBMISSION}, section 5.3 and appendix E, Table 10; figures: NeurIPS 2021, Table 1",
        {
            "advbn": HardenOptions("advbn", layer, replace(training, augment="standard")),
            "autoaugment": HardenOptions("standard", layer, replace(training, augment="autoaugment")),
            "advbn-autoaugment": HardenOptions("advbn", layer, replace(training, augment="autoaugment")),
        },
        {
            BASE: STANDARD_TRAINING,
            "advbn": STANDALONE,
            "autoaugment": AUTOAUGMENT,
            "advbn-autoaugment": WITH_AUTOAUGMENT,
        },
        "Figures are Table 1's; those of Table 10 are not printed in our copy.",
    )


def methods(training: TrainingOptions = PAPERS, at: Sequence[str] = PLACE) -> Recipe:
    """What AdvBN is compared with, as far as it is fine-tuning here; see `note` for what differs."""
    layer = _only("methods", at)
    combined = {f"{label}-advbn": label for label in ("advprop", "cutmix", "augmix")}
    standard, autoaugment, augmix = (replace(training, augment=name) for name in ("standard", "autoaugment", "augmix"))
    return Recipe(
        "methods",
        "AdvBN and the methods it is compared with",
        "Shu et al., NeurIPS 2021, Table 1",
        {
            "standard": HardenOptions("standard", layer, standard),
            "pixel-at": HardenOptions("pixel-at", training=standard),
            "moex": HardenOptions("moex", layer, standard),
            "advbn": HardenOptions("advbn", layer, standard),
            "advprop": HardenOptions("advprop", training=standard),
            "cutmix": HardenOptions("cutmix", training=standard),
            "autoaugment": HardenOptions("standard", layer, autoaugment),
            "advbn-autoaugment": HardenOptions("advbn", layer, autoaugment),
            "augmix": HardenOptions("standard", training=augmix),
        }
        | {label: HardenOptions("advbn", layer, standard) for label in combined},
        {
            BASE: STANDARD_TRAINING,
            "pixel-at": _percents(73.7, 68.2, 25.3, 9.1),
            "moex": _percents(74.8, 70.0, 24.0, 5.0),
            "advbn": STANDALONE,
            "advprop": _percents(70.7, 69.2, 18.0, 9.0),
            "cutmix": _percents(74.7, 70.3, 23.8, 5.3),
            "autoaugment": AUTOAUGMENT,
            "advbn-autoaugment": WITH_AUTOAUGMENT,
            "augmix": _percents(68.4, 70.4, 28.5, 11.2),
            "advprop-advbn": _percents(69.5, 69.3, 28.7, 12.6),
            "cutmix-advbn": _percents(72.1, 70.9, 27.2, 8.2),
            "augmix-advbn": _percents(64.6, 71.1, 28.7, 13.6),
        },
        "The published MoEx (with CutMix), CutMix and AugMix are their authors' models, AdvProp another "
        "implementation's; here each fine-tunes. Pixel attacks, CutMix and AugMix train all of the network, the others "
        "what is behind the cut.",
        combined,
    )


def branches(training: TrainingOptions = PAPERS, at: Sequence[str] = PLACE) -> Recipe:
    """The branch that the authors evaluate on each data set, `authors_branch`; nothing is trained."""
    return Recipe("branches", "the authors' choice of branch by data set", f"{SUBMISSION}, appendix C")


def cost(training: TrainingOptions = PAPERS, at: Sequence[str] = PLACE) -> Recipe:
    """The methods whose steps `step_costs` times, all behind the same cut; nothing is trained."""
    layer = _only("cost", at)
    names = ("standard", "moex", "advbn", "pixel-at", "advprop")
    return Recipe(
        "cost",
        "time of a step over standard fine-tuning's",
        f"{SUBMISSION}, appendix B, Table 8",
        {name: HardenOptions(name, layer, replace(training, augment="standard")) for name in names},
        dict.fromkeys(names),
        "All behind the same cut.",
    )


RECIPES: dict[str, Callable[..., Recipe]] = {
    "methods": methods,
    "position": position,
    "strength": strength,
    "cost": cost,
    "branches": branches,
    "augmentation": augmentation,
    "additive": additive,
    "gamma": gamma,
}
"""Recipes by name, in the papers' order: NeurIPS 2021, then the submission's appendices."""

NOT_TRAINED = {"branches": "see `authors_branch`", "cost": "see `step_costs`"}


def recipe(name: str, training: TrainingOptions | None = None, at: Sequence[str] | None = None) -> Recipe:
    """Return a recipe with the papers' numbers, or upon other training options and layers.

    Args:
        name: one of `RECIPES`.
        training: epochs, batch and so on; augmentation and gamma are the recipe's.
        at: layers, as `statshift layers` lists them; several for "position", else one.

    Raises:
        InputError: an unknown name, or not as many layers as it takes.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    if at is not None and not at:
        raise InputError(f"Expected a layer for the recipe {name}; `statshift layers` lists them.")
    given = {} if at is None else {"at": tuple(at)}
    return RECIPES[name](training or PAPERS, **given)


def _only(name: str, at: Sequence[str]) -> str:
    if len(at) != 1:
        raise InputError(f"Expected one layer for the recipe {name}, but got {', '.join(at)}: position takes several.")
    return at[0]


def authors_branch(data_set: str) -> str:
    """Return the branch, "clean" or "adv", that the authors evaluate on a data set; never a silent default.

    Raises:
        InputError: a data set for which they name none.

    Reference:
        Shu et al., the ICLR 2021 submission, appendix C.
    """
    if data_set not in AUTHORS_BRANCH:
        raise unknown("data set", data_set, AUTHORS_BRANCH)
    return AUTHORS_BRANCH[data_set]


def run_recipe(
    name: str,
    model: Makes,
    data: str | Dataset[Any] | ImageData,
    out: str | Path,
    *,
    validation: str | Dataset[Any] | ImageData,
    training: TrainingOptions | None = None,
    at: Sequence[str] | None = None,
    shifts: Shifts = (CLEAN, "common"),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    protocols: Protocols = (),
    device: str = "auto",
    compiled: bool = False,
    data_options: Mapping[str, Any] | None = None,
    training_progress: Callable[[str], Callable[[Step], None]] | None = None,
    measuring_progress: Callable[[str], Callable[[Measured], None]] | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Train each of a recipe's configurations from a fresh model, and measure every branch of the result.

    Training goes into `out`/LABEL and measurements into `out`/LABEL/measured-BRANCH; the same call goes on where an
    earlier one stopped. The model as it was is measured too, under the label "base".

    Args:
        name: one of `RECIPES` that trains.
        model: a spec, or what makes a fresh model.
        data: to train on, with labels.
        out: folder, made if need be.
        validation: to measure on, with labels.
        training: in the papers' place; see `recipe`.
        at: layers, in the papers' place.
        shifts: to measure under.
        severities: of these shifts.
        protocols: to rectify by, beside the source; see `measure`.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        compiled: train through `torch.compile`.
        data_options: further arguments of `load_data`, where data are not loaded, for both data sets.
        training_progress: given a label, returns what is called after each step.
        measuring_progress: given a label and branch, returns what is called after each batch.

    Returns:
        By label and branch ("clean, auto" where rectified by the protocol auto): `clean_accuracy`; `mean_of_shifts`,
        accuracy over all shifts measured; and `mce`, as fractions, None where not measured or not defined; `images`
        and `conditions`, what they are over.

    Raises:
        InputError: something that cannot be used, told in one line.
    """
    chosen = recipe(name, training, at)
    if name in NOT_TRAINED:
        raise InputError(f"The recipe {name} trains nothing: {NOT_TRAINED[name]}.")
    make, folder = _maker(model), Path(out)

    def measured(network: Any, label: str, branch: str) -> dict[str, dict[str, Any]]:
        found = measure(
            network,
            validation,
            shifts=shifts,
            severities=severities,
            protocols=protocols,
            out=folder / label / f"measured-{branch}",
            device=device,
            data_options=data_options,
            progress=measuring_progress and measuring_progress(f"{label}, {branch}"),
        )
        return {branch if one == "source" else f"{branch}, {one}": figures for one, figures in _figures(found).items()}

    results = {BASE: measured(make(), BASE, "clean")}
    for label, options in chosen.options.items():
        begun = make()
        if label in chosen.begins_with:
            load_weights(begun.network, folder / chosen.begins_with[label] / "clean.safetensors")
        done = harden(
            begun,
            data,
            options,
            out=folder / label,
            device=device,
            compiled=compiled,
            data_options=data_options,
            progress=training_progress and training_progress(label),
        )
        results[label] = {}
        for branch, one in done.branches.splits.items():
            results[label] |= measured(one.model, label, branch)
    return results


def _maker(model: Makes) -> Callable[[], PixelModel]:
    return partial(load_model, model) if isinstance(model, str) else model


def _figures(found: Measurement) -> dict[str, dict[str, Any]]:
    """Return by protocol what a measurement found, and over what."""
    conditions = list(dict.fromkeys((row["shift"], row["severity"]) for row in found.rows))
    return {
        protocol: {
            "clean_accuracy": one["clean_accuracy"],
            "mean_of_shifts": fmean(s["accuracy"] for s in one["per_shift"].values()) if one["per_shift"] else None,
            "mce": one["mce"],
            "images": one.get("images", found.summary["images"]),
            "conditions": conditions,
        }
        for protocol, one in found.summary["protocols"].items()
    }


def step_costs(
    model: Makes,
    data: str | Dataset[Any] | ImageData,
    options: Mapping[str, HardenOptions],
    *,
    repeats: int = 5,
    device: str = "auto",
    trace: bool = True,
    data_options: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, float]]:
    """Time one step of each method, without optimiser and loading: forward, attack and backward on one batch.

    After a step each to warm up, the methods take turns; what counts is the least of each one's times.

    Args:
        model: a spec, or what makes a fresh model.
        data: with labels; the first batch is used as it is, unaugmented.
        options: methods by label; ratios are to the first.
        repeats: turns, at least 1.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        trace: as in `harden`.
        data_options: further arguments of `load_data`, where `data` is not loaded.

    Returns:
        By label: `seconds`; `ratio` to the first label's; `images` in the batch.

    Raises:
        InputError: no turn, no method, or data without labels.
    """
    if repeats < 1 or not options:
        raise InputError(f"Expected at least one method and one repeat, but got {len(options)} and {repeats}.")
    where = find_device(device)
    gpu = where.type == "cuda"
    make = _maker(model)
    steps: dict[str, Callable[[], None]] = {}
    counts: dict[str, int] = {}
    for label, one in options.items():
        fresh = make().to(where)
        if not isinstance(data, ImageData):
            data = load_data(data, **(fresh.loading_options | dict(data_options or {})))
        steps[label], counts[label] = _step_of(fresh, data, one, trace)
    seconds = dict.fromkeys(steps, float("inf"))
    with torch.random.fork_rng([where] if gpu else []):
        for turn in range(repeats + 1):
            for label, step in steps.items():
                if gpu:
                    torch.cuda.synchronize(where)
                started = time.perf_counter()
                step()
                if gpu:
                    torch.cuda.synchronize(where)
                if turn:
                    seconds[label] = min(seconds[label], time.perf_counter() - started)
    reference = next(iter(seconds.values()))
    return {
        label: {"seconds": one, "ratio": one / reference, "images": counts[label]} for label, one in seconds.items()
    }


def _step_of(model: PixelModel, data: ImageData, options: HardenOptions, trace: bool) -> tuple[Callable[[], None], int]:
    """Return what takes a step on the first images, which leaves no gradient, and how many these are."""
    training, where = options.training, model.mean.device
    size = min(training.batch_size, len(data))
    pixels, positions = next(data.batches(size))
    if data.labels is None:
        raise InputError(f"Expected labels to train on, but {data.spec} has none.")
    check_labels(data, model.num_classes)
    images = pixels.to(where).float() / 255
    assert options.at is not None
    found = Branches(model, options.at, images[:2], dual=options.method in DUAL, trace=trace)
    if training.channels_last:
        found.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    targets = Targets(torch.from_numpy(data.labels[positions]).to(where))
    draws = Draws(training.seed, torch.from_numpy(data.indices[positions]), "step cost")
    batch = Batch(images, targets, draws, DTYPES[training.dtype])
    objective = Objective(found.train(), options.steps_of)

    def step() -> None:
        torch.stack(list(objective(batch).values())).sum().backward()  # type: ignore[no-untyped-call]
        found.zero_grad()

    return step, size
