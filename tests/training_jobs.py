"""Small trainings for several test files, and for processes of their own: `python training_jobs.py JOB FOLDER ...`."""

import os
import signal
import sys
import warnings
from functools import partial
from pathlib import Path

import timm.layers
import torch
from torch import nn
from torch.nn import functional as F

from statshift import load_data
from statshift._core.errors import DefaultPreprocessingWarning
from statshift._core.processes import join
from statshift.hardening.harden import harden
from statshift.hardening.methods import advbn
from statshift.hardening.methods.auxiliary import PixelAT
from statshift.hardening.options import HardenOptions
from statshift.hardening.trainer import train
from statshift.hardening.training import TrainingOptions
from statshift.models import PixelModel
from statshift.shifts.attacks import FeatureAttack, PixelAttack
from statshift.splitting.branches import Branches, export


class Tiny(nn.Module):
    """Three norms, and dropout if wanted; to be cut after `act1`."""

    def __init__(self, dropout=0.0, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(3, 6, 5, stride=3), norm(6), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, stride=2, bias=False), norm(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 1), norm(8)
        self.drop, self.fc = nn.Dropout(dropout), nn.Linear(8, 10)

    def prefix(self, images):
        return self.act1(self.bn1(self.conv1(images)))

    def suffix(self, features):
        features = F.relu(self.bn2(self.conv2(features)))
        return self.fc(self.drop(F.relu(self.bn3(self.conv3(features))).mean((2, 3))))

    def forward(self, images):
        return self.suffix(self.prefix(images))


def build(seed=0, **options):
    """Return a network whose weights and norms depend on a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Tiny(**options)
        for name in ("bn1", "bn2", "bn3"):
            norm = getattr(network, name)
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.8, 1.2)
            norm.weight.data.uniform_(0.7, 1.3)
            norm.bias.data.normal_(0, 0.1)
    return network.eval()


def build_dropout():
    return build(dropout=0.3)


def branches_of(at="act1", dual=True, trace=True, dtype=torch.float64, recompute=False, **options):
    model = PixelModel(build(**options), num_classes=10).to(dtype)
    return Branches(model, at, torch.rand(2, 3, 32, 32), dual=dual, trace=trace, recompute=recompute)


ADVBN = advbn.AdvBN()
PIXEL = PixelAT(PixelAttack(epsilon=8 / 255, step_size=4 / 255, steps=2))
OPTIONS = TrainingOptions(epochs=2, batch_size=16, learning_rate=0.05, augment="none")


def _options(**changes):
    return TrainingOptions(**{**vars(OPTIONS), **changes})


TOGETHER = {
    "advbn": (ADVBN, OPTIONS, {}),
    "augmented": (ADVBN, _options(augment="augmix", gamma=0.5), {}),
    "accumulated": (ADVBN, _options(accumulate=2, augment="standard", schedule="one-cycle"), {}),
    "replayed": (ADVBN, OPTIONS, {"trace": False}),
    "norms with an activation": (ADVBN, OPTIONS, {"norm": partial(timm.layers.BatchNormAct2d, act_layer=nn.SiLU)}),
    "pixels": (PIXEL, OPTIONS, {"at": "input"}),
    "local": (advbn.AdvBN(FeatureAttack(perturbation="local")), OPTIONS, {}),
}
"""Trainings by name: method, options, and of which branches."""


def train_all():
    """Return of each training the factors of every attack, the history and both branches' weights."""
    data = load_data("digits:train", limit=48)
    attack, found = advbn.attack_features, {}
    for name, (method, options, network) in TOGETHER.items():
        factors = []

        def record(*arguments, factors=factors, **more):
            factors.append(attack(*arguments, **more))
            return factors[-1]

        advbn.attack_features = record
        try:
            branches = branches_of(**network)
            history = train(branches, data, method, options)
        finally:
            advbn.attack_features = attack
        weights = {branch: export(branches, branch) for branch in branches.splits}
        found[name] = {"factors": factors, "history": history, "weights": weights}
    return found


def harden_until(folder, number, step):
    """Harden with a checkpoint after every step, and send oneself a signal after one."""

    def progress(at):
        if at.step == int(step):
            os.kill(os.getpid(), int(number))

    harden_into(folder, progress=progress)


def harden_into(folder, model=f"py:{__file__}:build_dropout", limit=96, **more):
    training = TrainingOptions(epochs=2, batch_size=32, learning_rate=0.01, seed=3, checkpoint_every=0)
    data = load_data("digits:train", limit=limit)
    return harden(model, data, HardenOptions(at="act1", training=training), out=folder, device="cpu", **more)


def _together(folder):
    rank, world = join()
    torch.save({"world": world, **train_all()}, Path(folder) / f"{rank}.pt")


def _uneven():
    train(branches_of(), load_data("digits:train", limit=15), ADVBN, OPTIONS)


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", DefaultPreprocessingWarning)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    {"together": _together, "uneven": _uneven, "harden": harden_until}[sys.argv[1]](*sys.argv[2:])
