"""What the command takes to start: `statshift --help` beside `python -c "import torch"`, in turns.

python benchmarks/startup.py [--repeats 7]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from reporting import machine, report

COMMANDS = {
    "statshift --help": ["-m", "statshift", "--help"],
    'python -c "import torch"': ["-c", "import torch"],
}


def seconds(words: list[str]) -> float:
    """Return the time of a Python process of its own, which must succeed, in seconds."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH")]))
    begun = time.perf_counter()
    subprocess.run([sys.executable, *words], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, check=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    turns = [{name: seconds(words) for name, words in COMMANDS.items()} for _ in range(arguments.repeats + 1)]
    medians = {name: statistics.median(turn[name] for turn in turns[1:]) for name in COMMANDS}  # the first warms up
    command, bare = medians.values()
    results = {"machine": machine(torch.device("cpu")), "seconds": medians, "ratio": command / bare}
    rows = [[f"`{name}`", f"{value:.2f}", f"{value / bare:.2f}"] for name, value in medians.items()]
    report("startup", results, ["process", "seconds, median", "ratio"], rows)


if __name__ == "__main__":
    main()
