"""Several processes over one job: alone each function is a no-op; together they give the rows of one."""

import json
import os
import subprocess
import sys

import pytest
import torch

from statshift._core import processes

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(392, 10))

class Failing(nn.Module):
    def forward(self, images):
        if len(images) > 1:
            raise RuntimeError("the model fails")
        return torch.zeros(len(images), 10)

def failing():
    return Failing()

class OneFails(nn.Module):
    def __init__(self):
        super().__init__()
        self.batches = 0

    def forward(self, images):
        import os
        self.batches += len(images) > 1
        if self.batches > 2 and os.environ.get("RANK") == "1":
            raise RuntimeError("one of us fails")
        return torch.zeros(len(images), 10)

def one_fails():
    return OneFails()

BATCHES = 0

class Mortal(nn.Module):  # passes its input on; process 1 is killed at the batch that MORTAL says
    def forward(self, images):
        import os, signal
        global BATCHES
        BATCHES += len(images) > 1
        if os.environ.get("RANK") == "1" and str(BATCHES) == os.environ.get("MORTAL"):
            os.kill(os.getpid(), signal.SIGKILL)
        return images

def mortal():
    return nn.Sequential(Mortal(), build())
"""


def test_alone_there_is_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert processes.join() == (0, 1)
    assert processes.gather({"a": 1}) == [{"a": 1}]
    assert processes.from_first([2]) == [2]
    assert processes.local_rank() == 0
    assert not torch.distributed.is_initialized()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.py"
    path.write_text(MODEL)
    return path


def go(count, *words, threads=None, timeout=240, **variables):
    """Run the command in so many processes, and return how it ended."""
    alone = [sys.executable, "-m", "statshift"]
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    words = [*(alone if count == 1 else [*together, "-m", "statshift"]), *map(str, words)]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    environment |= variables
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=timeout)


def measuring(model, out, *more, build="build"):
    words = ["measure", "--model", f"py:{model}:{build}", "--data", "digits", "--device", "cpu"]
    return [*words, "--shifts", "clean,gaussian_noise,glass_blur", "--severities", "1,5", "--out", out, *more]


@pytest.mark.slow
def test_together_they_give_the_bytes_of_one(model, tmp_path):
    """Of a last batch of one image, on one thread and on several."""
    options = ["--limit", "61", "--batch-size", "10"]
    done = go(2, *measuring(model, tmp_path / "together", *options))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "together" / "record.json").read_text())["environment"]["processes"] == 2
    assert done.stdout.count("clean ") == 1
    assert done.stderr.count("5 passes over") == 1
    assert done.stderr.count("near chance") <= 1
    assert "finished before" not in done.stderr
    for name, threads in (("alone", None), ("alone on one thread", 1)):
        assert go(1, *measuring(model, tmp_path / name, *options), threads=threads).returncode == 0
        record = json.loads((tmp_path / name / "record.json").read_text())
        assert record["environment"]["processes"] == 1
        for file in ("rows.jsonl", "summary.json"):
            assert (tmp_path / "together" / file).read_bytes() == (tmp_path / name / file).read_bytes()
        strips = {path.name: path.read_bytes() for path in (tmp_path / name / "examples").iterdir()}
        assert {path.name: path.read_bytes() for path in (tmp_path / "together" / "examples").iterdir()} == strips
        assert len(strips) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "build", "told"),
    [
        (["--shifts", "fogg"], "build", "Unknown shift 'fogg'"),
        (["--limit", "30"], "failing", "the model fails"),
        (["--limit", "60", "--batch-size", "5"], "one_fails", "one of us fails"),
    ],
    ids=["shift", "model", "one process"],
)
def test_bad_input_ends_all_of_them(model, tmp_path, more, build, told):
    """With an error, and not with a process that waits for the others."""
    done = go(2, *measuring(model, tmp_path / "run", *more, build=build), timeout=90)
    assert done.returncode != 0
    assert told in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run" / "rows.jsonl").exists() or build == "one_fails"


def rows_of(folder):
    return (folder / "rows.jsonl").read_bytes()


PROTOCOLS = ["--rectify", "auto,running,batch,full", "--samples", "8", "--draws", "2", "--limit", "61"]
ALONG = ["--stream", "mixed", "--rectify", "auto,running", "--samples", "8", "--draws", "2", "--limit", "40"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "passes", "count"),
    [
        ([*PROTOCOLS, "--batch-size", "10"], 40, 4),
        ([*ALONG, "--batch-size", "4", "--shifts", "clean,glass_blur"], 15, 2),
    ],
    ids=["protocols", "stream"],
)
def test_protocols_and_streams_are_shared_out_with_the_rows_of_one(model, tmp_path, more, passes, count):
    for number in (1, count):
        done = go(number, *measuring(model, tmp_path / str(number), *more), threads=1)
        assert done.returncode == 0, done.stderr
        assert f"{passes} passes over" in done.stderr
        assert {"ahead", "streams"}.isdisjoint(path.name for path in (tmp_path / str(number)).iterdir())
    for name in ("rows.jsonl", "summary.json", "layers.json"):
        assert (tmp_path / str(count) / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    assert json.loads((tmp_path / str(count) / "record.json").read_text())["environment"]["processes"] == count


@pytest.mark.slow
def test_one_that_is_killed_takes_nothing_with_it(model, tmp_path):
    """Two processes deal out five conditions of 40 batches; one dies in its second, and three end the run."""
    options = [*PROTOCOLS, "--batch-size", "10"]
    words = measuring(model, tmp_path / "killed", *options, build="mortal")
    done = go(2, *words, MORTAL="80", timeout=120)
    assert done.returncode != 0
    kept = rows_of(tmp_path / "killed").count(b"\n") + len([*(tmp_path / "killed").glob("ahead/*.json")])
    assert kept >= 8  # the first condition of the killed one, all whose rows were found
    done = go(3, *words)
    assert done.returncode == 0, done.stderr
    assert f"; {kept} finished before" in done.stderr
    assert go(1, *measuring(model, tmp_path / "whole", *options, build="mortal")).returncode == 0
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    assert (tmp_path / "killed" / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()
    assert not (tmp_path / "killed" / "ahead").exists()


@pytest.mark.slow
def test_tasks_of_srun_are_a_launch(model, tmp_path):
    """Without torchrun: two processes as srun starts them; the death of one ends the other in a line."""
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    step |= {"SLURM_STEP_NODELIST": "localhost", "OMP_NUM_THREADS": "1"}

    def launch(out, **more):
        words = [sys.executable, "-m", "statshift", *map(str, measuring(model, out, *PROTOCOLS, build="mortal"))]
        tasks = [
            subprocess.Popen(
                words,
                env={**os.environ, **step, **more, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        return [(*task.communicate(timeout=240), task.returncode) for task in tasks]

    (_, told, code), (*_, killed) = launch(tmp_path / "run", MORTAL="9")
    assert (code, killed) == (2, -9)
    assert told.splitlines()[-1].startswith("statshift: error: Another process of the launch has ended")
    (out, _, first), (nothing, _, second) = launch(tmp_path / "run")
    assert (first, second, nothing) == (0, 0, "")
    assert "clean " in out
    assert go(1, *measuring(model, tmp_path / "alone", *PROTOCOLS, build="mortal")).returncode == 0
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "alone")
