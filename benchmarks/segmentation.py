"""Segmentation on real frames: a published network against figures made independently, and what a run costs.

python benchmarks/segmentation.py SHARED [reference] [cost] [memory] [--threads 1]

SHARED is the folder with `data/camvid`, `data/espnet_camvid.py`, its weights, and `reference/camvid_espnet.json`.
`reference` measures ESPNet on the 86 test-day frames, clean and under contrast and Gaussian noise, as it is and with
`replace` from 32 frames, all frames scored. `cost` has the processor time of a run over 43 frames beside that of its
bare forward passes and of the corruptions alone. `memory` has the peak of runs over 20 and over 80 frames, each in a
process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reporting import machine, peak_memory, report, start
from statshift import AdaptationOptions, PixelModel, corrupt, load_data, load_model, measure
from statshift.shifts.shift import CorruptionOptions

MEAN, STD = (0.41190, 0.42513, 0.43267), (0.27413, 0.28505, 0.28284)
UNSCALED = CorruptionOptions(scale_constants=False)
COSTLY = ("contrast", "brightness", "gaussian_noise", "jpeg_compression")
PARTS = ("reference", "cost", "memory")


def espnet(shared: Path) -> PixelModel:
    """Return ESPNet with its published weights."""
    place = f"py:{shared}/data/espnet_camvid.py:espnet_camvid"
    return load_model(place, weights=shared / "data/espnet_camvid.pth", mean=MEAN, std=STD)


def frames(shared: Path, split: str = "test-day", **options: Any) -> Any:
    """Return CamVid's frames of a split."""
    return load_data(f"seg:{shared}/data/camvid", split=split, ignore_index=11, **options)


def reference(shared: Path) -> dict[str, dict[str, float]]:
    """Return mIoU by condition: ours and the reference's, of the source and of `replace`."""
    published = json.loads((shared / "reference/camvid_espnet.json").read_text())["conditions"]
    how = AdaptationOptions(samples=32, include_adaptation=True)
    found = measure(
        espnet(shared),
        frames(shared),
        shifts=["clean", "contrast", "gaussian_noise"],
        severities=[1, 3],
        rectify=["replace"],
        adaptation=how,
        options=UNSCALED,
    )
    rows = {}
    for condition, told in published.items():
        shift, severity = condition.split("/")
        ours = {}
        for name in ("source", "replace"):
            protocol: Any = found.summary["protocols"][name]
            place = int(severity) - 1
            score = protocol["clean_miou"] if shift == "clean" else protocol["per_shift"][shift]["by_severity"][place]
            ours[name] = 100 * score
        rows[condition] = {
            "source": ours["source"],
            "source_reference": told["source"]["miou"],
            "replace": ours["replace"],
            "replace_reference": told["replaced32"]["miou"],
        }
    return rows


@torch.no_grad()
def cost(shared: Path) -> dict[str, float]:
    """Return the seconds on the processor of a run, and of its bare forward passes and its corruptions alone."""
    model, data = espnet(shared), frames(shared, limit=43)
    images = torch.cat([batch for batch, _ in data.batches(16)]).float() / 255
    conditions = [(name, 3) for name in COSTLY]
    model(images[:16])

    begun = time.process_time()
    for batch in images.split(16):
        model(batch)
    forward = (time.process_time() - begun) * (len(conditions) + 1)

    begun = time.process_time()
    for name, severity in conditions:
        for start_at in range(0, len(images), 16):
            part = slice(start_at, start_at + 16)
            corrupt(images[part], name, severity, indices=torch.from_numpy(data.indices[part]), scale_constants=False)
    corruptions = time.process_time() - begun

    begun = time.process_time()
    measure(model, data, shifts=["clean", *COSTLY], severities=[3], options=UNSCALED, batch_size=16)
    run = time.process_time() - begun
    return {"forward": forward, "corruptions": corruptions, "run": run, "ratio": run / (forward + corruptions)}


def peak(shared: Path, count: int) -> float:
    """Return the peak memory in MiB of a process that measures so many frames."""
    this = Path(__file__).resolve()
    said = subprocess.run([sys.executable, this, shared, f"--peak={count}"], check=True, capture_output=True, text=True)
    return float(said.stdout.split()[-1])


def measure_alone(shared: Path, count: int) -> None:
    """Measure so many frames by two protocols, and print this process's peak memory in MiB."""
    data = frames(shared, "train-day", limit=count)
    how = AdaptationOptions(samples=8)
    run = partial(
        measure, espnet(shared), data, shifts=["contrast"], severities=[3], rectify=["replace"], adaptation=how
    )
    print(peak_memory(run, torch.device("cpu")) / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("parts", nargs="*", default=PARTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    start(arguments.threads)
    if arguments.peak:
        return measure_alone(arguments.shared, arguments.peak)
    results: dict[str, Any] = {"machine": machine(torch.device("cpu")), "threads": arguments.threads}
    lines = []
    if "reference" in arguments.parts:
        results["reference"] = reference(arguments.shared)
        for condition, row in results["reference"].items():
            lines += [
                [f"{condition} {name}", f"{row[name]:.2f}", f"{row[f'{name}_reference']:.2f}"]
                for name in ("source", "replace")
            ]
    if "cost" in arguments.parts:
        results["cost"] = cost(arguments.shared)
        told = results["cost"]
        lines.append(["run / (forward passes + corruptions)", f"{told['ratio']:.2f}", "at most 1.25"])
    if "memory" in arguments.parts:
        results["memory"] = {count: peak(arguments.shared, count) for count in (20, 80)}
        lines += [
            [f"peak memory over {count} frames, MiB", f"{mib:.0f}", ""] for count, mib in results["memory"].items()
        ]
    report("segmentation", results, ["figure", "here", "reference"], lines)
    return None


if __name__ == "__main__":
    main()
