"""The seam of shifts: registry and values agree, and a shift of one's own runs everywhere without a line in the house.

test_seams.py defines one of each kind.
"""

import ast
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import statshift
import test_seams
from statshift import load_data, load_model
from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift._core.registry import Entry, members, registry
from statshift.adapting.drawing import adaptation_positions
from statshift.adapting.options import AdaptationOptions
from statshift.measuring.compare import compare
from statshift.models import import_value
from statshift.results import bits, summarise
from statshift.results.summary import BENCHMARK
from statshift.shifts import registry as registry_module
from statshift.shifts.attacks import Attack, PixelAttack, attack_images, parse_attack
from statshift.shifts.attacks.balls import BALLS
from statshift.shifts.attacks.pixels import random_offset
from statshift.shifts.conditions import import_shift, resolve
from statshift.shifts.corruptions.constants import TABLES
from statshift.shifts.registry import COMMON, CORRUPTIONS, HOLDOUT, KINDS, SHIFTS, averaged, family_of
from statshift.shifts.shift import CorruptionOptions, Shift

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy"),
]

measure = partial(statshift.measure, device="cpu", alexnet="none")

NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(8), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 10)).eval()
"""

FILES = ("DOTS", "BRIGHTEN", "MIRRORED")
"""What test_seams.py defines."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("own")
    (place / "build.py").write_text(NETWORK)
    return place


@pytest.fixture(scope="module")
def own():
    """The values, by name."""
    return {name: import_value(f"{test_seams.__file__}:{name}") for name in FILES}


@pytest.fixture(scope="module")
def model(folder):
    return load_model(f"py:{folder / 'build.py'}:build")


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=40)


def spec(name):
    return f"py:{test_seams.__file__}:{name}"


@torch.no_grad()
def right(model, images, labels):
    return (model(images).argmax(1) == labels).numpy()


# The registry


@pytest.mark.parametrize("entry", SHIFTS.values(), ids=lambda entry: entry.name)
def test_an_entry_tells_what_the_value_is(entry):
    value = entry.load()
    assert isinstance(value, Shift)
    assert (value.name, value.family, value.title) == (entry.name, entry.family, entry.title)
    assert value.options == entry.options
    on_disk = entry.options == ("dir",)
    assert (value.needs_model, value.reads, value.paired) == (entry.family == "attack", on_disk, not on_disk)
    made = entry.family in ("corruption", "c-bar") and not on_disk
    assert value.severities == ((1, 2, 3, 4, 5) if made else ())
    assert value.code() is None
    if on_disk:
        with pytest.raises(InputError, match=f"Expected the folder of {entry.name}, as {entry.name}:DIR"):
            value.spelled(entry.name, CorruptionOptions())


def test_the_registry_is_read_without_torch():
    tree = ast.parse(Path(registry_module.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"collections.abc", "statshift._core.registry"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]


def test_a_corruption_belongs_to_the_groups_of_its_entry():
    """A twentieth is neither common nor of the hold-out, unless it says so."""
    more = registry(*SHIFTS.values(), Entry("dots", "corruption", "", "", groups=("noise",)))
    assert members(more, "holdout") == HOLDOUT == ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    assert members(more, "common") == COMMON == BENCHMARK
    assert members(more, "noise") == (*KINDS["noise"], "dots")
    assert members(more, "corruption") == (*CORRUPTIONS, "dots")
    assert {*COMMON, *HOLDOUT} == set(TABLES["cifar"])
    assert set(CORRUPTIONS) == {name for kind in KINDS.values() for name in kind}


def test_one_mean_is_over_one_family():
    mixed = {"clean": "clean", "fog": "corruption", "snow": "corruption", "mine": "own", "sketch": "style"}
    assert averaged(mixed) == ["fog", "snow"]
    assert averaged({"a": "style", "b": "style"}) == ["a", "b"]
    assert averaged({"a": "style", "b": "own"}) == []
    assert averaged({"clean": "clean"}) == []
    held_out = {"saturate": "corruption", "spatter": "corruption", "mine": "own"}
    assert averaged({"fog": "corruption", **held_out}) == ["fog"]
    assert averaged(held_out) == ["saturate", "spatter"]
    assert [family_of(name) for name in ("fog", "pgd-l2:0.1:3", "mine", "clean")] == [
        *("corruption", "attack", "own", "clean"),
    ]


# Norm balls


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_ball_begins_and_ends_within_itself(norm):
    ball, shape, epsilon = BALLS[norm], (3, 5, 4), 0.3
    offsets = ball.offset(shape, epsilon, Draws(1, torch.arange(50), "pixel attack")).double()
    lengths = torch.linalg.vector_norm(offsets.flatten(1), ord=math.inf if norm == "linf" else 2, dim=1)
    assert (lengths <= epsilon * (1 + 1e-6)).all()
    assert lengths.max() > 0.9 * epsilon
    far = ball.project(torch.zeros(50, *shape).double(), epsilon)(100 * offsets)
    ends = torch.linalg.vector_norm(far.flatten(1), ord=math.inf if norm == "linf" else 2, dim=1)
    torch.testing.assert_close(ends, torch.full((50,), epsilon).double())
    assert ball.largest(48) == pytest.approx(1 if norm == "linf" else 48**0.5)


def test_a_third_norm_begins_in_its_own_ball(own, digits):
    images, attack = digits.tensors()[0], own["BRIGHTEN"].how
    offsets = random_offset(images, attack, Draws(0, torch.arange(len(images)), "pixel attack"))
    assert (offsets.min(), offsets.max()) >= (0, 0)
    assert float(offsets.min()) >= 0
    assert float(offsets.max()) <= 8 / 255
    assert float(offsets.mean()) == pytest.approx(4 / 255, rel=0.02)


# Shifts of one's own, in Python


def test_a_corruption_of_one_s_own_is_measured_as_by_hand(own, model, digits):
    found = measure(model, digits, shifts=["clean", own["DOTS"], "contrast"], severities=[1, 3])
    images, labels = digits.tensors()
    assert [(row["shift"], row["severity"]) for row in found.rows] == [
        *(("clean", 0), ("dots", 1), ("dots", 3), ("contrast", 1), ("contrast", 3)),
    ]
    for row, step in zip(found.rows[1:3], (16, 4), strict=True):
        dotted = images.clone()
        dotted[..., ::step, ::step] = 0
        assert bits(row).tolist() == right(model, dotted, labels).tolist()
    assert found.record["families"] == {"clean": "clean", "dots": "corruption", "contrast": "corruption"}
    assert list(found.record["functions"]) == ["dots"]
    assert ":dots(tables={'cifar': [{'step': 16}" in found.record["functions"]["dots"]


def test_a_norm_ball_of_one_s_own_attacks_as_by_hand(own, model, digits):
    found = measure(model, digits, shifts=["clean", own["BRIGHTEN"]])
    images, labels = digits.tensors()
    attack = own["BRIGHTEN"].how
    worst = attack_images(model, images, labels, attack, indices=torch.from_numpy(digits.indices))
    moved = worst - images
    assert float(moved.min()) >= 0
    assert 0 < float(moved.max()) <= 8 / 255 + 1e-6
    assert bits(found.rows[1]).tolist() == right(model, worst, labels).tolist()
    told = found.record["attacks"]["pgd-brighter:8/255"]
    assert (told["norm"], told["epsilon"], told["steps"]) == ("brighter", 8 / 255, 3)
    assert found.record["families"]["pgd-brighter:8/255"] == "attack"
    assert found.record["functions"]["pgd-brighter:8/255"].endswith(":Brighter")
    plain = measure(model, digits, shifts=["clean", "pgd-linf:8/255:3"]).record
    assert plain["functions"] == {}


def test_a_set_of_images_stands_alone(own, model, digits):
    """Its rows are over its own images; whatever is paired or averaged stays over the run's."""
    adaptation = AdaptationOptions(samples=8)
    run = partial(measure, model, digits, severities=[3], rectify=["replace"], adaptation=adaptation)
    found, without = run(shifts=["clean", own["MIRRORED"], "fog"]), run(shifts=["clean", "fog"])
    images, labels = load_data("digits:train", limit=25).tensors()
    source, adapted = (row for row in found.rows if row["shift"] == "mirrored")
    assert (source["images"], len(source["set"])) == (25, 16)
    assert bits(source).tolist() == right(model, images.flip(-1), labels).tolist()
    assert adapted["images"] == 25 - 8
    adapted_places = np.delete(np.arange(25), adapted["adapted_on"])
    assert adapted["adapted_on"] == adaptation_positions(np.arange(25), 8, 0, 0).tolist()
    assert [row for row in found.rows if row["shift"] != "mirrored"] == without.rows
    told = found.summary["protocols"]["source"]["per_shift"].pop("mirrored")
    assert told["images"] == 25
    assert told["accuracy"] == pytest.approx(bits(source).mean())
    paired = found.summary["protocols"]["replace"]
    assert paired["per_shift"].pop("mirrored")["images"] == 17
    assert paired["paired_source"]["per_shift"].pop("mirrored")["images"] == 17
    alone = found.summary["protocols"]["source"].pop("per_set")["mirrored"]
    assert (alone["family"], alone["images"], alone["accuracy"]) == ("natural", 25, told["accuracy"])
    again = paired.pop("per_set")["mirrored"]
    assert again["gain"]["accuracy"] == pytest.approx(again["accuracy"] - bits(source)[adapted_places].mean())
    assert found.summary == without.summary
    assert found.record["sets"]["mirrored"]["images"] == 25
    assert found.record["data"] == without.record["data"]


def test_rows_of_other_numbers_of_images_need_a_set():
    row = {"protocol": "source", "shift": "clean", "severity": 0, "draw": 0, "images": 3}
    with pytest.raises(InputError, match=r"got numbers of images \[3, 4\]"):
        summarise([row, {**row, "shift": "mine", "images": 4}])


def test_sets_are_compared_where_they_are_the_same(own, model, digits, tmp_path):
    other = another_set(own)
    shifts = {"first": own["MIRRORED"], "again": own["MIRRORED"], "other": other}
    for name, shift in shifts.items():
        measure(model, digits, shifts=["clean", shift], out=tmp_path / name, examples=0)
    compared = [[one.shift for one in compare(tmp_path / "first", tmp_path / name).conditions] for name in shifts]
    assert compared == [["clean", "mirrored"], ["clean", "mirrored"], ["clean"]]


def another_set(own):
    return type(own["MIRRORED"])("mirrored", load_data("digits:train", limit=25))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "fog"}, "The shift name 'fog' is taken"),
        ({"name": ""}, "Expected a `name` for the shift"),
        ({"name": "mine", "severities": (0, 1)}, "an integer from 1 to 5, but got 0"),
        ({"name": "mine", "paired": False}, "to read images of its own"),
    ],
)
def test_a_value_that_cannot_be_is_refused(change, told):
    with pytest.raises(InputError, match=told):
        resolve(type("Mine", (Shift,), change)())


def test_what_a_value_returns_is_checked(model, digits):
    class Bright(Shift):
        name, severities = "bright", (2, 4)

        def make(self, images, severity, **given):
            return images * severity

    with pytest.raises(InputError, match=r"the shift 'bright' to return pixels in \[0,1\]"):
        measure(model, digits, shifts=["clean", Bright()], severities=[4])
    with pytest.raises(InputError, match=r"bright has the severities \[2, 4\], none of \[3\]"):
        measure(model, digits, shifts=Bright(), severities=[3])


def test_labels_that_the_model_does_not_have_are_told(model, digits, own):
    images, labels = load_data("digits:train", limit=5).tensors()
    shift = type(own["MIRRORED"])("far", list(zip((images * 255).byte(), (labels + 9).tolist(), strict=True)))
    with pytest.raises(InputError, match="label"):
        measure(model, digits, shifts=["clean", shift])


# On the command line, and in a report


def test_the_command_and_the_report_tell_them_side_by_side(run, folder, tmp_path):
    shifts = ",".join(["clean", "fog", "fgsm:1/255", *(spec(name) for name in FILES)])
    words = ["measure", "--model", f"py:{folder / 'build.py'}:build", "--data", "digits", "--limit", 40]
    rectify, out = ("--rectify", "replace", "--samples", 8), tmp_path / "run"
    done = run(*words, "--shifts", shifts, "--severities", "3", *rectify, "--out", out)
    assert done.code == 0, done.err
    record = json.loads((out / "record.json").read_text())
    assert record["families"] == {
        "clean": "clean",
        "fog": "corruption",
        "fgsm:1/255": "attack",
        "dots": "corruption",
        "pgd-brighter:8/255": "attack",
        "mirrored": "natural",
    }
    assert record["titles"] == {"mirrored": "in the mirror"}
    assert record["own_severities"] == {"dots": [1, 2, 3, 4, 5], "pgd-brighter:8/255": [], "mirrored": []}
    per_shift = json.loads((out / "summary.json").read_text())["protocols"]["source"]["per_shift"]
    report = run("report", out, "--format", "markdown")
    assert report.code == 0, report.err
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in report.out.splitlines()]
    families = [line[1] for line in cells if line[0] in ("fog", "dots", "in the mirror") and line[1].isalpha()]
    assert families[:3] == ["weather", "corruption", "natural"]
    attacked = next(line for line in cells if line[:1] == ["subject"] and "fgsm:1/255" in line)
    assert "pgd-brighter:8/255" in attacked
    mean = 100 * per_shift["fog"]["accuracy"]
    assert any(line[0] == "source" and line[4::2] == [f"{mean:.1f}", "mean of fog at severity 3"] for line in cells)
    assert run("report", out, "--out", tmp_path / "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    assert "in the mirror" in page
    assert "not finished" not in page
    again = run(*words, "--shifts", shifts, "--severities", "3", *rectify, "--out", out)
    assert "nothing was measured again" in again.err


def test_a_name_of_a_file_may_be_a_value_a_class_or_a_function(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from statshift.shifts.shift import Shift\nclass Mine(Shift):\n    name = 'mine'\ndef flip(x):\n    return x\n"
    )
    assert import_shift(spec("DOTS")).name == "dots"
    assert import_shift(f"py:{tmp_path / 'mine.py'}:Mine").name == "mine"
    assert list(import_shift(f"py:{tmp_path / 'mine.py'}:flip")) == ["flip"]
    with pytest.raises(InputError, match="to be a shift or a function, but got list"):
        import_shift(spec("ROWS"))


def test_numbers_of_an_attack_are_a_value_too(model, digits):
    named = measure(model, digits, shifts=["clean", "pgd-linf:2/255:3"])
    given = measure(model, digits, shifts=["clean", Attack("pgd-linf:2/255:3", parse_attack("pgd-linf:2/255:3"))])
    assert given.rows == named.rows
    assert given.record["attacks"] == named.record["attacks"]
    assert isinstance(given.record["attacks"]["pgd-linf:2/255:3"], dict)
    assert PixelAttack(2 / 255, steps=3) == parse_attack("pgd-linf:2/255:3")
