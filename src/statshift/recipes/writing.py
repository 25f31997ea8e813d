"""A recipe as a YAML file to edit, with a comment on each part.

What most labels share stands once, under `training_of_all` and `adaptation_of_all`; a label's own goes before it.
"""

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from statshift.hardening.options import HardenOptions
from statshift.recipes.configuration import Recipe

FILE_WIDTH = 100
TRAINING, ADAPTATION = "training_of_all", "adaptation_of_all"
SHOWN = {
    TRAINING: ("epochs", "batch_size", "learning_rate", "augment", "dtype", "seed"),
    ADAPTATION: ("samples", "draws", "include_adaptation"),
}
"""What is written of all labels even where it is the default, since it is what one changes first."""

SECTIONS: dict[str, str] = {
    "name": "A recipe of statshift. Run it with `statshift run FILE`; what its flags say goes before what stands here.",
    "title": "What it compares.",
    "source": "The papers' tables and figures: rectification, ligs, advbn or submission.",
    "note": "In what ours and theirs differ.",
    "data_set": "What the published figures are over; it says nothing of your data.",
    "wants": "What data it takes.",
    "data": "Images: cifar10, cifar100, svhn, digits, folder:DIR, npz:FILE, cifar-c:DIR, imagenet-c:DIR; "
    "to train on, or where nothing is trained to measure on; empty: give --data.",
    "validation": "Images to measure on after training; empty: --validation, or the test part of the above.",
    "loads": "What else says how all these data are loaded, such as ignore_index.",
    "trained_on": "Which part of the data is trained on: of (data or validation), the folder below it, the split.",
    "domains": "By name, the parts that are measured on after training.",
    "model": "The model that is fine-tuned; empty: give --model.",
    "files": "Weights that nobody ships, by name: a path each; empty: give --file NAME=PATH.",
    "sets": "Folders of ImageNet's variants that are measured besides, by name; empty: --set NAME=DIR, or left out.",
    "networks": "What is built, by label: spec, and if need be arguments, weights (a name of files), mean, std.",
    TRAINING: "How all labels train; --epochs, --batch-size, --learning-rate, --dtype and --seed change these.",
    "options": "By label, the method and what is its own; `training` in a label goes before the above.",
    "begins_with": "Labels that begin with the weights of another.",
    "fixed": "By label, the numbers it is compared by, which a flag for all labels leaves alone.",
    "protocols": "By which networks are rectified and measured again: auto, replace, prior:COUNT, py:FILE:FUNCTION.",
    ADAPTATION: "How all labels are rectified; --samples and --draws change these.",
    "adaptation": "By label, what is its own: samples, draws, statistics (both, mean, var), where, ...",
    "shifts": "What is measured under: clean, common (the 15), names, attacks such as pgd-l2:0.25, py:FILE:FUNCTION; "
    "a list, or a list for each label; left out: clean and common.",
    "severities": "Of these shifts, 1 to 5.",
    "ligs": "Perturbations with which LIGS is measured: gaussian, uniform, fgsm, pgd.",
    "trend": "Shifts that are measured after each epoch, on 1,000 images.",
    "walk": "Whether the landscape is walked after each epoch.",
    "by_shift": "Whether the table shows each shift.",
    "analysis": "What is done in place of training and measuring.",
    "published": "The authors' figures by label, as fractions; null: our copy of the paper does not print them.",
}
"""The parts of a file in their order, and what a comment says of each."""


def as_yaml(recipe: Recipe) -> str:
    """Return a recipe as the text of a file to edit, with a comment on each part."""
    content = _content(recipe)
    parts = []
    for name, comment in SECTIONS.items():
        if name in content:
            lines = [f"# {line}" for line in textwrap.wrap(comment, FILE_WIDTH - 2)]
            parts.append("\n".join([*lines, _section(name, content[name])]))
    return "\n\n".join(parts) + "\n"


def _content(recipe: Recipe) -> dict[str, Any]:
    """Return what is written, by section."""
    content: dict[str, Any] = _plain(recipe)
    content |= {"name": recipe.name, "title": recipe.title}
    content |= {name: getattr(recipe, name) or None for name in recipe.asks}
    if recipe.files:
        content["files"] = {name: path or None for name, path in recipe.files.items()}
    if sets := getattr(recipe, "sets", None):
        content["sets"] = {name: folder or None for name, folder in sets.items()}
    if options := getattr(recipe, "options", None):
        trainings = {label: one.training for label, one in options.items()}
        content[TRAINING], own = _shared(trainings, SHOWN[TRAINING])
        content["options"] = {label: _of_label(one, own[label]) for label, one in options.items()}
    if recipe.adaptation.keys() == set(recipe.labels) and recipe.adaptation:
        content[ADAPTATION], own = _shared(recipe.adaptation, SHOWN[ADAPTATION])
        content["adaptation"] = {label: one for label, one in own.items() if one}
        if not content["adaptation"]:
            del content["adaptation"]
    shifts = [list(one) for one in recipe.shifts.values()]
    if shifts and recipe.shifts.keys() == set(recipe.labels) and all(one == shifts[0] for one in shifts):
        content["shifts"] = shifts[0]
    content["severities"] = list(recipe.severities)
    return content


def _of_label(options: HardenOptions, training: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a label trains: the options of its method stand beside where it cuts."""
    plain = _plain(options)
    plain.pop("training", None)
    own, at = plain.pop("method"), plain.pop("at")
    return {"method": options.chosen.name, "at": at, **own, **plain} | ({"training": training} if training else {})


def _plain(value: Any) -> Any:
    """Return plain data; of a dataclass what is not the default."""
    if is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in fields(value)
            if getattr(value, field.name) != _default(field)
        }
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _shared(by_label: Mapping[str, Any], shown: Sequence[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return what most labels share, and by label what is its own."""
    common, own = {}, {label: {} for label in by_label}  # type: ignore[var-annotated]
    for field in fields(next(iter(by_label.values()))):
        values = {label: getattr(one, field.name) for label, one in by_label.items()}
        most, count = Counter(values.values()).most_common(1)[0]
        if 2 * count <= len(values) and field.name not in shown:
            most = _default(field)
        if most != _default(field) or field.name in shown:
            common[field.name] = _plain(most)
        for label, value in values.items():
            if value != most:
                own[label][field.name] = _plain(value)
    return common, own


def _section(name: str, value: Any) -> str:
    """Return a part of the file; of a mapping a line for each key that has room in one."""
    import yaml

    def text(of: Any, flow: bool) -> str:
        dumped: str = yaml.safe_dump(of, default_flow_style=flow, sort_keys=False, width=math.inf, allow_unicode=True)
        return dumped.removesuffix("...\n").rstrip()

    if not isinstance(value, dict) or not value:
        short = f"{name}:" if value is None else f"{name}: {text(value, True)}"
        if len(short) <= FILE_WIDTH:
            return short
        if isinstance(value, str) and value == " ".join(value.split()):
            folded = textwrap.fill(value, FILE_WIDTH - 2, break_long_words=False, break_on_hyphens=False)
            return f"{name}: >-\n{textwrap.indent(folded, '  ')}"
        return text({name: value}, False)
    lines = [f"{name}:"]
    for key, one in value.items():
        short = f"{text(key, True)}:" if one is None else f"{text(key, True)}: {text(one, True)}"
        lines.append(textwrap.indent(short if len(short) + 2 <= FILE_WIDTH else text({key: one}, False), "  "))
    return "\n".join(lines)
