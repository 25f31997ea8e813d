"""What a step of each method costs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from statshift.hardening.costs import step_costs
from statshift.recipes.analyses.analysis import Analysis, Published
from statshift.recipes.description import NOT_PRINTED, Rows, counted
from statshift.recipes.options import RunOptions

if TYPE_CHECKING:
    from statshift.recipes.analysing import AnalysisRecipe


def _run(recipe: "AnalysisRecipe", options: RunOptions) -> dict[str, Any]:
    make, (data, _) = recipe.maker(options), recipe.images(options.data, None)
    return step_costs(lambda: make(""), data, recipe.options, device=options.device, data_options=options.data_options)


def _rows(published: Published, found: Mapping[str, Any]) -> Rows:
    rows = [["method", "ms", "ratio", "published"]]
    for label, one in found.items():
        rows.append([label, f"{1000 * one['seconds']:.1f}", f"{one['ratio']:.2f}", NOT_PRINTED])
    return rows


def _over(summary: str, found: Mapping[str, Any]) -> str:
    images = ", ".join(map(str, {int(one["images"]) for one in found.values()}))
    return f"Least time of a step on {images} images, without optimiser and loading."


COSTS = Analysis(
    run=_run,
    requires=("model", "data"),
    cost=lambda count: f"{counted(count, 'methods')}, a few steps each",
    data_spec="folder:DIR",
    rows=_rows,
    over=_over,
)
"""The time of a step, as `step_costs` takes it."""
