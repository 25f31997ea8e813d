"""Several processes over one job: who am I, and what did the others find.

Started by torchrun or `accelerate launch`, which set RANK and WORLD_SIZE, or by `srun`, see `statshift._core.slurm`.
Results travel over gloo on the CPU; tensors that training reduces stay on their device.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from statshift._core.errors import InputError
from statshift._core.slurm import take_launch_variables

T = TypeVar("T")

JOINING = timedelta(minutes=10)
"""So long the first to start wait for the last."""

PATIENCE = timedelta(days=7)
"""So long a process waits for others that are at work; that one has ended is known at once."""

_apart: list[None] = []  # not empty while this process works apart
_deals = count()  # the same on every process


def join() -> tuple[int, int]:
    """Return (rank, world size), joining the group that the launcher's environment names; (0, 1) without one.

    Raises:
        InputError: the others do not come.
    """
    if _apart:
        return 0, 1
    if not dist.is_initialized():
        take_launch_variables()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _begin_group()
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _begin_group() -> None:
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, world = next(rendezvous("env://", timeout=JOINING))
    except dist.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise InputError(
            f"Process {os.environ.get('RANK')} of {os.environ['WORLD_SIZE']} did not find the others at {where}: "
            f"{str(error).partition(chr(10))[0]}"
        ) from error
    store.set_timeout(PATIENCE)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, store=PrefixStore("statshift", store), rank=rank, world_size=world, timeout=PATIENCE
    )
    atexit.register(dist.destroy_process_group)  # else gloo's threads may abort the interpreter as it ends


@contextmanager
def apart() -> Iterator[None]:
    """Work as a single process does, while the others do other things: every function here finds this one alone."""
    _apart.append(None)
    try:
        yield
    finally:
        _apart.pop()


def dealt(total: int) -> Iterator[int]:
    """Yield numbers from 0, each on one process: whichever asks next gets the next, until there are `total`.

    All processes begin it alike. Numbers that a process took and died with are of nobody.
    """
    deal = f"dealt/{next(_deals)}"
    if join()[1] == 1:
        yield from range(total)
        return
    from torch.distributed.distributed_c10d import _get_default_store

    store = _get_default_store()
    while (number := store.add(deal, 1) - 1) < total:
        yield number


def gather(value: T) -> list[T]:
    """Return every process's value, by rank, on every process.

    Raises:
        InputError: another process has ended.
    """
    if not _together():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    with _losses_told():
        dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # each place is filled by its rank


def _together() -> bool:
    return dist.is_initialized() and not _apart


@contextmanager
def _losses_told() -> Iterator[None]:
    """Tell in one line of a process that has ended."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise InputError(
            "Another process of the launch has ended, and this one with it: what is finished is kept, and the same "
            "command goes on from there, with any number of processes."
        ) from error


def in_turn(shares: list[list[T]]) -> list[T]:
    """Return in order what was dealt out in turn: the first of each share, then the second of each, and so on."""
    return [shares[number % len(shares)][number // len(shares)] for number in range(sum(map(len, shares)))]


def from_first(value: T) -> T:
    """Return the first process's value on every process.

    Raises:
        InputError: another process has ended.
    """
    if not _together():
        return value
    values = [value]
    with _losses_told():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def local_rank() -> int:
    """Return this process's number on its machine, as the launcher says; 0 without one."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def any_rank(value: bool) -> bool:
    """Return whether the value is true on any process, on every process."""
    return bool(mean_over_ranks(torch.tensor(float(value))) > 0)


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Return the mean of every process's tensor, on every process; each counts alike.

    Differentiable: the mean over processes of the gradients of a parameter, as DistributedDataParallel takes it, is
    that of the mean of all processes' losses.
    """
    if not _together() or dist.get_world_size() == 1:
        return tensor
    mean: Tensor = _MeanOverRanks.apply(tensor)
    return mean


class _MeanOverRanks(torch.autograd.Function):
    """All processes' losses see each one's tensor: its gradient is the mean of what arrives at every process."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _mean(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        mean: Tensor = _MeanOverRanks.apply(gradients[0])  # itself differentiable, as a penalty on gradients needs
        return mean


def _mean(tensor: Tensor) -> Tensor:
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / dist.get_world_size()
