"""What is left to measure, pass by pass, and how far a measurement is."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np

from statshift._core import processes
from statshift.adapting.registry import SOURCE
from statshift.measuring.plan import Plan
from statshift.measuring.sharing import Shares, Todo
from statshift.measuring.streamed import Met
from statshift.results import Row, row_key
from statshift.shifts.conditions import Condition
from statshift.tasks.row import Key


@dataclass(frozen=True)
class Progress:
    """How far a measurement is.

    Attributes:
        condition: at work now.
        protocol: at work now.
        number: number of its pass, from 0.
        passes: to make in this sitting.
        finished_before: passes that an earlier sitting made.
        images: finished in this pass.
        images_per_pass: in each pass.
        at_once: passes that are at work at once, each on a process of its own.
    """

    condition: Condition
    protocol: str
    number: int
    passes: int
    finished_before: int
    images: int
    images_per_pass: int
    at_once: int = 1


Tell = Callable[[Progress], None]


def rows_lacking(plan: Plan, rows: Sequence[Row]) -> Todo:
    """Return which protocols and draws each unfinished condition lacks."""
    done = {row_key(row) for row in rows}
    lacking = {
        condition: [(name, draw) for name, draw in plan.repeats() if (name, *astuple(condition), draw) not in done]
        for condition in plan.conditions
    }
    return {condition: missing for condition, missing in lacking.items() if missing}


def rows_in_turn(plan: Plan, todo: Todo) -> list[Key]:
    """Return the keys of the rows that are lacking, in the order in which a single process finds them."""
    return [
        (name, *astuple(condition), draw)
        for group in plan.groups()
        for name, draw in plan.repeats()
        for condition in group
        if (name, draw) in todo.get(condition, ())
    ]


def passes_to_make(plan: Plan, todo: Todo) -> list[tuple[Condition, str, int]]:
    """Return the passes over images that a sitting makes for what is lacking: condition, protocol and draw."""
    return [
        (condition, *one)
        for group in plan.groups()
        if (missing := [one for condition in group for one in todo.get(condition, ())])
        for one in dict.fromkeys([(SOURCE, 0), *missing])  # the source is there to pair with
        for condition in group
    ]


class PassCounter:
    """The passes over the images, counted and told."""

    def __init__(self, plan: Plan, todo: Todo, shares: Shares, progress: Tell | None) -> None:
        self._plan = plan
        self._tell = progress
        self._passes = len(passes_to_make(plan, todo))
        self._before = len(plan.conditions) * len(plan.repeats()) - sum(map(len, todo.values()))
        self._number = -1
        self._at_once = 1
        self._latest: Progress | None = None
        sizes = [len(group_of(plan, part)) * len(_repeats(part, shares)) for part in shares.apart]
        self._firsts = self._passes - np.cumsum(sizes[::-1])[::-1]

    def turn_to(self, part: int) -> None:
        """Go on with what is done apart, by its number; what stands before it is done or at work."""
        self._number = int(self._firsts[part]) - 1
        self._at_once = processes.join()[1]

    def end(self) -> None:
        """Tell that all passes are finished, those of other processes too."""
        images = len(self._plan.images.base)
        end = Progress(self._plan.conditions[-1], SOURCE, self._passes - 1, self._passes, self._before, images, images)
        self._say(
            replace(self._latest, number=end.number, images=self._latest.images_per_pass) if self._latest else end
        )

    def _say(self, progress: Progress) -> None:
        self._latest = progress
        if self._tell:
            self._tell(progress)

    def begin(self, condition: Condition, name: str) -> Callable[[int], None]:
        """Count a pass, and return what is told how many of its images are finished."""
        self._number += 1
        images = len(self._plan.images.sets.get(condition, self._plan.images.base))
        start = Progress(condition, name, self._number, self._passes, self._before, 0, images, self._at_once)

        def tell(finished: int) -> None:
            self._say(replace(start, images=finished))

        tell(0)
        return tell

    def along(self, met: Sequence[Met], name: str) -> Callable[[int], None]:
        """Count as many passes as a passage comes to conditions, and return what is told of their images."""
        first, ends = self._number + 1, np.cumsum([len(one.data) for one in met])
        self._number += len(met)
        course = self._plan.course
        at_work = Condition(course.spec, 0) if course and course.several else met[0].condition

        def tell(finished: int) -> None:
            number = min(int(np.searchsorted(ends, finished)), len(met) - 1)
            images = len(met[number].data)
            done = finished - int(ends[number]) + images
            now = first + number, self._passes, self._before, done, images, self._at_once
            self._say(Progress(at_work, name, *now))

        return tell


def group_of(plan: Plan, part: Todo) -> list[Condition]:
    """Return the conditions that are measured together with those of a part."""
    return next(group for group in plan.groups() if any(one in part for one in group))


def _repeats(part: Todo, shares: Shares) -> set[tuple[str, int]]:
    """Return what passes are made of in a part that is done apart: the source's too, unless it is known by then."""
    repeats = {repeat for missing in part.values() for repeat in missing}
    return repeats if any(one in shares.together for one in part) else repeats | {(SOURCE, 0)}
