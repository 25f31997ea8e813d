"""Data sets of adversarial images: the images of the attack, what the record says of them, parts and sittings."""

import json
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import statshift
from statshift import attack_images, load_data, load_model
from statshift._core.errors import InputError
from statshift.making import adversarial as adversaries
from statshift.models import PixelModel
from statshift.shifts.attacks import PixelAttack, attack_named, parse_attack

pytestmark = pytest.mark.usefixtures("one_thread")

write = partial(statshift.write_adversarial, device="cpu")

COUNT, SIZE, SEED = 24, 10, 5


class Network(nn.Module):
    """The nearest mean of a class, on smooth random features under a batch norm; in float64."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.norm = nn.Conv2d(3, 16, 5, stride=4), nn.BatchNorm2d(16, momentum=None)
        self.drop, self.linear = nn.Dropout(0.5), nn.Linear(16 * 49, 10)
        train = load_data("digits:train", limit=600)
        labels = torch.from_numpy(train.labels)
        with torch.no_grad():
            images = PixelModel(self).double().normalise(pixels_of(train))
            self.features(images)
            features = self.eval().features(images)
            means = torch.stack([features[labels == label].mean(0) for label in range(10)])
            self.linear.weight.copy_(means / 20)
            self.linear.bias.copy_(-means.pow(2).sum(1) / 40)

    def features(self, images):
        return F.softplus(self.norm(self.conv(images))).flatten(1)

    def forward(self, images):
        return self.linear(self.drop(self.features(images)))


def pixels_of(data):
    return torch.cat([images for images, _ in data.batches(50)]).float() / 255


@pytest.fixture(scope="module")
def model():
    return load_model(Network()).double()


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=COUNT, seed=1)


def by_hand(model, data, attack):
    """Return the images of an attack in float, batch by batch as they are written."""
    images, labels, indices = pixels_of(data), torch.from_numpy(data.labels), torch.from_numpy(data.indices)
    parts = [slice(start, start + SIZE) for start in range(0, len(images), SIZE)]
    return torch.cat([attack_images(model, images[p], labels[p], attack, seed=SEED, indices=indices[p]) for p in parts])


def share_right(model, images, labels):
    with torch.no_grad():
        return float((model.eval()(images).argmax(1).numpy() == labels).mean())


def written(path):
    return json.loads((path / "record.json").read_bytes())


# What is written


@pytest.mark.parametrize(
    "attack",
    [
        "fgsm:4/255",
        "pgd-linf:0.01:4",
        PixelAttack(0.7, 0.3, 4, norm="l2", target="next", random_start=False),
        attack_named("cw-linf")(0.02, steps=3),
    ],
    ids=["fgsm", "pgd-linf", "l2 to a target", "cw"],
)
def test_the_images_are_the_attack_s_in_8_bits_and_the_record_counts(model, digits, tmp_path, attack):
    chosen = parse_attack(attack) if isinstance(attack, str) else attack
    clean, expected = pixels_of(digits), by_hand(model, digits, chosen)
    rounded = (expected * 255).round()
    done = write(model, digits, attack, out=tmp_path / "out", batch_size=SIZE, seed=SEED)
    with np.load(tmp_path / "out" / "images.npz") as arrays:
        assert arrays["images"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["images"], rounded.permute(0, 2, 3, 1).numpy())
        np.testing.assert_array_equal(arrays["labels"], digits.labels)
        np.testing.assert_array_equal(arrays["indices"], digits.indices)
        assert set(arrays) == {"images", "labels", "indices"}
    moved = (expected - clean).flatten(1).double().numpy()
    found = done.record["found"]
    assert found == {
        "images": COUNT,
        "accuracy_clean": share_right(model, clean, digits.labels),
        "accuracy": share_right(model, expected, digits.labels),
        "accuracy_rounded": share_right(model, rounded / 255, digits.labels),
        "l2_distance": pytest.approx(np.sqrt((moved**2).sum(1)).mean(), rel=1e-6),
        "linf_distance": pytest.approx(np.abs(moved).max(1).mean(), rel=1e-6),
    }
    assert found["accuracy"] < found["accuracy_clean"]
    assert done.record == written(tmp_path / "out")
    described = {**asdict(chosen), "step_size": chosen.length, "seed": SEED, "batch_size": SIZE}
    assert done.record["attack"] == described
    assert done.record["data"]["images"] == COUNT
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0] != ".") == [
        "images.npz",
        "record.json",
    ]
    loaded = load_data(f"npz:{tmp_path / 'out' / 'images.npz'}")
    assert torch.equal(pixels_of(loaded), rounded / 255)
    np.testing.assert_array_equal(loaded.labels, digits.labels)


def test_accuracy_of_what_is_stored_is_what_measure_finds(model, digits, tmp_path):
    done = write(model, digits, "pgd-linf:4/255:3", out=tmp_path, batch_size=SIZE)
    (row,) = statshift.measure(model, f"npz:{tmp_path / 'images.npz'}", shifts=["clean"], device="cpu").rows
    assert row["correct"] / row["images"] == done.record["found"]["accuracy_rounded"]


def test_a_model_by_spec_attacks_what_its_spec_loads(digits, tmp_path):
    """Data by spec are the test split, and limited as asked."""
    options = {"limit": COUNT, "seed": 1}
    model = load_model(Network()).double()
    done = write(model, "digits", "fgsm:0.01", out=tmp_path, batch_size=SIZE, data_options=options)
    assert done.record["data"] == write(model, digits, "fgsm:0.01", out=tmp_path, batch_size=SIZE).record["data"]


def test_the_model_is_left_as_found(digits, tmp_path):
    model = load_model(Network()).double().train()
    model.network.linear.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    write(model, digits, "pgd-l2:0.5:3", out=tmp_path)
    assert all(module.training for module in model.modules())
    assert [name for name, one in model.named_parameters() if not one.requires_grad] == ["network.linear.bias"]
    assert all(one.grad is None for one in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# Sittings


def contents(path):
    with np.load(path / "images.npz") as arrays:
        return {name: values.tobytes() for name, values in arrays.items()}, written(path)


class StoppedError(Exception):
    """What stands for a kill."""


@pytest.mark.parametrize("parts", [1, 2])
def test_a_stopped_one_goes_on_to_the_same_images(model, digits, tmp_path, parts, monkeypatch):
    options = {"batch_size": SIZE, "seed": SEED}
    write(model, digits, "pgd-linf:4/255:3", out=tmp_path / "whole", **options)

    def stop(done, count):
        if done > SIZE * parts:
            raise StoppedError

    out = tmp_path / "stopped"
    with pytest.raises(StoppedError):
        write(model, digits, "pgd-linf:4/255:3", out=out, progress=stop, **options)
    assert sorted(path.name for path in out.glob("part-*")) == [f"part-{number:05d}.npz" for number in range(parts)]
    made, own = [], adversaries.attack_images
    monkeypatch.setattr(adversaries, "attack_images", lambda *a, **k: made.append(len(a[1])) or own(*a, **k))
    seen = []
    write(model, digits, "pgd-linf:4/255:3", out=out, progress=lambda *step: seen.append(step), **options)
    assert made == [SIZE, 4][parts - 1 :]
    assert seen[0] == (SIZE * parts, COUNT)
    assert contents(out) == contents(tmp_path / "whole")
    write(model, digits, "pgd-linf:4/255:3", out=out, progress=pytest.fail, **options)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"attack": "pgd-linf:5/255:3"}, r"`attack\.epsilon`: 0\.0156\S+ in the directory, 0\.0196\S+ now"),
        ({"attack": "pgd-l2:4/255:3"}, r"`attack\.norm`: 'linf' in the directory, 'l2' now"),
        ({"seed": 6}, r"`attack\.seed`: 0 in the directory, 6 now"),
        ({"batch_size": 8}, r"`attack\.batch_size`: 128 in the directory, 8 now"),
        ({"data": load_data("digits", limit=COUNT, seed=2)}, r"`data\.\S+`"),
        ({"model": PixelModel(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))}, r"`model\.\S+`"),
    ],
    ids=["epsilon", "norm", "seed", "batch size", "data", "model"],
)
def test_another_identity_is_refused(model, digits, tmp_path, change, told):
    given = {"model": model, "data": digits, "attack": "pgd-linf:4/255:3"}
    write(**given, out=tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=rf"holds another run \(.*{told}.*choose another directory"):
        write(**(given | change), out=tmp_path)
    assert contents(tmp_path) == before


def test_a_folder_of_something_else_is_refused(model, digits, tmp_path):
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(InputError, match=r"is not empty and holds thesis\.txt besides: choose another directory"):
        write(model, digits, "fgsm:0.01", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# Bad input


class Rounding(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3072, 10)

    def forward(self, images):
        return self.linear(images.round().flatten(1))


class Broken(Rounding):
    """Its weights have been through a division by zero."""

    def __init__(self):
        super().__init__()
        self.linear.weight.data[3, 5] = torch.nan

    def forward(self, images):
        return self.linear(images.flatten(1))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": PixelModel(Rounding())}, "^The model's input gradient is zero everywhere"),
        ({"model": PixelModel(Broken())}, "^The model's output is not finite for 24 of 24 images: check its weights"),
        (
            {"model": PixelModel(nn.Sequential(nn.Flatten(), nn.Linear(3072, 5)))},
            "^Expected labels below the model's 5",
        ),
        ({"data": TensorDataset(torch.rand(4, 3, 8, 8) * 1.5, torch.arange(4))}, r"\[0, ?1\]"),
        ({"batch_size": 0}, "^Expected `batch_size` to be at least 1, but got 0"),
        ({"attack": "pdg-linf:0.1"}, "^Unknown attack 'pdg-linf'. Did you mean 'pgd-linf'"),
        ({"attack": "pgd-l2:60"}, "^Expected `epsilon` below 55.4"),
        ({"device": "tpu"}, "^Unknown device 'tpu'"),
    ],
    ids=["rounds", "not finite", "classes", "pixels", "batch size", "attack", "epsilon", "device"],
)
def test_bad_input_is_told_in_one_line_and_leaves_no_images(model, digits, tmp_path, change, told):
    given = {"model": model, "data": digits, "attack": "fgsm:0.1", "device": "cpu"} | change
    with pytest.raises(InputError, match=told) as error:
        write(**given, out=tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").glob("*.npz"))


def test_images_without_labels_are_refused(model, tmp_path):
    np.savez(tmp_path / "images.npz", images=np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"^Expected labelled images to attack, but .*images\.npz has no labels\.$"):
        write(model, f"npz:{tmp_path / 'images.npz'}", "fgsm:0.1", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_processes_are_refused(model, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("statshift._core.processes.join", lambda: (0, 2))
    with pytest.raises(InputError, match="Expected one process, but got 2: measure shares attacks out"):
        write(model, digits, "fgsm:0.1", out=tmp_path)
