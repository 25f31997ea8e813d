"""`statshift attack`: what it prints and writes, and bad input in one line."""

import json
import re
import sys

import numpy as np
import pytest
import torch

import warm
from statshift import attack_images, load_data, load_model
from statshift.shifts.attacks import PixelAttack

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL_FILE = """
import os, signal, torch
from torch import nn

def build(classes=10):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.Softplus(), nn.Flatten(), nn.Linear(392, classes)
    )

class Rounding(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3072, 10)

    def forward(self, images):
        return self.linear(images.round().flatten(1))

class Killed(nn.Module):
    "The same network; it kills its process at the forward whose number is in the environment."

    def __init__(self):
        super().__init__()
        self.network, self.left = build(), int(os.environ.get("FORWARDS", -1))

    def forward(self, images):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.network(images)
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "models.py"
    path.write_text(MODEL_FILE)
    return f"py:{path}:build"


@pytest.fixture
def attack(run, model, tmp_path):
    """Run attack on 20 digits in two batches, other options as given."""

    def call(*words):
        base = ["--model", model, "--data", "digits", "--limit", 20, "--batch-size", 12, "--device", "cpu"]
        return run("attack", *base, "--out", tmp_path / "out", *words)

    return call


def pixels_of(data):
    ((images, _),) = data.batches(len(data))
    return images.float() / 255


def expected_of(model, attack, seed=0):
    """Return images, labels, what an attack makes of the images, and the model."""
    data, network = load_data("digits", limit=20, seed=seed), load_model(model)
    images, labels, indices = pixels_of(data), torch.from_numpy(data.labels), torch.from_numpy(data.indices)
    parts = (slice(0, 12), slice(12, 20))
    found = [attack_images(network, images[p], labels[p], attack, seed=seed, indices=indices[p]) for p in parts]
    return images, labels, torch.cat(found), network


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--epsilon", "8/255"], PixelAttack(8 / 255)),
        (
            ["--attack", "cw-l2", "--epsilon", 1.5, "--steps", 3, "--step-size", "3/4", "--target", "next"],
            PixelAttack(1.5, 0.75, 3, norm="l2", loss="cw", target="next"),
        ),
        (["--epsilon", "0.02", "--no-random-start", "--seed", 2], PixelAttack(0.02, random_start=False)),
        (["--attack", "fgsm", "--epsilon", 0.03], PixelAttack(0.03, 0.03, 1, random_start=False)),
    ],
    ids=["default", "every option", "no random start", "fgsm"],
)
def test_the_images_are_the_attack_s_and_the_figures_those_by_hand(attack, model, tmp_path, words, expected):
    done = attack(*words)
    assert done.code == 0, done.err
    assert done.err == "20 images to attack.\n"
    images, labels, found, network = expected_of(model, expected, 2 if "--seed" in words else 0)
    rounded = (found * 255).round() / 255
    out = tmp_path / "out"
    stored = load_data(f"npz:{out / 'images.npz'}")
    assert torch.equal(pixels_of(stored), rounded)
    np.testing.assert_array_equal(stored.labels, labels)
    with torch.no_grad():
        right = [(network(one).argmax(1) == labels).double().mean().item() for one in (images, found, rounded)]
    record = json.loads((out / "record.json").read_bytes())
    assert [record["found"][name] for name in ("accuracy_clean", "accuracy", "accuracy_rounded")] == right
    moved = (found - images).flatten(1)
    clean, after, in_bits = (f"{100 * value:.1f} %" for value in right)
    assert done.out == (
        f"Accuracy over 20 images: clean {clean}, {words[1] if '--attack' in words else 'pgd-linf'} {after},\n"
        f"as stored in 8 bits {in_bits}.\n"
        f"Mean distance: {moved.norm(dim=1).double().mean():.4g} in L2, "
        f"{255 * moved.abs().amax(1).double().mean():.3g}/255 at most.\n\n"
        f"Written to {out}: images.npz, record.json. Use it as --data npz:{out}/images.npz\n"
    )


def test_a_finished_folder_says_so_and_another_attack_is_refused(attack, tmp_path):
    words = ["--epsilon", "8/255", "--steps", 2]
    first = attack(*words)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    again = attack(*words)
    assert (again.code, again.out) == (0, first.out)
    assert again.err == "Every image was finished before; nothing was attacked again.\n"
    other = attack("--epsilon", "8/255", "--steps", 3)
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "holds another run (`attack.step_size`: 0.0392" in other.err
    assert "`attack.steps`: 2 in the directory, 3 now" in other.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
def test_killed_and_started_again_it_ends_with_the_same_images(run, model, tmp_path):
    words = ["attack", "--model", model.replace(":build", ":Killed"), "--data", "digits", "--limit", "20"]
    words += ["--batch-size", "4", "--epsilon", "8/255", "--steps", "2", "--device", "cpu", "--out"]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert run(*words, whole).code == 0
    killed = warm.run(*words, out, FORWARDS="14")
    assert killed.returncode == -9, killed.stderr
    parts = list(out.glob("part-*"))
    assert 0 < len(parts) < 5
    done = run(*words, out)
    before = f"20 images to attack, of which {4 * len(parts)} were finished before.\n"
    assert (done.code, done.err) == (0, before)
    for name in ("images.npz", "record.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(out.glob("part-*"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--epsilon", "-1"], r"Expected --epsilon in \[0,1\], but got -1: pixels are in \[0,1\]"),
        (["--epsilon", "1.5"], r"Expected --epsilon in \[0,1\], but got 1\.5"),
        (["--epsilon", "8"], r"but got 8: pixels are in \[0,1\], so 8 of 255 levels is 8/255\."),
        (["--epsilon", "abc"], r"Expected --epsilon as a number or a fraction such as 1/255, but got 'abc'\."),
        (["--epsilon", "1/0"], r"Expected --epsilon as a number or a fraction such as 1/255, but got '1/0'\."),
        (["--epsilon", "nan"], r"Expected --epsilon as a number or a fraction such as 1/255, but got 'nan'\."),
        (["--epsilon", "1e999"], r"Expected --epsilon as a number or a fraction such as 1/255, but got '1e999'\."),
        (["--epsilon", "-1", "--attack", "fgsm"], r"Expected --epsilon in \[0,1\], but got -1"),
        (["--epsilon", "-1", "--attack", "pgd-l2"], r"Expected --epsilon to be at least 0, but got -1\."),
        (["--epsilon", "60", "--attack", "pgd-l2"], r"Expected --epsilon below 55\.4"),
        (["--epsilon", "0", "--attack", "autoattack-linf"], r"Expected --epsilon above 0"),
        (["--attack", "fgsm:1/255"], r"Expected --epsilon once, but --attack fgsm:1/255 has it too\."),
        (["--attack", "fgsm:1/255:2"], r"Expected the attack as fgsm:EPSILON, such as"),
        (["--step-size", "x"], r"Expected --step-size as a number or a fraction"),
        (["--step-size", "0", "--steps", "0"], r"--steps to be an integer of at least 1.*--step-size above 0"),
        (["--target", "cat"], r"Unknown target 'cat'\. Choose from: none, random, next\."),
        (["--attack", "pdg-linf"], r"Unknown attack 'pdg-linf'\. Did you mean 'pgd-linf'"),
        (["--attack", "fgsm", "--steps", "3"], r"Expected no steps for fgsm, which has no such option\."),
        (["--attack", "autoattack-l2", "--target", "next"], r"Expected no target for autoattack-l2"),
        (["--batch-size", "0"], r"Expected --batch-size to be at least 1, but got 0\."),
        (["--data", "npz:{tmp}/none.npz"], r"Expected a file, but '.*none\.npz' is not one\."),
        (["--data", "npz:{tmp}/bare.npz"], r"Expected labelled images to attack, but .*bare\.npz has no labels\."),
        (["--model-args", "classes=5"], r"Expected labels below the model's 5 classes"),
        (["--model", "py:{tmp}/models.py:Rounding"], r"The model's input gradient is zero everywhere"),
        (["--device", "tpu"], r"Unknown device 'tpu'"),
        (["--out", "{tmp}"], r"is not empty and holds .*: choose another directory\."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_told_in_one_line(attack, tmp_path, words, told):
    np.savez(tmp_path / "bare.npz", images=np.zeros((20, 32, 32, 3), np.uint8))
    done = attack("--epsilon", "1/255", *(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert (done.code, done.out) == (2, "")
    (line,) = [line for line in done.err.splitlines() if line != "20 images to attack."]
    assert line.startswith("statshift: error: ")
    assert re.search(told, line), line
    assert not list((tmp_path / "out").glob("*.npz"))


def test_the_help_shows_an_example(run):
    done = run("attack", "--help")
    assert done.code == 0
    text = " ".join(done.out.split())
    assert "Example: statshift attack --model cifar:resnet56" in text
    assert "--attack pgd-l2:0.25" in text
    assert "Radius, such as 0.25 or 1/255, of pixels in [0,1]." in text


@pytest.mark.parametrize(
    ("words", "apart"),
    [
        (["--attack", "pgd-l2:0.5:2"], ["--attack", "pgd-l2", "--epsilon", "0.5", "--steps", 2]),
        (["--attack", "pgd-linf:8/255", "--steps", 2], ["--epsilon", "8/255", "--steps", 2]),
        (["--attack", "fgsm:4/255"], ["--attack", "fgsm", "--epsilon", "4/255"]),
    ],
)
def test_an_attack_is_named_as_everywhere_or_in_parts(attack, tmp_path, words, apart):
    assert attack(*words).code == 0
    first = json.loads((tmp_path / "out" / "record.json").read_bytes())
    again = attack(*apart)
    assert again.err == "Every image was finished before; nothing was attacked again.\n"
    assert first["attack"]["epsilon"] in (0.5, 8 / 255, 4 / 255)


def test_the_record_for_scripts(attack, tmp_path):
    done = attack("--attack", "fgsm:4/255", "--json")
    assert done.code == 0
    assert json.loads(done.out) == json.loads((tmp_path / "out" / "record.json").read_bytes())
