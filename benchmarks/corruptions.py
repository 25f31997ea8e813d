"""Time per image of every corruption, beside the per-image NumPy/SciPy versions that the tests compare with.

python benchmarks/corruptions.py [--device cpu|cuda] [--threads 2] [--repeats 7]
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from reporting import best, machine, report, start
from statshift import COMMON, CORRUPTIONS, corrupt
from statshift.shifts.corruptions.frost import find_photographs, photographs

BATCHES = {"cpu": {32: 256, 224: 12}, "cuda": {32: 4096, 224: 256}}
SEVERITIES = {32: (1, 2, 3, 4, 5), 224: (3,)}


def images(side: int, count: int) -> torch.Tensor:
    """Return smooth 8-bit images with a little texture, so that no corruption meets a special case."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, side // 16 + 2, side // 16 + 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    return ((0.9 * smooth + 0.1 * torch.rand(smooth.shape, generator=generator)) * 255).round() / 255


def ours(name: str, batch: torch.Tensor, repeats: int) -> float:
    """Return the milliseconds of an image of a batch (B,3,H,W), the mean of the severities of its side."""
    device, side = batch.device, batch.shape[-1]
    times = [
        best(lambda severity=severity: corrupt(batch, name, severity), device, repeats) for severity in SEVERITIES[side]
    ]
    return 1000 * float(np.mean(times)) / len(batch)


def theirs(name: str, side: int, repeats: int) -> float:
    """Return the milliseconds of an image by the tests' reference, which needs SciPy."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from reference_corruptions import reference

    image = images(side, 1)[0].permute(1, 2, 0).numpy().astype(np.float64)
    frost = photographs(find_photographs(), (side, side), False, torch.device("cpu"))
    crops = [
        canvas[:, :h, :w].permute(1, 2, 0).numpy() for canvas, (h, w) in zip(frost.canvas, frost.sides, strict=True)
    ]
    table = "cifar" if side < 64 else "imagenet"
    rng = np.random.default_rng(0)
    times = [
        best(
            lambda severity=severity: reference(name, image, severity, rng, table, frost=crops),
            torch.device("cpu"),
            repeats,
        )
        for severity in SEVERITIES[side]
    ]
    return 1000 * float(np.mean(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    start(arguments.threads)
    device = torch.device(arguments.device)
    batches = {side: images(side, BATCHES[device.type][side]).to(device) for side in (224, 32)}
    found = {
        name: {
            side: {"ours": ours(name, batch, arguments.repeats), "reference": theirs(name, side, 3)}
            for side, batch in batches.items()
        }
        for name in CORRUPTIONS
    }
    sums = {
        side: {kind: sum(found[name][side][kind] for name in COMMON) for kind in ("ours", "reference")}
        for side in (224, 32)
    }
    summary = {
        "sum_of_15_at_224_ms": sums[224],
        "mean_of_15_at_32_ms": {kind: value / len(COMMON) for kind, value in sums[32].items()},
        "images_per_second_at_224": 1000 * len(COMMON) / sums[224]["ours"],
    }

    def row(name: str, values: dict[int, dict[str, float]]) -> list[str]:
        cells = [name]
        for side, digits in ((224, 2), (32, 4)):
            mine, other = values[side]["ours"], values[side]["reference"]
            cells += [f"{mine:.{digits}f}", f"{other:.{digits}f}", f"{other / mine:.0f}"]
        return cells

    rows = [row(name, values) for name, values in found.items()]
    mean = {side: {kind: value / len(COMMON) for kind, value in sums[side].items()} for side in sums}
    rows += [row("mean of the 15", mean)]
    head = ["corruption", "224 px, ms", "reference", "ratio", "32 px, ms", "reference", "ratio"]
    results = {"machine": machine(device), "milliseconds_per_image": found, **summary}
    report(f"corruptions-{device.type}", results, head, rows)
    print(f"sum of the 15 at 224 px, severity 3: {sums[224]['ours']:.1f} ms per image")
    print(f"{summary['images_per_second_at_224']:,.0f} images per second at 224 px, averaged over the 15")


if __name__ == "__main__":
    main()
