"""Norms of two halves: instance norm of some channels beside batch norm of the others, and their exchange."""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.errors import InputError
from statshift._core.walking import put_in_place

FIRST_OF_BLOCK = re.compile(r"(?:.*\.)?layer(\d+)\.\d+\.bn1")
"""What the first norm of a residual block is called, with the number of its stage: in torchvision, timm and the zoo."""


class IBN(nn.Module):
    """Instance norm of the first half of the channels, batch norm of the others.

    Keys: `IN.weight`, `IN.bias`, and `BN.` with the running statistics, which alone rectifying changes.

    Args:
        channels: C; of an odd number the instance norm has the smaller half.
        eps: of both.

    Reference: Pan et al., "Two at Once: IBN-Net" (ECCV 2018), section 3.2.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.alone = channels // 2
        self.IN = nn.InstanceNorm2d(self.alone, eps, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.alone, eps)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape (B,C,H,W)."""
        return torch.cat((each_alone(self.IN, features[:, : self.alone]), self.BN(features[:, self.alone :])), 1)


def each_alone(norm: nn.InstanceNorm2d, features: Tensor) -> Tensor:
    """Return features (B,C,H,W) by an instance norm, in a way that torch.fx can trace."""
    return F.instance_norm(features, weight=norm.weight, bias=norm.bias, eps=norm.eps)


@torch.no_grad()
def halve_norms(model: nn.Module) -> nn.Module:
    """Exchange, in place, the first batch norm of each residual block for an `IBN`, but for those of the last stage.

    Weight, bias, running statistics, `eps` and momentum are those of the channels; the first half then goes by each
    image's own statistics, so that a trained network wants fine-tuning.

    Raises:
        InputError: there is no such norm, or one that is more than a BatchNorm2d with affine terms.

    Reference: Pan et al., figure 3 (IBN-a): in all stages but the last.
    """
    found = {
        name: (int(told[1]), module)
        for name, module in model.named_modules()
        if (told := FIRST_OF_BLOCK.fullmatch(name)) and isinstance(module, _BatchNorm)
    }
    last = max((stage for stage, _ in found.values()), default=0)
    chosen: dict[str, Any] = {name: module for name, (stage, module) in found.items() if stage < last}
    if not chosen:
        raise InputError(
            "Expected a residual network of several stages with batch norms layer1.0.bn1, ... to exchange for 'ibn-a', "
            "but found none."
        )
    for name, module in chosen.items():
        hooked = any(getattr(module, hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"))
        plain = type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats
        if not plain or hooked or module.num_features < 2:
            raise InputError(
                f"Cannot exchange the norms for 'ibn-a': {name} is no plain BatchNorm2d of two channels or more, with "
                "affine terms and running statistics."
            )
    put_in_place(model, {module: _halved(module) for module in chosen.values()})
    return model


def _halved(norm: nn.BatchNorm2d) -> IBN:
    new = IBN(norm.num_features, norm.eps).to(norm.weight.device, norm.weight.dtype)
    new.BN.momentum = norm.momentum
    state = norm.state_dict()
    for part in ("weight", "bias"):
        new.IN.get_parameter(part).copy_(state[part][: new.alone])
    for part, value in new.BN.state_dict().items():
        value.copy_(state[part][new.alone :] if value.ndim else state[part])
    for ours in (new.IN, new.BN):
        ours.weight.requires_grad_(norm.weight.requires_grad)
        ours.bias.requires_grad_(norm.bias.requires_grad)
    return new.train(norm.training)
