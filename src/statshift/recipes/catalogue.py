"""The recipes by name, with the papers' numbers or a user's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from statshift._core.errors import InputError, unknown
from statshift.hardening.training import TrainingOptions
from statshift.recipes.configuration import Recipe
from statshift.recipes.papers.advbn import HARDENING
from statshift.recipes.papers.normalization import NORMALIZATION
from statshift.recipes.papers.rectification import RECTIFICATION
from statshift.recipes.papers.segmentation import SEGMENTATION
from statshift.recipes.papers.sin import SIN
from statshift.recipes.papers.trained import MEASURING
from statshift.recipes.papers.training import Numbers, as_printed, in_one_cycle
from statshift.recipes.papers.variants import VARIANTS
from statshift.recipes.sources import BASE

_MEASURED: dict[str, Callable[[], Recipe]] = RECTIFICATION | MEASURING | VARIANTS

RECIPES: dict[str, Callable[..., Recipe]] = HARDENING | SIN | NORMALIZATION | _MEASURED | SEGMENTATION
"""The recipes: those that fine-tune a model, that train from random weights, and that measure trained networks."""

_PICTURES = "pictures; `statshift visualise` makes them of yours"
_NUMBERS = "numbers to train with, which the recipes on CIFAR-10 hold"

NOT_HERE: dict[str, dict[str, str]] = {
    "rectification": {"Figure 1": "one photograph; `statshift report` shows yours, with the answers before and after"},
    "ligs": {"Figure 3": "a drawing without data", "Table 4": _NUMBERS, "Table 5": _NUMBERS},
    "advbn": {
        "Figure 1": "photographs and answers; `statshift visualise` shows yours",
        "Figure 2": _PICTURES,
        "Figure 3": _PICTURES,
        "Figure 6": "photographs; `statshift report` shows yours, with their labels and predictions",
    },
    "submission": {
        "Figure 1": "photographs and answers; `statshift visualise` shows yours",
        "Figure 2": _PICTURES,
        "Figure 3": _PICTURES,
        "Figure 5": _PICTURES,
    },
}
"""By paper, the tables and figures that no recipe stands for, and why."""


def recipe(
    name: str,
    training: TrainingOptions | None = None,
    at: Sequence[str] | None = None,
    *,
    one_cycle: bool = False,
    labels: Sequence[str] | None = None,
    **changes: Any,
) -> Recipe:
    """Return a recipe with the papers' numbers, or upon other training options and layers.

    Args:
        name: one of `RECIPES`.
        training: epochs, batch and so on, in the papers' place; what the recipe compares by, such as augmentation and
            gamma, is the recipe's.
        at: layers, as `statshift layers` lists them; several for "position", else one. Of what fine-tunes only.
        one_cycle: train from random weights by one cycle of the learning rate, 30 epochs and adversarially 20.
        labels: leave out all others.
        **changes: see `changed`.

    Raises:
        InputError: an unknown name or label, not as many layers as it takes, or what the recipe has no place for.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    scratch, measured = name in NORMALIZATION, name in _MEASURED
    kind = "trains from random weights" if scratch else "measures trained networks"
    if at is not None and (scratch or measured):
        raise InputError(f"Expected no layer for the recipe {name}, which {kind}.")
    if one_cycle and not scratch:
        raise InputError(
            f"Expected no one-cycle training for the recipe {name}, which {kind if measured else 'fine-tunes a model'}."
        )
    if training is not None and (one_cycle or measured):
        wrong = "training options or one cycle" if one_cycle else "no training options"
        raise InputError(f"Expected {wrong} for the recipe {name}, but got {'both' if one_cycle else 'some'}.")
    if at is not None and not at:
        raise InputError(f"Expected a layer for the recipe {name}; `statshift layers` lists them.")
    if measured:
        chosen = RECIPES[name]()
    elif scratch:
        chosen = RECIPES[name](_numbers(training, one_cycle))
    else:
        given = {} if training is None else {"training": training}
        chosen = RECIPES[name](**given, **({} if at is None else {"at": tuple(at)}))
    return changed(chosen, labels, **changes)


def changed(chosen: Recipe, labels: Sequence[str] | None = None, **changes: Any) -> Recipe:
    """Return a recipe with some of its labels, and other numbers in all of them but for what it compares them by.

    Args:
        chosen: the recipe.
        labels: leave out all others.
        **changes: of the training options, such as `epochs=2`, or where nothing is trained `samples` or `draws` of the
            adaptation. Epochs after which the learning rate decays keep their share of all epochs.

    Raises:
        InputError: an unknown label, or what the recipe has no place for.
    """
    if labels is not None:
        chosen = _limited(chosen, labels)
    if not changes:
        return chosen
    numbers = chosen.numbers
    known = {field.name for one in numbers.values() for field in fields(one)}
    if excess := [name for name in changes if name not in known]:
        raise InputError(f"Expected no `{excess[0]}` for the recipe {chosen.name}, which {chosen.does}.")

    def new(label: str, old: Any) -> Any:
        own = {name: value for name, value in changes.items() if name not in chosen.keeps(label)}
        return replace(old, **{**_decays(old, own.get("epochs")), **own})

    return chosen.with_numbers({label: new(label, old) for label, old in numbers.items()})


def _numbers(training: TrainingOptions | None, one_cycle: bool) -> Numbers:
    """Return the function from the paper's numbers and those of one cycle to those to train with."""
    if training is not None:
        return lambda paper, cycle: training
    return in_one_cycle if one_cycle else as_printed


def _decays(numbers: Any, epochs: Any) -> dict[str, Any]:
    """Return what keeps the decays of a training in their places when the number of epochs changes."""
    own = getattr(numbers, "decay_epochs", None)
    if own is None or not isinstance(epochs, int) or epochs < 1:
        return {}
    decays = {round(epoch * epochs / numbers.epochs) for epoch in own}
    kept = tuple(sorted(decays & set(range(1, epochs))))
    return {"decay_epochs": kept} if kept else {"decay_epochs": None, "schedule": "constant"}


def _limited(chosen: Recipe, labels: Sequence[str]) -> Recipe:
    """Return the recipe with some of its labels."""
    if not labels:
        raise InputError(f"Expected a label of the recipe {chosen.name}; choose from: {', '.join(chosen.labels)}.")
    for label in labels:
        if label not in chosen.labels:
            raise unknown(f"label of the recipe {chosen.name}", label, chosen.labels)

    def some(by_label: Mapping[str, Any], *more: str) -> dict[str, Any]:
        return {label: one for label, one in by_label.items() if label in (*labels, *more)}

    changes: dict[str, Any] = {name: some(getattr(chosen, name)) for name in chosen.by_label}
    wanted = {network.weights for network in changes["networks"].values()}
    changes["published"] = some(chosen.published, *(() if chosen.networks else (BASE,)))
    changes["files"] = {name: path for name, path in chosen.files.items() if name in wanted}
    limited: Recipe = replace(chosen, **changes)
    return limited
