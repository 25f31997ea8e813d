"""What papers call the places in a network."""

import re

from torch import nn


def published_name(network: nn.Module, name: str) -> str | None:
    """Return what papers call the output of a module of a network; None where they have no name for it.

    "conv2_3" is the end of the third block of a ResNet's `layer1`, and of that stage; "relu4_1" the first ReLU of a
    VGG's fourth stage.
    """
    return _of_resnet(network, name) or _of_vgg(network, name)


def _of_resnet(network: nn.Module, name: str) -> str | None:
    match = re.fullmatch(r"((?:backbone\.|encoder\.)?layer([1-9]))(?:\.(\d+))?", name)
    if match is None:
        return None
    stage = network.get_submodule(match[1])
    blocks = len(stage) if isinstance(stage, nn.Sequential) else 0
    return f"conv{int(match[2]) + 1}_{int(match[3]) + 1 if match[3] else blocks}" if blocks else None


def _of_vgg(network: nn.Module, name: str) -> str | None:
    layers = getattr(network, "features", None)
    if type(network).__name__ != "VGG" or not isinstance(layers, nn.Sequential):
        return None
    stage, number = 1, 0
    for place, layer in layers.named_children():
        if isinstance(layer, nn.MaxPool2d):
            stage, number = stage + 1, 0
        elif isinstance(layer, nn.ReLU):
            number += 1
            if name == f"features.{place}":
                return f"relu{stage}_{number}"
    return None
