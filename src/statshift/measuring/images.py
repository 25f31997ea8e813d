"""The images of a run: those that the model is measured on, and the sets that shifts bring themselves."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statshift._core.errors import InputError
from statshift.data import ImageData, check_labels, load_data
from statshift.results.provenance import set_hash
from statshift.shifts.clean import CLEAN_IMAGES
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import Shift


@dataclass(frozen=True)
class Images:
    """The images of a run.

    Attributes:
        base: those that the model is measured on, with labels.
        first: the condition that tells which they are, where they are read.
        sets: of conditions whose shifts bring images and labels of their own.
        read: returns the images of any condition.
    """

    base: ImageData
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
        if not np.array_equal(labels_of(found), labels_of(self.base)):
            raise InputError(f"The labels of {found.spec} at {condition} differ from those at {self.first}.")
        return found

    def classes(self, condition: Condition) -> int:
        """Return the number of classes of a condition's images."""
        data = self.sets.get(condition, self.base)
        return max(len(np.bincount(labels_of(data))), data.classes or 0)

    def mark(self, condition: Condition) -> dict[str, str]:
        """Return what a row of the condition says of its images: nothing of the base's, else a hash of its set."""
        return {"set": set_hash(self.sets[condition])} if condition in self.sets else {}


def read_images(
    data: Any,
    shifts: Sequence[Shift],
    todo: Sequence[Condition],
    options: Mapping[str, Any],
    fit: Callable[[ImageData], ImageData],
) -> Images:
    """Return the images of the conditions, those that stand alone read already; `fit` gives them their labels."""
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
    first = next(of_base, None)
    base = load(data) if first is None else first
    labels_of(base)

    def of(condition: Condition) -> ImageData:
        return base if (found := read(condition)) is None else found

    return Images(base, todo[0], sets, of)


def check_sets(images: Images, classes: int) -> None:
    """Check the labels of the sets, and warn where fewer classes than the model's are taken to be its first ones."""
    for data in images.sets.values():
        labels_of(data)
        check_labels(data, classes)
    for data in (images.base, *images.sets.values()):
        if data.classes is not None and data.classes != classes:
            warnings.warn(
                f"{data.spec} has {data.classes} classes and the model {classes}: labels are taken to be the model's "
                f"first {data.classes} classes; if they are others, map them with --class-map.",
                stacklevel=4,
            )


def labels_of(data: ImageData) -> NDArray[np.int64]:
    """Return the labels (N,).

    Raises:
        InputError: there are none.
    """
    if data.labels is None:
        raise InputError(f"Expected labelled images to measure accuracy, but {data.spec} has no labels.")
    return data.labels
