"""Time per image of every filter, beside that of the package that it is from.

python benchmarks/filters.py [--device cpu|cuda] [--threads 2] [--repeats 7] [--side 224]

The packages filter one image after the other, on one thread; they are timed on the CPU. They need `pip install pilgram
pilgram2`. A filter that both have stands beside pilgram's. ImageMagick's are timed alone.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import pilgram
import pilgram2
import torch
from PIL import Image
from torch import Tensor

from corruptions import images
from reporting import best, in_turns, machine, report, start
from statshift.shifts.registry import FILTERS, SHIFTS

BATCHES = {"cpu": 12, "cuda": 256}


def theirs(name: str) -> tuple[str, Callable[[Image.Image], Any]] | None:
    """Return the package that a filter is from, and its function; None of ImageMagick's."""
    attribute = "_1977" if name == "1977" else name.removesuffix("-pilgram2")
    packages = [pilgram2] if name.endswith("-pilgram2") else [pilgram, pilgram2]
    return next(((one.__name__, getattr(one, attribute)) for one in packages if hasattr(one, attribute)), None)


def timed(name: str, batch: Tensor, pictures: list[Image.Image], repeats: int) -> dict[str, Any]:
    """Return the milliseconds of an image, ours and the package's, in turns on the CPU."""
    shift, indices, device = SHIFTS[name].load(), torch.arange(len(batch)), batch.device

    def ours() -> Tensor:
        return shift.make(batch, 0, seed=0, indices=indices)

    found = theirs(name)
    if found is None:
        return {"ours": 1000 * best(ours, device, repeats) / len(batch)}
    package, function = found
    both = in_turns({"ours": ours, "package": lambda: [function(one) for one in pictures]}, device, repeats)
    return {
        "ours": 1000 * both["ours"] / len(batch),
        "package": 1000 * both["package"] / len(pictures),
        "from": package,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--side", type=int, default=224)
    arguments = parser.parse_args()
    start(arguments.threads)
    device = torch.device(arguments.device)
    batch = images(arguments.side, BATCHES[device.type])
    pixels = (batch[:12] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    pictures = [Image.fromarray(np.ascontiguousarray(one)) for one in pixels]
    found = {name: timed(name, batch.to(device), pictures, arguments.repeats) for name in FILTERS}

    sums = {}
    for package in ("pilgram", "pilgram2"):
        of_it = [times for times in found.values() if times.get("from") == package]
        sums[package] = {kind: sum(times[kind] for times in of_it) for kind in ("ours", "package")}
    sums["both"] = {kind: sum(one[kind] for one in sums.values()) for kind in ("ours", "package")}

    def row(name: str, times: dict[str, Any]) -> list[str]:
        if "package" not in times:
            return [name, f"{times['ours']:.2f}", "", ""]
        return [name, f"{times['ours']:.2f}", f"{times['package']:.2f}", f"{times['ours'] / times['package']:.2f}"]

    rows = [row(name, times) for name, times in found.items()]
    rows += [row(f"all from {package}", times) for package, times in sums.items()]
    head = [f"filter, {arguments.side} px", "ms an image", "the package", "share"]
    results = {"machine": machine(device), "side": arguments.side, "milliseconds_per_image": found, "sums": sums}
    report(f"filters-{device.type}", results, head, rows)


if __name__ == "__main__":
    main()
