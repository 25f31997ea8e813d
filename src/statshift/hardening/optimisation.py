"""Optimisers by name, and learning-rate schedules as functions of the step."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from statshift.hardening import choices

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adagrad": torch.optim.Adagrad,
}
"""torch's, by name."""

SCHEDULES = choices.SCHEDULES
WITH_MOMENTUM = ("sgd",)
POWER = 0.9
"""Of the schedule "poly"."""


def optimizer_of(
    name: str,
    parameters: Iterable[Tensor],
    *,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
) -> torch.optim.Optimizer:
    """Return the optimiser named; momentum, Nesterov's or not, is only for those `WITH_MOMENTUM`."""
    own = {"momentum": momentum, "nesterov": nesterov} if name in WITH_MOMENTUM else {}
    return OPTIMIZERS[name](parameters, lr=learning_rate, weight_decay=weight_decay, **own)


def rate_at(
    schedule: str, step: int, steps: int, highest: float, *, decays: Sequence[int] = (), factor: float = 0.1
) -> float:
    """Return the learning rate of a step.

    Args:
        schedule: one of `SCHEDULES`.
        step: from 0.
        steps: in all.
        highest: learning rate.
        decays: for "step", those at which the rate is multiplied.
        factor: by what.

    Reference:
        Smith and Topin, "Super-Convergence" (2017), section 3 ("one-cycle"); Loshchilov and Hutter, "SGDR" (ICLR
        2017), equation 5 with one period and nothing as the least rate ("cosine"); Chen et al., "DeepLab" (TPAMI
        2018), section 4.1 ("poly"), with the power of 0.9.
    """
    if schedule == "step":
        return highest * factor ** sum(step >= decay for decay in decays)
    if schedule == "cosine":
        return _cosine(highest, 0.0, step / steps)
    if schedule == "constant":
        return highest
    if schedule == "poly":
        return highest * math.pow(1 - step / steps, POWER)
    low, end, peak = highest / 25, highest / 25e4, max(0.2 * steps - 1, 1e-9)
    if step <= peak:
        return _cosine(low, highest, step / peak)
    return _cosine(highest, end, (step - peak) / (steps - 1 - peak))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
