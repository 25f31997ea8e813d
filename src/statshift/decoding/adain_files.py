"""pytorch-AdaIN's two files: an encoder, VGG-19 up to relu4_1 with weights of its own, and its decoder.

Reference: Huang and Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization" (ICCV 2017).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift.decoding.codec import Codec
from statshift.decoding.decoder import fitted
from statshift.decoding.stages import sequential_stages
from statshift.models import read_state, weights_hash

STAGES_OF_VGG = {"relu1_1": 3, "relu2_1": 10, "relu3_1": 17, "relu4_1": 30}
"""Where in the encoder each stage ends."""

STRIDE = 8


def vgg_encoder() -> nn.Sequential:
    """Return the encoder's 31 layers: a 1x1 convolution of the colours, then VGG-19's up to relu4_1."""
    layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    last = 3
    for wide in (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512):
        if wide:
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(last, wide, 3), nn.ReLU()]
            last = wide
        else:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*layers)


def vgg_decoder() -> nn.Sequential:
    """Return the decoder's layers: nine 3x3 convolutions and three doublings."""
    layers: list[nn.Module] = []
    last = 512
    for wide in (256, 0, 256, 256, 256, 128, 0, 128, 64, 0, 64, 3):
        if wide:
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(last, wide, 3), nn.ReLU()]
            last = wide
        else:
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
    return nn.Sequential(*layers[:-1])


class AdainDecoder(nn.Module):
    """The decoder, as `Decoder` is called.

    Attributes:
        layers: layers of `vgg_decoder`.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Return images (B,3,H,W), not clamped, of features (B,512,h,w) and a size (H,W)."""
        return fitted(self.layers(features), size, STRIDE)


def adain_codec(vgg_file: str | Path, decoder_file: str | Path, device: str | torch.device = "cpu") -> Codec:
    """Return the encoder and the decoder in pytorch-AdaIN's `vgg_normalised.pth` and `decoder.pth`.

    Args:
        vgg_file: the encoder; what it holds behind relu4_1 is left out.
        decoder_file: the decoder.
        device: where they run.

    Raises:
        InputError: a file that cannot be read, or of another layout.
    """
    encoder, layers = vgg_encoder(), vgg_decoder()
    weights = {name: value for name, value in read_state(vgg_file).items() if not _is_behind(name, len(encoder))}
    _load(encoder, weights, vgg_file, "vgg_normalised.pth")
    _load(layers, read_state(decoder_file), decoder_file, "decoder.pth")
    encoder, decoder = encoder.to(device).requires_grad_(False).eval(), AdainDecoder(layers).to(device)
    record: dict[str, Any] = {
        "verb": "decoder",
        "encoder": {"spec": "pytorch-AdaIN", "at": "relu4_1", "layer": "relu4_1", "hash": weights_hash(encoder)},
        "hash": weights_hash(decoder),
    }
    stages = sequential_stages(encoder, STAGES_OF_VGG)
    return Codec("relu4_1", encoder, decoder.requires_grad_(False).eval(), True, None, stages, record)


def _is_behind(name: str, count: int) -> bool:
    place = name.partition(".")[0]
    return place.isdigit() and int(place) >= count


def _load(layers: nn.Sequential, weights: Mapping[str, Tensor], path: str | Path, layout: str) -> None:
    own = layers.state_dict()
    for name in [*own, *weights]:
        wanted = tuple(own[name].shape) if name in own else "nothing"
        given = tuple(weights[name].shape) if name in weights else "nothing"
        if wanted != given:
            raise InputError(
                f"Expected {path} to be laid out as pytorch-AdaIN's {layout}, with {wanted} under {name}, but got "
                f"{given}."
            )
    layers.load_state_dict(weights)
