"""The rules by which the names in published checkpoints become those of a network; see docs/checkpoints.md."""

import re
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from statshift._core.errors import InputError

State = Mapping[str, Tensor]

PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "backbone.")
"""What wrappers put before all names."""

INSIDE = ("module", "_orig_mod")
"""What torch's own wrappers put into names, where a part of a network alone was wrapped."""

AVERAGED = ("ema_model.", "model_ema.", "ema.")
"""Before the names of averaged weights that lie beside others in one state dict."""

ATTACHED = ("attacker.", "criterion.", "loss.", "loss_fn.")
"""What lies beside a network in what was trained, and is no part of it."""

COUNT = "n_averaged"
"""What torch's `AveragedModel` counts beside its `module`."""

COUNTER = "num_batches_tracked"

MEAN = re.compile(r"(?:normali[sz](?:er?|ation)\.)?(?:new_)?(?:mean|mu)")
STD = re.compile(r"(?:normali[sz](?:er?|ation)\.)?(?:new_)?(?:std|sigma)")
"""The normalisation that a model holds which takes pixels in [0,1], as in MadryLab's library and RobustBench."""

RENAMED = (("shortcut", "downsample"), ("linear", "fc"))
"""Names of pytorch-cifar, and of MadryLab's networks for CIFAR-10, and what torchvision has for them."""


def twice(new: str, first: str, second: str) -> InputError:
    """Return an error that tells of two names in a file that become one."""
    return InputError(f"Expected one tensor of a checkpoint to be {new}, but both {first} and {second} would be.")


def _renamed(weights: State, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Return weights by other names.

    Raises:
        InputError: two names become one.
    """
    origin: dict[str, str] = {}
    for name in weights:
        new = rename(name)
        if new in origin:
            raise twice(new, origin[new], name)
        origin[new] = name
    return {new: weights[name] for new, name in origin.items()}


def unwrapped(weights: State, own: State) -> tuple[dict[str, Tensor], list[str]]:
    """Return weights without what wrappers put into their names, and without what is attached to the network.

    A prefix goes only where every name has it, and no fewer names are the network's own then; `.module.` within names
    only where every name under its parent has it.

    Args:
        weights: of a file.
        own: the network's state dict.

    Returns:
        The weights, and what was dropped: the first parts of the names.
    """
    found, dropped = dict(weights), list[str]()
    while True:
        before = list(found)
        for prefix in AVERAGED:
            averaged = _below(found, prefix)
            if averaged and not _below(own, prefix):
                dropped += [_first(name) for name in found if name not in averaged]
                found = {name.removeprefix(prefix): found[name] for name in averaged}
        attached = {name for part in ATTACHED if not _below(own, part) for name in _below(found, part)}
        attached |= {COUNT} - set(own)
        dropped += [_first(name) for name in found if name in attached and name != COUNT]
        found = {name: value for name, value in found.items() if name not in attached}
        found = _strip_shared(found, own)
        found = _strip_inside(found, own)
        if list(found) == before:
            return found, list(dict.fromkeys(dropped))


def _strip_shared(weights: dict[str, Tensor], own: State) -> dict[str, Tensor]:
    """Remove one prefix that all names share but those of a normalisation, unless fewer then are the network's own."""
    named = [name for name in weights if not (MEAN.fullmatch(name) or STD.fullmatch(name))]
    for prefix in PREFIXES:
        stripped = {name.removeprefix(prefix): value for name, value in weights.items()}
        if (
            named
            and all(name.startswith(prefix) for name in named)
            and len(stripped) == len(weights)
            and _fitting(stripped, own) >= _fitting(weights, own)
        ):
            return stripped
    return weights


def _strip_inside(weights: dict[str, Tensor], own: State) -> dict[str, Tensor]:
    for wrapper in INSIDE:
        for parent in dict.fromkeys(name.partition(f".{wrapper}.")[0] for name in weights if f".{wrapper}." in name):
            wrapped, below = f"{parent}.{wrapper}.", _below(weights, f"{parent}.")
            if below == _below(weights, wrapped) and not _below(own, wrapped):
                weights = {_without(wrapped, parent, name): value for name, value in weights.items()}
    return weights


def _without(wrapped: str, parent: str, name: str) -> str:
    return f"{parent}.{name.removeprefix(wrapped)}" if name.startswith(wrapped) else name


def _fitting(weights: State, own: State) -> int:
    return len(weights.keys() & own.keys())


def _below(names: Mapping[str, object], prefix: str) -> list[str]:
    return [name for name in names if name.startswith(prefix)]


def _first(name: str) -> str:
    return name.partition(".")[0]


def without_normalisation(
    weights: State, own: State
) -> tuple[dict[str, Tensor], tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return weights without a normalisation that the network has not, and its mean and deviation where there is one.

    Both are of three channels.
    """
    pair = []
    for pattern in (MEAN, STD):
        names = [name for name in weights if pattern.fullmatch(name) and name not in own and weights[name].numel() == 3]
        pair.append(names[0] if len(names) == 1 else None)
    mean, std = pair
    if mean is None or std is None:
        return dict(weights), None, None
    rest = {name: value for name, value in weights.items() if name not in pair}
    return rest, _numbers(weights[mean]), _numbers(weights[std])


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values.flatten().double().tolist())


def advbn_names(weights: State, own: State) -> dict[str, Tensor]:
    """Return weights of AdvBN's published ResNets by torchvision's names; others as they are.

    Those are `feature_x.P`, P counting what has no weights too: the convolution, its norm, then the stages in front of
    the cut; and `head.layerS_B`, block B of stage S behind it, and `head.fc`. A block's shortcut has `conv` and `bn`
    for 0 and 1. In front of the cut the network never ran its adversarial norms: the clean ones are both branches'.

    Reference: azshue/AdvBN, models/resnet.py.
    """
    front = {name: name.split(".")[1] for name in _below(weights, "feature_x.")}
    if not front or _below(own, "feature_x.") or len(front) + len(_below(weights, "head.")) < len(weights):
        return dict(weights)
    places = sorted({place for place in front.values() if place.isdigit()}, key=int)
    stages = {place: f"layer{number}" for number, place in enumerate(places[2:], 1)}
    parts = dict(zip(places, ("conv1", "bn1"), strict=False)) | stages
    names = {}
    for name in weights:
        parent, place, rest = [*name.split(".", 2), ""][:3]
        if parent == "head":
            new = name.removeprefix("head.")
            new = re.sub(r"^layer(\d+)_(\d+)\.", r"layer\1.\2.", new)
        elif rest.startswith("adv_bn") or ".adv_bn" in rest:
            continue
        else:
            new = re.sub(r"\bclean_(?=bn)", "", f"{parts.get(place, place)}.{rest}")
        new = re.sub(r"\bdownsample\.conv\b", "downsample.0", new)
        names[name] = re.sub(r"\bdownsample\.((?:clean_|adv_)?)bn\b", r"downsample.\g<1>1", new)
    return _renamed({name: weights[name] for name in names}, names.__getitem__)


def own_names(weights: State, own: State) -> dict[str, Tensor]:
    """Return weights with the names of `RENAMED` as the network has them, where it has them otherwise.

    Raises:
        InputError: the file has both names.
    """
    found = dict(weights)
    for theirs, ours in RENAMED:
        part = re.compile(rf"(^|\.){theirs}(?=\.)")
        if not any(part.search(name) for name in own):
            found = _renamed(found, partial(part.sub, rf"\g<1>{ours}"))
    return found


def with_counters(weights: State, own: State) -> dict[str, Tensor]:
    """Return weights whose counters of batches are whole numbers without a dimension.

    A counter is left out where it is no single number, and where the network's norm has none.
    """
    found = {}
    for name, value in weights.items():
        layer, _, part = name.rpartition(".")
        if part != COUNTER or (name not in own and f"{layer}.running_mean" not in own):
            found[name] = value
        elif name in own and value.numel() == 1:
            found[name] = value.reshape(()).to(torch.int64)
    return found
