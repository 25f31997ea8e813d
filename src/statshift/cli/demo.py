"""`statshift demo`."""

from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import torch
import typer

from statshift.cli.output import MeasurementReport, print_out, progress_bar, say, summary_text
from statshift.corruptions.frost import PROCEDURAL
from statshift.data import load_data
from statshift.errors import InputError
from statshift.measurement import measure
from statshift.models import PixelModel, load_model, save_weights
from statshift.shifts import CorruptionOptions
from statshift.training import train

EPOCHS = 15
TEXTURE = CorruptionOptions(frost=PROCEDURAL)  # the same demo with and without the photographs


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the network and its run.")] = Path("statshift-demo"),
) -> None:
    """Train a small network on handwritten digits and measure it under the 15 common corruptions.

    Nothing is downloaded; it runs on the CPU, about a minute on two cores. A second demo in the same folder uses the
    network that the first one trained.

    Example: statshift demo
    """
    weights = out / "resnet20.safetensors"
    if weights.exists():
        say(f"Using the network in {weights}.")
    else:
        _check_writable(out)
        say("Training a ResNet-20 on 1,200 handwritten digits (real ones, from scikit-learn, as 32 px RGB).")
        save_weights(_train().network, weights)
    model = load_model("cifar:resnet20", weights=weights)
    with progress_bar() as bar:
        found = measure(
            model, "digits", out=out / "run", device="cpu", options=TEXTURE, progress=MeasurementReport(bar)
        )
    print_out(summary_text(found.summary))
    print_out(f"\n{_conclusion(found.summary['protocols']['source'])}")
    print_out(
        "Digits show how the tool works and that shift hurts; they are too easy, too small and too few to rank "
        "models or methods, and there is no AlexNet baseline for them, hence no mCE. Frost is a procedural texture."
    )
    print_out(f"The run is in {out / 'run'}: record.json, rows.jsonl, summary.json.")


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"Cannot write to {folder}: {error.strerror}. Choose another folder with --out.") from error


def _train() -> PixelModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = load_model("cifar:resnet20")
    digits = load_data("digits", split="train")
    images, _ = next(digits.batches(len(digits)))
    assert digits.labels is not None
    with progress_bar() as bar:
        task = bar.add_task("training", total=None, unit="steps")
        train(
            model,
            images.float() / 255,
            torch.from_numpy(digits.labels),
            epochs=EPOCHS,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    return model


def _conclusion(source: dict[str, Any]) -> str:
    shifts = source["per_shift"]
    worst = min(shifts, key=lambda name: shifts[name]["accuracy"])
    return (
        f"The network reads {source['clean_accuracy']:.1%} of clean digits, but only {source['mean_accuracy']:.1%} "
        f"of corrupted ones on average, and {shifts[worst]['accuracy']:.1%} under {worst}."
    )
