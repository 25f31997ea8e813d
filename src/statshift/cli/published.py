"""What a recipe found beside what the authors print, as text and as plain data."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from statshift._core.tables import table
from statshift.hardening.validation import LIGS
from statshift.recipes import (
    ABSENT,
    ANALYSES,
    AUTHORS_BRANCH,
    BASE,
    COLUMNS,
    DATA_SETS,
    RECIPES,
    RECTIFIED,
    Recipe,
    describe,
    name_of,
    percent,
    recipe,
)
from statshift.results.means import BENCHMARK
from statshift.shifts.conditions import conditions, resolve
from statshift.shifts.registry import averaged, family_of
from statshift.shifts.shift import CLEAN

Found = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What `run_recipe` returns."""


def beside(chosen: Recipe, found: Found, data: str | None) -> dict[str, Any]:
    """Return a recipe's result as plain data: ours and theirs by label, and over what; `data` is what ours are of."""
    return {
        **described(chosen),
        "reference": chosen.reference,
        "note": chosen.note,
        "over": [*over_lines(chosen, found, data), *_departure(chosen)],
        "ours": found,
        "published": chosen.published,
    }


def described(chosen: Recipe) -> dict[str, Any]:
    """Return what the list says of a recipe, but for the cost, which is another where flags narrow the run."""
    return {name: value for name, value in describe(chosen).items() if name != "cost"}


def result_text(chosen: Recipe, found: Found, data: str | None = None) -> str:
    """Return the table of a recipe's result, ours beside theirs; see `run_recipe`."""
    if chosen.analysis:
        return analysis_text(chosen, found, data)
    return networks_text(chosen, found, data) if chosen.networks else recipe_text(chosen, found, data)


def branches_text(chosen: Recipe) -> str:
    """Return the authors' choice of branch by data set."""
    rows = [["data set", "branch"], *([name, branch] for name, branch in AUTHORS_BRANCH.items())]
    return f"{chosen.title[0].upper()}{chosen.title[1:]} ({chosen.reference})\n\n{table(rows)}"


def costs_text(chosen: Recipe, costs: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table of what `step_costs` found."""
    rows = [["method", "ms", "ratio", "published"]]
    for label, one in costs.items():
        rows.append([label, f"{1000 * one['seconds']:.1f}", f"{one['ratio']:.2f}", ABSENT])
    images = ", ".join(map(str, {int(one["images"]) for one in costs.values()}))
    over = f"Least time of a step on {images} images, without optimiser and loading. {chosen.note}"
    return "\n".join([_title(chosen), f"{over}\n", table(rows)])


def recipe_text(chosen: Recipe, found: Found, data: str | None = None) -> str:
    """Return the table of fine-tuned branches, in %, beside what the authors print.

    A figure that they have and our copy of the paper does not print is "not in our copy"; "-" is where there is none.
    """
    printed = [figures for figures in chosen.published.values() if figures]
    columns = [column for column in COLUMNS if any(column in figures for figures in printed)]
    heads = [f"their {COLUMNS[column]}" for column in columns] or ["published"]
    rows = [["label", "branch", "clean", "mean of shifts", "mCE", *heads]]
    for label in dict.fromkeys([BASE, *found, *chosen.published]):
        theirs = _theirs(chosen, label, columns)
        for branch, one in found.get(label, {"-": {}}).items():
            ours = [percent(one.get(column)) for column in ("clean_accuracy", "mean_of_shifts", "mce")]
            rows.append([label, branch, *ours, *theirs])
            theirs = [""] * len(heads)
    return _with_head(chosen, found, data, table(rows))


def networks_text(chosen: Recipe, found: Found, data: str | None = None) -> str:
    """Return the table of a recipe's own networks, trained or measured as they are, beside what the authors print.

    Accuracies, of which "corrupted" is the mean over corruptions, and mCE are in %; LIGS and smoothness are not.
    """
    ours = {label: own_figures(one) for label, one in found.items()}
    columns = list(dict.fromkeys(name for figures in ours.values() for name in figures))
    printed = {name for figures in chosen.published.values() for name in figures or {}}
    theirs = [name for name in columns if name in printed]
    heads = [f"their {_head(name)}" for name in theirs] or (["published"] if chosen.published else [])
    rows = [["label", *map(_head, columns), *heads]]
    for label in chosen.labels:
        figures = ours.get(label, {})
        rows.append(
            [
                label,
                *(_figure(name, figures.get(name)) for name in columns),
                *(_theirs(chosen, label, theirs) if heads else []),
            ]
        )
    text = _with_head(chosen, found, data, table(rows))
    return f"{text}\n\n{_shifts_table(found)}" if chosen.by_shift else text


def analysis_text(chosen: Recipe, found: Found, data: str | None = None) -> str:
    """Return the table of an analysis: a line for each figure, a column for each model."""
    shares = chosen.analysis.startswith("transfer")
    ours = {label: one["analysis"]["figures"] for label, one in found.items()}
    names = list(dict.fromkeys(name for figures in ours.values() for name in figures))
    if shares:  # models are both lines and columns
        rows = [["features of", *names, *(f"their {name}" for name in names)]]
        for label, figures in ours.items():
            rows.append([label, *(percent(figures.get(name)) for name in names), *_theirs(chosen, label, names)])
    else:
        rows = [["", *ours, *(["published"] if chosen.published else [])]]
        for name in names:
            cells = [f"{figures[name]:.3g}" if name in figures else "-" for figures in ours.values()]
            rows.append([name_of(name), *cells, *([ABSENT] if chosen.published else [])])
    images = ", ".join(f"{count:,}" for count in sorted({one["analysis"]["images"] for one in found.values()}))
    lines = [_title(chosen), f"{ANALYSES[chosen.analysis].capitalize()}; over {images} images."]
    return "\n".join([*lines, *([chosen.note] if chosen.note else []), "", table(rows)])


def over_lines(chosen: Recipe, found: Found, data: str | None) -> list[str]:
    """Return what our figures are over and whether theirs are over the same, in sentences."""
    every = [one for by_branch in found.values() for one in by_branch.values()]
    lines = list(
        dict.fromkeys(
            f"Ours are over {one['images']:,} images{f' of {data}' if data else ''} under "
            f"{conditions_text(one['conditions'])}."
            for one in every
            if "conditions" in one
        )
    )
    if len(lines) > 1 and len({one["images"] for one in every}) == 1:
        all_conditions = list(dict.fromkeys(condition for one in every for condition in one["conditions"]))
        named = f" of {data}" if data else ""
        lines = [f"Ours are over {every[0]['images']:,} images{named} under {conditions_text(all_conditions)}."]
    printed = {name.removesuffix(RECTIFIED) for figures in chosen.published.values() for name in figures or {}}
    if not (printed and every):
        return lines
    others = _other_conditions(chosen, found) if printed & {"corrupted", "mce"} else []
    return [*lines, *([_over_data(chosen, found, data, bool(others))] if chosen.data_set else []), *others]


def _over_data(chosen: Recipe, found: Found, data: str | None, told: bool) -> str:
    """Return the sentence on the data of theirs; `told`: that conditions are others stands elsewhere."""
    every = [one for by_branch in found.values() for one in by_branch.values()]
    theirs, scheme = DATA_SETS[chosen.data_set], (data or "").partition(":")[0]
    counts = {one["images"] for one in every}
    whole = f"Theirs are over all {theirs.images:,} images of {chosen.data_set}"
    variants = f"{whole} and of its variants" if not chosen.networks else whole
    if counts != {theirs.images} or scheme not in theirs.schemes:
        return f"{variants}: not the same data."
    if not told and any(_differ(chosen, label, by_branch) for label, by_branch in found.items()):
        return f"{variants}, under other conditions."
    on_disk = scheme.endswith("-c")
    corrupted = any(
        _family(one, name) not in ("clean", "attack") for one in every for name, _ in one.get("conditions", ())
    )
    if corrupted and not on_disk:
        return f"{variants}, corrupted beforehand and stored; ours are corrupted here."
    return f"{variants}."


def _other_conditions(chosen: Recipe, found: Found) -> list[str]:
    """Return the sentence that says that mean and mCE of theirs are of other conditions than ours, where they are."""
    wrong = {label: one for label, one in found.items() if _differ(chosen, label, one)}
    if not wrong:
        return []
    theirs = dict.fromkeys(one for label in wrong for one in _conditions(_as_named(chosen, label), label))
    measured = [one["conditions"] for by_branch in wrong.values() for one in by_branch.values()]
    ours = dict.fromkeys(tuple(one) for conditions in measured for one in conditions if one[0] != CLEAN)
    whole = {shift for shift, _ in theirs} == set(BENCHMARK) and len(theirs) == 5 * len(BENCHMARK)
    over = "the 15 corruptions at five severities" if whole else conditions_text(list(theirs))
    under = f"are under {conditions_text(list(ours))}" if ours else "are of clean images alone"
    return [f"Theirs: the mean over {over}; ours {under}: not the same conditions."]


def _departure(chosen: Recipe) -> list[str]:
    """Return the sentences that say how ours are trained or rectified, where flags or a file change what is theirs."""
    named = recipe(chosen.name) if chosen.name in RECIPES else None
    return [*_other_epochs(chosen, named), *_other_rectifying(chosen, {} if named is None else named.adaptation)]


def _other_epochs(chosen: Recipe, named: Recipe | None) -> list[str]:
    if named is None or not chosen.trains or not chosen.published:
        return []
    pairs = [
        (one.training.epochs, named.options[label].training.epochs)
        for label, one in chosen.options.items()
        if label in named.options
    ]
    if not (pairs := [(ours, theirs) for ours, theirs in pairs if ours != theirs]):
        return []
    ours, theirs = (", ".join(map(str, sorted(set(one)))) for one in zip(*pairs, strict=True))
    return [f"Ours are trained for {ours} {'epoch' if ours == '1' else 'epochs'}, theirs for {theirs}."]


def _other_rectifying(chosen: Recipe, named: Mapping[str, Any]) -> list[str]:
    if all(one == named.get(label, one) for label, one in chosen.adaptation.items()):
        return []
    ways = chosen.adaptation.values()
    samples, draws = (
        ", ".join(map(str, sorted({getattr(one, name) for one in ways}))) for name in ("samples", "draws")
    )
    evaluated = {one.include_adaptation for one in ways}
    how = "" if len(evaluated) > 1 else ", which are evaluated on too" if evaluated.pop() else ", which are left out"
    return [f"Ours are rectified on {samples} images ({draws} {'draw' if draws == '1' else 'draws'}){how}; not theirs."]


def _differ(chosen: Recipe, label: str, by_branch: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether a label was measured under other conditions than the recipe's."""
    chosen = _as_named(chosen, label)
    if any(name.startswith("py:") for name in chosen.shifts.get(label, ())):
        return False
    wanted = set(_conditions(chosen, label))
    measured = {(shift, severity) for shift, severity in next(iter(by_branch.values()))["conditions"]} - {(CLEAN, 0)}
    return wanted != measured


def _conditions(chosen: Recipe, label: str) -> list[tuple[str, int]]:
    """Return the recipe's conditions of a label, but for the clean images."""
    shifts = resolve(chosen.shifts.get(label, (CLEAN, "common")))
    return [(one.shift, one.severity) for one in conditions(shifts, chosen.severities) if one.shift != CLEAN]


def _as_named(chosen: Recipe, label: str) -> Recipe:
    """Return the recipe that a file was copied from, whose conditions are theirs, if it has the label."""
    named = recipe(chosen.name) if chosen.name in RECIPES else chosen
    return named if label in named.labels else chosen


def conditions_text(measured: Sequence[Sequence[Any]]) -> str:
    """Return "clean; fog, snow at 1, 3" for conditions."""
    levels: dict[str, list[int]] = {}
    for shift, severity in measured:
        levels.setdefault(shift, []).append(severity)
    groups: dict[tuple[int, ...], list[str]] = {}
    for shift, own in levels.items():
        groups.setdefault(tuple(own), []).append(shift)
    parts = []
    for severities, shifts in groups.items():
        named = "the 15 common corruptions" if set(shifts) == set(BENCHMARK) else ", ".join(shifts)
        parts.append(named if severities == (0,) else f"{named} at severity {', '.join(map(str, severities))}")
    return "; ".join(parts)


def _title(chosen: Recipe) -> str:
    return f"{chosen.name}: {chosen.title}{f' ({chosen.reference})' if chosen.source else ''}"


def _with_head(chosen: Recipe, found: Found, data: str | None, body: str) -> str:
    notes = [chosen.note] if chosen.note else []
    return "\n".join([_title(chosen), *over_lines(chosen, found, data), *_departure(chosen), *notes, "", body])


def own_figures(by_branch: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the columns of one network: each figure of the source, then of what was rectified."""
    source, *adapted = by_branch
    names = {source: ""} | {one: RECTIFIED if len(adapted) == 1 else f", {one.rpartition(', ')[2]}" for one in adapted}
    columns = {names[branch]: _plain_figures(one) for branch, one in by_branch.items()}
    every = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    return {name + behind: figures[name] for name in every for behind, figures in columns.items() if name in figures}


def _plain_figures(one: Mapping[str, Any]) -> dict[str, float | None]:
    families = {shift: _family(one, shift) for shift in one["shifts"]}
    counted = averaged({shift: family for shift, family in families.items() if family != "attack"})
    corruptions = [one["shifts"][shift] for shift in counted]
    figures = {
        **({} if one["clean_accuracy"] is None else {"clean": one["clean_accuracy"]}),
        **{shift: accuracy for shift, accuracy in one["shifts"].items() if families[shift] == "attack"},
        **({"corrupted": fmean(corruptions)} if corruptions else {}),
        **({} if one["mce"] is None else {"mce": one["mce"]}),
        **{f"LIGS {name}": value for name, value in one["ligs"].items()},
    }
    return figures | ({"smoothness": one["smoothness"]} if "smoothness" in one else {})


def _family(one: Mapping[str, Any], shift: str) -> str:
    """Return a shift's family: what the figures say of it, else what ships by its name."""
    return str(one.get("families", {}).get(shift) or family_of(shift))


def _shifts_table(found: Found) -> str:
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
    rows += [[shift, *(percent(one.get(shift)) for one in columns.values())] for shift in shifts]
    return table(rows)


def _head(name: str) -> str:
    return name_of(name) if name.startswith("mce") else name.replace(",", "")


def _figure(name: str, value: float | None) -> str:
    if value is None or name == "smoothness":
        return "-" if value is None else f"{value:.3g}"
    return f"{value:.3f}" if name.startswith(LIGS) else percent(value)


def _theirs(chosen: Recipe, label: str, columns: Sequence[str]) -> list[str]:
    figures = chosen.published.get(label, {})
    if figures is None:
        return [ABSENT] * max(1, len(columns))
    return [percent(figures.get(column)) for column in columns] or ["-"]
