"""`statshift train`: what it prints and writes, the options that reach the training, and bad input in one line."""

import json
import re

import pytest
import torch
from torch import nn

from statshift import HardenOptions, PixelAttack, TrainingOptions, load_data, load_model, measure, train_from_scratch
from statshift.hardening.choosing import find, made
from statshift.hardening.from_scratch import ONE_CYCLE, build
from statshift.hardening.registry import TRAINED
from statshift.models import weights_hash

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy"),
]

MODEL_FILE = """
from torch import nn

def build(norm="batch", classes=10):
    made = nn.BatchNorm2d(6) if norm == "batch" else nn.GroupNorm(2, 6)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=4), made, nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, classes)
    )

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "models.py"
    path.write_text(MODEL_FILE)
    return f"py:{path}:build"


@pytest.fixture
def train(run, model, tmp_path):
    """Run train on 48 digits for one epoch, other options as given."""

    def call(*words):
        base = ["--model", model, "--data", "digits", "--limit", 48, "--epochs", 1, "--batch-size", 16]
        return run("train", *base, "--device", "cpu", "--out", tmp_path / "out", *words)

    return call


def written(path):
    return json.loads((path / "out" / "record.json").read_bytes())


# What is trained


def trained(model, method="standard", norm=None, **changes):
    """Return what the library trains with the numbers of these tests."""
    numbers = {"epochs": 1, "batch_size": 16, "learning_rate": 0.02, "schedule": "one-cycle", "nesterov": True}
    own = {name: changes.pop(name) for name in ("attack", "corruption", "severity", "weight") if name in changes}
    training = TrainingOptions(**{**numbers, "weight_decay": 5e-4, "augment": "standard", **changes})
    data = load_data("digits:train", limit=48, seed=training.seed)
    arguments = {} if norm is None else {"norm": norm}
    options = HardenOptions(made(find(method), own), training=training)
    return train_from_scratch(model, data, options, model_args=arguments, device="cpu")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["--norm", "group"], {"norm": "group"}),
        (["--method", "adversarial"], {"method": "adversarial", "attack": PixelAttack(0.5, 0.1, 7, norm="l2")}),
        (
            ["--method", "adversarial", "--attack", "pgd-linf:8/255:2", "--step-size", 0.02],
            {"method": "adversarial", "attack": PixelAttack(8 / 255, 0.02, 2)},
        ),
        (
            ["--method", "adversarial", "--attack", "pgd-l2:0.5:3"],
            {"method": "adversarial", "attack": PixelAttack(0.5, None, 3, norm="l2")},
        ),
        (
            ["--method", "corrupted", "--corruption", "fog:4"],
            {"method": "corrupted", "corruption": "fog", "severity": 4},
        ),
        (
            ["--method", "corrupted", "--corruption", "contrast"],
            {"method": "corrupted", "corruption": "contrast", "severity": 3},
        ),
        (["--method", "ligs", "--ligs-weight", 0.3], {"method": "ligs", "weight": 0.3}),
        (
            ["--optimizer", "adam", "--learning-rate", 0.01, "--seed", 4, "--augment", "none"],
            {"optimizer": "adam", "learning_rate": 0.01, "nesterov": False, "seed": 4, "augment": "none"},
        ),
        (
            ["--schedule", "step", "--decay-epochs", "1, 2", "--epochs", 3, "--weight-decay", 0],
            {"schedule": "step", "decay_epochs": (1, 2), "epochs": 3, "weight_decay": 0.0, "nesterov": False},
        ),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_the_options_reach_the_training(train, model, tmp_path, words, expected):
    done = train(*words)
    assert done.code == 0, done.err
    library = trained(model, **expected)
    record = written(tmp_path)
    assert record["weights_hash"] == library.record["weights_hash"]
    assert record["hardening"] == json.loads(json.dumps(library.record["hardening"]))
    assert record["history"] == json.loads(json.dumps(library.record["history"]))
    loss = "adv" if expected.get("method") == "adversarial" else "clean"
    for entry in record["history"]:
        cells = rf"^{entry['epoch']}\s+{entry['learning_rate']:.2g}\s+{entry['losses'][loss]:.4f}"
        assert re.search(cells, done.out, re.M), done.out
    out = tmp_path / "out"
    built = " --model-args norm=group" if "--norm" in words else ""
    assert done.out.endswith(
        f"Written to {out}: clean.safetensors, record.json; load it into the same architecture with\n"
        f"--model {model}{built} --weights {out}/clean.safetensors, as in statshift measure.\n"
    )


def test_the_defaults_are_a_cycle_of_standard_training(run, model, tmp_path, monkeypatch):
    """Without any option, of which the epochs alone are cut short here."""
    seen = []

    def harden(network, data, options, **more):
        seen.append((network, data, options, more))
        raise KeyboardInterrupt

    monkeypatch.setattr("statshift.hardening.harden.harden", harden)
    assert run("train", "--model", model, "--data", "digits", "--out", tmp_path / "out").code == 130
    ((network, data, options, more),) = seen
    assert options == HardenOptions("standard", training=ONE_CYCLE)
    assert weights_hash(network.network) == weights_hash(build(model).network)
    assert (data, more["validation"], more["shifts"], more["ligs"], more["landscape"]) == (
        "digits",
        None,
        ["clean"],
        [],
        False,
    )


@pytest.mark.parametrize("norm", ["group", "none", "batch"])
def test_the_norm_reaches_a_network_of_the_zoo(run, tmp_path, norm):
    words = ["--model", "cifar:resnet20", "--norm", norm, "--data", "digits", "--limit", 20, "--epochs", 1]
    done = run(
        "train", *words, "--batch-size", 10, "--learning-rate", 0.01, "--device", "cpu", "--out", tmp_path / "out"
    )
    assert done.code == 0, done.err
    weights = tmp_path / "out" / "clean.safetensors"
    loaded = load_model("cifar:resnet20", model_args={"norm": norm}, weights=weights)
    kinds = {type(module) for module in loaded.modules() if "Norm" in type(module).__name__}
    assert kinds == {"group": {nn.GroupNorm}, "none": set(), "batch": {nn.BatchNorm2d}}[norm]
    assert written(tmp_path)["weights_hash"]["clean"] == weights_hash(loaded.network)
    assert written(tmp_path)["model"]["arguments"] == {"norm": repr(norm)}


def test_validation_is_measured_and_printed_after_each_epoch(train, model, tmp_path):
    words = ["--epochs", 2, "--validation", "digits", "--validation-limit", 30, "--landscape"]
    words += ["--shifts", "clean,contrast,fgsm:2/255", "--severities", "4", "--ligs", "gaussian"]
    done = train(*words)
    assert done.code == 0, done.err
    record = written(tmp_path)
    network = load_model(model, weights=tmp_path / "out" / "clean.safetensors")
    found = measure(
        network,
        load_data("digits", limit=30),
        shifts=["clean", "contrast", "fgsm:2/255"],
        severities=[4],
        ligs=["gaussian"],
        device="cpu",
    )
    accuracy = [row["correct"] / 30 for row in found.rows]
    similarity = found.summary["ligs"]["gaussian"]["mean"]
    last = record["history"][-1]["validation"]
    names = ["clean", "contrast 4", "fgsm:2/255", "LIGS gaussian"]
    assert last["clean"] == dict(zip(names, [*accuracy, pytest.approx(similarity)], strict=True))
    lines = done.out.splitlines()
    head = ["epoch", "last rate", "loss clean", *(f"clean: {name}" for name in names)]
    assert re.split(r"\s{2,}", lines[0]) == head
    cells = [*(f"{100 * value:.1f}" for value in accuracy), f"{similarity:.3f}"]
    assert lines[3].split()[-4:] == cells
    assert [entry["validation"].keys() for entry in record["history"]] == [{"clean", "landscape"}] * 2
    assert len(last["landscape"]["losses"]) == 8
    assert record["validation"]["shifts"] == ["clean", "contrast", "fgsm:2/255"]


def test_without_a_terminal_every_epoch_is_announced(train):
    said = train("--epochs", 3).err.splitlines()
    assert [line for line in said if line.endswith("is done.")] == [f"Epoch {n} of 3 is done." for n in (1, 2, 3)]


def test_a_finished_training_says_so_and_another_is_refused(train, tmp_path):
    first = train()
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.suffix != ".safetensors"}
    again = train()
    assert (again.code, again.out) == (0, first.out)
    assert again.err == "Every epoch was finished before; nothing was trained again.\n"
    other = train("--seed", 1)
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "is of another training: it differs in model.weights_hash" in other.err
    for name, content in files.items():
        assert (tmp_path / "out" / name).read_bytes() == content, name


def test_the_random_weights_are_no_matter_of_what_was_drawn_before(train, tmp_path):
    hashes = []
    for number in (1, 5):
        torch.rand(number)
        assert train("--out", tmp_path / f"{number}").code == 0
        hashes.append(json.loads((tmp_path / f"{number}" / "record.json").read_bytes())["weights_hash"])
    assert hashes[0] == hashes[1]


# Bad input


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "adversrial"], r"Unknown method 'adversrial'\. Did you mean 'adversarial'"),
        (["--method", "advbn"], rf"Unknown method 'advbn'.*Choose from: {', '.join(TRAINED)}\."),
        (["--norm", "group", "--model", "{model}:plain"], r"does not take the model arguments \{'norm': 'group'\}"),
        (["--norm", "grop", "--model", "cifar:resnet20"], r"Unknown norm 'grop'\. Did you mean 'group'"),
        (["--optimizer", "sgdm"], r"Unknown optimizer 'sgdm'\. Did you mean 'sgd'"),
        (["--schedule", "cosin"], r"Unknown schedule 'cosin'\. Did you mean 'cosine'"),
        (["--augment", "mixup"], r"Unknown augment 'mixup'"),
        (["--schedule", "step", "--decay-epochs", "ten"], r"Expected --decay-epochs as whole numbers .*but got 'ten'"),
        (
            ["--schedule", "step", "--decay-epochs", "1"],
            r"Expected --decay-epochs to ascend from 1 to below the 1 epoch",
        ),
        (["--decay-epochs", "1", "--epochs", "3"], r"Expected no --decay-epochs for the schedule one-cycle"),
        (["--method", "corrupted"], r"Expected --corruption, which the method corrupted trains on\."),
        (["--method", "corrupted", "--corruption", "fogg"], r"Unknown corruption 'fogg'\. Did you mean 'fog'"),
        (["--method", "corrupted", "--corruption", "fog:6"], r"Expected `severity` to be an integer from 1 to 5"),
        (
            ["--method", "corrupted", "--corruption", "fog:x"],
            r"Expected --corruption as NAME or NAME:SEVERITY, but got",
        ),
        (["--method", "corrupted", "--corruption", "fog:1,2"], r"Expected --corruption as NAME or NAME:SEVERITY"),
        (["--corruption", "fog"], r"Expected no --corruption for the method standard: that is of corrupted\."),
        (["--method", "adversarial", "--attack", "autoattack-linf:1/255"], r"Expected --attack to train against to be"),
        (["--method", "adversarial", "--attack", "cw-linf:1/255"], r"Expected an attack on the cross-entropy"),
        (["--method", "adversarial", "--attack", "pgd-linf"], r"Expected the attack as pgd-linf:EPSILON\[:STEPS\]"),
        (["--method", "adversarial", "--attack", "pgd-linf:8"], r"so 8 of 255 levels is 8/255"),
        (["--method", "adversarial", "--step-size", "0"], r"Expected --step-size above 0"),
        (["--attack", "pgd-linf:1/255"], r"Expected no --attack for the method standard: that is of adversarial\."),
        (
            ["--step-size", "0.1", "--method", "ligs"],
            r"Expected no --step-size for the method ligs: that is of advbn, ",
        ),
        (["--ligs-weight", "2"], r"Expected no --ligs-weight for the method standard: that is of ligs\."),
        (["--method", "ligs", "--ligs-weight", "0"], r"Expected `weight` above 0, but got 0\.0\."),
        (["--method", "ligs", "--augment", "augmix"], r"has no place for augmix"),
        (["--shifts", "fog"], r"Expected --validation, the images that --shifts is of\."),
        (["--ligs", "gaussian"], r"Expected validation images to measure LIGS on\."),
        (["--validation-limit", "9"], r"Expected no --validation-limit without --validation\."),
        (["--validation", "digits", "--ligs", "gausian"], r"Unknown perturbation 'gausian'\. Did you mean 'gaussian'"),
        (["--validation", "digits", "--shifts", "pdg-linf:1/255"], r"Unknown shift 'pdg-linf:1/255'"),
        (["--validation", "digits", "--shifts", "pgd-linf:8"], r"so 8 of 255 levels is 8/255"),
        (
            ["--epochs", "0", "--learning-rate", "0"],
            r"--epochs to be an integer of at least 1.*--learning-rate above 0",
        ),
        (["--model-args", "classes=5"], r"Expected labels below the model's 5 classes"),
        (["--model", "cifar:resnet21"], r"Unknown CIFAR model 'resnet21'\. Did you mean"),
        (["--data", "digit"], r"Unknown data scheme 'digit'\. Did you mean 'digits'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_told_in_one_line(train, model, tmp_path, words, told):
    file = model.rpartition(":")[0]
    done = train(*(word.replace("{model}", file) for word in words))
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
    assert done.err.startswith("statshift: error: ")
    assert re.search(told, done.err), done.err
    assert not (tmp_path / "out" / "record.json").exists()


def test_the_help_shows_an_example(run):
    done = run("train", "--help")
    text = " ".join(done.out.split())
    assert done.code == 0
    assert "Example: statshift train --model cifar:resnet18 --norm group --data cifar10 --validation cifar10" in text
    assert f"How to train: {', '.join(TRAINED)}, or py:FILE:NAME, a method of yours." in text
    assert "default adversarial pgd-l2:0.5:7." in text
