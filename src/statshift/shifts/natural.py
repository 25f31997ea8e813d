"""ImageNet's other test sets as shifts: `imagenet-r:DIR` and the like, each scored among the classes that it has."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statshift._core.errors import InputError
from statshift.data import ImageData, stored_shifts
from statshift.data.classes import IMAGENET_CLASSES
from statshift.data.natural import NATURAL_SETS, instagram_filters
from statshift.shifts.shift import CorruptionOptions, Load, Shift
from statshift.shifts.stored import SetShift
from statshift.tasks.classification import CLASSIFICATION, Classification
from statshift.tasks.groups import ClassGroups
from statshift.tasks.subset import ClassSubset
from statshift.tasks.task import Task


@dataclass(frozen=True, eq=False)
class NaturalShift(SetShift):
    """A set of `NATURAL_SETS`, or a part of one.

    Attributes:
        typed: how a user asks for it, the whole set.
        severities: of a part with some.
        part: which shift of a set that stores shifts.
        held: decoded images stay in memory.
    """

    typed: str = ""
    severities: tuple[int, ...] = ()
    part: str = ""
    held: bool = True
    options = ("dir",)

    def spelled(self, spec: str, how: CorruptionOptions) -> list[Shift]:
        """Return the shifts of [NAME=]SCHEME:DIR: one, or each of a set's filters or corruptions.

        Raises:
            InputError: no folder is named, or what lies there is no such set.
        """
        label, scheme, rest = split_spec(spec)
        if not rest:
            raise InputError(f"Expected the folder of {scheme}, as {scheme}:DIR, but got {spec!r}.")
        facts = NATURAL_SETS[scheme]
        common: dict[str, Any] = {"family": facts.family, "typed": spec}
        if facts.parts and (filters := instagram_filters(rest)):
            prefix = label or "instagram"
            return [
                NaturalShift(f"{prefix}/{one}", f"{scheme}:{place}", title=f"{one} ({prefix})", held=False, **common)
                for one, place in filters.items()
            ]
        if stored := stored_shifts(f"{scheme}:{rest}"):
            prefix = label or scheme
            return [
                NaturalShift(
                    f"{prefix}/{one}", f"{scheme}:{rest}", severities=tuple(levels), part=one, held=False, **common
                )
                for one, levels in stored.items()
            ]
        title = facts.title if scheme != "imagenet" else Path(rest).name
        return [NaturalShift(label or scheme, f"{scheme}:{rest}", title=label or title, **common)]

    def data(self, severity: int, load: Load) -> ImageData | None:
        """Return the images."""
        others: dict[str, Any] = {} if self.held else {"cache_bytes": 0, "cache": "none"}
        shift = (self.part, severity) if self.part else None
        return load(self.source, shift=shift, split=None, ignore_index=None, label_map=None, **others)

    def scored_by(self, task: Task, data: ImageData, *, masked: bool = True) -> Task:
        """Return the run's task, among the classes that the set has, all or some; see `Shift.scored_by`.

        Raises:
            InputError: the set has one class only, or the task is another than classification.
        """
        classes = classes_of(data)
        if not lacks_classes(data):
            return CLASSIFICATION if type(task) is ClassSubset else task
        if len(classes) < 2:
            raise InputError(f"Expected at least two classes in {data.spec}, but it has images of one: {classes[0]}.")
        if type(task) not in (Classification, ClassSubset):
            if not masked and not data.source.groups:
                return task
            raise InputError(
                f"Expected the task classification for {self.name}, which is scored among its {len(classes)} classes, "
                f"but it is {task.name}: leave the set out, or give `full_argmax`."
            )
        if data.source.groups:
            return ClassGroups(classes, data.source.groups, masked)
        return ClassSubset(classes) if masked else task

    def with_classes(self, data: ImageData, *, masked: bool) -> Shift:
        """Return the shift with a title that says among which classes it is scored; see `Shift.with_classes`."""
        if not lacks_classes(data):
            return self
        number = len(classes_of(data))
        among = f"among its {number} classes" if masked else f"{number} classes among all"
        return replace(self, title=f"{self.title or self.name} ({among})")

    def beside(self, task: Task, data: ImageData, base: ImageData | None) -> Shift | None:
        """Return the run's clean images of the same classes, where the set lacks some; see `Shift.beside`.

        Raises:
            InputError: the run has none.
        """
        if not lacks_classes(data):
            return None
        if base is None:
            raise InputError(
                f"Expected clean images to set beside {self.name}, but the data store shifted ones alone: add a folder "
                "`clean`, or leave the set out."
            )
        classes, labels = classes_of(data), base.labels
        if labels is not None and isinstance(task, ClassGroups):
            labels = task.first_labels(labels)
        there = np.zeros(0, np.int64) if labels is None else np.flatnonzero(np.isin(labels, classes))
        if not len(there) or labels is None:
            raise InputError(
                f"Expected clean images of the classes of {self.name} in {base.spec}, but it has none: give ImageNet's "
                "validation images, or leave the set out."
            )
        own = replace(base.subset(there), labels=labels[there])
        return SetShift(f"clean of {self.name}", own, "natural", f"clean, the {len(classes)} classes of {self.name}")

    def told(self, data: ImageData, *, masked: bool) -> Mapping[str, Any]:
        """Return the number of classes, and whether the logits of the others are masked; see `Shift.told`."""
        return {"classes": len(classes_of(data)), "masked": masked and lacks_classes(data)}


def split_spec(spec: str) -> tuple[str, str, str]:
    """Return NAME, SCHEME and DIR of "NAME=SCHEME:DIR"; NAME is "" where none is given."""
    head, _, rest = spec.partition(":")
    label, equals, scheme = head.partition("=")
    return (label.strip(), scheme.strip(), rest) if equals else ("", head, rest)


def classes_of(data: ImageData) -> tuple[int, ...]:
    """Return the classes of a whole data set, of which `data` may be a part, ascending."""
    labels = data.source.labels
    found: NDArray[np.int64] = np.zeros(0, np.int64) if labels is None else np.unique(labels)
    return tuple(found.tolist())


def lacks_classes(data: ImageData) -> bool:
    """Return whether a data set lacks some of ImageNet's 1,000 classes."""
    return len(classes_of(data)) < IMAGENET_CLASSES


(
    IMAGENET_SET,
    IMAGENET_SKETCH_SET,
    IMAGENET_R_SET,
    IMAGENET_A_SET,
    IMAGENET_V2_SET,
    OBJECTNET_SET,
    IMAGENET_INSTAGRAM_SET,
    STYLIZED_IMAGENET_SET,
    IMAGENET_C_BAR_SET,
) = (NaturalShift(scheme, "", family=facts.family) for scheme, facts in NATURAL_SETS.items())
"""Without a folder: from these what a user asks for is spelled."""
