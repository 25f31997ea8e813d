"""The rectification paper's tables of networks before and after 32 images, and all its recipes by name.

Figures are published ones only where our copy of the paper prints them.
"""

from collections.abc import Callable

from statshift.recipes.configuration import Recipe
from statshift.recipes.networks import Network
from statshift.recipes.papers.rectified_parts import (
    embedding,
    feature_similarities,
    parts_by_corruption,
    parts_cifar10,
    parts_cifar100,
    parts_imagenet,
    samples,
    style_distances,
    thirds,
)
from statshift.recipes.papers.rectifying import (
    ACCURACY,
    BOTH,
    MCE_COLUMN,
    SUPPLIED,
    measured,
    pretrained,
    printed_row,
    printed_rows,
    supplied,
)
from statshift.recipes.sources import RECTIFIED

CIFAR_NETWORKS = ("resnet20", "resnet56", "resnet18", "resnet50", "vgg19", "wrn28_10", "resnext29", "densenet")


CIFAR100_NETWORKS = ("resnet20", "resnet56", "vgg19", "wrn28_10", "resnext29", "densenet")


IMAGENET_NETWORKS = ("vgg19_bn", "resnet18", "resnet50", "wide_resnet101_2", "resnext101_32x8d", "densenet161")


CIFAR_CHANNELS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
"""What the adversarially trained CIFAR-10 networks were trained with; see docs/robust-checkpoints.md."""


def rectify_cifar10() -> Recipe:
    """Eight networks on CIFAR-10-C, before and after."""
    return measured(
        "rectify-cifar10",
        "before and after 32 images, CIFAR-10-C",
        "Table 1",
        supplied(CIFAR_NETWORKS),
        printed_rows(
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
    return measured(
        "rectify-cifar100",
        "before and after 32 images, CIFAR-100-C",
        "Table 2",
        supplied(CIFAR100_NETWORKS, num_classes=100),
        printed_rows(
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
    return measured(
        "rectify-imagenet",
        "before and after 32 images, ImageNet-C",
        "Table 3",
        {name: pretrained(name) for name in IMAGENET_NETWORKS},
        printed_rows(
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
    return measured(
        "rectify-augmix",
        "before and after 32 images, AugMix and DeepAugment",
        "Table 4",
        {"baseline": pretrained("resnet50"), **trained},
        {
            **printed_rows(BOTH, baseline="39.2 48.7 76.7 64.9", augmix="48.3 56.7 65.3 55.0"),
            "deepaugment-augmix": printed_row(BOTH, "58.1 63.3 53.6 47.0"),
        },
        note="The files are the checkpoints that AugMix's and DeepAugment's authors publish.",
        data_set="ImageNet",
    )


def rectify_robust_cifar10() -> Recipe:
    """Adversarially trained ResNet-50s on CIFAR-10-C, before and after."""
    networks = {name: Network("cifar:resnet50", {}, name, **CIFAR_CHANNELS) for name in ("l2-0.5", "linf-8")}
    return measured(
        "rectify-robust-cifar10",
        "before and after 32 images, adversarially trained, CIFAR-10-C",
        "Table 5",
        networks,
        {"l2-0.5": printed_row(BOTH, "83.6 86.6 50.8 43.8"), "linf-8": printed_row(BOTH, "79.2 82.3 64.5 57.6")},
        note="docs/robust-checkpoints.md says where the files are and how to make plain weights of them.",
    )


def rectify_robust_imagenet() -> Recipe:
    """Adversarially trained ResNet-50s on ImageNet-C, before and after."""
    return measured(
        "rectify-robust-imagenet",
        "before and after 32 images, adversarially trained, ImageNet-C",
        "Table 5",
        {name: Network("torchvision:resnet50", weights=name) for name in ("l2-3.0", "linf-8")},
        {"l2-3.0": printed_row(BOTH, "31.1 46.9 87.3 68.4"), "linf-8": printed_row(BOTH, "23.8 38.1 96.7 79.7")},
        note="docs/robust-checkpoints.md says where the files are and how to make plain weights of them.",
        data_set="ImageNet",
    )


def rectify_by_corruption() -> Recipe:
    """A ResNet-20 under each corruption of severity 3, before and after, beside which `upper-bound` lies."""
    columns = (ACCURACY + RECTIFIED, ACCURACY)
    published = printed_rows(
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
    return measured(
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
            published[label] = printed_row((ACCURACY, MCE_COLUMN), " ".join(cells[2 * number : 2 * number + 2]))
    return measured(
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
    "distances": style_distances,
    "similarities": feature_similarities,
    "samples": samples,
    "parts-by-corruption": parts_by_corruption,
    "embedding": embedding,
}
"""By name: the tables of WACV 2021 in its order, then its figures."""
