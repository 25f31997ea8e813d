"""What it costs to write stylised images, beside the bare passes of the same networks; and a contact sheet of some.

python benchmarks/stylised.py --cost [--size 224] [--images 32] [--batch 8] [--device cpu] [--threads 2]
    [--repeats 3]
python benchmarks/stylised.py --sheet FILE.png --model SPEC --decoder FILE --styles DIR --data SPEC [--images 6]

Bare passes are one encoding and one decoding of each batch that lies ready, and one encoding of each style that is
asked for; weights are random. Peak memory is that of a process of its own, above what it held before the first batch.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from reporting import in_turns, machine, peak_memory, report, start
from statshift import ImageData, load_data
from statshift.decoding.adain_files import STAGES_OF_VGG, AdainDecoder, vgg_decoder, vgg_encoder
from statshift.decoding.codec import Codec
from statshift.decoding.opening import open_codec
from statshift.decoding.stages import sequential_stages
from statshift.decoding.styles import Styles, read_styles, stylise
from statshift.making.corrupted import to_bytes
from statshift.making.stylised import write_stylised

STYLES = 4


def codec(device: torch.device) -> Codec:
    """Return pytorch-AdaIN's two networks with random weights."""
    torch.manual_seed(0)
    encoder = vgg_encoder().to(device).eval().requires_grad_(False)
    decoder = AdainDecoder(vgg_decoder()).to(device).eval().requires_grad_(False)
    stages = sequential_stages(encoder, STAGES_OF_VGG)
    return Codec("relu4_1", encoder, decoder, True, None, stages, {"hash": "random"})


def photographs(count: int, size: int) -> ImageData:
    """Return images of noise that is smooth as photographs are, so that PNG takes as long."""
    torch.manual_seed(0)
    coarse = torch.rand(count, 3, size // 8, size // 8)
    images = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp_(0, 1)
    images = images.add_(torch.randn_like(images), alpha=0.02).clamp_(0, 1)
    return load_data(TensorDataset(images.mul(255).byte(), torch.zeros(count, dtype=torch.int64)))


def style_folder(folder: Path, size: int) -> Path:
    """Write the style images."""
    pixels, _ = photographs(STYLES, size).tensors()
    for number, image in enumerate(to_bytes(pixels)):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


@torch.no_grad()
def bare(networks: Codec, batches: list[Tensor], styles: Tensor) -> None:
    """Make the passes alone."""
    for style in styles.split(1):
        networks.encode(style)
    for images in batches:
        networks.decode(networks.encode(images), (images.shape[2], images.shape[3]))


def written(networks: Codec, data: ImageData, folder: Path, batch: int, size: int, device: torch.device) -> None:
    """Write the images, with styles that nothing is known of yet."""
    with tempfile.TemporaryDirectory() as out:
        styles = Styles(load_data(f"folder:{folder}", resize=size, crop=size), networks)
        write_stylised(None, networks, styles, data, out=out, batch_size=batch, device=device)


def prepared(given: argparse.Namespace, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name."""
    device = torch.device(given.device)
    networks, data = codec(device), photographs(given.images, given.size)
    style_folder(folder, given.size)
    pixels = data.tensors()[0].to(device)
    styles = load_data(f"folder:{folder}", resize=given.size, crop=given.size)
    ready = torch.cat([one for one, _ in styles.batches(STYLES)]).to(device).float() / 255
    return {
        "bare passes": partial(bare, networks, list(pixels.split(given.batch)), ready),
        "make stylised": partial(written, networks, data, folder, given.batch, given.size, device),
    }


def peak(name: str, given: argparse.Namespace) -> int:
    """Return the bytes that a process needs for it above what it held before, in a process of its own."""
    own = [sys.executable, __file__, "--peak", name, *(f"--{k}={getattr(given, k)}" for k in PASSED)]
    return int(subprocess.run(own, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak(given: argparse.Namespace) -> None:
    """Print them."""
    with tempfile.TemporaryDirectory() as folder:
        function = prepared(given, Path(folder))[given.peak]
        print(peak_memory(function, torch.device(given.device)))


PASSED = ("size", "images", "batch", "device", "threads")


def cost(given: argparse.Namespace) -> None:
    """Write time and memory beside the bare passes'."""
    start(given.threads)
    device = torch.device(given.device)
    with tempfile.TemporaryDirectory() as folder:
        seconds = in_turns(prepared(given, Path(folder)), device, given.repeats)
    memory = {name: peak(name, given) for name in seconds}
    base = "bare passes"
    rows = [
        [
            name,
            f"{1000 * seconds[name] / given.images:.1f}",
            f"{seconds[name] / seconds[base]:.2f}",
            f"{memory[name] / 2**20:.0f}",
            f"{memory[name] / max(1, memory[base]):.2f}",
        ]
        for name in seconds
    ]
    results = {"machine": machine(device), "seconds": seconds, "peak_bytes": memory} | {
        k: getattr(given, k) for k in PASSED
    }
    head = ["", "ms an image", "over bare", "peak MiB", "over bare"]
    report("stylised", results, head, rows)


def sheet(given: argparse.Namespace) -> None:
    """Write a PNG: originals, reconstructions, half and whole of the way to a style, and the style."""
    device = torch.device(given.device)
    networks = open_codec(given.encoder or given.model, given.decoder, device, given.size)
    styles = read_styles(given.styles, networks, size=given.size, device=device)
    data = load_data(given.data, resize=256, crop=given.size, limit=given.images)
    images = next(data.batches(given.images))[0].to(device).float() / 255
    numbers = torch.arange(len(images)) % len(styles)
    looks = styles.images.groups([np.arange(len(styles))])
    shown = next(iter(looks))[0].to(device).float()[numbers] / 255
    columns = [images, *(stylise(images, styles, numbers, alpha) for alpha in (0.0, 0.5, 1.0)), shown]
    rows = torch.stack(columns, 1)  # (N,5,3,H,W)
    picture = rows.permute(0, 3, 1, 4, 2).reshape(len(images) * rows.shape[3], -1, 3)
    Image.fromarray(picture.mul(255).round().byte().cpu().numpy()).save(given.sheet)
    print(f"Columns: original, alpha 0, 0.5, 1, style. Written to {given.sheet}.")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--sheet")
    for name in ("model", "encoder", "decoder", "styles", "data"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    if given.peak:
        torch.set_num_threads(given.threads)
        print_peak(given)
    elif given.sheet:
        sheet(given)
    elif given.cost:
        cost(given)
    else:
        parser.error("give --cost or --sheet FILE.png")


if __name__ == "__main__":
    main()
