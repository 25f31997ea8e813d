"""The parts of `gpu.py`, each a function that yields rows of its table as it has them.

python benchmarks/gpu_parts.py PART --device auto|cpu|cuda --size tiny|full
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from PIL import Image

import corruptions as corruption_times
import gpu_models
from gpu import MARK
from gpu_sizes import SIZES, Row, Size
from reporting import best, once, start
from statshift import COMMON, CORRUPTIONS, corrupt, load_data
from statshift.hardening.augmentation import sent
from statshift.measuring.loading import find_device

ROOT = Path(__file__).parents[1]


def tests(device: torch.device, size: Size) -> Iterator[Row]:
    if not find_spec("pytest"):
        yield {"skipped": "pytest is not installed"}
        return
    faults = 0
    for path in sorted((ROOT / "tests").glob(size.tests)):
        if "mark.gpu" in path.read_text():
            row = tested(path)
            faults += row["failed"] + row["errors"]
            yield row
    if faults:
        raise SystemExit(f"{faults} tests failed")


def tested(path: Path) -> Row:
    """Run the tests of a GPU in a file, in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ["-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(path)]
        done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, stdout=sys.stderr, check=False)
        if not report.exists():
            fault = f"pytest ended with {done.returncode}"
            return {"file": path.name, "passed": 0, "failed": 0, "errors": 1, "without a GPU": 0, "first fault": fault}
        suite = ElementTree.parse(report).getroot()[0]
    count, failed, errors, skipped = (int(suite.get(kind, 0)) for kind in ("tests", "failures", "errors", "skipped"))
    faults = [part for part in suite.iter() if part.tag in ("failure", "error")]
    return {
        "file": path.name,
        "passed": count - failed - errors - skipped,
        "failed": failed,
        "errors": errors,
        "without a GPU": skipped,
        "first fault": (faults[0].text or faults[0].get("message") or "").strip().splitlines()[-1] if faults else None,
    }


def agreement(device: torch.device, size: Size) -> Iterator[Row]:
    broken = set()
    for name in CORRUPTIONS:
        for side, count in size.compared:
            images = corruption_times.images(side, count)
            levels = torch.stack(
                [
                    255 * (corrupt(images.to(device), name, severity).cpu() - corrupt(images, name, severity)).abs()
                    for severity in range(1, 6)
                ]
            )
            beyond = (levels > 1.001).flatten(1).sum(1)
            promised = bool((beyond <= max(1, images.numel() // 100_000)).all())
            broken |= set() if promised else {name}
            yield {
                "corruption": name,
                "side": side,
                "values": levels.numel(),
                "differ": int((levels > 0.5).sum()),
                "by more than 1/255": int(beyond.sum()),
                "most, levels": round(float(levels.max()), 3),
                "as promised": promised,
            }
    if broken:
        raise SystemExit(f"{', '.join(sorted(broken))} differ by more than 1/255 in more than 1 value in 100,000")


def corruptions(device: torch.device, size: Size) -> Iterator[Row]:
    batches = {side: corruption_times.images(side, count).to(device) for side, count in size.corrupted}
    means = dict.fromkeys(batches, 0.0)
    for name in CORRUPTIONS:
        taken = {side: corruption_times.ours(name, batch, size.repeats) for side, batch in batches.items()}
        means = {side: means[side] + (name in COMMON) * taken[side] / len(COMMON) for side in means}
        yield {"corruption": name, **{f"{side} px, ms": value for side, value in taken.items()}}
    yield {"corruption": "mean of the 15", **{f"{side} px, ms": value for side, value in means.items()}}
    yield {"corruption": "the 15, images/s", **{f"{side} px, ms": 1000 / value for side, value in means.items()}}


def decode(device: torch.device, size: Size) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "class").mkdir()
        for number, image in enumerate(corruption_times.images(500, min(size.files, 16))):
            pixels = (image[:, :375] * 255).byte().permute(1, 2, 0).numpy()
            for copy in range(number, size.files, 16):
                Image.fromarray(pixels).save(Path(folder) / "class" / f"{copy}.jpg", quality=90)
        cores = len(os.sched_getaffinity(0))
        for workers in [0] if size.files < 64 else [n for n in (0, 4, 8, 16) if n <= cores]:
            data = load_data(f"folder:{folder}", resize=256, crop=224, workers=workers, cache_bytes=0)

            def read(data: Any = data) -> None:
                for images, _ in data.batches(32):
                    sent(images, device)

            taken = best(read, device, size.repeats) if workers else once(read, device)
            yield {"workers": workers, "images/s": size.files / taken}


def machine(device: torch.device, size: Size) -> Iterator[Row]:
    row: Row = {"device": str(device), "name": "cpu", "processor": platform.machine(), "python": sys.version.split()[0]}
    row |= {"cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads(), "cuda": torch.version.cuda}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        row |= {"name": properties.name, "capability": f"{properties.major}.{properties.minor}"}
        row |= {"memory, GiB": round(properties.total_memory / 2**30, 1)}
    for package in ("torch", "torchvision", "timm", "numpy", "torchattacks", "pytest"):
        try:
            row[package] = version(package)
        except PackageNotFoundError:
            row[package] = "not installed"
    row["commit"] = "unknown"
    if shutil.which("git"):
        git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        row["commit"] = git.stdout.strip() or "unknown"
    yield row


PARTS: dict[str, Callable[[torch.device, Size], Iterator[Row]]] = {
    "machine": machine,
    "tests": tests,
    "agreement": agreement,
    "corruptions": corruptions,
    "rectify": gpu_models.rectifying,
    "decode": decode,
    "ligs": gpu_models.ligs,
    "training": gpu_models.training,
    "pgd": gpu_models.pgd,
    "measure": gpu_models.run,
    "steps": gpu_models.steps,
    "compiled": gpu_models.compiled_steps,
    "hardened": gpu_models.hardened,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", default="full", choices=SIZES)
    arguments = parser.parse_args()
    start(None)
    torch.manual_seed(0)
    for row in PARTS[arguments.part](find_device(arguments.device), SIZES[arguments.size]):
        print(f"{MARK}{json.dumps(row)}", flush=True)


if __name__ == "__main__":
    main()
