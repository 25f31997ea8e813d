"""A run of each recipe at the scale that SHARED's data and two cores allow, ours beside the published figures.

STATSHIFT_FROST=SHARED/data/frost python benchmarks/recipes.py SHARED [NAME ...] [--runs runs/recipes]

SHARED holds `data/`: a ResNet-20 of CIFAR-10 and a MobileNet of ImageNet, which take the places of the papers'
networks, and 1,000 and 500 test images. What trains does so for one epoch on a few hundred images: that it runs, not
what comes of it. Runs are resumed; the whole writes `benchmarks/results/recipes-cpu`.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reporting import machine, report, start
from statshift import load_model
from statshift.hardening.costs import step_costs
from statshift.models import PixelModel
from statshift.recipes import (
    NOT_PRINTED,
    RECIPES,
    RECTIFIED,
    Network,
    Recipe,
    changed,
    conditions_text,
    in_percent,
    name_of,
    own_figures,
    recipe,
)
from statshift.recipes.running import run_recipe

SMALL = {"epochs": 1, "batch_size": 50}
FEW = 200


@dataclass(frozen=True)
class Scale:
    """At what scale a recipe runs.

    Attributes:
        label: of the recipe's, which the network at hand stands for; with "-" all that begin so, "" is all.
        images: how many are measured on.
        severities: None are the recipe's.
        shifts: likewise.
        photographs: whether the MobileNet is measured on photographs, else the ResNet-20 on CIFAR-10.
    """

    label: str = "resnet20"
    images: int = 500
    severities: tuple[int, ...] | None = None
    shifts: tuple[str, ...] | None = None
    photographs: bool = False


MEASURED: dict[str, Scale] = {
    "rectify-cifar10": Scale(),
    "rectify-by-corruption": Scale("", 1000),
    "parts-cifar10": Scale("resnet20-", FEW),
    "thirds": Scale("resnet20-", severities=(3,)),
    "parts-by-corruption": Scale("", severities=(3,)),
    "samples": Scale(""),
    "rectify-ligs": Scale("resnet18", FEW, (3,)),
    "fgsm": Scale("resnet50-batch", 1000),
    "profile": Scale("batch-standard", severities=(3,)),
    "rectify-imagenet": Scale("resnet50", 100, (3,), photographs=True),
    "parts-imagenet": Scale("resnet50-", 60, (3,), photographs=True),
    "attacks-imagenet": Scale("vgg16_bn", 30, photographs=True),
    "distances": Scale("resnet50", 100, photographs=True),
    "similarities": Scale("resnet50", 100, photographs=True),
    "embedding": Scale("resnet56", 1000),
    "transfer": Scale("vgg16-batch", 10),
    "divergence": Scale("base"),
}
"""What trained networks at hand can stand for; the recipes that are neither here nor in `TRAINED` take others."""

TRAINED: dict[str, str] = {
    "methods": "advbn",
    "position": "layer1.0",
    "strength": "m=2",
    "augmentation": "autoaugment",
    "additive": "additive",
    "gamma": "gamma=0.5",
    "architectures": "advprop",
    "norms": "vgg11-none",
    "norms-svhn": "vgg11-group",
    "norms-imagenet": "resnet18-batch",
    "trend": "layer-adversarial",
    "regulariser": "ligs",
    "perturbations": "batch",
    "features": "batch",
    "conflict": "none",
    "factors": "activation=selu",
    "shortcut": "resnet20-plain",
    "fixup": "resnet20-fixup",
    "landscape": "vgg16-batch",
    "upper-bound": "contrast",
    "norms-corruption": "resnet18-group",
}
"""A label of each recipe that trains."""


@dataclass(frozen=True)
class Bench:
    """Where the data and the runs are."""

    data: Path
    runs: Path
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def cifar(self) -> str:
        """The test images of CIFAR-10."""
        return f"npz:{self.data / 'cifar10_test_1000.npz'}"

    @property
    def photographs(self) -> str:
        """Those of ImageNet."""
        return f"npz:{self.data / 'imagenet_sample_500.npz'}"

    def resnet20(self) -> PixelModel:
        """Return a ResNet-20 of CIFAR-10."""
        return load_model("cifar:resnet20", weights=self.data / "cifar10_resnet20.th")

    def stand_in(self, photographs: bool) -> tuple[Network, dict[str, str]]:
        """Return the network at hand, and its file."""
        if photographs:
            spec = f"py:{self.data / 'mobilenet_v1_025.py'}:mobilenet_v1_025"
            return Network(spec, weights="stand-in"), {"stand-in": str(self.data / "imagenet_mobilenet_v1_025.tar")}
        return Network("cifar:resnet20", weights="stand-in"), {"stand-in": str(self.data / "cifar10_resnet20.th")}


def measured(bench: Bench, name: str, scale: Scale) -> tuple[Recipe, Any, str]:
    """Return a recipe with the network at hand in place of one of its own, what it found, and on what."""
    network, files = bench.stand_in(scale.photographs)
    chosen = recipe(name)
    labels = [
        one
        for one in chosen.labels
        if one == scale.label or (scale.label[-1:] in ("", "-") and one.startswith(scale.label))
    ]
    chosen = replace(changed(chosen, labels), networks=dict.fromkeys(labels, network), files=files)
    more: dict[str, Any] = {}
    if name == "divergence":
        hardened, _ = trained(bench, "methods", TRAINED["methods"])[:2]
        assert hardened
        files |= {"hardened": str(bench.runs / "methods" / TRAINED["methods"] / "clean.safetensors")}
        networks = {"base": network, "advbn": replace(network, weights="hardened")}
        chosen = replace(recipe(name), networks=networks, files=files)
        more["against"] = f"npz:{bench.data / 'cifar10_jpeg_test.npz'}"
    if name == "transfer":
        trained(bench, "shortcut", TRAINED["shortcut"])
        other = Network("cifar:resnet20", {"shortcut": False, "width": 0.25}, "other")
        files |= {"other": str(bench.runs / "shortcut" / TRAINED["shortcut"] / "clean.safetensors")}
        networks = {"vgg16-batch": network, "vgg16-none": other}
        chosen = replace(chosen, networks=networks, files=files, published=recipe(name).published)
    data = bench.photographs if scale.photographs else bench.cifar
    found = run_recipe(
        chosen,
        None,
        data,
        bench.runs / name,
        shifts=scale.shifts,
        severities=scale.severities,
        device="cpu",
        data_options={"limit": scale.images},
        **more,
    )
    stand_in = "the MobileNet" if scale.photographs else "the ResNet-20"
    return chosen, found, f"{stand_in}, {scale.images:,} images"


def trained(bench: Bench, name: str, label: str) -> tuple[Recipe, Any, str]:
    """Return a recipe that trains one label for an epoch, what it found, and on what."""
    photographs = name == "norms-imagenet"
    more = {"at": ["layer1.0"]} if recipe(name).spec else {}
    chosen = recipe(name, labels=[label], **SMALL, **more)
    images = 10 if photographs else FEW
    if photographs:
        chosen = changed(chosen, batch_size=5)
    found = run_recipe(
        chosen,
        bench.resnet20 if recipe(name).spec else None,
        bench.photographs if photographs else f"npz:{bench.data / 'cifar10_train_4000.npz'}",
        bench.runs / name,
        validation=bench.photographs if photographs else bench.cifar,
        severities=(3,),
        device="cpu",
        model_args=None if photographs or recipe(name).spec else {"width": 0.25},
        data_options={"limit": images},
    )
    what = "the ResNet-20 fine-tuned" if recipe(name).spec else "trained from random weights"
    return chosen, found, f"{what}, 1 epoch of {images} images"


def costs(bench: Bench) -> Iterator[list[str]]:
    """Yield the rows of the recipe that times steps."""
    options = recipe("cost", at=["layer1.0"], batch_size=50).options
    found = step_costs(bench.resnet20, f"npz:{bench.data / 'cifar10_train_4000.npz'}", options, device="cpu", repeats=3)
    bench.results["cost"] = found
    for label, one in found.items():
        yield ["cost", label, f"{one['ratio']:.2f} times standard fine-tuning", NOT_PRINTED, "the ResNet-20, 50 images"]


def rows_of(name: str, chosen: Recipe, found: Any, on: str) -> Iterator[list[str]]:
    """Yield a row for each label: ours, theirs, and on what."""
    for label, by_branch in found.items():
        theirs = chosen.published.get(label, {})
        if "analysis" in by_branch:
            ours = by_branch["analysis"]["figures"]
            shares = chosen.analysis.startswith("transfer")
            told = ", ".join(
                f"{name_of(key)} {in_percent(value) if shares else f'{value:.3g}'}" for key, value in ours.items()
            )
            under = ""
        else:
            first = next(iter(by_branch.values()))
            ours = own_figures(by_branch) if chosen.networks else _branches(by_branch)
            told = _figures(ours)
            under = f", {conditions_text(first['conditions'])}"
        printed = NOT_PRINTED if theirs is None else _figures(theirs) if theirs else "-"
        yield [name, label, told, printed, f"{on}{under}"]


def _branches(by_branch: Mapping[str, Any]) -> dict[str, float | None]:
    figures: dict[str, float | None] = {}
    for branch, one in by_branch.items():
        figures |= {f"{branch}: clean": one["clean_accuracy"], f"{branch}: corrupted": one["mean_of_shifts"]}
    return figures


def _figures(figures: Mapping[str, float | None]) -> str:
    """Return "corrupted 68.2 -> 73.0, mCE 106.4 -> 90.7"."""
    parts = []
    for key, value in figures.items():
        if key.endswith(RECTIFIED) and key.removesuffix(RECTIFIED) in figures:
            continue
        after = figures.get(key + RECTIFIED)
        number = (lambda one: f"{one:.3g}") if key.startswith(("LIGS", "smooth")) else in_percent
        parts.append(f"{name_of(key)} {number(value)}{'' if after is None else f' -> {number(after)}'}")
    return ", ".join(parts)


def plan(bench: Bench) -> dict[str, Callable[[], Iterator[list[str]]]]:
    """Return by recipe what yields its rows, those that train first: others build upon them."""

    def rows(make: Callable[..., tuple[Recipe, Any, str]], name: str, how: Any) -> Iterator[list[str]]:
        begun = time.perf_counter()
        chosen, found, on = make(bench, name, how)
        bench.results[name] = {"found": found, "published": dict(chosen.published), "on": on}
        print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
        yield from rows_of(name, chosen, found, on)

    return {
        **{name: partial(rows, trained, name, label) for name, label in TRAINED.items()},
        "cost": partial(costs, bench),
        **{name: partial(rows, measured, name, scale) for name, scale in MEASURED.items()},
    }


def main() -> None:
    """Run the recipes that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all, which alone are written")
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    start(arguments.threads)
    warnings.filterwarnings("ignore", "Clean accuracy is")  # an epoch on a few images
    bench = Bench(arguments.shared / "data", arguments.runs)
    parts = plan(bench)
    rows = [row for name in arguments.names or parts for row in parts[name]()]
    left = [name for name in RECIPES if name not in parts and recipe(name).requires]
    head = ["recipe", "label", "ours, %", "published, %", "ours are of"]
    if arguments.names:
        for row in rows:
            print(" | ".join(row))
        return
    found = {"machine": machine(torch.device("cpu")), "not run": left, "results": bench.results}
    report("recipes-cpu", found, head, rows)


if __name__ == "__main__":
    main()
