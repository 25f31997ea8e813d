"""A recipe from a YAML file; it is data, of which nothing runs but what `py:` names when the recipe is run."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from statshift._core.errors import InputError, unknown
from statshift._core.strict import load_strictly
from statshift.adapting.options import AdaptationOptions
from statshift.hardening.training import TrainingOptions
from statshift.recipes.analyses.registry import ANALYSES
from statshift.recipes.analysing import AnalysisRecipe
from statshift.recipes.building import WRONG, Faults, Merged, build_value, fields_of, is_known, tell_wrong
from statshift.recipes.configuration import Recipe
from statshift.recipes.domains import DomainRecipe
from statshift.recipes.faults import RecipeError
from statshift.recipes.measuring import MeasuringRecipe
from statshift.recipes.training import TrainingRecipe
from statshift.recipes.writing import ADAPTATION, SECTIONS, TRAINING

VERBS: dict[type[Recipe], str] = {
    TrainingRecipe: "trains",
    DomainRecipe: "trains",
    MeasuringRecipe: "trains nothing",
    AnalysisRecipe: "has an analysis",
}
"""What each kind of recipe does."""


def read_recipe(path: str | Path) -> Recipe:
    """Return the recipe of a file.

    Raises:
        InputError: the file cannot be read, or is wrong; all faults are told at once, each with its place.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"Cannot read the recipe {path}: {reason}.") from error
    return parse_recipe(text, str(path))


def parse_recipe(text: str, where: str = "The recipe") -> Recipe:
    """Return the recipe of a file's text; `where` names it in errors.

    Raises:
        InputError: as `read_recipe`.
    """
    content, faults = load_strictly(text, where), Faults()
    shared = {name: content.pop(name, None) for name in (TRAINING, ADAPTATION)}
    content = {name: value for name, value in content.items() if is_known(name, SECTIONS, "", faults)}
    for name in ("name", "title"):
        if not isinstance(content.get(name), str):
            tell_wrong("text", content.get(name), name, faults)
            content[name] = ""
    content = {name: _labelled(value) for name, value in content.items()}
    for name in ("files", "sets"):
        content[name] = _with(content.get(name), lambda path: "" if path is None else path)
    content["options"] = _with(content.get("options"), lambda one: {} if one is None else one)
    _share(content, shared, faults)
    unknown_analysis = _known_analysis(content)
    kind = _kind_of(content)
    built = _fields_of_kind(kind, content, faults)
    try:
        recipe = kind(**{name: value for name, value in built.items() if value is not WRONG})
    except RecipeError as error:
        for fault in error.faults:
            if not _follows(fault, faults.found, built):
                faults.add("", fault)
    if unknown_analysis:
        faults.add("analysis", unknown_analysis)
    if faults.found:
        raise RecipeError(faults.found, where)
    return recipe


def _known_analysis(content: dict[str, Any]) -> str:
    """Take an analysis that there is not out of the content, and return what is wrong with it, or ""."""
    name = content.get("analysis")
    if not isinstance(name, str) or not name or name in ANALYSES:
        return ""
    del content["analysis"]
    return str(unknown("analysis", name, ANALYSES))


def _kind_of(content: Mapping[str, Any]) -> type[Recipe]:
    """Return which kind of recipe it is, by what stands in it."""
    if content.get("analysis"):
        return AnalysisRecipe
    trains = DomainRecipe if content.get("domains") else TrainingRecipe
    return trains if content.get("options") else MeasuringRecipe


def _fields_of_kind(kind: type[Recipe], content: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """Return the fields of a recipe, each built or `WRONG`; what its kind has no place for must be empty."""
    own = {field.name for field in fields(kind)}
    excess = {name: value for name, value in content.items() if name not in own}
    for other in (TrainingRecipe, AnalysisRecipe, DomainRecipe):
        hints = get_type_hints(other)
        for name in [name for name in excess if name in hints]:
            value = excess.pop(name)
            if value and build_value(hints[name], value, name, faults) is not WRONG:
                faults.add(name, f"Expected none in a recipe that {VERBS[kind]}.")
    return fields_of(kind, {name: value for name, value in content.items() if name in own}, "", faults)


def _follows(fault: str, found: Sequence[str], built: Mapping[str, Any]) -> bool:
    """Return whether a fault only follows from one that is found: of a part, or its labels, that could not be read."""
    part, _, what = fault.partition(": ")
    unread = {name for name, value in built.items() if value is WRONG}
    entries = any(one.startswith(f"{part}[") for one in found)
    unlabelled = bool(unread & {"options", "networks"}) and ("label" in what.partition("'")[0])
    return part in unread or entries or unlabelled


def _share(content: dict[str, Any], shared: Mapping[str, Any], faults: Faults) -> None:
    """Give every label what is said of all, and one list of shifts to all."""
    options, networks = content.get("options"), content.get("networks")
    labels = list(options or networks or {}) if isinstance(options or networks, dict) else []
    for name, kind in ((TRAINING, TrainingOptions), (ADAPTATION, AdaptationOptions)):
        given = shared[name]
        if given is None:
            continue
        if not isinstance(given, dict):
            tell_wrong("names and values", given, name, faults)
            continue
        built = fields_of(kind, given, name, faults)
        good = {key: given[key] for key, value in built.items() if value is not WRONG}
        if name == ADAPTATION:
            own = content.get("adaptation") or {}
            if isinstance(own, dict):
                content["adaptation"] = {label: _merged(good, own.get(label)) for label in labels} | {
                    label: one for label, one in own.items() if label not in labels
                }
        elif isinstance(options, dict):
            content["options"] = {
                label: one | {"training": _merged(good, one.get("training"))} if isinstance(one, dict) else one
                for label, one in options.items()
            }
    if isinstance(content.get("shifts"), list):
        content["shifts"] = dict.fromkeys(labels, content["shifts"])


def _merged(common: Mapping[str, Any], own: Any) -> Any:
    return Merged({**common, **own}, own) if isinstance(own, dict) else Merged(common, {}) if own is None else own


def _labelled(value: Any) -> Any:
    """Return a mapping with labels that are text, whatever YAML takes them for."""
    return {str(label): one for label, one in value.items()} if isinstance(value, dict) else value


def _with(value: Any, change: Any) -> Any:
    return (
        {key: change(one) for key, one in value.items()} if isinstance(value, dict) else {} if value is None else value
    )
