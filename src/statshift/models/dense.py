"""Densely connected networks."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from statshift.models.blocks import Style, check_count, check_depth


class DenseLayer(nn.Module):
    """A bottleneck of 1x1 and 3x3 convolutions, each behind norm and activation, whose output joins its input."""

    def __init__(self, inputs: int, growth: int, style: Style) -> None:
        super().__init__()
        self.norm1 = style.normalisation(inputs)
        self.conv1 = style.conv(inputs, 4 * growth, 1)
        self.norm2 = style.normalisation(4 * growth)
        self.conv2 = style.conv(4 * growth, growth, 3)
        self.act = style.act()

    def forward(self, features: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B,C+growth,H,W)."""
        new = self.conv1(self.act(self.norm1(features)))
        return torch.cat([features, self.conv2(self.act(self.norm2(new)))], 1)


class DenseNet(nn.Module):
    """DenseNet-BC for small images: three dense blocks, and transitions that halve channels and resolution.

    Keys are torchvision's: `features.conv0`, `features.denseblock1.denselayer1.norm1`, `features.transition1.conv`,
    `features.norm5`, `classifier`.

    Args:
        num_classes: K.
        depth: 6n+4 layers.
        growth: channels that a layer adds.
        norm: one of `NORMS`.
        width: multiplies the growth, which is rounded to an even number, and so all channels.
        activation: "relu", "leaky_relu" (slope 0.01) or "selu".

    Raises:
        InputError: an unknown norm or activation, or a number that makes no network.

    Reference: Huang et al., "Densely Connected Convolutional Networks" (CVPR 2017), section 3, L=100 and k=12 in
        table 2; initialisation of He et al. (ICCV 2015) with fan_in, norm or none: layers narrow from many channels
        to few, and fan_out would let features grow from layer to layer.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        depth: int = 100,
        growth: int = 12,
        norm: str = "batch",
        width: float = 1.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        check_count("num_classes", num_classes)
        check_count("growth", growth)
        layers = check_depth(depth, 6, 4)
        style = Style(norm, width, activation)
        growth = style.channels(growth)
        self.num_classes = num_classes
        channels = 2 * growth
        parts: OrderedDict[str, nn.Module] = OrderedDict(conv0=style.conv(3, channels, 3))
        for block in (1, 2, 3):
            inside = {f"denselayer{n + 1}": DenseLayer(channels + n * growth, growth, style) for n in range(layers)}
            parts[f"denseblock{block}"] = nn.Sequential(OrderedDict(inside))
            channels += layers * growth
            if block < 3:
                parts[f"transition{block}"] = _transition(channels, style)
                channels //= 2
        parts["norm5"], parts["act5"] = style.normalisation(channels), style.act()
        self.features = nn.Sequential(parts)
        self.classifier = nn.Linear(channels, num_classes)
        style.initialise(self.modules(), "fan_in")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,K) for normalised images (B,3,H,W)."""
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits


def _transition(channels: int, style: Style) -> nn.Sequential:
    conv = style.conv(channels, channels // 2, 1)
    parts = {"norm": style.normalisation(channels), "act": style.act(), "conv": conv, "pool": nn.AvgPool2d(2)}
    return nn.Sequential(OrderedDict(parts))
