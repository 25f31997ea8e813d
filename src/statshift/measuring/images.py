"""The images of a run: those that the model is measured on, and the sets that shifts bring themselves."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statshift._core.errors import ClassesWarning, InputError
from statshift.data import ImageData, load_data
from statshift.results import Row
from statshift.results.provenance import set_hash
from statshift.shifts.clean import CLEAN_IMAGES
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import Shift
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
    """

    base: ImageData
    task: Task
    first: Condition
    sets: Mapping[Condition, ImageData]
    read: Callable[[Condition], ImageData]

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
        return len(self.task.describe_labels(self.sets.get(condition, self.base)).get("class_counts", []))

    def check(self, width: int) -> None:
        """Check the labels of the sets, and warn of what is strange about any.

        Args:
            width: K, the second size of the logits.

        Raises:
            InputError: labels that the logits have no place for.
        """
        for data in self.sets.values():
            self.task.check_labels(data, width)
        for data in (self.base, *self.sets.values()):
            if doubt := self.task.doubt_labels(data, width):
                warnings.warn(doubt, ClassesWarning, stacklevel=4)

    def mark(self, row: Row, condition: Condition) -> Row:
        """Return a row of the condition that says of which images it is: nothing of the base's, else a hash."""
        return {**row, "set": set_hash(self.sets[condition], self.task)} if condition in self.sets else row


def read_images(
    data: Any,
    shifts: Sequence[Shift],
    todo: Sequence[Condition],
    options: Mapping[str, Any],
    fit: Callable[[ImageData], ImageData],
    task: str | Task | None,
) -> Images:
    """Return the images of the conditions, those that stand alone read already; `fit` gives them their labels.

    A task of None is what the labels are of.
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
    fitted = task_for(base, chosen)
    for found in (base, *sets.values()):
        labels_of(found, fitted)

    def of(condition: Condition) -> ImageData:
        return base if (found := read(condition)) is None else found

    return Images(base, fitted, todo[0], sets, of)


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
