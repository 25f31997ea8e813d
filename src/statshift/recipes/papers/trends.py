"""The figures on norms and LIGS by epoch, of networks that are trained from random weights.

Figures are published ones only where our copy of the paper prints them.
"""

from dataclasses import replace
from itertools import product
from typing import Any

from statshift.hardening.from_scratch import ADVERSARIAL, ONE_CYCLE, PAPER
from statshift.hardening.training import TrainingOptions
from statshift.measuring.ligs import PERTURBATIONS
from statshift.models import NORMS
from statshift.recipes.networks import Network
from statshift.recipes.papers.training import Numbers, as_printed, trained_by, trained_on_cifar, with_each_norm
from statshift.recipes.training import TrainingRecipe

FIGURES_TRAINING = ADVERSARIAL
"""For the figures of section 4, standard and adversarial training alike: the axes of Figure 10 end at epoch 150, which
are Table 5's epochs, not Table 4's 300."""


AXIS = replace(PAPER, epochs=13, schedule="constant", decay_epochs=None)
"""As far as the axis of Figure 15 goes, 5,000 steps of 128 CIFAR images: the first 13 of `PAPER`'s epochs."""


ADVERSARIAL_CYCLE = replace(ONE_CYCLE, epochs=20)


def trend(numbers: Numbers = as_printed) -> TrainingRecipe:
    """Each norm, and none, in standard and in adversarial training, epoch by epoch."""
    networks, options = {}, {}
    cycles = {"standard": ONE_CYCLE, "adversarial": ADVERSARIAL_CYCLE}
    for norm, (method, cycle) in product(NORMS, cycles.items()):
        label = f"{norm}-{method}"
        networks[label] = Network("cifar:resnet18", {"norm": norm})
        options[label] = trained_by(numbers, FIGURES_TRAINING, method, cycle=cycle)
    return trained_on_cifar(
        "trend",
        "accuracy, robustness and LIGS by epoch, standard and adversarial training",
        {"ligs": "Figures 4 and 10"},
        networks,
        options,
        note="Both train by the numbers of Table 5: the axes of Figure 10 end at its 150 epochs.",
    )


def regulariser(numbers: Numbers = as_printed) -> TrainingRecipe:
    """LIGS in the loss."""
    methods = ("standard", "ligs")
    return trained_on_cifar(
        "regulariser",
        "LIGS as a regulariser",
        {"ligs": "section 4.1, Figure 5"},
        {method: Network("cifar:resnet18") for method in methods},
        {method: trained_by(numbers, FIGURES_TRAINING, method) for method in methods},
        note="The paper names neither network nor weight; ResNet-18 with batch norm and 1 - LIGS weighed 1 are ours.",
    )


def perturbations(numbers: Numbers = as_printed) -> TrainingRecipe:
    """LIGS under each perturbation, epoch by epoch, with and without batch norm."""
    labels = ("none", "batch")
    return trained_on_cifar(
        "perturbations",
        "LIGS under each perturbation, by epoch",
        {"ligs": "section 4.1, Figure 2, and appendix B.4"},
        {norm: Network("cifar:resnet18", {"norm": norm}) for norm in labels},
        {norm: trained_by(numbers, FIGURES_TRAINING) for norm in labels},
        note="The paper does not name the network; ResNet-18, as of its other figures, is ours.",
        ligs=PERTURBATIONS,
    )


def factors(numbers: Numbers = as_printed) -> TrainingRecipe:
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
    return trained_on_cifar(
        "factors",
        "width, depth, activation, weight decay, learning rate and optimiser",
        {"ligs": "section 4.3, Figure 8"},
        networks,
        {label: trained_by(numbers, FIGURES_TRAINING, changes=changes.get(label, {})) for label in networks},
        fixed={label: tuple(change) for label, change in changes.items()},
        note="Of the figure's values our copy prints the learning rate 0.5, ReLU, Leaky ReLU and SELU, SGD, Adam and "
        "Adagrad; all others are ours. Depths are of CIFAR's ResNets and compare with each other, the rest with the "
        "baseline, a ResNet-18.",
    )


def shortcut(numbers: Numbers = as_printed) -> TrainingRecipe:
    """ResNets with and without shortcuts."""
    networks = {}
    for name in ("resnet20", "resnet56", "resnet18"):
        networks[name] = Network(f"cifar:{name}")
        networks[f"{name}-plain"] = Network(f"cifar:{name}", {"shortcut": False})
    return trained_on_cifar(
        "shortcut",
        "ResNets with and without shortcuts",
        {"ligs": "section 4.4, Figure 9, and appendix H, Figure 16"},
        networks,
        {label: trained_by(numbers, FIGURES_TRAINING) for label in networks},
        walk=True,
    )


def fixup(numbers: Numbers = as_printed) -> TrainingRecipe:
    """ResNets with batch norm, and with Fixup instead."""
    networks = {}
    for name in ("resnet20", "resnet56"):
        networks[f"{name}-batch"] = Network(f"cifar:{name}", {"norm": "batch"})
        networks[f"{name}-fixup"] = Network(f"cifar:{name}", {"norm": "none", "fixup": True})
    return trained_on_cifar(
        "fixup",
        "Fixup instead of batch norm",
        {"ligs": "section 4.4, Figure 9, and appendix H, Figure 17"},
        networks,
        {label: trained_by(numbers, FIGURES_TRAINING) for label in networks},
        note="Fixup's authors train its scalars at a tenth of the learning rate; here all parameters share one.",
        walk=True,
    )


def landscapes(numbers: Numbers = as_printed) -> TrainingRecipe:
    """The optimisation landscape with each norm, and with none."""
    networks = with_each_norm("resnet18", "vgg16")
    return trained_on_cifar(
        "landscape",
        "the optimisation landscape with each norm",
        {"ligs": "appendix H, Figures 14 and 15"},
        networks,
        {label: trained_by(numbers, AXIS) for label in networks},
        note="13 epochs, as far as the axis of Figure 15 goes; the landscape is walked after each.",
        walk=True,
    )
