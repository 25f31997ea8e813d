"""Memory of a `RectifiedStream` on the CPU: what it holds, what an answer needs, and whether it grows.

`python benchmarks/stream_memory.py timm:resnet50 224`, or with the number of batches, and of images in each, which are
the window: `cifar:resnet20 32 10000 2`. Each line is of a process of its own.
"""

import subprocess
import sys
import warnings
from pathlib import Path

import torch

from reporting import peak_memory
from statshift import RectifiedStream, load_model

MB = 1e6
WAYS = ("model", "replace", "auto")


def resident() -> float:
    """Return the bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def show(way: str, spec: str, side: int, batches: int, images: int) -> None:
    """Print the figures of one way to answer batches."""
    torch.manual_seed(0)
    model, batch = load_model(spec, pretrained=False), torch.rand(images, 3, side, side)
    answer = model if way == "model" else RectifiedStream(model, images, images, way)
    with torch.no_grad():
        peak = peak_memory(lambda: answer(batch), torch.device("cpu"))
        early, grown = min(100, batches // 2), 0.0
        for number in range(1, batches):
            answer(batch)
            if number == early:
                grown = -resident()
        grown += resident() if batches > 2 else 0
    held = sum(tensor.nbytes for tensor in [*answer.parameters(), *answer.buffers()])
    grew = f", grew by {grown / MB:.1f} MB from batch {early} to {batches}" if batches > 2 else ""
    print(f"{way:8} holds {held / MB:6.1f} MB, an answer needs {peak / MB:6.1f} MB more{grew}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    spec, side, batches, images, *way = [*sys.argv[1:], *("", "", "2", "32")[len(sys.argv) - 1 :]]
    for one in way or WAYS:
        if way:
            show(one, spec, int(side), int(batches), int(images))
        else:
            subprocess.run([sys.executable, __file__, spec, side, batches, images, one], check=True)
