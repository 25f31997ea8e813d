"""The experiments on norms, LIGS and corrupted training: functions that return what to train from random weights.

Figures are published ones only where our copies of the papers print them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from statshift.hardening.from_scratch import ADVERSARIAL, FEATURES, IMAGENET, ONE_CYCLE, PAPER, RESNET50, TARGETS
from statshift.hardening.method import Method
from statshift.hardening.methods.corrupted import Corrupted
from statshift.hardening.options import HardenOptions
from statshift.hardening.training import TrainingOptions
from statshift.measuring.ligs import PERTURBATIONS
from statshift.models import NORMS
from statshift.recipes.configuration import Figures, Network, Recipe, fraction
from statshift.shifts.shift import CLEAN

Numbers = Callable[[TrainingOptions, TrainingOptions], TrainingOptions]
"""From the paper's numbers and those of one cycle to those that are trained with."""

ATTACKED = ("pgd-l2:0.25", "pgd-linf:1/255", "cw-l2:0.25", "cw-linf:1/255")
"""The columns of Table 1, all of 20 steps (appendix B.2); the first is Table 2's."""

TREND = (CLEAN, "pgd-l2:0.25:10")
"""What the figures of section 4 show by epoch, on 1,000 images (appendix B.2)."""

FIGURES = ADVERSARIAL
"""For the figures of section 4, standard and adversarial training alike: the axes of Figure 10 end at epoch 150, which
are Table 5's epochs, not Table 4's 300."""

AXIS = replace(PAPER, epochs=13, schedule="constant", decay_epochs=None)
"""As far as the axis of Figure 15 goes, 5,000 steps of 128 CIFAR images: the first 13 of `PAPER`'s epochs."""

ADVERSARIAL_CYCLE = replace(ONE_CYCLE, epochs=20)

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


def as_printed(paper: TrainingOptions, cycle: TrainingOptions) -> TrainingOptions:
    """Return the paper's numbers."""
    return paper


def in_one_cycle(paper: TrainingOptions, cycle: TrainingOptions) -> TrainingOptions:
    """Return those of an afternoon: 30 epochs by one cycle of the learning rate, 20 of adversarial training."""
    return cycle


def _options(
    numbers: Numbers,
    paper: TrainingOptions,
    method: str | Method = "standard",
    *,
    cycle: TrainingOptions = ONE_CYCLE,
    changes: Mapping[str, Any] = {},
) -> HardenOptions:
    return HardenOptions(method, training=replace(numbers(paper, cycle), **changes))


def _recipe(
    name: str,
    title: str,
    source: Mapping[str, str],
    networks: Mapping[str, Network],
    options: Mapping[str, HardenOptions],
    published: Mapping[str, Figures] | None = None,
    **more: Any,
) -> Recipe:
    """Return a recipe on CIFAR-10 that measures accuracy, robust accuracy and LIGS, after each epoch too."""
    common: dict[str, Any] = {
        "data": "cifar10",
        "data_set": "CIFAR-10",
        "shifts": dict.fromkeys(options, (CLEAN, ATTACKED[0])),
        "ligs": ("gaussian",),
        "trend": TREND,
    }
    figures = dict.fromkeys(options) if published is None else published
    return Recipe(name, title, source, options, figures, networks=networks, **(common | more))


def _normed(*names: str) -> dict[str, Network]:
    """Return networks with each norm, as "vgg11-none"."""
    return {f"{name}-{norm}": Network(f"cifar:{name}", {"norm": norm}) for name, norm in product(names, NORMS)}


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


def norms(numbers: Numbers = as_printed) -> Recipe:
    """Each norm, and none, in three networks."""
    networks = _normed("vgg11", "vgg16", "resnet50")
    return _recipe(
        "norms",
        "accuracy and robustness with each norm, CIFAR-10",
        {"ligs": "Tables 1 and 2"},
        networks,
        {label: _options(numbers, RESNET50 if label.startswith("resnet50") else PAPER) for label in networks},
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


def norms_svhn(numbers: Numbers = as_printed) -> Recipe:
    """Each norm, and none, in two networks on SVHN."""
    networks = _normed("vgg11", "vgg16")
    unmirrored = {"augment": "crop"}
    return _recipe(
        "norms-svhn",
        "accuracy and robustness with each norm, SVHN",
        {"ligs": "Tables 1 and 2"},
        networks,
        {label: _options(numbers, PAPER, changes=unmirrored) for label in networks},
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


def norms_imagenet(numbers: Numbers = as_printed) -> Recipe:
    """Each norm, and none, in torchvision's ResNets on ImageNet."""
    networks = {
        f"{name}-{norm}": Network(f"torchvision:{name}@none", {"norm": norm})
        for name, norm in product(("resnet18", "resnet50"), NORMS)
    }
    return _recipe(
        "norms-imagenet",
        "accuracy and robustness with each norm, ImageNet",
        {"ligs": "Tables 1 and 2, appendix D, Figure 11"},
        networks,
        {label: _options(numbers, IMAGENET) for label in networks},
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


def trend(numbers: Numbers = as_printed) -> Recipe:
    """Each norm, and none, in standard and in adversarial training, epoch by epoch."""
    networks, options = {}, {}
    cycles = {"standard": ONE_CYCLE, "adversarial": ADVERSARIAL_CYCLE}
    for norm, (method, cycle) in product(NORMS, cycles.items()):
        label = f"{norm}-{method}"
        networks[label] = Network("cifar:resnet18", {"norm": norm})
        options[label] = _options(numbers, FIGURES, method, cycle=cycle)
    return _recipe(
        "trend",
        "accuracy, robustness and LIGS by epoch, standard and adversarial training",
        {"ligs": "Figures 4 and 10"},
        networks,
        options,
        note="Both train by the numbers of Table 5: the axes of Figure 10 end at its 150 epochs.",
    )


def regulariser(numbers: Numbers = as_printed) -> Recipe:
    """LIGS in the loss."""
    methods = ("standard", "ligs")
    return _recipe(
        "regulariser",
        "LIGS as a regulariser",
        {"ligs": "section 4.1, Figure 5"},
        {method: Network("cifar:resnet18") for method in methods},
        {method: _options(numbers, FIGURES, method) for method in methods},
        note="The paper names neither network nor weight; ResNet-18 with batch norm and 1 - LIGS weighed 1 are ours.",
    )


def perturbations(numbers: Numbers = as_printed) -> Recipe:
    """LIGS under each perturbation, epoch by epoch, with and without batch norm."""
    labels = ("none", "batch")
    return _recipe(
        "perturbations",
        "LIGS under each perturbation, by epoch",
        {"ligs": "section 4.1, Figure 2, and appendix B.4"},
        {norm: Network("cifar:resnet18", {"norm": norm}) for norm in labels},
        {norm: _options(numbers, FIGURES) for norm in labels},
        note="The paper does not name the network; ResNet-18, as of its other figures, is ours.",
        ligs=PERTURBATIONS,
    )


def _on_features(numbers: Numbers, name: str, title: str, where: str, paper: TrainingOptions, note: str) -> Recipe:
    """Return a recipe that trains on a data set that was extracted, with and without batch norm."""
    labels = ("none", "batch")
    return _recipe(
        name,
        title,
        {"ligs": where},
        {norm: Network("cifar:resnet18", {"norm": norm}) for norm in labels},
        {norm: _options(numbers, paper, changes={"augment": paper.augment}) for norm in labels},
        note=f"{note} One set at a time: give it as --data npz:FOLDER/images.npz, and --validation cifar10.",
        data="",
        wants="a data set of `statshift extract` to train on, CIFAR-10 to measure on",
    )


def robust_features(numbers: Numbers = as_printed) -> Recipe:
    """Training on robust, non-robust or random features alone."""
    return _on_features(
        numbers,
        "features",
        "training on robust or non-robust features alone",
        "Table 6, Figures 6 and 12",
        FEATURES,
        "Data sets are those of `statshift extract --kind robust`, nonrobust or random.",
    )


def conflicting_features(numbers: Numbers = as_printed) -> Recipe:
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


def factors(numbers: Numbers = as_printed) -> Recipe:
    """Factors of structure and optimisation, one at a time."""
    structure: dict[str, dict[str, Any]] = {
        "baseline": {},
        **{f"width={width:g}": {"width": width} for width in (0.5, 2.0)},
        **{f"activation={name}": {"activation": name} for name in ("leaky_relu", "selu")},
    }
    networks = {label: Network("cifar:resnet18", arguments) for label, arguments in structure.items()}
    networks |= {f"depth={depth}": Network(f"cifar:resnet{depth}") for depth in (20, 56, 110)}
    plain = {"momentum": TrainingOptions.momentum, "nesterov": TrainingOptions.nesterov}
    changes: dict[str, dict[str, Any]] = {
        **{f"weight_decay={decay:g}": {"weight_decay": decay} for decay in (0.0, 1e-4, 2e-3)},
        **{f"learning_rate={rate:g}": {"learning_rate": rate} for rate in (0.05, 0.5)},
        "optimizer=adam": {"optimizer": "adam", "learning_rate": 1e-3, **plain},
        "optimizer=adagrad": {"optimizer": "adagrad", "learning_rate": 1e-2, **plain},
    }
    networks |= dict.fromkeys(changes, Network("cifar:resnet18"))
    return _recipe(
        "factors",
        "width, depth, activation, weight decay, learning rate and optimiser",
        {"ligs": "section 4.3, Figure 8"},
        networks,
        {label: _options(numbers, FIGURES, changes=changes.get(label, {})) for label in networks},
        fixed={label: tuple(change) for label, change in changes.items()},
        note="Of the figure's values our copy prints the learning rate 0.5, ReLU, Leaky ReLU and SELU, SGD, Adam and "
        "Adagrad; all others are ours. Depths are of CIFAR's ResNets and compare with each other, the rest with the "
        "baseline, a ResNet-18.",
    )


def shortcut(numbers: Numbers = as_printed) -> Recipe:
    """ResNets with and without shortcuts."""
    networks = {}
    for name in ("resnet20", "resnet56", "resnet18"):
        networks[name] = Network(f"cifar:{name}")
        networks[f"{name}-plain"] = Network(f"cifar:{name}", {"shortcut": False})
    return _recipe(
        "shortcut",
        "ResNets with and without shortcuts",
        {"ligs": "section 4.4, Figure 9, and appendix H, Figure 16"},
        networks,
        {label: _options(numbers, FIGURES) for label in networks},
        walk=True,
    )


def fixup(numbers: Numbers = as_printed) -> Recipe:
    """ResNets with batch norm, and with Fixup instead."""
    networks = {}
    for name in ("resnet20", "resnet56"):
        networks[f"{name}-batch"] = Network(f"cifar:{name}", {"norm": "batch"})
        networks[f"{name}-fixup"] = Network(f"cifar:{name}", {"norm": "none", "fixup": True})
    return _recipe(
        "fixup",
        "Fixup instead of batch norm",
        {"ligs": "section 4.4, Figure 9, and appendix H, Figure 17"},
        networks,
        {label: _options(numbers, FIGURES) for label in networks},
        note="Fixup's authors train its scalars at a tenth of the learning rate; here all parameters share one.",
        walk=True,
    )


def landscape(numbers: Numbers = as_printed) -> Recipe:
    """The optimisation landscape with each norm, and with none."""
    networks = _normed("resnet18", "vgg16")
    return _recipe(
        "landscape",
        "the optimisation landscape with each norm",
        {"ligs": "appendix H, Figures 14 and 15"},
        networks,
        {label: _options(numbers, AXIS) for label in networks},
        note="13 epochs, as far as the axis of Figure 15 goes; the landscape is walked after each.",
        walk=True,
    )


def upper_bound(numbers: Numbers = as_printed) -> Recipe:
    """Training under the corruption that is then measured."""
    options = {"standard": _options(numbers, PAPER)}
    options |= {name: _options(numbers, PAPER, Corrupted(name, 3)) for name in CORRUPTED}
    return _recipe(
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


def norms_corruption(numbers: Numbers = as_printed) -> Recipe:
    """Group and instance norm under the common corruptions."""
    printed = {"resnet18": {"group": (80.5, 66.3), "instance": (81.2, 64.2)}}
    printed["resnet50"] = {"group": (82.4, 60.4), "instance": (83.2, 57.6)}
    networks, options, published = {}, {}, {}
    for name, norm in product(printed, ("group", "instance")):
        label = f"{name}-{norm}"
        networks[label] = Network(f"cifar:{name}", {"norm": norm})
        options[label] = _options(numbers, RESNET50 if name == "resnet50" else PAPER)
        accuracy, mce = printed[name][norm]
        published[label] = {"corrupted": fraction(accuracy), "mce": fraction(mce)}
    return _recipe(
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


NORMALIZATION: dict[str, Callable[..., Recipe]] = {
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
    "landscape": landscape,
    "upper-bound": upper_bound,
    "norms-corruption": norms_corruption,
}
"""By name, in the papers' order: the submission on LIGS, then WACV 2021."""
