"""A whole measurement beside the bare forward passes of the same images, in one process.

python benchmarks/measure.py [--model cifar:resnet20] [--side 32] [--images 1000] [--device cpu] [--dtype float32]
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

from reporting import best, machine, report, start
from statshift import load_data, load_model, measure
from statshift.measuring.evaluate import DTYPES


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
    pixels = torch.randint(256, (arguments.images, 3, arguments.side, arguments.side), dtype=torch.uint8)
    data = load_data(TensorDataset(pixels, torch.arange(arguments.images) % 10))
    on_device = (pixels.float() / 255).to(device)

    @torch.inference_mode()
    def bare() -> None:
        with torch.autocast(device.type, DTYPES[arguments.dtype], enabled=arguments.dtype != "float32"):
            for batch in on_device.split(arguments.batch_size):
                model(batch)

    def whole() -> float:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            measure(
                model,
                data,
                out=Path(folder) / "run",
                batch_size=arguments.batch_size,
                device=arguments.device,
                dtype=arguments.dtype,
            )
            return time.perf_counter() - begun

    measure(model, data, severities=[1], batch_size=arguments.batch_size, device=arguments.device)
    passes = 76
    one_pass, run = [], []
    for _ in range(arguments.repeats):  # taken in turns, so that a busy moment does not fall on one side alone
        one_pass.append(best(bare, device, 5))
        run.append(whole())
    forward = passes * min(one_pass)
    ratio = min(run) / forward
    results = {
        "machine": machine(device),
        "arguments": vars(arguments),
        "passes": passes,
        "bare_forward_seconds": forward,
        "run_seconds": min(run),
        "ratio": ratio,
    }
    name = arguments.model.partition("@")[0].replace(":", "-")
    report(
        f"measure-{name}-{device.type}-{arguments.dtype}",
        results,
        ["model", "images", "bare forward passes, s", "whole run, s", "ratio"],
        [[arguments.model, f"{arguments.images}", f"{forward:.1f}", f"{min(run):.1f}", f"{ratio:.2f}"]],
    )


if __name__ == "__main__":
    main()
