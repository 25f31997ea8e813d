"""What normalization does to robustness: the claims of Benz et al. (ICLR 2021 submission), measured anew.

python benchmarks/normalization.py SHARED [PART ...] [--scale cpu] [--runs runs/normalization] [--threads 1]

SHARED holds `data/`: CIFAR-10 as JPEG, whose test set is compressed alike: no figures to set beside those of
lossless images. Parts: pretrained, precision, norms, adversarial, regularised, profile, transfer, features. Scales:
"cpu" is a ResNet-20 on 10,000 images for 10 epochs; "gpu" is VGG-11 and ResNet-18 on 50,000 images for 30 epochs,
adversarial training for 20. Trainings and extractions are resumed; each part writes
`benchmarks/results/normalization-PART-SCALE`.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.nn import functional as F

from reporting import RESULTS, machine, report, start
from spectrum import high_frequency_share
from statshift import COMMON, corrupt, load_data, load_model, measure, rectified
from statshift.adapting.drawing import adaptation_positions
from statshift.hardening.from_scratch import ONE_CYCLE, train_from_scratch
from statshift.hardening.methods.ligs import LigsRegularised
from statshift.hardening.options import HardenOptions
from statshift.making.extraction import ExtractionOptions, extract
from statshift.measuring.ligs import PERTURBATIONS, ligs
from statshift.measuring.loading import find_device
from statshift.models import NORMS
from statshift.shifts.attacks import attack_images, cross_entropy, parse_attack

ROBUST = "pgd-l2:0.25:10"
BY_EPOCH = ("clean", ROBUST)
ATTACKS = ("clean", "fgsm:4/255", "pgd-l2:0.25", "pgd-linf:1/255", "cw-l2:0.25", "cw-linf:1/255")
WITH_AND_WITHOUT = ("none", "batch")


@dataclass(frozen=True)
class Scale:
    """How much is trained and measured: images, epochs, and steps of the extraction."""

    networks: Sequence[str]
    images: int | None
    epochs: int
    adversarial_images: int | None
    adversarial_epochs: int
    extracted: int
    steps: int
    feature_epochs: int
    test: int
    rate: float
    small_batch: int
    """Of all but the norms' trainings: fewer images make too few steps by 128."""


SCALES = {
    "cpu": Scale(("resnet20",), 10_000, 10, 4_000, 8, 2_000, 60, 12, 500, 0.02, 64),
    "gpu": Scale(("vgg11", "resnet18"), None, 30, None, 20, 10_000, 200, 30, 1000, 0.05, 128),
}


class Bench:
    """The data, the folder of the runs and the scale, which every part shares."""

    def __init__(self, shared: Path, runs: Path, scale: Scale, device: str, dtype: str) -> None:
        self.shared, self.scale, self.runs, self.device = shared, scale, runs, device
        self.train = f"npz:{shared / 'data' / 'cifar10_jpeg_train.npz'}"
        self.test = load_data(f"npz:{shared / 'data' / 'cifar10_jpeg_test.npz'}", limit=scale.test)
        self.training = replace(ONE_CYCLE, epochs=scale.epochs, learning_rate=scale.rate, dtype=dtype)
        self.short = replace(self.training, epochs=scale.adversarial_epochs, batch_size=scale.small_batch)

    def trained(
        self,
        name: str,
        network: str,
        norm: str,
        options: HardenOptions | None = None,
        *,
        data: str | None = None,
        limit: int | None = None,
        validation: Any = None,
    ) -> tuple[list[dict[str, Any]], Any]:
        """Return the history and the network of one training, which is resumed."""
        found = train_from_scratch(
            f"cifar:{network}",
            data or self.train,
            options or HardenOptions("standard", training=self.training),
            model_args={"norm": norm},
            out=self.runs / f"{name}-{network}-{norm}",
            validation=self.test if validation is None else validation,
            shifts=BY_EPOCH,
            ligs=["gaussian"],
            device=self.device,
            data_options={"limit": limit, "seed": 0} if limit else {},
        )
        return [epoch["validation"]["clean"] for epoch in found.record["history"]], found.model

    def standard(self, network: str, norm: str) -> tuple[list[dict[str, Any]], Any]:
        """Return the standard training that several parts build upon."""
        return self.trained("standard", network, norm, limit=self.scale.images)

    def adversarial(self, network: str, norm: str) -> tuple[list[dict[str, Any]], Any]:
        """Return the adversarial training by L2-PGD of 7 steps that several parts build upon."""
        options = HardenOptions("adversarial", training=self.short)
        return self.trained("adversarial", network, norm, options, limit=self.scale.adversarial_images)

    def few(self, network: str, norm: str, weight: float = 0.0) -> tuple[list[dict[str, Any]], Any]:
        """Return a training on as many images as adversarial training, with LIGS as a regularizer of some weight."""
        options = HardenOptions("standard", training=self.short)
        if weight:
            options = HardenOptions(LigsRegularised(weight=weight), training=self.short)
        return self.trained(f"few-{weight:g}", network, norm, options, limit=self.scale.adversarial_images)


Rows = list[list[str]]
Found = tuple[dict[str, Any], list[str], Rows]


def pretrained(bench: Bench) -> Found:
    """Return the ResNet-20 of SHARED under attack on 1000 lossless images, and what rectifying does to it (6.7)."""
    model = load_model("cifar:resnet20", weights=bench.shared / "data" / "cifar10_resnet20.th")
    data = load_data(f"npz:{bench.shared / 'data' / 'cifar10_test_1000.npz'}")
    out = bench.runs / "pretrained"
    summary = measure(
        model, data, shifts=ATTACKS, rectify=["replace"], ligs=PERTURBATIONS, out=out, device=bench.device
    ).summary
    results: dict[str, Any] = {"ligs": summary["ligs"], "protocols": {}}
    for name, one in summary["protocols"].items():
        results["protocols"][name] = {"clean": one["clean_accuracy"]} | {
            attack: found["accuracy"] for attack, found in one["per_shift"].items()
        }
    device = find_device(bench.device)
    images, labels = (one.to(device) for one in data.tensors())
    model = model.to(device)
    few = torch.from_numpy(adaptation_positions(data.indices, 32, 0, 0)).to(images.device)
    others = torch.ones(len(images), dtype=torch.bool, device=images.device).index_fill_(0, few, False)
    fixed = {}
    for name in ATTACKS:
        shifted = images if name == "clean" else attack_images(model, images, labels, parse_attack(name))
        with rectified(model, shifted[few], "replace") as adapted, torch.no_grad():
            fixed[name] = float((adapted(shifted[others]).argmax(1) == labels[others]).float().mean())
    results["protocols"]["replace, not attacked anew"] = fixed
    rows = [[name, *_percents(found, ATTACKS)] for name, found in results["protocols"].items()]
    rows += [[f"LIGS, {name}", *_interval(one), *[""] * (len(ATTACKS) - 1)] for name, one in summary["ligs"].items()]
    return results, ["", *ATTACKS], rows


def precision(bench: Bench) -> Found:
    """Return LIGS of the ResNet-20 of SHARED with the loss in float64 and in float32, and how many images are sure."""
    device = find_device(bench.device)
    model = load_model("cifar:resnet20", weights=bench.shared / "data" / "cifar10_resnet20.th").to(device)
    data = load_data(f"npz:{bench.shared / 'data' / 'cifar10_test_1000.npz'}")
    images, labels = (one.to(device) for one in data.tensors())
    with torch.no_grad():
        least = 1 - model(images).double().softmax(1).gather(1, labels[:, None])
    sure = float((least < 2**-24).float().mean())  # p rounds to 1 in float32
    found = {
        "float64": ligs(model, images, labels),
        "float32": ligs(model, images, labels, loss=partial(F.cross_entropy, reduction="none")),
    }
    results = {"sure": sure, "ligs": {name: one.describe() for name, one in found.items()}}
    rows = [[name, *_interval(one.describe()), f"{100 * sure:.1f}"] for name, one in found.items()]
    return results, ["loss in", "LIGS (95 %)", "images with p = 1 in float32, %"], rows


def norms(bench: Bench) -> Found:
    """Return clean and robust accuracy, and LIGS by epoch, of every norm (Tables 1, 2 and 8, Figure 4)."""
    results: dict[str, Any] = {}
    rows: Rows = []
    for network in bench.scale.networks:
        for norm in NORMS:
            history, model = bench.standard(network, norm)
            out = bench.runs / f"measured-{network}-{norm}"
            summary = measure(
                model, bench.test, shifts=ATTACKS, ligs=["gaussian"], out=out, device=bench.device
            ).summary
            source = summary["protocols"]["source"]
            figures = {"clean": source["clean_accuracy"]}
            figures |= {name: one["accuracy"] for name, one in source["per_shift"].items()}
            ligs = summary["ligs"]["gaussian"]
            results[f"{network}-{norm}"] = {"history": history, "accuracy": figures, "ligs": ligs}
            rows.append([f"{network}, {norm}", *_percents(figures, ATTACKS), *_interval(ligs), *_trend(history)])
    return results, ["network, norm", *ATTACKS, "LIGS (95 %)", "LIGS by epoch"], rows


def adversarial(bench: Bench) -> Found:
    """Return standard and adversarial training with and without batch norm, on as many images (Figure 4)."""
    results, rows = {}, []
    for network in bench.scale.networks[-1:]:
        for norm in WITH_AND_WITHOUT:
            for name in ("adversarial", "standard"):
                train = bench.adversarial if name == "adversarial" else bench.few
                history, _ = train(network, norm)
                results[f"{name}-{network}-{norm}"] = {"history": history}
                rows.append([f"{name}, {norm}", *_last(history), *_trend(history)])
    return results, ["training, norm", "clean", ROBUST, "LIGS", "LIGS by epoch"], rows


def regularised(bench: Bench) -> Found:
    """Return training with LIGS as a regularizer, beside without it, on as many images as adversarial (Figure 5)."""
    results, rows = {}, []
    for network in bench.scale.networks[-1:]:
        for norm in WITH_AND_WITHOUT:
            for weight in (0.0, 4.0):
                history, model = bench.few(network, norm, weight)
                length = _gradient_length(bench, model)
                results[f"{network}-{norm}-{weight:g}"] = {"history": history, "gradient length": length}
                rows.append([f"{norm}, weight {weight:g}", *_last(history), f"{length:.1f}", *_trend(history)])
    return results, ["norm", "clean", ROBUST, "LIGS", "gradient length", "LIGS by epoch"], rows


def profile(bench: Bench) -> Found:
    """Return accuracy under the 15 corruptions at severity 3, of standard and adversarial training (Figure 1)."""
    results, rows = {}, []
    network = bench.scale.networks[-1]
    models = {f"standard, {norm}": bench.standard(network, norm)[1] for norm in NORMS}
    models |= {f"adversarial, {norm}": bench.adversarial(network, norm)[1] for norm in WITH_AND_WITHOUT}
    for name, model in models.items():
        protocols = () if name.endswith(("none", "instance", "layer", "group")) else ("replace",)
        out = bench.runs / f"profile-{name.replace(', ', '-')}"
        found = measure(model, bench.test, severities=[3], rectify=protocols, out=out, device=bench.device).summary
        for protocol, one in found["protocols"].items():
            label = name if protocol == "source" else f"{name}, rectified"
            figures = {"clean": one["clean_accuracy"]}
            figures |= {shift: value["accuracy"] for shift, value in one["per_shift"].items()}
            figures["mean of the 15"] = fmean(figures[name] for name in COMMON)
            results[label] = figures
            rows.append([label, *_percents(figures, figures)])
    results["high frequencies"] = shares = _high_frequencies(bench)
    rows.append(["energy in high frequencies", "-", *_percents(shares, COMMON), "-"])
    return results, ["training, norm", "clean", *COMMON, "mean of the 15"], rows


def _high_frequencies(bench: Bench) -> dict[str, float]:
    """Return what share of a corruption's change lies beyond half the Nyquist frequency (appendix A), at severity 3."""
    images, _ = bench.test.tensors()
    return {name: float(high_frequency_share(corrupt(images, name, 3) - images).nanmean()) for name in COMMON}


def transfer(bench: Bench) -> Found:
    """Return how well features extracted from each norm's standard network serve the others (Table 3, left)."""
    network = bench.scale.networks[0]
    models = {norm: bench.standard(network, norm)[1] for norm in NORMS}
    results: dict[str, Any] = {}
    for source, model in models.items():
        data = _extracted(bench, model, "nonrobust", f"transfer-{source}", bench.test)
        results[source] = {
            norm: measure(target, data, shifts=["clean"], device=bench.device).rows[0]["correct"] / bench.scale.test
            for norm, target in models.items()
        }
    rows = [[source, *_percents(found, NORMS)] for source, found in results.items()]
    return results, ["features of", *NORMS], rows


def features(bench: Bench) -> Found:
    """Return training on D_R, D_rand and D_conflict, with and without batch norm (Figures 6 and 7)."""
    network, scale = bench.scale.networks[-1], bench.scale
    some = load_data(bench.train, limit=scale.extracted, seed=1)
    _, standard = bench.standard(network, "batch")
    _, robust = bench.adversarial(network, "batch")
    robust_set = _extracted(bench, robust, "robust", "robust", some)
    sets = {
        "robust": robust_set,
        "random": _extracted(bench, standard, "random", "random", some),
        "conflict": _extracted(bench, standard, "conflict", "conflict", robust_set),
    }
    results, rows = {}, []
    for name, data in sets.items():
        training = replace(
            bench.short,
            epochs=scale.feature_epochs,
            augment="none" if name == "conflict" else bench.training.augment,
        )
        for norm in WITH_AND_WITHOUT:
            options = HardenOptions("standard", training=training)
            history, model = bench.trained(f"on-{name}", network, norm, options, data=data)
            target = _shifted_accuracy(bench, model) if name == "conflict" else None
            results[f"{name}-{norm}"] = {"history": history, "accuracy on t + 1": target}
            beside = "" if target is None else f"{100 * target:.1f}"
            rows.append([f"D_{name}, {norm}", *_last(history), beside, *_trend(history)])
    return results, ["data set, norm", "clean", ROBUST, "LIGS", "clean, as t + 1", "LIGS by epoch"], rows


def _gradient_length(bench: Bench, model: Any) -> float:
    """Return the mean L2 length of the loss's gradient with respect to a test image."""
    device = find_device(bench.device)
    images, labels = (one.to(device) for one in bench.test.tensors())
    point = images.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model.to(device)(point), labels).sum(), point)
    return float(gradient.flatten(1).norm(dim=1).mean())


def _extracted(bench: Bench, model: Any, kind: str, name: str, data: Any) -> str:
    """Return the spec of a data set that is extracted, or was."""
    out = bench.runs / f"extracted-{name}"
    matched = kind in ("robust", "nonrobust")
    options = ExtractionOptions(steps=bench.scale.steps if matched else min(100, bench.scale.steps))
    return f"npz:{extract(model, data, kind, options, out=out, device=bench.device).path / 'images.npz'}"


def _shifted_accuracy(bench: Bench, model: Any) -> float:
    """Return the accuracy on the test images were each of the class after its own."""
    assert bench.test.labels is not None
    device = find_device(bench.device)
    with torch.no_grad():
        right = [
            (
                model(images.to(device).float() / 255).argmax(1).cpu().numpy() == (bench.test.labels[places] + 1) % 10
            ).sum()
            for images, places in bench.test.batches(100)
        ]
    return float(sum(right)) / len(bench.test)


def _percents(figures: Mapping[str, float], names: Any) -> Iterator[str]:
    return (f"{100 * figures[name]:.1f}" for name in names)


def _interval(ligs: Mapping[str, Any]) -> list[str]:
    low, high = ligs["interval"]
    return [f"{ligs['mean']:.3f} ({low:.3f} to {high:.3f})"]


def _last(history: list[dict[str, float]]) -> list[str]:
    last = history[-1]
    return [*_percents(last, BY_EPOCH), f"{last['LIGS gaussian']:.3f}"]


def _trend(history: list[dict[str, float]]) -> list[str]:
    return [" ".join(f"{epoch['LIGS gaussian']:.2f}" for epoch in history)]


PARTS = {
    "pretrained": pretrained,
    "precision": precision,
    "norms": norms,
    "adversarial": adversarial,
    "regularised": regularised,
    "profile": profile,
    "transfer": transfer,
    "features": features,
}


def page() -> None:
    """Write `docs/normalization.md` from the tables of all parts, at the CPU's scale, and what is made of them."""
    here = Path(__file__).parent
    text = (here / "normalization.md.template").read_text()
    for name in PARTS:
        table = RESULTS / f"normalization-{name}-cpu.md"
        text = text.replace(f"{{{name}}}", table.read_text().strip() if table.exists() else "Not measured yet.")
    (here.parent / "docs" / "normalization.md").write_text(text)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}, page; default all")
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--runs", type=Path, default=Path("runs/normalization"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    start(options.threads)
    bench = Bench(options.shared, options.runs, SCALES[options.scale], options.device, options.dtype)
    for name in options.parts or [*PARTS, "page"]:
        if name == "page":
            page()
            continue
        results, head, rows = PARTS[name](bench)
        found = {"machine": machine(find_device(options.device)), "scale": vars(bench.scale), "results": results}
        report(f"normalization-{name}-{options.scale}", found, head, rows)


if __name__ == "__main__":
    main()
