"""What a recipe found beside what the authors print, as text and as plain data."""

from typing import Any

from statshift._core.tables import table
from statshift.recipes import RECIPES, Found, Recipe, describe, recipe


def result_document(chosen: Recipe, found: Found, data: str | None) -> dict[str, Any]:
    """Return a recipe's result as plain data: ours and theirs by label, and over what; `data` is what ours are of.

    It holds what the list says of the recipe, but for the cost, which is another where flags narrow the run.
    """
    return {
        **{name: value for name, value in describe(chosen).items() if name != "cost"},
        "reference": chosen.reference,
        "note": chosen.note,
        "over": over_lines(chosen, found, data),
        "ours": found,
        "published": chosen.published,
    }


def result_text(chosen: Recipe, found: Found, data: str | None = None) -> str:
    """Return the tables of a recipe's result, ours beside theirs, under a head; see `run_recipe`."""
    title = f"{chosen.name}: {chosen.title}{f' ({chosen.reference})' if chosen.source else ''}"
    notes = [chosen.note] if chosen.note else []
    head = "\n".join([title, *over_lines(chosen, found, data), *notes])
    return "\n\n".join([head, *map(table, chosen.tables(found))])


def over_lines(chosen: Recipe, found: Found, data: str | None) -> list[str]:
    """Return what our figures are over and in what theirs are others, in sentences."""
    named = recipe(chosen.name) if chosen.name in RECIPES else None
    return chosen.over(found, data, named)
