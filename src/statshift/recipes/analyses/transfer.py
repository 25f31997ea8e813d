"""Features that carry over: extracted from each network, answered by each of the others."""

from functools import partial
from typing import TYPE_CHECKING, Any

from statshift.making.extraction import ExtractionOptions, extract
from statshift.measuring.measure import measure
from statshift.recipes.analyses.analysis import Analysis, line_for_each_label
from statshift.recipes.analyses.studying import Setting, study
from statshift.recipes.description import counted
from statshift.recipes.options import RunOptions

if TYPE_CHECKING:
    from statshift.recipes.analysing import AnalysisRecipe


def _transfer(recipe: "AnalysisRecipe", options: RunOptions, kind: str) -> dict[str, Any]:
    return study(recipe, options, partial(_answered, kind=kind))


def _answered(models: Any, setting: Setting, kind: str) -> dict[str, dict[str, Any]]:
    """Return the accuracy of each other model on the data set of the features of each.

    Reference:
        Benz et al., ICLR 2021 submission, Table 3 and appendix B.3.
    """
    found: dict[str, dict[str, Any]] = {}
    for label, make in models.items():
        setting.tell(f"features of {label}")
        model = make()
        folder = setting.out / label
        data = setting.load(model)
        options = ExtractionOptions(seed=setting.seed)
        made = extract(model, data, kind, options, out=folder / "features", device=setting.device)
        spec = f"npz:{made.path / 'images.npz'}"
        figures = {}
        for other in models:
            if other != label:
                setting.tell(f"features of {label}, answered by {other}")
                run = measure(
                    models[other](), spec, shifts=("clean",), out=folder / other, device=setting.device, examples=0
                )
                figures[other] = run.summary["protocols"]["source"]["clean_accuracy"]
        found[label] = {"figures": figures, "images": len(data)}
    return found


def _cost(count: int) -> str:
    return f"{counted(count, 'extractions')} of 1,000 steps an image, {count * (count - 1)} measurements"


def _analysis(kind: str) -> Analysis:
    return Analysis(run=partial(_transfer, kind=kind), cost=_cost, rows=line_for_each_label)


TRANSFER, TRANSFER_ROBUST = _analysis("nonrobust"), _analysis("robust")
"""How well features extracted from each network serve the others."""
