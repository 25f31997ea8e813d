"""What fine-tuning gains on real images: AdvBN beside standard fine-tuning at the same budget, and variants of it.

STATSHIFT_FROST=SHARED/data/frost python benchmarks/hardening.py SHARED [PART ...] [--runs runs/hardening] [--threads 1]

SHARED holds `data/` (images, weights). Parts: effect (5 seeds, 500 test images, the 15 x 5), variants (1 seed, 400 test
images, the 15 at severity 3), families (3 seeds, 300 test images, severity 3: the 15, C-bar's 10, filters), page.
Trainings and measurements are resumed; each part writes `benchmarks/results/hardening-PART`, and `page` puts
`docs/hardening.md` together from them.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from reporting import RESULTS, machine, report, start
from statshift import load_data, load_model, measure
from statshift.hardening.from_scratch import ONE_CYCLE, train_from_scratch
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

FAMILIES = ("clean", "common", "cifar-c-bar", "filters")
CARRIED = ("standard", "standard, autoaugment", "advbn at conv2_1 (layer1.0)", "advbn, autoaugment")

WHOLE = TrainingOptions(epochs=2, learning_rate=0.01, batch_size=256, dtype="bfloat16")
START = HardenOptions("standard", training=replace(ONE_CYCLE, epochs=10, learning_rate=0.1, dtype="bfloat16"))
ON_ALL = {
    "standard": HardenOptions("standard", "layer1.0", WHOLE),
    "standard, autoaugment": HardenOptions("standard", "layer1.0", replace(WHOLE, augment="autoaugment")),
    "advbn, m = 2": HardenOptions(AdvBN(FeatureAttack(2)), "layer1.0", WHOLE),
    "advbn, m = 6": HardenOptions("advbn", "layer1.0", WHOLE),
}


def accuracies(
    model: Any, data: Any, out: Path, severities: Any, device: str = "cpu"
) -> dict[str, tuple[float, float]]:
    """Return clean accuracy and the mean over the shifts, in %, of the model as it is and rectified."""
    found = measure(model, data, severities=severities, rectify=["auto"], out=out, device=device).summary
    return {
        name: (
            100 * one["clean_accuracy"],
            100 * fmean(shift["accuracy"] for shift in one["per_shift"].values()),
        )
        for name, one in found["protocols"].items()
    }


def trained(shared: Path, runs: Path, name: str, options: HardenOptions) -> tuple[dict[str, Any], Path]:
    """Return the models of one training by branch, and its folder."""
    data = shared / "data"
    model = load_model("cifar:resnet20", weights=data / "cifar10_resnet20.th")
    folder = runs / name.replace(" ", "-").replace(",", "")
    found = harden(model, f"npz:{data / 'cifar10_train_4000.npz'}", options, out=folder, device="cpu")
    return {branch: one.model for branch, one in found.branches.splits.items()}, folder


def run(shared: Path, runs: Path, name: str, options: HardenOptions, limit: int, severities: Any) -> dict[str, Any]:
    """Return the accuracies of each branch of one training."""
    models, folder = trained(shared, runs, name, options)
    test = tested(shared, limit)
    return {
        branch: accuracies(model, test, folder / f"measured-{branch}-{limit}", severities)
        for branch, model in models.items()
    }


def tested(shared: Path, limit: int) -> Any:
    """Return so many of the test images."""
    return load_data(f"npz:{shared / 'data' / 'cifar10_test_1000.npz'}", limit=limit)


def untouched(shared: Path, runs: Path, limit: int, severities: Any) -> dict[str, tuple[float, float]]:
    """Return the accuracies of the network as it was trained."""
    data = shared / "data"
    model = load_model("cifar:resnet20", weights=data / "cifar10_resnet20.th")
    return accuracies(model, tested(shared, limit), runs / f"untouched-{limit}", severities)


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


def by_family(model: Any, data: Any, out: Path) -> dict[str, float]:
    """Return the mean accuracy in % over the shifts of each family."""
    found = measure(model, data, shifts=FAMILIES, severities=(3,), out=out, device="cpu")
    shifts = found.summary["protocols"]["source"]["per_shift"]
    families: dict[str, list[float]] = {"clean": [found.summary["protocols"]["source"]["clean_accuracy"]]}
    for name, one in shifts.items():
        families.setdefault(found.record["families"][name], []).append(one["accuracy"])
    return {family: 100 * fmean(values) for family, values in families.items()}


def families(shared: Path, runs: Path) -> None:
    """Whether a gain under the common corruptions carries over to other shifts: mean and deviation between seeds."""
    place, test = runs / "families", tested(shared, 300)
    source = load_model("cifar:resnet20", weights=shared / "data" / "cifar10_resnet20.th")
    found = {"untouched": [by_family(source, test, place / "untouched")]}
    for seed in range(3):
        for name in CARRIED:
            options = replace(VARIANTS[name], training=replace(VARIANTS[name].training, seed=seed))
            models, folder = trained(shared, place, f"{name}-{seed}", options)
            for branch, model in models.items():
                one = by_family(model, test, folder / f"measured-{branch}")
                found.setdefault(f"{name}: {branch}", []).append(one)
                print(name, seed, branch, one, flush=True)
    head = [*found["untouched"][0]]
    rows = [
        [name, str(len(seeds)), *(_spread([one[family] for one in seeds]) for family in head)]
        for name, seeds in found.items()
    ]
    results = {"machine": machine(CPU), "shifts": FAMILIES, "accuracies": found}
    report("hardening-families", results, ["network: branch", "seeds", *head], rows)


def on_all(
    data: Path,
    place: Path,
    spec: str,
    device: str,
    methods: Mapping[str, HardenOptions],
    seeds: Iterable[int],
    limit: int | None = None,
) -> Iterator[tuple[str, dict[str, tuple[float, float]]]]:
    """Train a network on the JPEG training images, or on so many, then fine-tune it: yield each one's accuracies."""
    images = f"npz:{data / 'cifar10_jpeg_train.npz'}"
    how: dict[str, Any] = {"device": device, "data_options": {"limit": limit}}
    test = load_data(f"npz:{data / 'cifar10_jpeg_test.npz'}", limit=min(1000, limit or 1000))
    begun = train_from_scratch(spec, images, START, out=place / "start", **how).model
    severities = (1, 3, 5)
    yield "start", accuracies(begun, test, place / "measured-start", severities, device)
    for seed in seeds:
        for name, options in methods.items():
            seeded = replace(options, training=replace(options.training, seed=seed))
            folder = place / f"{name}-{seed}".replace(" ", "-").replace(",", "")
            model = load_model(spec, weights=place / "start" / "clean.safetensors")
            trained = harden(model, images, seeded, out=folder, **how).branches.splits
            for branch, one in trained.items():
                figures = accuracies(one.model, test, folder / f"measured-{branch}", severities, device)
                yield f"{name}: {branch}", figures


def whole(shared: Path, runs: Path) -> None:
    """All 50,000 training images as JPEG, from a network trained on the same: mean and deviation between seeds."""
    found: dict[str, list[dict[str, tuple[float, float]]]] = {}
    for name, figures in on_all(shared / "data", runs / "whole", "cifar:resnet20", "cpu", ON_ALL, range(2)):
        found.setdefault(name, []).append(figures)
        print(name, figures, flush=True)
    rows = [
        [
            name,
            str(len(seeds)),
            *(_spread([one[by][at] for one in seeds]) for by in ("source", "auto") for at in (0, 1)),
        ]
        for name, seeds in found.items()
    ]
    head = ["network: branch", "seeds", "clean", "mean of 15 x 3", "clean, rectified (auto)", "mean, rectified (auto)"]
    report("hardening-whole", {"machine": machine(CPU), "accuracies": found}, head, rows)


def _spread(values: list[float]) -> str:
    return f"{fmean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def page(shared: Path, runs: Path) -> None:
    """Write `docs/hardening.md` from the tables of this and of `advbn_step.py`."""
    text = (Path(__file__).parent / "hardening.md.template").read_text()
    names = {part: f"hardening-{part}" for part in ("effect", "variants", "families", "whole")} | {
        "step": "advbn_step-cpu"
    }
    for place, name in names.items():
        text = text.replace(f"{{{place}}}", (RESULTS / f"{name}.md").read_text().strip())
    (Path(__file__).parents[1] / "docs" / "hardening.md").write_text(text)


PARTS = {"effect": effect, "variants": variants, "families": families, "whole": whole, "page": page}


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
