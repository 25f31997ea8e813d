"""Checkpoints with two sets of norms, of which a network of one set takes the one that is named."""

import re

from torch import Tensor

from statshift._core.errors import InputError, unknown
from statshift.models.layouts import COUNTER, State, twice

SIBLINGS = re.compile(r"(^|\.)(clean|adv)_(?=\w)")
"""AdvBN's `clean_bn1` beside `adv_bn1`."""

AUXILIARY = re.compile(r"\.aux_bn(?:\.(\d+))?(?=\.\w+$)")
"""AdvProp's `bn1.aux_bn`, timm's `bn1.aux_bn.0`, beside the main set in `bn1` itself."""


def choose_branch(
    weights: State, own: State, branch: str | None, path: object
) -> tuple[dict[str, Tensor], str | None, list[str]]:
    """Return weights with the norms of one branch under their plain names.

    Args:
        weights: of a file.
        own: the network's state dict; of a network with both sets nothing is chosen.
        branch: "clean" or "adv", with more than one auxiliary set "adv0", "adv1", ...; None for clean.
        path: of the file, for errors.

    Returns:
        The weights, the branch (None where there is one set alone) and the branches that were passed by.

    Raises:
        InputError: an unknown branch, a branch asked for where there is one set alone, sets that are no pairs, or two
            names that become one.
    """
    sets = _siblings(weights, own) or _auxiliary(weights, own)
    if not sets:
        if branch is not None:
            raise InputError(f"Expected no `branch`, but got {branch!r}: {path} holds one set of norms alone.")
        return dict(weights), None, []
    chosen = branch or "clean"
    if chosen not in sets:
        raise unknown(f"branch of {path},", chosen, sets)
    for name, other in sets.items():
        differing = _differing(sets["clean"], other)
        if differing:
            raise InputError(
                f"Expected {path} to hold whole sets of norms, but clean and {name} differ in {min(differing)}."
            )
    return sets[chosen], chosen, [name for name in sets if name != chosen]


def _siblings(weights: State, own: State) -> dict[str, dict[str, Tensor]]:
    """Return the weights by branch, of names such as `clean_bn1`; none where there are none."""
    tagged = {name: found for name in weights if name not in own and (found := SIBLINGS.search(name))}
    if not tagged:
        return {}
    sets: dict[str, dict[str, Tensor]] = {"clean": {}, "adv": {}}
    for name, value in weights.items():
        for branch, chosen in sets.items():
            if name not in tagged:
                chosen[name] = value
            elif branch in tagged[name].groups():
                plain = re.sub(rf"(^|\.){branch}_(?=\w)", r"\g<1>", name)
                if plain in weights:
                    raise twice(plain, plain, name)
                chosen[plain] = value
    return sets


def _auxiliary(weights: State, own: State) -> dict[str, dict[str, Tensor]]:
    """Return the weights by branch, of names such as `bn1.aux_bn.weight`; none where there are none.

    Of the main set's norms an auxiliary one takes nothing over.
    """
    tagged = {name: found for name in weights if name not in own and (found := AUXILIARY.search(name))}
    if not tagged:
        return {}
    main = {name: value for name, value in weights.items() if name not in tagged}
    norms = {layer for name in main if (layer := name.removesuffix(".running_mean")) != name}
    numbers = sorted({found[1] or "0" for found in tagged.values()}, key=int)
    sets = {"clean": main}
    for number in numbers:
        ours = {AUXILIARY.sub("", name): weights[name] for name, found in tagged.items() if (found[1] or "0") == number}
        layers = norms | {name.rpartition(".")[0] for name in ours}
        shared = {name: value for name, value in main.items() if name.rpartition(".")[0] not in layers}
        sets["adv" if len(numbers) == 1 else f"adv{number}"] = shared | ours
    return sets


def _differing(clean: State, other: State) -> list[str]:
    """Return the names that one of two branches lacks, or has in another shape; counters are passed by."""
    names = [name for name in clean.keys() | other.keys() if name.rpartition(".")[2] != COUNTER]
    return [name for name in names if not (name in clean and name in other and clean[name].shape == other[name].shape)]
