"""Results as they are printed, as data frames, and what the commands say of what they took and wrote."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from statshift import (
    AdaptationOptions,
    Diagnosis,
    Hardened,
    InputError,
    compare,
    load_data,
    load_model,
    measure,
    read_run,
)
from statshift._core.tables import short_table, table
from statshift.making.corrupted import write_corrupted
from statshift.making.rectified import write_rectified
from statshift.shifts.conditions import Condition, CorruptionOptions

pytestmark = pytest.mark.filterwarnings("ignore:Clean accuracy")


def network(seed=0):
    torch.manual_seed(seed)
    body = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)]
    return load_model(nn.Sequential(*body).eval(), mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    asked = {"shifts": ["clean", "brightness"], "severities": [3], "rectify": "replace", "device": "cpu"}
    asked |= {"adaptation": AdaptationOptions(8, draws=1)}
    data = load_data("digits", limit=20)
    return [measure(network(seed), data, out=folder / str(seed), **asked) for seed in (0, 1)]


def test_a_short_table_is_its_first_and_last_rows():
    rows = [["name", "n"], *([f"row {number}", str(number)] for number in range(10))]
    assert short_table(rows[:9]) == table(rows[:9])
    lines = short_table(rows).splitlines()
    assert [line.split()[-1] for line in lines[2:]] == ["0", "1", "2", "3", "more", "6", "7", "8", "9"]
    assert lines[6] == "... 2 more"


def test_a_measurement_is_printed_as_a_table(runs):
    title, head, _, source, replaced = repr(runs[0]).splitlines()
    assert title.startswith("Measurement of torch.nn.modules.container.Sequential on digits")
    assert head.split() == ["protocol", "images", "clean", "shifted", "mean", "over"]
    rows = {(row["protocol"], row["shift"]): row["correct"] / row["images"] for row in runs[0].rows}
    for line, name, images in ((source, "source", "20"), (replaced, "replace", "12")):
        wanted = [name, images, *(f"{100 * rows[name, shift]:.1f}" for shift in ("clean", "brightness"))]
        assert line.split()[:4] == wanted


def test_a_comparison_is_printed_as_a_table(runs):
    found = compare(*(read_run(run.path) for run in runs))
    lines = repr(found).splitlines()
    assert lines[0] == "Comparison of source and source over 20 images, in %"
    for one in found.conditions:
        name = f"{one.shift} {one.severity}" if one.severity else one.shift
        (line,) = [line for line in lines if line.startswith(f"{name}  ")]
        first, second, difference = line.removeprefix(name).split()[:3]
        assert (float(first), float(second)) == (100 * one.accuracy.first, 100 * one.accuracy.second)
        assert difference == f"{100 * one.accuracy.difference:+.1f}"


def test_a_diagnosis_and_a_hardened_model_are_printed_as_tables():
    found = Diagnosis([f"bn{n}" for n in range(12)], np.arange(12.0), np.ones(12), 32, 0.5, 32.0)
    lines = repr(found).splitlines()
    assert lines[0] == f"Diagnosis of 32 images: {found.sentence}"
    assert lines[3].split() == ["bn0", "0.000", "1.000", "0.0"]
    assert lines[-1].split() == ["bn11", "11.000", "1.000", "11.0"]
    assert lines[7] == "... 4 more"
    history = [{"epoch": number, "losses": {"clean": 1 / number}} for number in (1, 2)]
    hardened = Hardened(nn.Identity(), None, {"model": {"spec": "cifar:resnet20"}, "history": history}, None)
    assert repr(hardened).splitlines()[0] == "Hardened cifar:resnet20, written to None"
    assert [line.split() for line in repr(hardened).splitlines()[3:]] == [["1", "1.0000"], ["2", "0.5000"]]


def test_rows_as_a_data_frame(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    lines = runs[0].to_pandas()
    assert [line["protocol"] for line in lines] == ["source", "replace"] * 2
    assert [line["accuracy"] for line in lines] == [row["correct"] / row["images"] for row in runs[0].rows]
    assert all(isinstance(value, str | int | float) for line in lines for value in line.values())
    assert "bits" not in lines[0]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="The package pandas is needed here: pip install pandas"):
        runs[0].to_pandas()


def test_a_rectified_file_is_not_overwritten_unasked(tmp_path):
    data, out = load_data("digits", limit=20), tmp_path / "night.safetensors"
    asked = {"protocol": "replace", "options": AdaptationOptions(8)}
    write_rectified(network(0), data, out, **asked)
    first = out.read_bytes()
    with pytest.raises(InputError, match=r"night\.safetensors is there: give another `out`, or `overwrite`\."):
        write_rectified(network(1), data, out, **asked)
    assert out.read_bytes() == first
    write_rectified(network(1), data, out, overwrite=True, **asked)
    assert out.read_bytes() != first


def test_corrupted_images_keep_the_names_of_their_sources(tmp_path):
    names = ["b/two.png", "a/one.png", "b/one.png"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "in" / name)
    for layout in ("arrays", "jpeg"):
        out = tmp_path / layout
        options = {"options": CorruptionOptions(), "device": torch.device("cpu")}
        write_corrupted(load_data(f"folder:{tmp_path / 'in'}"), [Condition("clean", 0)], out, layout=layout, **options)
        wanted = {f"{n:08d}": str(tmp_path / "in" / name) for n, name in enumerate(sorted(names))}
        assert json.loads((out / "names.json").read_text()) == wanted
    assert sorted(path.stem for path in (tmp_path / "jpeg/clean").rglob("*.JPEG")) == list(wanted)
