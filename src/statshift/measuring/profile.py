"""Where the seconds of a measurement went, and a trace of a few of its batches."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from statshift._core.footprint import peak_device_memory, peak_memory
from statshift._core.parts import REST, TRACING, PartClock, part, sum_by_part
from statshift.measuring.plan import Plan
from statshift.measuring.progress import Progress
from statshift.results import write_bytes_atomically
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import CLEAN

WORDS = {
    "decode": "loading",
    "corrupt": "corruptions",
    "adapt": "adapting",
    "model": "model",
    TRACING: "tracing",
    REST: "rest",
}
"""What people call the parts."""

TRACED_BEFORE, TRACED = 2, 5
"""Batches that a trace begins before the end of a pass, and after how many reports of progress it ends."""

MOST_EVENTS = 100_000
"""Events that a trace holds at most, the first ones; about 25 MB."""


@dataclass(frozen=True)
class Profile:
    """Where the seconds of a sitting went, of the first process where there are several.

    Attributes:
        parts: seconds by part: "decode" (reading images, and moving them to the device), "corrupt" (shifting them,
            attacks among it), "adapt" (protocols; of those that adapt as they answer, their answers too), "model" (all
            other passes that answer) and "rest". Together they are the wall time.
        images: images answered in this sitting, each as often as there were passes, over all processes.
        conditions: the same parts by condition, such as "fog 3"; what is of none, as making the plan, is left out.
        protocols: the same by protocol.
        device: where the model ran.
        processes: how many shared the work.
        memory: bytes of main memory that the process has held at most; None where the system does not tell.
        device_memory: bytes of the GPU's memory likewise; None on the CPU.
    """

    parts: Mapping[str, float]
    images: int = 0
    conditions: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)
    protocols: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)
    device: str = "cpu"
    processes: int = 1
    memory: int | None = None
    device_memory: int | None = None

    @property
    def seconds(self) -> float:
        """Wall time."""
        return sum(self.parts.values())

    def describe(self) -> dict[str, Any]:
        """Return what `profile.json` holds: the above, the wall time, and images per second."""
        rate = self.images / self.seconds if self.seconds else 0.0
        return {"seconds": self.seconds, "images_per_second": rate, **vars(self)}

    def __str__(self) -> str:
        """Return one line: "12.4 s: 81 % model, 12 % corruptions, 4 % adapting, 3 % loading"."""
        return f"{self.seconds:.1f} s: {shares_text(self.parts)}"


def shares_text(parts: Mapping[str, float]) -> str:
    """Return in words what share each part has, the greatest first; those under half a percent are left out."""
    whole = sum(parts.values()) or 1.0
    shares = {name: 100 * seconds / whole for name, seconds in parts.items() if seconds / whole >= 0.005}
    ordered = sorted(shares, key=lambda name: (name == REST, -shares[name]))
    return ", ".join(f"{shares[name]:.0f} % {WORDS[name]}" for name in ordered)


class Watch:
    """Follow a measurement: its clock learns what is at work, its images are counted, and others told.

    Args:
        clock: the clock.
        tells: told of the progress too.
    """

    def __init__(self, clock: PartClock, tells: Collection[Callable[[Progress], object]] = ()) -> None:
        self._clock, self._tells = clock, tells
        self._last: Progress | None = None
        self._before = 0

    def __call__(self, at: Progress) -> None:
        """Be told of the progress of the measurement."""
        last = self._last
        if last is None or last.number != at.number:
            self._before += 0 if last is None else (at.number - last.number) * last.images_per_pass
            self._clock.turn_to((str(at.condition), at.protocol))
        self._last = at
        for tell in self._tells:
            tell(at)

    @property
    def images(self) -> int:
        """How many images were answered."""
        return self._before + (self._last.images if self._last else 0)

    def profile(self, device: torch.device, processes: int) -> Profile:
        """Return where the seconds went up to now; on a GPU this waits for it."""
        seconds = self._clock.seconds()
        conditions, protocols = (_by_place(seconds, number) for number in range(2))
        return Profile(
            sum_by_part(seconds),
            self.images,
            conditions,
            protocols,
            str(device),
            processes,
            peak_memory(),
            peak_device_memory(device),
        )


def _by_place(seconds: Mapping[tuple[Any, str], float], number: int) -> dict[str, dict[str, float]]:
    """Return the seconds by part of each condition (0), or of each protocol (1), in the order in which they came."""
    places = dict.fromkeys(label[number] for label, _ in seconds if label)
    return {
        place: sum_by_part(
            {(label, name): some for (label, name), some in seconds.items() if label and label[number] == place}
        )
        for place in places
    }


class BatchTrace:
    """A trace of a few batches by torch's profiler: the end of a pass and the beginning of the next.

    Args:
        path: the file, in Chrome's format; it can be read in chrome://tracing and ui.perfetto.dev.
        clock: tells the profiler of the parts meanwhile.
        conditions: in the first of these that is measured it is made.
        batch: images in a batch.
        device: where the model runs.

    Attributes:
        path: as given.
    """

    def __init__(
        self, path: Path, clock: PartClock, conditions: Collection[Condition], batch: int, device: torch.device
    ) -> None:
        self.path, self._clock, self._conditions, self._batch = path, clock, conditions, batch
        self._activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        self._profiler: torch.profiler.profile | None = None
        self._told = 0
        self._done = False

    def __call__(self, at: Progress) -> None:
        """Begin or end where the measurement is so far."""
        if self._profiler is not None:
            self._told += 1
            if self._told >= TRACED:
                self.close()
        elif (
            not self._done
            and at.condition in self._conditions
            and at.images < at.images_per_pass <= at.images + TRACED_BEFORE * self._batch
        ):
            with part(TRACING):
                self._profiler = torch.profiler.profile(activities=self._activities)
                self._profiler.start()
            self._clock.traced = True

    def close(self) -> None:
        """End, and write the file if there was anything."""
        if self._profiler is None:
            return
        self._clock.traced, self._done = False, True
        with part(TRACING):
            self._profiler.stop()
            with TemporaryDirectory() as folder:
                whole = Path(folder) / "trace.json"
                self._profiler.export_chrome_trace(str(whole))
                content = json.loads(whole.read_bytes())
            self._profiler = None
            content["traceEvents"] = _first(content["traceEvents"])
            write_bytes_atomically(self.path, json.dumps(content, separators=(",", ":")).encode())


def _first(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those that name things, and the first of the others."""
    timed = sorted((one for one in events if one.get("ph") != "M"), key=lambda one: float(one.get("ts", 0.0)))
    return [one for one in events if one.get("ph") == "M"] + timed[:MOST_EVENTS]


def trace_of(plan: Plan, folder: Path, clock: PartClock) -> BatchTrace:
    """Return the trace of a measurement, of the first shifted condition that is no attack, if there is one."""
    told = [one for one in plan.conditions if one.shift != CLEAN and not plan.evaluate.attacks(one)]
    return BatchTrace(
        folder / "trace.json", clock, told or plan.conditions, plan.evaluate.batch_size, plan.evaluate.device
    )
