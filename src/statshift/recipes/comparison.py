"""What a recipe's figures are over, and in what that is not what the authors' are over, in sentences."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from statshift.recipes.sources import COLUMNS, DATA_SETS, RECTIFIED, column_of
from statshift.recipes.tables import family_in
from statshift.results.means import BENCHMARK
from statshift.shifts.shift import CLEAN

if TYPE_CHECKING:
    from statshift.recipes.configuration import Found, Recipe
    from statshift.recipes.training import TrainingRecipe


def ours_and_theirs(chosen: "Recipe", found: "Found", data: str | None, named: "Recipe | None") -> list[str]:
    """Return what our figures are over and whether theirs are over the same.

    Args:
        chosen: the recipe.
        found: what it found.
        data: spec of the images that ours are of.
        named: the recipe that a file was copied from, whose conditions are theirs.
    """
    every = [one for by_branch in found.values() for one in by_branch.values()]
    lines = list(
        dict.fromkeys(
            f"Ours are over {one['images']:,} images{f' of {data}' if data else ''} under "
            f"{conditions_text(_of_its_own(one['conditions']))}."
            for one in every
            if "conditions" in one
        )
    )
    if len(lines) > 1 and len({one["images"] for one in every}) == 1:
        all_conditions = list(dict.fromkeys(condition for one in every for condition in one["conditions"]))
        of = f" of {data}" if data else ""
        lines = [
            f"Ours are over {every[0]['images']:,} images{of} under {conditions_text(_of_its_own(all_conditions))}."
        ]
    lines += _over_sets(every)
    printed = {name.removesuffix(RECTIFIED) for figures in chosen.published.values() for name in figures or {}}
    if not (printed and every):
        return lines
    others = _other_conditions(chosen, found, named) if printed & {"corrupted", "mce"} else []
    return [*lines, *([_over_data(chosen, found, data, named, bool(others))] if chosen.data_set else []), *others]


def _over_data(chosen: "Recipe", found: "Found", data: str | None, named: "Recipe | None", told: bool) -> str:
    """Return the sentence on the data of theirs; `told`: that conditions are others stands elsewhere."""
    every = [one for by_branch in found.values() for one in by_branch.values()]
    theirs, scheme = DATA_SETS[chosen.data_set], (data or "").partition(":")[0]
    counts = {one["images"] for one in every}
    whole = f"Theirs are over all {theirs.images:,} images of {chosen.data_set}"
    variants = whole if chosen.networks and not getattr(chosen, "sets", None) else f"{whole} and of its variants"
    if counts != {theirs.images} or scheme not in theirs.schemes:
        return f"{variants}: not the same data."
    if not told and any(_differ(chosen, named, label, by_branch) for label, by_branch in found.items()):
        return f"{variants}, under other conditions."
    on_disk = scheme.endswith("-c")
    corrupted = any(
        family_in(one, name) not in ("clean", "attack")
        for one in every
        for name, _ in _of_its_own(one.get("conditions", ()))
    )
    if corrupted and not on_disk:
        return f"{variants}, corrupted beforehand and stored; ours are corrupted here."
    return f"{variants}."


def _other_conditions(chosen: "Recipe", found: "Found", named: "Recipe | None") -> list[str]:
    """Return the sentence that says that mean and mCE of theirs are of other conditions than ours, where they are."""
    wrong = {label: one for label, one in found.items() if _differ(chosen, named, label, one)}
    if not wrong:
        return []
    theirs = dict.fromkeys(one for label in wrong for one in _shifted(_as_named(chosen, named, label), label))
    measured = [one["conditions"] for by_branch in wrong.values() for one in by_branch.values()]
    own = [one for conditions in measured for one in _of_its_own(conditions)]
    ours = dict.fromkeys(tuple(one) for one in own if one[0] != CLEAN)
    whole = {shift for shift, _ in theirs} == set(BENCHMARK) and len(theirs) == 5 * len(BENCHMARK)
    over = "the 15 corruptions at five severities" if whole else conditions_text(list(theirs))
    under = f"are under {conditions_text(list(ours))}" if ours else "are of clean images alone"
    return [f"Theirs: the mean over {over}; ours {under}: not the same conditions."]


def _of_its_own(measured: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Return the conditions of the images that a recipe is run on: those that are of no set."""
    return [one for one in measured if not column_of(one[0])]


def _over_sets(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the sentence on the sets that have images of their own."""
    counts: dict[str, dict[int, None]] = {}
    for one in every:
        for name, images in one.get("sets", {}).items():
            if column := column_of(name):
                counts.setdefault(COLUMNS[column], {})[images] = None
    told = [f"{name} {' or '.join(f'{images:,}' for images in own)}" for name, own in counts.items()]
    return [f"Images of the sets: {', '.join(told)}."] if told else []


def other_epochs(chosen: "TrainingRecipe", named: "Recipe | None") -> list[str]:
    """Return the sentence that says for how long ours are trained, where flags or a file change it."""
    if named is None or not chosen.published:
        return []
    theirs_by_label = named.numbers
    pairs = [
        (one.epochs, theirs_by_label[label].epochs) for label, one in chosen.numbers.items() if label in theirs_by_label
    ]
    if not (pairs := [(ours, theirs) for ours, theirs in pairs if ours != theirs]):
        return []
    ours, theirs = (", ".join(map(str, sorted(set(one)))) for one in zip(*pairs, strict=True))
    return [f"Ours are trained for {ours} {'epoch' if ours == '1' else 'epochs'}, theirs for {theirs}."]


def other_rectifying(chosen: "Recipe", named: "Recipe | None") -> list[str]:
    """Return the sentence that says how ours are rectified, where flags or a file change it."""
    own = {} if named is None else named.adaptation
    if all(one == own.get(label, one) for label, one in chosen.adaptation.items()):
        return []
    ways = chosen.adaptation.values()
    samples, draws = (
        ", ".join(map(str, sorted({getattr(one, name) for one in ways}))) for name in ("samples", "draws")
    )
    evaluated = {one.include_adaptation for one in ways}
    how = "" if len(evaluated) > 1 else ", which are evaluated on too" if evaluated.pop() else ", which are left out"
    return [f"Ours are rectified on {samples} images ({draws} {'draw' if draws == '1' else 'draws'}){how}; not theirs."]


def _differ(chosen: "Recipe", named: "Recipe | None", label: str, by_branch: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether a label was measured under other conditions than the recipe's."""
    chosen = _as_named(chosen, named, label)
    if any(name.startswith("py:") for name in chosen.shifts.get(label, ())):
        return False
    wanted = set(_shifted(chosen, label))
    conditions = _of_its_own(next(iter(by_branch.values()))["conditions"])
    return wanted != {(shift, severity) for shift, severity in conditions} - {(CLEAN, 0)}


def _shifted(chosen: "Recipe", label: str) -> list[tuple[str, int]]:
    """Return the recipe's conditions of a label, but for the clean images."""
    return [(one.shift, one.severity) for one in chosen.conditions(label) if one.shift != CLEAN]


def _as_named(chosen: "Recipe", named: "Recipe | None", label: str) -> "Recipe":
    """Return the recipe that a file was copied from, whose conditions are theirs, if it has the label."""
    return chosen if named is None or label not in named.labels else named


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
