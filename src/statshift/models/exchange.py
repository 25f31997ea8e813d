"""Norms by name, and their exchange within any model."""

from collections import OrderedDict
from importlib import import_module
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from statshift._core.errors import InputError, unknown
from statshift._core.walking import modules_of, put_in_place
from statshift.models import choices
from statshift.models.halves import halve_norms

NORMS = choices.NORMS

EXCHANGEABLE = (_BatchNorm, _InstanceNorm, nn.GroupNorm)
"""What `exchange_norm` takes for a norm."""


def make_norm(name: str, channels: int, groups: int = 32) -> nn.Module:
    """Return a norm of feature maps (B,C,H,W), with affine terms.

    Args:
        name: "none" (the identity), "batch", "instance" (no running statistics), "layer" (one group of all channels)
            or "group".
        channels: C.
        groups: number of groups of "group", at most; see `count_groups`.

    Raises:
        InputError: another name, or groups below 1.

    Reference: Ulyanov et al., "Instance Normalization" (2016); Wu & He, "Group Normalization" (ECCV 2018), equations
        3 to 7: "layer" and "group" are theirs, over the channels of a group and all positions.
    """
    if name not in NORMS:
        raise unknown("norm", name, NORMS)
    if name == "none":
        return nn.Identity()
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.GroupNorm(_groups_of(name, channels, groups), channels)


def count_groups(channels: int, groups: int = 32) -> int:
    """Return the largest divisor of `channels` that is at most `groups` and leaves two channels or more to a group.

    Raises:
        InputError: groups below 1.

    Differs: Wu & He have 32 groups always; of 16 channels, 32 would not go, and 16 would be instance norm.
    """
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
        raise InputError(f"Expected `groups` to be a positive integer, but got {groups!r}.")
    return max((n for n in range(1, min(groups, channels // 2) + 1) if channels % n == 0), default=1)


def exchange_norm(model: nn.Module, norm: str, *, groups: int = 32) -> nn.Module:
    """Exchange, in place, every batch, instance and group norm of a model for another norm.

    Weight and bias, (C,) in all of them, stay the very same parameters ("none" drops them); `eps`, device, dtype, train
    flags, and the activation and drop of timm's norms are kept; a norm that the model uses under several names stays
    one. A batch norm exchanged for "batch" stays as it is. Other norms, such as LayerNorm, are left alone. Under "none"
    no module works in place any more: an activation would else overwrite the features that its norm shielded.

    Args:
        model: any, a `PixelModel` too; it is changed if nothing is raised.
        norm: one of `NORMS`, or "ibn-a". "batch" starts with running statistics of mean 0 and variance 1. "ibn-a"
            halves batch norms of residual networks, and their weights: see `statshift.models.halves.halve_norms`.
        groups: number of groups of "group", at most; see `count_groups`.

    Returns:
        The model.

    Raises:
        InputError: an unknown norm, groups below 1, no norm to exchange, or norms that cannot be: without affine terms
            or a known number of channels, with hooks, with a forward of their own, the model itself, or, for
            "instance", BatchNorm1d, whose features may have no positions.

    Differs: convolutions before an exchanged norm stay as they are: under "none" most have no bias then, unlike those
        of a zoo network built without norms. A group norm becomes a BatchNorm2d.
    """
    if norm not in choices.EXCHANGES:
        raise unknown("norm", norm, choices.EXCHANGES)
    count_groups(1, groups)
    if norm == "ibn-a":
        return halve_norms(model)
    found = {name: module for name, module in model.named_modules() if isinstance(module, EXCHANGEABLE)}
    if not found:
        names = {type(module).__name__ for module in modules_of(model) if "norm" in type(module).__name__.lower()}
        raise InputError(
            "Expected a model with batch, instance or group norms to exchange, but its norms are: "
            f"{', '.join(sorted(names)) or 'none'}."
        )
    if norm == "batch":
        found = {name: module for name, module in found.items() if not isinstance(module, _BatchNorm)}
    faults = [f"{name or 'the model'} {fault}" for name, module in found.items() if (fault := _fault(module, norm))]
    if "" in found:
        faults.append("the model is a norm itself, not in one that holds it")
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise InputError(f"Cannot exchange the norms for {norm!r}: {'; '.join(faults[:3])}{more}.")
    new: dict[nn.Module, nn.Module] = {module: _exchanged(module, norm, groups) for module in found.values()}
    put_in_place(model, new)
    if norm == "none":
        working: list[Any] = [module for module in modules_of(model) if getattr(module, "inplace", False)]
        for module in working:
            module.inplace = False  # or it would change what a shortcut takes
    return model


class GroupNormAct(nn.GroupNorm):
    """Group norm, then the drop and the activation that a norm of timm's carries."""

    drop: nn.Module
    act: nn.Module

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape (B,C,...)."""
        activated: Tensor = self.act(self.drop(super().forward(features)))
        return activated


class InstanceNormAct2d(nn.InstanceNorm2d):
    """Instance norm, then the drop and the activation that a norm of timm's carries."""

    drop: nn.Module
    act: nn.Module

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape (B,C,H,W)."""
        normed = F.instance_norm(features, weight=self.weight, bias=self.bias, eps=self.eps)  # torch.fx can trace it
        activated: Tensor = self.act(self.drop(normed))
        return activated


_PLAIN = (_BatchNorm.forward, nn.SyncBatchNorm.forward, _InstanceNorm.forward, nn.GroupNorm.forward)
_WITH_ACT = ("timm.layers.norm_act", __name__)


def _groups_of(norm: str, channels: int, groups: int) -> int:
    return 1 if norm == "layer" else count_groups(channels, groups)


def _fault(module: Any, norm: str) -> str | None:
    """Return why a norm cannot be exchanged, if so."""
    forward = type(module).forward
    if not _channels(module):
        return "does not know its number of channels yet"
    if any(module._parameters.get(name) is None for name in ("weight", "bias")):
        return "has no affine terms of its own"
    if forward not in _PLAIN and forward.__module__ not in (*_WITH_ACT, "timm.layers.norm"):
        return f"is a {type(module).__name__}, whose forward is its own"
    if any(getattr(module, hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")):
        return "has hooks"
    if norm == "instance" and isinstance(module, nn.BatchNorm1d):
        return "is a BatchNorm1d, whose features may have no positions"
    return None


def _channels(module: Any) -> int:
    return int(module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features)


def _exchanged(module: Any, norm: str, groups: int) -> nn.Module:
    """Return the norm that takes a module's place, with its parameters, and its drop and activation where it has them.

    `drop` and `act` are the module's own, not copies.
    """
    carried = {}
    if type(module).forward.__module__ in _WITH_ACT:
        carried = {
            name: child for name in ("drop", "act") if isinstance(child := getattr(module, name, None), nn.Module)
        }
    new = _bare(module, norm, groups, carries=bool(carried))
    if norm == "none":
        new = nn.Sequential(OrderedDict(carried)) if carried else new
    else:
        new.weight, new.bias = module.weight, module.bias
        for name in ("drop", "act") if carried else ():
            new.add_module(name, carried.get(name, nn.Identity()))
    new.training = module.training
    return new


def _bare(module: Any, norm: str, groups: int, *, carries: bool) -> nn.Module:
    """Return a norm for the features that a module takes."""
    channels, options = _channels(module), {"device": module.weight.device, "dtype": module.weight.dtype}
    if norm == "none":
        return nn.Identity()
    if norm in ("layer", "group"):
        kind = GroupNormAct if carries else nn.GroupNorm
        return kind(_groups_of(norm, channels, groups), channels, module.eps, **options)
    place = 1 if isinstance(module, nn.InstanceNorm1d) else 3 if isinstance(module, _THREE) else 2
    if norm == "instance":
        kinds = (nn.InstanceNorm1d, InstanceNormAct2d if carries else nn.InstanceNorm2d, nn.InstanceNorm3d)
        return kinds[place - 1](channels, module.eps, affine=True, **options)
    if carries:
        layers: Any = import_module("timm.layers")
        activated: nn.Module = layers.BatchNormAct2d(channels, module.eps, **options)
        return activated
    return (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[place - 1](channels, module.eps, **options)


_THREE = (nn.BatchNorm3d, nn.InstanceNorm3d)
