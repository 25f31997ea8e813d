"""The images of a run: those that the model is measured on, and the sets that shifts bring themselves."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statshift._core.errors import ClassesWarning, InputError
from statshift.data import ImageData, has_clean, load_data
from statshift.data.natural import lacks_by_design
from statshift.results import Row
from statshift.results.provenance import set_hash
from statshift.shifts.clean import CLEAN_IMAGES
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import CLEAN, Shift
from statshift.tasks.choice import resolve_task, task_for
from statshift.tasks.task import Task


@dataclass(frozen=True)
class Images:
    """The images of a run.

    Attributes:
        base: those that the model is measured on, with labels.
        task: what the labels are of, fitted to them.
        first: the condition that tells which they are, where they are read.
        sets: sets of the conditions whose shifts bring images and labels of their own.
        read: returns the images of any condition.
        shifts: those of the run, with what stands beside them.
        tasks: by shift, where its own images are scored by another task than the run's.
        told: by shift, what a record says of its own images besides.
    """

    base: ImageData
    task: Task
    first: Condition
    sets: Mapping[Condition, ImageData]
    read: Callable[[Condition], ImageData]
    shifts: Sequence[Shift] = ()
    tasks: Mapping[str, Task] = field(default_factory=dict)
    told: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def task_of(self, condition: Condition) -> Task:
        """Return the task by which a condition is scored."""
        return self.tasks.get(condition.shift, self.task)

    def of(self, condition: Condition) -> ImageData:
        """Return the images of a condition, with labels: its own set, or those that are the base's one by one.

        Raises:
            InputError: they should be the base's and have other labels.
        """
        if condition in self.sets:
            return self.sets[condition]
        found = self.read(condition)
        if not np.array_equal(labels_of(found, self.task), labels_of(self.base, self.task)):
            raise InputError(f"The labels of {found.spec} at {condition} differ from those at {self.first}.")
        return found

    def classes(self, condition: Condition) -> int:
        """Return the number of classes of a condition's images."""
        data = self.sets.get(condition, self.base)
        return len(self.task_of(condition).describe_labels(data).get("class_counts", []))

    def check(self, width: int) -> None:
        """Check the labels of the sets, and warn of what is strange about any.

        Args:
            width: K, the second size of the logits.

        Raises:
            InputError: labels that the logits have no place for.
        """
        sets = [(self.task_of(condition), data) for condition, data in self.sets.items()]
        for task, data in sets:
            task.check_labels(data, width)
        for task, data in ((self.task, self.base), *sets):
            if doubt := task.doubt_labels(data, width):
                warnings.warn(doubt, ClassesWarning, stacklevel=4)

    def mark(self, row: Row, condition: Condition) -> Row:
        """Return a row of the condition that says of which images it is: nothing of the base's, else a hash."""
        if condition not in self.sets:
            return row
        return {**row, "set": set_hash(self.sets[condition], self.task_of(condition))}


def read_images(
    data: Any,
    shifts: Sequence[Shift],
    todo: Sequence[Condition],
    options: Mapping[str, Any],
    fit: Callable[[ImageData], ImageData],
    task: str | Task | None,
    *,
    masked: bool = True,
) -> Images:
    """Return the images of the conditions, those that stand alone read already; `fit` gives them their labels.

    A task of None is what the labels are of, among the classes of a set that lacks some by design. Unless `masked`, the
    logits of classes that a set lacks count.
    """
    chosen = None if task is None else resolve_task(task)
    by_name = {shift.name: shift for shift in shifts}

    def load(source: Any, **more: Any) -> ImageData:
        return fit(source if isinstance(source, ImageData) else load_data(source, **{**options, **more}))

    def read(condition: Condition) -> ImageData | None:
        shift = by_name.get(condition.shift, CLEAN_IMAGES)
        found = shift.data(condition.severity, load)
        if found is None and shift.reads:
            raise InputError(f"Expected the shift {condition.shift!r} to give images at {condition}, but got none.")
        return found

    sets = {one: found for one in todo if not by_name[one.shift].paired and (found := read(one)) is not None}
    of_base = (read(one) for one in todo if one not in sets)
    reading = all(shift.reads for shift in shifts if shift.paired)  # else the run's images are those that were given
    first = next(of_base, None) if reading else None
    base = load(data) if first is None else first
    if chosen is None and masked and lacks_by_design(base.spec):
        chosen = resolve_task("subset")
    fitted = task_for(base, chosen)
    for found in (base, *sets.values()):
        labels_of(found, fitted)

    def of(condition: Condition) -> ImageData:
        return base if (found := read(condition)) is None else found

    clean: ImageData | None = base
    if sets and first is not None and next(one for one in todo if one not in sets).shift != CLEAN:
        clean = load(data) if not isinstance(data, str) or has_clean(data) else None
    return _with_companions(Images(base, fitted, todo[0], sets, of, shifts), clean, masked)


def _with_companions(images: Images, clean: ImageData | None, masked: bool) -> Images:
    """Return the images with the task of each set, and what of the clean images, if any, is to stand beside it."""
    own: dict[str, dict[Condition, ImageData]] = {}
    for condition, data in images.sets.items():
        own.setdefault(condition.shift, {})[condition] = data
    shifts: list[Shift] = []
    sets: dict[Condition, ImageData] = {}
    tasks: dict[str, Task] = {}
    told: dict[str, dict[str, Any]] = {}
    for shift in images.shifts:
        if shift.name not in own:
            shifts.append(shift)
            continue
        data = next(iter(own[shift.name].values()))
        sets |= own[shift.name]
        shifts.append(shift.with_classes(data, masked=masked))
        tasks[shift.name] = task = shift.scored_by(images.task, data, masked=masked)
        told[shift.name] = {**shift.told(data, masked=masked)}
        other = shift.beside(task, data, clean)
        if other is not None and (companion := other.data(0, _as_it_is)) is not None:
            shifts.append(other)
            sets[Condition(other.name, 0)] = companion
            tasks[other.name] = task
            told[shift.name]["beside"] = other.name
            told[other.name] = {**shift.told(data, masked=masked)}
    return replace(images, sets=sets, shifts=shifts, tasks=tasks, told=told)


def _as_it_is(source: Any, **_: Any) -> ImageData:
    return source if isinstance(source, ImageData) else load_data(source)


def labels_of(data: ImageData, task: Task) -> NDArray[np.int64]:
    """Return the labels (N,...).

    Raises:
        InputError: there are none.
    """
    labels = task.labels_of(data)
    if labels is None and (data.has_maps or data.labels is not None):
        raise InputError(
            f"Expected labels of the task {task.name}, but those of {data.spec} are others: give no `task`."
        )
    if labels is None:
        raise InputError(f"Expected labelled images to measure accuracy, but {data.spec} has no labels.")
    return labels
