"""Sweeps: replace the statistics of a model by those of a set that does not fit into one forward."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core import processes
from statshift._core.errors import InputError, unknown
from statshift.models import check_input
from statshift.norms.layers import alone, batch_norms, before_forward, evaluating, keeping_statistics, run
from statshift.norms.selection import PARTS, write
from statshift.norms.shrinkage import check_finite, distances, met_twice, observe
from statshift.norms.statistics import ChannelStatistics, pool


@torch.no_grad()
def sweep(
    model: nn.Module,
    batches: Callable[[], Iterable[Tensor]],
    layers: dict[str, _BatchNorm] | None = None,
    *,
    tolerance: float = 0.01,
    statistics: str = "both",
    unbiased: bool = False,
) -> int:
    """Replace the statistics of the model's batch norms by those of a whole set that does not fit into one forward.

    The first sweep normalises each batch by its own statistics and pools them. Each further one measures all layers
    under the statistics that the sweep before has written, so after k more the first k layers are exact, and after as
    many as there are layers, all; it ends before, when no layer moves more than `tolerance`. Started on several
    processes, each gives its share of the batches, dealt out in turn, and all write the same.

    Args:
        model: as in `rectified`; it stays changed.
        batches: called for each sweep; the same images (B,3,H,W), batch by batch, each time.
        layers: as `select_layers` returns them; by default all.
        tolerance: root mean square over a layer's channels of how far mean or deviation move, in deviations; 0 ends
            where nothing moves.
        statistics: "both", "mean" or "var".
        unbiased: write the variance with count - 1 in the denominator.

    Returns:
        How many sweeps it took.

    Raises:
        InputError: no batch, or what `rectified` raises; the model is then as it was found.
    """
    if statistics not in PARTS:
        raise unknown("statistics", statistics, PARTS)
    layers = batch_norms(model) if layers is None else layers
    with alone(layers, nested=True), keeping_statistics(layers, unless_done=True):
        return _sweep(model, batches, layers, tolerance, statistics, unbiased)


def _sweep(
    model: nn.Module,
    batches: Callable[[], Iterable[Tensor]],
    layers: dict[str, _BatchNorm],
    tolerance: float,
    statistics: str,
    unbiased: bool,
) -> int:
    pooled, sweeps, moving = _sweep_once(model, batches(), layers, statistics), 1, True
    while moving and sweeps <= len(layers):
        for name, one in pooled.items():
            write(layers[name], one, statistics)
        before, pooled, sweeps = pooled, _sweep_once(model, batches(), layers), sweeps + 1
        moved = [torch.add(*distances(before[name], one, layers[name].eps)) for name, one in pooled.items()]
        moving = float(torch.stack(moved).max()) > tolerance**2
    for name, one in pooled.items():
        write(layers[name], one, statistics)
    if unbiased:
        for name, one in pooled.items():
            write(layers[name], replace(one, var=one.unbiased_var), statistics)
    return sweeps


def _sweep_once(
    model: nn.Module, batches: Iterable[Tensor], layers: dict[str, _BatchNorm], rewriting: str | None = None
) -> dict[str, ChannelStatistics]:
    """Return what each layer observes in all batches, pooled in the same order whatever the number of processes.

    With `rewriting`, a choice of statistics, each batch is normalised by its own.
    """
    mine: list[dict[str, ChannelStatistics]] = []
    alone = processes.join()[1] == 1

    def observe_layer(name: str, layer: _BatchNorm, features: Tensor) -> None:
        if name in mine[-1]:
            raise met_twice(name)
        seen = observe(name, features)
        mean, var = (seen.mean, seen.var) if alone else (seen.mean.cpu(), seen.var.cpu())
        mine[-1][name] = ChannelStatistics(mean, var, seen.count)
        if rewriting:
            write(layer, seen, rewriting)

    with before_forward(layers, observe_layer), evaluating(model):
        for images in batches:
            check_input(model, images)
            mine.append({})
            run(model, images)
    everyone = processes.in_turn(processes.gather(mine))
    if not everyone:
        raise InputError("Expected at least one batch of images, but there is none.")
    pooled = {name: pool(*(one[name] for one in everyone)) for name in everyone[0]}
    check_finite({name: one.var for name, one in pooled.items()})
    return pooled
