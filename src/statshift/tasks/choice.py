"""Which task: by name, by py:FILE:NAME, or as a record says."""

from collections.abc import Mapping
from typing import Any

from statshift._core.errors import InputError
from statshift._core.registry import look_up
from statshift.data import ImageData
from statshift.models.sources import source_hash
from statshift.models.usercode import import_value
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.registry import TASKS
from statshift.tasks.task import Task


def task_for(data: ImageData, task: str | Task | None = None) -> Task:
    """Return `resolve_task` fitted to a data set; None is what its labels are of: segmentation of label maps.

    Raises:
        InputError: as of `resolve_task`.
    """
    usual = "segmentation" if data.has_maps else CLASSIFICATION
    return resolve_task(usual if task is None else task).fitted(data)


def task_of_labels(labels: Any, task: str | Task | None = None) -> Task:
    """Return `resolve_task`; None is what a batch's labels are of: segmentation of label maps (B,H,W).

    Raises:
        InputError: as of `resolve_task`.
    """
    usual = "segmentation" if getattr(labels, "ndim", 1) == 3 else CLASSIFICATION
    return resolve_task(usual if task is None else task)


def resolve_task(task: str | Task) -> Task:
    """Return a task: itself, the one that ships under a name, or that of a user's file as py:FILE:NAME.

    What NAME stands for is a task, or a class of tasks that needs no argument. This runs the file.

    Raises:
        InputError: there is no such task, or it has the name of one that ships and is another.
    """
    if isinstance(task, str) and not task.startswith("py:"):
        return _made(look_up(TASKS, "task", task).load())
    found = _made(import_value(task[3:])) if isinstance(task, str) else task
    if not isinstance(found, Task):
        raise InputError(f"Expected a task, or the name of one, but got {task!r}.")
    if found.name in TASKS and type(found) is not TASKS[found.name].load():
        raise InputError(f"The task name {found.name!r} is taken: give your task another.")
    return found


def describe_task(task: Task) -> dict[str, Any]:
    """Return what a record has beside what it has of classification: nothing of that, else the task, in JSON types."""
    if task == CLASSIFICATION:
        return {}
    own = {} if task.name in TASKS else {"source_hash": source_hash(type(task))}
    return {"task": {**task.describe(), **own}}


def task_of(record: Mapping[str, Any], task: str | Task | None = None) -> Task:
    """Return the task that a run's rows are of.

    Args:
        record: the run's; one that names no task is of classification.
        task: for runs of a task of the user's own, which is code that runs only when it is named.

    Raises:
        InputError: the run is of another task of the user's own.
    """
    described = record.get("task")
    if described is None:
        return CLASSIFICATION
    name, options = str(described["name"]), dict(described.get("options") or {})
    if name in TASKS:
        found: Task = TASKS[name].load()(**options)
        return found
    own = None if task is None else resolve_task(task)
    if own is None or own.name != name:
        known = (record.get("asked") or {}).get("task", "py:FILE:NAME")
        raise InputError(f"Expected `task` for a run of a task of your own, {name}: {known}.")
    return own


def _made(found: Any) -> Task:
    made: Task = found() if isinstance(found, type) else found
    return made
