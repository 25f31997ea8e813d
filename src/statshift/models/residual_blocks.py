"""Blocks of residual networks: a branch of convolutions beside a shortcut, with norms or with Fixup's scalars."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from statshift.models.blocks import Style


class Subsample(nn.Module):
    """A shortcut without parameters: every `stride`-th position, with `padding` zero channels on both sides."""

    def __init__(self, padding: int, stride: int) -> None:
        super().__init__()
        self.padding, self.stride = padding, stride

    def forward(self, features: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B,C+2*padding,H/stride,W/stride)."""
        return F.pad(features[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


class Scalars(nn.Module):
    """One multiplier, if asked for, and one bias for all of a feature map."""

    def __init__(self, *, multiplier: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1)) if multiplier else None
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        return features + self.bias if self.scale is None else features * self.scale + self.bias


class ResidualBlock(nn.Module):
    """Convolutions, each behind the next a norm and an activation, and a shortcut that joins before the last one.

    Args:
        convs: convolutions of the branch, in order: conv1, conv2, ...
        style: style of its norms (bn1, bn2, ... whatever they are) and its activation.
        downsample: layers of the shortcut; None for the identity.
        shortcut: False leaves it out.
        fixup: scalars before and behind convolutions instead of norms: shift1, conv1, bn1, ...
    """

    def __init__(
        self,
        convs: Sequence[nn.Conv2d],
        style: Style,
        downsample: nn.Module | None = None,
        *,
        shortcut: bool = True,
        fixup: bool = False,
    ) -> None:
        super().__init__()
        self.depth, self.shortcut, self.fixup = len(convs), shortcut, fixup
        for number, conv in enumerate(convs, 1):
            if fixup:
                self.add_module(f"shift{number}", Scalars())
            self.add_module(f"conv{number}", conv)
            last = number == len(convs)
            norm = Scalars(multiplier=last) if fixup else style.normalisation(conv.out_channels)
            self.add_module(f"bn{number}", norm)
        self.act = style.act()
        self.downsample = downsample

    @property
    def convs(self) -> list[nn.Conv2d]:
        """The convolutions of the branch, in order."""
        return [getattr(self, f"conv{number}") for number in range(1, self.depth + 1)]

    def branch(self, features: Tensor) -> Tensor:
        """Return what the branch adds to the shortcut."""
        for number in range(1, self.depth + 1):
            if self.fixup:
                features = getattr(self, f"shift{number}")(features)
            features = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(features))
            if number < self.depth:
                features = self.act(features)
        return features

    def forward(self, features: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B,C',H/stride,W/stride)."""
        residual = self.branch(features)
        if self.shortcut:
            residual = residual + (features if self.downsample is None else self.downsample(features))
        activated: Tensor = self.act(residual)
        return activated
