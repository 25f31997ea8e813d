"""Worst-case images by the strength of the adversary, as Figure 3 of AdvBN has them; and what making them costs.

python benchmarks/worst_case_images.py MODEL DECODER DATA [--weights FILE] [--mean R,G,B] [--std R,G,B] [--limit N]
    [--loss rest] [--steps 0,2,4,6,8] [--picture FILE.png] [--cost] [--batches 4] [--threads 2]

MODEL and DATA are specs, DECODER is a file of `statshift decoder`. The table has, over all images in batches of 32, the
model's accuracy and the PSNR of the originals, of the decoded images (m = 0) and of the worst cases by m; beside each a
control whose factors are as far from one, with signs drawn by chance. `--picture` writes the first batch side by side.

`--cost` has the time and the peak memory of a batch of `statshift make advbn`, loading, both trees' images and files
included, and those of the bare passes of the same networks on images in memory: the encoder once, the rest of the
network forward and backward for each step, the decoder once a tree. Times are in turns in one process, peaks each in a
process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reporting import machine, peak_memory, report, start
from statshift._core.numbers import parse_number
from statshift._core.randomness import Draws
from statshift.making.advbn import IMAGENET_ADVBN, write_advbn
from statshift.making.choices import ADVBN_BATCH, ADVBN_STEP_SIZE
from statshift.making.visualise import by_strength, visualise
from statshift.making.worst import Adversary, find_adversary
from statshift.measuring.loading import find_device, load
from statshift.models import PixelModel, load_model
from statshift.shifts.attacks import FeatureAttack, logits_of


def channels(text: str | None) -> tuple[float, ...] | None:
    """Return three numbers of "0.5,0.5,0.5" or "0.5"."""
    if text is None:
        return None
    found = tuple(map(parse_number, text.split(",")))
    return found * 3 if len(found) == 1 else found


def chosen(arguments: argparse.Namespace) -> tuple[PixelModel, Any, torch.device]:
    """Return the model, the images and the device."""
    device = find_device(arguments.device)
    model = load_model(
        arguments.model,
        weights=arguments.weights,
        mean=channels(arguments.mean),
        std=channels(arguments.std),
    ).to(device)
    images = load(model, arguments.data, device, {"limit": arguments.limit}, split=None)[1]
    return model, images, device


def adversary_of(arguments: argparse.Namespace, model: PixelModel, images: Any, device: torch.device) -> Adversary:
    """Return encoder, decoder and loss."""
    some = next(images.batches(1, which=[0]))[0].to(device).float() / 255
    return find_adversary(model, arguments.decoder, arguments.loss, some)


# Figure 3


@torch.no_grad()
def by_chance(adversary: Adversary, clean: Tensor, attack: FeatureAttack, indices: Tensor) -> Tensor:
    """Return images of statistics that lie as far off as the attack's, with signs drawn by chance."""
    size = (clean.shape[-2], clean.shape[-1])
    with adversary.ready():
        features = adversary.features(clean)
        draws = Draws(0, indices[:1], "control")
        signs = draws.uniform("signs", 2, features.shape[1])[0].to(features.device) < 0.5
        factors = torch.where(signs, 1 - attack.bound, 1 + attack.bound).float()
        return adversary.images(features, factors, attack, size).mul(255).round_().div_(255)


def figure(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[list[str]]]:
    """Return accuracy and PSNR by column, and the lines of the table."""
    model, images, device = chosen(arguments)
    adversary = adversary_of(arguments, model, images, device)
    attacks = {m: FeatureAttack(m, ADVBN_STEP_SIZE, perturbation="local") for m in arguments.steps if m}
    right: dict[str, float] = {}
    decibels: dict[str, float] = {}
    control: dict[str, float] = {}
    for pixels, positions in images.batches(ADVBN_BATCH):
        clean = pixels.to(device).float() / 255
        labels = torch.from_numpy(images.labels[positions])
        for column in by_strength(adversary, model, clean, labels, attacks, arguments.steps):
            right[column.name] = right.get(column.name, 0) + float((column.predicted == labels).sum())
            decibels[column.name] = decibels.get(column.name, 0) + float(column.psnr.double().sum())
        for m, attack in attacks.items():
            made = by_chance(adversary, clean, attack, torch.from_numpy(images.indices[positions]))
            with torch.no_grad():
                answers = logits_of(model.eval(), made).argmax(1).cpu()
            control[f"m = {m}"] = control.get(f"m = {m}", 0) + float((answers == labels).sum())
        print(f"{int(positions[-1]) + 1} of {len(images)} images")
    found = {
        name: {
            "accuracy": right[name] / len(images),
            "psnr": None if name == "original" else decibels[name] / len(images),
            "accuracy_of_signs_by_chance": control[name] / len(images) if name in control else None,
        }
        for name in right
    }
    rows = [[name, *(percent_or(one, key) for key in one)] for name, one in found.items()]
    return {"images": len(images), "at": adversary.codec.at, "loss": arguments.loss, "columns": found}, rows


def percent_or(figures: Mapping[str, float | None], key: str) -> str:
    """Return a figure as the table has it."""
    value = figures[key]
    if value is None:
        return "-"
    return f"{value:.1f}" if key == "psnr" else f"{100 * value:.1f}"


# Cost


def some_batches(arguments: argparse.Namespace, images: Any) -> Any:
    """Return as many images as fill the batches that are timed."""
    return images.subset(np.arange(min(len(images), arguments.batches * ADVBN_BATCH)))


def made(arguments: argparse.Namespace, model: PixelModel, images: Any, device: torch.device) -> float:
    """Make the data set of some batches, and return the seconds a batch, without reading the model."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        write_advbn(
            model,
            arguments.decoder,
            images.subset(np.arange(len(images))),  # of which nothing is decoded yet
            out=Path(folder) / "out",
            loss=arguments.loss,
            device=device,
            progress=lambda done, total: times.append(time.perf_counter()),
        )
    return (times[-1] - times[0]) / (len(times) - 1)


def bare(adversary: Adversary, batches: list[tuple[Tensor, Tensor]], device: torch.device) -> float:
    """Run the same networks as often and nothing else, and return the seconds a batch."""
    begun = time.perf_counter()
    with adversary.ready():
        for clean, labels in batches:
            size = (clean.shape[-2], clean.shape[-1])
            features = adversary.features(clean)
            for _ in range(IMAGENET_ADVBN.steps):
                point = features.detach().requires_grad_()
                with torch.enable_grad():
                    loss = F.cross_entropy(adversary.logits(point, size), labels)
                torch.autograd.grad(loss, point)
            with torch.no_grad():
                for _ in range(2):
                    adversary.codec.decode(features, size)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begun) / len(batches)


def in_memory(images: Any, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Return images and labels by batch."""
    return [
        (pixels.to(device).float() / 255, torch.from_numpy(images.labels[positions]).to(device))
        for pixels, positions in images.batches(ADVBN_BATCH)
    ]


def seconds(arguments: argparse.Namespace) -> dict[str, float]:
    """Return the shortest time a batch of both, in turns."""
    model, images, device = chosen(arguments)
    images = some_batches(arguments, images)
    adversary, batches = adversary_of(arguments, model, images, device), in_memory(images, device)
    times = [
        {"bare": bare(adversary, batches, device), "made": made(arguments, model, images, device)}
        for _ in range(arguments.repeats + 1)
    ]
    return {name: min(turn[name] for turn in times[1:]) for name in times[0]}


def peak(arguments: argparse.Namespace) -> None:
    """Print how many bytes one of both needs above the model and the images as they are stored."""
    model, images, device = chosen(arguments)
    images = some_batches(arguments, images)

    def passes() -> None:
        bare(adversary_of(arguments, model, images, device), in_memory(images, device), device)

    function = passes if arguments.peak == "bare" else partial(made, arguments, model, images, device)
    print(peak_memory(function, device))


def peaks() -> dict[str, int]:
    """Return the peaks of both, each in a process of its own."""
    found = {}
    for name in ("bare", "made"):
        words = [sys.executable, __file__, *sys.argv[1:], "--peak", name]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found[name] = int(json.loads(done.stdout.splitlines()[-1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("decoder")
    parser.add_argument("data")
    for name in ("weights", "mean", "std", "picture"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--loss", default="rest")
    parser.add_argument("--steps", default=[0, 2, 4, 6, 8], type=lambda text: [int(one) for one in text.split(",")])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--name", default="", help="behind the results' names")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peak", choices=("bare", "made"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    start(arguments.threads)
    if arguments.peak:
        peak(arguments)
        return
    device, behind = find_device(arguments.device), f"-{arguments.name}" if arguments.name else ""
    if arguments.cost:
        times, memory = seconds(arguments), peaks()
        rows = [[name, f"{times[name]:.2f}", f"{memory[name] / 2**20:.0f}"] for name in times]
        rows.append(["ratio", *(f"{one['made'] / one['bare']:.3f}" for one in (times, memory))])
        results = {"machine": machine(device), "seconds_a_batch": times, "peak_bytes": memory}
        report(f"worst_case_images-cost{behind}-{device.type}", results, ["", "seconds a batch", "peak MiB"], rows)
        return
    if arguments.picture:
        model, images, _ = chosen(arguments)
        visualise(
            model,
            arguments.decoder,
            images,
            steps=arguments.steps,
            loss=arguments.loss,
            out=arguments.picture,
            device=device,
        )
    found, rows = figure(arguments)
    head = ["images", "accuracy, %", "PSNR, dB", "accuracy at signs by chance, %"]
    report(f"worst_case_images{behind}", {"machine": machine(device), **found}, head, rows)


if __name__ == "__main__":
    main()
