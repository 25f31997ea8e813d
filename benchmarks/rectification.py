"""Rectification of two trained networks: protocols, number of images, parts, thirds, diagnosis, cost, figures.

STATSHIFT_FROST=SHARED/data/frost python benchmarks/rectification.py SHARED [PART ...] [--runs runs/rectification]
    [--only auto,replace]

SHARED holds `data/` (images, weights). Runs are resumed; with `--only` a run has those protocols alone (`auto`; of one
run `resnet20-8 auto`), and the table keeps the rows of the others. Each part writes
`benchmarks/results/rectification-PART`, and `docs/rectification.md` is put together from them.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from scipy.stats import spearmanr

from reporting import RESULTS, best, machine, report, start
from statshift import COMMON, compare, corrupt, load_data, load_model, measure, rectified
from statshift.adapting.diagnose import diagnose
from statshift.adapting.drawing import adaptation_positions, draw_images
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.plots import plot_distances, plot_embeddings, plot_samples, plot_shifts, plot_similarities
from statshift.adapting.protocols.auto import Auto
from statshift.measuring.analyses import (
    by_part,
    by_samples,
    by_third,
    cosine_similarities,
    embed,
    extract_features,
    measure_variants,
    statistic_distances,
)
from statshift.norms.statistics import ChannelStatistics, Observed, mix

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
CPU = torch.device("cpu")
PRIORS = [f"prior:{count}" for count in (8, 16, 32, 64, 128)]
Subject = tuple[Any, str]


def subjects(shared: Path) -> dict[str, Subject]:
    """Return the models and the specs of their data."""
    data = shared / "data"
    spec = f"py:{data / 'mobilenet_v1_025.py'}:mobilenet_v1_025"
    return {
        "resnet20": (
            load_model("cifar:resnet20", weights=data / "cifar10_resnet20.th"),
            f"npz:{data / 'cifar10_test_1000.npz'}",
        ),
        "mobilenet": (
            load_model(spec, weights=data / "imagenet_mobilenet_v1_025.tar"),
            f"npz:{data / 'imagenet_sample_500.npz'}",
        ),
    }


def protocols(found: dict[str, Subject], runs: Path, only: Sequence[str] = ()) -> None:
    """Every protocol beside the source, over 5 draws."""
    path = RESULTS / "rectification-protocols.json"
    earlier: dict[str, Any] = json.loads(path.read_text()) if only and path.exists() else {}
    results = {"machine": machine(CPU)}
    wanted = [
        ("resnet20", "", ["auto", "replace", "prior:16", "prior:64"], AdaptationOptions(32, 5)),
        ("mobilenet", "", ["auto", "replace", *PRIORS], AdaptationOptions(32, 5)),
        ("resnet20", "-8", ["auto", "prior:16", "prior:64"], AdaptationOptions(8, 5)),
        ("resnet20", "-1", ["auto"], AdaptationOptions(1, 2)),
        ("resnet20", "-all", ["replace"], AdaptationOptions(32, 5, True)),
        ("resnet20", "-stream", ["batch", "running", "full"], AdaptationOptions(32, 1)),
        ("mobilenet", "-all", ["replace"], AdaptationOptions(32, 5, True)),
    ]
    for name, suffix, every, options in wanted:
        run_name = f"{name}{suffix}"
        names = [protocol for protocol in every if not only or {protocol, f"{run_name} {protocol}"} & {*only}]
        results |= {key: earlier[key] for key in (f"{run_name} {one}" for one in every) if key in earlier}
        if not names:
            continue
        model, data = found[name]
        run = measure(model, data, rectify=names, adaptation=options, out=runs / run_name)
        for protocol in names:
            one = run.summary["protocols"][protocol]
            source = one["paired_source"]
            tests = compare(runs / run_name, runs / run_name, protocols=("source", protocol))
            worst = min(tests.conditions, key=lambda condition: condition.accuracy.difference)
            under = [c for c in tests.conditions if c.adjusted_p_value < 0.05 and c.accuracy.difference < 0]
            low, high = one["gain"]["interval"]
            row = [
                name,
                str(options.samples),
                "others" if run.record["protocols"][protocol]["evaluated_on"] == "the other images" else "all",
                protocol,
                f"{100 * one['clean_accuracy']:.1f}",
                f"{100 * source['clean_accuracy']:.1f}",
                f"{100 * one['mean_accuracy']:.1f}",
                f"{100 * source['mean_accuracy']:.1f}",
                f"{100 * (one['mean_accuracy_deviation'] or 0):.2f}",
                f"{100 * one['gain']['mean_accuracy']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
                f"{worst.shift} {worst.severity or ''} {100 * worst.accuracy.difference:+.1f}",
                str(len(under)),
            ]
            results[f"{run_name} {protocol}"] = {
                "row": row,
                "clean": one["clean_accuracy"],
                "mean": one["mean_accuracy"],
                "source_mean": source["mean_accuracy"],
                "by_draw": one["mean_accuracy_by_draw"],
                "gain": one["gain"],
                "worst": [worst.shift, worst.severity, worst.accuracy.difference],
                "significantly_under": [[c.shift, c.severity] for c in under],
                "per_shift": {shift: values["accuracy"] for shift, values in one["per_shift"].items()},
            }
    rows = [one["row"] for key, one in results.items() if key != "machine"]
    head = ["model", "n", "evaluated on", "protocol", "clean", "source", "mean of 75", "source", "deviation of draws"]
    report("rectification-protocols", results, [*head, "gain, 95 %", "worst condition", "significantly under"], rows)


def samples(found: dict[str, Subject], runs: Path) -> None:
    """Accuracy by the number of images, severity 3."""
    model, data = found["resnet20"]
    names = ["auto", "replace", "prior:16"]
    accuracies: dict[str, dict[str, float]] = {name: {} for name in ("source", *names)}
    cleans: dict[str, dict[str, float]] = {name: {} for name in names}
    variants = by_samples(draws=2)
    runs_by = measure_variants(model, data, variants, rectify=names, out=runs / "samples", severities=[3])
    for count, run in runs_by.items():
        for name, by_count in accuracies.items():
            shifts = run.summary["protocols"][name]["per_shift"]
            by_count[count] = fmean(shifts[shift]["accuracy"] for shift in COMMON)
        for name in names:
            cleans[name][count] = run.summary["protocols"][name]["clean_accuracy"]
    source = accuracies.pop("source")["32"]
    plot_samples(accuracies, source, FIGURES / "samples.png")
    rows = [
        [n, *(f"{100 * accuracies[name][n]:.1f} / {100 * cleans[name][n]:.1f}" for name in names)] for n in variants
    ]
    results = {"machine": machine(CPU), "source": source, "accuracies": accuracies, "cleans": cleans}
    report("rectification-samples", results, ["n", *(f"{name}, mean / clean" for name in names)], rows)


def parts(found: dict[str, Subject], runs: Path) -> None:
    """Mean or variance alone, and thirds of the layers."""
    published = {"both": "73.0", "mean": "69.3", "var": "79.3", "front": "71.7", "middle": "71.5", "end": "67.2"}
    options = AdaptationOptions(32, 1, include_adaptation=True)
    variants = by_part(options) | {name: one for name, one in by_third(options).items() if name != "all"}
    rows, results = [], {"machine": machine(CPU)}
    per_shift: dict[str, dict[str, float]] = {}
    for name, (model, data) in found.items():
        measured = measure_variants(model, data, variants, out=runs / f"parts-{name}", **LIGHT.get(name, {}))
        for variant, run in measured.items():
            one = run.summary["protocols"]["replace"]
            shifts = {shift: values["accuracy"] for shift, values in one["per_shift"].items()}
            source = run.summary["protocols"]["source"]["per_shift"]
            results[f"{name} {variant}"] = shifts
            if name == "resnet20":
                per_shift[variant] = shifts
                per_shift["source"] = {shift: values["accuracy"] for shift, values in source.items()}
            rows.append(
                [
                    name,
                    variant,
                    f"{100 * fmean(shifts.values()):.1f}",
                    f"{100 * fmean(values['accuracy'] for values in source.values()):.1f}",
                    published[variant] if name == "resnet20" else "",
                ]
            )
    plot_shifts({name: per_shift[name] for name in ("source", *by_part())}, FIGURES / "parts.png")
    report(
        "rectification-parts",
        results,
        ["model", "rewritten", "replace, n = 32", "source", "published (68.2 before)"],
        rows,
    )


LIGHT = {"mobilenet": {"severities": [3]}}


PARTS_OF_AUTO = ("noise", "persisting", "certain", "half")


def without(part: str) -> Callable[..., ChannelStatistics]:
    """Return `auto` as a protocol of one's own, without one of `PARTS_OF_AUTO`."""

    def rule(
        stored: ChannelStatistics,
        observed: Observed,
        images: int,
        *,
        eps: float,
        persisting: torch.Tensor,
        certain: torch.Tensor,
        agreeing: torch.Tensor,
    ) -> ChannelStatistics:
        whole = torch.ones_like(persisting)
        given = {
            "noise": (persisting, certain),
            "persisting": (whole, certain),
            "certain": (persisting, torch.zeros_like(certain)),
            "half": (persisting, persisting),
        }[part]
        written = Auto().target(
            stored, observed, images, eps=eps, persisting=given[0], certain=given[1], agreeing=agreeing
        )
        return written if part != "noise" else mix(stored, observed, 1 - float(sum(given)) / 2)

    return rule


def ablation(found: dict[str, Subject], runs: Path) -> None:
    """What each part of `auto` is worth, severity 3."""
    own = {f"auto without {part}": without(part) for part in PARTS_OF_AUTO}
    rows, results = [], {"machine": machine(CPU)}
    for name, count in (("resnet20", 8), ("resnet20", 32), ("resnet20", 256), ("mobilenet", 32)):
        model, data = found[name]
        options = AdaptationOptions(count, 1)
        run = measure(
            model, data, rectify=["auto", own], adaptation=options, severities=[3], out=runs / f"parts-{name}-{count}"
        )
        for protocol in ("auto", *own):
            one = run.summary["protocols"][protocol]
            before = one["paired_source"]
            gains = {
                shift: one["per_shift"][shift]["accuracy"] - before["per_shift"][shift]["accuracy"] for shift in COMMON
            }
            gains["clean"] = one["clean_accuracy"] - before["clean_accuracy"]
            least = min(gains, key=lambda shift: gains[shift])
            mean = fmean(one["per_shift"][shift]["accuracy"] for shift in COMMON)
            rows.append(
                [
                    name,
                    str(count),
                    protocol,
                    f"{100 * mean:.1f}",
                    f"{100 * one['clean_accuracy']:.1f}",
                    f"{100 * gains[least]:+.1f} {least}",
                ]
            )
            results[f"{name} {count} {protocol}"] = {"mean": mean, "clean": one["clean_accuracy"], "gains": gains}
    report("rectification-ablation", results, ["model", "n", "", "mean", "clean", "least gain on the source"], rows)


def diagnosis(found: dict[str, Subject], runs: Path) -> None:
    """How well the number of `diagnose` predicts the gain of `auto` and of `replace`, condition by condition."""
    rows, results = [], {"machine": machine(CPU)}
    for name, (model, data) in found.items():
        loaded = load_data(data)
        clean = draw_images(loaded, len(loaded))
        chosen = torch.from_numpy(loaded.indices[_positions(loaded)])
        numbers, persisting = {}, {}
        for shift in ("clean", *COMMON):
            for severity in (0,) if shift == "clean" else range(1, 6):
                images = clean[_positions(loaded)]
                if shift != "clean":
                    images = corrupt(images, shift, severity, indices=chosen)
                readout = diagnose(model, images)
                numbers[shift, severity], persisting[shift, severity] = readout.number, readout.persisting
        for protocol in ("auto", "replace"):
            tests = compare(runs / name, runs / name, protocols=("source", protocol)).conditions
            gains = {(one.shift, one.severity): one.accuracy.difference for one in tests}
            keys = [key for key in numbers if key in gains]
            rank = spearmanr([numbers[key] for key in keys], [gains[key] for key in keys]).statistic
            bins = {
                "below 2": [gains[key] for key in keys if numbers[key] < 2],
                "2 to 4": [gains[key] for key in keys if 2 <= numbers[key] < 4],
                "4 and more": [gains[key] for key in keys if numbers[key] >= 4],
            }
            cells = [
                f"{100 * fmean(values):+.1f} ({100 * min(values):+.1f} to {100 * max(values):+.1f}; {len(values)})"
                if values
                else ""
                for values in bins.values()
            ]
            rows.append([name, protocol, f"{rank:.2f}", *cells])
            results[f"{name} {protocol}"] = {
                "spearman": rank,
                "conditions": [[*key, numbers[key], persisting[key], gains[key]] for key in keys],
            }
    head = ["model", "protocol", "rank correlation", "gain where the number is below 2", "2 to 4", "4 and more"]
    report("rectification-diagnosis", results, head, rows)


def _positions(data: Any) -> Any:
    return adaptation_positions(data.indices, 32, 0, 0)


def cost(found: dict[str, Subject], runs: Path) -> None:
    """Time of adapting to 32 images, and of a rectified forward, in forward passes of these images."""
    rows, results = [], {"machine": machine(CPU)}
    for name, (model, data) in found.items():
        images = draw_images(load_data(data), 32)

        def forward(model: Any = model, images: Any = images) -> None:
            with torch.no_grad():
                model(images)

        def adapt(protocol: str, model: Any = model, images: Any = images) -> None:
            with rectified(model, images, protocol):
                pass

        times: dict[str, float] = {}
        for _ in range(5):  # in turns, so that a busy moment does not fall on one side alone
            for label, function in {
                "forward": forward,
                "replace": lambda: adapt("replace"),
                "prior": lambda: adapt("prior"),
                "auto": lambda: adapt("auto"),
            }.items():
                times[label] = min(times.get(label, 1e9), best(function, CPU, 20))
            with rectified(model, images, "auto"):
                times["after"] = min(times.get("after", 1e9), best(forward, CPU, 20))
        ratios = {label: times[label] / times["forward"] for label in ("replace", "prior", "auto", "after")}
        results[name] = {"forward_seconds": times["forward"], "ratios": ratios}
        rows.append([name, f"{1000 * times['forward']:.1f}", *(f"{value:.2f}" for value in ratios.values())])
    head = ["model", "forward of 32 images, ms", "replace", "prior", "auto", "a rectified forward"]
    report("rectification-cost", results, head, rows)


def figures(found: dict[str, Subject], runs: Path) -> None:
    """Figures 2, 3 and 6 of Benz et al., under Gaussian noise."""
    model, data = found["resnet20"]
    loaded = load_data(data)
    clean, indices = draw_images(loaded, len(loaded)), torch.from_numpy(loaded.indices)
    noisy = {severity: corrupt(clean, "gaussian_noise", severity, indices=indices) for severity in range(1, 6)}
    chosen = _positions(loaded)
    distances = {
        layer: statistic_distances(model, clean, noisy[3], layer) for layer in ("layer1.0.bn1", "layer3.0.bn1")
    }
    similarities = {
        protocol: [cosine_similarities(model, clean, images, images[chosen], protocol) for images in noisy.values()]
        for protocol in ("replace", "auto")
    }
    before = extract_features(model, noisy[3])
    with rectified(model, noisy[3][chosen], "auto"):
        after = extract_features(model, noisy[3])
    plot_distances(distances["layer3.0.bn1"], FIGURES / "distances.png")
    plot_similarities(similarities["auto"], FIGURES / "similarities.png")
    plot_embeddings({"source": embed(before), "rectified": embed(after)}, loaded.labels, FIGURES / "embedding.png")
    rows = [
        [f"distance of statistics, {layer}: {pair}", f"{means:.3f}", f"{variances:.3f}"]
        for layer, found_ in distances.items()
        for pair, (means, variances) in found_.items()
    ]
    rows += [
        [f"cosine similarity, severity {severity}, {protocol}", f"{first:.3f}", f"{second:.3f}"]
        for protocol, values in similarities.items()
        for severity, (first, second) in enumerate(values, start=1)
    ]
    results = {"machine": machine(CPU), "distances": distances, "similarities": similarities}
    report("rectification-figures", results, ["", "mean, or before", "variance, or after"], rows)


PARTS = {one.__name__: one for one in (protocols, samples, parts, ablation, diagnosis, cost, figures)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--runs", type=Path, default=Path("runs/rectification"))
    parser.add_argument("--only", default="", help="of the protocols, or of their rows, with commas")
    arguments = parser.parse_args()
    start(None)
    found = subjects(arguments.shared)
    only = [name for name in arguments.only.split(",") if name]
    for name in arguments.parts or PARTS:
        PARTS[name](found, arguments.runs, **({"only": only} if name == "protocols" else {}))
    page = (Path(__file__).parent / "rectification.md.template").read_text()
    for name in PARTS:
        table = RESULTS / f"rectification-{name}.md"
        page = page.replace(f"{{{name}}}", table.read_text().strip() if table.exists() else "(not measured yet)")
    (ROOT / "docs" / "rectification.md").write_text(page)


if __name__ == "__main__":
    main()
