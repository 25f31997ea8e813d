"""The experiments on AdvBN: a recipe is a function that returns what to fine-tune, by label.

Figures are published ones only where our copies of the papers print them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from statshift._core.errors import InputError
from statshift.hardening.methods.advbn import AdvBN
from statshift.hardening.options import HardenOptions
from statshift.hardening.training import TrainingOptions
from statshift.recipes.analysing import AnalysisRecipe
from statshift.recipes.configuration import Recipe
from statshift.recipes.papers.variants import ADVBN_COLUMNS, PRETRAINED, VARIANTS_TABLE
from statshift.recipes.sources import BASE, STYLE_SETS, Figures, fraction
from statshift.recipes.training import TrainingRecipe
from statshift.shifts.attacks import FeatureAttack

PAPERS_TRAINING = TrainingOptions()
POSITIONS = ("conv2_3", "conv3_4", "conv4_6")
PLACE = POSITIONS[:1]
STRENGTHS = (1, 2, 4, 6, 8)
GAMMAS = (0.5, 1.0, 1.5, 2.0)


def _percents(*figures: float) -> Figures:
    """Return figures as the papers print them, in the last columns of Table 2, as fractions."""
    return dict(zip(("clean", *ADVBN_COLUMNS)[-len(figures) :], map(fraction, figures), strict=True))


def _recipe(
    name: str,
    title: str,
    source: Mapping[str, str],
    options: Mapping[str, HardenOptions],
    published: Mapping[str, Figures | None],
    note: str = "",
    **more: Any,
) -> TrainingRecipe:
    """Return a recipe that fine-tunes the papers' ResNet-50 on ImageNet."""
    common = {"options": options, "model": PRETRAINED, "data_set": "ImageNet", "sets": STYLE_SETS}
    return TrainingRecipe(name, title, source, published, note, **(common | more))


def position(training: TrainingOptions = PAPERS_TRAINING, at: Sequence[str] = POSITIONS) -> Recipe:
    """AdvBN after each of some layers."""
    training = replace(training, augment="autoaugment")
    return _recipe(
        "position",
        "where AdvBN is placed",
        {"advbn": "Table 2", "submission": "Table 4"},
        {layer: HardenOptions("advbn", layer, training) for layer in at},
        {
            BASE: _percents(76.1, 76.7, 67.2, 24.1, 7.4),
            "conv2_3": _percents(76.5, 68.6, 71.1, 30.3, 14.1),
            "conv3_4": _percents(76.2, 70.0, 70.2, 33.2, 19.5),
            "conv4_6": _percents(75.3, 75.0, 68.5, 26.1, 11.0),
        },
    )


def strength(training: TrainingOptions = PAPERS_TRAINING, at: Sequence[str] = PLACE) -> Recipe:
    """AdvBN with ever more steps of 0.2, each radius m * 0.2 - 0.1."""
    training, layer = replace(training, augment="autoaugment"), one_layer("strength", at)
    options = {f"m={m}": HardenOptions(AdvBN(FeatureAttack(steps=m)), layer, training) for m in STRENGTHS}
    return _recipe(
        "strength",
        "how strong the attack is",
        {"advbn": "Figure 4", "submission": "Table 4"},
        options,
        dict.fromkeys([BASE, *options]),
        "The figure's values of m are not printed in our copy; these are a choice around the authors' 6.",
    )


def additive(training: TrainingOptions = PAPERS_TRAINING, at: Sequence[str] = PLACE) -> Recipe:
    """AdvBN with factors of the statistics, and with shifts of them."""
    training, layer = replace(training, augment="autoaugment"), one_layer("additive", at)
    kinds = ("multiplicative", "additive")
    return _recipe(
        "additive",
        "factors of the statistics, or shifts",
        {"submission": "appendix E, Table 10"},
        {kind: HardenOptions(AdvBN(FeatureAttack(form=kind)), layer, training) for kind in kinds},
        dict.fromkeys([BASE, *kinds]),
        "Both with the same numbers, as the authors'.",
    )


def gamma(training: TrainingOptions = PAPERS_TRAINING, at: Sequence[str] = PLACE) -> Recipe:
    """AdvBN with weights of the adversarial loss."""
    training, layer = replace(training, augment="autoaugment"), one_layer("gamma", at)
    options = {f"gamma={one:g}": HardenOptions("advbn", layer, replace(training, gamma=one)) for one in GAMMAS}
    return _recipe(
        "gamma",
        "the weight of the adversarial loss",
        {"submission": "appendix E, Table 10"},
        options,
        dict.fromkeys([BASE, *options]),
        fixed=dict.fromkeys(options, ("gamma",)),
    )


def augmentation(training: TrainingOptions = PAPERS_TRAINING, at: Sequence[str] = PLACE) -> Recipe:
    """What AdvBN gains and what AutoAugment gains: each alone, and both."""
    layer = one_layer("augmentation", at)
    return _recipe(
        "augmentation",
        "AdvBN and AutoAugment, each alone and both",
        {"submission": "section 5.3, Table 4, and appendix E, Table 10", "advbn": "Table 1"},
        {
            "advbn": HardenOptions("advbn", layer, replace(training, augment="standard")),
            "autoaugment": HardenOptions("standard", layer, replace(training, augment="autoaugment")),
            "advbn-autoaugment": HardenOptions("advbn", layer, replace(training, augment="autoaugment")),
        },
        {label: VARIANTS_TABLE[label] for label in (BASE, "advbn", "autoaugment", "advbn-autoaugment")},
        "Figures are Table 1's; those of Table 10 are not printed in our copy.",
    )


def methods(training: TrainingOptions = PAPERS_TRAINING, at: Sequence[str] = PLACE) -> Recipe:
    """What AdvBN is compared with, as far as it is fine-tuning here; see `note` for what differs."""
    layer = one_layer("methods", at)
    combined = {f"{label}-advbn": label for label in ("advprop", "cutmix", "fast-autoaugment", "augmix")}
    names = ("standard", "autoaugment", "fast-autoaugment", "augmix")
    standard, autoaugment, fast, augmix = (replace(training, augment=name) for name in names)
    return _recipe(
        "methods",
        "AdvBN and the methods it is compared with",
        {"advbn": "Table 1", "submission": "Tables 1 and 9"},
        {
            "standard": HardenOptions("standard", layer, standard),
            "pixel-at": HardenOptions("pixel-at", training=standard),
            "moex": HardenOptions("moex", layer, standard),
            "advbn": HardenOptions("advbn", layer, standard),
            "advprop": HardenOptions("advprop", training=standard),
            "cutmix": HardenOptions("cutmix", training=standard),
            "autoaugment": HardenOptions("standard", layer, autoaugment),
            "advbn-autoaugment": HardenOptions("advbn", layer, autoaugment),
            "fast-autoaugment": HardenOptions("standard", training=fast),
            "augmix": HardenOptions("standard", training=augmix),
        }
        | {label: HardenOptions("advbn", layer, standard) for label in combined},
        VARIANTS_TABLE,
        "The published MoEx (with CutMix), CutMix, Fast AutoAugment and AugMix are their authors' models, AdvProp "
        "another implementation's; here each fine-tunes. Pixel attacks, CutMix, Fast AutoAugment and AugMix train all "
        "of the network, the others what is behind the cut. What trains the row sin has a recipe of its own, sin.",
        begins_with=combined,
    )


def branches(training: TrainingOptions = PAPERS_TRAINING, at: Sequence[str] = PLACE) -> Recipe:
    """The branch that the authors evaluate on each data set, `authors_branch`; nothing is trained."""
    source = {"submission": "appendix C"}
    return AnalysisRecipe("branches", "the authors' choice of branch by data set", source, analysis="branches")


def step_cost(training: TrainingOptions = PAPERS_TRAINING, at: Sequence[str] = PLACE) -> Recipe:
    """The methods whose steps `step_costs` times, all behind the same cut; nothing is trained."""
    layer = one_layer("cost", at)
    names = ("standard", "moex", "advbn", "pixel-at", "advprop")
    return AnalysisRecipe(
        "cost",
        "time of a step over standard fine-tuning's",
        {"submission": "appendix B, Table 8"},
        dict.fromkeys(names),
        "All behind the same cut.",
        data_set="ImageNet",
        analysis="costs",
        options={name: HardenOptions(name, layer, replace(training, augment="standard")) for name in names},
        model=PRETRAINED,
    )


def architectures(training: TrainingOptions = PAPERS_TRAINING, at: Sequence[str] = PLACE) -> Recipe:
    """AdvBN, and AdvProp beside it, on another architecture that is given."""
    layer, autoaugment = one_layer("architectures", at), replace(training, augment="autoaugment")
    options = {
        "advbn-autoaugment": HardenOptions("advbn", layer, autoaugment),
        "advprop": HardenOptions("advprop", training=replace(training, augment="standard")),
    }
    return _recipe(
        "architectures",
        "AdvBN and AdvProp on DenseNet, EfficientNet or another",
        {"submission": "Tables 2 and 3"},
        options,
        dict.fromkeys([BASE, *options]),
        "The paper does not say after which layer: choose the end of the second stage by `statshift layers`. Its "
        "AdvProp trains from random weights, ours fine-tunes.",
        model="timm:efficientnet_b0",
    )


HARDENING: dict[str, Callable[..., Recipe]] = {
    "methods": methods,
    "position": position,
    "strength": strength,
    "cost": step_cost,
    "branches": branches,
    "augmentation": augmentation,
    "additive": additive,
    "gamma": gamma,
    "architectures": architectures,
}
"""By name, in the papers' order: NeurIPS 2021, then the submission's appendices."""


def one_layer(name: str, at: Sequence[str]) -> str:
    """Return the layer of a recipe that takes one.

    Raises:
        InputError: there are more, or none.
    """
    if len(at) != 1:
        raise InputError(f"Expected one layer for the recipe {name}, but got {', '.join(at)}: position takes several.")
    return at[0]
