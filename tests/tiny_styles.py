"""A small encoder, an untrained decoder and a folder of drawn styles; `python tiny_styles.py FOLDER SECONDS` writes."""

import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from statshift import load_data, load_model
from statshift._core.errors import DefaultPreprocessingWarning
from statshift.decoding.codec import codec_of, describe_encoder, encoder_of, save_decoder
from statshift.decoding.decoder import Decoder
from statshift.making.stylised import write_stylised
from statshift.making.trees import MadeBatch

COUNT, BATCH, STYLES, SIZE, AT = 22, 4, 5, 32, "2"
MODEL = f"py:{__file__}:build"


def build():
    """Return a network of stride 4 up to its last convolution, with weights that are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8)]
        return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)).eval()


def probe():
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def write_decoder(path, at=AT):
    """Write an untrained decoder of the network's cut."""
    found = encoder_of(load_model(MODEL), at, probe())
    with torch.random.fork_rng():
        torch.manual_seed(1)
        decoder = Decoder(found.cut.shape[0], SIZE // found.cut.shape[1], width=4, depth=1)
        decoder.layers[-1].weight.data.mul_(10)
    save_decoder(path, decoder, {"encoder": describe_encoder(found, at, probe())})
    return path


def write_style_images(folder):
    """Write images of noise in colours of their own, of several sizes."""
    draws = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(STYLES):
        size = (40 + number, 33 + 2 * number, 3)
        pixels = draws.integers(0, 256, 3) * 0.6 + draws.normal(0, 20 + 10 * number, size)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"style{number}.png")
    return folder


def codec(place):
    return codec_of(load_model(MODEL), place / "decoder.safetensors", probe())


def digits():
    return load_data("digits", limit=COUNT, seed=1)


def write(place, out, **options):
    """Write a small data set."""
    given = {"batch_size": BATCH, "style_size": SIZE, "device": "cpu", "data_options": {}, **options}
    return write_stylised(MODEL, place / "decoder.safetensors", place / "styles", digits(), out=out, **given)


if __name__ == "__main__":
    warnings.simplefilter("ignore", DefaultPreprocessingWarning)
    here, seconds = Path(sys.argv[1]), float(sys.argv[3])
    made = MadeBatch.__init__

    def slowly(self, *fields):
        time.sleep(seconds)
        made(self, *fields)

    MadeBatch.__init__ = slowly
    write(here, sys.argv[2])
