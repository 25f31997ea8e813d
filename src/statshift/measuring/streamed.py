"""Protocols along a stream: passage after passage, batch after batch, kept so that a stopped one goes on."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from statshift._core import processes
from statshift._core.resumption import Checkpoint, Stateful, interruptible
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocol import Protocol, Session, Step
from statshift.data import ImageData
from statshift.measuring.adapted import adapting_in
from statshift.measuring.evaluate import Evaluator, Placed
from statshift.measuring.images import Images
from statshift.measuring.joining import joined, of_type
from statshift.measuring.streams.course import BINS, Course, Member, Passage, member_of
from statshift.norms.layers import evaluating
from statshift.results import Row, make_row
from statshift.shifts.conditions import Condition
from statshift.tasks.task import Results, Task

KEPT_EVERY = 60.0
"""Seconds after which the state of a passage is written again."""


@dataclass(frozen=True)
class Met:
    """The images of a condition that a passage comes to.

    Attributes:
        condition: what is done to them.
        data: the images.
        task: by which they are scored.
        classes: how many.
        examples: positions of those whose predictions the rows hold, if any.
    """

    condition: Condition
    data: ImageData
    task: Task
    classes: int
    examples: NDArray[np.int64] | None

    @property
    def member(self) -> Member:
        """As an order needs them."""
        return member_of(self.condition, self.data, self.task)

    def row(self, results: Results, **named: Any) -> Row:
        """Return the row of results in image order."""
        labels = self.task.labels_of(self.data)
        assert labels is not None
        shift, severity = self.condition.shift, self.condition.severity
        named |= {"shift": shift, "severity": severity, "examples": self.examples, "task": self.task}
        return make_row(results, labels, self.classes, **named)


@dataclass(frozen=True)
class Turn:
    """Whose passage is asked for.

    Attributes:
        label: what rows call the protocol.
        protocol: the protocol.
        draw: number of the order.
    """

    label: str
    protocol: Protocol
    draw: int


def meet(images: Images, conditions: Sequence[Condition], examples: NDArray[np.int64] | None) -> list[Met]:
    """Return the images of the conditions of a passage."""
    return [
        Met(
            one,
            images.of(one),
            images.task_of(one),
            images.classes(one),
            None if one in images.sets else examples,
        )
        for one in conditions
    ]


@dataclass(frozen=True)
class Answering:
    """What passages are answered with.

    Attributes:
        evaluate: with the source model, which is left as found.
        course: the order.
        options: for all protocols.
        seed: seed of the orders.
        folder: where states are kept, if anywhere.
    """

    evaluate: Evaluator
    course: Course
    options: AdaptationOptions
    seed: int
    folder: Path | None = None

    def rows(
        self, turn: Turn, met: Sequence[Met], source: Sequence[Results], tell: Callable[[int], None]
    ) -> Iterator[Row]:
        """Yield the row of each condition once the whole passage is answered; its state goes when all are taken.

        Args:
            turn: whose passage.
            met: the conditions that it comes to.
            source: what the source answers in each, in image order.
            tell: told how many images are finished.
        """
        passage = self.course.passage([one.member for one in met], self.options.samples, self.seed, turn.draw)
        with evaluating(self.evaluate.model):
            step = turn.protocol.streamed(self._session(turn, met, passage))
            resumable = getattr(step, "resumable", False)
            path = self._path(turn, met) if resumable else None
            identity = {"protocol": turn.label, "draw": turn.draw, "batches": len(passage.batches)}
            kept = Checkpoint(path, identity, {"step": cast(Stateful, step)} if resumable else {}, of="stream")
            found = self._answer(step, met, passage, source, kept, tell)
        for number, (one, results, beside) in enumerate(zip(met, found, source, strict=True)):
            row = one.row(results, protocol=turn.label, draw=turn.draw, source=beside)
            yield {**row, "along": _along(row, one.row(beside), passage, number, one.task)}
        if path:
            path.unlink(missing_ok=True)

    def _session(self, turn: Turn, met: Sequence[Met], passage: Passage) -> Session:
        first = partial(self.evaluate.shifted, met[0].data, met[0].condition)
        return Session(
            turn.label,
            self.evaluate.model,
            self.options,
            few=lambda: first(passage.batches[0][:, 1]),
            first=lambda: first(np.zeros(1, np.int64)),
            whole=list,
            images=len(passage.order),
            adapting=partial(adapting_in, self.evaluate),
        )

    def _path(self, turn: Turn, met: Sequence[Met]) -> Path | None:
        name = f"{turn.label}, draw {turn.draw} of {', '.join(str(one.condition) for one in met)}"
        return self.folder and self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.pt"

    def _answer(
        self,
        step: Step,
        met: Sequence[Met],
        passage: Passage,
        source: Sequence[Results],
        kept: Checkpoint,
        tell: Callable[[int], None],
    ) -> list[Results]:
        """Return what is answered in each condition, in image order; the state is written now and then, and at a stop.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM, once the batch at work is answered.
        """
        found: list[list[Results]] = [[] for _ in met]
        begin = 0
        if content := processes.from_first(kept.read()):
            state = kept.restore(content)
            begin = state["batches"]
            found = [[of_type(like, one)] if one else [] for like, one in zip(source, state["found"], strict=True)]
        finished = sum(map(len, passage.batches[:begin]))
        tell(finished)
        with interruptible() as stop:
            for number, batch in enumerate(passage.batches[begin:], start=begin + 1):
                numbers = np.unique(batch[:, 0])
                parts = [_part(met[one], batch, one) for one in numbers]
                for one, results in zip(numbers, self.evaluate.answered(parts, step), strict=True):
                    found[one].append(results)
                finished += len(batch)
                tell(finished)
                stopped = processes.any_rank(stop.is_set())
                if stopped or kept.is_due(KEPT_EVERY):
                    found = [[_whole(one)] if one else [] for one in found]
                    kept.write({"batches": number, "found": [[*one[0]] if one else [] for one in found]})
                if stopped:
                    raise KeyboardInterrupt
        return [_in_image_order(_whole(one), passage.along(number)[0]) for number, one in enumerate(found)]


def _part(one: Met, batch: NDArray[np.int64], number: int) -> Placed:
    places = np.flatnonzero(batch[:, 0] == number)
    return one.data, one.condition, batch[places, 1], places


def _whole(parts: Sequence[Results]) -> Results:
    """Return results as one, on the CPU."""
    return joined([of_type(one, [field.cpu() for field in one]) for one in parts])


def _in_image_order(results: Results, positions: NDArray[np.int64]) -> Results:
    order = torch.from_numpy(positions.argsort())
    return of_type(results, [field[order] for field in results])


def _along(row: Row, source: Row, passage: Passage, number: int, task: Task) -> list[list[float]]:
    """Return of each bin of the passage where the row has images: its number, how many, and the sums of their scores.

    The first sum is of the row, the second of the source.
    """
    positions, bins = passage.along(number)
    images = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, task.image_scores(one)[positions], minlength=BINS) for one in (row, source)]
    return [[one, int(images[one]), *(_number(side[one]) for side in sums)] for one in np.flatnonzero(images).tolist()]


def _number(value: float) -> float:
    """Return a whole number as such."""
    return int(value) if value == int(value) else float(value)
