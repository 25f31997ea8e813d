"""Time per image of C-bar's corruptions, beside their NumPy writing, an image at a time, that the tests compare with.

python benchmarks/cbar.py [--threads 2] [--repeats 7] [--severity 3]

At 224 px; needs SciPy. Ours is of batches of 12. The NumPy writing draws its own numbers, in the authors' order.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from corruptions import images
from reporting import in_turns, machine, report, start
from statshift import corrupt
from statshift.shifts.bar.constants import bar_constants
from statshift.shifts.registry import C_BAR, GROUPS

SIDE, BATCH = 224, 12
LISTS = {"ImageNet-C-bar": GROUPS["imagenet-c-bar"], "CIFAR-10-C-bar": GROUPS["cifar-c-bar"], "all": C_BAR}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--severity", type=int, default=3)
    arguments = parser.parse_args()
    start(arguments.threads)
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from reference_bar import as_authors

    device, batch = torch.device("cpu"), images(SIDE, BATCH)
    image = (batch[0] * 255).round().byte().permute(1, 2, 0).numpy()
    rng = np.random.RandomState(0)
    found = {}
    for name in C_BAR:
        level = bar_constants(name, arguments.severity, SIDE, "imagenet")["level"]
        calls = {
            "ours": lambda name=name: corrupt(batch, name, arguments.severity),
            "reference": lambda name=name, level=level: as_authors(name, image, level, rng),
        }
        seconds = in_turns(calls, device, arguments.repeats)
        found[name] = {"ours": 1000 * seconds["ours"] / BATCH, "reference": 1000 * seconds["reference"]}
    sums = {
        title: {kind: sum(found[name][kind] for name in names) for kind in ("ours", "reference")}
        for title, names in LISTS.items()
    }
    rows = [
        [name, f"{one['ours']:.2f}", f"{one['reference']:.1f}", f"{one['ours'] / one['reference']:.3f}"]
        for name, one in (*found.items(), *((f"{title}, sum", one) for title, one in sums.items()))
    ]
    results = {"machine": machine(device), "severity": arguments.severity, "milliseconds_per_image": found}
    report("cbar-cpu", results | {"sums": sums}, ["corruption", "ours, ms", "NumPy, ms", "share"], rows)


if __name__ == "__main__":
    main()
