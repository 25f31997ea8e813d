"""Whose errors CE and mCE divide by: a measured run's, or AlexNet's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from statshift._core.errors import InputError, unknown
from statshift.data import ImageData
from statshift.metrics.alexnet import ALEXNET
from statshift.results import RunResult, read_run
from statshift.results.provenance import USUAL
from statshift.shifts.corruptions import table_for
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Task

ALIKE = (
    ("data", "classes"),
    ("data", "maps"),
    ("task", "name"),
    ("corruption", "table"),
    ("corruption", "scale_constants"),
    ("corruption", "stored"),
)
"""Fields of the records, by section, that a run and its baseline share."""


def read_baseline(path: str | Path, record: Mapping[str, Any]) -> RunResult:
    """Return the run whose errors CE divides by, which must be over as many classes, corrupted alike."""
    baseline = read_run(path)
    for section, name in ALIKE:
        usual = USUAL.get(f"{section}.{name}")
        here, there = ((one.get(section) or {}).get(name, usual) for one in (record, baseline.record))
        if here != there:
            raise InputError(f"The baseline {path} is no baseline here: its {section}.{name} is {there}, not {here}.")
    return baseline


def alexnet_for(choice: str, model: str, data: ImageData, classes: int, task: Task = CLASSIFICATION) -> str | None:
    """Return which AlexNet's errors CE divides by, if the task's may be.

    "auto" goes by the specs, the images' size and the classes.

    Raises:
        InputError: one is named that there is not, or that has no errors at the task.
    """
    found = _alexnet_for(choice, model, data, classes)
    if choice == "auto" or found in (None, *task.alexnets):
        return found if found in task.alexnets else None
    raise InputError(f"Expected no `alexnet` for the task {task.name}, whose errors AlexNet has not, but got {choice}.")


def _alexnet_for(choice: str, model: str, data: ImageData, classes: int) -> str | None:
    if choice not in ("auto", "none", *ALEXNET):
        raise unknown("AlexNet", choice, ["auto", "none", *ALEXNET])
    if choice != "auto":
        return None if choice == "none" else choice
    scheme, small = data.spec.partition(":")[0], table_for(min(data.shape[1:])) == "cifar"
    if classes == 1000 and not small:
        return "imagenet"
    said_so = scheme in ("cifar10", "cifar100", "cifar-c")
    likely = scheme in ("npz", "folder") and model.startswith("cifar:")
    return {10: "cifar10", 100: "cifar100"}.get(classes) if small and (said_so or likely) else None
