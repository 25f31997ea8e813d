"""The command line: help, tables, and every bad input told in one line that names the value and the remedy."""

import importlib.metadata
import json
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from statshift import InputError, load_data, load_model, read_run
from statshift._core.tables import table
from statshift.cli import demo, typed
from statshift.cli.progress import duration
from statshift.cli.tables import summary_text
from statshift.models import weights_hash
from statshift.results import open_run, summarise
from statshift.shifts.attacks import PixelAttack, parse_attack
from statshift.shifts.corruptions import CORRUPTIONS
from synthetic_runs import benchmark_rows, synthetic_record, synthetic_row

PREFIX = "statshift: error: "
COMMANDS = ["", "demo", "measure", "compare", "corrupt", "data", "data frost", "data clean"]
USER_FILE = """
import time, torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

class Slow(nn.Module):
    def forward(self, images):
        time.sleep(0.05)
        return images.mean(dim=(2, 3)).repeat(1, 4)[:, :10]

def slow():
    return Slow()

def flip(images):
    return images.flip(-1)

def gain(images, severity):
    return images * (1 + severity)

def nothing():
    return None

pi = 3.14
"""

pytestmark = [
    pytest.mark.filterwarnings("ignore:No frost photographs"),
    pytest.mark.filterwarnings("ignore:Clean accuracy"),
]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def refused(run, tmp_path):
    """Run a command that ends with a one-line error, and leaves every file as it was."""

    def refused(*words):
        before = files_of(tmp_path)
        done = run(*words)
        assert_one_line(done)
        assert files_of(tmp_path) == before
        return done.err.removeprefix(PREFIX)

    return refused


def assert_one_line(done):
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith(PREFIX)
    assert done.err.count("\n") == 1
    assert done.err.endswith("\n")


def files_of(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of good and bad data, checkpoints and Python."""
    folder = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (20, 32, 32, 3), np.uint8), np.arange(20) % 10

    def save(name, images=images, labels=labels):
        np.savez(folder / name, images=images, labels=labels)

    floats = images.astype(np.float32) / 255
    save("good.npz")
    save("nan.npz", np.where(np.arange(32)[:, None] == 7, np.float32("nan"), floats))
    save("beyond.npz", floats * 1.5)
    save("below.npz", floats - 1)
    save("bytes_as_floats.npz", floats * 255)
    save("one_channel.npz", images[..., :1])
    save("grey.npz", images[..., 0])
    save("small.npz", images[:, :31])
    save("labels_12.npz", labels=labels + 3)
    save("labels_negative.npz", labels=labels - 1)
    save("labels_float.npz", labels=labels / 1)
    save("labels_short.npz", labels=labels[:5])
    save("none.npz", images[:0], labels[:0])
    np.savez(folder / "unlabelled.npz", images=images)
    np.savez(folder / "other_names.npz", x=images)
    np.savez(folder / "objects.npz", images=np.array([{}, None], dtype=object))
    (folder / "cut.npz").write_bytes((folder / "good.npz").read_bytes()[:3000])
    (folder / "junk.npz").write_bytes(b"junk" * 100)

    for name, broken in (("broken", b""), ("truncated", None)):
        (folder / name / "ant").mkdir(parents=True)
        for number in range(5):
            Image.fromarray(images[number]).resize((48, 48)).save(folder / name / "ant" / f"{number}.jpg")
        victim = folder / name / "ant" / "3.jpg"
        victim.write_bytes(victim.read_bytes()[:900] if broken is None else broken)
    (folder / "empty").mkdir()
    (folder / "classes_of_nothing" / "ant").mkdir(parents=True)
    (folder / "tiny" / "ant").mkdir(parents=True)
    Image.fromarray(images[0, :16]).save(folder / "tiny" / "ant" / "small.png")
    (folder / "flat").mkdir()
    Image.fromarray(images[0]).save(folder / "flat" / "one.png")

    def checkpoint(name, spec="cifar:resnet20", **args):
        torch.save(load_model(spec, model_args=args).network.state_dict(), folder / name)

    checkpoint("good.pt")
    checkpoint("deeper.pt", "cifar:resnet32")
    checkpoint("hundred.pt", num_classes=100)
    torch.save({"state_dict": Malicious(folder / "it ran")}, folder / "code.pt")
    (folder / "code.pth").write_bytes(pickle.dumps(Malicious(folder / "it ran")))
    (folder / "junk.pt").write_bytes(b"xx" * 100)
    (folder / "mine.py").write_text(USER_FILE)
    (folder / "file").write_text("mine")
    return folder


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# Help and version


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command or "statshift")
@pytest.mark.parametrize("width", [80, 110])
def test_help_fits_and_shows_an_example(run, monkeypatch, command, width):
    monkeypatch.setenv("COLUMNS", str(width))
    done = run(*command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert re.match(rf"Usage: .*statshift {command}", done.out)
    assert max(map(len, done.out.splitlines())) <= width
    if command not in ("", "data"):
        example = " ".join(re.search(r"Example: (.*?)\n\n", done.out, re.DOTALL)[1].split())
        assert example.startswith(f"statshift {command}")
        assert set(re.findall(r"--[a-z-]+", example)) <= set(re.findall(r"^ +(--[a-z-]+)", done.out, re.MULTILINE))


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_every_option_is_explained(run, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "110")
    told = run(*command.split(), "-h").out.partition("Options:")[2]
    unexplained = [line for line in told.splitlines() if re.fullmatch(r"\s+--[a-z-]+( <[^>]+>)?", line)]
    assert not unexplained


def test_without_a_command_there_is_help(run):
    assert run() == run("--help")
    assert all(f" {command} " in run().out for command in ("demo", "measure", "compare", "corrupt", "data"))


def test_version(run):
    assert run("--version") == SimpleNamespace(code=0, out=f"{importlib.metadata.version('statshift')}\n", err="")


def test_the_module_is_the_command():
    command = [sys.executable, "-W", "error", "-m", "statshift"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{importlib.metadata.version('statshift')}\n", "")
    done = subprocess.run([*command, "measre"], capture_output=True, text=True, check=False)
    assert_one_line(SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr))
    assert "'measre'" in done.stderr
    assert "'measure'" in done.stderr


# Bad input

MODEL = ["--model", "cifar:resnet20"]
DATA = ["--data", "npz:{inputs}/good.npz"]


def words_of(inputs, words):
    return [word.replace("{inputs}", str(inputs)) for word in words]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--model", "tmm:resnet50"], ["'tmm'", "'timm'"]),
        (["--model", "resnet50"], ["'resnet50'", "timm, torchvision, hf, ibn, cifar, seg, py"]),
        (["--model", ""], ["''", "timm, torchvision, hf, ibn, cifar, seg, py"]),
        (["--model", "timm:resnet5O"], ["'resnet5O'", "'resnet50'"]),
        (["--model", "torchvision:resnet05"], ["'resnet05'", "resnet50"]),
        (["--model", "torchvision:resnet50"], ["torchvision:resnet50@TAG", "IMAGENET1K_V1"]),
        (["--model", "torchvision:resnet50@V1"], ["'V1'", "IMAGENET1K_V1", "none"]),
        (["--model", "cifar:resnet21"], ["'resnet21'", "resnet20, resnet32"]),
        (["--model", r"py:C:\m.py:build"], [r"C:\m.py is not a file"]),
        (["--model", r"py:C:\m.py"], [r"'py:C:\m.py'", "py:FILE_OR_MODULE:FUNCTION"]),
        (["--model", "py:no_such_module:build"], ["'no_such_module'", "py:FILE_OR_MODULE:FUNCTION"]),
        (["--model", "py:{inputs}/mine.py:biuld"], ["'biuld'", "'build'"]),
        (["--model", "py:{inputs}/mine.py:pi"], ["'pi'", "build"]),
        (["--model", "py:{inputs}/mine.py:nothing"], ["nothing", "torch.nn.Module", "None"]),
        ([*MODEL, "--weights", "nowhere.pt"], ["nowhere.pt is not a file"]),
        ([*MODEL, "--weights", "{inputs}/deeper.pt"], ["deeper.pt", "unexpected: layer1.3.conv1.weight", "69 more"]),
        ([*MODEL, "--weights", "{inputs}/hundred.pt"], ["linear.bias (100,) in the file, (10,) in the model"]),
        ([*MODEL, "--weights", "{inputs}/code.pt"], ["Refused", "code.pt", "more than data", "state_dict"]),
        ([*MODEL, "--weights", "{inputs}/code.pth"], ["Refused", "code.pth", "more than data"]),
        ([*MODEL, "--weights", "{inputs}/junk.pt"], ["junk.pt"]),
        ([*MODEL, "--weights", "{inputs}"], ["is not a file"]),
        ([*MODEL, "--mean", "1,2"], ["--mean", "'1,2'", "three"]),
        ([*MODEL, "--std", "0,1,1"], ["--std", "positive"]),
        ([*MODEL, "--std", "nan,1,1"], ["--std", "nan"]),
        ([*MODEL, "--mean", "inf,0,0"], ["--mean", "inf"]),
        ([*MODEL, "--model-args", "width"], ["'width'", "KEY=VALUE"]),
        ([*MODEL, "--model-args", "side=2"], ["'side': 2"]),
    ],
    ids=lambda value: " ".join(value[-2:]) if value[0].startswith("--") else "",
)
def test_bad_models(refused, inputs, tmp_path, words, named):
    told = refused("measure", *words_of(inputs, [*words, *DATA]), "--out", tmp_path / "run")
    assert all(fragment in told for fragment in named), told
    assert not (inputs / "it ran").exists()


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("digts", ["'digts'", "'digits'"]),
        ("", ["''", "folder"]),
        (r"folder:C:\photos", [r"'C:\photos'"]),
        ("folder:a:cat:b", ["'a:cat:b'"]),
        ("folder:", ["''"]),
        ("folder:{inputs}/empty", ["empty", "none"]),
        ("folder:{inputs}/classes_of_nothing", ["classes_of_nothing", "none"]),
        ("folder:{inputs}/tiny", ["small.png", "32x16", "32 px", "--resize"]),
        ("folder:{inputs}/broken", ["3.jpg", "--skip-bad"]),
        ("folder:{inputs}/flat", ["no labels"]),
        ("folder:{inputs}/file", ["file"]),
        ("npz:nowhere.npz", ["'nowhere.npz'"]),
        ("npz:{inputs}/nan.npz", ["NaN", "[0, 1]"]),
        ("npz:{inputs}/beyond.npz", ["[0, 1]", "to 1.5"]),
        ("npz:{inputs}/below.npz", ["[0, 1]", "-1"]),
        ("npz:{inputs}/bytes_as_floats.npz", ["[0, 1]", "to 255"]),
        ("npz:{inputs}/one_channel.npz", ["(20, 32, 32, 1)", "(N,H,W,3)"]),
        ("npz:{inputs}/grey.npz", ["(20, 32, 32)", "(N,H,W,3)"]),
        ("npz:{inputs}/small.npz", ["32x31", "32 px", "--resize"]),
        ("npz:{inputs}/labels_12.npz", ["10 classes", "12", "--class-map"]),
        ("npz:{inputs}/labels_negative.npz", ["labels from 0", "-1"]),
        ("npz:{inputs}/labels_float.npz", ["integer labels", "float64"]),
        ("npz:{inputs}/labels_short.npz", ["20", "(5,)"]),
        ("npz:{inputs}/unlabelled.npz", ["no labels"]),
        ("npz:{inputs}/none.npz", ["empty"]),
        ("npz:{inputs}/other_names.npz", ["`images`", "x"]),
        ("npz:{inputs}/objects.npz", ["objects.npz"]),
        ("npz:{inputs}/cut.npz", ["cut.npz", "truncated"]),
        ("npz:{inputs}/junk.npz", ["junk.npz"]),
        ("cifar-c:{inputs}/empty", ["cifar-c", "none"]),
        ("imagenet-c:{inputs}/nowhere", ["nowhere"]),
        ("digits:validation", ["'validation'", "train, test"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_data(refused, inputs, tmp_path, spec, named):
    spec = spec.replace("{inputs}", str(inputs))
    told = refused("measure", *MODEL, "--data", spec, "--shifts", "clean", "--out", tmp_path / "run")
    assert all(fragment in told for fragment in named), told


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--shifts", "gausian_noise"], ["'gausian_noise'", "Did you mean 'gaussian_noise'?"]),
        (["--shifts", "clean,,commn"], ["'commn'", "Did you mean 'common'?"]),
        (["--shifts", ","], ["at least one shift"]),
        (["--shifts", r"py:C:\s.py:rain"], [r"C:\s.py is not a file"]),
        (["--shifts", "py:{inputs}/mine.py:rain"], ["'rain'", "flip"]),
        (["--severities", "0"], ["from 1 to 5", "got 0"]),
        (["--severities", "1,6"], ["from 1 to 5", "got 6"]),
        (["--severities", "x"], ["1 to 5", "'x'"]),
        (["--severities", "1-5"], ["with commas", "'1-5'"]),
        (["--severities", ""], ["1 to 5"]),
        (["--limit", "0"], ["--limit", "at least 1", "got 0"]),
        (["--limit", "many"], ["--limit", "integer"]),
        (["--batch-size", "0"], ["at least 1", "got 0"]),
        (["--workers", "-1"], ["--workers", "0"]),
        (["--seed", "x"], ["--seed", "integer"]),
        (["--device", "gpu"], ["'gpu'", "auto, cpu, cuda"]),
        (["--dtype", "float8"], ["'float8'", "float32, bfloat16, float16"]),
        (["--table", "cifar10"], ["'cifar10'", "imagenet or cifar"]),
        (["--corrupt-at", "home"], ["'home'", "benchmark, model"]),
        (["--alexnet", "resnet"], ["'resnet'", "imagenet, cifar10"]),
        (["--baseline", "nowhere"], ["nowhere is not a run directory"]),
        (["--frost", "nowhere"], ["'nowhere'", "frost1.png"]),
        (["--interpolation", "cubic"], ["'cubic'", "'bicubic'"]),
        (["--resize", "8"], ["--resize", "at least 32 px", "got 8"]),
        (["--crop", "64"], ["64 px", "32x32"]),
        (["--class-map", "nowhere"], ["nowhere"]),
        (["--severity", "3"], ["--severity", "--severities"]),
        (["more"], ["more"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_bad_options(refused, inputs, tmp_path, words, named):
    told = refused("measure", *words_of(inputs, [*MODEL, *DATA, *words]), "--out", tmp_path / "run")
    assert all(fragment in told for fragment in named), told


def test_a_gpu_that_is_not_there(refused, inputs, tmp_path):
    told = refused("measure", *words_of(inputs, [*MODEL, *DATA]), "--device", "cuda", "--out", tmp_path / "run")
    assert told.startswith("Device 'cuda' was asked for, but torch finds no CUDA GPU; use --device cpu")


@pytest.mark.parametrize("place", ["file", "file/below", "/dev/full"])
@pytest.mark.parametrize("command", ["measure", "corrupt", "demo"])
def test_places_that_cannot_be_written(refused, inputs, tmp_path, monkeypatch, command, place):
    monkeypatch.setattr(
        "statshift.hardening.trainer.train", lambda *args, **options: pytest.fail("a minute was wasted")
    )
    (tmp_path / "file").write_text("mine")
    words = {"measure": [*MODEL, *DATA, "--shifts", "clean"], "corrupt": [*DATA, "--shifts", "contrast"], "demo": []}
    told = refused(command, *words_of(inputs, words[command]), "--out", tmp_path / place)
    assert str(tmp_path / place) in told


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--data", "digits"], ["--out DIR", "--sheet FILE.png"]),
        (["--data", "digits", "--out", "new", "--layout", "png"], ["arrays, jpeg", "'png'"]),
        (["--data", "digits", "--out", "new", "--severities", "1,2"], ["five severities", "[1, 2]"]),
        (["--data", "digits", "--out", "new", "--shifts", "fogg"], ["'fogg'", "'fog'"]),
        (["--data", "digits", "--out", "new", "--shifts", "py:{inputs}/mine.py:flip"], ["five severities", "jpeg"]),
        (["--data", "digits", "--sheet", "s.png", "--image", "597", "--shifts", "fog"], ["0 to 596", "597"]),
        (["--data", "digits", "--sheet", "no/s.png", "--shifts", "contrast"], ["no/s.png"]),
        (["--data", "npz:{inputs}/unlabelled.npz", "--out", "new"], ["no labels"]),
        (["--data", "npz:{inputs}/nan.npz", "--out", "new"], ["NaN"]),
    ],
    ids=lambda value: " ".join(value[2:]) if value[0].startswith("--") else "",
)
def test_bad_input_to_corrupt(refused, inputs, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    told = refused("corrupt", *words_of(inputs, words))
    assert all(fragment in told for fragment in named), told


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["compare"], ["first"]),
        (["compare", "nowhere", "nowhere"], ["nowhere is not a run directory"]),
        (["measure", "--data", "digits", "--out", "x"], ["--model"]),
        (["mesure"], ["'mesure'", "'measure'"]),
        (["--verbose"], ["--verbose"]),
        (["data", "snow"], ["'snow'"]),
    ],
    ids=" ".join,
)
def test_bad_commands(refused, words, named):
    told = refused(*words)
    assert all(fragment in told for fragment in named), told


def test_values_are_told_as_they_were_given(refused, tmp_path):
    """Whatever looks like markup to a terminal library is left alone."""
    for value in (":cat:", "[red]x[/red]", "a\\b", "ünïcode", "x" * 300):
        spec = f"folder:{value}"
        told = refused("measure", *MODEL, "--data", spec, "--out", tmp_path / "run")
        assert value in told


def test_an_unknown_scheme_imports_nothing(tmp_path):
    program = f"""
import sys
from statshift.cli import main
sys.argv = ["statshift", "measure", "--model", "tmm:resnet50", "--data", "digits", "--out", {str(tmp_path / "run")!r}]
try:
    main()
except SystemExit as end:
    print(end.code, [name for name in ("timm", "torchvision.models", "tmm") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "2 []\n"
    assert done.stderr.startswith(PREFIX)
    assert not (tmp_path / "run").exists()


# Damaged images


def test_damaged_images_are_skipped_counted_and_recorded(run, inputs, tmp_path):
    for name in ("broken", "truncated"):
        words = [*MODEL, "--data", f"folder:{inputs / name}", "--shifts", "clean", "--skip-bad"]
        done = run("measure", *words, "--out", tmp_path / name)
        assert done.code == 0
        assert "over 4 images" in done.out
        assert f"1 file that cannot be used is left out of folder:{inputs / name}: ant/3.jpg." in done.err
        data = read_run(tmp_path / name).record["data"]
        assert data["images"] == 4
        assert data["counts"] == {"converted_to_rgb": 0, "skipped": 1, "ignored": 0}
        assert data["skipped"] == ["ant/3.jpg"]


def test_the_remedy_for_a_truncated_image_works_in_the_same_directory(run, inputs, tmp_path):
    words = ["--model", f"py:{inputs}/mine.py:build", "--data", f"folder:{inputs}/truncated", "--resize", "32"]
    words += ["--shifts", "clean", "--out", tmp_path]
    done = run("measure", *words)
    assert done.code == 2
    (error,) = [line for line in done.err.splitlines() if line.startswith(PREFIX)]
    assert "3.jpg" in error
    assert "--skip-bad" in error
    assert run("measure", *words, "--skip-bad").code == 0


# Measuring


def test_random_weights_are_those_of_every_process(run, inputs, tmp_path):
    hashes = set()
    for seed in (1, 2):  # what another process would begin with
        torch.manual_seed(seed)
        words = [
            "--model",
            "cifar:resnet20",
            *words_of(inputs, DATA),
            "--shifts",
            "clean",
            "--out",
            tmp_path / f"{seed}",
        ]
        assert run("measure", *words).code == 0
        assert torch.initial_seed() == seed  # the caller's draws go on
        hashes.add(read_run(tmp_path / f"{seed}").record["model"]["weights_hash"])
    torch.manual_seed(0)
    hashes.add(weights_hash(load_model("cifar:resnet20").network))
    assert len(hashes) == 1


@pytest.fixture
def measured(run, inputs, tmp_path):
    """Run a small measurement in `tmp_path / "run"`."""

    def measured(*more, shifts="clean,contrast,brightness"):
        words = ["--model", f"py:{inputs}/mine.py:build", *words_of(inputs, DATA), "--shifts", shifts]
        return run("measure", *words, "--out", tmp_path / "run", *more)

    return measured


def test_the_table_shows_the_summary(measured, tmp_path):
    done = measured("--severities", "1,2,3,4,5")
    assert done.code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    source = summary["protocols"]["source"]
    assert "over 20 images" in done.out
    assert f"clean {100 * source['clean_accuracy']:.1f} %" in done.out
    for name in ("contrast", "brightness"):
        (line,) = [line for line in done.out.splitlines() if line.startswith(name)]
        found = source["per_shift"][name]
        assert line.split()[1:] == [f"{100 * value:.1f}" for value in (*found["by_severity"], found["accuracy"])]
    assert "they need all 75 conditions; 10 were measured." in done.out
    assert str(tmp_path / "run") in done.out


def test_it_says_beforehand_how_much_there_is_to_do(measured):
    said = measured().err.splitlines()
    assert said[0] == "11 passes over 20 images."
    assert re.fullmatch(r"The first pass took \d+\.\d s; about \d+ (s|min|h) to go\.", said[1])
    assert re.fullmatch(r"statshift: warning: Clean accuracy is .* near chance: .*", said[2])
    assert re.fullmatch(r"\d+\.\d s: (\d+ % (model|corruptions|adapting|loading|rest)(, )?)+\.", said[3])
    assert len(said) == 4


def test_again_it_says_the_same_and_does_nothing(measured, tmp_path):
    first = measured()
    before = files_of(tmp_path)
    again = measured()
    assert again.out == first.out
    assert "passes over" not in again.err
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("columns", ["20", "80"])
def test_without_a_terminal_nothing_is_cut_wrapped_or_coloured(measured, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm-256color")
    done = measured()
    assert "\x1b" not in done.out + done.err
    assert "\r" not in done.out + done.err
    assert "...\n" not in done.out
    assert len(done.err.splitlines()) == 4
    lines = done.out.splitlines()
    (head,) = [line for line in lines if line.startswith("shift")]
    rows = [line for line in lines if line.startswith(("contrast", "brightness"))]
    assert [len(row) for row in rows] == [len(head)] * 2
    assert head.split() == ["shift", "1", "2", "3", "4", "5", "mean"]


def test_own_shifts_by_file(measured, inputs, tmp_path):
    done = measured("--severities", "2", shifts=f"clean,py:{inputs}/mine.py:flip")
    assert done.code == 0
    assert [(row["shift"], row["severity"]) for row in read_run(tmp_path / "run").rows] == [("clean", 0), ("flip", 0)]


def test_what_an_own_shift_returns_is_checked(measured, inputs):
    done = measured(shifts=f"py:{inputs}/mine.py:gain")
    assert done.code == 2
    assert "Expected the shift 'gain' to return pixels in [0,1], but got values from 0 to 2" in done.err
    assert "Traceback" not in done.err


def test_a_directory_of_another_run_is_refused(measured, refused, inputs, tmp_path):
    assert measured(shifts="clean").code == 0
    words = ["--model", f"py:{inputs}/mine.py:build", "--shifts", "clean", "--out", tmp_path / "run"]
    told = refused("measure", *words, *words_of(inputs, DATA), "--seed", "1")
    assert "holds another run (--seed: 0 in the directory, 1 now)" in told
    told = refused("measure", *words, *words_of(inputs, DATA), "--limit", "10")
    assert "`data.images`: 20 in the directory, 10 now" in told
    assert measured("--batch-size", "3", "--workers", "1", shifts="clean").code == 0


def test_options_reach_the_measurement(measured, tmp_path):
    words = (
        "--severities 2,4 --limit 10 --batch-size 5 --dtype bfloat16 --seed 3 --table imagenet --no-quantise --reencode"
    )
    words += " --mean 0.5,0.5,0.5 --std 0.2,0.3,0.4 --alexnet imagenet --resize 40 --crop 32 --interpolation bicubic"
    done = measured(*words.split(), shifts="contrast")
    assert done.code == 0
    record = read_run(tmp_path / "run").record
    corruption = {key: record["corruption"][key] for key in ("table", "quantise", "reencode", "at")}
    assert corruption == {"table": "imagenet", "quantise": False, "reencode": True, "at": "benchmark"}
    assert (record["severities"], record["shifts"]) == ([2, 4], ["contrast"])
    assert (record["seed"], record["dtype"], record["alexnet"]) == (3, "bfloat16", "imagenet")
    assert record["data"]["images"] == 10
    assert record["data"]["preprocessing"] == {"resize": 40, "crop": 32, "interpolation": "bicubic"}
    assert record["model"]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert record["model"]["preprocessing"]["std"] == [0.2, 0.3, 0.4]
    assert record["environment"]["batch_size"] == 5


def test_a_real_network_from_the_shell(run, shared, tmp_path):
    words = ["--weights", shared / "data/cifar10_resnet20.th", "--data", f"npz:{shared}/data/cifar10_test_1000.npz"]
    done = run("measure", *MODEL, *words, "--shifts", "clean", "--limit", "400", "--out", tmp_path)
    assert done.code == 0
    accuracy = read_run(tmp_path).rows[0]["correct"] / 400
    assert f"clean {accuracy:.1%}"[:-1] in done.out
    assert accuracy == pytest.approx(0.915, abs=0.03)


# Out of room


def start(*words, before=""):
    """Start a real process; `before` is Python that it runs first."""
    program = (
        f"{before}\nimport sys\nfrom statshift.cli import main\nsys.argv = {['statshift', *map(str, words)]!r}\nmain()"
    )
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", program], stdout=pipe, stderr=pipe, text=True)


def finish(process, timeout=120):
    out, err = process.communicate(timeout=timeout)
    return SimpleNamespace(code=process.returncode, out=out, err=err)


def no_file_beyond(size):
    """Return Python that makes writing fail in a file's byte `size`, as a full disk would."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
@pytest.mark.parametrize(("size", "some"), [(100, False), (4000, True)], ids=["record", "rows"])
def test_a_full_disk_loses_nothing(run, inputs, tmp_path, size, some):
    words = ["measure", "--model", f"py:{inputs}/mine.py:build", *words_of(inputs, DATA), "--shifts", "clean,snow,fog"]
    done = finish(start(*words, "--out", tmp_path / "full", before=no_file_beyond(size)))
    assert (done.code, done.out) == (2, "")
    (error,) = [line for line in done.err.splitlines() if line.startswith(PREFIX)]
    assert str(tmp_path / "full") in error
    assert "What was finished is kept" in error
    kept = tmp_path / "full" / "rows.jsonl"
    assert some == kept.exists()
    assert not some or 0 < kept.read_bytes().count(b"\n") < 11
    assert run(*words, "--out", tmp_path / "full").code == 0
    assert run(*words, "--out", tmp_path / "whole").code == 0
    for name in ("rows.jsonl", "summary.json", "record.json"):
        assert (tmp_path / "full" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
@pytest.mark.parametrize(
    "data",
    [["--data", "digits", "--limit", "100"], [*DATA, "--resize", "96", "--layout", "jpeg"]],
    ids=["arrays", "jpeg"],
)
def test_a_full_disk_leaves_no_half_written_files(run, inputs, tmp_path, data):
    words = ["corrupt", *words_of(inputs, data), "--shifts", "gaussian_noise", "--out", tmp_path / "full"]
    done = finish(start(*words, before=no_file_beyond(2000)))
    assert_one_line(done)
    assert str(tmp_path / "full") in done.err
    assert not [path for path in (tmp_path / "full").rglob("*") if path.suffix in (".npy", ".JPEG", ".partial")]
    assert run(*words).code == 0


# Corrupting


def test_corrupt_writes_what_measure_reads(run, inputs, tmp_path):
    done = run("corrupt", *words_of(inputs, DATA), "--shifts", "clean,contrast", "--out", tmp_path / "c")
    assert done.code == 0
    spec = f"cifar-c:{tmp_path / 'c'}"
    assert f"--data {spec}" in done.err
    made, read = tmp_path / "made", tmp_path / "read"
    model = ["--model", f"py:{inputs}/mine.py:build"]
    assert run("measure", *model, *words_of(inputs, DATA), "--shifts", "clean,contrast", "--out", made).code == 0
    assert run("measure", *model, "--data", spec, "--out", read).code == 0
    assert (read / "rows.jsonl").read_bytes() == (made / "rows.jsonl").read_bytes()


def test_photographs_are_written_as_jpegs_by_default(run, tmp_path):
    place = tmp_path / "photographs" / "ant"
    place.mkdir(parents=True)
    Image.new("RGB", (80, 70), "teal").save(place / "one.png")
    words = ["--data", f"folder:{tmp_path}/photographs", "--shifts", "contrast", "--severities", "2"]
    done = run("corrupt", *words, "--out", tmp_path / "c")
    assert done.code == 0
    assert f"imagenet-c:{tmp_path / 'c'}" in done.err
    assert load_data(f"imagenet-c:{tmp_path / 'c'}", shift=("contrast", 2)).shape == (3, 70, 80)


def test_a_sheet_alone(run, inputs, tmp_path):
    done = run("corrupt", *words_of(inputs, DATA), "--shifts", "clean,contrast,saturate", "--sheet", tmp_path / "s.png")
    assert (done.code, done.out) == (0, "")
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.height > 2 * 96
    assert [path.name for path in tmp_path.iterdir()] == ["s.png"]


# Comparing


def test_compare_prints_the_figures(run, tmp_path):
    runs = {"weak": benchmark_rows(0.6, seed=1), "strong": benchmark_rows(0.75, seed=2)}
    for name, rows in runs.items():
        with open_run(tmp_path / name, synthetic_record(alexnet="cifar10")) as opened:
            for row in rows:
                opened.append(row)
    done = run("compare", tmp_path / "weak", tmp_path / "strong")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert "over the same 50 images" in lines[0]
    assert "second less first" in lines[0]
    for before, after in zip(runs["weak"], runs["strong"], strict=True):
        name = f"{before['shift']} {before['severity']}" if before["severity"] else before["shift"]
        (line,) = [line for line in lines if re.match(rf"{name}  ", line)]
        first, second, difference = line.removeprefix(name).split()[:3]
        assert (first, second) == (f"{2 * before['correct']:.1f}", f"{2 * after['correct']:.1f}")
        assert difference == f"{2 * (after['correct'] - before['correct']):+.1f}"
    means = {name: summarise(rows, table="cifar10")["protocols"]["source"] for name, rows in runs.items()}
    for title, key in (("mean accuracy over the 15 x 5", "mean_accuracy"), ("mCE", "mce")):
        first, second = (100 * means[name][key] for name in ("weak", "strong"))
        assert f"{title}: {first:.1f} -> {second:.1f}, difference {second - first:+.1f} [" in done.out


def test_compare_refuses_runs_over_other_images(refused, tmp_path):
    for name, seed in (("a", "x"), ("b", "y")):
        data = synthetic_record()["data"] | {"indices_hash": seed}
        with open_run(tmp_path / name, synthetic_record(data=data)) as opened:
            opened.append(synthetic_row("clean", 0))
    told = refused("compare", tmp_path / "a", tmp_path / "b")
    assert "The runs cannot be compared image by image: they used different images (indices differ)." in told


# The frost photographs


def test_the_photographs_are_downloaded_and_checked(run, shared, tmp_path):
    source = (shared / "data" / "frost").resolve().as_uri()
    done = run("data", "frost", "--out", tmp_path / "frost", "--source", source)
    assert done.code == 0
    names = sorted(path.name for path in (tmp_path / "frost").iterdir())
    assert names == ["frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"]
    assert all((tmp_path / "frost" / n).read_bytes() == (shared / "data/frost" / n).read_bytes() for n in names)
    again = run("data", "frost", "--out", tmp_path / "frost", "--source", "file:///nowhere")
    assert again.code == 0
    assert "Downloading" not in again.err


def test_what_is_not_the_photograph_is_not_kept(run, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "frost1.png").write_bytes(b"<html>not found</html>")
    done = run("data", "frost", "--out", tmp_path / "frost", "--source", (tmp_path / "source").as_uri())
    assert done.code == 2
    assert "SHA-256" in done.err
    assert f"{(tmp_path / 'source').as_uri()}/frost1.png" in done.err
    assert not list((tmp_path / "frost").iterdir())


def test_where_there_is_no_network_the_remedy_is_named(run, tmp_path):
    done = run("data", "frost", "--out", tmp_path / "frost", "--source", "file:///nowhere/")
    assert done.code == 2
    assert re.search(r"Cannot download frost1.png: .* by hand from file:///nowhere/ and put it into", done.err)


# The demonstration


@pytest.mark.slow
def test_the_demonstration(run, tmp_path, monkeypatch):
    hardening = demo._hardening()
    short = replace(hardening, training=replace(hardening.training, epochs=1))
    monkeypatch.setattr(demo, "DEMO_IMAGES", 50)
    monkeypatch.setattr(demo, "_hardening", lambda: short)
    done = run("demo", "--out", tmp_path)
    assert done.code == 0
    summary, hardened = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "run-hardened"))
    source = summary["protocols"]["source"]
    assert summary["images"] == 50
    assert source["clean_accuracy"] >= 0.94
    assert list(source["per_shift"]) == list(CORRUPTIONS[:15])
    assert all(len(shift["by_severity"]) == 5 for shift in source["per_shift"].values())
    assert source["mean_accuracy"] < source["clean_accuracy"] - 0.05
    assert source["mean_error"] == pytest.approx(1 - source["mean_accuracy"])
    assert source["mce"] is None
    worst = min(source["per_shift"], key=lambda name: source["per_shift"][name]["accuracy"])
    assert summary_text(summary) in done.out
    assert f"{source['clean_accuracy']:.1%} of clean digits" in done.out
    assert f"under {worst}." in done.out
    assert "too few to rank" in done.out
    for found, protocol, label in (
        (summary, "source", "source"),
        (hardened, "source", "hardened"),
        (summary, "auto", "source and rectified"),
        (hardened, "auto", "hardened and rectified"),
    ):
        one = found["protocols"][protocol]
        cells = rf"{100 * one['clean_accuracy']:.1f} +{100 * one['mean_accuracy']:.1f}"
        assert re.search(rf"^{label} +{cells}$", done.out, re.MULTILINE)
    assert summary["protocols"]["auto"]["mean_accuracy"] > source["mean_accuracy"] + 0.03
    assert "warning: Clean accuracy" not in done.err
    page = (tmp_path / "report.html").read_text()
    for found in (summary, hardened):
        for protocol in ("source", "auto"):
            assert f">{100 * found['protocols'][protocol]['mean_accuracy']:.1f} %<" in page
    assert f"to open in a browser: {tmp_path / 'report.html'}\n" in done.out


# Parts


def test_a_table_is_aligned():
    assert table([["name", "n"], ["a", "10.0"], ["longer", "-"]]) == (
        "name       n\n------------\na       10.0\nlonger     -"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (36000, "10.0 h")],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_the_whole_benchmark_ends_in_means_and_mce():
    summary = summarise(benchmark_rows(), table="cifar10")
    source, text = summary["protocols"]["source"], summary_text(summary)
    low, high = (100 * value for value in source["mean_interval"])
    assert f"mean accuracy  {100 * source['mean_accuracy']:.1f} % [{low:.1f}, {high:.1f}]  over the 15 x 5" in text
    assert f"mean error     {100 * source['mean_error']:.1f} %" in text
    assert f"mCE            {100 * source['mce']:.1f} %" in text
    assert "(100 = AlexNet on cifar10; this is not the mean error)" in text
    (fog,) = [line for line in text.splitlines() if line.startswith("fog")]
    assert fog.split()[-1] == f"{100 * source['per_shift']['fog']['ce']:.1f}"


@pytest.mark.parametrize(
    ("pairs", "arguments"),
    [
        (None, {}),
        (
            ["num_classes=100", "name=wide", "rates=(1, 2)", "bias=False"],
            {"num_classes": 100, "name": "wide", "rates": (1, 2), "bias": False},
        ),
        (["path=C:\\x=y"], {"path": "C:\\x=y"}),
    ],
)
def test_model_arguments(pairs, arguments):
    assert typed.parse_model_args(pairs) == arguments


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.25", 0.25), (" 1/255", 1 / 255), ("0.5/255", 0.5 / 255), ("1e-3", 0.001), ("-1/2", -0.5), ("0.1 / 0.4", 0.25)],
)
def test_a_number_may_be_a_fraction_of_decimals(text, value):
    assert typed.parse_fraction("epsilon", text) == value
    if value > 0:
        assert parse_attack(f"pgd-linf:{text}:5") == PixelAttack(value, steps=5)
    assert typed.parse_channels("mean", text) == (value,) * 3
    assert typed.parse_channels("mean", f"{text},{text}, 1") == (value, value, 1.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1;2;3", r"but got '1;2;3': '1;2;3' is not a number such as 0\.5 or 1/255\."),
        ("1,2/x,3", r"but got '1,2/x,3': '2/x' is not a number"),
        ("1,2/0,3", r"'2/0' divides by 0\."),
        ("1/2/3", r"'1/2/3' is not a number"),
        ("nan", r"'nan' is not finite\."),
        ("1/inf", r"'1/inf' is not finite\."),
        ("1,2", r"or one for all three channels, but got '1,2', which are 2\."),
        ("1,2,3,4", r"which are 4\."),
        ("", r"but got '', which are 0\."),
    ],
)
def test_what_is_no_number_is_named(text, told):
    with pytest.raises(InputError, match=rf"^Expected --std as three numbers with commas, .*{told}"):
        typed.parse_channels("std", text)


@pytest.mark.parametrize(
    ("spec", "told"),
    [("pgd-linf:x/255:5", r": 'x/255' is not a number such as"), ("pgd-linf:1/255:5.5", r": the steps '5\.5' are not")],
)
def test_what_is_wrong_with_an_attacks_numbers_is_told(spec, told):
    with pytest.raises(InputError, match=rf"^Expected the attack as pgd-linf:EPSILON\[:STEPS\], .*'{spec}'{told}"):
        parse_attack(spec)


def test_lists_may_hold_spaces():
    assert typed.parse_functions("clean, fog ,snow,") == ["clean", "fog", "snow"]
    assert typed.parse_shifts("clean, fog ,snow,") == ["clean", "fog", "snow"]
    assert typed.parse_severities("1, 3") == [1, 3]
    assert typed.parse_channels("mean", "0.5, 0.25,1e-1") == (0.5, 0.25, 0.1)
