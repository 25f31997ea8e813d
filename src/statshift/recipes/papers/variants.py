"""Published networks on ImageNet's variants: Table 1 of AdvBN, and a network whose figures everybody knows."""

from collections.abc import Callable

from statshift.recipes.configuration import Recipe
from statshift.recipes.measuring import MeasuringRecipe
from statshift.recipes.networks import Network
from statshift.recipes.sources import BASE, STYLE_SETS, Figures, fraction

PRETRAINED = "torchvision:resnet50@IMAGENET1K_V1"
"""The model that the papers begin with, by the weights of their time; torchvision's default ones are others."""

ADVBN_COLUMNS = ("mce", "instagram", "sketch", "style")


def _table(**rows: str) -> dict[str, Figures]:
    """Return the figures of a table by label, whose rows are as printed, in %."""
    return {
        label.replace("_", "-"): dict(zip(ADVBN_COLUMNS, map(fraction, row.split()), strict=True))
        for label, row in rows.items()
    }


VARIANTS_TABLE: dict[str, Figures] = _table(
    base="76.7 67.2 24.1 7.4",
    pixel_at="73.7 68.2 25.3 9.1",
    moex="74.8 70.0 24.0 5.0",
    sin="73.8 68.5 26.9 10.4",
    advbn="72.7 69.5 27.9 11.9",
    advprop="70.7 69.2 18.0 9.0",
    advprop_advbn="69.5 69.3 28.7 12.6",
    cutmix="74.7 70.3 23.8 5.3",
    cutmix_advbn="72.1 70.9 27.2 8.2",
    autoaugment="72.1 70.1 26.7 8.2",
    advbn_autoaugment="68.6 71.1 30.3 14.1",
    fast_autoaugment="68.7 71.1 27.2 8.3",
    fast_autoaugment_advbn="68.7 71.3 28.6 11.4",
    augmix="68.4 70.4 28.5 11.2",
    augmix_advbn="64.6 71.1 28.7 13.6",
)
"""All 15 rows in the table's order."""


def variants() -> Recipe:
    """The 15 networks of the table on the four variants, as far as a user has the files."""
    files = [label for label in VARIANTS_TABLE if label != BASE]
    return MeasuringRecipe(
        "variants",
        "published networks on ImageNet-C, Instagram, Sketch and Stylized",
        {"advbn": "Table 1", "submission": "Tables 1 and 9"},
        VARIANTS_TABLE,
        "Which files are whose, and how they load, is in docs/checkpoints.md; `statshift run methods` and `statshift "
        "run sin` train others. Of networks with two sets of norms the authors evaluate that of clean images, but "
        "under Stylized the auxiliary one (`statshift run branches`): give that branch's file for that column. Table 9 "
        "is the last table here, by corruption; its figures are not printed in our copy.",
        data_set="ImageNet",
        sets=STYLE_SETS,
        networks={BASE: Network(PRETRAINED)}
        | {label: Network("torchvision:resnet50", weights=label) for label in files},
        files=dict.fromkeys(files, ""),
        by_shift=True,
    )


def public() -> Recipe:
    """A network that everybody has and whose figures are known, to check one's folders by."""
    published = {"clean": 76.1, "mce": 76.7, "sketch": 24.1, "v2": 63.2, "r": 36.2, "a": 0.0}
    names = ("imagenet-sketch", "imagenet-v2", "imagenet-r", "imagenet-a")
    return MeasuringRecipe(
        "public",
        "a public ResNet-50's known figures, to check your copies of the sets by",
        published={"resnet50": {column: fraction(figure) for column, figure in published.items()}},
        note="V2 is the matched-frequency version; R and A are scored over the 200 classes that each has. A holds "
        "photographs that a ResNet-50 answered wrongly, hence its 0.",
        data_set="ImageNet",
        sets=dict.fromkeys(names, ""),
        networks={"resnet50": Network(PRETRAINED)},
    )


VARIANTS: dict[str, Callable[[], Recipe]] = {"variants": variants, "public": public}
"""By name."""
