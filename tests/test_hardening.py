"""Hardening: the paper's numbers by default, weights that fit the architecture, a record, no harm in being killed."""

import json
import signal

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

import training_jobs
import warm
from statshift import load_data
from statshift._core.errors import InputError
from statshift.hardening.choosing import find, made
from statshift.hardening.harden import harden
from statshift.hardening.methods.advbn import AdvBN
from statshift.hardening.methods.auxiliary import AdvProp
from statshift.hardening.options import HardenOptions
from statshift.hardening.registry import METHODS
from statshift.hardening.training import TrainingOptions
from statshift.models import PixelModel, load_model, weights_hash
from statshift.shifts.attacks import FeatureAttack, PixelAttack
from training_jobs import build, build_dropout, harden_into

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = f"py:{training_jobs.__file__}:build"
TRAINING = TrainingOptions(epochs=1, batch_size=32, learning_rate=0.01)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits:train", limit=64)


def hardened(method, data, model=SPEC, training=TRAINING, out=None, options=None, **more):
    own = {"corruption": "contrast"} if method == "corrupted" else {}
    chosen = made(find(method), own)
    at = "act1" if chosen.needs_cut else None
    options = HardenOptions(chosen, at, training, **(options or {}))
    return harden(model, data, options, out=out, device="cpu", **more)


def metadata(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["statshift"])


# Options


def test_the_defaults_are_the_papers():
    options = HardenOptions(at="layer1")
    assert (options.method.name, options.branch) == ("advbn", "clean")
    training = options.training
    assert (training.epochs, training.batch_size, training.learning_rate, training.schedule) == (20, 256, 1e-3, "step")
    assert (training.momentum, training.nesterov, training.weight_decay, training.gamma) == (0.9, False, 1e-4, 1.0)
    assert (options.method.attack.steps, options.method.attack.step_size) == (6, 0.2)
    assert options.describe()["attack"]["epsilon"] == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "adbvn"}, "Did you mean 'advbn'"),
        ({"at": "act1", "branch": "advers"}, "Unknown branch"),
        ({"method": "cutmix", "branch": "adv"}, "cutmix has no adversarial branch"),
        ({}, "`at` to name the layer whose features advbn changes"),
        ({"method": "moex", "at": "input"}, "`at` to name the layer whose features moex changes"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(InputError, match=told):
        HardenOptions(**options)


def test_the_attacks_of_pixels_are_the_papers_or_a_users():
    attacks = {name: HardenOptions(name).method.attack for name in ("pixel-at", "advprop", "adversarial")}
    assert attacks == {
        "pixel-at": PixelAttack(1 / 255, 1 / 255, 3),
        "advprop": PixelAttack(4 / 255, 1 / 255, 5),
        "adversarial": PixelAttack(0.5, 0.1, 7, norm="l2"),
    }
    given = PixelAttack(epsilon=0.1, steps=5)
    described = HardenOptions(AdvProp(given)).describe()["attack"]
    assert (described["epsilon"], described["step_size"]) == (0.1, pytest.approx(0.05))
    for name in ("moex", "standard", "cutmix"):
        assert "attack" not in HardenOptions(name, at="act1").describe()


# Results


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_networks_of_the_architecture_and_a_record(method, digits, tmp_path):
    out = tmp_path / "out"
    done = hardened(method, digits, out=out)
    branches = ("clean", "adv") if find(method).dual else ("clean",)
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*(f"{branch}.safetensors" for branch in branches), ".lock", "checkpoint.pt", "record.json"]
    )
    images = next(digits.batches(16))[0].float() / 255
    assert not any(module.training for module in done.model.modules())
    for branch in branches:
        network = build(seed=9)
        network.load_state_dict(load_file(out / f"{branch}.safetensors"))
        with torch.no_grad():
            logits = PixelModel(network)(images)
            assert torch.equal(logits, done.branches.splits[branch].model(images))
            assert torch.equal(logits, done.model(images)) == (branch == "clean")
        assert done.record["weights_hash"][branch] == weights_hash(network)
    record = json.loads((out / "record.json").read_text())
    assert record == json.loads(json.dumps(done.record))
    assert record["model"]["weights_hash"] == weights_hash(build())
    assert record["model"]["spec"] == SPEC
    assert (record["data"]["spec"], record["data"]["images"]) == ("digits:train", 64)
    described = record["hardening"]
    assert (described["method"], described["branch"], described["reference"]) == (
        method,
        "clean",
        METHODS[method].summary,
    )
    epsilon = {"advbn": 1.1, "pixel-at": 1 / 255, "advprop": 4 / 255, "adversarial": 0.5}.get(method)
    assert described.get("attack", {}).get("epsilon") == (None if epsilon is None else pytest.approx(epsilon))
    assert described["training"]["augment"] == ("cutmix" if method == "cutmix" else "standard")
    assert [entry["epoch"] for entry in record["history"]] == [1]
    for branch in branches:
        kept = metadata(out / f"{branch}.safetensors")
        assert kept == {name: record[name] for name in ("model", "data", "hardening")} | {
            "branch": branch,
            "verb": "harden",
        }


def test_methods_find_different_weights(digits):
    hashes = [hardened(method, digits).record["weights_hash"]["clean"] for method in METHODS]
    assert len(set(hashes)) == len(METHODS)


def test_the_frozen_prefix_is_the_models_and_the_branch_is_the_one_chosen(digits, tmp_path):
    done = hardened("advbn", digits, out=tmp_path, options={"branch": "adv"})
    assert done.model is done.branches.adv
    assert done.path == tmp_path
    start = build().state_dict()
    for branch in ("clean", "adv"):
        state = load_file(tmp_path / f"{branch}.safetensors")
        changed = {name for name in state if not torch.equal(state[name], start[name])}
        assert changed == {name for name in start if "conv1" not in name and "bn1" not in name}
    both = [load_file(tmp_path / f"{branch}.safetensors") for branch in ("clean", "adv")]
    differing = {name for name in both[0] if not torch.equal(both[0][name], both[1][name])}
    assert differing == {name for name in start if name.startswith(("bn2", "bn3")) and "num_batches" not in name}


@pytest.mark.parametrize("wrap", [PixelModel, lambda network: network])
def test_a_module_is_trained_in_place_and_nothing_is_written_without_a_folder(wrap, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = build()
    done = hardened("advbn", digits, model=wrap(network))
    assert done.model.network is network
    assert all(parameter.grad is None and parameter.is_contiguous() for parameter in network.parameters())
    assert done.path is None
    assert not list(tmp_path.iterdir())
    assert weights_hash(network) == done.record["weights_hash"]["clean"] != weights_hash(build())


def test_data_by_spec_and_by_dataset_are_the_same(digits):
    images = next(digits.batches(64))[0]
    dataset = TensorDataset(images, torch.from_numpy(np.asarray(digits.labels)))
    by_spec = hardened("standard", "digits", data_options={"limit": 64})
    assert by_spec.record["data"]["indices_hash"] == hardened("standard", digits).record["data"]["indices_hash"]
    assert by_spec.record["weights_hash"] == hardened("standard", digits).record["weights_hash"]
    assert len(hardened("standard", dataset).record["history"]) == 1


@pytest.mark.filterwarnings("ignore:Clean accuracy is")  # it has hardly been trained
def test_validation_measures_both_branches_after_each_epoch(digits, tmp_path):
    training = TrainingOptions(epochs=2, batch_size=32, learning_rate=0.01)
    found = hardened(
        "advbn", digits, training=training, validation=digits, shifts=("clean", "brightness"), severities=(1, 5)
    )
    history = found.record["history"]
    assert [set(entry["validation"]) for entry in history] == [{"clean", "adv"}] * 2
    images, labels = next(digits.batches(64))[0].float() / 255, torch.from_numpy(digits.labels)
    for branch, one in found.branches.splits.items():
        accuracy = history[-1]["validation"][branch]
        assert set(accuracy) == {"clean", "brightness 1", "brightness 5"}
        with torch.no_grad():
            assert accuracy["clean"] == float((one.model(images).argmax(1) == labels).double().mean())
    without = hardened("advbn", digits, training=training)
    assert without.record["weights_hash"] == found.record["weights_hash"]


# Stopped, and going on


def contents(folder):
    """Return the record, and of each branch the weights' bits and the metadata, which has no order in the file."""
    found = {"record": json.loads((folder / "record.json").read_text())}
    for branch in ("clean", "adv"):
        path = folder / f"{branch}.safetensors"
        found[branch] = {name: value.numpy().tobytes() for name, value in load_file(path).items()}, metadata(path)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    harden_into(folder)
    return folder


@pytest.mark.parametrize(
    ("number", "at", "kept"),
    [
        (signal.SIGKILL, 2, 1),
        pytest.param(signal.SIGKILL, 4, 3, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 5, 5, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits(whole, tmp_path, number, at, kept):
    """Three steps an epoch, a checkpoint after each: one of the step before, and of an interrupted one."""
    ended = warm.run("harden", tmp_path, int(number), at, file=training_jobs.__file__)
    if number == signal.SIGKILL:
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    else:
        assert ended.returncode != 0
        assert ended.stderr.rstrip().endswith("KeyboardInterrupt")
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["checkpoint.pt"]
    seen = []
    harden_into(tmp_path, progress=seen.append)
    assert [step.step for step in seen] == list(range(kept + 1, 7))
    assert contents(tmp_path) == contents(whole)


def test_a_run_that_is_done_is_told_again(whole):
    before = contents(whole)
    harden_into(whole, progress=pytest.fail)
    assert contents(whole) == before


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"limit": 64}, r"differs in data\.images, data\.indices_hash"),
        ({"model": f"py:{training_jobs.__file__}:build"}, r"differs in model\.spec"),
    ],
)
def test_another_run_in_the_folder_is_refused(whole, more, told):
    with pytest.raises(InputError, match=told):
        harden_into(whole, **more)


def test_other_options_in_the_folder_are_refused_by_name(whole):
    data = load_data("digits:train", limit=96)
    training = TrainingOptions(epochs=3, batch_size=32, learning_rate=0.01, seed=3)
    options = HardenOptions(AdvBN(FeatureAttack(steps=5)), "act1", training)
    model = f"py:{training_jobs.__file__}:build_dropout"
    told = r"differs in hardening\.training\.epochs, hardening\.attack\.steps, hardening\.attack\.epsilon\."
    with pytest.raises(InputError, match=told):
        harden(model, data, options, out=whole, device="cpu")


def test_the_networks_are_loaded_by_the_command_lines_weights(whole):
    model = load_model(f"py:{training_jobs.__file__}:build_dropout", weights=whole / "adv.safetensors")
    expected = build_dropout()
    expected.load_state_dict(load_file(whole / "adv.safetensors"))
    assert weights_hash(model.network) == weights_hash(expected)
