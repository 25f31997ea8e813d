"""Residual networks for small images, with basic, bottleneck and grouped blocks, and with Fixup in the norms' place."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift.models.blocks import Style, check_count, check_depth, check_flag
from statshift.models.residual_blocks import ResidualBlock, Scalars, Subsample


class ResNet(nn.Module):
    """A residual network: a 3x3 stem, and stages that halve the resolution and double the channels but for the first.

    Keys: conv1, bn1 (whatever the norm), layer1.0.conv1, layer1.0.bn1, layer2.0.downsample.0, ...; then the head.

    Args:
        blocks: numbers of blocks, one for each stage.
        stem: channels of the stem and, but for a bottleneck's expansion, of the first stage.
        num_classes: K.
        norm: one of `NORMS`; at each place where batch norm would be.
        width: multiplies channels, which are rounded to even numbers.
        activation: "relu", "leaky_relu" (slope 0.01) or "selu".
        shortcut: False leaves out all shortcuts.
        fixup: Fixup instead of norms; `norm` must be "none" then, or "batch", which as the default counts as not given.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions, fourfold wider at their end; else of two 3x3.
        cardinality: groups of a bottleneck's 3x3 convolution.
        base_width: channels of such a group in the first stage.
        option: one of He et al.'s shortcuts where shapes differ: "A" subsamples and pads, "B" projects.
        head: what the linear layer is called.
        fan: fan of the initialisation, see `Style.initialise`.

    Raises:
        InputError: an unknown norm or activation, a number that makes no network, or Fixup with a norm or without
            shortcuts.

    Without norms each branch's last convolution begins 1/sqrt(number of branches) times as large, so that the branches
    together add about as much variance as the shortcuts carry, at any depth; without shortcuts as well it does not.

    Reference: He et al. (CVPR 2016), sections 3.3 and 4.2; Zhang et al., "Fixup Initialization" (ICLR 2019), section 3.
    Differs: under Fixup a projecting shortcut has a bias of its own before its convolution. Zhang et al. train the
        scalars at a tenth of the learning rate; that is left to the optimiser's groups.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        stem: int,
        num_classes: int,
        *,
        norm: str,
        width: float,
        activation: str,
        shortcut: bool,
        fixup: bool = False,
        bottleneck: bool = False,
        cardinality: int = 1,
        base_width: int = 64,
        option: str = "B",
        head: str = "fc",
        fan: str = "fan_out",
    ) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("cardinality", cardinality), ("base_width", base_width)):
            check_count(name, value)
        check_flag("shortcut", shortcut)
        check_flag("fixup", fixup)
        self.style = Style(norm, width, activation)
        if fixup and norm not in ("none", "batch"):
            raise InputError(f"Expected `norm` to be none with `fixup`, which takes its place, but got {norm!r}.")
        if fixup and not shortcut:
            raise InputError("Expected `shortcut` with `fixup`: its branches begin at zero, and nothing would pass.")
        self.num_classes, self.shortcut, self.fixup, self.option, self.head = num_classes, shortcut, fixup, option, head
        self.stages = len(blocks)
        inputs = self.style.channels(stem)
        self.conv1 = self._conv(3, inputs, 3)
        self.bn1 = Scalars() if fixup else self.style.normalisation(inputs)
        self.act = self.style.act()
        for stage, count in enumerate(blocks):
            inside = self.style.channels(stem << stage)
            if bottleneck:
                inside = cardinality * self.style.channels(base_width << stage)
            outputs = self.style.channels(stem << stage) * (4 if bottleneck else 1)
            layer = nn.Sequential()
            for number in range(count):
                stride = 2 if stage and not number else 1
                layer.append(self._block(inputs, inside, outputs, stride, cardinality if bottleneck else None))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", layer)
        if fixup:
            self.shift = Scalars()
        self.add_module(head, nn.Linear(inputs, num_classes))
        self._initialise(fan)

    def _conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1, cardinality: int = 1) -> nn.Conv2d:
        bias = False if self.fixup else None
        return self.style.conv(inputs, outputs, kernel, stride, cardinality=cardinality, bias=bias)

    def _block(self, inputs: int, inside: int, outputs: int, stride: int, cardinality: int | None) -> ResidualBlock:
        """Return a block; a basic one if `cardinality` is None."""
        if cardinality is None:
            convs = [self._conv(inputs, outputs, 3, stride), self._conv(outputs, outputs, 3)]
        else:
            middle = self._conv(inside, inside, 3, stride, cardinality)
            convs = [self._conv(inputs, inside, 1), middle, self._conv(inside, outputs, 1)]
        downsample = self._downsample(inputs, outputs, stride) if self.shortcut else None
        return ResidualBlock(convs, self.style, downsample, shortcut=self.shortcut, fixup=self.fixup)

    def _downsample(self, inputs: int, outputs: int, stride: int) -> nn.Module | None:
        if inputs == outputs and stride == 1:
            return None
        if self.option == "A":
            return Subsample((outputs - inputs) // 2, stride)
        conv = self._conv(inputs, outputs, 1, stride)
        return nn.Sequential(Scalars(), conv) if self.fixup else nn.Sequential(conv, self.style.normalisation(outputs))

    @torch.no_grad()
    def _initialise(self, fan: str) -> None:
        self.style.initialise(self.modules(), fan)
        linear: nn.Linear = self.get_submodule(self.head)  # type: ignore[assignment]
        branches = [module.convs for module in self.modules() if isinstance(module, ResidualBlock)]
        if self.fixup:
            linear.weight.zero_()
            linear.bias.zero_()
            for convs in branches:
                for conv in convs[:-1]:
                    conv.weight *= len(branches) ** (-1 / (2 * len(convs) - 2))
                convs[-1].weight.zero_()
        elif self.style.norm == "none" and self.shortcut:
            for convs in branches:
                convs[-1].weight /= math.sqrt(len(branches))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,K) for normalised images (B,3,H,W)."""
        features = self.act(self.bn1(self.conv1(images)))
        for stage in range(1, self.stages + 1):
            features = getattr(self, f"layer{stage}")(features)
        features = features.mean(dim=(2, 3))
        if self.fixup:
            features = self.shift(features)
        logits: Tensor = getattr(self, self.head)(features)
        return logits


class CifarResNet(ResNet):
    """A ResNet of 6n+2 layers: three stages of n basic blocks with 16, 32 and 64 channels; shortcuts of option A.

    Keys are those of the most common checkpoints: conv1, bn1, layer1.0.conv1, ..., linear. The arguments are those of
    `ResNet`; `depth` is 6n+2. Convolutions and the linear layer begin as in He et al. (ICCV 2015) with fan_in.

    Reference: He et al., "Deep Residual Learning" (CVPR 2016), section 4.2.
    """

    def __init__(
        self,
        depth: int = 20,
        num_classes: int = 10,
        *,
        norm: str = "batch",
        width: float = 1.0,
        activation: str = "relu",
        shortcut: bool = True,
        fixup: bool = False,
    ) -> None:
        super().__init__(
            [check_depth(depth, 6, 2)] * 3,
            16,
            num_classes,
            norm=norm,
            width=width,
            activation=activation,
            shortcut=shortcut,
            fixup=fixup,
            option="A",
            head="linear",
            fan="fan_in",
        )

    def _initialise(self, fan: str) -> None:
        super()._initialise(fan)
        if not self.fixup:
            nn.init.kaiming_normal_(self.get_submodule(self.head).weight)  # type: ignore[arg-type]


def resnet18(
    num_classes: int = 10,
    *,
    norm: str = "batch",
    width: float = 1.0,
    activation: str = "relu",
    shortcut: bool = True,
    fixup: bool = False,
) -> ResNet:
    """Return ImageNet's ResNet-18 with a 3x3 stem of stride 1 and no max pooling, keyed as torchvision's.

    The arguments are those of `ResNet`.
    """
    return ResNet(
        (2, 2, 2, 2),
        64,
        num_classes,
        norm=norm,
        width=width,
        activation=activation,
        shortcut=shortcut,
        fixup=fixup,
    )


def resnet50(
    num_classes: int = 10,
    *,
    norm: str = "batch",
    width: float = 1.0,
    activation: str = "relu",
    shortcut: bool = True,
    fixup: bool = False,
) -> ResNet:
    """Return ImageNet's ResNet-50 with a 3x3 stem of stride 1 and no max pooling, keyed as torchvision's.

    The arguments are those of `ResNet`; a block's stride is at its 3x3 convolution, as in torchvision.
    """
    return ResNet(
        (3, 4, 6, 3),
        64,
        num_classes,
        norm=norm,
        width=width,
        activation=activation,
        shortcut=shortcut,
        fixup=fixup,
        bottleneck=True,
    )


def resnext29(
    num_classes: int = 10,
    *,
    cardinality: int = 8,
    base_width: int = 64,
    norm: str = "batch",
    width: float = 1.0,
    activation: str = "relu",
    shortcut: bool = True,
) -> ResNet:
    """Return ResNeXt-29: three stages of three grouped bottlenecks that end in 256, 512 and 1024 channels.

    Keys as torchvision's: conv1, bn1, layer1.0.conv1, layer1.0.downsample.0, ..., fc. The arguments are those of
    `ResNet`.

    Reference: Xie et al., "Aggregated Residual Transformations" (CVPR 2017), section 5.3.
    """
    return ResNet(
        (3, 3, 3),
        64,
        num_classes,
        norm=norm,
        width=width,
        activation=activation,
        shortcut=shortcut,
        bottleneck=True,
        cardinality=cardinality,
        base_width=base_width,
    )
