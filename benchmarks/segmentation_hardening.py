"""Does hardening pay in segmentation? A small dilated network trained by day, hardened, and taken to dusk.

python benchmarks/segmentation_hardening.py OUT [--data ../shared/data/camvid] [--seeds 3] [--varied-seeds 1]
    [--epochs 3] [--start-epochs 60] [--share 0/2] [--table] [--cost]

One start is trained on `train-day` alone, on windows of 256 x 192. From it each method fine-tunes by the same epochs
and rate, with each seed; `standard-long` has as many seconds as AdvBN, by the cost of a step. Every model is measured
on the other scenes, as it is and rectified, and under corruptions of every third frame. What is done is not done again:
a model has its folder and its JSON in OUT, and a training goes on where it was stopped. `--share K/N` takes every N-th
of the jobs once the start is there, for N processes; `--table` prints what there is and trains nothing. `--cost` times
a step of each method on windows of 512 x 256 beside its floor: its passes, in units of those of a standard step.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from advbn_step import operations
from reporting import machine, report, start
from small_dilated import small_dilated
from statshift import AdaptationOptions, PixelModel, load_data, measure
from statshift.data import ImageData
from statshift.hardening.costs import step_costs
from statshift.hardening.from_scratch import build
from statshift.hardening.harden import harden
from statshift.hardening.method import Method
from statshift.hardening.methods.advbn import AdvBN
from statshift.hardening.methods.auxiliary import PixelAT
from statshift.hardening.methods.standard import Standard
from statshift.hardening.options import HardenOptions
from statshift.hardening.training import TrainingOptions
from statshift.models import load_weights
from statshift.models.pixel import Preprocessing
from statshift.results import write_json_atomically
from statshift.shifts.attacks import FeatureAttack
from statshift.shifts.shift import CorruptionOptions
from statshift.splitting.branches import Branches

CLASSES, VOID, WINDOW = 11, 11, (192, 256)
MEAN, STD = (0.41190, 0.42513, 0.43267), (0.27413, 0.28505, 0.28284)  # of CamVid's training frames, by ESPNet's authors
PAPER = FeatureAttack(steps=3, step_size=0.2, epsilon=0.5)  # NeurIPS 2021, section 5.4
SUBMISSION = FeatureAttack(steps=4, step_size=0.15, epsilon=0.4)  # ICLR 2021 submission, section 5.5
ARMS: dict[str, tuple[Method, str]] = {
    "standard": (Standard(), "input"),
    "standard-long": (Standard(), "input"),
    "advbn": (AdvBN(PAPER), "layer1"),
    "advbn-4": (AdvBN(SUBMISSION), "layer1"),
    "advbn-stem": (AdvBN(PAPER), "relu"),
    "advbn-layer2": (AdvBN(PAPER), "layer2"),
    "pixel-at": (PixelAT(), "input"),
}
VARIED = ("advbn-4", "advbn-stem", "advbn-layer2")
SCENES = ("val-day", "test-day", "train-dusk")
CORRUPTED = ("val-day", "test-day")
CORRUPTIONS = ("gaussian_noise", "contrast", "fog", "motion_blur", "brightness")
TRAINING = TrainingOptions(batch_size=8, schedule="poly", window=WINDOW, checkpoint_every=60)
START = dataclasses.replace(TRAINING, learning_rate=0.05)
FINE = dataclasses.replace(TRAINING, learning_rate=0.01)


def model_of(weights: Path | None = None) -> PixelModel:
    """Return the network, with weights of a file."""
    network = small_dilated(CLASSES)
    if weights is not None:
        load_weights(network, weights)
    return PixelModel(network.eval(), Preprocessing(MEAN, STD), spec="small_dilated", num_classes=CLASSES)


def frames(data: Path, split: str) -> ImageData:
    """Return CamVid's frames of a split."""
    return load_data(f"seg:{data}", split=split, ignore_index=VOID)


def every_third(images: ImageData) -> ImageData:
    """Return every third image."""
    return images.subset(np.arange(0, len(images), 3))


def miou(model: PixelModel, data: Path) -> dict[str, float]:
    """Return the mIoU, in %, by what was measured: SCENE, SCENE PROTOCOL, and corruptions over both days' scenes."""
    found: dict[str, float] = {}
    by_shift: dict[str, list[float]] = {name: [] for name in CORRUPTIONS}
    how = AdaptationOptions(samples=32, include_adaptation=True)
    quiet = partial(measure, model, device="cpu", examples=0)
    for scene in SCENES:
        images = frames(data, scene)
        seen = quiet(images, shifts="clean", rectify=["replace", "auto"], adaptation=how).summary["protocols"]
        for name, told in seen.items():
            found[scene if name == "source" else f"{scene} {name}"] = 100 * told["clean_miou"]
        if scene in CORRUPTED:
            unscaled = CorruptionOptions(scale_constants=False)
            told = quiet(every_third(images), shifts=list(CORRUPTIONS), severities=[3], options=unscaled)
            for name, one in told.summary["protocols"]["source"]["per_shift"].items():
                by_shift[name].append(100 * one["miou"])
    return found | {name: fmean(values) for name, values in by_shift.items()}


def long_epochs(out: Path, data: Path, epochs: int) -> int:
    """Return how many epochs of standard training last as long as those of AdvBN; timed once."""
    place = out / "costs.json"
    if not place.exists():
        options = {label: HardenOptions(method, at=at, training=FINE) for label, (method, at) in ARMS.items()}
        write_json_atomically(place, step_costs(model_of, frames(data, "train-day"), options, repeats=3, device="cpu"))
    return max(epochs, round(epochs * json.loads(place.read_text())["advbn"]["ratio"]))


def trained(out: Path, data: Path, label: str, seed: int, epochs: int) -> tuple[PixelModel, float, int]:
    """Return a fine-tuned model, the minutes of the processor that it took in this sitting, and its epochs."""
    method, at = ARMS[label]
    number = long_epochs(out, data, epochs) if label == "standard-long" else epochs
    options = HardenOptions(method, at=at, training=dataclasses.replace(FINE, epochs=number, seed=seed))
    model, begun = model_of(out / "start/clean.safetensors"), time.process_time()
    harden(model, frames(data, "train-day"), options, out=out / f"{label}-{seed}", device="cpu")
    return model, (time.process_time() - begun) / 60, number


def jobs(seeds: int, varied: int) -> list[tuple[str, int]]:
    """Return what is to be trained, the seeds in turns; the variants of AdvBN with `varied` seeds."""
    turns = [(label, seed) for seed in range(seeds) for label in ARMS]
    return [(label, seed) for label, seed in turns if label not in VARIED or seed < varied]


def run(out: Path, data: Path, arguments: argparse.Namespace) -> None:
    """Train and measure whatever is missing."""
    out.mkdir(parents=True, exist_ok=True)
    first, step = (int(part) for part in arguments.share.split("/"))
    if first == 0 and not (out / "start.json").exists():
        write(out / "start.json", *started(out, data, arguments.start_epochs), data)
    while not (out / "start.json").exists():
        time.sleep(10)
    for label, seed in jobs(arguments.seeds, arguments.varied_seeds)[first::step]:
        place = out / f"{label}-{seed}.json"
        if not place.exists():
            write(place, *trained(out, data, label, seed, arguments.epochs), data)


def started(out: Path, data: Path, epochs: int) -> tuple[PixelModel, float, int]:
    """Return the start, trained from random weights, likewise."""
    spec = f"py:{Path(__file__).with_name('small_dilated.py')}:small_dilated"
    model, begun = build(spec, {"num_classes": CLASSES}, mean=MEAN, std=STD), time.process_time()
    options = HardenOptions(Standard(), training=dataclasses.replace(START, epochs=epochs))
    harden(model, frames(data, "train-day"), options, out=out / "start", device="cpu")
    return model, (time.process_time() - begun) / 60, epochs


def write(place: Path, model: PixelModel, minutes: float, epochs: int, data: Path) -> None:
    """Measure a model and write what is known of it."""
    label = place.stem.rpartition("-")[0] or place.stem
    told = {"label": label, "epochs": epochs, "minutes": minutes, "miou": miou(model, data)}
    write_json_atomically(place, told)
    print(place.stem, f"{minutes:.1f} min", {name: round(value, 1) for name, value in told["miou"].items()}, flush=True)


def table(out: Path) -> None:
    """Print the means over seeds of what there is, with their deviations."""
    models: dict[str, list[dict[str, Any]]] = {}
    for label in ("start", *ARMS):
        for place in sorted(out.glob(f"{label}-[0-9]*.json" if label in ARMS else f"{label}.json")):
            told = json.loads(place.read_text())
            if told["label"] == label:
                models.setdefault(label, []).append(told)
    names = [scene + protocol for scene in SCENES for protocol in ("", " replace", " auto")] + list(CORRUPTIONS)
    rows = []
    for label, runs in models.items():
        cells = [label, str(runs[0]["epochs"]), f"{fmean(one['minutes'] for one in runs):.1f}"]
        rows.append(cells + list(_figures(runs, names)))
    results = {"machine": machine(torch.device("cpu")), "models": models, "costs": _costs(out)}
    report("segmentation_hardening", results, ["trained", "epochs", "minutes", *names], rows)


def _figures(runs: list[dict[str, Any]], names: list[str]) -> Iterator[str]:
    for name in names:
        values = [one["miou"][name] for one in runs]
        spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        yield f"{fmean(values):.1f}{spread}"


def _costs(out: Path) -> Any:
    place = out / "costs.json"
    return json.loads(place.read_text()) if place.exists() else None


def cost(data: Path) -> None:
    """Print what a step of each method costs on windows of 512 x 256, and its floor, in units of a standard step."""
    images = frames(data, "train-day")
    training = dataclasses.replace(FINE, batch_size=4, window=(256, 512), scale=(1.5, 2.0))
    options = {label: HardenOptions(method, at=at, training=training) for label, (method, at) in ARMS.items()}
    del options["standard-long"]
    found = step_costs(model_of, images, options, repeats=5, device="cpu")
    pixels = torch.rand(4, 3, 256, 512)
    rows, whole = [], None
    for label, one in found.items():
        method, at = ARMS[label]
        passes = operations(Branches(model_of(), at, pixels[:2], dual=method.dual), pixels)
        steps = method.attack.steps if isinstance(method, AdvBN | PixelAT) else 0
        many = 3 if steps == 0 else 2 * steps + 6  # an attack's step is a pass forth and one back, a training's three
        whole = whole or many * passes["suffix"]
        floor = (passes["prefix"] + many * passes["suffix"]) / whole
        rows.append([label, f"{one['seconds']:.2f}", f"{one['ratio']:.2f}", f"{floor:.2f}"])
    results = {"machine": machine(torch.device("cpu")), "steps": found}
    report("segmentation_step", results, ["step", "seconds", "of a standard step", "floor"], rows)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/camvid"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--varied-seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--start-epochs", type=int, default=60)
    parser.add_argument("--share", default="0/1")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--cost", action="store_true")
    arguments = parser.parse_args()
    start(threads=1)
    if arguments.cost:
        cost(arguments.data)
        return
    if not arguments.table:
        run(arguments.out, arguments.data, arguments)
    table(arguments.out)


if __name__ == "__main__":
    main()
