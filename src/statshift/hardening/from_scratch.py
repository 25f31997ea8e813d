"""Train a network from random weights, with the papers' numbers or in an afternoon's time."""

from collections.abc import Mapping
from typing import Any

from statshift._core.randomness import seeded
from statshift.hardening import choices
from statshift.hardening.harden import Hardened, harden
from statshift.hardening.options import HardenOptions
from statshift.hardening.training import TrainingOptions
from statshift.models import PixelModel, load_model, weights_hash

PAPER = TrainingOptions(
    epochs=300, batch_size=128, learning_rate=0.01, decay_epochs=(200,), weight_decay=5e-4, augment="standard"
)
"""CIFAR-10 and SVHN: Benz et al., ICLR 2021 submission, appendix B.1, Table 4."""

RESNET50 = TrainingOptions(
    epochs=350, batch_size=128, learning_rate=0.1, decay_epochs=(150, 250), weight_decay=5e-4, augment="standard"
)
"""The exception of ResNet-50: the same, appendix B.1."""

ADVERSARIAL = TrainingOptions(
    epochs=150, batch_size=128, learning_rate=0.01, decay_epochs=(100,), weight_decay=5e-4, augment="standard"
)
"""Adversarial training: the same, appendix B.1, Table 5."""

FEATURES = TrainingOptions(
    epochs=150, batch_size=128, learning_rate=0.01, decay_epochs=(50, 100), weight_decay=5e-4, augment="standard"
)
"""On data sets of features: the same, appendix E, Table 6; for targets t + 1 and conflicting ones see `TARGETS`."""

TARGETS = TrainingOptions(
    epochs=150, batch_size=128, learning_rate=0.1, decay_epochs=(50, 100), weight_decay=5e-4, augment="none"
)
"""On deterministic and conflicting targets: the same, Table 6."""

IMAGENET = TrainingOptions(
    epochs=90, batch_size=256, learning_rate=0.1, decay_epochs=(30, 60), weight_decay=1e-4, augment="standard"
)
"""ImageNet's networks with any norm, "the same parameters as in He et al. 2016" (appendix B.1): weight decay, batch and
first rate are those of He et al., section 3.4; they decay by plateaus, here after the usual 30 and 60 epochs."""

IBN_NET = TrainingOptions(
    epochs=80, batch_size=16, learning_rate=0.01, schedule="poly", weight_decay=1e-4, augment="standard", aspect=4 / 3
)
"""Segmentation: Pan et al., "Two at Once" (IBN-Net, ECCV 2018), section 4.2, whose protocol Shu et al. follow: SGD with
a momentum of 0.9, the poly rate with a power of 0.9, random scale, aspect ratio and mirror, random crops of Cityscapes
at full resolution and of GTA5 at 1024 x 563. The size of the crops, here `window`, and the ranges of scale and aspect
ratio are not printed: the latter are 0.5 to 2 and 3/4 to 4/3 here, and the former is the user's to give."""

ONE_CYCLE = TrainingOptions(**choices.ONE_CYCLE)
"""A tenth of the papers' epochs, by one cycle of the learning rate to twice theirs; networks without norm bear it."""


def build(spec: str, model_args: Mapping[str, Any] | None = None, *, seed: int = 0, **more: Any) -> PixelModel:
    """Return a model with random weights that are its seed's, whatever was drawn before; on the CPU.

    Args:
        spec: spec of the network.
        model_args: what it is built with.
        seed: seed of its weights.
        **more: of `load_model`.
    """
    with seeded(seed):
        model = load_model(spec, model_args=model_args, pretrained=False, **more)
    model.random_weights = weights_hash(model.network)
    return model


def train_from_scratch(
    spec: str,
    data: Any,
    options: HardenOptions | None = None,
    *,
    model_args: Mapping[str, Any] | None = None,
    **more: Any,
) -> Hardened:
    """Train a network from random weights; see `harden`, which takes all further arguments.

    Args:
        spec: spec of the network; its random weights are those of the options' seed.
        data: a spec, a torch `Dataset`, or loaded data; with labels.
        options: method and numbers; default standard training by one cycle.
        model_args: such as `{"norm": "group", "num_classes": 100}`.
        **more: of `harden`.
    """
    options = options or HardenOptions("standard", training=ONE_CYCLE)
    return harden(build(spec, model_args, seed=options.training.seed), data, options, **more)
