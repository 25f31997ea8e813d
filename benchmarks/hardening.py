"""What fine-tuning gains on real images: AdvBN beside standard fine-tuning at the same budget, and variants of it.

STATSHIFT_FROST=SHARED/data/frost python benchmarks/hardening.py SHARED [PART ...] [--runs runs/hardening] [--threads 1]

SHARED holds `data/` (images, weights). Parts: effect (5 seeds, 500 test images, the 15 x 5), variants (1 seed, 400 test
images, the 15 at severity 3), page. Trainings and measurements are resumed; each part writes
`benchmarks/results/hardening-PART`, and `page` puts `docs/hardening.md` together from them.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from reporting import RESULTS, machine, report, start
from statshift import load_data, load_model, measure
from statshift.hardening.harden import harden
from statshift.hardening.methods.advbn import AdvBN
from statshift.hardening.options import HardenOptions
from statshift.hardening.training import TrainingOptions
from statshift.shifts.attacks import FeatureAttack

CPU = torch.device("cpu")
BUDGET = TrainingOptions(epochs=4, learning_rate=0.01, batch_size=256)
EFFECT = {
    "standard": HardenOptions("standard", "layer1.0", BUDGET),
    "advbn": HardenOptions("advbn", "layer1.0", BUDGET),
}
SEEDS = range(5)
VARIANTS = {
    "standard": EFFECT["standard"],
    "standard, autoaugment": replace(EFFECT["standard"], training=replace(BUDGET, augment="autoaugment")),
    "advbn at conv2_1 (layer1.0)": EFFECT["advbn"],
    "advbn at conv2_3 (layer1)": replace(EFFECT["advbn"], at="layer1"),
    "advbn at conv3_3 (layer2)": replace(EFFECT["advbn"], at="layer2"),
    "advbn, m = 2": replace(EFFECT["advbn"], method=AdvBN(FeatureAttack(2))),
    "advbn, autoaugment": replace(EFFECT["advbn"], training=replace(BUDGET, augment="autoaugment")),
}


def accuracies(model: Any, data: Any, out: Path, severities: Any) -> dict[str, tuple[float, float]]:
    """Return clean accuracy and the mean over the shifts, in %, of the model as it is and rectified."""
    found = measure(model, data, severities=severities, rectify=["auto"], out=out, device="cpu").summary
    return {
        name: (
            100 * one["clean_accuracy"],
            100 * fmean(shift["accuracy"] for shift in one["per_shift"].values()),
        )
        for name, one in found["protocols"].items()
    }


def run(shared: Path, runs: Path, name: str, options: HardenOptions, limit: int, severities: Any) -> dict[str, Any]:
    """Return the accuracies of each branch of one training."""
    data = shared / "data"
    model = load_model("cifar:resnet20", weights=data / "cifar10_resnet20.th")
    folder = runs / name.replace(" ", "-").replace(",", "")
    found = harden(model, f"npz:{data / 'cifar10_train_4000.npz'}", options, out=folder, device="cpu")
    test = load_data(f"npz:{data / 'cifar10_test_1000.npz'}", limit=limit)
    return {
        branch: accuracies(one.model, test, folder / f"measured-{branch}-{limit}", severities)
        for branch, one in found.branches.splits.items()
    }


def untouched(shared: Path, runs: Path, limit: int, severities: Any) -> dict[str, tuple[float, float]]:
    """Return the accuracies of the network as it was trained."""
    data = shared / "data"
    model = load_model("cifar:resnet20", weights=data / "cifar10_resnet20.th")
    test = load_data(f"npz:{data / 'cifar10_test_1000.npz'}", limit=limit)
    return accuracies(model, test, runs / f"untouched-{limit}", severities)


def effect(shared: Path, runs: Path) -> None:
    """Each method over the seeds: mean and deviation between them."""
    severities = (1, 2, 3, 4, 5)
    found: dict[str, list[dict[str, tuple[float, float]]]] = {"untouched": [untouched(shared, runs, 500, severities)]}
    for seed in SEEDS:
        for name, options in EFFECT.items():
            seeded = replace(options, training=replace(options.training, seed=seed))
            for branch, one in run(shared, runs, f"{name}-{seed}", seeded, 500, severities).items():
                found.setdefault(f"{name}, {branch} branch", []).append(one)
                print(name, seed, branch, one, flush=True)
    rows = []
    for name, seeds in found.items():
        cells = [_spread([one[protocol][at] for one in seeds]) for protocol in ("source", "auto") for at in (0, 1)]
        rows.append([name, str(len(seeds)), *cells])
    head = ["network", "seeds", "clean", "mean of 15 x 5", "clean, rectified (auto)", "mean, rectified (auto)"]
    report("hardening-effect", {"machine": machine(CPU), "accuracies": found}, head, rows)


def variants(shared: Path, runs: Path) -> None:
    """What helps: where, how strong, with which augmentation."""
    found = {"untouched": untouched(shared, runs / "variants", 400, (3,))}
    for name, options in VARIANTS.items():
        for branch, one in run(shared, runs / "variants", name, options, 400, (3,)).items():
            found[f"{name}: {branch}"] = one
            print(name, branch, one, flush=True)
    rows = [
        [name, *(f"{value:.1f}" for protocol in ("source", "auto") for value in one[protocol])]
        for name, one in found.items()
    ]
    head = ["network: branch", "clean", "mean of the 15", "clean, rectified (auto)", "mean, rectified (auto)"]
    report("hardening-variants", {"machine": machine(CPU), "accuracies": found}, head, rows)


def _spread(values: list[float]) -> str:
    return f"{fmean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def page(shared: Path, runs: Path) -> None:
    """Write `docs/hardening.md` from the tables of this and of `advbn_step.py`."""
    text = (Path(__file__).parent / "hardening.md.template").read_text()
    names = {"effect": "hardening-effect", "variants": "hardening-variants", "step": "advbn_step-cpu"}
    for place, name in names.items():
        text = text.replace(f"{{{place}}}", (RESULTS / f"{name}.md").read_text().strip())
    (Path(__file__).parents[1] / "docs" / "hardening.md").write_text(text)


PARTS = {"effect": effect, "variants": variants, "page": page}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--runs", type=Path, default=Path("runs/hardening"))
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    start(arguments.threads)
    for part in arguments.parts:
        PARTS[part](arguments.shared, arguments.runs)


if __name__ == "__main__":
    main()
