"""`statshift extract`: what it prints and writes, and bad input in one line."""

import json
import re

import numpy as np
import pytest
import torch

from statshift import load_data, load_model
from statshift.shifts.attacks import PixelAttack, attack_images

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL_FILE = """
import torch
from torch import nn

def build(classes=10):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, classes),
    )

def headless():
    return nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "models.py"
    path.write_text(MODEL_FILE)
    return f"py:{path}:build"


@pytest.fixture
def extract(run, model, tmp_path):
    """Run extract on 20 digits with two steps, other options as given."""

    def call(kind, *words):
        base = ["--model", model, "--data", "digits", "--limit", 20, "--steps", 2, "--device", "cpu"]
        return run("extract", *base, "--kind", kind, "--out", tmp_path / "out", *words)

    return call


def test_features_of_a_network_of_the_zoo(run, tmp_path):
    out = tmp_path / "d-r"
    words = ["--model", "cifar:resnet20", "--data", "digits", "--limit", 20, "--steps", 3, "--device", "cpu"]
    done = run("extract", *words, "--kind", "robust", "--out", out, "--batch-size", 8)
    assert done.code == 0, done.err
    assert done.err == "20 images to extract.\n"
    record = json.loads((out / "record.json").read_bytes())
    found = record["found"]
    before, after, rounded = (found[f"feature_distance_{name}"] for name in ("initial", "final", "rounded"))
    assert after < before
    assert done.out == (
        f"20 images, {found['l2_distance']:.3f} in L2 on average from those they began at.\n"
        f"Mean distance of the features: {before:.4g} -> {after:.4g}, {rounded:.4g} in 8 bits.\n\n"
        f"Written to {out}: images.npz, record.json. Use it as --data npz:{out}/images.npz\n"
    )
    assert found["l2_distance"] < 0.31  # three steps of 0.1, and a little for 8 bits
    train, read = load_data("digits", split="train", limit=20), load_data(f"npz:{out}/images.npz")
    np.testing.assert_array_equal(read.labels, train.labels)
    assert record["data"]["spec"] == "digits"
    assert record["extraction"]["batch_size"] == 8
    starts = {images.numpy().tobytes(): label for images, label in zip(*pixels(train), strict=True)}
    with np.load(out / "images.npz") as arrays:
        assert set(arrays["source_labels"]) <= set(starts.values())
        assert (arrays["source_labels"] != arrays["labels"]).all()


def pixels(data):
    (images, _), *_ = data.batches(len(data))
    return images, data.labels


def test_examples_are_the_attack_and_are_made_once(extract, model, tmp_path):
    words = ["--epsilon", 0.3, "--step-size", 0.2, "--split", "test", "--batch-size", 20]
    done = extract("deterministic", *words)
    assert done.code == 0, done.err
    images, labels = pixels(load_data("digits", split="test", limit=20))
    attack = PixelAttack(0.3, 0.2, 2, norm="l2", target="next", random_start=False)
    network = load_model(model)
    expected = attack_images(network, images / 255, torch.from_numpy(labels), attack)
    found, targets = pixels(load_data(f"npz:{tmp_path / 'out' / 'images.npz'}"))
    assert torch.equal(found, (expected * 255).round().to(torch.uint8))
    np.testing.assert_array_equal(targets, (labels + 1) % 10)
    with torch.no_grad():
        shares = [
            100 * (network(one).argmax(1).numpy() == targets).astype(float).mean() for one in (expected, found / 255)
        ]
    assert f"Taken by the model for their target: {shares[0]:.1f} %, {shares[1]:.1f} % in 8 bits.\n" in done.out
    again = extract("deterministic", *words)
    assert again.code == 0
    assert again.err == "Every image was finished before; nothing was extracted again.\n"
    assert again.out == done.out
    other = extract("deterministic", *words, "--seed", 1)
    assert other.code == 2
    assert "holds another run (" in other.err
    assert "`extraction.seed`: 0 in the directory, 1 now" in other.err
    assert other.err.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("nonrobst", [], r"Unknown kind 'nonrobst'\. Did you mean 'nonrobust'\? Choose from: robust, .*, conflict\."),
        ("robust", ["--steps", 0, "--step-size", -1], r"--steps to be an integer of at least 1.* --step-size above 0"),
        ("random", ["--epsilon", 0], r"Expected --epsilon above 0, but got 0\.0\."),
        ("random", ["--epsilon", 80], r"Expected --epsilon below 55\.4"),
        ("robust", ["--epsilon", 1], r"Expected no --epsilon for the kind robust"),
        ("random", ["--batch-size", 0], r"Expected --batch-size to be an integer of at least 1, but got 0\."),
        ("random", ["--model-args", "classes=5"], r"Expected labels below the model's 5 classes"),
        ("random", ["--split", "validation"], r"Unknown split 'validation'"),
        ("random", ["--data", "npz:none.npz"], r"Expected a file, but 'none\.npz' is not one\."),
        ("random", ["--device", "tpu"], r"Unknown device 'tpu'"),
    ],
)
def test_bad_input_is_told_in_one_line(extract, kind, words, message):
    done = extract(kind, *words)
    assert done.code == 2
    assert re.search(message, done.err), done.err
    assert [line for line in done.err.splitlines() if "images to extract" not in line] == done.err.splitlines()[-1:]


def test_a_model_without_features_is_refused(extract, model):
    done = extract("nonrobust", "--model", model.replace(":build", ":headless"))
    assert done.code == 2
    assert re.fullmatch(r"statshift: error: Expected a model whose 10 logits come from a linear layer.*\n", done.err)
