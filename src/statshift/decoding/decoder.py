"""The network of a decoder, which mirrors the strides of an encoder."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from statshift._core.errors import InputError
from statshift.decoding.choices import DEPTH, WIDTH

WIDEST = 8
"""Channels are at most so many times the width."""


class Decoder(nn.Module):
    """Makes images (B,3,H,W), not clamped, of features (B,C,h,w).

    At 1/s of the image's side there are `width` x s channels, at most 8 times the width, and `depth` 3x3 convolutions
    with reflection padding, each with a ReLU; the last of them narrows to the next resolution's channels, and then
    every pixel is doubled. At the image's own there are two, the last without a ReLU. There is no norm but for one
    fixed shift and scale of the features, `mean` and `std`, which are given and not learned.

    Args:
        channels: C of the features.
        stride: side of the images over that of the features; what is no power of two is reached by resizing.
        width: channels at the image's own resolution.
        depth: convolutions at each resolution below.

    Raises:
        InputError: one of them below 1.

    Reference:
        Huang and Belongie, "Arbitrary Style Transfer" (ICCV 2017), section 6.1, which Shu et al. use.

    Differs:
        Theirs is for VGG-19's relu4_1 alone: a width of 64, of 1, 4 and 2 convolutions below the image's resolution.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, stride: int, width: int = WIDTH, depth: int = DEPTH) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"channels": channels, "stride": stride, "width": width, "depth": depth}
        check_counts(**self.config)
        self.stride = stride
        wide = [width * min(2**level, WIDEST) for level in range(round(math.log2(stride)) + 1)]
        layers: list[nn.Module] = []
        last = channels
        for level in range(len(wide) - 1, 0, -1):
            for outputs in [*[wide[level]] * (depth - 1), wide[level - 1]]:
                layers += [_Convolution(last, outputs, 3), nn.ReLU()]
                last = outputs
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
        self.layers = nn.Sequential(*layers, _Convolution(last, width, 3), nn.ReLU(), _Convolution(width, 3, 3))
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.layers[-1].bias, 0.5)  # type: ignore[arg-type]  # a grey image
        self.layers[-1].weight.data.mul_(0.1)  # type: ignore[operator]

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Return images (B,3,H,W) of features (B,C,h,w).

        Args:
            features: as the encoder puts them out.
            size: (H,W).
        """
        images: Tensor = self.layers((features - self.mean) / self.std)
        return fitted(images, size, self.stride)


def check_counts(**counts: int) -> None:
    """Check numbers that count something, named as an error names them.

    Raises:
        InputError: one is no integer of at least 1.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise InputError(f"Expected `{name}` to be an integer of at least 1, but got {value!r}.")


def fitted(images: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Return images at a size (H,W): cropped or extended by less than a stride at the right and bottom, or resized.

    An encoder pads or passes by what is no multiple of its stride there.
    """
    over = [side - wanted for side, wanted in zip(images.shape[-2:], size, strict=True)]
    if not all(-stride < more < stride for more in over):
        return F.interpolate(images, size=size, mode="bilinear", antialias=True)
    images = images[..., : size[0], : size[1]]
    down, right = (max(0, -more) for more in over)
    return F.pad(images, (0, right, 0, down), mode="replicate") if down or right else images


class _Convolution(nn.Conv2d):
    """3x3 with reflection padding, which autocast would do in float32."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            input = F.pad(input, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(input, self.weight, self.bias)
