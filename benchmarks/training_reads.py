"""What reading costs an epoch of a training on JPEG files: batch by batch, read ahead, and kept decoded in a file.

python benchmarks/training_reads.py [--images 500] [--repeats 3] [--folder runs/scale]

One thread; a network of three convolutions, whose step takes about as long as decoding its batch: 50 images of 224 px.
The files are those of `benchmarks/scale.py`. The ways take turns; what counts is the shortest epoch of each. Weights
must be equal. Reading ahead needs an idle core.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from reporting import in_turns, machine, report, start
from scale import make_images
from statshift import load_data
from statshift.data import ImageData
from statshift.hardening import batches
from statshift.hardening.methods.standard import Standard
from statshift.hardening.trainer import train
from statshift.hardening.training import TrainingOptions
from statshift.models import PixelModel
from statshift.splitting.branches import Branches

CPU = torch.device("cpu")
weights: dict[str, dict[str, torch.Tensor]] = {}


def epoch(name: str, data: ImageData, augment: str, ahead: bool) -> None:
    """Train for an epoch, and keep the weights."""
    batches.is_idle_beside = lambda workers, device: ahead
    torch.manual_seed(0)
    widths, layers = (3, 32, 64, 64), []
    for before, after, size, stride in zip(widths, widths[1:], (7, 3, 3), (4, 2, 1), strict=False):
        layers += [nn.Conv2d(before, after, size, stride), nn.BatchNorm2d(after), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    branches = Branches(PixelModel(network, num_classes=10), "input", torch.rand(2, 3, 224, 224), dual=False)
    train(branches, data, Standard(), TrainingOptions(epochs=1, batch_size=50, learning_rate=0.01, augment=augment))
    weights[name] = branches.clean.state_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/scale"))
    given = parser.parse_args()
    start(None)
    torch.set_num_threads(1)
    files = given.folder / f"jpeg-{given.images}"
    make_images(files, given.images)
    with tempfile.TemporaryDirectory() as cache:
        anew = load_data(f"folder:{files}", cache_bytes=0, cache="none")
        kept = load_data(f"folder:{files}", cache=cache)
        kinds = {
            "standard: read batch by batch": (anew, "standard", False),
            "standard: read ahead": (anew, "standard", True),
            "none: read batch by batch": (anew, "none", False),
            "none: kept in a file": (kept, "none", False),
        }
        ways: dict[str, Callable[[], None]] = {name: partial(epoch, name, *kind) for name, kind in kinds.items()}
        seconds = in_turns(ways, CPU, given.repeats)
    rows = []
    for name, one in seconds.items():
        first = next(other for other in ways if other.split(":")[0] == name.split(":")[0])
        if not all(torch.equal(value, weights[first][key]) for key, value in weights[name].items()):
            raise RuntimeError(f"The weights of {name!r} are not those of {first!r}.")
        rows.append([name, f"{one:.1f}", f"{one / seconds[first]:.2f}"])
    results = {"machine": machine(CPU), "images": given.images, "seconds": seconds}
    report("training-reads", results, ["augmentation, and how images are read", "an epoch, s", "of the first"], rows)


if __name__ == "__main__":
    main()
