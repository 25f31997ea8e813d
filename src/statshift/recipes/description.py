"""What a recipe expects, costs and needs, in words."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from statshift.recipes.sources import BASE, COLUMNS, RECTIFIED, Figures

if TYPE_CHECKING:
    from statshift.recipes.configuration import Recipe

Rows = list[list[str]]
"""A table: rows of cells, a head first."""

NOT_PRINTED = "not in our copy"
HEADLINE = ("advbn-autoaugment", "conv2_3", "resnet50", "augmix", "vgg16-batch", "resnet50-batch", "resnet50-group")
"""The labels whose figures stand for a recipe's, the first that it has; else its first."""


def describe(recipe: "Recipe") -> dict[str, Any]:
    """Return what the list of recipes says of one, as plain data."""
    return {
        "name": recipe.name,
        "title": recipe.title,
        "source": dict(recipe.source),
        "labels": list(recipe.labels),
        "expected": recipe.expected(),
        "cost": recipe.cost(),
        "needs": recipe.needs(),
    }


def expected(published: Mapping[str, Figures | None]) -> str:
    """Return a figure that is printed, before and after where there are both; in %, LIGS and accuracy alike."""
    printed = {label: figures for label, figures in published.items() if figures}
    if not printed:
        return NOT_PRINTED if published else "none"
    own = [label for label in printed if label != BASE]
    label = next((one for one in HEADLINE if one in own), own[0])
    figures = printed[label]
    for column in ("mce", "corrupted"):
        before = figures.get(column) if column + RECTIFIED in figures else printed.get(BASE, {}).get(column)
        after = figures.get(column + RECTIFIED, figures.get(column))
        if before is not None and after is not None:
            return f"{label}: {in_percent(before)} -> {in_percent(after)} {name_of(column)}"
    return f"{label}: " + ", ".join(f"{in_percent(value)} {name_of(column)}" for column, value in _few(figures))


def in_percent(value: float | None) -> str:
    """Return a fraction in %, as the papers print it."""
    return "-" if value is None else f"{100 * value:.1f}"


def name_of(column: str) -> str:
    """Return a figure's name as it is printed."""
    plain = column.removesuffix(RECTIFIED)
    return COLUMNS.get(plain, plain) + column[len(plain) :].replace(",", "")


def counted(number: int, what: str) -> str:
    """Return "1 model" or "2 models" for "models"."""
    return f"{number:,} {what if number != 1 else what.removesuffix('s')}"


def _few(figures: Figures) -> Sequence[tuple[str, float]]:
    return list(figures.items())[:2]
