"""JPEG files of ImageNet's sizes, from the disk to rows: decoding, the cache, two processes, and what 50,000 take.

python benchmarks/scale.py [PART ...] [--images 5000] [--folder runs/scale]

Parts, in this order: `decode` (images a second beside bare loops), `cache` (a first run over the files and a second
one, with the images decoded and the memory that each takes), `processes` (two of one thread beside one of two), `plan`
(what `--dry-run` tells beside the run, and of the whole benchmark). The files are made at the first call; the model is
a MobileNetV3-small with random weights. Writes `benchmarks/results/scale-PART`, and `docs/scale.md` from them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2.functional import center_crop, resize

from reporting import in_turns, machine, report, start, write_page
from statshift import load_data
from statshift.data.preprocessing import preprocess

CPU = torch.device("cpu")
CLASSES = 10
MODEL = "torchvision:mobilenet_v3_small@none"
SHIFTS = "clean,gaussian_noise,defocus_blur,contrast,pixelate"
"""The clean images, and four conditions of severity 3."""
WHOLE = 50_000
DECODED = 256
"""Files that are decoded by each loop in turn."""


def make_images(folder: Path, images: int) -> None:
    """Write JPEG files of pink noise into class folders: most 500 px wide or high, about 110 kB, as ImageNet's are."""
    for number in range(images):
        path = folder / f"class{number % CLASSES}" / f"{number:06d}.JPEG"
        if path.exists():
            continue
        draws = np.random.default_rng(number)
        side = int(draws.choice([500, 500, 500, 500, 500, 500, 640, 1024]))
        size = (round(side * draws.choice([0.75, 0.75, 2 / 3, 1])), side)
        if draws.random() < 0.75:
            size = size[::-1]
        own = torch.Generator().manual_seed(number)
        pixels = torch.full((1, 3, 2, 2), 0.5)
        for octave in range(8):
            coarse = torch.rand(pixels.shape, generator=own) - 0.5
            pixels = F.interpolate(pixels + coarse * 0.75**octave, scale_factor=2, mode="bilinear")
        pixels = F.interpolate(pixels, size, mode="bilinear")
        path.parent.mkdir(parents=True, exist_ok=True)
        array = pixels[0].clamp(0, 1).mul(255).byte().permute(1, 2, 0).numpy()
        partial = path.with_suffix(".part")
        Image.fromarray(array).save(partial, "JPEG", quality=95)
        partial.rename(path)


def decode(folder: Path, work: Path, images: int) -> None:
    """Time the reading of files, decoded, resized to 256 and cropped to 224 px, by one thread; compare the pixels."""
    paths = sorted(folder.rglob("*.JPEG"))[:: max(1, images // DECODED)][:DECODED]
    some = work / "some"
    shutil.rmtree(some, ignore_errors=True)
    for path in paths:
        (some / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, some / path.parent.name)
    data = load_data(f"folder:{some}", cache_bytes=0)
    torch.set_num_threads(1)
    loops: dict[str, Callable[[], list[Tensor]]] = {
        "Pillow": lambda: [by_pillow(path) for path in paths],
        "torchvision, resized by Pillow": lambda: [by_both(path) for path in paths],
        "torchvision": lambda: [by_torchvision(path) for path in paths],
        "statshift": lambda: [one for batch, _ in data.batches(16) for one in batch],
    }
    seconds = in_turns(loops, CPU, 3)
    pixels = {name: torch.stack(loop()).int() for name, loop in loops.items()}
    rows, results = [], {"machine": machine(CPU), "files": len(paths), "seconds": seconds, "differing": {}}
    fastest = min(seconds["Pillow"], seconds["torchvision, resized by Pillow"])
    for name, one in seconds.items():
        apart = (pixels[name] - pixels["Pillow"]).abs()
        results["differing"][name] = [float(apart.ne(0).float().mean()), int(apart.max())]
        differing = f"{apart.ne(0).float().mean():.2%}, by {apart.max()} of 255 at most" if apart.any() else "none"
        rows.append([name, f"{len(paths) / one:.0f}", f"{fastest / one:.2f}", differing])
    head = ["loop", "images a second", "of the fastest with the same pixels", "values that differ from Pillow's"]
    report("scale-decode", results, head, rows)


HOW: dict[str, Any] = {"resize": 256, "crop": 224, "interpolation": "bilinear"}


def by_pillow(path: Path) -> Tensor:
    """Return a file's pixels (3,224,224), read by Pillow alone."""
    with Image.open(path) as image:
        return preprocess(image, **HOW)


def by_both(path: Path) -> Tensor:
    """Return them decoded by torchvision, and resized by Pillow."""
    pixels = decode_jpeg(read_file(str(path)), ImageReadMode.RGB)
    return preprocess(Image.fromarray(pixels.permute(1, 2, 0).numpy()), **HOW)


def by_torchvision(path: Path) -> Tensor:
    """Return them read by torchvision alone."""
    pixels = decode_jpeg(read_file(str(path)), ImageReadMode.RGB)
    return center_crop(resize(pixels, [HOW["resize"]], antialias=True), [HOW["crop"]] * 2)


COUNTING = """
import os, runpy, sys, threading, time
from pathlib import Path
from PIL import ImageFile
place = Path(sys.argv.pop(1))
decodes, load_end = os.open(place, os.O_CREAT | os.O_APPEND | os.O_WRONLY), ImageFile.ImageFile.load_end
def counted(image):
    os.write(decodes, b".")
    load_end(image)
ImageFile.ImageFile.load_end = counted
def watch(most=0):
    while True:
        told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        most = max(most, int(told["RssAnon"].split()[0]))
        place.with_suffix(".part").write_text(str(most))
        place.with_suffix(".part").rename(place.with_suffix(".memory"))
        time.sleep(0.05)
threading.Thread(target=watch, daemon=True).start()
runpy.run_module("statshift", run_name="__main__")
"""
"""Runs the command, adds to a file one byte for each image that is decoded, and tells of its own memory, KiB."""


def run(
    data: Path, out: Path, *options: str, processes: int = 1, threads: int = 1, decodes: Path | None = None
) -> dict[str, Any]:
    """Run `statshift measure` in a process of its own; return profile, wall time and, with `--json`, what it said.

    Args:
        data: folder of images.
        out: of the run, made anew.
        *options: of the command.
        processes: how many share the work.
        threads: of each.
        decodes: file that counts, see `COUNTING`; for one process.
    """
    shutil.rmtree(out, ignore_errors=True)
    begin = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m", "statshift"]
    if processes == 1:
        begin = ["-c", COUNTING, str(decodes)] if decodes else ["-m", "statshift"]
    words = ["--model", MODEL, "--data", f"folder:{data}"]
    words += ["--shifts", SHIFTS, "--severities", "3", "--examples", "0"]
    command = [sys.executable, *begin, "measure", *words, "--out", str(out), *options]
    begun = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = {"wall": time.perf_counter() - begun}
    if (out / "profile.json").exists():
        found |= json.loads((out / "profile.json").read_text())
    return found | (json.loads(said) if "--json" in options else {})


def cache(folder: Path, work: Path, images: int) -> None:
    """Run over a tenth of the files, over all, and again, with a cache on the disk; count what is decoded."""
    place, tenth = work / "cache", work / "tenth"
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(tenth, ignore_errors=True)
    for path in sorted(folder.rglob("*.JPEG"))[::10]:
        (tenth / path.parent.name).mkdir(parents=True, exist_ok=True)
        (tenth / path.parent.name / path.name).symlink_to(path.resolve())
    rows, results = [], {"machine": machine(CPU)}
    for name, source in (("first, a tenth", tenth), ("first", folder), ("second", folder)):
        decodes = work / "decodes"
        decodes.write_bytes(b"")
        found = run(source, work / "cached", "--cache", str(place), "--profile", decodes=decodes)
        decoded = decodes.stat().st_size
        own = int(decodes.with_suffix(".memory").read_text()) * 1024
        results[name] = found | {"decoded": decoded, "own_memory": own}
        parts = (f"{found['parts'].get(part, 0):.1f}" for part in PARTS_TOLD)
        memory = (f"{one / 2**20:.0f}" for one in (own, found["memory"]))
        rows.append([name, str(decoded), f"{found['wall']:.1f}", *parts, *memory])
    head = ["run", "images decoded", "wall, s", *PARTS_TOLD, "peak of own memory, MiB", "with the file's pages"]
    report("scale-cache", results, head, rows)


PARTS_TOLD = ("decode", "corrupt", "adapt", "model", "rest")


def processes(folder: Path, work: Path, images: int) -> None:
    """Run in one process of two threads and in two of one, from the cache; rows must be equal."""
    kinds = {"one process, two threads": (1, 2), "two processes, one thread each": (2, 1)}
    place, walls = str(work / "cache"), {}
    for name, (count, threads) in kinds.items():
        found = run(folder, work / str(count), "--cache", place, processes=count, threads=threads)
        walls[name] = found["wall"]
    one, two = ((work / str(count) / "rows.jsonl").read_bytes() for count in (1, 2))
    if one != two:
        raise RuntimeError("The rows of two processes are not those of one.")
    rows = [[name, f"{wall:.1f}", f"{wall / walls['one process, two threads']:.2f}"] for name, wall in walls.items()]
    results = {"machine": machine(CPU), "images": images, "wall": walls}
    report("scale-processes", results, ["processes", "wall, s", "of one process"], rows)


def plan(folder: Path, work: Path, images: int) -> None:
    """Set what is foretold beside what a run takes, by one process and by two; and foretell 75 conditions of 50,000."""
    place, planned = ("--cache", str(work / "cache")), work / "planned"
    told, made = {}, {}
    for count in (1, 2):
        told[count] = run(folder, planned, *place, "--dry-run", "--json", processes=count)["parts"]
        made[count] = run(folder, planned, *place, "--profile", processes=count)["parts"]
    more = ("--shifts", "clean,common", "--severities", "1,2,3,4,5")
    whole = run(folder, work / "whole", *place, "--dry-run", "--json", *more)["parts"]
    whole = {name: WHOLE / images * one for name, one in whole.items()}
    columns = {
        "one process": made[1],
        "foretold": told[1],
        "two processes": made[2],
        "foretold by two": told[2],
        f"76 passes of {WHOLE:,}, foretold": whole,
        "by eight such processes": {name: one / 8 for name, one in whole.items()},
    }
    rows = [
        [name, *(f"{parts.get(part, 0):.1f}" for part in PARTS_TOLD), f"{sum(parts.values()):.1f}"]
        for name, parts in columns.items()
    ]
    report(
        "scale-plan", {"machine": machine(CPU), "images": images, "parts": columns}, ["", *PARTS_TOLD, "all, s"], rows
    )


PARTS: dict[str, Callable[[Path, Path, int], None]] = {
    "decode": decode,
    "cache": cache,
    "processes": processes,
    "plan": plan,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--folder", type=Path, default=Path("runs/scale"))
    arguments = parser.parse_args()
    start(None)
    folder = arguments.folder / f"jpeg-{arguments.images}"
    make_images(folder, arguments.images)
    names: Iterable[str] = arguments.parts or PARTS
    for name in names:
        PARTS[name](folder, arguments.folder, arguments.images)
    write_page("scale", PARTS, "-")


if __name__ == "__main__":
    main()
