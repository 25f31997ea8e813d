"""What a measurement's record says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from statshift.adapting.registry import SOURCE
from statshift.data import ImageData
from statshift.measuring.evaluate import Evaluator
from statshift.measuring.images import Images, labels_of
from statshift.measuring.settings import Setup, Wanted
from statshift.results.provenance import (
    REPEATED,
    answers_of,
    describe_corruption,
    describe_data,
    describe_environment,
    describe_model,
    describe_own,
    describe_request,
    places_of,
)
from statshift.shifts.conditions import TYPED
from statshift.shifts.registry import family_of
from statshift.shifts.shift import Shift, StyleOptions
from statshift.tasks.choice import describe_task
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Task


def describe_plan(
    evaluate: Evaluator,
    images: Images,
    shifts: Sequence[Shift],
    wanted: Wanted,
    setup: Setup,
    task: Task,
    found: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the record; `found` is the AlexNet, protocols, groups and stream, `asked` what of the first was given."""
    base, size = images.base, evaluate.batch_size
    sections: dict[str, dict[str, Any]] = {}
    for shift in shifts:
        for section, told in shift.describe(size).items():
            sections.setdefault(section, {}).update(told)
    if images.sets:
        sections["sets"] = {
            str(one): describe_data(data, data.labels, images.task_of(one)) | {**images.told.get(one.shift, {})}
            for one, data in images.sets.items()
        }
    corruption = sections.pop("corruption", None) or describe_corruption(wanted.options, base.shape, wanted.corrupt_at)
    return {
        "model": describe_model(evaluate.model),
        "answers": answers_of(evaluate.model, base.shape),
        "data": describe_data(base, labels_of(base, task), task),
        "corruption": corruption,
        "alexnet": found["alexnet"],
        "shifts": [shift.name for shift in shifts],
        "families": {shift.name: shift.family for shift in shifts},
        **_of_own(shifts),
        **({"groups": found["groups"]} if found["groups"] else {}),
        "functions": describe_own(shifts),
        **sections,
        "severities": sorted(set(wanted.severities)),
        "protocols": {SOURCE: {}} | found["protocols"],
        **({"stream": found["stream"]} if found["stream"] else {}),
        "seed": wanted.options.seed,
        "dtype": setup.dtype,
        **describe_task(task),
        "asked": _request(evaluate, base, shifts, wanted, asked),
        "environment": describe_environment(evaluate.device) | {"batch_size": size, "compiled": setup.compiled},
    }


def _request(
    evaluate: Evaluator, base: ImageData, shifts: Sequence[Shift], wanted: Wanted, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a command needs to ask for the same again."""
    return describe_request(
        {
            **{name: value for name, value in wanted.data_options.items() if name in REPEATED},
            **{name: getattr(wanted.options, name) for name in ("table", "frost")},
            **_request_of_styles(wanted.options.style),
            **{name: getattr(wanted.adaptation, name) for name in ("draws", "reset_every")},
            "weights": evaluate.model.weights_file,
            "branch": evaluate.model.checkpoint.get("branch"),
            "baseline": asked["baseline"],
            "alexnet": None if asked["alexnet"] == "auto" else asked["alexnet"],
            "ligs": ",".join(dict.fromkeys(wanted.ligs)),
            "functions": places_of({shift.name: shift.code() for shift in shifts})
            | {shift.name: TYPED[shift.name] for shift in shifts if shift.name in TYPED}
            | {shift.name: shift.typed for shift in shifts if shift.typed},
            "full_argmax": wanted.full_argmax,
            "stream": wanted.stream,
            "clean_data": wanted.clean_data if isinstance(wanted.clean_data, str) else None,
            "task": wanted.task if isinstance(wanted.task, str) and wanted.task != CLASSIFICATION.name else None,
            "groups": str(wanted.groups) if isinstance(wanted.groups, str | Path) else None,
            "available": len(base.source),
        }
    )


def _request_of_styles(style: StyleOptions | None) -> dict[str, Any]:
    """Return how images were asked to be stylised, but for what is usual."""
    if style is None:
        return {}
    usual = {field.name: field.default for field in fields(style)}
    return {name: value for name, value in vars(style).items() if value != usual[name]}


def _of_own(shifts: Sequence[Shift]) -> dict[str, dict[str, Any]]:
    """Return what no registry tells: the severities of a user's own shifts, and titles."""
    levels = {shift.name: [*shift.severities] for shift in shifts if family_of(shift.name) == "own"}
    titles = {shift.name: shift.title for shift in shifts if shift.title}
    return {name: told for name, told in (("own_severities", levels), ("titles", titles)) if told}
