"""Networks on the images of `write_advbn`: the worst cases, and the control beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statshift._core.errors import InputError
from statshift.data.preprocessing import SMALLEST_INPUT
from statshift.making.advbn import CONTROL_TREE, WORST_TREE
from statshift.measuring.measure import measure
from statshift.recipes.analyses.analysis import Analysis, Published, theirs
from statshift.recipes.analyses.studying import Setting, study
from statshift.recipes.description import Rows, counted, in_percent
from statshift.recipes.options import RunOptions
from statshift.results.records import read_record

if TYPE_CHECKING:
    from statshift.recipes.analysing import AnalysisRecipe


def _decoded(recipe: "AnalysisRecipe", options: RunOptions) -> dict[str, Any]:
    return study(recipe, options, _answered_decoded)


def _answered_decoded(models: Any, setting: Setting) -> dict[str, dict[str, Any]]:
    """Return the accuracy of each network on the trees of one folder, or of two.

    Reference:
        Shu et al., the ICLR 2021 submission, appendix A and Table 7.
    """
    sets = _trees(setting)
    found = {}
    for label, make in models.items():
        figures, images = {}, 0
        for name, (spec, how) in sets.items():
            setting.tell(f"{label} on {name}")
            run = measure(
                make(),
                spec,
                shifts=("clean",),
                out=setting.out / label / name.replace(", ", "-"),
                device=setting.device,
                data_options={**how, **{key: one for key, one in setting.data_options.items() if one is not None}},
                examples=0,
            )
            figures[name] = run.summary["protocols"]["source"]["clean_accuracy"]
            images = run.summary["images"]
        found[label] = {"figures": figures, "images": images}
    return found


def _trees(setting: Setting) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return by name, such as "advbn, conv2_3", the spec of each tree and how its images are read as they are.

    Raises:
        InputError: data that `write_advbn` has not written, or not finished.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for given in (setting.data, setting.against):
        if given is None:
            continue
        scheme, _, place = given.partition(":") if isinstance(given, str) else ("", "", "")
        trees = [tree for tree in (WORST_TREE, CONTROL_TREE) if place and (Path(place) / tree).is_dir()]
        if scheme != "folder" or not trees:
            raise InputError(
                f"Expected the data as folder:DIR that `write_advbn` wrote, with {WORST_TREE} in it, but got {given}."
            )
        record = read_record(Path(place))
        if "found" not in record:
            raise InputError(f"{place} is not finished: run the command that writes it again, and it goes on.")
        _, height, width = record["data"]["shape"]
        how = {"resize": height, "crop": width} if height == width >= SMALLEST_INPUT else {}
        found |= {f"{tree}, {record['decoder']['at']}": (f"{given}/{tree}", how) for tree in trees}
    return found


def _accuracies(published: Published, found: Mapping[str, Any]) -> Rows:
    """Return a row for each network and a column for each tree, in %, then theirs."""
    ours = {label: one["analysis"]["figures"] for label, one in found.items()}
    names = list(dict.fromkeys(name for figures in ours.values() for name in figures))
    printed = any(published.values())
    rows = [["label", *names, *([f"their {name}" for name in names] if printed else ["published"])]]
    for label, figures in ours.items():
        told = theirs(published, label, names if printed else [])
        rows.append([label, *(in_percent(figures.get(name)) for name in names), *told])
    return rows


DECODED_SETS = Analysis(
    run=_decoded,
    takes=("against",),
    cost=lambda count: f"{counted(count, 'models')} x 2 sets of images",
    data_spec="folder:DIR, as `statshift make advbn` writes it; another encoder's as --against",
    rows=_accuracies,
)
"""The accuracy of networks on worst cases of features, made images of, and on the control."""
