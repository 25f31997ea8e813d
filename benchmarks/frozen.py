"""Adapt once to n images, then frozen: by the number of images, and to images that mislead.

STATSHIFT_FROST=SHARED/data/frost python benchmarks/frozen.py SHARED [PART ...] [--runs runs/frozen]

SHARED holds `data/`. Parts: `resnet20` and `mobilenet` (by number of images, 5 draws, 5 corruptions at severity 3, the
images adapted on held out), `sets` (the ResNet-20 adapted to copies, few scenes, mixtures and single classes, severity
5). Runs are resumed; each writes `benchmarks/results/frozen-PART`, and `docs/frozen.md` is put together from them.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reporting import machine, report, start, write_page
from statshift import AdaptationOptions, compare, corrupt, measure
from statshift._core.copying import copied
from statshift._core.randomness import keys, uniform
from statshift.adapting.choosing import find
from statshift.adapting.protocol import Session
from statshift.data import ImageData
from statshift.measuring.streams.film import film
from subjects import FIVE, Subject, accepted, cell, subjects

CPU = torch.device("cpu")
COUNTS = (1, 2, 4, 8, 16, 32, 64)
METHODS = ("auto", "replace", "prior:16", "realistic@{n}", "views@{n}", "tent@{n}")
DRAWS = 5
IMAGES = {"resnet20": 250, "mobilenet": 150}


def by_count(name: str, subject: Subject, runs: Path, methods: Sequence[str]) -> None:
    """Measure some methods by the number of images; the table has all that have been."""
    model, data = subject.network(), subject.images().subset(np.arange(IMAGES[name]))
    for method in methods:
        for n in COUNTS:
            label, out = method.format(n=n), _folder(runs, name, method, n)
            if not (out / "record.json").exists():
                refused = accepted(model, data, [label], AdaptationOptions(n))[1]
                if refused:
                    print(f"{name}, {label}: {refused[label]}")
                    continue
            measure(
                model,
                data,
                shifts=["clean", *FIVE],
                severities=[3],
                rectify=[label],
                adaptation=AdaptationOptions(n, DRAWS),
                out=out,
                examples=0,
            )
    _tables(name, runs)


def _folder(runs: Path, name: str, method: str, n: int) -> Path:
    return runs / name / method.replace("{n}", "n").replace(":", "-") / str(n)


def _tables(name: str, runs: Path) -> None:
    results: dict[str, Any] = {"machine": machine(CPU), "cells": {}}
    tables: dict[str, list[list[str]]] = {"mean": [], "clean": []}
    for method in METHODS:
        rows: dict[str, list[str]] = {part: [f"`{method.format(n='n')}`"] for part in tables}
        for n in COUNTS:
            folder, label = _folder(runs, name, method, n), method.format(n=n)
            if not (folder / "summary.json").exists():
                for row in rows.values():
                    row.append("-")
                continue
            found = compare(folder, folder, protocols=("source", label))
            clean = next(one.accuracy for one in found.conditions if one.shift == "clean")
            assert found.measured_mean is not None
            for part, one in (("mean", found.measured_mean), ("clean", clean)):
                results["cells"][f"{label} {n} {part}"] = [one.second, one.first, one.low, one.high]
                rows[part].append(cell(one))
        for part, row in rows.items():
            if any(one != "-" for one in row[1:]):
                tables[part].append(row)
    head = [f"n = {n}" for n in COUNTS]
    report(f"frozen-{name}", results, ["corrupted", *head], tables["mean"])
    report(f"frozen-{name}-clean", results, ["clean", *head], tables["clean"])


MIXED = "16 clean, 16 under Gaussian noise"
SETS = (
    "32 different",
    "2 equal",
    "1 scene in 32",
    "2 scenes in 32",
    "4 scenes in 32",
    "8 scenes in 32",
    MIXED,
    "16 and 16 pictures of noise",
    "31 and a black one",
    "one class",
)
SHIFTS = ("gaussian_noise", "fog", "jpeg_compression")
EVALUATED = 250


def shown(data: ImageData, shift: str) -> Tensor:
    """Return all images (N,3,H,W) in [0,1], under a shift of severity 5, or clean."""
    images = torch.cat([batch for batch, _ in data.batches(100)]).float() / 255
    return images if shift == "clean" else corrupt(images, shift, 5, indices=torch.from_numpy(data.indices))


def adaptation_set(kind: str, pool: ImageData, shift: str, draw: int) -> Tensor:
    """Return the images of one of `SETS` under a shift; the draw is of one class the class, else its number."""
    assert pool.labels is not None
    order = np.random.default_rng(draw).permutation(len(pool))[:32]
    if kind == "one class":
        order = np.flatnonzero(pool.labels == draw)[:32]
    if kind.endswith("in 32"):
        scenes = int(kind.split(maxsplit=1)[0])
        return shown(film(pool.subset(np.sort(order[:scenes])), 32 // scenes, draw), shift)
    if kind == "2 equal":
        return shown(pool.subset(order[:1]), shift).repeat(2, 1, 1, 1)
    first, second = pool.subset(np.sort(order[:16])), pool.subset(np.sort(order[16:]))
    if kind == MIXED:
        return torch.cat([shown(first, "clean"), shown(second, "gaussian_noise")])
    images = shown(first, shift)
    if kind == "16 and 16 pictures of noise":
        return torch.cat([images, uniform(keys(draw, torch.arange(16), "picture"), *pool.shape)])
    images = torch.cat([images, shown(second, shift)])
    if kind == "31 and a black one":
        images[-1] = 0
    return images


def adapted(model: nn.Module, name: str, images: Tensor) -> nn.Module:
    """Return the model that a protocol leaves after these images."""
    options = AdaptationOptions(len(images))
    session = Session(name, copied(model), options, lambda: images, lambda: images[:1], lambda: [images])
    return find(name).exported(session)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: NDArray[np.int64]) -> float:
    """Return the share of images that are right."""
    predicted = torch.cat([model(part).argmax(1) for part in torch.split(images, 100)])
    return float((predicted.numpy() == labels).mean())


def misleading_sets(name: str, subject: Subject, runs: Path, methods: Sequence[str]) -> None:
    """Accuracy less the source's, after sets that do not show what the shift is."""
    model, data = subject.network().eval(), subject.images()
    assert data.labels is not None
    pool, scored = data.subset(np.arange(EVALUATED, len(data))), data.subset(np.arange(EVALUATED))
    labels = data.labels[:EVALUATED]
    shifted = {shift: shown(scored, shift) for shift in ("clean", *SHIFTS)}
    source = {shift: accuracy(model, images, labels) for shift, images in shifted.items()}
    results: dict[str, Any] = {"machine": machine(CPU), "source": source, "cells": {}}
    rows = []
    for label in METHODS:
        for kind in SETS:
            file = runs / "sets" / f"{label.format(n=32).replace(':', '-')} {kind}.json"
            if label in methods and not file.exists():
                made = _scores(model, label.format(n=32), kind, pool, shifted, labels)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(made) + "\n")
            if not file.exists():
                continue
            found = [(shift, on, score - source[on]) for shift, _, on, score in json.loads(file.read_text())]
            results["cells"][f"{label.format(n=32)} {kind}"] = found
            parts = [
                [gain for shift, on, gain in found if shift == on == "clean"],
                [gain for shift, on, gain in found if on != "clean"],
                [gain for shift, on, gain in found if shift != on],
            ]
            if kind == MIXED:
                parts[2] = []
            rows.append([f"`{label.format(n=32)}`", kind, *(_spread(part) for part in parts)])
    head = ["method", "adapted on", "clean set, clean images", "shifted set, its shift", "shifted set, clean images"]
    report("frozen-sets", results, head, rows)


def _spread(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):+.1f} ({100 * min(values):+.1f})" if values else ""


def _scores(
    model: nn.Module, name: str, kind: str, pool: ImageData, shifted: dict[str, Tensor], labels: NDArray[np.int64]
) -> list[tuple[str, int, str, float]]:
    """Return (shift of the set, draw, shift scored, accuracy) for all sets of a kind."""
    made = []
    for shift in ("clean",) if kind == MIXED else shifted:
        for draw in range(10 if kind == "one class" else DRAWS):
            answering = adapted(model, name, adaptation_set(kind, pool, shift, draw)).eval()
            for on in dict.fromkeys(["clean", "gaussian_noise" if kind == MIXED else shift]):
                made.append((shift, draw, on, accuracy(answering, shifted[on], labels)))
    return made


PARTS: dict[str, Callable[..., None]] = {"resnet20": by_count, "sets": misleading_sets, "mobilenet": by_count}
TABLES = ("resnet20", "resnet20-clean", "sets", "mobilenet", "mobilenet-clean")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--runs", type=Path, default=Path("runs/frozen"))
    parser.add_argument(
        "--methods", default=",".join(METHODS), help="with commas; {n} is the number of images; none: only the tables"
    )
    arguments = parser.parse_args()
    start(None)
    found = subjects(arguments.shared, Path())
    methods = [] if arguments.methods == "none" else arguments.methods.split(",")
    for name in arguments.parts or PARTS:
        subject = "resnet20" if name == "sets" else name
        PARTS[name](subject, found[subject], arguments.runs, methods)
    write_page("frozen", TABLES, "-clean")


if __name__ == "__main__":
    main()
