"""What the rectification paper takes apart: mean and variance, thirds of the layers, counts of images, and features.

Figures are published ones only where our copy of the paper prints them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from statshift.measuring.analyses import SAMPLES
from statshift.norms.selection import THIRDS
from statshift.recipes.analysing import AnalysisRecipe
from statshift.recipes.configuration import Recipe
from statshift.recipes.networks import Network
from statshift.recipes.papers.rectifying import (
    AFTER,
    AS_THE_PAPER,
    NOISE,
    PROTOCOL,
    SPECS,
    SUPPLIED,
    adapted_to,
    measured,
    pretrained,
    printed_row,
    supplied,
)

STATISTICS = ("var", "mean")


def parts_cifar10() -> Recipe:
    """The mean or the variance alone, CIFAR-10-C."""
    rows = {"resnet20": "79.3 69.3 69.9 102.6", "resnet56": "81.6 71.7 62.7 94.7"}
    return _parts("parts-cifar10", "CIFAR-10-C", supplied(rows), rows, note=SUPPLIED)


def parts_cifar100() -> Recipe:
    """The mean or the variance alone, CIFAR-100-C."""
    rows = {"resnet20": "47.3 38.9 82.9 96.2", "resnet56": "52.4 44.2 75.0 87.9"}
    networks = supplied(rows, num_classes=100)
    return _parts("parts-cifar100", "CIFAR-100-C", networks, rows, note=SUPPLIED, data_set="CIFAR-100")


def parts_imagenet() -> Recipe:
    """The mean or the variance alone, ImageNet-C."""
    rows = {"resnet18": "23.4 29.0 96.6 89.2", "resnet50": "34.2 37.2 83.4 78.9"}
    networks = {name: pretrained(name) for name in rows}
    return _parts("parts-imagenet", "ImageNet-C", networks, rows, data_set="ImageNet")


def thirds() -> Recipe:
    """Each third of the layers alone."""
    rows = {
        "resnet20": "71.7 95.7 71.5 94.7 67.2 109.3",
        "resnet56": "80.9 64.8 73.1 89.5 70.9 97.9",
        "resnet18": "83.1 57.2 77.2 76.3 73.5 89.2",
        "resnet50": "83.7 55.5 75.6 82.0 74.5 85.4",
        "vgg19": "82.4 59.3 72.5 91.2 72.8 90.3",
        "wrn28_10": "82.1 61.6 83.8 54.2 79.1 70.7",
        "resnext29": "83.8 56.2 78.3 74.5 76.6 79.8",
        "densenet": "86.0 48.2 79.2 71.5 76.9 79.9",
    }
    networks, published, adaptation = {}, {}, {}
    for name, row in rows.items():
        cells = row.split()
        for number, third in enumerate(THIRDS):
            label = f"{name}-{third}"
            networks[label] = Network(f"cifar:{name}", weights=name)
            published[label] = printed_row(AFTER, " ".join(cells[2 * number : 2 * number + 2]))
            adaptation[label] = adapted_to(where=third)
    return measured(
        "thirds", "each third of the layers alone", "Table 7", networks, published, adaptation, note=SUPPLIED
    )


def parts_by_corruption() -> Recipe:
    """Mean and variance, each alone and both, corruption by corruption."""
    labels = ("both", *STATISTICS)
    return measured(
        "parts-by-corruption",
        "mean and variance alone and both, by corruption",
        "Figure 5",
        dict.fromkeys(labels, Network("cifar:resnet20", weights="resnet20")),
        dict.fromkeys(labels),
        {label: adapted_to(statistics=label) for label in labels},
        note=SUPPLIED,
        by_shift=True,
    )


def samples() -> Recipe:
    """A ResNet-18 by the number of images adapted on."""
    counts = {f"n={count}": count for count in SAMPLES}
    return measured(
        "samples",
        "how many images it takes",
        "Figure 4",
        dict.fromkeys(counts, Network("cifar:resnet18", weights="resnet18")),
        dict.fromkeys(counts),
        {label: adapted_to(samples=count) for label, count in counts.items()},
        note=SUPPLIED,
        shifts=dict.fromkeys(counts, (NOISE,)),
        fixed=dict.fromkeys(counts, ("samples",)),
    )


def style_distances() -> Recipe:
    """How far batch statistics lie apart, of clean and of noisy images."""
    return _analysis(
        "distances",
        "distance of batch statistics, of one style and of two",
        "Figure 2",
        {"resnet50": pretrained("resnet50")},
        "distances",
        (3,),
        note="The paper chooses a layer at random and names no severity; the middle layer and severity 3 are ours.",
        data_set="ImageNet",
    )


def feature_similarities() -> Recipe:
    """How like the clean images' features are, before and after."""
    return _analysis(
        "similarities",
        "cosine similarity of features, before and after",
        "Figure 3",
        {"resnet50": pretrained("resnet50")},
        "similarities",
        (1, 2, 3, 4, 5),
        note="The paper does not say at which layer; what comes into the last linear layer is ours.",
        data_set="ImageNet",
        adaptation={"resnet50": AS_THE_PAPER},
        protocols=PROTOCOL,
    )


def embedding() -> Recipe:
    """Features in the plane, before and after."""
    return _analysis(
        "embedding",
        "t-SNE of features, before and after",
        "Figure 6",
        {"resnet56": Network("cifar:resnet56", weights="resnet56")},
        "embedding",
        (3,),
        note=f"{SUPPLIED} Beside the pictures, the mean silhouette of the features by class is ours.",
        data_set="CIFAR-10",
        adaptation={"resnet56": AS_THE_PAPER},
        protocols=PROTOCOL,
    )


def _parts(name: str, on: str, networks: Mapping[str, Network], rows: Mapping[str, str], **more: Any) -> Recipe:
    """Return a recipe of Table 6, whose columns are the accuracies, then the mCEs, of variance and mean."""
    by_label, published, adaptation = {}, {}, {}
    for network, row in rows.items():
        cells = row.split()
        for number, part in enumerate(STATISTICS):
            label = f"{network}-{part}"
            by_label[label] = networks[network]
            published[label] = printed_row(AFTER, f"{cells[number]} {cells[number + 2]}")
            adaptation[label] = adapted_to(statistics=part)
    return measured(name, f"the mean or the variance alone, {on}", "Table 6", by_label, published, adaptation, **more)


def _analysis(
    name: str,
    title: str,
    where: str,
    networks: Mapping[str, Network],
    analysis: str,
    severities: Sequence[int],
    **more: Any,
) -> Recipe:
    """Return a recipe of a figure on Gaussian noise, whose values our copy does not print."""
    common: dict[str, Any] = {
        "data": SPECS.get(more["data_set"], ""),
        "files": {network.weights: "" for network in networks.values() if network.weights},
        "shifts": dict.fromkeys(networks, (NOISE,)),
    }
    return AnalysisRecipe(
        name,
        title,
        {"rectification": where},
        dict.fromkeys(networks),
        networks=networks,
        severities=severities,
        analysis=analysis,
        **(common | more),
    )
