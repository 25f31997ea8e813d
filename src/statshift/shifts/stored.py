"""Shifts that are read: the conditions that data store, and sets of images with labels of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset

from statshift._core.errors import InputError
from statshift.data import ImageData, has_clean, stored_shifts
from statshift.shifts.registry import COMMON, family_of
from statshift.shifts.shift import CLEAN, Load, Shift


@dataclass(frozen=True, eq=False)
class StoredShift(Shift):
    """What `cifar-c:DIR` or `imagenet-c:DIR` store of one shift, image by image as the clean ones.

    Attributes:
        name: name of the shift; "clean" has no severities.
        spec: spec of the data.
        severities: that are stored.
    """

    name: str
    spec: str
    severities: tuple[int, ...] = ()
    reads = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", family_of(self.name))

    def at(self, levels: Sequence[int]) -> list[int]:
        """Return which of the severities asked for are stored; see `Shift.at`."""
        there = [level for level in levels if level in self.severities]
        if self.severities and not there:
            raise InputError(f"The data store {self.name} at the severities {[*self.severities]}, none of {[*levels]}.")
        return there if self.severities else [0]

    def data(self, severity: int, load: Load) -> ImageData | None:
        """Return the images of a severity; each is read once, so nothing is kept."""
        return load(self.spec, shift=(self.name, severity) if severity else None, cache_bytes=0, cache="none")

    def describe(self, batch_size: int) -> Mapping[str, Mapping[str, Any]]:
        """Return that the images were not made here."""
        return {"corruption": {"stored": True}}


@dataclass(frozen=True, eq=False)
class SetShift(Shift):
    """Another set of images, with labels of its own: the same classes drawn, filmed or found elsewhere.

    Attributes:
        name: by which rows and tables call it.
        source: a spec (see `load_data`), a torch `Dataset`, or loaded data; with labels, of classes that the model has.
        family: as of any shift.
        title: in a report.
    """

    name: str
    source: str | Dataset[Any] | ImageData = field(repr=False)
    family: str = "natural"
    title: str = ""
    reads = True
    paired = False

    def data(self, severity: int, load: Load) -> ImageData | None:
        """Return the images."""
        return load(self.source)


def offered(data: Any) -> dict[str, Shift]:
    """Return the shifts that data store, by name; none of data that store no shifts, which are made then.

    Raises:
        InputError: a folder that should store shifts is missing or holds none.
    """
    found = stored_shifts(data) if isinstance(data, str) else {}
    if not found:
        return {}
    levels = {CLEAN: [], **found}
    return {name: StoredShift(name, data, tuple(own)) for name, own in levels.items()}


def read_shifted(corruption: Mapping[str, Any]) -> bool:
    """Return whether a record's images were read shifted, at the severities that are stored."""
    return bool(corruption.get("stored"))


def usual(data: Any) -> tuple[str, ...]:
    """Return the shifts that are measured where none are named: the clean images, if there are any, and the 15.

    In place of the 15 these are all that data store, where none of the 15 is among them.
    """
    found = stored_shifts(data) if isinstance(data, str) else {}
    shifts = tuple(found) if found and not {*COMMON} & {*found} else ("common",)
    return shifts if isinstance(data, str) and not has_clean(data) else (CLEAN, *shifts)
