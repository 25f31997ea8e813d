"""Everything that is claimed or aimed at on a GPU, in one command: its tests, and each figure, each part on its own.

python benchmarks/gpu.py [--device auto] [--size auto] [--parts tests,steps] [--seconds 480] [--out DIR] [--name NAME]

Each part is a process with a time limit, so that one that fails, hangs or runs out of memory costs only itself; what it
had measured until then is kept. The time is shared out among the parts that are left. Writes `gpu-NAME.json` and
`gpu-NAME.md` after every part. Nothing is downloaded: weights are random. Exits with 1 unless every part was done.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESERVE = 5  # seconds, for the start and the page
MARK = "benchmark row: "
"""Begins each line in which a part tells a row, or that it skips, as JSON."""

PARTS = {
    "tests": (90, "The tests that need a GPU, by file."),
    "agreement": (
        40,
        "Corruptions, severities 1 to 5: values that differ from the CPU's. At most 1 value in 100,000 may.",
    ),
    "corruptions": (40, "Milliseconds of an image: mean of severities 1 to 5 at 32 px, severity 3 at 224 px."),
    "rectify": (25, "Rectifying beside the forward passes that it contains, and its means beside the CPU's."),
    "decode": (40, "JPEG files of 500 x 375 to batches of 224 px on the device."),
    "ligs": (20, "LIGS beside the passes that it contains."),
    "training": (30, "An epoch of training beside bare steps on batches that lie ready."),
    "pgd": (60, "Attacks beside the passes that they contain, and beside torchattacks."),
    "measure": (90, "A run of the 15 corruptions at five severities beside as many bare forward passes."),
    "steps": (50, "Steps of training, without the optimiser; the plain step is Algorithm 1 as printed, in float32."),
    "compiled": (90, "The same steps with `--compile`."),
    "hardened": (
        240,
        "A network trained on 50,000 JPEG images, then fine-tuned on them, one seed: accuracy in % on 1,000 others.",
    ),
}
"""The parts in their order: the share of the time that each may take, and what its table is."""


def command(part: str, device: str, size: str) -> list[str]:
    """Return the command of a part's process."""
    return [sys.executable, str(HERE / "gpu_parts.py"), part, "--device", device, "--size", size]


def run_part(words: list[str], limit: float) -> dict[str, Any]:
    """Run a part's process for at most `limit` seconds; return its outcome, its seconds and its rows."""
    path = os.pathsep.join(filter(None, [str(HERE.parent / "src"), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        process = subprocess.Popen(words, stdout=out, stderr=err, env=environment, start_new_session=True)
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # also when this process is ended; the group may outlive its leader
            end_group(process)
        seconds = time.monotonic() - begun
        out.seek(0)
        err.seek(0)
        told = [json.loads(line.removeprefix(MARK)) for line in out if line.startswith(MARK) and line.endswith("\n")]
        errors = [line.strip() for line in err if line.strip()]
    rows = [row for row in told if set(row) != {"skipped"}]
    skipped = [row["skipped"] for row in told if set(row) == {"skipped"}]
    if code is None:
        outcome = f"stopped after {limit:.0f} s"
    elif code < 0:
        outcome = f"failed: killed by {signal.Signals(-code).name}"
    elif code:
        outcome = f"failed: {errors[-1][:300] if errors else f'exit status {code}'}"
    else:
        outcome = f"skipped: {skipped[0]}" if skipped else "done"
    return {"outcome": outcome, "seconds": round(seconds, 1), "limit_s": round(limit, 1), "rows": rows}


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table whose columns are what the rows have."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([cell(row.get(column)) for column in columns] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def page(results: dict[str, Any]) -> str:
    """Return all results as Markdown."""
    about = {name: results[name] for name in ("command", "size", "limit_s", "seconds")} | results["machine"]
    lines = ["# On a GPU", "", *table([{"what": name, "value": value} for name, value in about.items()]), ""]
    summary = [
        {"part": name, "outcome": part["outcome"], "seconds": part["seconds"]}
        for name, part in results["parts"].items()
    ]
    lines += [*table(summary), ""]
    for name, part in results["parts"].items():
        lines += [f"## {name}", "", PARTS[name][1], ""]
        lines += [*table(part["rows"]), ""] if part["rows"] else []
        lines += [] if part["outcome"] == "done" else [f"**{part['outcome']}**", ""]
    return "\n".join(lines)


def write(results: dict[str, Any], path: Path) -> None:
    """Write `path`.json and `path`.md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    path.with_suffix(".md").write_text(page(results))


def run(arguments: argparse.Namespace) -> bool:
    """Run all parts, writing the results after each; return whether all were done."""
    begun = time.monotonic()
    known = run_part(command("machine", arguments.device, "tiny"), min(60, arguments.seconds))
    if known["outcome"] != "done":
        print(f"machine: {known['outcome']}")
        return False
    machine = known["rows"][0]
    device = machine["device"].partition(":")[0]
    size = arguments.size if arguments.size != "auto" else "full" if device == "cuda" else "tiny"
    name = arguments.name or re.sub(r"[^a-z0-9]+", "-", machine["name"].lower()).strip("-")
    path = arguments.out / f"gpu-{name}"
    words = " ".join(["python", "benchmarks/gpu.py", *arguments.words])
    results: dict[str, Any] = {"machine": machine, "command": words, "size": size, "limit_s": arguments.seconds}
    results |= {"seconds": 0.0, "parts": {}}
    for number, part in enumerate(arguments.parts):
        left = arguments.seconds - RESERVE - (time.monotonic() - begun)
        weights = [PARTS[later][0] for later in arguments.parts[number:]]
        limit = max(0.0, left) * weights[0] / sum(weights)
        print(f"{part}: at most {limit:.0f} s", flush=True)
        results["parts"][part] = run_part(command(part, device, size), limit)
        results["seconds"] = round(time.monotonic() - begun, 1)
        write(results, path)
        print(f"{part}: {results['parts'][part]['outcome']}, {results['parts'][part]['seconds']} s", flush=True)
    print(f"{results['seconds']} s; written to {path}.json and .md")
    return all(part["outcome"] == "done" for part in results["parts"].values())


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--size", default="auto", choices=["auto", "tiny", "full"], help="auto: full on a GPU")
    usual = ",".join(part for part in PARTS if part != "hardened")
    parser.add_argument("--parts", default=usual, help="default all but `hardened`, which takes minutes and needs data")
    parser.add_argument("--seconds", type=float, default=480, help="that all parts may take together")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--name", help="of the files; default the device's")
    arguments = parser.parse_args(words)
    arguments.parts = arguments.parts.split(",")
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; known are {', '.join(PARTS)}")
    arguments.words = words
    return arguments


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(not run(parse(sys.argv[1:])))
