"""`auto` beside other protocols for a dense predictor: every second frame of a drive, 15 corruptions, clean frames.

STATSHIFT_FROST=SHARED/data/frost python benchmarks/segmentation_auto.py SHARED [--split test-day]
    [--samples 32 8] [--shifts clean fog ...] [--draws 1] [--dtype bfloat16] [--threads 1]

SHARED is as for `segmentation.py`; runs are resumed. Severities 1, 3 and 5, constants unscaled, draws of 32 and of 8
frames, all frames scored; results of more than one draw have a name of their own. Under the source are conditions
whose paired bootstrap over frames lies below 0.
"""

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from reporting import machine, report, start
from segmentation import UNSCALED, espnet, frames
from statshift import AdaptationOptions, compare, measure

PROTOCOLS = {32: ["auto", "replace", "prior:16", "prior:64"], 8: ["auto", "replace"]}
HEAD = ["frames", "protocol", "clean", "source", "mean, shifted", "source", "worst condition", "under the source"]


def rows_of(folder: Path, found: Any, samples: int) -> tuple[list[list[str]], dict[str, Any]]:
    """Return the table's rows and the figures of one run."""
    rows, figures = [], {}
    for name in PROTOCOLS[samples]:
        conditions = compare(folder, folder, protocols=("source", name)).conditions
        gains = {f"{one.shift} {one.severity or ''}".strip(): one.accuracy for one in conditions}
        shifted = [gain for condition, gain in gains.items() if condition != "clean"]
        worst = min(gains, key=lambda condition: gains[condition].difference)
        under = [condition for condition, gain in gains.items() if gain.high < 0]
        clean = gains["clean"]
        mean, source = (100 * fmean(getattr(gain, side) for gain in shifted) for side in ("second", "first"))
        rows.append(
            [
                str(samples),
                name,
                f"{100 * clean.second:.1f}",
                f"{100 * clean.first:.1f}",
                f"{mean:.1f}",
                f"{source:.1f}",
                f"{worst} {100 * gains[worst].difference:+.1f}",
                f"{len(under)}",
            ]
        )
        figures[f"{name}@{samples}"] = {
            "mean": mean,
            "source": source,
            "under": under,
            "gains": {condition: 100 * gain.difference for condition, gain in gains.items()},
        }
    return rows, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--split", default="test-day")
    parser.add_argument("--samples", type=int, nargs="*", default=list(PROTOCOLS), choices=list(PROTOCOLS))
    parser.add_argument("--shifts", nargs="*", help="default the clean frames and the 15")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/segmentation-auto"))
    arguments = parser.parse_args()
    start(arguments.threads)
    results: dict[str, Any] = {"machine": machine(torch.device("cpu"))}
    results |= {"split": arguments.split, "dtype": arguments.dtype, "draws": arguments.draws}
    name = arguments.split if arguments.draws == 1 else f"{arguments.split}-draws-{arguments.draws}"
    rows, data = [], frames(arguments.shared, arguments.split)
    for samples in arguments.samples:
        folder = arguments.runs / f"{name}-{samples}"
        found = measure(
            espnet(arguments.shared),
            data.subset(np.arange(0, len(data), 2)),
            shifts=arguments.shifts,
            severities=(1, 3, 5),
            rectify=PROTOCOLS[samples],
            dtype=arguments.dtype,
            adaptation=AdaptationOptions(samples, draws=arguments.draws, include_adaptation=True),
            options=UNSCALED,
            out=folder,
        )
        some, figures = rows_of(folder, found, samples)
        rows += some
        results |= figures
    report(f"segmentation-auto-{name}", results, HEAD, rows)


if __name__ == "__main__":
    main()
