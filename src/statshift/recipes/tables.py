"""The tables of what a recipe found beside what the authors print: rows of cells, a head first."""

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from statshift.hardening.validation import LIGS
from statshift.recipes.analyses.analysis import theirs
from statshift.recipes.description import Rows, in_percent, name_of
from statshift.recipes.sources import BASE, COLUMNS, RECTIFIED, column_of, set_scores
from statshift.shifts.registry import averaged, family_of
from statshift.tasks.classification import CLASSIFICATION

if TYPE_CHECKING:
    from statshift.recipes.configuration import Found, Recipe


def branch_rows(chosen: "Recipe", found: "Found") -> Rows:
    """Return the table of fine-tuned branches, in %, beside what the authors print.

    A figure that they have and our copy of the paper does not print is "not in our copy"; "-" is where there is none.
    """
    printed = [figures for figures in chosen.published.values() if figures]
    columns = [column for column in COLUMNS if any(column in figures for figures in printed)]
    heads = [f"their {COLUMNS[column]}" for column in columns] or ["published"]
    every = [set_scores(one.get("shifts", {})) for by_branch in found.values() for one in by_branch.values()]
    sets = [column for column in COLUMNS if any(column in scores for scores in every)]
    own = ["clean", "mean of shifts", "mCE", *(COLUMNS[column] for column in sets)]
    rows = [["label", "branch", *own, *heads]]
    for label in dict.fromkeys([BASE, *found, *chosen.published]):
        published = theirs(chosen.published, label, columns)
        for branch, one in found.get(label, {"-": {}}).items():
            ours = [clean_score(one), *(one.get(column) for column in ("mean_of_shifts", "mce"))]
            ours += [set_scores(one.get("shifts", {})).get(column) for column in sets]
            rows.append([label, branch, *map(in_percent, ours), *published])
            published = [""] * len(heads)
    return rows


def network_rows(chosen: "Recipe", found: "Found") -> Rows:
    """Return the table of a recipe's own networks, trained or measured as they are, beside what the authors print.

    Accuracies, of which "corrupted" is the mean over corruptions, and mCE are in %; LIGS and smoothness are not.
    """
    ours = {label: own_figures(one) for label, one in found.items()}
    columns = list(dict.fromkeys(name for figures in ours.values() for name in figures))
    printed = {name for figures in chosen.published.values() for name in figures or {}}
    if getattr(chosen, "sets", None):  # then theirs stand there whether ours are measured or not
        columns = list(dict.fromkeys([*columns, *(name for name in COLUMNS if name in printed)]))
    shared = [name for name in columns if name in printed]
    heads = [f"their {_head(name)}" for name in shared] or (["published"] if chosen.published else [])
    rows = [["label", *map(_head, columns), *heads]]
    for label in chosen.labels:
        cells = [_figure(name, ours.get(label, {}).get(name)) for name in columns]
        rows.append([label, *cells, *(theirs(chosen.published, label, shared) if heads else [])])
    return rows


def own_figures(by_branch: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the columns of one network: each figure of the source, then of what was rectified."""
    source, *adapted = by_branch
    names = {source: ""} | {one: RECTIFIED if len(adapted) == 1 else f", {one.rpartition(', ')[2]}" for one in adapted}
    columns = {names[branch]: _plain_figures(one) for branch, one in by_branch.items()}
    every = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    return {name + behind: figures[name] for name in every for behind, figures in columns.items() if name in figures}


def headline_of(one: Mapping[str, Any]) -> str:
    """Return what the score of figures is called."""
    return str(one.get("headline", CLASSIFICATION.headline))


def clean_score(one: Mapping[str, Any]) -> float | None:
    """Return the score of images as they are, None where not measured."""
    score: float | None = one.get(f"clean_{headline_of(one)}")
    return score


def family_in(one: Mapping[str, Any], shift: str) -> str:
    """Return a shift's family: what the figures say of it, else what ships by its name."""
    return str(one.get("families", {}).get(shift) or family_of(shift))


def _plain_figures(one: Mapping[str, Any]) -> dict[str, float | None]:
    families = {shift: family_in(one, shift) for shift in one["shifts"] if not column_of(shift)}
    counted = averaged({shift: family for shift, family in families.items() if family != "attack"})
    corruptions = [one["shifts"][shift] for shift in counted]
    figures = {
        **({} if (clean := clean_score(one)) is None else {"clean": clean}),
        **{shift: accuracy for shift, accuracy in one["shifts"].items() if families.get(shift) == "attack"},
        **({"corrupted": fmean(corruptions)} if corruptions else {}),
        **({} if one["mce"] is None else {"mce": one["mce"]}),
        **set_scores(one["shifts"]),
        **{f"LIGS {name}": value for name, value in one["ligs"].items()},
    }
    return figures | ({"smoothness": one["smoothness"]} if "smoothness" in one else {})


def shift_rows(found: "Found") -> Rows:
    """Return accuracies in %, a line for each shift, a column for each label; a shared source stands once."""
    columns: dict[str, Mapping[str, float]] = {}
    for label, by_branch in found.items():
        for branch, one in by_branch.items():
            shared = len(by_branch) > 1 and branch == next(iter(by_branch))
            name = branch if shared else label if len(by_branch) <= 2 else f"{label}, {branch}"
            if not shared or one["shifts"] not in columns.values():
                columns[name if name not in columns else f"{label}, {branch}"] = one["shifts"]
    shifts = list(dict.fromkeys(shift for one in columns.values() for shift in one))
    rows = [["shift", *columns]]
    rows += [[shift, *(in_percent(one.get(shift)) for one in columns.values())] for shift in shifts]
    return rows


def _head(name: str) -> str:
    column, _, behind = name.partition(",")
    return name_of(column) + behind


def _figure(name: str, value: float | None) -> str:
    if value is None or name == "smoothness":
        return "-" if value is None else f"{value:.3g}"
    return f"{value:.3f}" if name.startswith(LIGS) else in_percent(value)
