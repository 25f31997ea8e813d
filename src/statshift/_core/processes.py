"""Several processes over one job: who am I, and what did the others find.

Started by torchrun or `accelerate launch`, which set RANK and WORLD_SIZE. Results travel over gloo on the CPU; tensors
that training reduces stay on their device.
"""

import atexit
import os
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def join() -> tuple[int, int]:
    """Return (rank, world size), joining the group that the launcher's environment names; (0, 1) without one."""
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend)
        atexit.register(dist.destroy_process_group)  # else gloo's threads may abort the interpreter as it ends
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather(value: T) -> list[T]:
    """Return every process's value, by rank, on every process."""
    if not dist.is_initialized():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # each place is filled by its rank


def in_turn(shares: list[list[T]]) -> list[T]:
    """Return in order what was dealt out in turn: the first of each share, then the second of each, and so on."""
    return [shares[number % len(shares)][number // len(shares)] for number in range(sum(map(len, shares)))]


def from_first(value: T) -> T:
    """Return the first process's value on every process."""
    if not dist.is_initialized():
        return value
    values = [value]
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
    if not dist.is_initialized() or dist.get_world_size() == 1:
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
