"""`statshift doctor`: what it finds, beside what is there; what is broken, beside a broken installation."""

import importlib.metadata
import json
import os
import platform
import re
import sys
from types import SimpleNamespace

import pytest
import torch

from statshift.cli import doctor
from statshift.shifts.corruptions.frost import FILES

METADATA = """
torch>=2
no-such-package>=1
numpy>=1.0
numpy<1; python_version < "3"
torchattacks-that-nobody-has>=3.5; extra == "attacks"
numpy>=1; extra == "attacks"
statshift[attacks]; extra == "all"
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Caches are where the test says, and empty."""
    for name, place in {"XDG_CACHE_HOME": "cache", "TORCH_HOME": "torch", "HF_HOME": "hf"}.items():
        monkeypatch.setenv(name, str(tmp_path / place))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("STATSHIFT_FROST", raising=False)


@pytest.fixture
def examined(run, monkeypatch):
    """The findings of `doctor --json` under a topic, without timing anything."""

    def examined(topic, code=0):
        if topic != "formats":
            monkeypatch.setattr(doctor, "_formats", lambda: iter(()))
        done = run("doctor", "--json")
        assert (done.code, done.err) == (code, "")
        document = json.loads(done.out)
        assert document["ok"] == (code == 0)
        assert {one["state"] for one in document["findings"]} <= {"ok", "note", "warning", "broken"}
        return [one for one in document["findings"] if one["topic"] == topic]

    return examined


def test_versions_are_those_that_are_installed(examined):
    found = {one["values"]["name"]: one for one in examined("versions")}
    assert found["python"]["values"]["version"] == platform.python_version() == sys.version.split()[0]
    assert found["torch"]["values"]["version"].partition("+")[0] == torch.__version__.partition("+")[0]
    for name in ("statshift", "torchvision", "timm", "numpy"):
        assert found[name]["state"] == "ok"
        assert found[name]["values"]["version"] == importlib.metadata.version(name)


def test_what_is_missing_or_too_old_is_broken_and_the_exit_code_says_so(examined, monkeypatch, run):
    own = METADATA.replace("numpy>=1.0", "numpy>=99").split("\n")[1:-1]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: own)
    found = {one["values"]["name"]: one for one in examined("versions", code=1) if "name" in one["values"]}
    assert list(found) == ["python", "statshift", "torch", "no-such-package", "numpy"]
    assert found["torch"]["state"] == "ok"
    assert found["no-such-package"]["state"] == found["numpy"]["state"] == "broken"
    assert found["no-such-package"]["text"] == "no-such-package is missing: pip install 'no-such-package>=1'"
    assert found["numpy"]["text"].endswith("but >=99 is needed: pip install 'numpy>=99'")
    done = run("doctor")
    assert done.code == 1
    assert "\n  broken   no-such-package is missing" in done.out
    assert re.search(r"\n2 broken(, \d warnings?)?\.\n$", done.out)


def test_extras_say_what_is_missing_and_what_it_adds(examined, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: METADATA.split("\n")[3:-1])
    monkeypatch.setattr(doctor, "_versions", lambda: iter(()))
    extras = SimpleNamespace(get_all=lambda field: ["attacks", "all"])
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: extras)
    attacks, whole = examined("extras")
    assert attacks["state"] == "note"
    assert attacks["values"] == {"name": "attacks", "missing": ["torchattacks-that-nobody-has"]}
    assert attacks["text"].endswith("adds AutoAttack, in measure and attack: pip install 'statshift[attacks]'")
    assert (whole["state"], whole["values"]["missing"]) == ("ok", [])


def test_a_torchvision_of_another_build_is_broken(examined, monkeypatch):
    def nms(*arguments):
        raise RuntimeError("operator torchvision::nms does not exist")

    assert not [one for one in examined("versions") if one["state"] == "broken"]
    monkeypatch.setattr("torchvision.ops.nms", nms)
    *_, last = examined("versions", code=1)
    assert last["state"] == "broken"
    assert "operator torchvision::nms does not exist" in last["text"]
    assert "--force-reinstall torch torchvision" in last["text"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity here")
@pytest.mark.parametrize(("threads", "limit", "state"), [(1, "1", "warning"), (3, "3", "ok"), (1, None, "ok")])
def test_idle_cores_are_told(examined, monkeypatch, threads, limit, state):
    monkeypatch.setattr(os, "sched_getaffinity", lambda own: {0, 1, 2})
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", limit or "")
    first, second = examined("devices")
    assert (first["state"], first["values"]["threads"], first["values"]["cores"]) == (state, threads, 3)
    assert ("OMP_NUM_THREADS=1 leaves cores idle" in first["text"]) == (state == "warning")
    assert second["text"].startswith("no GPU")
    memory = first["values"]["memory"]
    assert f"{memory / 2**30:.1f} GiB" in first["text"]


@pytest.mark.parametrize(
    ("built", "told"), [(None, "this torch is built for the CPU only"), ("13.0", "the driver is older than CUDA 13.0")]
)
def test_a_gpu_that_torch_does_not_use_is_told(examined, monkeypatch, built, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    (found,) = [one for one in examined("devices") if "NVIDIA" in one["text"]]
    assert found["state"] == "warning"
    assert told in found["text"]


def test_gpus_are_told_with_their_memory(examined, monkeypatch):
    """Two GPUs as torch would tell of them: 80 GiB, of which the second has 20 left."""
    fakes = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_name": lambda number: f"GPU {number}",
        "get_device_capability": lambda number: (9, number),
        "mem_get_info": lambda number: ((80 - 60 * number) * 2**30, 80 * 2**30),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    _, first, second = examined("devices")
    assert first["text"] == "cuda:0: GPU 0, 80.0 GiB, 80.0 GiB free, capability 9.0, CUDA 13.0"
    assert second["text"] == "cuda:1: GPU 1, 80.0 GiB, 20.0 GiB free, capability 9.1, CUDA 13.0"
    assert second["state"] == "ok"
    assert (second["values"]["memory"], second["values"]["free"]) == (80 * 2**30, 20 * 2**30)


def test_the_compiler_is_the_one_that_is_named(examined, monkeypatch, tmp_path):
    tool = tmp_path / "c++-of-mine"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("CXX", str(tool))
    (found,) = examined("compiler")
    assert found["values"]["compiler"] == str(tool)
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    (found,) = examined("compiler")
    assert (found["state"], found["values"]["compiler"]) == ("note", None)
    assert "it needs a C++ compiler (g++)" in found["text"]


def test_data_are_found_where_they_are(examined, monkeypatch, tmp_path):
    before = {one["values"]["name"]: one for one in examined("data")}
    assert {name: one["state"] for name, one in before.items()} == {
        "frost": "warning",
        "cifar10": "note",
        "cifar100": "note",
        "svhn": "note",
        "torchvision's weights": "note",
        "timm's weights": "note",
    }
    assert "statshift data frost" in before["frost"]["text"]
    frost = tmp_path / "cache" / "statshift" / "frost"
    frost.mkdir(parents=True)
    for name in FILES:
        (frost / name).touch()
    (tmp_path / "cache" / "statshift" / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "torch" / "hub" / "checkpoints" / "resnet.pth").touch()
    for name in ("one", "two"):
        (tmp_path / "hf" / "hub" / f"models--timm--{name}").mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    after = {one["values"]["name"]: one for one in examined("data")}
    assert {name for name, one in after.items() if one["state"] != "ok"} == {"cifar100", "svhn"}
    assert after["frost"]["values"]["folder"] == str(frost)
    assert [after[name]["values"]["count"] for name in ("torchvision's weights", "timm's weights")] == [1, 2]
    monkeypatch.setenv("STATSHIFT_FROST", str(tmp_path))
    (frost,) = [one for one in examined("data") if one["values"]["name"] == "frost"]
    assert frost["state"] == "warning"
    assert "lacks frost1.png" in frost["text"]


def test_formats_run_a_convolution_each(examined, monkeypatch):
    forward, seen = torch.nn.Conv2d.forward, []

    def half_is_missing(self, images):
        output = forward(self, images)
        seen.append(output.dtype)
        if output.dtype == torch.float16:
            raise RuntimeError("not implemented for 'Half'\nsecond line")
        return output

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", half_is_missing)
    found = {one["values"]["dtype"]: one for one in examined("formats")}
    assert seen == [torch.float32, torch.bfloat16, torch.float16]
    assert [(one["values"]["works"], one["state"]) for one in found.values()] == [
        (True, "ok"),
        (True, "ok"),
        (False, "note"),
    ]
    assert found["bfloat16"]["text"] == "cpu: bfloat16 works"
    assert found["float16"]["text"] == "cpu: float16 does not work (not implemented for 'Half')"


def test_the_text_puts_states_in_words_under_topics(run, monkeypatch):
    found = [
        doctor.Finding("devices", "ok", "cpu"),
        doctor.Finding("devices", "note", "no GPU"),
        doctor.Finding("data", "warning", "frost"),
    ]
    monkeypatch.setattr(doctor, "findings", lambda: iter(found))
    done = run("doctor")
    assert (done.code, done.err) == (0, "")
    assert done.out == "Devices\n  ok       cpu\n  note     no GPU\n\nData\n  warning  frost\n\n1 warning.\n"
    found.pop()
    assert run("doctor").out.endswith("\n\nNothing is amiss.\n")
