"""Batch norm over the batches of all processes, on any device."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.errors import InputError
from statshift._core.processes import join, mean_over_ranks


@contextmanager
def synchronised(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Let batch norms in training mode normalise by the moments of all processes' batches, which are equally large.

    Differentiable like one large batch, where torch's SyncBatchNorm runs on GPUs only. With one process nothing is
    changed; on GPUs the model's own SyncBatchNorm stays.

    Raises:
        InputError: a norm of a kind whose forward is not known.
    """
    world = join()[1]
    changed: list[_BatchNorm] = []
    try:
        for norm in norms if world > 1 else ():
            if isinstance(norm, nn.SyncBatchNorm) and norm.running_mean is not None and norm.running_mean.is_cuda:
                continue
            forward = type(norm).forward
            torchs = forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
            if not torchs and forward.__module__ != "timm.layers.norm_act":
                raise InputError(f"Cannot synchronise a norm of type {type(norm).__name__} over {world} processes.")
            norm.forward = MethodType(_forward, norm)  # type: ignore[method-assign]
            changed.append(norm)
        yield
    finally:
        for norm in changed:
            del norm.forward


def _forward(norm: _BatchNorm, features: Tensor) -> Tensor:
    if not norm.training:
        whole: Tensor = type(norm).forward(norm, features)
        return whole
    wide = features if features.dtype == torch.float64 else features.float()
    dims = [0, *range(2, features.ndim)]
    shape = [1, -1, *[1] * (features.ndim - 2)]
    mean = mean_over_ranks(wide.mean(dims))
    centred = wide - mean.view(shape)
    var = mean_over_ranks(centred.square().mean(dims))
    if norm.track_running_stats:
        _track(norm, mean.detach(), var.detach(), features.numel() // features.shape[1] * join()[1])
    scale = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    out = centred * scale.view(shape)
    if norm.bias is not None:
        out = out + norm.bias.view(shape)
    out = out.to(features.dtype)
    for name in ("drop", "act"):  # of timm's norms with an activation
        out = getattr(norm, name)(out) if hasattr(norm, name) else out
    return out


@torch.no_grad()
def _track(norm: _BatchNorm, mean: Tensor, var: Tensor, count: int) -> None:
    """Move the running statistics as torch does: the variance unbiased, no momentum meaning a plain average."""
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.num_batches_tracked.add_(1)
    rate = 1 / norm.num_batches_tracked.to(mean.dtype) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), rate)
    norm.running_var.lerp_((var * (count / (count - 1))).to(norm.running_var.dtype), rate)
