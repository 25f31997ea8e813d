"""The rectification paper's tables and figures: functions that return what to measure before and after 32 images.

Figures are published ones only where our copy of the paper prints them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from statshift.adapting.options import AdaptationOptions
from statshift.measuring.analyses import SAMPLES
from statshift.norms.selection import THIRDS
from statshift.recipes.configuration import RECTIFIED, Figures, Network, Recipe, fraction

AS_THE_PAPER = AdaptationOptions(32, include_adaptation=True)
"""Section 4: a batch of 32 images; its images are evaluated on too."""

PROTOCOL = ("replace",)
NOISE = "gaussian_noise"
ACCURACY, MCE = "corrupted", "mce"
BOTH = (ACCURACY, ACCURACY + RECTIFIED, MCE, MCE + RECTIFIED)
"""The columns of Tables 1 to 5."""

AFTER = (ACCURACY + RECTIFIED, MCE + RECTIFIED)
PARTS = ("var", "mean")
CIFAR_NETWORKS = ("resnet20", "resnet56", "resnet18", "resnet50", "vgg19", "wrn28_10", "resnext29", "densenet")
CIFAR100_NETWORKS = ("resnet20", "resnet56", "vgg19", "wrn28_10", "resnext29", "densenet")
IMAGENET_NETWORKS = ("vgg19_bn", "resnet18", "resnet50", "wide_resnet101_2", "resnext101_32x8d", "densenet161")
SPECS = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100"}
CIFAR_CHANNELS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
"""What the adversarially trained CIFAR-10 networks were trained with; see docs/robust-checkpoints.md."""

SUPPLIED = "Nobody ships these weights: give files of your own, or train them, as by `statshift train`."


def rectify_cifar10() -> Recipe:
    """Eight networks on CIFAR-10-C, before and after."""
    return _recipe(
        "rectify-cifar10",
        "before and after 32 images, CIFAR-10-C",
        "Table 1",
        _own(CIFAR_NETWORKS),
        _rows(
            BOTH,
            resnet20="68.2 73.0 106.4 90.7",
            resnet56="70.7 81.4 98.5 63.0",
            resnet18="73.9 84.3 87.9 53.0",
            resnet50="74.0 83.1 87.4 57.6",
            vgg19="72.9 81.0 90.1 63.7",
            wrn28_10="78.4 86.8 73.1 44.5",
            resnext29="75.0 85.5 85.1 49.9",
            densenet="76.7 87.6 80.3 42.4",
        ),
        note=SUPPLIED,
    )


def rectify_cifar100() -> Recipe:
    """Six networks on CIFAR-100-C, before and after."""
    return _recipe(
        "rectify-cifar100",
        "before and after 32 images, CIFAR-100-C",
        "Table 2",
        _own(CIFAR100_NETWORKS, num_classes=100),
        _rows(
            BOTH,
            resnet20="38.9 44.5 96.1 87.4",
            resnet56="43.8 48.0 88.5 81.9",
            vgg19="45.3 51.4 86.1 76.6",
            wrn28_10="53.0 65.3 74.1 54.8",
            resnext29="52.7 66.0 74.6 53.7",
            densenet="52.9 65.8 74.5 54.2",
        ),
        note=SUPPLIED,
        data_set="CIFAR-100",
    )


def rectify_imagenet() -> Recipe:
    """Torchvision's networks on ImageNet-C, before and after."""
    return _recipe(
        "rectify-imagenet",
        "before and after 32 images, ImageNet-C",
        "Table 3",
        {name: _pretrained(name) for name in IMAGENET_NETWORKS},
        _rows(
            BOTH,
            vgg19_bn="35.4 45.5 81.6 69.3",
            resnet18="32.9 41.8 84.7 73.7",
            resnet50="39.2 48.7 76.7 64.9",
            wide_resnet101_2="46.3 51.7 67.7 60.9",
            resnext101_32x8d="47.1 53.9 66.7 58.2",
            densenet161="47.6 54.7 66.4 57.4",
        ),
        data_set="ImageNet",
    )


def rectify_augmix() -> Recipe:
    """ResNet-50 trained with AugMix, and with DeepAugment, on ImageNet-C, before and after."""
    trained = {name: Network("torchvision:resnet50", weights=name) for name in ("augmix", "deepaugment-augmix")}
    return _recipe(
        "rectify-augmix",
        "before and after 32 images, AugMix and DeepAugment",
        "Table 4",
        {"baseline": _pretrained("resnet50"), **trained},
        {
            **_rows(BOTH, baseline="39.2 48.7 76.7 64.9", augmix="48.3 56.7 65.3 55.0"),
            "deepaugment-augmix": _row(BOTH, "58.1 63.3 53.6 47.0"),
        },
        note="The files are the checkpoints that AugMix's and DeepAugment's authors publish.",
        data_set="ImageNet",
    )


def rectify_robust_cifar10() -> Recipe:
    """Adversarially trained ResNet-50s on CIFAR-10-C, before and after."""
    networks = {name: Network("cifar:resnet50", {}, name, **CIFAR_CHANNELS) for name in ("l2-0.5", "linf-8")}
    return _recipe(
        "rectify-robust-cifar10",
        "before and after 32 images, adversarially trained, CIFAR-10-C",
        "Table 5",
        networks,
        {"l2-0.5": _row(BOTH, "83.6 86.6 50.8 43.8"), "linf-8": _row(BOTH, "79.2 82.3 64.5 57.6")},
        note="docs/robust-checkpoints.md says where the files are and how to make plain weights of them.",
    )


def rectify_robust_imagenet() -> Recipe:
    """Adversarially trained ResNet-50s on ImageNet-C, before and after."""
    return _recipe(
        "rectify-robust-imagenet",
        "before and after 32 images, adversarially trained, ImageNet-C",
        "Table 5",
        {name: Network("torchvision:resnet50", weights=name) for name in ("l2-3.0", "linf-8")},
        {"l2-3.0": _row(BOTH, "31.1 46.9 87.3 68.4"), "linf-8": _row(BOTH, "23.8 38.1 96.7 79.7")},
        note="docs/robust-checkpoints.md says where the files are and how to make plain weights of them.",
        data_set="ImageNet",
    )


def samples() -> Recipe:
    """A ResNet-18 by the number of images adapted on."""
    counts = {f"n={count}": count for count in SAMPLES}
    return _recipe(
        "samples",
        "how many images it takes",
        "Figure 4",
        dict.fromkeys(counts, Network("cifar:resnet18", weights="resnet18")),
        dict.fromkeys(counts),
        {label: _adaptation(samples=count) for label, count in counts.items()},
        note=SUPPLIED,
        shifts=dict.fromkeys(counts, (NOISE,)),
        fixed=dict.fromkeys(counts, ("samples",)),
    )


def parts_cifar10() -> Recipe:
    """The mean or the variance alone, CIFAR-10-C."""
    rows = {"resnet20": "79.3 69.3 69.9 102.6", "resnet56": "81.6 71.7 62.7 94.7"}
    return _parts("parts-cifar10", "CIFAR-10-C", _own(rows), rows, note=SUPPLIED)


def parts_cifar100() -> Recipe:
    """The mean or the variance alone, CIFAR-100-C."""
    rows = {"resnet20": "47.3 38.9 82.9 96.2", "resnet56": "52.4 44.2 75.0 87.9"}
    networks = _own(rows, num_classes=100)
    return _parts("parts-cifar100", "CIFAR-100-C", networks, rows, note=SUPPLIED, data_set="CIFAR-100")


def parts_imagenet() -> Recipe:
    """The mean or the variance alone, ImageNet-C."""
    rows = {"resnet18": "23.4 29.0 96.6 89.2", "resnet50": "34.2 37.2 83.4 78.9"}
    networks = {name: _pretrained(name) for name in rows}
    return _parts("parts-imagenet", "ImageNet-C", networks, rows, data_set="ImageNet")


def parts_by_corruption() -> Recipe:
    """Mean and variance, each alone and both, corruption by corruption."""
    labels = ("both", *PARTS)
    return _recipe(
        "parts-by-corruption",
        "mean and variance alone and both, by corruption",
        "Figure 5",
        dict.fromkeys(labels, Network("cifar:resnet20", weights="resnet20")),
        dict.fromkeys(labels),
        {label: _adaptation(statistics=label) for label in labels},
        note=SUPPLIED,
        by_shift=True,
    )


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
            published[label] = _row(AFTER, " ".join(cells[2 * number : 2 * number + 2]))
            adaptation[label] = _adaptation(where=third)
    return _recipe(
        "thirds", "each third of the layers alone", "Table 7", networks, published, adaptation, note=SUPPLIED
    )


def rectify_by_corruption() -> Recipe:
    """A ResNet-20 under each corruption of severity 3, before and after, beside which `upper-bound` lies."""
    columns = (ACCURACY + RECTIFIED, ACCURACY)
    published = _rows(
        columns,
        gaussian_noise="62.26 33.41",
        shot_noise="63.74 46.31",
        impulse_noise="66.40 59.17",
        defocus_blur="83.01 83.13",
        glass_blur="62.48 51.22",
        motion_blur="75.55 65.85",
        zoom_blur="78.89 71.75",
        snow="70.40 76.68",
        brightness="82.64 90.44",
        contrast="80.62 80.56",
        pixelate="77.90 73.06",
        jpeg_compression="68.81 76.14",
    )
    return _recipe(
        "rectify-by-corruption",
        "before and after 32 images, by corruption",
        "section 6.4, Table 8",
        dict.fromkeys(published, Network("cifar:resnet20", weights="resnet20")),
        published,
        note=f"{SUPPLIED} The row Acc_UB is the recipe upper-bound, which trains.",
        shifts={name: (name,) for name in published},
        severities=(3,),
    )


def norms_corruption_imagenet() -> Recipe:
    """Group and instance norm on ImageNet-C."""
    rows = {"resnet18": "35.1 82.2 30.0 88.8", "resnet50": "43.6 71.5 34.4 83.1"}
    networks, published = {}, {}
    for name, row in rows.items():
        cells = row.split()
        for number, norm in enumerate(("group", "instance")):
            label = f"{name}-{norm}"
            networks[label] = Network(f"torchvision:{name}", {"norm": norm}, label)
            published[label] = _row((ACCURACY, MCE), " ".join(cells[2 * number : 2 * number + 2]))
    return _recipe(
        "norms-corruption-imagenet",
        "group and instance norm on ImageNet-C",
        "section 6.5, Table 10",
        networks,
        published,
        note="`statshift run norms-imagenet` trains these: LABEL/clean.safetensors of its folder are the files.",
        data_set="ImageNet",
        protocols=(),
        adaptation={},
    )


def distances() -> Recipe:
    """How far batch statistics lie apart, of clean and of noisy images."""
    return _analysis(
        "distances",
        "distance of batch statistics, of one style and of two",
        "Figure 2",
        {"resnet50": _pretrained("resnet50")},
        "distances",
        (3,),
        note="The paper chooses a layer at random and names no severity; the middle layer and severity 3 are ours.",
        data_set="ImageNet",
    )


def similarities() -> Recipe:
    """How like the clean images' features are, before and after."""
    return _analysis(
        "similarities",
        "cosine similarity of features, before and after",
        "Figure 3",
        {"resnet50": _pretrained("resnet50")},
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


RECTIFICATION: dict[str, Callable[[], Recipe]] = {
    "rectify-cifar10": rectify_cifar10,
    "rectify-cifar100": rectify_cifar100,
    "rectify-imagenet": rectify_imagenet,
    "rectify-augmix": rectify_augmix,
    "rectify-robust-cifar10": rectify_robust_cifar10,
    "rectify-robust-imagenet": rectify_robust_imagenet,
    "parts-cifar10": parts_cifar10,
    "parts-cifar100": parts_cifar100,
    "parts-imagenet": parts_imagenet,
    "thirds": thirds,
    "rectify-by-corruption": rectify_by_corruption,
    "norms-corruption-imagenet": norms_corruption_imagenet,
    "distances": distances,
    "similarities": similarities,
    "samples": samples,
    "parts-by-corruption": parts_by_corruption,
    "embedding": embedding,
}
"""By name: the tables of WACV 2021 in its order, then its figures."""


def _recipe(
    name: str,
    title: str,
    where: str,
    networks: Mapping[str, Network],
    published: Mapping[str, Figures | None],
    adaptation: Mapping[str, AdaptationOptions] | None = None,
    **more: Any,
) -> Recipe:
    """Return a recipe that measures networks before and after 32 images, as the paper's on CIFAR-10."""
    common: dict[str, Any] = {
        "data": SPECS.get(more.get("data_set", "CIFAR-10"), ""),
        "data_set": "CIFAR-10",
        "protocols": PROTOCOL,
        "adaptation": dict.fromkeys(networks, AS_THE_PAPER) if adaptation is None else adaptation,
        "files": {network.weights: "" for network in networks.values() if network.weights},
    }
    return Recipe(name, title, {"rectification": where}, {}, published, networks=networks, **(common | more))


def _parts(name: str, on: str, networks: Mapping[str, Network], rows: Mapping[str, str], **more: Any) -> Recipe:
    """Return a recipe of Table 6, whose columns are the accuracies, then the mCEs, of variance and mean."""
    by_label, published, adaptation = {}, {}, {}
    for network, row in rows.items():
        cells = row.split()
        for number, part in enumerate(PARTS):
            label = f"{network}-{part}"
            by_label[label] = networks[network]
            published[label] = _row(AFTER, f"{cells[number]} {cells[number + 2]}")
            adaptation[label] = _adaptation(statistics=part)
    return _recipe(name, f"the mean or the variance alone, {on}", "Table 6", by_label, published, adaptation, **more)


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
    noise = dict.fromkeys(networks, (NOISE,))
    common = {"protocols": (), "adaptation": {}, "shifts": noise, "severities": severities, "analysis": analysis}
    return _recipe(name, title, where, networks, dict.fromkeys(networks), **(common | more))


def _adaptation(**changes: Any) -> AdaptationOptions:
    return AdaptationOptions(**{"samples": 32, "include_adaptation": True, **changes})


def _pretrained(name: str) -> Network:
    """Return a network of torchvision's with the weights of the paper's time."""
    return Network(f"torchvision:{name}@IMAGENET1K_V1")


def _own(names: Iterable[str], **arguments: Any) -> dict[str, Network]:
    """Return networks whose weights the user supplies."""
    return {name: Network(f"cifar:{name}", arguments, name) for name in names}


def _rows(columns: Sequence[str], **rows: str) -> dict[str, Figures | None]:
    return {label: _row(columns, row) for label, row in rows.items()}


def _row(columns: Sequence[str], row: str) -> dict[str, float]:
    """Return the figures of a row as printed, in %."""
    return {column: fraction(cell) for column, cell in zip(columns, row.split(), strict=True)}
