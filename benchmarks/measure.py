"""A whole measurement beside the bare forward passes of the same images, in one process.

python benchmarks/measure.py [--model cifar:resnet20] [--side 32] [--images 1000] [--device cpu] [--dtype float32]
"""

import argparse
import re
import tempfile
import time
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from reporting import best, machine, report, start
from statshift import load_data, load_model, measure
from statshift.measuring.loading import DTYPES

PASSES = 76


def beside_bare(model: nn.Module, side: int, images: int, batch_size: int, dtype: str, repeats: int) -> dict[str, Any]:
    """Return the seconds of a run of the 15 corruptions, and of as many bare forward passes of the same images."""
    device = next(model.parameters()).device
    pixels = torch.randint(256, (images, 3, side, side), dtype=torch.uint8)
    data = load_data(TensorDataset(pixels, torch.arange(images) % 10))
    on_device = (pixels.float() / 255).to(device)

    @torch.inference_mode()
    def bare() -> None:
        with torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32"):
            for batch in on_device.split(batch_size):
                model(batch)

    def whole() -> tuple[float, Mapping[str, float]]:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            out = Path(folder) / "run"
            made = measure(model, data, out=out, batch_size=batch_size, device=str(device), dtype=dtype)
            assert made.profile
            return time.perf_counter() - begun, made.profile.parts

    measure(model, data, severities=[1], batch_size=batch_size, device=str(device))
    one_pass, run = [], []
    for _ in range(repeats):  # taken in turns, so that a busy moment does not fall on one side alone
        one_pass.append(best(bare, device, 5))
        run.append(whole())
    forward, (seconds, parts) = PASSES * min(one_pass), min(run, key=itemgetter(0))
    return {
        "passes": PASSES,
        "bare_forward_seconds": forward,
        "run_seconds": seconds,
        "parts": parts,
        "ratio": seconds / forward,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar:resnet20")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    start(arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    model = load_model(arguments.model).to(device)
    figures = beside_bare(
        model, arguments.side, arguments.images, arguments.batch_size, arguments.dtype, arguments.repeats
    )
    results = {
        "machine": machine(device),
        "arguments": vars(arguments),
        **figures,
    }
    forward, run, ratio = (figures[name] for name in ("bare_forward_seconds", "run_seconds", "ratio"))
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in figures["parts"].items() if seconds)
    name = re.sub(r"\W+", "-", arguments.model.partition("@")[0])
    report(
        f"measure-{name}-{device.type}-{arguments.dtype}",
        results,
        ["model", "images", "bare forward passes, s", "whole run, s", "ratio", "seconds by part"],
        [[arguments.model, f"{arguments.images}", f"{forward:.1f}", f"{run:.1f}", f"{ratio:.2f}", parts]],
    )


if __name__ == "__main__":
    main()
