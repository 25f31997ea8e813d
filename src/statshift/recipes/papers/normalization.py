"""The tables on norms, features and corrupted training, of networks that are trained from random weights.

Figures are published ones only where our copies of the papers print them.
"""

from collections.abc import Callable, Mapping
from itertools import product

from statshift.hardening.from_scratch import FEATURES, IMAGENET, PAPER, RESNET50, TARGETS
from statshift.hardening.methods.corrupted import Corrupted
from statshift.hardening.training import TrainingOptions
from statshift.models import NORMS
from statshift.recipes.networks import Network
from statshift.recipes.papers.training import (
    ATTACKED,
    Numbers,
    as_printed,
    trained_by,
    trained_on_cifar,
    with_each_norm,
)
from statshift.recipes.papers.trends import factors, fixup, landscapes, perturbations, regulariser, shortcut, trend
from statshift.recipes.sources import fraction
from statshift.recipes.training import TrainingRecipe
from statshift.shifts.shift import CLEAN

CORRUPTED = {
    "gaussian_noise": 0.8755,
    "shot_noise": 0.8842,
    "impulse_noise": 0.9146,
    "defocus_blur": 0.9170,
    "glass_blur": 0.8755,
    "motion_blur": 0.9038,
    "zoom_blur": 0.9090,
    "snow": 0.9004,
    "brightness": 0.9159,
    "contrast": 0.9157,
    "pixelate": 0.9070,
    "jpeg_compression": 0.8637,
}
"""Acc_UB by corruption, Table 8."""


def _cells(**rows: str) -> dict[str, dict[str, float]]:
    """Return figures of Table 2 by label, from its rows of accuracy/robustness as printed, None BN IN LN GN."""
    figures = {}
    for network, row in rows.items():
        for norm, cell in zip(("none", "batch", "instance", "layer", "group"), row.split(), strict=True):
            clean, robust = cell.split("/")
            figures[f"{network}-{norm}"] = {CLEAN: fraction(clean), ATTACKED[0]: fraction(robust)}
    return figures


def _with_table_1(figures: dict[str, dict[str, float]], rows: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return Table 2's figures and, of some labels, the last three columns of Table 1."""
    for label, row in rows.items():
        figures[label] |= {name: fraction(cell) for name, cell in zip(ATTACKED[1:], row.split(), strict=True)}
    return figures


TABLE_1 = f"Table 1's other columns are measured with --shifts {','.join((CLEAN, *ATTACKED))}."


def norms(numbers: Numbers = as_printed) -> TrainingRecipe:
    """Each norm, and none, in three networks."""
    networks = with_each_norm("vgg11", "vgg16", "resnet50")
    return trained_on_cifar(
        "norms",
        "accuracy and robustness with each norm, CIFAR-10",
        {"ligs": "Tables 1 and 2"},
        networks,
        {label: trained_by(numbers, RESNET50 if label.startswith("resnet50") else PAPER) for label in networks},
        _with_table_1(
            _cells(
                vgg11="90.06/51.30 92.48/39.31 88.42/31.38 90.54/42.41 90.68/39.43",
                vgg16="91.89/34.02 93.70/28.61 90.73/13.44 92.51/28.92 92.83/26.73",
                resnet50="92.15/29.24 95.60/9.15 93.40/10.80 90.37/7.24 92.61/6.43",
            ),
            {
                "vgg11-none": "70.47 51.75 70.40",
                "vgg11-batch": "63.87 39.04 63.85",
                "vgg16-none": "63.18 34.37 63.46",
                "vgg16-batch": "56.05 24.01 54.58",
                "resnet50-none": "49.33 17.09 49.24",
                "resnet50-batch": "36.37 8.72 36.64",
            },
        ),
        note=TABLE_1,
    )


def norms_svhn(numbers: Numbers = as_printed) -> TrainingRecipe:
    """Each norm, and none, in two networks on SVHN."""
    networks = with_each_norm("vgg11", "vgg16")
    unmirrored = {"augment": "crop"}
    return trained_on_cifar(
        "norms-svhn",
        "accuracy and robustness with each norm, SVHN",
        {"ligs": "Tables 1 and 2"},
        networks,
        {label: trained_by(numbers, PAPER, changes=unmirrored) for label in networks},
        _with_table_1(
            _cells(
                vgg11="95.42/63.91 96.27/51.22 95.89/45.82 96.29/56.77 96.30/56.37",
                vgg16="95.76/62.24 96.43/52.90 96.64/47.43 96.18/59.55 96.21/59.50",
            ),
            {
                "vgg11-none": "83.20 64.64 83.24",
                "vgg11-batch": "77.50 51.13 77.61",
                "vgg16-none": "82.76 62.97 82.92",
                "vgg16-batch": "80.24 52.88 79.93",
            },
        ),
        data="svhn",
        data_set="SVHN",
        note=f"{TABLE_1} The paper does not say how SVHN is augmented; here digits are shifted, not mirrored.",
    )


def norms_imagenet(numbers: Numbers = as_printed) -> TrainingRecipe:
    """Each norm, and none, in torchvision's ResNets on ImageNet."""
    networks = {
        f"{name}-{norm}": Network(f"torchvision:{name}@none", {"norm": norm})
        for name, norm in product(("resnet18", "resnet50"), NORMS)
    }
    return trained_on_cifar(
        "norms-imagenet",
        "accuracy and robustness with each norm, ImageNet",
        {"ligs": "Tables 1 and 2, appendix D, Figure 11"},
        networks,
        {label: trained_by(numbers, IMAGENET) for label in networks},
        _with_table_1(
            _cells(
                resnet18="66.51/30.44 70.50/16.79 63.14/14.29 68.36/19.72 69.02/19.76",
                resnet50="71.60/28.00 76.54/19.50 67.97/13.65 71.08/17.38 74.69/20.34",
            ),
            {
                "resnet18-none": "1.24 30.43 0.93",
                "resnet18-batch": "0.14 17.40 0.07",
                "resnet50-none": "2.17 28.26 0.88",
                "resnet50-batch": "0.53 20.19 0.19",
            },
        ),
        data="",
        data_set="ImageNet",
        note=f"{TABLE_1} Epochs and decay are ours: the paper refers to He et al., who decay by plateau.",
    )


def _on_features(
    numbers: Numbers, name: str, title: str, where: str, paper: TrainingOptions, note: str
) -> TrainingRecipe:
    """Return a recipe that trains on a data set that was extracted, with and without batch norm."""
    labels = ("none", "batch")
    return trained_on_cifar(
        name,
        title,
        {"ligs": where},
        {norm: Network("cifar:resnet18", {"norm": norm}) for norm in labels},
        {norm: trained_by(numbers, paper, changes={"augment": paper.augment}) for norm in labels},
        note=f"{note} One set at a time: give it as --data npz:FOLDER/images.npz, and --validation cifar10.",
        data="",
        wants="a data set of `statshift extract` to train on, CIFAR-10 to measure on",
    )


def robust_features(numbers: Numbers = as_printed) -> TrainingRecipe:
    """Training on robust, non-robust or random features alone."""
    return _on_features(
        numbers,
        "features",
        "training on robust or non-robust features alone",
        "Table 6, Figures 6 and 12",
        FEATURES,
        "Data sets are those of `statshift extract --kind robust`, nonrobust or random.",
    )


def conflicting_features(numbers: Numbers = as_printed) -> TrainingRecipe:
    """Training on features of another class than the picture's."""
    return _on_features(
        numbers,
        "conflict",
        "training on features of another class than the picture",
        "Table 6, Figures 7 and 13",
        TARGETS,
        "Data sets are those of `statshift extract --kind conflict` or deterministic. Accuracy is that for the "
        "picture's class t; for t + 1 see benchmarks/normalization.py.",
    )


def upper_bound(numbers: Numbers = as_printed) -> TrainingRecipe:
    """Training under the corruption that is then measured."""
    options = {"standard": trained_by(numbers, PAPER)}
    options |= {name: trained_by(numbers, PAPER, Corrupted(name, 3)) for name in CORRUPTED}
    return trained_on_cifar(
        "upper-bound",
        "training under the corruption that is measured",
        {"rectification": "section 6.4, Table 8"},
        dict.fromkeys(options, Network("cifar:resnet20")),
        options,
        {name: {"corrupted": accuracy} for name, accuracy in CORRUPTED.items()},
        note="Each is measured under its own corruption, the standard network under all twelve. The paper does not say "
        "how it trains; the numbers are those of its authors' submission on LIGS.",
        shifts={"standard": (CLEAN, *CORRUPTED)} | {name: (CLEAN, name) for name in CORRUPTED},
        severities=(3,),
        ligs=(),
        trend=(),
    )


def norms_corruption(numbers: Numbers = as_printed) -> TrainingRecipe:
    """Group and instance norm under the common corruptions."""
    printed = {"resnet18": {"group": (80.5, 66.3), "instance": (81.2, 64.2)}}
    printed["resnet50"] = {"group": (82.4, 60.4), "instance": (83.2, 57.6)}
    networks, options, published = {}, {}, {}
    for name, norm in product(printed, ("group", "instance")):
        label = f"{name}-{norm}"
        networks[label] = Network(f"cifar:{name}", {"norm": norm})
        options[label] = trained_by(numbers, RESNET50 if name == "resnet50" else PAPER)
        accuracy, mce = printed[name][norm]
        published[label] = {"corrupted": fraction(accuracy), "mce": fraction(mce)}
    return trained_on_cifar(
        "norms-corruption",
        "group and instance norm under the common corruptions",
        {"rectification": "section 6.5, Table 9"},
        networks,
        options,
        published,
        note="The paper does not say how it trains; the numbers are those of its authors' submission on LIGS.",
        shifts={},
        ligs=(),
        trend=(),
    )


NORMALIZATION: dict[str, Callable[..., TrainingRecipe]] = {
    "norms": norms,
    "norms-svhn": norms_svhn,
    "norms-imagenet": norms_imagenet,
    "trend": trend,
    "regulariser": regulariser,
    "perturbations": perturbations,
    "features": robust_features,
    "conflict": conflicting_features,
    "factors": factors,
    "shortcut": shortcut,
    "fixup": fixup,
    "landscape": landscapes,
    "upper-bound": upper_bound,
    "norms-corruption": norms_corruption,
}
"""By name, in the papers' order: the submission on LIGS, then WACV 2021."""
