"""ImageNet's ResNets with instance norms beside batch norms (IBN-Net), by name."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from statshift.models.blocks import Style, check_count
from statshift.models.halves import IBN, each_alone
from statshift.models.residual_blocks import ResidualBlock

IBN_STAGES = {"a": 3, "b": 2}
"""How many of the four stages have instance norms."""

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class IBNBlock(ResidualBlock):
    """A residual block whose sum is normalised, each image by itself, before the last activation: IBN-b's."""

    def __init__(self, convs: Sequence[nn.Conv2d], style: Style, downsample: nn.Module | None) -> None:
        super().__init__(convs, style, downsample)
        self.IN = nn.InstanceNorm2d(convs[-1].out_channels, affine=True)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B,C',H/stride,W/stride)."""
        shortcut = features if self.downsample is None else self.downsample(features)
        activated: Tensor = self.act(each_alone(self.IN, self.branch(features) + shortcut))
        return activated


class IBNResNet(nn.Module):
    """ImageNet's ResNet with instance norms in its first stages.

    "a" has an `IBN` in the place of each block's first norm, in three stages; "b" an instance norm in the place of the
    stem's, and one behind the sum of the last block of two stages. The rest is torchvision's, keys too, and so are the
    keys of the published checkpoints: `layer1.0.bn1.IN.weight`, `layer1.2.IN.weight`.

    Args:
        depth: 18, 34, 50 or 101.
        kind: "a" or "b".
        num_classes: K.
        width: multiplies channels, which are rounded to even numbers.

    Raises:
        InputError: a number that makes no network.

    Reference: Pan et al., "Two at Once: IBN-Net" (ECCV 2018), figure 3, with the stages of its authors' code.
    Differs: images of any size: features are averaged over all positions, theirs over 7x7, which is the same at 224 px.
    """

    def __init__(self, depth: int, kind: str, num_classes: int = 1000, *, width: float = 1.0) -> None:
        super().__init__()
        check_count("num_classes", num_classes)
        self.style, self.num_classes = Style(width=width), num_classes
        self.kind, self.bottleneck = kind, depth >= 50
        inputs = self.style.channels(64)
        self.conv1 = self.style.conv(3, inputs, 7, 2)
        self.bn1 = nn.InstanceNorm2d(inputs, affine=True) if kind == "b" else self.style.normalisation(inputs)
        self.act = self.style.act()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, count in enumerate(BLOCKS[depth]):
            inside = self.style.channels(64 << stage)
            outputs = inside * (4 if self.bottleneck else 1)
            layer = nn.Sequential()
            for number in range(count):
                stride = 2 if stage and not number else 1
                last = stage < IBN_STAGES[kind] and number == count - 1
                layer.append(self._block(inputs, inside, outputs, stride, last=last and kind == "b"))
                if kind == "a" and stage < IBN_STAGES[kind]:
                    layer[number].bn1 = IBN(inside)
                inputs = outputs
            self.add_module(f"layer{stage + 1}", layer)
        self.fc = nn.Linear(inputs, num_classes)
        self.style.initialise(self.modules(), "fan_out")

    def _block(self, inputs: int, inside: int, outputs: int, stride: int, *, last: bool) -> ResidualBlock:
        conv = self.style.conv
        if self.bottleneck:
            convs = [conv(inputs, inside, 1), conv(inside, inside, 3, stride), conv(inside, outputs, 1)]
        else:
            convs = [conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3)]
        downsample = None
        if inputs != outputs or stride != 1:
            downsample = nn.Sequential(conv(inputs, outputs, 1, stride), self.style.normalisation(outputs))
        return (IBNBlock if last else ResidualBlock)(convs, self.style, downsample)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,K) for normalised images (B,3,H,W)."""
        features = self.maxpool(self.act(self.bn1(self.conv1(images))))
        for stage in range(1, 5):
            features = getattr(self, f"layer{stage}")(features)
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


IBN_NETS: dict[str, Callable[..., nn.Module]] = {
    f"resnet{depth}_ibn_{kind}": partial(IBNResNet, depth, kind) for kind in IBN_STAGES for depth in BLOCKS
}
"""All take `num_classes` and `width`; the names are those of the authors' code."""
