"""Training from scratch: seeded weights, the papers' numbers, histories beside measures, robustness, no harm by a kill.

Run as a program it trains until it kills itself: `python test_scratch.py METHOD STEP FOLDER`.
"""

import json
import os
import signal
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import warm
from statshift import load_data, load_model, measure, train_from_scratch
from statshift._core.errors import InputError
from statshift.adapting.drawing import adaptation_positions
from statshift.hardening.choosing import find, made
from statshift.hardening.from_scratch import (
    ADVERSARIAL,
    FEATURES,
    IMAGENET,
    ONE_CYCLE,
    PAPER,
    RESNET50,
    TARGETS,
    build,
)
from statshift.hardening.landscape import landscape, step_sizes_around
from statshift.hardening.methods.adversarial import Adversarial
from statshift.hardening.methods.corrupted import Corrupted
from statshift.hardening.methods.ligs import LigsRegularised
from statshift.hardening.methods.standard import Standard
from statshift.hardening.options import HardenOptions
from statshift.hardening.registry import TRAINED
from statshift.hardening.training import TrainingOptions
from statshift.measuring.ligs import LigsOptions, ligs
from statshift.models import weights_hash
from statshift.shifts.attacks import PixelAttack

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy"),
]

LINF = PixelAttack(4 / 255, 2 / 255, 3)


def network(norm="batch", num_classes=10):
    """Return a small network, as `py:FILE:network` names it."""

    def block(inputs, outputs, side, stride):
        made = nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(4, outputs)
        return [nn.Conv2d(inputs, outputs, side, stride, side // 2), made, nn.ReLU()]

    return nn.Sequential(*block(3, 12, 5, 3), *block(12, 24, 3, 2), nn.Flatten(), nn.Linear(24 * 36, num_classes))


def plain():
    """Return a network without a choice of norm."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))


SPEC = f"py:{__file__}:network"


def options(method, **changes):
    numbers = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, "schedule": "one-cycle", "checkpoint_every": 0}
    own = {"corruption": "contrast"} if method == "corrupted" else {}
    own |= {"attack": LINF} if method == "adversarial" else {}
    return HardenOptions(made(find(method), own), training=TrainingOptions(**{**numbers, **changes}))


def trained(method, out=None, limit=48, training=None, **more):
    data = load_data("digits:train", limit=limit)
    return train_from_scratch(SPEC, data, options(method, **(training or {})), out=out, device="cpu", **more)


# Weights


@pytest.mark.parametrize("spec", ["cifar:resnet20", SPEC, "torchvision:squeezenet1_1@IMAGENET1K_V1", "timm:resnet10t"])
def test_a_seed_s_weights_are_its_own_whatever_was_drawn_before(spec):
    hashes = []
    for seed in (0, 0, 1):
        torch.rand(seed + 3)
        state = torch.get_rng_state()
        hashes.append(weights_hash(build(spec, seed=seed).network))
        assert torch.equal(torch.get_rng_state(), state)
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_weights_are_those_of_torch_s_generator_with_the_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = network()
    assert weights_hash(build(SPEC, seed=7).network) == weights_hash(expected)


@pytest.mark.parametrize("method", TRAINED)
def test_training_begins_at_the_seed_s_weights(method):
    found = trained(method, limit=16, training={"epochs": 1, "seed": 5, "augment": "standard"})
    assert found.record["model"]["weights_hash"] == weights_hash(build(SPEC, seed=5).network)
    assert found.record["hardening"]["method"] == method
    assert (found.record["hardening"]["at"], found.record["weights_hash"].keys()) == ("input", {"clean"})
    assert found.record["weights_hash"]["clean"] == weights_hash(found.model.network)
    assert found.record["weights_hash"]["clean"] != found.record["model"]["weights_hash"]


@pytest.mark.parametrize("norm", ["none", "batch", "instance", "layer", "group"])
def test_the_norm_reaches_the_network(norm):
    model = build("cifar:resnet20", {"norm": norm, "num_classes": 4})
    kinds = {type(module) for module in model.modules() if "Norm" in type(module).__name__}
    expected = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "layer": nn.GroupNorm, "group": nn.GroupNorm}
    assert kinds == ({expected[norm]} if norm in expected else set())
    groups = {module.num_groups == 1 for module in model.modules() if isinstance(module, nn.GroupNorm)}
    assert groups == {"layer": {True}, "group": {False}}.get(norm, set())
    assert model.num_classes == 4
    with torch.no_grad():
        assert model(torch.rand(1, 3, 32, 32)).shape == (1, 4)


@pytest.mark.parametrize(
    ("spec", "arguments", "told"),
    [
        (f"py:{__file__}:plain", {"norm": "group"}, r" does not take the model arguments \{'norm': 'group'\}: "),
        ("torchvision:resnet18@none", {"width": 2}, r" does not take the model arguments \{'width': 2\}: "),
        ("torchvision:resnet18@none", {"norm": "grop"}, r"Unknown norm 'grop'\. Did you mean 'group'"),
        ("cifar:resnet20", {"norm": "grop"}, r"Unknown norm 'grop'\. Did you mean 'group'"),
        ("torchvision:alexnet@none", {"norm": "group"}, "Expected a model with batch, instance or group norms to exch"),
    ],
)
def test_arguments_that_a_network_does_not_take_are_told(spec, arguments, told):
    with pytest.raises(InputError, match=told) as error:
        build(spec, arguments)
    assert "\n" not in str(error.value)


# Numbers


@pytest.mark.parametrize(
    ("training", "batch_size", "rates", "weight_decay", "augment"),
    [
        (PAPER, 128, {0: 1e-2, 199: 1e-2, 200: 1e-3, 299: 1e-3}, 5e-4, "standard"),
        (RESNET50, 128, {0: 0.1, 149: 0.1, 150: 0.01, 249: 0.01, 250: 0.001, 349: 0.001}, 5e-4, "standard"),
        (ADVERSARIAL, 128, {0: 1e-2, 99: 1e-2, 100: 1e-3, 149: 1e-3}, 5e-4, "standard"),
        (FEATURES, 128, {0: 1e-2, 49: 1e-2, 50: 1e-3, 100: 1e-4, 149: 1e-4}, 5e-4, "standard"),
        (TARGETS, 128, {0: 0.1, 49: 0.1, 50: 0.01, 100: 0.001, 149: 0.001}, 5e-4, "none"),
        (IMAGENET, 256, {0: 0.1, 29: 0.1, 30: 0.01, 60: 0.001, 89: 0.001}, 1e-4, "standard"),
    ],
)
def test_the_papers_numbers(training, batch_size, rates, weight_decay, augment):
    assert training.epochs == max(rates) + 1
    assert (training.batch_size, training.weight_decay, training.augment) == (batch_size, weight_decay, augment)
    assert (training.optimizer, training.momentum, training.nesterov) == ("sgd", 0.9, False)
    for epoch, rate in rates.items():
        for step in (0, 6):
            assert training.rate(7 * epoch + step, 7) == pytest.approx(rate)


def test_the_attack_of_adversarial_training_is_the_paper_s():
    assert HardenOptions("adversarial").method.attack == PixelAttack(0.5, 0.1, 7, norm="l2")


def test_one_cycle_ends_at_nothing():
    rates = [ONE_CYCLE.rate(step, 10) for step in range(300)]
    assert max(rates) == pytest.approx(0.02, rel=0.02)
    assert rates[-1] < 0.001
    assert np.argmax(rates) < 150


# Histories


def test_the_history_holds_accuracy_ligs_and_landscape_of_each_epoch():
    data, validation = load_data("digits:train", limit=48), load_data("digits", limit=40)
    found = trained(
        "standard", validation=validation, shifts=("clean", "fgsm:4/255"), ligs=["gaussian", "fgsm"], landscape=True
    )
    history = found.record["history"]
    assert [entry["epoch"] for entry in history] == [1, 2]
    for entry in history:
        accuracies = {"clean", "fgsm:4/255", "LIGS gaussian", "LIGS fgsm"}
        assert entry["validation"]["clean"].keys() == accuracies
        assert entry["validation"].keys() == {"clean", "landscape"}
    assert found.record["validation"]["ligs"] == ["gaussian", "fgsm"]
    last, model = history[-1]["validation"], found.model
    rows = measure(model, validation, shifts=["clean", "fgsm:4/255"], device="cpu").rows
    for row in rows:
        assert last["clean"][row["shift"]] == row["correct"] / 40
    (pixels, _), *_ = validation.batches(40)
    for name in ("gaussian", "fgsm"):
        labels, indices = torch.from_numpy(validation.labels), torch.from_numpy(validation.indices)
        expected = ligs(model, pixels.float() / 255, labels, LigsOptions(name), indices=indices).mean
        assert last["clean"][f"LIGS {name}"] == pytest.approx(expected, rel=1e-5)
    ((pixels, positions),) = data.groups([adaptation_positions(data.indices, 16, 0, 0)])
    labels = torch.from_numpy(data.labels[positions])
    walk = landscape(model, pixels.float() / 255, labels, step_sizes=step_sizes_around(0.05)).describe()
    for name in ("step_sizes", "losses", "gradient_changes", "loss", "gradient_norm", "smoothness"):
        assert last["landscape"][name] == pytest.approx(walk[name], rel=1e-3), name
    assert history[0]["validation"]["landscape"]["loss"] != last["landscape"]["loss"]
    alone = trained("standard")
    assert alone.record["weights_hash"] == found.record["weights_hash"]  # what is looked at changes nothing
    assert "validation" not in alone.record["history"][0]


def dead():
    """Return a network none of whose features ever fires."""
    conv = nn.Conv2d(3, 4, 3)
    nn.init.constant_(conv.bias, -1e3)
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


def test_a_dead_network_has_accuracies_and_no_more():
    """Neither attacks nor LIGS say anything of it; its training goes on."""
    validation = load_data("digits", limit=20)
    found = train_from_scratch(
        f"py:{__file__}:dead",
        load_data("digits:train", limit=32),
        options("standard"),
        device="cpu",
        validation=validation,
        shifts=("fgsm:4/255", "clean", "contrast"),
        severities=(5,),
        ligs=["gaussian"],
    )
    for entry in found.record["history"]:
        accuracy = entry["validation"]["clean"]
        assert accuracy["clean"] == accuracy["contrast 5"] == 0.1  # one class of ten
        assert accuracy["fgsm:4/255"] is accuracy["LIGS gaussian"] is None


@pytest.mark.parametrize("change", [{"ligs": ["gausian"]}, {"shifts": ["pgd-linf:8"]}, {"shifts": ["pdg-linf:0.1"]}])
def test_what_cannot_be_measured_is_told_before_an_epoch(change):
    validation = load_data("digits", limit=20)
    with pytest.raises(
        InputError, match=r"^(Unknown (perturbation 'gausian'|shift 'pdg)|Expected `epsilon` in \[0,1\])"
    ):
        trained("standard", validation=validation, progress=pytest.fail, **change)


def test_ligs_needs_validation_images():
    with pytest.raises(InputError, match="Expected validation images to measure LIGS on"):
        trained("standard", ligs=["gaussian"], progress=pytest.fail)


# What training does


@pytest.fixture(scope="module")
def robust():
    """Accuracies, clean and attacked, and LIGS, by method: as many steps of as many images."""
    test, found = load_data("digits", limit=200), {}
    training = {"epochs": 5, "batch_size": 50, "augment": "none"}
    attack = PixelAttack(1.5, 0.75, 3, norm="l2")
    for method in (Standard(), Adversarial(attack)):
        chosen = HardenOptions(method, training=options("standard", **training).training)
        data = load_data("digits:train", limit=600)
        model = train_from_scratch(SPEC, data, chosen, device="cpu").model
        done = measure(model, test, shifts=["clean", "pgd-l2:1.5:10"], ligs=["gaussian"], device="cpu")
        found[method.name] = [row["correct"] / 200 for row in done.rows], done.summary["ligs"]["gaussian"]["mean"]
    return found


def test_adversarial_training_withstands_more_than_standard_training(robust):
    (clean, attacked), _ = robust["standard"]
    (robust_clean, robust_attacked), _ = robust["adversarial"]
    assert min(clean, robust_clean) > 0.85
    assert robust_attacked > attacked + 0.1


def test_adversarial_training_raises_ligs(robust):
    """Benz et al., ICLR 2021 submission, section 4.2."""
    assert robust["adversarial"][1] > robust["standard"][1]


def test_the_regularizer_raises_ligs():
    data, test, found = load_data("digits:train", limit=300), load_data("digits", limit=100), {}
    (pixels, _), *_ = test.batches(100)
    images, labels, nu = pixels.float() / 255, torch.from_numpy(test.labels), LigsOptions("gaussian", 0.05)
    training = options("ligs", epochs=4, batch_size=50, augment="none").training
    for weight in (1e-9, 10.0):
        chosen = HardenOptions(LigsRegularised(nu, weight), training=training)
        done = train_from_scratch(SPEC, data, chosen, device="cpu")
        assert done.record["hardening"]["ligs"] == {"perturbation": "gaussian", "scale": 0.05, "weight": weight}
        found[weight] = 1 - ligs(done.model, images, labels, nu).mean
        assert (done.model(images).argmax(1) == labels).float().mean() > 0.8
    assert found[10.0] < 0.75 * found[1e-9]


def test_a_weight_of_next_to_nothing_is_standard_training():
    data = load_data("digits:train", limit=32)
    training = options("ligs", epochs=1, augment="none").training
    chosen = (
        HardenOptions(LigsRegularised(weight=1e-12), training=training),
        HardenOptions("standard", training=training),
    )
    regularised, standard = (train_from_scratch(SPEC, data, one, device="cpu").model for one in chosen)
    for (name, ours), theirs in zip(
        regularised.network.state_dict().items(), standard.network.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)


def test_corrupted_training_is_best_where_it_trained():
    found = {}
    for method in (Standard(), Corrupted("contrast", 5)):
        training = options("standard", epochs=4, batch_size=50, augment="none").training
        data = load_data("digits:train", limit=300)
        model = train_from_scratch(SPEC, data, HardenOptions(method, training=training), device="cpu").model
        (row,) = measure(model, load_data("digits", limit=100), shifts=["contrast"], severities=[5], device="cpu").rows
        found[method.name] = row["correct"]
    assert found["corrupted"] > found["standard"] + 20


# A kill


def without_header(path):
    """Return the bytes of a safetensors file behind its header, whose metadata have no order, and the header."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return content[end:], json.loads(content[8:end])


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
@pytest.mark.parametrize(
    ("method", "step"), [("ligs", 2), *(pytest.param("adversarial", step, marks=pytest.mark.slow) for step in (4, 3))]
)
def test_killed_and_started_again_it_ends_with_the_same_weights(method, step, tmp_path):
    """Three steps an epoch, a checkpoint after each; it dies before the one of this step."""
    ended = warm.run(method, step, tmp_path / "killed", file=__file__)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (tmp_path / "killed" / "checkpoint.pt").exists()
    assert not (tmp_path / "killed" / "clean.safetensors").exists()
    seen, watch = [], {"validation": load_data("digits", limit=20)}
    trained(method, tmp_path / "killed", progress=seen.append, **watch)
    assert [at.step for at in seen] == list(range(step, 7))
    whole = trained(method, tmp_path / "whole", **watch)
    one, other = (without_header(tmp_path / name / "clean.safetensors") for name in ("killed", "whole"))
    assert one == other
    records = [json.loads((tmp_path / name / "record.json").read_bytes()) for name in ("killed", "whole")]
    assert records[0] == records[1]
    tensors = load_file(tmp_path / "killed" / "clean.safetensors")
    for name, value in whole.model.network.state_dict().items():
        assert torch.equal(tensors[name], value), name


def test_the_weights_load_by_spec(tmp_path):
    found = trained("adversarial", tmp_path, training={"epochs": 1})
    loaded = load_model(SPEC, weights=tmp_path / "clean.safetensors")
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), found.model(images))


if __name__ == "__main__":
    method, last, folder = sys.argv[1:]

    def kill(at):
        if at.step == int(last):
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    trained(method, folder, progress=kill, validation=load_data("digits", limit=20))
