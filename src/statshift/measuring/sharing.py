"""Who measures what: batches of a condition by all processes together, or conditions and protocols by one each."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from statshift.adapting.registry import SOURCE
from statshift.measuring.plan import Plan
from statshift.shifts.conditions import Condition

ENOUGH = 4
"""So many batches, or tasks, for each process keep all of them busy, though some take longer than others."""

UNEVEN = 1.1
"""So much longer than an even share the longest may take."""

Todo = Mapping[Condition, Sequence[tuple[str, int]]]
"""The protocols and draws that a condition lacks rows of."""


@dataclass(frozen=True)
class Shares:
    """What is lacking, shared out.

    Attributes:
        together: what all processes measure together, batch by batch; of a condition without any the source alone,
            for what is done apart.
        apart: what one process measures alone while the others do other parts.
    """

    together: Todo
    apart: Sequence[Todo]


def share_out(plan: Plan, todo: Todo, world: int) -> Shares:
    """Return how so many processes share out what is lacking: together all of it, where there is one.

    Whole conditions are dealt out that have too few batches to keep all processes busy, if there are conditions enough.
    Of others the batches are shared, but for what answers batch after batch: that is dealt out by condition or, where
    those are few, by protocol and draw.
    """
    if world == 1:
        return Shares(todo, [])
    whole = set() if plan.course else _dealt_whole(plan, todo, world)
    together: dict[Condition, list[tuple[str, int]]] = {}
    in_order: list[Todo] = []
    for condition, missing in todo.items():
        if condition not in whole:
            together[condition] = [one for one in missing if is_shareable(plan, one[0])]
    for group in plan.groups():
        found = {one: left for one in group if one in together and (left := _others(todo[one], together[one]))}
        if found:
            in_order.append(found)
    if len(in_order) < ENOUGH * world:
        in_order = [one for group in in_order for one in _by_repeat(plan, group)]
    return Shares(together, [*({one: todo[one]} for one in todo if one in whole), *in_order])


def is_shareable(plan: Plan, name: str) -> bool:
    """Return whether processes may share the batches of a protocol's passes: none answers by those before."""
    return name == SOURCE or (plan.course is None and plan.protocols[name].shareable)


def _others(missing: Sequence[tuple[str, int]], without: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    return [one for one in missing if one not in without]


def _by_repeat(plan: Plan, group: Todo) -> list[Todo]:
    parts = ({one: [repeat] for one, left in group.items() if repeat in left} for repeat in plan.repeats())
    return [part for part in parts if part]


def _dealt_whole(plan: Plan, todo: Todo, world: int) -> set[Condition]:
    """Return the conditions with few batches, where to deal them out takes hardly longer than to share the batches."""
    few: list[Condition] = []
    dealt, shared = [], 0.0
    for condition, missing in todo.items():
        data = plan.images.sets.get(condition, plan.images.base)
        batches = data.batch_count(plan.evaluate.batch_size)
        longest = -(-batches // world)
        if batches >= ENOUGH * world and longest * world <= UNEVEN * batches:
            continue
        passes = len({(SOURCE, 0), *missing})
        in_order = sum(not is_shareable(plan, name) for name, _ in missing)
        few.append(condition)
        dealt.append(batches * passes)
        shared += longest * (passes - in_order) + batches * in_order / world
    return set(few) if _longest(dealt, world) <= UNEVEN * shared else set()


def _longest(costs: Iterable[float], world: int) -> float:
    """Return what the busiest process has to do, if each takes the next whenever it is free."""
    busy = [0.0] * world
    for cost in costs:
        heapq.heapreplace(busy, busy[0] + cost)
    return max(busy)
