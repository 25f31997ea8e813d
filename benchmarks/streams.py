"""Methods on streams: accuracy of five networks, what each method costs, and memory over a long stream.

STATSHIFT_FROST=SHARED/data/frost python benchmarks/streams.py SHARED [PART ...] [--runs runs/streams]
    [--trained runs/trained] [--methods tent,auto]

SHARED holds `data/`, TRAINED the two networks without batch norm (see docs/streams.md). Severity 5, batches of 64.
Parts: `resnet20`, `group`, `vit` (15 corruptions), `mobilenet`, `lite0` (5 corruptions of 250 photographs; the packages
of benchmarks/lite0.py), `memo` (MEMO and views, which take dozens of passes an image: ResNet-20, 3 corruptions, 100
images), `cost`, and `long` (10,000 batches through `RectifiedStream`). Runs are resumed, and a later call with other
methods adds to them and to the tables; `auto` lies in a directory of its own. Each part writes
`benchmarks/results/streams-PART`, and `docs/streams.md` is put together from them.
"""

import argparse
import gc
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reporting import RESULTS, in_turns, machine, report, resident, start, write_page
from statshift import AdaptationOptions, RectifiedStream, compare, measure
from statshift._core.copying import copied
from statshift._core.errors import InputError
from statshift.adapting.choosing import find
from statshift.adapting.protocol import Session, Step
from statshift.data import ImageData
from statshift.results import RunResult, read_run
from subjects import Subject, accepted, cell, percent, score_and_gain, subjects

CPU = torch.device("cpu")
METHODS = (
    *("batch", "running", "prior:16", "realistic"),
    *("tent", "eta", "eata", "sar", "roid", "rdumb"),
    *("lame", "t3a", "auto"),
)
STREAMS = ("iid", "continual", "mixed", "sorted", "dirichlet:0.1", "video")
STREAMS_OF = dict.fromkeys(("mobilenet", "lite0"), ("iid", "mixed", "sorted", "video"))
SEVERITY, BATCH, LAST_TENTH = 5, 64, (18, 19)
IMAGES = {"continual": 500, "mixed": 500, "sorted": 500, "dirichlet:0.1": 500, "video": 500}
"""Of the small images, where not all 1000 are taken: the first of each class, alike many."""
SMALL = 32


def networks(name: str, subject: Subject, runs: Path, methods: Sequence[str]) -> None:
    """Measure some methods on every stream of a network; the table has all that have been."""
    if methods:
        _measure(name, subject, runs, methods)
    _tables(name, runs)


def _measure(name: str, subject: Subject, runs: Path, methods: Sequence[str]) -> None:
    data, options = subject.images(), AdaptationOptions(BATCH, clean=subject.clean())
    taken, refused = accepted(subject.network(), data, methods, options, stream="iid")
    for label, why in refused.items():
        print(f"{name}, {label}: {why}")
    for stream in STREAMS_OF.get(name, STREAMS):
        images = _some(data, IMAGES[stream]) if stream in IMAGES and data.shape[1] == SMALL else data
        for group in ([one for one in taken if one != "auto"], [one for one in taken if one == "auto"]):
            if group:
                measure(
                    subject.network(),
                    images,
                    shifts=[*subject.corruptions, "clean"],
                    severities=[SEVERITY],
                    rectify=group,
                    adaptation=options,
                    stream=stream,
                    out=_folder(runs, name, stream, group[0]),
                    examples=0,
                )


def _some(data: ImageData, images: int) -> ImageData:
    """Return the first images of each class, alike many."""
    assert data.labels is not None
    classes = np.unique(data.labels)
    first = [np.flatnonzero(data.labels == one)[: images // len(classes)] for one in classes]
    return data.subset(np.sort(np.concatenate(first)))


def _folder(runs: Path, name: str, stream: str, method: str) -> Path:
    return runs / name / (stream.replace(":", "-") + ("-auto" if method == "auto" else ""))


def _read(runs: Path, name: str, stream: str, method: str) -> RunResult | None:
    """Return a finished run that has a method's rows, of every condition."""
    folder = _folder(runs, name, stream, method)
    if not (folder / "summary.json").exists():
        return None
    run = read_run(folder)
    return run if any((row["protocol"], row["shift"]) == (method, "clean") for row in run.rows) else None


def _tables(name: str, runs: Path) -> None:
    """Write two tables: the mean over the corruptions, and the end of the stream with the clean images.

    What has no run here keeps the figures that were written before.
    """
    streams = STREAMS_OF.get(name, STREAMS)
    cells, last_tenth = _earlier(f"streams-{name}", "cells"), _earlier(f"streams-{name}-end", "last_tenth")
    for method, stream in product(METHODS, streams):
        run = _read(runs, name, stream, method)
        if run is None:
            continue
        found = compare(run, run, protocols=("source", method))
        mean = found.measured_mean
        clean = next(one.accuracy for one in found.conditions if one.shift == "clean")
        assert mean is not None
        cells[f"{method} {stream}"] = {
            "mean": [mean.second, mean.first, mean.low, mean.high],
            "clean": [clean.second, clean.first, clean.low, clean.high],
            "images": run.record["data"]["images"],
        }
        last_tenth[f"{method} {stream}"] = [*_last_tenth(run, method)]
    if not cells:
        return
    sources = {key.split()[1]: percent(one["mean"][1]) for key, one in cells.items()}
    means, ends = [["source", *(sources.get(stream, "-") for stream in streams)]], []
    for method in METHODS:
        keys = [f"{method} {stream}" for stream in streams]
        if not any(key in cells for key in keys):
            continue
        gains = {key: cells[key]["mean"][0] - cells[key]["mean"][1] for key in keys if key in cells}
        worst = min(gains, key=lambda key: gains[key])
        texts = {key: score_and_gain(*cells[key]["mean"]) for key in gains}
        texts[worst] = f"**{texts[worst]}**"
        means.append([f"`{method}`", *(texts.get(key, "-") for key in keys)])
        ends.append([f"`{method}`", *(_end(cells[key], last_tenth[key]) if key in cells else "-" for key in keys)])
    report(f"streams-{name}", {"machine": machine(CPU), "cells": cells}, ["method", *streams], means)
    report(f"streams-{name}-end", {"last_tenth": last_tenth}, ["method", *streams], ends)


def _earlier(name: str, part: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text())[part] if path.exists() else {}
    return found


def _end(one: dict[str, Any], last_tenth: Sequence[float]) -> str:
    return f"{100 * (last_tenth[0] - last_tenth[1]):+.1f} / {100 * (one['clean'][0] - one['clean'][1]):+.1f}"


def _last_tenth(run: RunResult, method: str) -> tuple[float, float]:
    """Return the accuracy of the method and of the source in the last tenth of the passages, clean images left out."""
    rows = [row for row in run.rows if row["protocol"] == method and row["shift"] != "clean"]
    several = run.record["stream"].get("order") is not None
    ends = sorted({one[0] for row in rows for one in row["along"]})[-2:] if several else LAST_TENTH
    sums = np.sum([one[1:] for row in rows for one in row["along"] if one[0] in ends], axis=0)
    return float(sums[1] / sums[0]), float(sums[2] / sums[0])


SLOW = ("memo", "views")


def memo(name: str, subject: Subject, runs: Path, methods: Sequence[str]) -> None:
    """Methods that take dozens of passes an image, beside the source."""
    model, data, out = subject.network(), subject.images(), runs / "memo"
    measure(
        model,
        _some(data, 100),
        shifts=["gaussian_noise", "fog", "jpeg_compression", "clean"],
        severities=[SEVERITY],
        rectify=SLOW,
        adaptation=AdaptationOptions(20),
        stream="iid",
        out=out,
        examples=0,
    )
    rows, results = [], {}
    for method in SLOW:
        conditions = compare(out, out, protocols=("source", method)).conditions
        results[method] = {one.shift: [one.accuracy.second, one.accuracy.first] for one in conditions}
        rows.append([f"`{method}`", *(cell(one.accuracy) for one in conditions)])
    source = ["source", *(percent(one.accuracy.first) for one in conditions)]
    head = ["method", *(one.shift for one in conditions)]
    report("streams-memo", {"machine": machine(CPU), "accuracy": results}, head, [source, *rows])


BATCHES = 10_000


def cost(name: str, subject: Subject, runs: Path, methods: Sequence[str]) -> None:
    """Time of a batch in bare forwards, and bytes held beside the source."""
    model, data = subject.network(), subject.images()
    clean = subject.clean().subset(np.arange(BATCH))
    images = next(data.batches(BATCH))[0].float() / 255
    options = AdaptationOptions(BATCH, clean=clean)
    size = sum(one.nbytes for one in model.state_dict().values())
    steps: dict[str, Step] = {}
    held: dict[str, int] = {}
    for label in methods:
        before = _tensor_bytes()
        try:
            step = find(label).streamed(_session(label, model, options, images))
            for _ in range(3):
                step(images)
        except InputError as error:
            print(f"{label}: {error}")
            continue
        steps[label], held[label] = step, _tensor_bytes() - before

    def forward() -> Tensor:
        with torch.no_grad():
            return model(images)  # type: ignore[no-any-return]

    timed: dict[str, Callable[[], Any]] = {"forward": forward}
    timed |= {label: partial(step, images) for label, step in steps.items()}
    times = in_turns(timed, CPU, 7)
    rows = [
        [
            f"`{label}`",
            f"{times[label] / times['forward']:.1f}",
            f"{find(label).forwards:g} + {find(label).backwards:g}",
            f"{held[label] / size:.1f}",
        ]
        for label in steps
    ]
    results: dict[str, Any] = {"machine": machine(CPU), "seconds": times, "held": held, "model_bytes": size}
    report("streams-cost", results, ["method", "bare forwards", "forwards + backwards, as said", "models held"], rows)


def _session(label: str, model: nn.Module, options: AdaptationOptions, images: Tensor) -> Session:
    return Session(label, model, options, lambda: images, lambda: images[:1], list)


def _tensor_bytes() -> int:
    """Return the bytes of all tensors that are alive, of shared memory once."""
    gc.collect()
    found = {}
    for one in gc.get_objects():
        if type(one) in (Tensor, nn.Parameter, nn.Buffer):
            storage = one.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def long_stream(name: str, subject: Subject, runs: Path, methods: Sequence[str]) -> None:
    """Send 10,000 batches of 4 through `RectifiedStream`, and say what it holds on the way."""
    model, images = subject.network(), next(subject.images().batches(BATCH))[0].float() / 255
    stream = RectifiedStream(copied(model), window=32, every=32)
    rows: list[list[str]] = []
    results: dict[str, Any] = {"machine": machine(CPU)}
    for batch in range(BATCHES):
        stream(images[batch % 16 * 4 :][:4])
        if batch + 1 in (100, 1000, BATCHES // 2, BATCHES):
            held = sum(one.nbytes for one in stream.state_dict().values() if isinstance(one, Tensor))
            figures = [_tensor_bytes(), held, resident("VmRSS")]
            results[str(batch + 1)] = figures
            rows.append([str(batch + 1), *(f"{one / 2**20:.2f}" for one in figures)])
    report("streams-long", results, ["batches", "all tensors, MiB", "of its state", "the process"], rows)


PARTS: dict[str, Callable[..., None]] = {
    "resnet20": networks,
    "group": networks,
    "vit": networks,
    "mobilenet": networks,
    "lite0": networks,
    "memo": memo,
    "cost": cost,
    "long": long_stream,
}
TABLES = tuple(f"{name}{end}" for name in PARTS for end in ("", "-end"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--runs", type=Path, default=Path("runs/streams"))
    parser.add_argument("--trained", type=Path, default=Path("runs/trained"))
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas; none: only the tables")
    arguments = parser.parse_args()
    start(None)
    found = subjects(arguments.shared, arguments.trained)
    methods = [] if arguments.methods == "none" else arguments.methods.split(",")
    for name in arguments.parts or (PARTS if methods else found):
        subject = name if name in found else "resnet20"
        PARTS[name](subject, found[subject], arguments.runs, methods)
    write_page("streams", TABLES, "-end")


if __name__ == "__main__":
    main()
