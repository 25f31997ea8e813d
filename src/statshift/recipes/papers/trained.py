"""What the papers on LIGS and on AdvBN measure of trained networks: functions that return it.

Figures are published ones only where our copies of the papers print them.
"""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

from statshift.models import NORMS
from statshift.recipes.analysing import AnalysisRecipe
from statshift.recipes.configuration import Recipe
from statshift.recipes.measuring import MeasuringRecipe
from statshift.recipes.networks import Network
from statshift.recipes.papers.rectifying import AS_THE_PAPER, PROTOCOL, SUPPLIED
from statshift.recipes.papers.training import ATTACKED
from statshift.recipes.sources import BASE, RECTIFIED, Figures, fraction
from statshift.shifts.shift import CLEAN

FGSM_OF_4 = "fgsm:4/255"
TRAINED_BY_NORMS = "`statshift run norms` trains these networks: LABEL/clean.safetensors of its folder are the files."
TRAINED_ROBUSTLY = (
    "Train the files by `statshift train --method adversarial --model cifar:vgg16 --model-args norm=NORM`."
)
STANDARD_FEATURES = """
- 45.6 29.6 52.1 45.9
75.3 - 35.8 58.9 54.3
66.1 50.4 - 53.0 61.9
79.4 59.4 37.9 - 63.4
73.3 54.4 43.1 61.3 -
"""
ROBUST_FEATURES = """
- 85.0 59.8 75.8 65.9
81.3 - 58.1 73.7 62.5
75.8 78.8 - 69.4 62.9
82.9 84.5 60.0 - 64.8
80.7 83.7 63.8 73.7 -
"""
"""Table 3, a row for each network that features are extracted from, None BN IN LN GN."""


def attacks_imagenet() -> Recipe:
    """Torchvision's VGGs with and without batch norm under attack."""
    rows = {
        "vgg16": "71.59 15.55 1.79 16.66 0.23",
        "vgg16_bn": "73.37 6.04 0.55 6.82 0.02",
        "vgg19": "72.38 16.52 2.18 17.46 0.30",
        "vgg19_bn": "74.24 6.94 0.69 7.66 0.03",
    }
    columns = (CLEAN, *ATTACKED)
    return _recipe(
        "attacks-imagenet",
        "VGGs with and without batch norm under attack, ImageNet",
        {"ligs": "Table 1"},
        {name: Network(f"torchvision:{name}@IMAGENET1K_V1") for name in rows},
        {name: dict(zip(columns, (fraction(cell) for cell in row.split()), strict=True)) for name, row in rows.items()},
        data_set="ImageNet",
        shifts=dict.fromkeys(rows, columns),
    )


def profile() -> Recipe:
    """Each norm, and none, in standard and in adversarial training, corruption by corruption."""
    labels = [f"{norm}-{method}" for method, norm in product(("standard", "adversarial"), NORMS)]
    return _recipe(
        "profile",
        "corruption by corruption with each norm, standard and adversarial training",
        {"ligs": "Figure 1"},
        {label: Network("cifar:vgg16", {"norm": label.partition("-")[0]}, label) for label in labels},
        dict.fromkeys(labels),
        note=f"{SUPPLIED} Those of standard training are `statshift run norms`'s.",
        by_shift=True,
    )


def transfer() -> Recipe:
    """Features extracted from standard networks, answered by each of the others."""
    return _transfer(
        "transfer", "features of standard networks, answered by the others", STANDARD_FEATURES, TRAINED_BY_NORMS
    )


def transfer_robust() -> Recipe:
    """Features extracted from adversarially trained networks, answered by each of the others."""
    return _transfer(
        "transfer-robust", "features of robust networks, answered by the others", ROBUST_FEATURES, TRAINED_ROBUSTLY
    )


def rectify_ligs() -> Recipe:
    """Two networks on CIFAR-10-C, before and after their statistics are adapted."""
    rows = {"vgg16": (71.9, 79.4), "resnet18": (73.9, 82.3)}
    return _recipe(
        "rectify-ligs",
        "before and after adapting statistics, CIFAR-10-C",
        {"ligs": "appendix F, Table 7"},
        {name: Network(f"cifar:{name}", {}, name) for name in rows},
        {
            name: {"corrupted": fraction(before), "corrupted" + RECTIFIED: fraction(after)}
            for name, (before, after) in rows.items()
        },
        note=f"{SUPPLIED} The paper does not say on how many images it adapts; 32 are those of its authors' other one.",
        protocols=PROTOCOL,
        adaptation=dict.fromkeys(rows, AS_THE_PAPER),
    )


def fast_gradient() -> Recipe:
    """Networks with and without batch norm under the fast gradient sign method."""
    rows = {
        "vgg11-none": (90.06, 32.51),
        "vgg11-batch": (92.48, 40.86),
        "vgg16-none": (91.89, 23.26),
        "vgg16-batch": (93.7, 51.28),
        "resnet50-none": (92.15, 28.23),
        "resnet50-batch": (95.6, 38.07),
    }
    networks = {}
    for label in rows:
        name, _, norm = label.partition("-")
        networks[label] = Network(f"cifar:{name}", {"norm": norm}, label)
    return _recipe(
        "fgsm",
        "with and without batch norm under FGSM",
        {"ligs": "appendix G, Table 8"},
        networks,
        {label: {CLEAN: fraction(clean), FGSM_OF_4: fraction(robust)} for label, (clean, robust) in rows.items()},
        note=TRAINED_BY_NORMS,
        shifts=dict.fromkeys(rows, (CLEAN, FGSM_OF_4)),
    )


def data_divergence() -> Recipe:
    """How far apart the features of two data sets lie, before and after AdvBN."""
    networks = {
        BASE: Network("torchvision:resnet50@IMAGENET1K_V1"),
        "advbn": Network("torchvision:resnet50", weights="advbn"),
    }
    return _recipe(
        "divergence",
        "how far apart two data sets' features lie, before and after AdvBN",
        {"advbn": "section 5.3, Figure 5", "submission": "Figure 4"},
        networks,
        dict.fromkeys(networks),
        note="One pair of data sets at a time, --data and --against. `statshift run methods --labels advbn` trains the "
        "file.",
        data_set="ImageNet",
        wants="ImageNet as folder:DIR, and a variant of it as --against",
        analysis="divergence",
    )


def imagenet_advbn() -> Recipe:
    """Networks on images of the worst statistics of features, and on the same images merely decoded."""
    networks = {
        BASE: Network("torchvision:resnet50@IMAGENET1K_V1"),
        "vgg19": Network("torchvision:vgg19@IMAGENET1K_V1"),
        **{name: Network("torchvision:resnet50", weights=name) for name in ("augmix", "sin", "advbn")},
    }
    return _recipe(
        "imagenet-advbn",
        "on images of worst-case features, and on those merely decoded",
        {"submission": "appendix A, Table 7"},
        networks,
        dict.fromkeys(networks),
        note="The folders are those of `statshift make advbn`, one for each encoder, a ResNet-50's to conv2_3 and a "
        "VGG-19's to relu4_1. Which networks the table has is not printed in our copy: these are the paper's others. "
        "Of advbn the authors evaluate the auxiliary norms: give adv.safetensors.",
        data_set="ImageNet",
        wants="folder:DIR as `statshift make advbn` writes it of ImageNet, another encoder's as --against",
        analysis="decoded",
    )


MEASURING: dict[str, Callable[[], Recipe]] = {
    "attacks-imagenet": attacks_imagenet,
    "profile": profile,
    "transfer": transfer,
    "transfer-robust": transfer_robust,
    "rectify-ligs": rectify_ligs,
    "fgsm": fast_gradient,
    "divergence": data_divergence,
    "imagenet-advbn": imagenet_advbn,
}
"""By name, in the papers' order: the submission on LIGS, then NeurIPS 2021."""


def _recipe(
    name: str,
    title: str,
    source: Mapping[str, str],
    networks: Mapping[str, Network],
    published: Mapping[str, Figures | None],
    **more: Any,
) -> Recipe:
    common: dict[str, Any] = {
        "data": "" if "data_set" in more else "cifar10",
        "data_set": "CIFAR-10",
        "files": {network.weights: "" for network in networks.values() if network.weights},
    }
    kind = AnalysisRecipe if "analysis" in more else MeasuringRecipe
    return kind(name, title, source, published, networks=networks, **(common | more))


def _transfer(name: str, title: str, table: str, note: str) -> Recipe:
    published: dict[str, Figures | None] = {}
    for norm, row in zip(NORMS, table.strip().splitlines(), strict=True):
        cells = dict(zip(NORMS, row.split(), strict=True))
        published[f"vgg16-{norm}"] = {f"vgg16-{to}": fraction(cell) for to, cell in cells.items() if cell != "-"}
    networks = {label: Network("cifar:vgg16", {"norm": label.partition("-")[2]}, label) for label in published}
    return _recipe(name, title, {"ligs": "Table 3"}, networks, published, note=note, analysis=name)
