"""What a recipe expects, costs and needs, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from statshift.recipes.configuration import BASE, COLUMNS, DATA_SETS, RECTIFIED, Figures, Recipe
from statshift.shifts.conditions import conditions, resolve
from statshift.shifts.shift import CLEAN

ABSENT = "not in our copy"
HEADLINE = ("advbn-autoaugment", "conv2_3", "resnet50", "augmix", "vgg16-batch", "resnet50-batch", "resnet50-group")
"""The labels whose figures stand for a recipe's, the first that it has; else its first."""


def describe(recipe: Recipe) -> dict[str, Any]:
    """Return what the list of recipes says of one, as plain data."""
    return {
        "name": recipe.name,
        "title": recipe.title,
        "source": dict(recipe.source),
        "labels": list(recipe.labels),
        "expected": expected(recipe),
        "cost": cost(recipe),
        "needs": needs(recipe),
    }


def expected(recipe: Recipe) -> str:
    """Return a figure that the authors print, before and after where there are both; in %, LIGS and accuracy alike."""
    if recipe.analysis == "branches":
        return "clean, or for Stylized-ImageNet adv"
    printed = {label: figures for label, figures in recipe.published.items() if figures}
    if not printed:
        return ABSENT if recipe.published else "none"
    own = [label for label in printed if label != BASE]
    label = next((one for one in HEADLINE if one in own), own[0])
    figures = printed[label]
    for column in ("mce", "corrupted"):
        before = figures.get(column) if column + RECTIFIED in figures else printed.get(BASE, {}).get(column)
        after = figures.get(column + RECTIFIED, figures.get(column))
        if before is not None and after is not None:
            return f"{label}: {percent(before)} -> {percent(after)} {name_of(column)}"
    return f"{label}: " + ", ".join(f"{percent(value)} {name_of(column)}" for column, value in _few(figures))


def cost(recipe: Recipe) -> str:
    """Return how much is trained or measured."""
    if recipe.analysis == "branches":
        return "nothing"
    if recipe.analysis.startswith("transfer"):
        count = len(recipe.labels)
        return f"{_count(count, 'extractions')} of 1,000 steps an image, {count * (count - 1)} measurements"
    if recipe.analysis:
        what = "methods" if recipe.options else "models"
        how = "a few steps each" if recipe.options else "one look each at 1,000 images"
        return f"{_count(len(recipe.labels), what)}, {how}"
    measured = sum(_conditions(recipe, label) for label in recipe.labels)
    if recipe.options:
        epochs = sorted({one.training.epochs for one in recipe.options.values()})
        many = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
        plural = "epoch" if epochs == [1] else "epochs"
        return f"{_count(len(recipe.labels), 'trainings')} of {many} {plural}, then {_count(measured, 'conditions')}"
    networks = len({repr(network) for network in recipe.networks.values()})
    over = f", {DATA_SETS[recipe.data_set].images:,} images each" if recipe.data_set else ""
    each = _conditions(recipe, recipe.labels[0])
    factors = [_count(networks, "models")]
    if len(recipe.labels) > networks:
        factors.append(_count(len(recipe.labels) // networks, "variants"))
    if recipe.shifts and len({tuple(one) for one in recipe.shifts.values()}) > 1:
        factors = [_count(networks, "models"), _count(measured, "conditions")]
    else:
        factors.append(_count(each, "conditions"))
    if recipe.protocols:
        factors.append(_count(1 + len(recipe.protocols), "protocols"))
    return " x ".join(factors) + over


def needs(recipe: Recipe) -> str:
    """Return which data and weights it takes."""
    if recipe.analysis == "branches":
        return "nothing"
    wanted = [recipe.wants or data_in_words(recipe)]
    if recipe.options and not recipe.networks:
        wanted.append(f"a model, default {recipe.model}" if recipe.model else "a model")
    downloads = [one.spec for one in recipe.networks.values() if "@" in one.spec and not one.spec.endswith("@none")]
    if downloads and not recipe.options:
        wanted.append("torchvision's weights (download)")
    if recipe.unsupplied:
        wanted.append(f"files: {', '.join(recipe.unsupplied)}")
    return "; ".join(wanted)


def data_in_words(recipe: Recipe) -> str:
    """Return which data are to be named, and how."""
    if not recipe.data_set:
        return recipe.data or "data of your own"
    how = DATA_SETS[recipe.data_set].how
    if recipe.analysis == "costs":
        how = "folder:DIR"
    elif recipe.options:  # what is trained on is clean, and in two parts
        how = how.partition(" or ")[0] if recipe.networks and recipe.data else "folder:DIR twice, train and val"
    return f"{recipe.data_set} as {how}"


def percent(value: float | None) -> str:
    """Return a fraction in %, as the papers print it."""
    return "-" if value is None else f"{100 * value:.1f}"


def name_of(column: str) -> str:
    """Return a figure's name as it is printed."""
    plain = column.removesuffix(RECTIFIED)
    return COLUMNS.get(plain, plain) + column[len(plain) :].replace(",", "")


def _few(figures: Figures) -> Sequence[tuple[str, float]]:
    return list(figures.items())[:2]


def _conditions(recipe: Recipe, label: str) -> int:
    names = recipe.shifts.get(label, (CLEAN, "common"))
    own: Mapping[str, Any] = {name: None for name in names if name.startswith("py:")}
    shifts = resolve([name for name in names if name not in own] or [CLEAN])
    return len(conditions(shifts, recipe.severities)) + len(own) * len(recipe.severities)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what if number != 1 else what.removesuffix('s')}"
