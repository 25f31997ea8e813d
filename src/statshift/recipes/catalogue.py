"""The recipes by name, with the papers' numbers or a user's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from statshift.errors import InputError, unknown
from statshift.recipes.configuration import BASE, Recipe
from statshift.recipes.hardening import HARDENING, PAPERS
from statshift.recipes.normalization import NORMALIZATION, Numbers, as_printed, in_one_cycle
from statshift.training import TrainingOptions

RECIPES: dict[str, Callable[..., Recipe]] = HARDENING | NORMALIZATION
"""The recipes: those that fine-tune a model, then those that train from random weights."""

NOT_TRAINED = {"branches": "see `authors_branch`", "cost": "see `step_costs`"}


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
        at: layers, as `statshift layers` lists them; several for "position", else one. Not for what trains from random
            weights.
        one_cycle: train from random weights by one cycle of the learning rate, 30 epochs and adversarially 20.
        labels: leave out all others.
        **changes: of the training options, such as `epochs=2`; what they do not name stays. Epochs after which the
            learning rate decays keep their share of all epochs.

    Raises:
        InputError: an unknown name or label, not as many layers as it takes, or what the recipe has no place for.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    if name in NORMALIZATION:
        if at is not None:
            raise InputError(f"Expected no layer for the recipe {name}, which trains from random weights.")
        if one_cycle and training is not None:
            raise InputError(f"Expected training options or one cycle for the recipe {name}, but got both.")
        chosen = RECIPES[name](_numbers(training, one_cycle, changes))
    else:
        if one_cycle:
            raise InputError(f"Expected no one-cycle training for the recipe {name}, which fine-tunes a model.")
        if at is not None and not at:
            raise InputError(f"Expected a layer for the recipe {name}; `statshift layers` lists them.")
        given = {} if at is None else {"at": tuple(at)}
        chosen = RECIPES[name](replace(training or PAPERS, **changes), **given)
    return chosen if labels is None else _limited(chosen, labels)


def _numbers(training: TrainingOptions | None, one_cycle: bool, changes: Mapping[str, Any]) -> Numbers:
    """Return the function from a method and the paper's numbers to those to train with."""
    start = in_one_cycle if one_cycle else as_printed

    def numbers(method: str, paper: TrainingOptions) -> TrainingOptions:
        begun = start(method, paper) if training is None else training
        return replace(begun, **{**_decays(begun, changes.get("epochs")), **changes})

    return numbers


def _decays(training: TrainingOptions, epochs: Any) -> dict[str, Any]:
    """Return what keeps the decays in their places when the number of epochs changes."""
    if training.decay_epochs is None or not isinstance(epochs, int) or epochs < 1:
        return {}
    decays = {round(epoch * epochs / training.epochs) for epoch in training.decay_epochs}
    kept = tuple(sorted(decays & set(range(1, epochs))))
    return {"decay_epochs": kept} if kept else {"decay_epochs": None, "schedule": "constant"}


def _limited(chosen: Recipe, labels: Sequence[str]) -> Recipe:
    """Return the recipe with some of its labels."""
    if not labels:
        raise InputError(f"Expected a label of the recipe {chosen.name}; choose from: {', '.join(chosen.options)}.")
    for label in labels:
        if label not in chosen.options:
            raise unknown(f"label of the recipe {chosen.name}", label, chosen.options)
    return replace(
        chosen,
        options={label: one for label, one in chosen.options.items() if label in labels},
        published={label: one for label, one in chosen.published.items() if label in (BASE, *labels)},
    )
