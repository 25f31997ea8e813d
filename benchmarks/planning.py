"""What `measure --dry-run` tells, beside what the run then takes, part by part; and the parts' sum beside a stopwatch.

`python benchmarks/planning.py --model cifar:resnet20 --weights resnet20.th --data npz:cifar10.npz --limit 500`

For the wall time the machine has to be idle. With `--cpu` the seconds are those that this thread computes, which other
work on the machine moves less; torch then has one thread.
"""

import argparse
import tempfile
import time
import warnings

import torch

import statshift
from statshift._core.memory import keep_freed_memory
from statshift._core.parts import Moments
from statshift.cli.typed import parse_channels, parse_list, parse_severities
from statshift.measuring import measure, trying


def main() -> None:
    """Print the seconds of plan and run, their ratio, and both by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--mean")
    parser.add_argument("--std")
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--shifts")
    parser.add_argument("--severities", default="3")
    parser.add_argument("--rectify", default="")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cpu", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_freed_memory()
    if given.cpu:
        given.device = "cpu"
        torch.set_num_threads(1)
        for module in (measure, trying):
            module.moments_of = lambda device: Moments(take=time.thread_time)  # type: ignore[attr-defined]
    normalisation = {name: parse_channels(name, getattr(given, name)) for name in ("mean", "std")}
    model = statshift.load_model(given.model, weights=given.weights, **normalisation)

    def measured(folder: str, *, dry_run: bool) -> statshift.Measurement:
        return statshift.measure(
            model,
            given.data,
            shifts=parse_list(given.shifts) if given.shifts else None,
            severities=parse_severities(given.severities),
            rectify=parse_list(given.rectify),
            out=f"{folder}/run",
            device=given.device,
            data_options={"limit": given.limit},
            dry_run=dry_run,
        )

    with tempfile.TemporaryDirectory() as folder:
        told = measured(folder, dry_run=True).forecast
        begun = time.perf_counter()
        made = measured(folder, dry_run=False).profile
        watched = time.perf_counter() - begun
    assert told
    assert made
    print(f"plan {told.seconds:.1f} s, run {made.seconds:.1f} s: ratio {told.seconds / made.seconds:.3f}")
    print(f"the profile adds up to {made.seconds / watched:.3f} of the {watched:.1f} s that a stopwatch outside shows")
    print(f"trial {told.trial:.1f} s; memory {(told.memory or 0) / 1e6:.0f} MB, run {(made.memory or 0) / 1e6:.0f} MB")
    for name, seconds in told.parts.items():
        print(f"{name:8} {seconds:8.2f} {made.parts[name]:8.2f}")


if __name__ == "__main__":
    main()
