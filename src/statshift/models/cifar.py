"""The zoo of networks for 32 px images, by name."""

from collections.abc import Callable
from functools import partial

from torch import nn

from statshift.models.dense import DenseNet
from statshift.models.plain import VGG
from statshift.models.residual import CifarResNet, resnet18, resnet50, resnext29
from statshift.models.wide import WideResNet

ZOO: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (20, 32, 44, 56, 110)},
    "resnet": CifarResNet,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "wrn28_10": WideResNet,
    "resnext29": resnext29,
    "densenet": DenseNet,
    **{f"vgg{depth}": partial(VGG, depth) for depth in (11, 16, 19)},
}
"""All take `num_classes`, `norm`, `width` and `activation`; residual ones `shortcut`, ResNets `fixup`; see each."""
