"""A clock of parts: where the seconds of a job go.

Code says by `with part(NAME):` what it is at. Where no clock runs this does nothing, and in other threads than the
clock's neither: work that overlaps counts as far as the clock's own thread waits for it.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

PART_NAMES = ("decode", "corrupt", "adapt", "model")
"""Reading pixels, shifting them, adapting a model, and the model's passes."""

TRACING = "trace"
"""The making of a trace, where one is asked for."""

REST = "rest"
"""What is in no part."""


@dataclass(frozen=True)
class Moments:
    """How moments are told.

    Attributes:
        take: returns this moment.
        between: seconds from one moment to a later one, both past.
        is_past: whether a moment has come, without waiting for it.
        wait: waits until it has.
    """

    take: Callable[[], Any] = time.perf_counter
    between: Callable[[Any, Any], float] = lambda first, second: float(second - first)
    is_past: Callable[[Any], bool] = lambda moment: True
    wait: Callable[[Any], object] = lambda moment: None


def moments_of(device: torch.device) -> Moments:
    """Return the moments of a device: on a GPU events of the current stream, which nothing waits for before the end.

    What lies between two events is what the device did, or waited for, where the code was between them.
    """
    if device.type != "cuda":
        return Moments()
    stream = torch.cuda.current_stream(device)

    def take() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(stream)
        return event

    return Moments(
        take,
        lambda first, second: float(first.elapsed_time(second)) / 1000,
        lambda event: bool(event.query()),
        lambda event: event.synchronize(),
    )


class PartClock:
    """Add up seconds by label and part; each moment counts for the innermost part that it is in.

    Args:
        moments: how moments are told.

    Attributes:
        traced: whether torch's profiler is told of the parts too.
    """

    def __init__(self, moments: Moments | None = None) -> None:
        self.traced = False
        self._moments = moments or Moments()
        self._label: Any = None
        self._parts = [REST]
        self._spans: deque[tuple[Any, str, Any, Any]] = deque()
        self._seconds: defaultdict[tuple[Any, str], float] = defaultdict(float)
        self._last = self._moments.take()

    def begin(self, name: str) -> None:
        """Enter a part."""
        self._mark()
        self._parts.append(name)

    def end(self) -> None:
        """Leave the part that was entered last."""
        self._mark()
        self._parts.pop()

    def turn_to(self, label: Any) -> None:
        """Count what follows under a label; before the first it is None."""
        self._mark()
        self._label = label

    def seconds(self) -> dict[tuple[Any, str], float]:
        """Return the seconds up to now by (label, part), in all those since the clock was made."""
        self._mark()
        self._moments.wait(self._last)
        self._settle()
        return dict(self._seconds)

    def _mark(self) -> None:
        now = self._moments.take()
        self._spans.append((self._label, self._parts[-1], self._last, now))
        self._last = now
        self._settle()

    def _settle(self) -> None:
        """Add up what is past; on a GPU the rest of the spans stays."""
        while self._spans and self._moments.is_past(self._spans[0][3]):
            label, name, first, second = self._spans.popleft()
            self._seconds[label, name] += self._moments.between(first, second)


_running = threading.local()


@contextmanager
def clocked(clock: PartClock) -> Iterator[PartClock]:
    """Let a clock run in this thread; one that runs already stands aside, and counts all of it where it is."""
    before = getattr(_running, "clock", None)
    _running.clock = clock
    try:
        yield clock
    finally:
        _running.clock = before


@contextmanager
def part(name: str) -> Iterator[None]:
    """Count what is done in this context as one of `PART_NAMES` or `TRACING`, where a clock runs in this thread."""
    clock: PartClock | None = getattr(_running, "clock", None)
    if clock is None:
        yield
        return
    clock.begin(name)
    try:
        with torch.profiler.record_function(name) if clock.traced else nullcontext():
            yield
    finally:
        clock.end()


def sum_by_part(seconds: dict[tuple[Any, str], float]) -> dict[str, float]:
    """Return the seconds of each part, and of the rest, over all labels."""
    found = dict.fromkeys((*PART_NAMES, REST), 0.0)
    for (_, name), some in seconds.items():
        found[name] = found.get(name, 0.0) + some
    return found
