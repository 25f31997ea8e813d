"""A course: the order in which images come, as passages that are answered without a reset, cut into batches."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from statshift._core.errors import InputError
from statshift._core.randomness import keys, uniform
from statshift.data import ImageData
from statshift.measuring.images import Images
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import CLEAN
from statshift.tasks.task import Task

BINS = 20
"""Into so many parts of equal length a passage is divided, of each of which a row tells its score."""

Order = NDArray[np.int64]
"""(M,2): for each image in turn, the number of its condition within the passage, and its position there."""


@dataclass(frozen=True)
class Member:
    """The images of one condition, as an order needs them.

    Attributes:
        condition: what is done to them.
        indices: (N,) their places in the whole data set, by which draws are addressed.
        labels: (N,) one class an image; None where there is none.
    """

    condition: Condition
    indices: NDArray[np.int64]
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def shuffled(self, seed: int, purpose: str) -> NDArray[np.int64]:
        """Return all positions (N,) in an order that is drawn."""
        return self.draws(seed, purpose).argsort(kind="stable")

    def draws(self, seed: int, purpose: str) -> NDArray[np.float32]:
        """Return a number (N,) in (0,1) for each image."""
        return uniform(keys(seed, torch.from_numpy(self.indices), purpose), 1)[:, 0].numpy()


@dataclass(frozen=True)
class Passage:
    """Batches that are answered one after another, from the source on.

    Attributes:
        batches: (B,2) each, see `Order`.
    """

    batches: Sequence[Order]

    @property
    def order(self) -> Order:
        """All images (M,2) in turn."""
        return np.concatenate(self.batches)

    def along(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return of a condition, by its number, the positions (N,) in turn and in which bin each comes, from 0."""
        order = self.order
        mine = np.flatnonzero(order[:, 0] == number)
        return order[mine, 1], mine * BINS // len(order)


@dataclass(frozen=True)
class Course(ABC):
    """In which order the images come; its fields are its numbers.

    Attributes:
        name: as a user gives it.
        several: whether a passage goes through all conditions, the clean images last; else each has its own.
        by_class: whether it needs one class an image.
    """

    name: ClassVar[str]
    several: ClassVar[bool] = False
    by_class: ClassVar[bool] = False

    @property
    def spec(self) -> str:
        """How it is given, its number spelled out."""
        return self.name

    def fitted(self, images: Images, seed: int) -> Images:
        """Return the images that the stream is of; by default those of the run."""
        return images

    def check(self, images: Images) -> None:
        """Check that there is such a stream of the images.

        Raises:
            InputError: there is none.
        """
        every = {"the images": (images.base, images.task)} | {
            str(condition): (data, images.task_of(condition)) for condition, data in images.sets.items()
        }
        for name, (data, task) in every.items():
            if data.several_sizes:
                raise InputError(f"Expected images of one size for the stream {self.spec}: give `resize` and `crop`.")
            if self.by_class and classes_by_image(data, task) is None:
                raise InputError(
                    f"Expected one class an image for the stream {self.spec}, but the task is {task.name}: choose iid, "
                    "mixed, continual, gradual or video."
                )
            if self.several and data.shape != images.base.shape:
                raise InputError(
                    f"Expected images of one size for the stream {self.spec}, but those of {name} are "
                    f"{data.shape[2]}x{data.shape[1]} px: give `resize` and `crop`, or leave it out."
                )

    def groups(self, conditions: Sequence[Condition]) -> list[list[Condition]]:
        """Return the conditions of each passage."""
        if not self.several:
            return [[one] for one in conditions]
        return [sorted(conditions, key=lambda one: one.shift == CLEAN)]

    @abstractmethod
    def stretches(self, members: Sequence[Member], seed: int, draw: int) -> list[Order]:
        """Return the order of a passage, as stretches that no batch reaches across.

        Args:
            members: the conditions of one of the `groups`.
            seed: seed of the run.
            draw: number of the order that is drawn, from 0.
        """

    def passage(self, members: Sequence[Member], size: int, seed: int, draw: int) -> Passage:
        """Return a passage in batches of so many images; a short last one of a stretch joins the one before."""
        return Passage([batch for one in self.stretches(members, seed, draw) for batch in in_batches(one, size)])

    def describe(self, images: Images, members: Sequence[Member], size: int) -> dict[str, Any]:
        """Return what a record says of it, its numbers and, of a passage through all conditions, their order.

        Args:
            images: those that the stream is of.
            members: the conditions of the first of the `groups`.
            size: images in a batch.
        """
        order = [[one.condition.shift, one.condition.severity] for one in self.itinerary(members)]
        return {
            "kind": self.name,
            "spec": self.spec,
            "batch": size,
            "bins": BINS,
            "clean_last": self.several and any(shift == CLEAN for shift, _ in order),
            **vars(self),
            **({"order": order} if self.several else {}),
        }

    def itinerary(self, members: Sequence[Member]) -> list[Member]:
        """Return the conditions in the order in which a passage comes to them."""
        return [*members]


def in_batches(order: Order, size: int) -> list[Order]:
    """Return an order (M,...) in batches of so many; a short last one joins the one before."""
    return np.split(order, np.arange(size, len(order) - size + 1, size))


def placed(number: int, positions: NDArray[np.int64]) -> Order:
    """Return positions (N,) of the condition of a number as an order (N,2)."""
    return np.stack([np.full_like(positions, number), positions], axis=1)


def member_of(condition: Condition, data: ImageData, task: Task) -> Member:
    """Return the images of a condition as an order needs them."""
    return Member(condition, data.indices, classes_by_image(data, task))


def classes_by_image(data: ImageData, task: Task) -> NDArray[np.int64] | None:
    """Return one class (N,) an image, or None where labels are something else."""
    labels = None if data.has_maps else task.labels_of(data)
    return labels if labels is not None and labels.ndim == 1 else None
