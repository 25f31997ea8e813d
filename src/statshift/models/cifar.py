"""ResNets for 32 px images.

The residual networks of He et al. with parameter-free shortcuts, named and keyed as in the most common
checkpoints (conv1, bn1, layer1.0.conv1, ..., linear), and ImageNet's ResNet-18 and -50 with a stem for small
images, keyed as torchvision's.

Reference: He et al., Deep Residual Learning for Image Recognition (CVPR 2016), section 4.2, option A.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F


def subsample_and_pad(features: Tensor, padding: int, stride: int) -> Tensor:
    """Return features (B,C,H,W) at every `stride`-th position, `padding` zero channels added on both sides."""
    if stride == 1 and padding == 0:
        return features
    return F.pad(features[:, :, ::stride, ::stride], (0, 0, 0, 0, padding, padding))


def small_stem(name: str, num_classes: int = 10) -> nn.Module:
    """Return torchvision's ResNet `name` with a 3x3 stem of stride 1 and no max pooling."""
    from torchvision.models import get_model

    network: nn.Module = get_model(name, weights=None, num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.padding, self.stride = (outputs - inputs) // 2, stride

    def forward(self, features: Tensor) -> Tensor:
        """Map (B,inputs,H,W) to (B,outputs,H/stride,W/stride)."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(features)))))
        return F.relu(residual + subsample_and_pad(features, self.padding, self.stride))


class CifarResNet(nn.Module):
    """A ResNet of 6n+2 layers: three stages of n blocks with 16, 32 and 64 channels."""

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1, blocks)
        self.layer2 = self._stage(16, 32, 2, blocks)
        self.layer3 = self._stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
        rest = [BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
        return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,K) for normalised images (B,3,H,W)."""
        features = F.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


ZOO: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (20, 32, 44, 56, 110)},
    **{name: partial(small_stem, name) for name in ("resnet18", "resnet50")},
}
