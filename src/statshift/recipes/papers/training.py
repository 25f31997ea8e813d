"""What the recipes on norms share: numbers to train with, and what is measured after each epoch."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from statshift.hardening.from_scratch import ONE_CYCLE
from statshift.hardening.method import Method
from statshift.hardening.options import HardenOptions
from statshift.hardening.training import TrainingOptions
from statshift.models import NORMS
from statshift.recipes.networks import Network
from statshift.recipes.sources import Figures
from statshift.recipes.training import TrainingRecipe
from statshift.shifts.shift import CLEAN

Numbers = Callable[[TrainingOptions, TrainingOptions], TrainingOptions]
"""From the paper's numbers and those of one cycle to those that are trained with."""


ATTACKED = ("pgd-l2:0.25", "pgd-linf:1/255", "cw-l2:0.25", "cw-linf:1/255")
"""The columns of Table 1, all of 20 steps (appendix B.2); the first is Table 2's."""


TREND = (CLEAN, "pgd-l2:0.25:10")
"""What the figures of section 4 show by epoch, on 1,000 images (appendix B.2)."""


def as_printed(paper: TrainingOptions, cycle: TrainingOptions) -> TrainingOptions:
    """Return the paper's numbers."""
    return paper


def in_one_cycle(paper: TrainingOptions, cycle: TrainingOptions) -> TrainingOptions:
    """Return those of an afternoon: 30 epochs by one cycle of the learning rate, 20 of adversarial training."""
    return cycle


def trained_by(
    numbers: Numbers,
    paper: TrainingOptions,
    method: str | Method = "standard",
    *,
    cycle: TrainingOptions = ONE_CYCLE,
    changes: Mapping[str, Any] = {},
) -> HardenOptions:
    """Return how a label trains: by the paper's numbers or those of one cycle, with changes of its own."""
    return HardenOptions(method, training=replace(numbers(paper, cycle), **changes))


def trained_on_cifar(
    name: str,
    title: str,
    source: Mapping[str, str],
    networks: Mapping[str, Network],
    options: Mapping[str, HardenOptions],
    published: Mapping[str, Figures] | None = None,
    **more: Any,
) -> TrainingRecipe:
    """Return a recipe on CIFAR-10 that measures accuracy, robust accuracy and LIGS, after each epoch too."""
    common: dict[str, Any] = {
        "data": "cifar10",
        "data_set": "CIFAR-10",
        "shifts": dict.fromkeys(options, (CLEAN, ATTACKED[0])),
        "ligs": ("gaussian",),
        "trend": TREND,
    }
    figures = dict.fromkeys(options) if published is None else published
    return TrainingRecipe(name, title, source, figures, networks=networks, options=options, **(common | more))


def with_each_norm(*names: str) -> dict[str, Network]:
    """Return networks with each norm, as "vgg11-none"."""
    return {f"{name}-{norm}": Network(f"cifar:{name}", {"norm": norm}) for name, norm in product(names, NORMS)}
