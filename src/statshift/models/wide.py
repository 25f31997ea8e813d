"""Wide residual networks, whose blocks begin with norm and activation."""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from statshift.models.blocks import Style, check_count, check_depth, check_flag


class WideBlock(nn.Module):
    """Norm, activation and 3x3 convolution, twice, and a shortcut; where shapes differ, a projection of the activated.

    Args:
        inputs: channels.
        outputs: channels.
        stride: stride of the first convolution.
        style: style of norms and activation.
        shortcut: False leaves it out.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, style: Style, *, shortcut: bool = True) -> None:
        super().__init__()
        self.bn1 = style.normalisation(inputs)
        self.conv1 = style.conv(inputs, outputs, 3, stride)
        self.bn2 = style.normalisation(outputs)
        self.conv2 = style.conv(outputs, outputs, 3)
        self.act = style.act()
        self.shortcut = shortcut
        projects = shortcut and (inputs, stride) != (outputs, 1)
        self.convShortcut = style.conv(inputs, outputs, 1, stride) if projects else None

    def forward(self, features: Tensor) -> Tensor:
        """Map (B,inputs,H,W) to (B,outputs,H/stride,W/stride)."""
        activated = self.act(self.bn1(features))
        residual: Tensor = self.conv2(self.act(self.bn2(self.conv1(activated))))
        if not self.shortcut:
            return residual
        return residual + (features if self.convShortcut is None else self.convShortcut(activated))


class WideResNet(nn.Module):
    """A wide ResNet of 6n+4 layers: a stem of 16 channels, and stages of n blocks with 16, 32 and 64 times `widen`.

    Keys are those of the most common checkpoints: conv1, block1.layer.0.bn1, block1.layer.0.conv1,
    block1.layer.0.convShortcut, ..., bn1 (behind the last block), fc; bn whatever the norm.

    Args:
        num_classes: K.
        depth: 6n+4.
        widen: the widening factor.
        norm: one of `NORMS`.
        width: multiplies all channels, the stem's too, which are rounded to even numbers.
        activation: "relu", "leaky_relu" (slope 0.01) or "selu".
        shortcut: False leaves out all shortcuts.

    Raises:
        InputError: an unknown norm or activation, or a number that makes no network.

    Convolutions begin as in He et al. (ICCV 2015) with fan_out; without norms, each branch's last 1/sqrt(number of
    branches) times as large, as in `ResNet`.

    Reference: Zagoruyko & Komodakis, "Wide Residual Networks" (BMVC 2016), section 2, table 1.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        depth: int = 28,
        widen: int = 10,
        norm: str = "batch",
        width: float = 1.0,
        activation: str = "relu",
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        check_count("num_classes", num_classes)
        check_count("widen", widen)
        check_flag("shortcut", shortcut)
        blocks = check_depth(depth, 6, 4)
        style = Style(norm, width, activation)
        self.num_classes = num_classes
        inputs = style.channels(16)
        self.conv1 = style.conv(3, inputs, 3)
        for stage in range(3):
            outputs = style.channels((16 << stage) * widen)
            layer = nn.Sequential()
            for number in range(blocks):
                stride = 2 if stage and not number else 1
                layer.append(WideBlock(inputs, outputs, stride, style, shortcut=shortcut))
                inputs = outputs
            self.add_module(f"block{stage + 1}", nn.Sequential(OrderedDict(layer=layer)))
        self.bn1 = style.normalisation(inputs)
        self.act = style.act()
        self.fc = nn.Linear(inputs, num_classes)
        style.initialise(self.modules(), "fan_out")
        if norm == "none" and shortcut:
            with torch.no_grad():
                for module in self.modules():
                    if isinstance(module, WideBlock):
                        module.conv2.weight /= math.sqrt(3 * blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,K) for normalised images (B,3,H,W)."""
        features = self.block3(self.block2(self.block1(self.conv1(images))))  # type: ignore[operator]
        logits: Tensor = self.fc(self.act(self.bn1(features)).mean(dim=(2, 3)))
        return logits
