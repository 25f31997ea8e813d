"""`benchmarks/gpu.py`, at its tiny size on the CPU: what it tells, and that a bad part costs only itself."""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def modules():
    """`gpu`, `gpu_parts` and `gpu_sizes`, as their scripts import them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import gpu
        import gpu_parts
        import gpu_sizes

        yield gpu, gpu_parts, gpu_sizes


@pytest.fixture
def gpu(modules):
    return modules[0]


def python(program):
    return [sys.executable, "-c", program]


def row(**values):
    return f"print('benchmark row: ' + {json.dumps(json.dumps(values))})"


def test_a_part_tells_its_rows(gpu):
    program = f"print('by the way'); {row(a=1)}; {row(a=2.5)}"
    found = gpu.run_part(python(program), 30)
    assert (found["outcome"], found["rows"]) == ("done", [{"a": 1}, {"a": 2.5}])


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("raise RuntimeError('CUDA out of memory')", "failed: RuntimeError: CUDA out of memory"),
        ("import os; os.abort()", "failed: killed by SIGABRT"),
        ("raise SystemExit(3)", "failed: exit status 3"),
        (row(skipped="torchattacks is not installed"), "skipped: torchattacks is not installed"),
    ],
)
def test_a_part_that_fails_says_why_and_keeps_its_rows(gpu, program, outcome):
    found = gpu.run_part(python(f"{row(a=1)}\n{program}"), 30)
    assert (found["outcome"], found["rows"]) == (outcome, [{"a": 1}])


def test_a_part_that_hangs_is_ended_with_all_it_started(gpu, tmp_path):
    """Part and grandchild hold a pipe open; its end comes with theirs, and nothing was written in the meantime."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    program = f"""
import os, subprocess, sys, time
pipe = os.open({str(tmp_path / "pipe")!r}, os.O_WRONLY)
late = f"import os, time; time.sleep(20); os.write({{pipe}}, b', lived on')"
subprocess.Popen([sys.executable, "-c", late], pass_fds=[pipe])
os.write(pipe, b"begun")
{row(a=1)}
time.sleep(60)
"""
    found = gpu.run_part(python(program), 2)
    assert (found["outcome"], found["rows"]) == ("stopped after 2 s", [{"a": 1}])
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"begun"


def test_one_bad_part_costs_only_itself(gpu, tmp_path, monkeypatch, capsys):
    programs = {
        "machine": row(device="cpu", name="Chip 7 (TM)"),
        "tests": "import time; time.sleep(60)",
        "agreement": "raise ValueError('no such luck')",
        "pgd": row(what="PGD", seconds=0.25),
    }
    monkeypatch.setattr(gpu, "command", lambda part, device, size: python(programs[part]))
    monkeypatch.setattr(gpu, "RESERVE", 0)
    monkeypatch.setitem(gpu.PARTS, "tests", (2, "Tests."))
    words = ["--parts", "tests,agreement,pgd", "--out", str(tmp_path), "--seconds", "40"]
    assert not gpu.run(gpu.parse(words))
    results = json.loads((tmp_path / "gpu-chip-7-tm.json").read_text())
    parts = results["parts"]
    assert {name: part["outcome"].rpartition(" after")[0] or part["outcome"] for name, part in parts.items()} == {
        "tests": "stopped",
        "agreement": "failed: ValueError: no such luck",
        "pgd": "done",
    }
    assert parts["pgd"]["rows"] == [{"what": "PGD", "seconds": 0.25}]
    assert parts["tests"]["limit_s"] <= 40 * 2 / 102 + 0.05
    assert sum(part["seconds"] for part in parts.values()) <= results["seconds"] + 0.3
    assert results["size"] == "tiny"
    assert results["command"] == " ".join(["python", "benchmarks/gpu.py", *words])
    page = (tmp_path / "gpu-chip-7-tm.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## tests", "## agreement", "## pgd"]
    assert "| PGD | 0.25 |" in page
    assert "**failed: ValueError: no such luck**" in page
    assert "pgd: done" in capsys.readouterr().out


def test_without_a_machine_nothing_is_run(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "command", lambda *_: python("raise OSError('no driver')"))
    assert not gpu.run(gpu.parse(["--out", str(tmp_path / "out")]))
    assert not (tmp_path / "out").exists()


def test_the_process_of_a_part_is_real(gpu):
    found = gpu.run_part(gpu.command("machine", "cpu", "tiny"), 120)
    assert found["outcome"] == "done"
    (about,) = found["rows"]
    assert (about["device"], about["name"], about["torch"]) == ("cpu", "cpu", version("torch"))


def test_every_part_has_a_function(modules):
    gpu, parts, _ = modules
    assert {"machine", *gpu.PARTS} == set(parts.PARTS)


def rows_of(modules, part):
    _, parts, sizes = modules
    return list(parts.PARTS[part](CPU, sizes.SIZES["tiny"]))


@pytest.mark.filterwarnings("ignore:.*frost")
def test_a_device_agrees_with_itself(modules, monkeypatch):
    monkeypatch.setattr(modules[1], "CORRUPTIONS", ("gaussian_noise", "fog"))
    for found in rows_of(modules, "agreement"):
        assert found["values"] == 5 * 2 * 3 * 32 * 32
        assert (found["differ"], found["by more than 1/255"], found["most, levels"]) == (0, 0, 0)
        assert found["as promised"]


def test_disagreement_is_counted_and_fails(modules, monkeypatch):
    """A second device that is 2 levels off in 3 values, and 1 level in 5, of each of five severities."""
    calls = []

    def corrupt(images, name, severity):
        calls.append(severity)
        moved = torch.full_like(images, 0.5)
        if len(calls) % 2:
            moved.view(-1)[:3] += 2 / 255
            moved.view(-1)[3:8] += 1 / 255
        return moved

    monkeypatch.setattr(modules[1], "corrupt", corrupt)
    monkeypatch.setattr(modules[1], "CORRUPTIONS", ("fog",))
    _, parts, sizes = modules
    rows = parts.agreement(CPU, sizes.SIZES["tiny"])
    found = next(rows)
    assert (found["differ"], found["by more than 1/255"], found["most, levels"]) == (40, 15, 2)
    assert not found["as promised"]
    with pytest.raises(SystemExit, match="fog differ"):
        next(rows)


@pytest.mark.filterwarnings("ignore::statshift._core.errors.FewImagesWarning")  # images of noise are alike
def test_rectifying_passes_once_or_twice_and_agrees_with_itself(modules):
    found = rows_of(modules, "rectify")
    assert [(one["protocol"], one["forward passes"]) for one in found] == [("replace", 1), ("auto", 2)]
    assert [one["mean off the CPU's, deviations"] for one in found] == [0, 0]


def test_steps_are_of_each_method_and_type(modules):
    plain, *others = rows_of(modules, "steps")
    assert plain["step"] == "plain AdvBN"
    names = ("standard", "AdvBN", "AdvProp")
    expected = [(name, dtype) for dtype in ("bfloat16", "float32") for name in names]
    expected += [(name, "float32, attack in bfloat16") for name in names[1:]]
    assert [(one["step"], one["dtype"]) for one in others] == expected
    for one in others:
        assert one["of the plain step"] == pytest.approx(one["seconds"] / plain["seconds"])
        assert one["peak GiB"] is None
    assert [one["of standard"] for one in others[:6:3]] == [1, 1]
    assert others[-1]["of standard"] == pytest.approx(others[-1]["seconds"] / others[3]["seconds"])


def test_hardening_is_asked_for_by_name_and_says_what_it_lacks(modules, monkeypatch, tmp_path):
    gpu, parts, _ = modules
    monkeypatch.setattr(parts.gpu_models, "DATA", tmp_path)
    assert set(gpu.PARTS) - set(gpu.parse([]).parts) == {"hardened"}
    assert rows_of(modules, "hardened") == [{"skipped": "there is no runs/gpu/cifar10_jpeg_train.npz"}]


def test_pgd_says_what_it_lacks(modules, monkeypatch):
    import attacks
    import gpu_models

    monkeypatch.setattr(gpu_models, "find_spec", lambda name: None)
    monkeypatch.setattr(attacks, "find_spec", lambda name: None)
    monkeypatch.setattr(gpu_models, "timed", lambda functions, *_: iter([{"what": name} for name in functions]))
    *found, lacking = rows_of(modules, "pgd")
    assert [one["what"] for one in found] == ["20 bare passes", "PGD-20, Linf", "PGD-20, L2", "CW-20, Linf"]
    assert lacking == {"what": "torchattacks", "note": "skipped: torchattacks is not installed"}


def test_every_file_is_decoded(modules, monkeypatch):
    sent = []
    monkeypatch.setattr(modules[1], "sent", lambda images, device: sent.append(images.shape))
    (found,) = rows_of(modules, "decode")
    assert found["workers"] == 0
    assert sent == [(4, 3, 224, 224)]
