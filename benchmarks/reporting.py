"""What every benchmark shares: the shortest of several repeats, and a JSON file beside a table."""

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from statshift._core.memory import keep_freed_memory

RESULTS = Path(__file__).parent / "results"


def start(threads: int | None) -> None:
    """Set up the process as the command line does, and print how busy the machine is."""
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    print(f"load average {os.getloadavg()[0]:.2f} before the start; figures are only good on an idle machine")


def once(function: Callable[[], Any], device: torch.device) -> float:
    """Return the time of one call, in seconds."""
    begun = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def best(function: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Return the shortest time of a call, in seconds, after one call to warm up."""
    return min([once(function, device) for _ in range(repeats + 1)][1:])


def in_turns(functions: Mapping[str, Callable[[], Any]], device: torch.device, repeats: int) -> dict[str, float]:
    """Return the shortest time of each call, in seconds, after one of each to warm up.

    They are called in turns, so that a busy moment does not fall on one of them alone.
    """
    times = [{name: once(function, device) for name, function in functions.items()} for _ in range(repeats + 1)]
    return {name: min(turn[name] for turn in times[1:]) for name in functions}


def peak_memory(function: Callable[[], Any], device: torch.device) -> int:
    """Return the bytes that a call needs above what was held before it: of tensors on a GPU, else of the process.

    On the CPU it is right once in a process, since freed memory may be kept, and needs Linux: `getrusage` would count
    the peak of the process that started this one too.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Return bytes of this process's memory, now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
    }


def report(name: str, results: dict[str, Any], head: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table and write it with the JSON to `benchmarks/results/`."""
    lines = [" | ".join(cells) for cells in (head, ["---"] * len(head), *rows)]
    table = "\n".join(f"| {line} |" for line in lines)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    (RESULTS / f"{name}.md").write_text(table + "\n")
    print(table)
    print(f"load average {os.getloadavg()[0]:.2f} at the end; written to {RESULTS / name}.json and .md")


def write_page(name: str, tables: Iterable[str], second: str) -> None:
    """Put a page of `docs` together from its template and the tables of a benchmark.

    Args:
        name: of the page, and of the benchmark.
        tables: those that the template names in braces.
        second: what the names of tables end with that stand below others; of these, what is missing is not told twice.
    """
    page = (Path(__file__).parent / f"{name}.md.template").read_text()
    for table in tables:
        made, missing = RESULTS / f"{name}-{table}.md", "" if table.endswith(second) else "(not measured yet)"
        page = page.replace(f"{{{table}}}", made.read_text().strip() if made.exists() else missing)
    (Path(__file__).parents[1] / "docs" / f"{name}.md").write_text(page)
