"""The courses that ship, each the order of a stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from statshift._core.randomness import bits, keys, uniform
from statshift.measuring.images import Images
from statshift.measuring.streams.course import Course, Member, Order, placed
from statshift.shifts.shift import CLEAN


def purpose(draw: int) -> str:
    """Return what the order of a draw is drawn for: the same as without a stream, so that batches are the same."""
    return f"stream draw {draw}"


@dataclass(frozen=True)
class Independent(Course):
    """Each condition's images shuffled."""

    name = "iid"

    def stretches(self, members: Sequence[Member], seed: int, draw: int) -> list[Order]:
        """Return a stretch of each condition."""
        return [placed(number, one.shuffled(seed, purpose(draw))) for number, one in enumerate(members)]


@dataclass(frozen=True)
class Continual(Independent):
    """One condition after another, each as in `Independent`.

    Reference:
        Wang et al., "Continual test-time domain adaptation", CVPR 2022: no reset between the corruptions.
    """

    name = "continual"
    several = True


@dataclass(frozen=True)
class Sorted(Course):
    """Class after class, in an order that is drawn; within a class shuffled.

    Reference:
        Niu et al., "Towards stable test-time adaptation in dynamic wild world", ICLR 2023: label shifts that are
        imbalanced online, at an infinite ratio.
    """

    name = "sorted"
    by_class = True

    def stretches(self, members: Sequence[Member], seed: int, draw: int) -> list[Order]:
        """Return a stretch of each condition."""
        return [placed(number, self._order(one, seed, draw)) for number, one in enumerate(members)]

    def _order(self, member: Member, seed: int, draw: int) -> NDArray[np.int64]:
        classes, which = _classes(member)
        turns = uniform(keys(seed, torch.from_numpy(classes), f"class order draw {draw}"), 1)[:, 0].numpy()
        return np.lexsort((member.draws(seed, purpose(draw)), turns[which]))


@dataclass(frozen=True)
class Dirichlet(Course):
    """Classes that come and go: each is divided over slots of time by shares that are drawn.

    There are as many slots as classes, one after another, and within a slot images are shuffled. A small `delta` puts
    each class into one slot or two; a large one is as good as shuffled.

    Attributes:
        delta: concentration of the Dirichlet distribution, over 0.

    Reference:
        Gong et al. (NOTE), NeurIPS 2022; Yuan et al. (RoTTA), CVPR 2023.
    Differs:
        slots are not evened out to one length, and classes are shuffled within them.
    """

    name = "dirichlet"
    by_class = True

    delta: float

    @property
    def spec(self) -> str:
        """With its number."""
        return f"{self.name}:{self.delta:g}"

    def stretches(self, members: Sequence[Member], seed: int, draw: int) -> list[Order]:
        """Return a stretch of each condition."""
        return [placed(number, self._order(one, seed, draw)) for number, one in enumerate(members)]

    def _order(self, member: Member, seed: int, draw: int) -> NDArray[np.int64]:
        classes, which = _classes(member)
        words = bits(keys(seed, torch.from_numpy(classes), f"class shares draw {draw}"), 4).numpy().view(np.uint32)
        shuffled, slots = member.shuffled(seed, purpose(draw)), np.empty(len(member), np.int64)
        for number, own in enumerate(words):
            shares = np.random.default_rng(own).dirichlet(np.full(len(classes), self.delta))
            mine = shuffled[which[shuffled] == number]
            ends = np.rint(shares.cumsum() * len(mine)).astype(np.int64)
            slots[mine] = np.searchsorted(ends[:-1], np.arange(len(mine)), side="right")
        return np.lexsort((member.draws(seed, f"slots draw {draw}"), slots))

    def describe(self, images: Images, members: Sequence[Member], size: int) -> dict[str, Any]:
        """Return beside its number that of the slots."""
        return super().describe(images, members, size) | {"slots": len(_classes(members[0])[0])}


@dataclass(frozen=True)
class Mixed(Course):
    """All conditions shuffled into one, and then the clean images.

    Reference:
        Niu et al., "Towards stable test-time adaptation in dynamic wild world", ICLR 2023: mixed shifts.
    """

    name = "mixed"
    several = True

    def stretches(self, members: Sequence[Member], seed: int, draw: int) -> list[Order]:
        """Return a stretch of all shifts, and one of the clean images."""
        orders = [placed(number, np.arange(len(one))) for number, one in enumerate(members)]
        turns = [one.draws(seed, f"{purpose(draw)} of {one.condition}") for one in members]
        clean = [one.condition.shift == CLEAN for one in members]
        found = []
        for last in (False, True):
            chosen = [number for number in range(len(members)) if clean[number] == last]
            if chosen:
                whole = np.concatenate([orders[number] for number in chosen])
                found.append(whole[np.concatenate([turns[number] for number in chosen]).argsort(kind="stable")])
        return found


@dataclass(frozen=True)
class Gradual(Course):
    """Of each shift the severities rise and fall again, one shift after another, and then the clean images.

    A severity's images are shared between its rise and its fall, so that each comes once; all of the highest come at
    the top.

    Reference:
        Wang et al., "Continual test-time domain adaptation", CVPR 2022: gradually changing corruptions.
    Differs:
        there every severity's images come both times.
    """

    name = "gradual"
    several = True

    def stretches(self, members: Sequence[Member], seed: int, draw: int) -> list[Order]:
        """Return a stretch of each severity on the rise, and on the fall."""
        found = []
        for number, half in self._visits(members):
            order = members[number].shuffled(seed, purpose(draw))
            middle = (len(order) + 1) // 2
            found.append(placed(number, (order, order[:middle], order[middle:])[half]))
        return [one for one in found if len(one)]

    def itinerary(self, members: Sequence[Member]) -> list[Member]:
        """Return the severities as they rise and fall."""
        return [members[number] for number, _ in self._visits(members)]

    def _visits(self, members: Sequence[Member]) -> list[tuple[int, int]]:
        """Return by number which condition comes, and 0 for all of its images, 1 for the first half, 2 for the rest."""
        shifts: dict[str, list[int]] = {}
        for number, one in enumerate(members):
            shifts.setdefault(one.condition.shift, []).append(number)
        visits = []
        for numbers in shifts.values():
            *rising, top = sorted(numbers, key=lambda number: members[number].condition.severity)
            visits += [*((one, 1) for one in rising), (top, 0), *((one, 2) for one in reversed(rising))]
        return visits


def _classes(member: Member) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the classes (K,) that occur, ascending, and for each image which it is of (N,)."""
    assert member.labels is not None
    classes, which = np.unique(member.labels, return_inverse=True)
    return classes, which.reshape(-1)
