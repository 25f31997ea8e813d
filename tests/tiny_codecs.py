"""A small network with an untrained decoder behind its first stage; `python tiny_codecs.py FOLDER [SECONDS]` writes."""

import sys
import time
import warnings
from dataclasses import replace

import torch
from torch import nn

from statshift import load_data
from statshift._core.errors import DefaultPreprocessingWarning
from statshift.decoding.codec import codec_from, describe_encoder, save_decoder, stride_of
from statshift.decoding.decoder import Decoder
from statshift.making.advbn import write_advbn
from statshift.models import PixelModel
from statshift.shifts.attacks import FeatureAttack
from statshift.splitting.split import split

COUNT, BATCH = 22, 8
ATTACK = FeatureAttack(3, 0.2, 0.5)


class Small(nn.Module):
    """Stages of stride 2 and 4."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU()
        self.conv2, self.bn2, self.act2 = nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()
        self.fc = nn.Linear(8, 10)

    def forward(self, images):
        features = self.act1(self.bn1(self.conv1(images)))
        return self.fc(self.act2(self.bn2(self.conv2(features))).mean((2, 3)))


def small_network(seed=0):
    """Return a network whose weights and statistics depend on a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Small()
        for norm in (network.bn1, network.bn2):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            norm.weight.data.uniform_(0.7, 1.3)
            norm.bias.data.normal_(0, 0.3)
        network.fc.weight.data.mul_(8)
    return network


def small_model(seed=0):
    """Return it as a model."""
    return PixelModel(small_network(seed), num_classes=10).eval()


def small_codec(model, at="act1"):
    """Return the model's first stage, and a decoder with random weights."""
    image = torch.rand(2, 3, 32, 32, dtype=model.mean.dtype)
    parts = split(model, at, image)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        decoder = Decoder(parts.cut.shape[0], stride_of(parts, image), width=4, depth=1)
    decoder.layers[-1].weight.data.mul_(10)
    record = {"encoder": describe_encoder(parts, at, image)}
    return codec_from(parts, at, decoder.to(image.dtype).requires_grad_(False).eval(), image, record)


def decoder_file(path, model, at="act1"):
    """Write that decoder to a file."""
    codec = small_codec(model, at)
    save_decoder(path, codec.decoder, {"encoder": codec.record["encoder"]})
    return path


def digits():
    return load_data("digits", limit=COUNT, seed=1)


def write(out, seconds=0.0, model=None, **options):
    """Write a small data set, and sleep before each batch."""
    model = model or small_model()
    codec = small_codec(model)

    def encode(images):
        time.sleep(seconds)
        return codec.encode(images)

    slow = replace(codec, encode=encode)
    options = {"attack": ATTACK, "batch_size": BATCH, "device": "cpu", **options}
    return write_advbn(model, slow, digits(), out=out, **options)


if __name__ == "__main__":
    warnings.simplefilter("ignore", DefaultPreprocessingWarning)
    write(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
