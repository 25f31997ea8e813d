"""Two processes of one thread each against one process of two threads: seconds of a measurement, start-up apart.

python benchmarks/processes.py SHARED [--images 1000] [--rounds 3] [--protocols running]

SHARED holds `data/`. A ResNet-20 under the 15 corruptions at severity 3; with and without a protocol that answers batch
after batch. From a command's seconds those of the same command are taken away once nothing is left to do. The rows must
be the same to the byte.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

LAUNCHES = {
    "1 process, 2 threads": ("2", []),
    "2 processes, 1 thread": ("1", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]),
}


def seconds(threads: str, words: list[str]) -> float:
    """Return how long a command takes."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, *words], check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": threads}
    )
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--protocols", default="running")
    arguments = parser.parse_args()
    data = arguments.shared / "data"
    measure = ["-m", "statshift", "measure", "--model", "cifar:resnet20"]
    measure += ["--weights", str(data / "cifar10_resnet20.th"), "--data", f"npz:{data / 'cifar10_test_1000.npz'}"]
    measure += ["--shifts", "common", "--severities", "3", "--limit", str(arguments.images), "--device", "cpu"]
    for protocols in ("", arguments.protocols):
        best: dict[str, float] = {}
        for _ in range(arguments.rounds):
            rows = set()
            for name, (threads, launch) in LAUNCHES.items():
                with TemporaryDirectory() as folder:
                    words = [*launch, *measure, "--out", folder, *(["--rectify", protocols] if protocols else [])]
                    taken = seconds(threads, words) - seconds(threads, words)
                    rows.add((Path(folder) / "rows.jsonl").read_bytes())
                best[name] = min(taken, best.get(name, taken))
                print(f"{protocols or 'source'}: {name}: {taken:.1f} s", flush=True)
            assert len(rows) == 1
        one, two = best.values()
        print(f"{protocols or 'source'}: two processes take {two / one:.2f} of one's time", flush=True)


if __name__ == "__main__":
    main()
