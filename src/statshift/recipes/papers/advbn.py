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
from statshift.recipes.sources import BASE, COLUMNS, Figures, fraction
from statshift.recipes.training import TrainingRecipe
from statshift.shifts.attacks import FeatureAttack

PAPERS_TRAINING = TrainingOptions()
POSITIONS = ("conv2_3", "conv3_4", "conv4_6")
PLACE = POSITIONS[:1]
STRENGTHS = (1, 2, 4, 6, 8)
GAMMAS = (0.5, 1.0, 1.5, 2.0)
PRETRAINED = "torchvision:resnet50@IMAGENET1K_V1"
"""The model that the papers begin with, where none is given."""


def _percents(*figures: float) -> Figures:
    """Return figures as the papers print them, the last columns of `COLUMNS`, as fractions."""
    return dict(zip(list(COLUMNS)[-len(figures) :], map(fraction, figures), strict=True))


STANDARD_TRAINING = _percents(76.7, 67.2, 24.1, 7.4)
STANDALONE = _percents(72.7, 69.5, 27.9, 11.9)
AUTOAUGMENT = _percents(72.1, 70.1, 26.7, 8.2)
WITH_AUTOAUGMENT = _percents(68.6, 71.1, 30.3, 14.1)


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
    common = {"options": options, "model": PRETRAINED, "data_set": "ImageNet"}
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
        {
            BASE: STANDARD_TRAINING,
            "advbn": STANDALONE,
            "autoaugment": AUTOAUGMENT,
            "advbn-autoaugment": WITH_AUTOAUGMENT,
        },
        "Figures are Table 1's; those of Table 10 are not printed in our copy.",
    )


def methods(training: TrainingOptions = PAPERS_TRAINING, at: Sequence[str] = PLACE) -> Recipe:
    """What AdvBN is compared with, as far as it is fine-tuning here; see `note` for what differs."""
    layer = one_layer("methods", at)
    combined = {f"{label}-advbn": label for label in ("advprop", "cutmix", "augmix")}
    standard, autoaugment, augmix = (replace(training, augment=name) for name in ("standard", "autoaugment", "augmix"))
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
