"""The command line without a person before it: JSON, pipes, other encodings, Ctrl-C and SIGTERM."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from statshift import compare, diagnose, find_cuts, load_model, read_run
from statshift.adapting.plots import plot_divergence
from statshift.cli.doctor import Finding
from statshift.cli.output import print_json
from statshift.measuring.compare import Comparison
from statshift.models import save_weights
from statshift.norms.divergence import Divergence
from statshift.results import open_run
from synthetic_runs import benchmark_rows, synthetic_record

USER_FILE = '''
import os, torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 10))

def count(layer, inputs):
    global calls
    calls += 1
    if calls == int(os.environ.get("CALLS", 0)):
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))

calls = 0

def interrupted():
    """A network that sends its process a signal as it is run for the CALLS-th time."""
    network = build()
    network[0].register_forward_pre_hook(count)
    return network
'''

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:No frost photographs"),
    pytest.mark.filterwarnings("ignore:Clean accuracy"),
]

SMALL = ["--model", "cifar:resnet20", "--device", "cpu"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with twenty images, a model and its weights."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    np.savez("good.npz", images=images, labels=np.arange(20) % 10)
    Path("mine.py").write_text(USER_FILE)
    return tmp_path


@pytest.fixture
def scripted(run):
    """Run a command with --json and return its document; nothing else is on standard output."""

    def scripted(*words):
        done = run(*words, "--json")
        assert done.code == 0, done.err

        def refuse(name):
            raise AssertionError(f"{name} is no JSON")

        return json.loads(done.out, parse_constant=refuse), done.err

    return scripted


# JSON


def test_measure_gives_the_summary(scripted, here):
    words = ["measure", *SMALL, "--data", "npz:good.npz", "--shifts", "clean,contrast", "--rectify", "replace"]
    found, said = scripted(*words, "--samples", 8, "--out", "run")
    assert found == json.loads(Path("run/summary.json").read_text())
    assert 0 <= found["protocols"]["source"]["clean_accuracy"] <= 1
    assert "passes over 20 images" in said
    assert "Written" not in said


TALKS = """
import atexit, os
from mine import build as quiet

def build():
    print("a model is built")
    os.system("echo by another process")
    if "AT_EXIT" in os.environ:
        atexit.register(print, "all is over")
    return quiet()
"""


def test_nothing_but_the_document_is_on_standard_output(run, here):
    """A user's model file prints, starts a process that prints, and prints as the command ends."""
    Path("talks.py").write_text(TALKS)
    words = "measure --model py:talks.py:build --data npz:good.npz --shifts clean --device cpu --out run --json"
    done = shell(f"{PYTHON} {words}", AT_EXIT="1")
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads(Path("run/summary.json").read_text())
    assert {"a model is built", "by another process", "all is over"} <= set(done.err.splitlines())
    again = run(*words.split())  # in one process, where standard output is its own object
    assert json.loads(again.out) == json.loads(done.out)
    assert "a model is built" in again.err
    assert "a model is built" in run(*words.removesuffix(" --json").split()).out


@pytest.mark.parametrize(("words", "count"), [([], 6), (["--examples", 2], 2), (["--examples", 0], None)])
def test_rows_say_what_was_made_of_the_examples(run, here, words, count):
    given = ["--data", "npz:good.npz", "--shifts", "clean", "--out", "run"]
    assert run("measure", *SMALL, *given, *words).code == 0
    (row,) = read_run("run").rows
    assert (len(row["examples"]["predicted"]) if "examples" in row else None) == count


def test_compare_gives_every_condition(scripted, here):
    for name, rows in {"weak": benchmark_rows(0.6, seed=1), "strong": benchmark_rows(0.75, seed=2)}.items():
        with open_run(Path(name), synthetic_record(alexnet="cifar10")) as opened:
            for row in rows:
                opened.append(row)
    document, _ = scripted("compare", "weak", "strong")
    expected = compare("weak", "strong", table="cifar10")
    assert [one["shift"] for one in document["conditions"]] == [one.shift for one in expected.conditions]
    assert document["images"] == 50
    assert document["protocols"] == ["source", "source"]
    for one, other in zip(document["conditions"], expected.conditions, strict=True):
        assert one["accuracy"] == vars(other.accuracy)
        assert one["adjusted_p_value"] == other.adjusted_p_value
    assert document["mce"] == vars(expected.mce)


def test_diagnose_gives_the_layers_and_the_sentence(scripted, here):
    model = load_model("cifar:resnet20")
    save_weights(model.network, "net.safetensors")
    document, _ = scripted(
        "diagnose", *SMALL, "--weights", "net.safetensors", "--data", "npz:good.npz", "--samples", 20
    )
    with np.load("good.npz") as arrays:
        images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).float() / 255
    found = diagnose(load_model("cifar:resnet20", weights="net.safetensors"), images)
    assert document["layers"] == found.layers
    assert document["sentence"] == found.sentence
    assert document["images"] == 20
    np.testing.assert_allclose(document["shift"], found.shift, rtol=1e-5)
    np.testing.assert_allclose(document["ratios"], found.ratios, rtol=1e-5)
    words = ["--data", "npz:good.npz", "--against", "npz:good.npz", "--samples", 20, "--plot", "p.png"]
    document, _ = scripted("diagnose", *SMALL, *words)
    assert document["data"] == ["npz:good.npz", "npz:good.npz"]
    assert document["models"]["model"]["images"] == [20, 20]
    np.testing.assert_allclose(document["models"]["model"]["values"], 0, atol=1e-6)
    values = np.array(document["models"]["model"]["values"])
    plot_divergence({"model": Divergence(document["models"]["model"]["layers"], values, (20, 20))}, "again.png")
    assert Path("p.png").read_bytes() == Path("again.png").read_bytes()


def test_rectify_gives_the_record_in_the_weights(scripted, here):
    document, _ = scripted("rectify", *SMALL, "--data", "npz:good.npz", "--samples", 8, "--out", "out.safetensors")
    with safe_open("out.safetensors", "pt") as file:
        assert document == json.loads(file.metadata()["statshift"])


def test_layers_gives_the_cuts(scripted, here):
    document, _ = scripted("layers", "--model", "cifar:resnet20")
    expected = find_cuts(load_model("cifar:resnet20"), torch.zeros(1, 3, document["side"], document["side"]))
    assert [one["name"] for one in document["cuts"]] == [one.name for one in expected]
    assert [tuple(one["shape"]) for one in document["cuts"]] == [one.shape for one in expected]
    assert [one["rectified"] for one in document["cuts"]] == [one.rectified for one in expected]


@pytest.mark.parametrize(
    "words",
    [
        ["harden", "--model", "cifar:resnet20", "--at", "layer1", "--steps", "1", "--step-size", "1/5"],
        ["train", "--model", "cifar:resnet20"],
    ],
    ids=lambda words: words[0],
)
def test_trainings_give_their_record(scripted, here, words):
    more = ["--data", "npz:good.npz", "--epochs", 1, "--batch-size", 10, "--device", "cpu", "--augment", "none"]
    document, said = scripted(*words, *more, "--out", "out")
    assert document == json.loads(Path("out/record.json").read_text())
    assert len(document["history"]) == 1
    assert "1 epoch, 2 steps." in said


def test_extract_gives_its_record(scripted, here):
    words = ["--data", "npz:good.npz", "--kind", "random", "--steps", 1, "--epsilon", "1/2", "--step-size", "1/10"]
    document, _ = scripted("extract", *SMALL, *words, "--out", "out")
    assert document == json.loads(Path("out/record.json").read_text())
    assert (document["extraction"]["epsilon"], document["extraction"]["step_size"]) == (0.5, 0.1)


def test_corrupt_gives_what_reads_it_back(scripted, here):
    words = ["--data", "npz:good.npz", "--shifts", "contrast"]
    document, _ = scripted("corrupt", *words, "--out", "c")
    assert (document["data"], document["images"], document["sheet"]) == ("cifar-c:c", 20, None)
    assert document["conditions"] == [{"shift": "contrast", "severity": severity} for severity in range(1, 6)]
    document, _ = scripted("corrupt", *words, "--sheet", "s.png")
    assert document == {"out": None, "sheet": "s.png"}


def test_data_gives_the_folder(scripted, shared, here):
    source = (shared / "data" / "frost").resolve().as_uri()
    document, _ = scripted("data", "frost", "--out", "frost", "--source", source)
    assert document["folder"] == "frost"
    assert sorted(document["files"]) == sorted(path.name for path in Path("frost").iterdir())


def test_what_json_does_not_know_is_null_or_text(capsys):
    print_json(
        {
            "nan": float("nan"),
            "array": np.array([1.5, np.inf]),
            "scalar": np.float64(0.25),
            "path": Path("a/ü"),
            "surrogate": "\udcff",
            3: Comparison(1, ("a", "b"), (), None, None),
        }
    )
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {
        "nan": None,
        "array": [1.5, None],
        "scalar": 0.25,
        "path": str(Path("a/ü")),
        "surrogate": "\udcff",
        "3": {"images": 1, "protocols": ["a", "b"], "conditions": [], "measured_over": ""}
        | {"headline": "accuracy", "counts_images": True}
        | dict.fromkeys(("mean_accuracy", "mce", "measured_mean")),
    }


# Pipes and encodings


def shell(command, **environment):
    """Run a line in a shell that finds this Python's `statshift`."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {
        **os.environ,
        "PATH": tools,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **{k: str(v) for k, v in environment.items()},
    }
    done = subprocess.run(["bash", "-c", command], env=own, capture_output=True, text=True, check=False, timeout=120)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


PYTHON = f"{shlex.quote(sys.executable)} -W error::ResourceWarning -m statshift"


def test_a_reader_that_goes_is_no_error():
    """The pipe is shut before anything is written, so that every write meets a closed one."""
    done = shell(f"({PYTHON} measure --help; echo $? >&2) | true")
    assert (done.out, done.err) == ("", "1\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no such pipes")
@pytest.mark.parametrize("words", [["measure", "--help"], ["doctor", "--json"]], ids=" ".join)
@pytest.mark.parametrize("unbuffered", [False, True])
def test_nor_is_one_that_goes_before_the_end(run, monkeypatch, words, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("statshift.cli.doctor._formats", lambda: iter(()))
    with io.TextIOWrapper(io.FileIO(writer, "w"), encoding="utf-8") as pipe:
        pipe.reconfigure(write_through=unbuffered)
        monkeypatch.setattr(sys, "stdout", pipe)
        done = run(*words)
    assert (done.code, done.err) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", [["--help"], ["doctor", "--json"]], ids=" ".join)
def test_a_full_disk_behind_standard_output_is_told(run, monkeypatch, words):
    monkeypatch.setattr("statshift.cli.doctor._formats", lambda: iter(()))
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        done = run(*words)
    assert done.code == 2
    assert re.fullmatch(r"statshift: error: .*No space left on device\.?\n", done.err)


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("ascii", r"gr\xf6\xdfe \u5927"), ("latin-1", r"größe \u5927"), ("utf-8", "größe 大")],
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_names_of_any_alphabet_are_told_in_any_encoding(run, monkeypatch, here, encoding, told, stream):
    """Also a name that is no text at all."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, stream, io.TextIOWrapper(written, encoding, errors="strict", write_through=True))
    monkeypatch.setattr("statshift.cli.doctor.findings", lambda: iter([Finding("data", "ok", "größe 大 \udcff")]))
    if stream == "stdout":
        assert run("doctor").code == 0
    else:
        assert run("compare", "größe 大 \udcff", "b").code == 2
    assert f"{told} \\udcff" in written.getvalue().decode(encoding)


def test_a_table_in_a_file_has_no_colours_and_one_width(run, here):
    words = "measure --model py:mine.py:build --data npz:good.npz --shifts clean,contrast --severities 3 --out r"
    done = shell(f"{PYTHON} {words} > table.txt", TERM="xterm-256color", COLUMNS="30", LC_ALL="C", FORCE_COLOR="1")
    assert done.code == 0, done.err
    text = Path("table.txt").read_text()
    assert "\x1b" not in text + done.err
    assert "\r" not in text + done.err
    again = run(*shlex.split(words))
    assert again.out == text
    assert text.endswith("\n\nWritten to r. A page of it: statshift report r\n")


# Interrupted


GO_ON = "statshift: interrupted; what is finished is kept. To go on: "


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_a_measurement_goes_on_by_the_command_it_names(run, here):
    out = Path("it's a run; $HOME")
    words = ["measure", "--model", "py:mine.py:interrupted", "--data", "npz:good.npz", "--shifts", "clean,contrast,fog"]
    words += ["--batch-size", "4", "--device", "cpu", "--out"]
    done = shell(f"{PYTHON} {shlex.join([*words, str(out)])}", CALLS="23", SIGNAL=int(signal.SIGINT))
    assert (done.code, done.out) == (130, "")
    assert "Traceback" not in done.err
    last = done.err.splitlines()[-1]
    assert last.startswith(GO_ON)
    kept = (out / "rows.jsonl").read_bytes()
    assert 1 <= kept.count(b"\n") <= 4
    command = last.removeprefix(GO_ON)
    assert shlex.split(command) == ["python", "-m", "statshift", *words, str(out)]
    done = shell(command)
    assert done.code == 0, done.err
    rows = (out / "rows.jsonl").read_bytes()
    assert rows.startswith(kept)
    assert run(*words, "whole").code == 0
    assert rows == Path("whole/rows.jsonl").read_bytes()
    assert len(read_run(out).rows) == 11


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_a_training_goes_on_by_the_command_it_names(run, here):
    words = ["train", "--model", "py:mine.py:interrupted", "--data", "npz:good.npz", "--epochs", "6"]
    words += ["--batch-size", "5", "--device", "cpu", "--augment", "none", "--out"]
    done = shell(f"statshift {shlex.join([*words, 'out'])}", CALLS="14", SIGNAL=int(signal.SIGTERM))
    assert (done.code, done.out) == (130, "")
    last = done.err.splitlines()[-1]
    assert last == f"{GO_ON}{shlex.join(['statshift', *words, 'out'])}"
    done = run(*words, "out")
    assert done.code == 0, done.err
    (before,) = re.findall(r"6 epochs, 24 steps, of which (\d+) were taken before\.", done.err)
    assert 5 <= int(before) <= 9
    assert run(*words, "whole").code == 0
    records = [json.loads(Path(name, "record.json").read_text()) for name in ("out", "whole")]
    assert records[0]["weights_hash"] == records[1]["weights_hash"]


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        (["diagnose", "--model", "cifar:resnet20", "--data", "x"], {}, "statshift: interrupted.\n"),
        (
            ["measure", "--model", "cifar:resnet20", "--data", "x", "--out", "a b"],
            {},
            f"{GO_ON}statshift measure --model cifar:resnet20 --data x --out 'a b'\n",
        ),
        (
            ["measure", "--model", "cifar:resnet20", "--data", "x", "--out", "r"],
            {"WORLD_SIZE": "2"},
            "statshift: interrupted; what is finished is kept, and the same launch goes on from there.\n",
        ),
    ],
)
def test_what_begins_anew_promises_nothing(run, monkeypatch, words, environment, told):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    for place in ("models.load_model", "cli.diagnose.load_model_on"):
        monkeypatch.setattr(f"statshift.{place}", interrupt)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    handler = signal.getsignal(signal.SIGTERM)
    done = run(*words)
    assert (done.code, done.out, done.err) == (130, "", told)
    assert signal.getsignal(signal.SIGTERM) is handler
