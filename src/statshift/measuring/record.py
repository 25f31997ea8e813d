"""What a measurement's record says of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from statshift.adapting.protocols import SOURCE
from statshift.measuring.evaluate import Evaluator
from statshift.measuring.images import Images, labels_of
from statshift.measuring.settings import Setup, Wanted
from statshift.results.provenance import (
    answers_of,
    describe_corruption,
    describe_data,
    describe_environment,
    describe_model,
    describe_own,
)
from statshift.shifts.registry import family_of
from statshift.shifts.shift import Shift


def describe_plan(
    evaluate: Evaluator,
    images: Images,
    shifts: Sequence[Shift],
    wanted: Wanted,
    setup: Setup,
    found: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the record; `found` is the AlexNet and what the protocols are."""
    base, size = images.base, evaluate.batch_size
    sections: dict[str, dict[str, Any]] = {}
    for shift in shifts:
        for section, told in shift.describe(size).items():
            sections.setdefault(section, {}).update(told)
    if images.sets:
        sections["sets"] = {str(one): describe_data(data, data.labels) for one, data in images.sets.items()}
    corruption = sections.pop("corruption", None) or describe_corruption(wanted.options, base.shape, wanted.at)
    return {
        "model": describe_model(evaluate.model),
        "answers": answers_of(evaluate.model, base.shape),
        "data": describe_data(base, labels_of(base)),
        "corruption": corruption,
        "alexnet": found["alexnet"],
        "shifts": [shift.name for shift in shifts],
        "families": {shift.name: shift.family for shift in shifts},
        **_of_own(shifts),
        "functions": describe_own(shifts),
        **sections,
        "severities": sorted(set(wanted.severities)),
        "protocols": {SOURCE: {}} | found["protocols"],
        "seed": wanted.options.seed,
        "dtype": setup.dtype,
        "environment": describe_environment(evaluate.device) | {"batch_size": size, "compiled": setup.compiled},
    }


def _of_own(shifts: Sequence[Shift]) -> dict[str, dict[str, Any]]:
    """Return what no registry tells: the severities of a user's own shifts, and titles."""
    levels = {shift.name: [*shift.severities] for shift in shifts if family_of(shift.name) == "own"}
    titles = {shift.name: shift.title for shift in shifts if shift.title}
    return {name: told for name, told in (("own_severities", levels), ("titles", titles)) if told}
