"""A short trial of each part of a measurement: seconds by part, for each image and for what is done once."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

from statshift._core import processes
from statshift._core.parts import PartClock, clocked, moments_of, sum_by_part
from statshift.adapting.diagnose import diagnose
from statshift.data import ImageData
from statshift.measuring.adapted import evaluate_adapted
from statshift.measuring.ligs import LigsOptions, similarities
from statshift.measuring.plan import Plan
from statshift.measuring.probes import IMAGES
from statshift.measuring.sharing import is_shareable
from statshift.measuring.streamed import Answering, Met, Turn
from statshift.measuring.streams.find import find_course
from statshift.norms.layers import evaluating
from statshift.shifts.conditions import Condition
from statshift.tasks.task import Results

T = TypeVar("T")

Parts = Mapping[str, float]
"""Seconds by part."""

STEADY = 2.0
"""Seconds that a part is tried for, once it is warm, where there are images enough."""

MOST_BATCHES = 12
"""Batches that are tried at most."""

PIXELS = 8 * 224**2
"""Of the images of one condition so many pixels are shifted on the CPU; on a GPU a whole batch."""


@dataclass(frozen=True)
class Cost:
    """What something takes: seconds by part once, for each image, and beyond these where it is done the first time."""

    once: Parts
    image: Parts
    start: Parts = field(default_factory=dict)

    def of(self, images: int) -> dict[str, float]:
        """Return the seconds by part of so many images."""
        names = dict.fromkeys([*self.once, *self.image])
        return {name: self.once.get(name, 0.0) + images * self.image.get(name, 0.0) for name in names}


@dataclass(frozen=True)
class Tried:
    """What the source takes.

    Attributes:
        cold: for each image in a pass, where it is read for the first time; the shift left out.
        warm: the same where it was read before.
        some: the images that were tried.
        results: what the source answers for them.
        start: seconds by part of the first batch beyond those of the next, as where the model is compiled.
    """

    cold: Parts
    warm: Parts
    some: ImageData
    results: Results
    start: Parts


def try_source(plan: Plan, condition: Condition) -> Tried:
    """Try a pass of the source over a few batches of a condition.

    What is returned is over all processes, which do the same at once.
    """
    evaluate, data = plan.evaluate, plan.images.of(condition)
    few = some_batches(data, evaluate.batch_size, 1)
    evaluate.keeping = False
    with evaluating(evaluate.model):
        _, first = _run(plan, lambda: evaluate(few, condition, _untold))
        _, warm_up = _run(plan, lambda: evaluate(few, condition, _untold))
        some = some_batches(data, evaluate.batch_size, _batches(sum(warm_up.values())))
        _, cold = _run(plan, lambda: evaluate(some, condition, _untold))
        results, warm = _run(plan, lambda: evaluate(some, condition, _untold))
    model = {"model": (cold["model"] + warm["model"]) / 2}
    cold, warm = ({name: seconds for name, seconds in one.items() if name != "corrupt"} | model for one in (cold, warm))
    start = {name: max(0.0, first[name] - warm_up[name]) for name in ("model", "rest")}
    return Tried(_each(cold, len(some)), _each(warm, len(some)), some, results, start)


def try_shift(plan: Plan, condition: Condition, *, warm: bool) -> Cost:
    """Try a condition's shift on a few images; unless `warm`, what its first batch takes beyond others counts once."""
    data = plan.images.of(condition)
    most = plan.evaluate.batch_size
    if plan.evaluate.device.type != "cuda":
        most = max(1, min(most, PIXELS // math.prod(data.shape[1:])))
    positions = data.batch_positions(plan.evaluate.batch_size)[0][:most]
    make = partial(plan.evaluate.shifted, data, condition, positions)
    plan.evaluate.keeping = False
    first = 0.0
    with evaluating(plan.evaluate.model):
        if not warm and not plan.evaluate.attacks(condition):
            first = _run(plan, make)[1]["corrupt"]
        seconds = _run(plan, make)[1]["corrupt"]
    return Cost({"corrupt": max(0.0, first - seconds)}, {"corrupt": seconds / len(positions) / processes.join()[1]})


def try_protocol(plan: Plan, name: str, condition: Condition, some: ImageData) -> Cost:
    """Try a protocol on images of a condition, and return what it takes beside making them.

    What does not grow with the images is told by trials of two lengths, after a first one, in which much is imported.
    A trial that takes long is not repeated. What processes deal out takes each so much less.

    Args:
        plan: with the protocol.
        name: what rows call it.
        condition: any.
        some: images of it, of which more are taken where the protocol needs them.
    """
    least = min(len(plan.images.of(condition)), plan.protocols[name].taking(plan.adaptation).samples + 1)
    longer = some if len(some) >= 3 * least else some_batches(plan.images.of(condition), least, 3)
    answer = _along if plan.course else _answered
    shorter = some_batches(plan.images.of(condition), least, 1)
    _, first = _run(plan, answer(plan, name, condition, shorter))
    _, long = _run(plan, answer(plan, name, condition, longer))
    short = first
    if repeated := processes.from_first(sum(long.values())) < 2 * STEADY:
        _, short = _run(plan, answer(plan, name, condition, shorter))
    once = 0.0
    if not plan.course and plan.protocols[name].kin.adapts_on == "few":
        once = long["adapt"]
    elif repeated:
        once = _intercept(short["adapt"], len(shorter), long["adapt"], len(longer))
    each = {"model": long["model"], "rest": long["rest"], "adapt": long["adapt"] - once}
    share = 1 if is_shareable(plan, name) else processes.join()[1]
    start = {"adapt": max(0.0, first["adapt"] - short["adapt"])}
    return Cost({"adapt": once / share}, _each(each, len(longer) * share), start)


def try_looks(plan: Plan, condition: Condition) -> Parts:
    """Return the seconds in which the shift at the layers is read out of a condition's images."""
    positions = np.arange(min(IMAGES, len(plan.images.of(condition))))
    images = plan.evaluate.shifted(plan.images.of(condition), condition, positions)
    diagnose(plan.evaluate.model, images)
    return _run(plan, lambda: diagnose(plan.evaluate.model, images))[1]


def try_ligs(plan: Plan, options: LigsOptions, some: ImageData) -> Parts:
    """Return the seconds for each image of a perturbation, on a batch."""
    few = some_batches(some, plan.evaluate.batch_size, 1)
    similar = partial(similarities, plan.evaluate.model, options=options, seed=plan.seed, task=plan.task)
    with evaluating(plan.evaluate.model):
        return _each(_run(plan, lambda: plan.evaluate.per_image(few, similar))[1], len(few))


def some_batches(data: ImageData, size: int, batches: int) -> ImageData:
    """Return so many whole batches for each process, spread evenly over the data; all where there are not so many."""
    every = data.batch_positions(min(size, len(data)))
    whole = [one for one in every if len(one) == len(every[0])] or every
    wanted = min(batches * processes.join()[1], len(whole))
    chosen = np.unique(np.linspace(0, len(whole) - 1, wanted).round().astype(int))
    return data.subset(np.sort(np.concatenate([whole[number] for number in chosen])))


def _answered(plan: Plan, name: str, condition: Condition, data: ImageData) -> Callable[[], object]:
    """Return what answers by a protocol, of images that are made before."""
    plan.evaluate.keeping = True
    how = (plan.protocols[name], 0, plan.adaptation, plan.seed, _untold, name)

    def answer() -> None:
        with evaluating(plan.evaluate.model):
            evaluate_adapted(plan.evaluate, data, condition, *how)

    with evaluating(plan.evaluate.model):
        for group in data.alike(np.arange(len(data))):
            plan.evaluate.shifted(data, condition, group)
    return answer


def _along(plan: Plan, name: str, condition: Condition, data: ImageData) -> Callable[[], object]:
    """Return what answers by a protocol along a stream of images that are made before."""
    plan.evaluate.keep([condition])
    images, turn = plan.images, Turn(name, plan.protocols[name], 0)
    met = [Met(condition, data, images.task_of(condition), images.classes(condition), None)]
    with evaluating(plan.evaluate.model):
        source = [plan.evaluate(data, condition, _untold)]
    answering = Answering(plan.evaluate, find_course("iid"), plan.adaptation, plan.seed)
    return lambda: list(answering.rows(turn, met, source, _untold))


def _run(plan: Plan, function: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """Return what a function returns, and its seconds by part."""
    with clocked(PartClock(moments_of(plan.evaluate.device))) as clock:
        found = function()
        return found, sum_by_part(clock.seconds())


def _batches(seconds: float) -> int:
    """Return how many batches make a steady trial, where one takes so long; the same on all processes."""
    return processes.from_first(max(1, min(MOST_BATCHES, math.ceil(STEADY / max(seconds, 1e-6)))))


def _intercept(short: float, few: int, long: float, many: int) -> float:
    """Return what is left of two measures where the line through them meets no image, but not less than nothing."""
    if many <= few:
        return 0.0
    return min(max(0.0, short - few * (long - short) / (many - few)), long)


def _each(parts: Parts, images: int) -> dict[str, float]:
    return {name: seconds / images for name, seconds in parts.items()}


def _untold(finished: int) -> None:
    """Tell nobody."""
