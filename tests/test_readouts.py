"""The shift at each layer, read out beside the rows: what `diagnose` says of the same images."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import statshift
from statshift import corrupt, diagnose, load_data, load_model, read_run
from statshift._core.errors import InputError
from statshift.adapting.drawing import draw_images
from statshift.measuring import probes as readouts
from statshift.measuring.probes import highest_conditions
from statshift.shifts.conditions import Condition, resolve

measure = partial(statshift.measure, device="cpu", examples=0)

pytestmark = pytest.mark.filterwarnings("ignore:Clean accuracy is", "ignore:No frost photographs")


def network(norm=nn.BatchNorm2d):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(3, 8, 5, stride=2), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), norm(8), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(288, 10)),
        ).eval()


@pytest.fixture(scope="module")
def model():
    return load_model(network())


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=60)


def under(data, condition, images=32, seed=0):
    """Return the images that a protocol's first draw adapts on, under a condition, in another way than `measure`."""
    clean = draw_images(data, images, seed)
    name, _, severity = condition.partition(" ")
    if not severity:
        return 1 - clean if name == "negative" else clean
    positions = statshift.adapting.drawing.adaptation_positions(data.indices, images, seed, 0)
    return corrupt(clean, name, int(severity), seed=seed, indices=torch.from_numpy(data.indices[positions]))


@pytest.mark.parametrize("seed", [0, 5])
def test_the_readout_is_a_direct_diagnosis(model, digits, tmp_path, seed):
    shifts = ["clean", "fog", "gaussian_noise", {"negative": lambda images: 1 - images}, "fgsm:1/255"]
    options = statshift.CorruptionOptions(seed=seed)
    measure(model, digits, shifts=shifts, severities=[2, 4], options=options, rectify="replace", out=tmp_path)
    found = read_run(tmp_path).layers
    assert list(found["conditions"]) == ["clean", "fog 4", "gaussian_noise 4", "negative"]
    assert (found["images"], found["layers"]) == (32, ["1", "4"])
    for condition, one in found["conditions"].items():
        wanted = diagnose(model, under(digits, condition, seed=seed))
        np.testing.assert_allclose(one["shift"], wanted.shift, rtol=1e-5)
        np.testing.assert_allclose(one["noise"], wanted.noise, rtol=1e-5)
        assert one["number"] == pytest.approx(wanted.number, rel=1e-5)
        assert one["persisting"] == pytest.approx(wanted.persisting, abs=1e-5)
        assert one["sentence"] == wanted.sentence
    assert found["noise"] == found["conditions"]["clean"]["noise"]
    assert len({one["number"] for one in found["conditions"].values()}) == 4


def test_the_clean_images_are_read_out_though_they_are_not_measured(model, digits, tmp_path):
    found = measure(model, digits, shifts=["fog"], severities=[1, 5], out=tmp_path)
    layers = read_run(tmp_path).layers
    assert {row["shift"] for row in found.rows} == {"fog"}
    assert list(layers["conditions"]) == ["fog 5", "clean"]
    assert layers["noise"] == layers["conditions"]["clean"]["noise"] != layers["conditions"]["fog 5"]["noise"]


def test_fewer_images_are_all_taken(model, tmp_path):
    few = load_data("digits", limit=12)
    measure(model, few, shifts="clean", out=tmp_path)
    found = read_run(tmp_path).layers
    assert found["images"] == 12
    np.testing.assert_allclose(
        found["conditions"]["clean"]["shift"], diagnose(model, draw_images(few, 12)).shift, rtol=1e-5
    )


def test_a_single_image_has_no_noise_to_compare_with(model, tmp_path):
    measure(model, load_data("digits", limit=1), shifts="clean", out=tmp_path)
    assert read_run(tmp_path).layers is None


def test_models_without_running_norms_have_none(digits, tmp_path):
    for name, norm in (("group", partial(nn.GroupNorm, 4)), ("batch", partial(nn.BatchNorm2d, track_running_stats=0))):
        measure(network(norm), digits, shifts="clean", out=tmp_path / name)
        assert not (tmp_path / name / "layers.json").exists()


def test_the_highest_severity_is_read_out():
    wanted = [*(Condition("fog", severity) for severity in (3, 5, 1)), Condition("pgd-linf:1/255", 0)]
    shifts = {one.name: one for one in resolve(["fog", "pgd-linf:1/255"])}
    assert highest_conditions(wanted, shifts) == [Condition("clean", 0), Condition("fog", 5)]


def test_a_later_sitting_adds_what_is_missing(model, digits, tmp_path, monkeypatch):
    seen, own = [], readouts.diagnose
    monkeypatch.setattr(readouts, "diagnose", lambda model, images: seen.append(len(images)) or own(model, images))
    measure(model, digits, shifts=["clean", "fog"], severities=[1, 3], out=tmp_path)
    kept = json.loads((tmp_path / "layers.json").read_text())
    assert (len(seen), list(kept["conditions"])) == (2, ["clean", "fog 3"])
    measure(model, digits, shifts=["clean", "fog"], severities=[1, 3], out=tmp_path)
    assert len(seen) == 2
    measure(model, digits, shifts=["clean", "fog", "pixelate"], severities=[3, 5], out=tmp_path)
    grown = json.loads((tmp_path / "layers.json").read_text())
    assert (len(seen), list(grown["conditions"])) == (4, ["clean", "fog 3", "fog 5", "pixelate 5"])
    del grown["conditions"]["fog 5"], grown["conditions"]["pixelate 5"]
    assert grown == kept
    (tmp_path / "layers.json").unlink()
    rows = (tmp_path / "rows.jsonl").read_bytes()
    measure(model, digits, shifts=["clean", "fog"], severities=[1, 3], out=tmp_path)
    assert json.loads((tmp_path / "layers.json").read_text()) == kept
    assert (tmp_path / "rows.jsonl").read_bytes() == rows


@pytest.mark.parametrize("error", [InputError, RuntimeError, torch.OutOfMemoryError])
def test_a_failure_is_told_and_ends_no_run(model, digits, tmp_path, monkeypatch, error):
    own = readouts.diagnose

    def failing(model, images):
        if images.mean() > 0.5:
            raise error("the features before 1 are not finite")
        return own(model, images)

    monkeypatch.setattr(readouts, "diagnose", failing)
    shifts = ["clean", {"white": lambda images: images * 0 + 1}]
    with pytest.warns(UserWarning, match="Cannot read out the layers' shift: the features before 1 are not finite"):
        found = measure(model, digits, shifts=shifts, out=tmp_path)
    assert len(found.rows) == 2
    assert list(read_run(tmp_path).layers["conditions"]) == ["clean"]
    monkeypatch.setattr(readouts, "diagnose", own)
    measure(model, digits, shifts=shifts, out=tmp_path)
    assert list(read_run(tmp_path).layers["conditions"]) == ["clean", "white"]


def test_the_model_is_left_as_found(model, digits, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, digits, shifts=["clean", "fog"], severities=[5], out=tmp_path)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
