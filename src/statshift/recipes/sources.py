"""Where published figures are from: the papers, their tables' columns and the data that figures are over."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from statshift._core.errors import unknown
from statshift.shifts.registry import family_of

Figures = Mapping[str, float]

BASE = "base"
"""The label of the model as it was before."""

RECTIFIED = ", rectified"
"""What follows the name of a figure that was taken after rectifying."""

COLUMNS = {
    "clean": "clean",
    "mce": "mCE",
    "instagram": "Instagram",
    "sketch": "Sketch",
    "style": "Stylized",
    "v2": "V2",
    "r": "R",
    "a": "A",
}
"""Top-1 accuracy on ImageNet and its variants, and mCE on ImageNet-C."""

SETS = {
    "imagenet-instagram": "instagram",
    "imagenet-sketch": "sketch",
    "stylized-imagenet": "style",
    "imagenet-v2": "v2",
    "imagenet-r": "r",
    "imagenet-a": "a",
}
"""By the name of a set of images that a user has, the column of its score."""

STYLE_SETS = {"imagenet-instagram": "", "imagenet-sketch": "", "stylized-imagenet": ""}
"""The sets of the tables on AdvBN, each still without a folder."""

HIGHEST = 5
"""No figure is above it, mCE included: such a one is in %."""

PAPERS = {
    "rectification": "Benz et al., WACV 2021",
    "ligs": "Benz et al., the ICLR 2021 submission on LIGS",
    "advbn": "Shu et al., NeurIPS 2021",
    "submission": "Shu et al., the ICLR 2021 submission",
}
"""The papers by their names in a recipe's `source`."""


@dataclass(frozen=True)
class DataSet:
    """What figures of a paper are over.

    Attributes:
        images: how many.
        schemes: of the specs that name it.
        how: to name it.
    """

    images: int
    schemes: tuple[str, ...]
    how: str


DATA_SETS = {
    "CIFAR-10": DataSet(10_000, ("cifar10", "cifar-c"), "cifar10 (downloads) or cifar-c:DIR"),
    "CIFAR-100": DataSet(10_000, ("cifar100", "cifar-c"), "cifar100 (downloads) or cifar-c:DIR"),
    "SVHN": DataSet(26_032, ("svhn",), "svhn (downloads)"),
    "ImageNet": DataSet(50_000, ("folder", "imagenet-c"), "folder:DIR or imagenet-c:DIR"),
}
"""The papers' data by name."""


def fraction(cell: str | float) -> float:
    """Return a figure as printed, in %, as a fraction."""
    return round(float(cell) / 100, 6)


def column_of(shift: str) -> str:
    """Return the column that a shift is of, "instagram" for the condition "instagram/1977", or "" of no set."""
    name = re.split("[/ ]", shift)[0]
    return name if "/" in shift and name in SETS.values() else SETS.get(name, "")


def set_scores(shifts: Mapping[str, float]) -> dict[str, float]:
    """Return the scores of sets by column, each the mean over a set's conditions; in the order of `SETS`."""
    by_column: dict[str, list[float]] = {column: [] for column in SETS.values()}
    for name, score in shifts.items():
        if column := column_of(name):
            by_column[column].append(score)
    return {column: fmean(scores) for column, scores in by_column.items() if scores}


def places(where: str) -> list[str]:
    """Return ["Table 1", "Table 2", "Figure 4"] for "Tables 1 and 2, section 3, Figure 4"."""
    found = []
    for kind, numbers in re.findall(r"(Table|Figure)s? ((?:\d+(?:, | and | to )?)+)", where):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", numbers):
            found += [f"{kind} {number}" for number in range(int(first), int(last or first) + 1)]
    return found


def faults_of_size(published: Mapping[str, Figures | None]) -> list[str]:
    """Return which published figures are no fractions."""
    return [
        f"published.{label}.{name}: Expected a fraction, as {value / 100:g} for {value:g} %, but got {value:g}."
        for label, figures in published.items()
        for name, value in (figures or {}).items()
        if value > HIGHEST
    ]


def faults_of_names(
    published: Mapping[str, Figures | None], protocols: Sequence[str], labels: Collection[str] | None
) -> list[str]:
    """Return which published figures stand under a name, or a label, that no figure of ours has; None: any label."""
    faults = [f"published: {unknown('label', one, labels)}" for one in published if labels and one not in labels]
    behind = ["", RECTIFIED, *(f", {name}" for name in protocols)]
    names = [name + one for name in (*COLUMNS, "corrupted", "smoothness") for one in behind]
    for label, figures in published.items():
        for name in figures or {}:
            own = name.startswith("LIGS ") or family_of(name.partition(",")[0]) == "attack"
            if name not in names and not own:
                faults.append(f"published.{label}.{name}: {unknown('figure', name, names)}")
    return faults
