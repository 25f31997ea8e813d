"""Killed at any moment and started again, a run ends with the bytes of one that was never interrupted."""

import json
import os
import re
import shutil
import signal
import sys
import time

import pytest

import warm

SHIFTS = "clean,contrast,gaussian_noise,brightness"
CONDITIONS = 16
MODEL = """
import time, torch
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3072, 10)

    def forward(self, images):
        time.sleep(0.02)
        return self.linear(images.flatten(1))

def build():
    return Slow()
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Return the words of a measurement that takes about half a second a pass, for a given directory."""
    model = tmp_path_factory.mktemp("model") / "slow.py"
    model.write_text(MODEL)

    def command(out, *more):
        words = ["measure", "--model", f"py:{model}:build", "--data", "digits", "--device", "cpu"]
        return [*words, "--limit", "80", "--batch-size", "8", "--shifts", SHIFTS, "--out", str(out), *more]

    return command


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """A run that nobody interrupts."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = warm.run(*command(out))
    assert done.returncode == 0, done.stderr
    return out


def lines(path):
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def kill_after(words, path, rows):
    """Start a run and kill it, as soon as its directory holds so many rows; 0 stands for its record alone."""
    process = warm.start(*words)
    end = time.monotonic() + 120
    while not (path / "record.json").exists() or len(lines(path / "rows.jsonl")) < rows:
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    assert warm.end(process).returncode == -9


def assert_equal_to(whole, out):
    strips = [f"examples/{path.name}" for path in (whole / "examples").iterdir()]
    for name in ("rows.jsonl", "summary.json", "record.json", *strips):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def assert_timed_once(out, lost=0):
    """Every row was computed once; a kill may lose the timing of the row before it."""
    keys = [tuple(json.loads(line)[key] for key in ("shift", "severity")) for line in lines(out / "timings.jsonl")]
    assert len(keys) == len(set(keys))
    assert CONDITIONS - lost <= len(keys) <= CONDITIONS


def part_of(whole, out, rows, torn=b""):
    """Make a directory as a run leaves it that was killed after `rows` rows, in the middle of writing another."""
    shutil.copytree(whole, out)
    (out / "summary.json").unlink()
    for name in ("rows.jsonl", "timings.jsonl"):
        (out / name).write_bytes(b"".join(lines(whole / name)[:rows]))
    with (out / "rows.jsonl").open("ab") as file:
        file.write(torn)


@pytest.mark.parametrize("rows", [1, *(pytest.param(rows, marks=pytest.mark.slow) for rows in (0, 5, CONDITIONS - 1))])
def test_killed_and_started_again(command, whole, tmp_path, rows):
    out = tmp_path / "run"
    kill_after(command(out), out, rows)
    assert not (out / "summary.json").exists()
    kept = [line for line in lines(out / "rows.jsonl") if line.endswith(b"\n")]
    assert rows <= len(kept) < CONDITIONS
    done = warm.run(*command(out))
    assert done.returncode == 0, done.stderr
    assert re.search(rf"\b{CONDITIONS - len(kept)} pass(es)? over 80 images", done.stderr)
    assert lines(out / "rows.jsonl")[: len(kept)] == kept
    assert_equal_to(whole, out)
    assert_timed_once(out, lost=1)


@pytest.mark.slow
def test_killed_again_and_again(command, whole, tmp_path):
    out = tmp_path / "run"
    for rows in (1, 4, 6, 11):
        kill_after(command(out), out, rows)
    assert warm.run(*command(out)).returncode == 0
    assert_equal_to(whole, out)
    assert_timed_once(out, lost=4)


@pytest.mark.slow
def test_killed_while_it_starts(command, whole, tmp_path):
    out = tmp_path / "run"
    for seconds in (0.02, 0.1, 0.2, 0.3):
        process = warm.start(*command(out))
        time.sleep(seconds)
        process.kill()
        warm.end(process)
    assert warm.run(*command(out)).returncode == 0
    assert_equal_to(whole, out)


@pytest.mark.parametrize("torn", [100, *(pytest.param(length, marks=pytest.mark.slow) for length in (1, -1))])
def test_a_torn_last_line_is_made_again(command, whole, tmp_path, torn):
    out = tmp_path / "run"
    part_of(whole, out, 14, lines(whole / "rows.jsonl")[14][:torn])
    done = warm.run(*command(out))
    assert done.returncode == 0, done.stderr
    assert "2 passes over" in done.stderr
    assert_equal_to(whole, out)
    assert_timed_once(out)


@pytest.mark.slow
def test_the_summary_alone_is_made_without_a_pass(command, whole, tmp_path):
    out = tmp_path / "run"
    part_of(whole, out, CONDITIONS)
    done = warm.run(*command(out))
    assert done.returncode == 0, done.stderr
    assert "over 80 images" not in done.stderr
    assert_equal_to(whole, out)


@pytest.mark.slow
def test_batch_size_and_workers_may_change(command, whole, tmp_path):
    """Nothing but the last digits of a sum may depend on them."""
    out = tmp_path / "run"
    part_of(whole, out, 3)
    done = warm.run(*command(out, "--batch-size", "27", "--workers", "1"))
    assert done.returncode == 0, done.stderr
    assert lines(out / "rows.jsonl")[:3] == lines(whole / "rows.jsonl")[:3]
    for a, b in zip(lines(whole / "rows.jsonl"), lines(out / "rows.jsonl"), strict=True):
        first, second = json.loads(a), json.loads(b)
        assert second.pop("cross_entropy_sum") == pytest.approx(first.pop("cross_entropy_sum"), rel=1e-5)
        assert first.pop("calibration")["counts"] == second.pop("calibration")["counts"]
        assert first == second


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_another_seed_is_another_run(command, whole, tmp_path):
    out = tmp_path / "run"
    part_of(whole, out, 3)
    before = contents(out)
    done = warm.run(*command(out, "--seed", "1"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"statshift: error: {out} holds another run (")
    assert "in the directory" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(out) == before


@pytest.mark.slow
def test_two_at_once_are_one_too_many(command, whole, tmp_path):
    out = tmp_path / "run"
    first = warm.start(*command(out))
    while not (out / "rows.jsonl").exists():
        assert first.is_alive()
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)  # it cannot be done before the second begins
    second = warm.run(*command(out))
    os.kill(first.pid, signal.SIGCONT)
    assert second.returncode == 2
    assert f"Another process is writing to {out}" in second.stderr
    assert warm.end(first).returncode == 0
    assert_equal_to(whole, out)
    assert_timed_once(out)
