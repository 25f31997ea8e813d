"""Several processes over one job: alone each function is a no-op; together they give the rows of one."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch

import warm
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


def go(count, *words):
    """Run the command by Python or torchrun in so many processes, on as many threads as they like."""
    alone = [sys.executable, "-m", "statshift"]
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    words = [*(alone if count == 1 else [*together, "-m", "statshift"]), *map(str, words)]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=240)


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
    for name, alone in (("alone", partial(go, 1)), ("alone on one thread", warm.run)):
        assert alone(*measuring(model, tmp_path / name, *options)).returncode == 0
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
    started = warm.start_together(2, *measuring(model, tmp_path / "run", *more, build=build))
    ended = [warm.end(process, timeout=90) for process in started]
    assert all(one.returncode > 0 for one in ended)
    assert told in "".join(one.stderr for one in ended)
    assert [one.stdout for one in ended] == ["", ""]
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
        done = warm.run(*measuring(model, tmp_path / str(number), *more), count=number)
        assert done.returncode == 0, done.stderr
        assert f"{passes} passes over" in done.stderr
        assert {"ahead", "streams"}.isdisjoint(path.name for path in (tmp_path / str(number)).iterdir())
    for name in ("rows.jsonl", "summary.json", "layers.json"):
        assert (tmp_path / str(count) / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    assert json.loads((tmp_path / str(count) / "record.json").read_text())["environment"]["processes"] == count


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    assert warm.run(*measuring(model, out, *PROTOCOLS, "--batch-size", "10", build="mortal")).returncode == 0
    return out


@pytest.mark.slow
def test_one_that_is_killed_takes_nothing_with_it(model, whole, tmp_path):
    """Two processes deal out five conditions of 40 batches; one dies in its second, and three end the run."""
    words = measuring(model, tmp_path / "killed", *PROTOCOLS, "--batch-size", "10", build="mortal")
    first, killed = map(warm.end, warm.start_together(2, *words, MORTAL="80"))
    assert (first.returncode, killed.returncode) == (2, -9)
    kept = rows_of(tmp_path / "killed").count(b"\n") + len([*(tmp_path / "killed").glob("ahead/*.json")])
    assert kept >= 8  # the first condition of the killed one, all whose rows were found
    done = warm.run(*words, count=3)
    assert done.returncode == 0, done.stderr
    assert f"; {kept} finished before" in done.stderr
    assert rows_of(tmp_path / "killed") == rows_of(whole)
    assert (tmp_path / "killed" / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
    assert not (tmp_path / "killed" / "ahead").exists()


@pytest.mark.slow
def test_tasks_of_srun_are_a_launch(model, whole, tmp_path):
    """Without torchrun: two processes as srun starts them; the death of one ends the other in a line."""
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    step |= {"SLURM_STEP_NODELIST": "localhost"}
    words = measuring(model, tmp_path / "run", *PROTOCOLS, "--batch-size", "10", build="mortal")

    def launch(**more):
        ranks = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
        return [warm.end(task) for task in [warm.start(*words, **step, **more, **rank) for rank in ranks]]

    first, killed = launch(MORTAL="9")
    assert (first.returncode, killed.returncode) == (2, -9)
    assert first.stderr.splitlines()[-1].startswith("statshift: error: Another process of the launch has ended")
    first, second = launch()
    assert (first.returncode, second.returncode, second.stdout) == (0, 0, "")
    assert "clean " in first.stdout
    assert rows_of(tmp_path / "run") == rows_of(whole)
