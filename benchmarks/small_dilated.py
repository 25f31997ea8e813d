"""A small dilated network for street scenes, as a user's own file: answers at an eighth of the images' sides."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        shortcut = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
        self.downsample = nn.Sequential(*(shortcut if (inputs, stride) != (outputs, 1) else []))

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B,C,H,W) of half the sides where the stride is 2."""
        new = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(features)))))
        return self.relu(new + self.downsample(features))


class SmallDilated(nn.Module):
    """A stem, three stages to an eighth of the sides, three dilated blocks of as many channels, and a 1x1 head.

    Args:
        num_classes: K.
        width: channels of the stem; the stages have twice as many and then three times.
    """

    def __init__(self, num_classes: int = 11, width: int = 16) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        self.layer1 = nn.Sequential(Block(width, 2 * width, stride=2))
        self.layer2 = nn.Sequential(Block(2 * width, 3 * width, stride=2))
        self.layer3 = nn.Sequential(*(Block(3 * width, 3 * width, dilation=dilation) for dilation in (2, 4, 8)))
        self.head = nn.Conv2d(3 * width, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,K,H/8,W/8) for normalised images (B,3,H,W)."""
        features = self.relu(self.bn1(self.conv1(images)))
        return self.head(self.layer3(self.layer2(self.layer1(features))))


def small_dilated(num_classes: int = 11, width: int = 16) -> nn.Module:
    """Build it."""
    return SmallDilated(num_classes, width)


if __name__ == "__main__":
    print(small_dilated()(torch.rand(1, 3, 192, 256)).shape)
