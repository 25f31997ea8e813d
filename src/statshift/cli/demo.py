"""`statshift demo`."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

from statshift._core.errors import InputError
from statshift._core.tables import table
from statshift.cli import options as o
from statshift.cli.output import print_out, say
from statshift.cli.progress import MeasurementReport, TrainingReport, progress_bar
from statshift.cli.tables import summary_text

if TYPE_CHECKING:
    from statshift.hardening.options import HardenOptions
    from statshift.measuring.run import Measurement
    from statshift.models import PixelModel

DEMO_IMAGES = 150  # a quarter of the test images: enough to see what happens
DEMO_TRAINING: dict[str, Any] = {
    "epochs": 10,
    "batch_size": 64,
    "learning_rate": 0.1,
    "schedule": "one-cycle",
    "nesterov": True,
    "weight_decay": 5e-4,
    "augment": "crop",  # a digit's mirror image is none
}


def demo_command(
    out: Annotated[Path, o.out("the networks, their runs and report.html")] = Path("statshift-demo"),
) -> None:
    """Train a small network on handwritten digits, measure it, rectify it, harden it, and write a report of it all.

    Nothing is downloaded; it runs on the CPU, a few minutes on two cores. A second demo in the same folder uses the
    network that the first one trained.

    Example: statshift demo
    """
    from statshift.hardening.harden import harden
    from statshift.models import PixelModel, load_model, save_weights
    from statshift.report import write_report

    weights = out / "resnet20.safetensors"
    if weights.exists():
        say(f"Using the network in {weights}.")
    else:
        _check_writable(out)
        say("Training a ResNet-20 on 1,200 handwritten digits (real ones, from scikit-learn, as 32 px RGB).")
        save_weights(_train().network, weights)
    source = _measure(load_model("cifar:resnet20", weights=weights), out / "run")
    print_out(f"{summary_text(source.summary)}\n\n{_conclusion(source.summary)}\n")
    say("Hardening it with AdvBN.")
    with progress_bar() as bar:
        hardened = harden(
            load_model("cifar:resnet20", weights=weights),
            "digits",
            _hardening(),
            out=out / "hardening",
            device="cpu",
            progress=TrainingReport(bar),
        )
    assert isinstance(hardened.model, PixelModel)
    both = _measure(hardened.model, out / "run-hardened")
    print_out(f"{_four_rows(source, both)}\n")
    print_out(
        "Digits show how the tool works and that shift hurts; they are too easy, too small and too few to rank "
        "models or methods, and there is no AlexNet baseline for them, hence no mCE. Frost is a procedural texture."
    )
    page = write_report([out / "run", out / "run-hardened", out / "hardening"], out / "report.html")
    print_out(f"All of it on one page, to open in a browser: {page}")


def _hardening() -> "HardenOptions":
    from statshift.hardening.methods.advbn import AdvBN
    from statshift.hardening.options import HardenOptions
    from statshift.hardening.training import TrainingOptions
    from statshift.shifts.attacks import FeatureAttack

    training = TrainingOptions(epochs=4, batch_size=64, learning_rate=0.01, augment="crop")
    return HardenOptions(AdvBN(FeatureAttack(3)), "layer1", training)


def _measure(model: "PixelModel", out: Path) -> "Measurement":
    from statshift.data import load_data
    from statshift.measuring.measure import measure
    from statshift.shifts.corruptions.frost import PROCEDURAL
    from statshift.shifts.shift import CorruptionOptions

    with progress_bar() as bar:
        return measure(
            model,
            load_data("digits", limit=DEMO_IMAGES),
            rectify=["auto"],
            out=out,
            device="cpu",
            options=CorruptionOptions(frost=PROCEDURAL),  # the same with and without the photographs
            progress=MeasurementReport(bar),
        )


def _four_rows(source: "Measurement", hardened: "Measurement") -> str:
    """Return the table of both networks, each as it is and rectified."""
    rows = [["accuracy in %", "clean", "mean of the 15 x 5"]]
    for name, found in (("source", source), ("hardened", hardened)):
        protocols: Mapping[str, Any] = found.summary["protocols"]
        for label, one in ((name, protocols["source"]), (f"{name} and rectified", protocols["auto"])):
            rows.append([label, *(f"{100 * one[key]:.1f}" for key in ("clean_accuracy", "mean_accuracy"))])
    return table([rows[0], *sorted(rows[1:], key=lambda row: row[0].count(" "))])


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"Cannot write to {folder}: {error.strerror}. Choose another folder with --out.") from error


def _train() -> "PixelModel":
    import torch

    from statshift.data import load_data
    from statshift.hardening.methods.standard import Standard
    from statshift.hardening.trainer import train
    from statshift.hardening.training import TrainingOptions
    from statshift.models import load_model
    from statshift.splitting.branches import Branches

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = load_model("cifar:resnet20")
    branches = Branches(model, "input", torch.zeros(2, 3, 32, 32), dual=False)
    with progress_bar() as bar:
        digits, options = load_data("digits", split="train"), TrainingOptions(**DEMO_TRAINING)
        train(branches, digits, Standard(), options, progress=TrainingReport(bar))
    return model


def _conclusion(summary: Mapping[str, Any]) -> str:
    source = summary["protocols"]["source"]
    shifts = source["per_shift"]
    worst = min(shifts, key=lambda name: shifts[name]["accuracy"])
    return (
        f"The network reads {source['clean_accuracy']:.1%} of clean digits, but only {source['mean_accuracy']:.1%} "
        f"of corrupted ones on average, and {shifts[worst]['accuracy']:.1%} under {worst}."
    )
