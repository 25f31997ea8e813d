"""The zoo of networks that answer for each pixel, by name: residual ones with dilated convolutions."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from statshift._core.randomness import seeded
from statshift.models.blocks import Style, check_count
from statshift.models.residual_blocks import ResidualBlock

STRIDES = (1, 2, 1, 1)
"""Of the stages' first blocks; ImageNet's ResNets halve in the last two stages as well."""

DILATIONS = (1, 1, 2, 4)
"""Of the stages' 3x3 convolutions, which make up for it."""


class DilatedResNet(nn.Module):
    """ImageNet's ResNet whose last two stages dilate instead of halving; a 1x1 convolution; eightfold up-sampling.

    Keys are torchvision's (conv1, bn1, layer1.0.conv1, ..., layer4), whose ResNet it is but for the head, `classifier`
    in the place of `fc`: checkpoints of ImageNet fit.

    Args:
        blocks: numbers of blocks of the four stages.
        num_classes: K.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions, fourfold wider at their end; else of two 3x3.
        norm: one of `NORMS`; at each place where batch norm would be.
        width: multiplies channels, which are rounded to even numbers.
        activation: "relu", "leaky_relu" (slope 0.01) or "selu".

    Attributes:
        head: what the layers are called that ImageNet's checkpoints lack.
        unused: what these have in their place.

    Raises:
        InputError: an unknown norm or activation, or a number that makes no network.

    Convolutions begin as in He et al. (ICCV 2015) with fan_out, the head as torch's; without norms, each branch's last
    1/sqrt(number of branches) times as large, as in `ResNet`.

    Reference: Pan et al., "Two at Once: IBN-Net" (ECCV 2018), section 4.2, without its instance norms; what comes
        behind the backbone ("no decoder, [...] upsampled by 8 times using bilinear interpolation") its author tells in
        issue 14 of its repository. Dilations: Yu et al., "Dilated Residual Networks" (CVPR 2017), section 2; as
        torchvision, a stage's first 3x3 convolution has the stage before's.
    Differs: no auxiliary head; that of PSPNet, from which theirs comes, is not told of.
    """

    classifier: nn.Conv2d
    head = "classifier"
    unused = "fc"

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int = 19,
        *,
        bottleneck: bool,
        norm: str = "batch",
        width: float = 1.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        check_count("num_classes", num_classes)
        self.style = Style(norm, width, activation)
        self.num_classes = num_classes
        inputs = self.style.channels(64)
        self.conv1 = self.style.conv(3, inputs, 7, 2)
        self.bn1 = self.style.normalisation(inputs)
        self.act = self.style.act()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = 1
        for stage, (count, stride, dilation) in enumerate(zip(blocks, STRIDES, DILATIONS, strict=True)):
            inside = self.style.channels(64 << stage)
            outputs = inside * (4 if bottleneck else 1)
            layer = nn.Sequential()
            for number in range(count):
                step, first = (1, dilation) if number else (stride, before)
                layer.append(self._block(inputs, inside, outputs, step, (first, dilation), bottleneck=bottleneck))
                inputs = outputs
            before = dilation
            self.add_module(f"layer{stage + 1}", layer)
        self._initialise()
        self.classifier = nn.Conv2d(inputs, num_classes, 1)

    def _block(
        self, inputs: int, inside: int, outputs: int, stride: int, dilations: tuple[int, int], *, bottleneck: bool
    ) -> ResidualBlock:
        """Return a block whose first 3x3 convolution has the stride and the first of two dilations."""
        conv, (first, second) = self.style.conv, dilations
        if bottleneck:
            convs = [conv(inputs, inside, 1), conv(inside, inside, 3, stride, dilation=first), conv(inside, outputs, 1)]
        else:
            convs = [conv(inputs, inside, 3, stride, dilation=first), conv(inside, inside, 3, dilation=second)]
        downsample = None
        if inputs != outputs or stride != 1:
            downsample = nn.Sequential(conv(inputs, outputs, 1, stride), self.style.normalisation(outputs))
        return ResidualBlock(convs, self.style, downsample)

    @torch.no_grad()
    def _initialise(self) -> None:
        self.style.initialise(self.modules(), "fan_out")
        branches = [module.convs for module in self.modules() if isinstance(module, ResidualBlock)]
        if self.style.norm == "none":
            for convs in branches:
                convs[-1].weight /= math.sqrt(len(branches))

    def reset_head(self, seed: int = 0) -> None:
        """Draw the head's weights anew, from a seed."""
        with seeded(seed):
            self.classifier.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,K,H,W) for normalised images (B,3,H,W)."""
        features = self.maxpool(self.act(self.bn1(self.conv1(images))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))  # type: ignore[operator]
        logits = self.classifier(features)
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


SEGMENTING: dict[str, Callable[..., nn.Module]] = {
    "resnet18": partial(DilatedResNet, (2, 2, 2, 2), bottleneck=False),
    "resnet50": partial(DilatedResNet, (3, 4, 6, 3), bottleneck=True),
}
"""All take `num_classes`, `norm`, `width` and `activation`; see each."""
