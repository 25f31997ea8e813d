"""ImageNet's variants in recipes: the sets that a user has, their columns beside the papers', and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo

import training_jobs
from statshift import load_data, load_model
from statshift._core.errors import InputError, StatshiftWarning
from statshift.cli.published import result_text
from statshift.hardening.from_scratch import build
from statshift.hardening.training import TrainingOptions
from statshift.models import save_weights
from statshift.recipes import BASE, COLUMNS, HARDENING, Network, as_yaml, measuring, recipe
from statshift.recipes.files import parse_recipe
from statshift.recipes.running import run_recipe
from statshift.recipes.sources import column_of, set_scores
from statshift.shifts.shift import CLEAN
from statshift.shifts.stored import SetShift

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy is"),  # it has hardly been trained
]

SPEC = f"py:{training_jobs.__file__}:build"
ADVBN_SETS = ["imagenet-instagram", "imagenet-sketch", "stylized-imagenet"]
TINY = {"width": 0.1}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits:test", limit=40)


@pytest.fixture(scope="module")
def filtered(digits, tmp_path_factory):
    """Two sets of the conditions' names, 40 and 40 images, darker and inverted."""
    images, labels = digits.tensors()
    sets = {}
    for name, changed in (("instagram/1977", images / 2), ("instagram/toaster", 1 - images)):
        path = tmp_path_factory.mktemp("sets") / "images.npz"
        pixels = (changed * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        np.savez(path, images=pixels, labels=labels.numpy())
        sets[name] = load_data(f"npz:{path}")
    return sets


def accuracy(model, data):
    images, labels = data.tensors()
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).double().mean())


def table_of(text, first="label"):
    """Return the cells of the table whose head begins with a word, without its rule."""
    block = next(part for part in text.split("\n\n") if part.startswith(f"{first} "))
    head, _, *rows = block.splitlines()
    return [re.split("  +", line) for line in (head, *rows)]


# Which column a set is


@pytest.mark.parametrize(
    ("shift", "column"),
    [
        ("imagenet-sketch", "sketch"),
        ("stylized-imagenet", "style"),
        ("imagenet-instagram", "instagram"),
        ("instagram/1977", "instagram"),
        ("imagenet-v2 (threshold0.7)", "v2"),
        ("imagenet-r", "r"),
        ("clean of imagenet-r", ""),  # the clean images of its classes
        ("instagram", ""),
        ("stylised", ""),  # made here: not the published set
        ("toaster", ""),
        ("clean", ""),
    ],
)
def test_the_column_of_a_shift(shift, column):
    assert column_of(shift) == column


def test_the_score_of_a_set_is_the_mean_over_its_conditions():
    shifts = {"instagram/a": 0.5, "fog": 0.9, "imagenet-sketch": 0.25, "instagram/b": 0.75, "clean of imagenet-r": 1.0}
    assert set_scores(shifts) == {"instagram": 0.625, "sketch": 0.25}


# What is measured


def test_every_table_of_advbn_takes_its_three_sets():
    for name in [*(HARDENING.keys() - {"branches", "cost"}), "sin", "variants"]:
        assert list(recipe(name).sets.items()) == [(one, "") for one in ADVBN_SETS]
        assert recipe(name).needs().endswith(f"; where you have them: {', '.join(ADVBN_SETS)}")


class StoppedError(Exception):
    pass


@pytest.mark.parametrize(
    ("data", "own", "expected"),
    [
        ("folder", None, ["clean", "common"]),
        ("imagenet-c", None, ["common"]),  # without clean images
        ("folder", ("clean", "fog"), ["clean", "fog"]),
        ("folder", "fog", ["fog"]),
    ],
)
def test_the_sets_that_are_there_are_measured_besides(data, own, expected, tmp_path, monkeypatch):
    (tmp_path / "fog" / "1").mkdir(parents=True)
    asked = []

    def stop(*_, shifts, **more):
        asked.extend(shifts)
        raise StoppedError

    monkeypatch.setattr(measuring, "measure", stop)
    chosen = replace(recipe("variants", labels=[BASE]), networks={BASE: Network("cifar:resnet20")})
    sets = {"imagenet-sketch": tmp_path, "stylized-imagenet": tmp_path / "fog"}
    with pytest.raises(StoppedError):
        run_recipe(chosen, None, f"{data}:{tmp_path}", tmp_path / "out", sets=sets, shifts=own)
    assert asked == [*expected, f"imagenet-sketch:{tmp_path}", f"stylized-imagenet:{tmp_path / 'fog'}"]


def test_without_sets_shifts_are_as_before():
    for shifts in (None, "fog", (CLEAN, "fog")):
        assert recipe("variants")._with_sets(shifts, "folder:x") is shifts


# A run


@pytest.fixture(scope="module")
def done(digits, filtered, tmp_path_factory):
    out = tmp_path_factory.mktemp("variants")
    save_weights(build("cifar:resnet20", TINY, seed=5).network, out / "augmix.safetensors")
    some = recipe("variants", labels=["augmix"])
    chosen = replace(some, networks={"augmix": Network("cifar:resnet20", TINY, "augmix")})
    sets = [SetShift(name, data, "filter") for name, data in filtered.items()]
    shifts = ("clean", "fog", *sets)
    files = {"augmix": out / "augmix.safetensors"}
    found = run_recipe(chosen, None, digits, out, files=files, shifts=shifts, severities=(5,), device="cpu")
    return chosen, found, load_model("cifar:resnet20", model_args=TINY, weights=files["augmix"])


def test_ours_of_a_set_is_what_the_network_answers_on_it(done, filtered, digits):
    chosen, found, model = done
    one = found["augmix"]["source"]
    expected = {name: accuracy(model, data) for name, data in filtered.items()}
    assert {name: one["shifts"][name] for name in filtered} == pytest.approx(expected)
    assert one["sets"] == dict.fromkeys(filtered, 40)
    assert one["mean_of_shifts"] == one["shifts"]["fog"]
    head, row = table_of(result_text(chosen, found))[:2]
    table = dict(zip(head, row, strict=True))
    assert table == {
        "label": "augmix",
        "clean": f"{100 * accuracy(model, digits):.1f}",
        "corrupted": f"{100 * one['shifts']['fog']:.1f}",
        "mCE": "-",
        "Instagram": f"{100 * fmean(expected.values()):.1f}",
        "Sketch": "-",
        "Stylized": "-",
        "their mCE": "68.4",
        "their Instagram": "70.4",
        "their Sketch": "28.5",
        "their Stylized": "11.2",
    }


def test_the_text_says_over_what(done):
    lines = result_text(done[0], done[1]).splitlines()
    assert "Ours are over 40 images under clean; fog at severity 5." in lines
    assert "Images of the sets: Instagram 40." in lines
    assert "Theirs are over all 50,000 images of ImageNet and of its variants: not the same data." in lines
    assert [row[0] for row in table_of(result_text(done[0], done[1]), "shift") if "1977" in row[0]] == [
        "instagram/1977"
    ]


def test_branches_have_the_columns_too(digits, filtered, tmp_path):
    training = TrainingOptions(epochs=1, batch_size=20, learning_rate=0.01)
    name = "instagram/1977"
    shifts = ("clean", SetShift(name, filtered[name], "filter"))
    chosen = recipe("position", training, ["act1"])
    found = run_recipe(chosen, SPEC, digits, tmp_path, validation=digits, shifts=shifts, device="cpu")
    rows = {(row[0], row[1]): row for row in table_of(result_text(chosen, found))}
    assert rows["label", "branch"][:6] == ["label", "branch", "clean", "mean of shifts", "mCE", "Instagram"]
    assert rows["conv2_3", "-"][5:] == ["-", "76.5", "68.6", "71.1", "30.3", "14.1"]
    for branch in ("clean", "adv"):
        model = load_model(SPEC, weights=tmp_path / "act1" / f"{branch}.safetensors")
        assert rows["act1", branch][5] == f"{100 * accuracy(model, filtered[name]):.1f}"


# A public network's figures


def test_public_figures_are_those_known():
    chosen = recipe("public")
    assert chosen.networks == {"resnet50": Network("torchvision:resnet50@IMAGENET1K_V1")}
    known = {"clean": 0.761, "mce": 0.767, "sketch": 0.241, "v2": 0.632, "r": 0.362, "a": 0.0}
    assert dict(chosen.published) == {"resnet50": known}
    base = recipe("position").published[BASE]
    assert {name: known[name] for name in ("clean", "mce", "sketch")} == {
        name: base[name] for name in ("clean", "mce", "sketch")
    }
    head, row = table_of(result_text(chosen, {}))[:2]
    assert dict(zip(head, row, strict=True))["their V2"] == "63.2"
    assert (row[0], row[-1]) == ("resnet50", "0.0")


def test_the_docs_have_the_same_figures():
    page = (Path(__file__).parents[1] / "docs" / "howto" / "recipes.md").read_text()
    rows = {name: float(figure) for name, figure in re.findall(r"^\| ([\w ]+) \| ([\d.]+) \|", page, re.MULTILINE)}
    published = recipe("public").published["resnet50"]
    assert rows == {COLUMNS[column]: pytest.approx(100 * value) for column, value in published.items()}


# Files and flags


def test_a_file_holds_folders_of_sets(tmp_path):
    text = as_yaml(recipe("variants"))
    assert "\nsets:\n  imagenet-instagram:\n  imagenet-sketch:\n  stylized-imagenet:\n" in text
    given = text.replace("  imagenet-sketch:\n", f"  imagenet-sketch: {tmp_path}\n")
    assert parse_recipe(given).sets["imagenet-sketch"] == str(tmp_path)
    with pytest.raises(InputError, match=r"sets: Unknown set 'imagenet-sketsh'. Did you mean 'imagenet-sketch'\?"):
        parse_recipe(text.replace("  imagenet-sketch:\n", "  imagenet-sketsh: x\n"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["variants", "--set", "imagenet-sketch"], "Expected --set NAME=DIR, but got 'imagenet-sketch'."),
        (["variants", "--set", "imagenet-sketsh=x"], "Unknown set of the recipe variants 'imagenet-sketsh'. Did you"),
        (["norms", "--set", "imagenet-sketch=x"], "Expected no sets for the recipe norms, but got 'imagenet-sketch'."),
        (["branches", "--set", "imagenet-r=x"], "Expected no sets for the recipe branches, but got 'imagenet-r'."),
        (
            ["variants", "--labels", "base", "--data", "folder:.", "--out", "o", "--set", "imagenet-sketch=not-there"],
            "The recipe variants needs what is not there: not-there.",
        ),
    ],
)
def test_sets_that_cannot_be(run, words, told):
    done = run("run", *words)
    assert (done.code, done.out) == (2, "")
    assert told in done.err


def test_the_list_says_which_sets(run):
    told = {one["name"]: one for one in json.loads(run("recipes", "--json").out)["recipes"]}
    assert told["variants"]["expected"] == "advbn-autoaugment: 76.7 -> 68.6 mCE"
    assert told["public"]["needs"].endswith("where you have them: imagenet-sketch, imagenet-v2, imagenet-r, imagenet-a")
    assert len(told["variants"]["labels"]) == 15


# Folders in the published layouts

ANSWERS = """
import torch
from torch import nn

class Answers(nn.Module):
    def __init__(self):
        super().__init__()
        index = torch.arange(1000)
        self.register_buffer("colours", torch.stack([index // 40 * 10, index % 40 * 6, 0 * index], 1) / 255)

    def forward(self, images):
        return -torch.cdist(images.mean((2, 3)), self.colours)
"""


@pytest.mark.slow
def test_folders_of_the_sets_fill_their_columns(tmp_path):
    """A network that answers by content, on folders of which a known part shows other classes than they say."""
    pytest.importorskip("statshift.data.natural")
    names = ImageNetInfo("imagenet-1k").label_names()
    wrong = {"val": 0, "sketch": 250, "instagram/1977": 100, "instagram/toaster": 300, "v2": 20}
    for place, number in wrong.items():
        for index, name in enumerate(names):
            folder = tmp_path / place / (str(index) if place == "v2" else name)
            folder.mkdir(parents=True)
            shown = (index + 1) % 1000 if index < number else index
            Image.new("RGB", (32, 32), (shown // 40 * 10, shown % 40 * 6, 0)).save(folder / "0.png")
    (tmp_path / "answers.py").write_text(ANSWERS)
    spec = f"py:{tmp_path / 'answers.py'}:Answers"
    columns = ("imagenet-instagram", "imagenet-sketch", "imagenet-v2")
    chosen = replace(
        recipe("public"),
        networks={"resnet50": Network(spec, mean=(0, 0, 0), std=(1, 1, 1))},
        sets=dict.fromkeys(columns, ""),
    )
    sets = dict(zip(columns, (tmp_path / one for one in ("instagram", "sketch", "v2")), strict=True))
    val, out = f"folder:{tmp_path / 'val'}", tmp_path / "out"
    with pytest.warns(StatshiftWarning, match="2 folders of filters"):
        found = run_recipe(chosen, None, val, out, sets=sets, shifts="clean", device="cpu")
    head, row = table_of(result_text(chosen, found))[:2]
    table = dict(zip(head, row, strict=True))
    assert {name: table[name] for name in ("clean", "Instagram", "Sketch", "V2", "R")} == {
        "clean": "100.0",
        "Instagram": "80.0",
        "Sketch": "75.0",
        "V2": "98.0",
        "R": "-",
    }
    assert "Images of the sets: Instagram 1,000, Sketch 1,000, V2 1,000." in result_text(chosen, found)
