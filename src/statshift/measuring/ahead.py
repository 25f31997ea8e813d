"""Batches that are read while the one before is at work."""

import os
import threading
from collections.abc import Generator, Iterable
from queue import Empty, Full, Queue
from typing import TypeVar

import torch

from statshift._core.cores import usable_cores
from statshift._core.parts import part

T = TypeVar("T")

READ_AHEAD = 2
"""Batches that are ready at most."""


def is_idle_beside(workers: int, device: torch.device) -> bool:
    """Return whether something can work beside this thread: processes that decode, a GPU, or a core torch leaves."""
    threads = torch.get_num_threads() * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return workers > 0 or device.type == "cuda" or threads < usable_cores()


def ahead(values: Iterable[T]) -> Generator[T, None, None]:
    """Yield values in order, read by a thread of their own, `READ_AHEAD` of them ahead; what it raises is raised here.

    The thread ends with the values, or as soon as nobody asks for more.
    """
    ready: Queue[tuple[bool, T | BaseException | None]] = Queue(READ_AHEAD)
    left = threading.Event()

    def put(more: bool, value: T | BaseException | None) -> None:
        while not left.is_set():
            try:
                ready.put((more, value), timeout=0.1)
                return
            except Full:
                continue

    def read() -> None:
        try:
            for value in values:
                put(True, value)
                if left.is_set():
                    return
            put(False, None)
        except BaseException as error:  # also the interruption of a worker: it is told where the values are asked for
            put(False, error)

    reader = threading.Thread(target=read, name="statshift-ahead", daemon=True)
    reader.start()
    try:
        while True:
            with part("decode"):  # what is waited for
                more, value = ready.get()
            if not more:
                break
            yield value  # type: ignore[misc]  # of values, which are T
        if isinstance(value, BaseException):
            raise value
    finally:
        left.set()
        while reader.is_alive():
            try:
                ready.get_nowait()
            except Empty:
                reader.join(0.05)
