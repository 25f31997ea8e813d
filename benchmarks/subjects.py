"""The trained networks of the stream and frozen benchmarks, the images that they are measured on, and how a cell reads.

SHARED holds `data/`; TRAINED the two networks that `statshift train` makes (docs/streams.md has the commands).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from statshift import COMMON, AdaptationOptions, load_data, load_model, measure
from statshift._core.errors import InputError
from statshift.data import ImageData
from statshift.models import PixelModel
from statshift.tasks.figures import Difference

HERE = Path(__file__).parent
FIVE = ("gaussian_noise", "defocus_blur", "fog", "contrast", "jpeg_compression")
CLEAN = 2000
"""Clean images for EATA, as many as its authors take."""


@dataclass(frozen=True)
class Subject:
    """A network, its images, and the corruptions it is measured under.

    Attributes:
        network: loads the network.
        images: loads the test images.
        clean: loads clean images that are not among them, by which EATA weighs what must not be forgotten.
        corruptions: names.
    """

    network: Callable[[], PixelModel]
    images: Callable[[], ImageData]
    clean: Callable[[], ImageData]
    corruptions: tuple[str, ...] = COMMON


def subjects(shared: Path, trained: Path) -> dict[str, Subject]:
    """Return the networks by name."""
    data = shared / "data"

    def load(name: str, limit: int | None = None) -> ImageData:
        return load_data(f"npz:{data / name}.npz", limit=limit)

    def photographs() -> ImageData:
        return load("imagenet_sample_500", 250)

    def other_photographs() -> ImageData:
        every = load("imagenet_sample_500")
        return every.subset(np.setdiff1d(every.indices, photographs().indices))

    def compressed() -> ImageData:
        return load("cifar10_jpeg_test", 1000)

    def compressed_training() -> ImageData:
        return load("cifar10_jpeg_train", CLEAN)

    return {
        "resnet20": Subject(
            lambda: load_model("cifar:resnet20", weights=data / "cifar10_resnet20.th"),
            lambda: load("cifar10_test_1000"),
            lambda: load("cifar10_train_4000", CLEAN),
        ),
        "mobilenet": Subject(
            lambda: load_model(
                f"py:{data / 'mobilenet_v1_025.py'}:mobilenet_v1_025", weights=data / "imagenet_mobilenet_v1_025.tar"
            ),
            photographs,
            other_photographs,
            FIVE,
        ),
        "lite0": Subject(
            lambda: load_model(f"py:{HERE / 'lite0.py'}:lite0", mean=(127 / 255,) * 3, std=(128 / 255,) * 3).to(
                memory_format=torch.channels_last  # in large batches half as fast again on the CPU
            ),
            photographs,
            other_photographs,
            FIVE,
        ),
        "group": Subject(
            lambda: load_model(
                "cifar:resnet20",
                weights=trained / "gn" / "clean.safetensors",
                model_args={"norm": "group", "width": 0.5},
            ),
            compressed,
            compressed_training,
        ),
        "vit": Subject(
            lambda: load_model(
                f"py:{HERE / 'small_networks.py'}:small_vit", weights=trained / "vit" / "clean.safetensors"
            ),
            compressed,
            compressed_training,
        ),
    }


def accepted(
    model: PixelModel, data: ImageData, names: Iterable[str], options: AdaptationOptions, **settings: Any
) -> tuple[list[str], dict[str, str]]:
    """Return which methods take a network, and what the others say; each is tried on a few clean images."""
    taken, refused = [], {}
    few = data.subset(np.arange(min(len(data), 2 * options.samples)))
    for name in names:
        try:
            measure(model, few, shifts=["clean"], rectify=[name], adaptation=options, examples=0, **settings)
        except InputError as error:
            refused[name] = str(error)
        else:
            taken.append(name)
    return taken, refused


def percent(value: float, digits: int = 1) -> str:
    """Return a fraction in %."""
    return f"{100 * value:.{digits}f}"


def cell(difference: Difference) -> str:
    """Return a score in %, and what it is above the source's with the 95 % interval."""
    return score_and_gain(difference.second, difference.first, difference.low, difference.high)


def score_and_gain(score: float, source: float, low: float, high: float) -> str:
    """Return the same of fractions; `low` and `high` bound the gain."""
    return f"{percent(score)} ({100 * (score - source):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}])"
