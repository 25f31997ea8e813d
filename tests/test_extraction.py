"""Data sets of features: against loops over single images, closed forms, the attacks themselves, and after kill -9."""

import json
import re
import signal
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from scipy import stats
from torch import nn
from torch.nn import functional as F

import warm
from statshift import load_data, load_model
from statshift._core import processes
from statshift._core.errors import InputError
from statshift.making import extraction
from statshift.making import shards as parts
from statshift.making.extraction import (
    KINDS,
    ExtractionOptions,
    extract,
)
from statshift.making.features import draw_starts, find_head, head_features, match_features
from statshift.models import PixelModel, Preprocessing
from statshift.shifts.attacks import PixelAttack, attack_images

pytestmark = pytest.mark.usefixtures("one_thread")

MATCHING = ("robust", "nonrobust")
CLASSES = 4
FEW = {"steps": 3, "batch_size": 8}


class Small(nn.Module):
    """A network with a norm, dropout and a kink, and features that are a formula of its parts."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.norm = nn.Conv2d(3, 6, 5, stride=3), nn.BatchNorm2d(6)
            self.mix, self.head = nn.Linear(6, 5), nn.Linear(5, classes)
            self.norm.running_mean.normal_(0, 0.1)
            self.norm.running_var.uniform_(0.5, 1)
            self.head.weight.data *= 30  # so that small steps lead to other classes

    def features(self, images):
        return F.silu(self.mix(F.relu(self.norm(self.conv(images))).mean((2, 3))))

    def forward(self, images):
        return self.head(F.dropout(self.features(images), training=self.training))


class Failing(Small):
    """A network that fails at its n-th forward."""

    left = 4

    def forward(self, images):
        self.left -= 1
        if not self.left:
            raise RuntimeError("no more")
        return super().forward(images)


@pytest.fixture
def model():
    return PixelModel(Small(), spec="small").eval()


@pytest.fixture
def data(tmp_path):
    """Return the spec of 20 images of 32 px in four classes of different sizes."""
    return stored(tmp_path / "data.npz")


def stored(path, labels=(0, 1, 1, 2, 3, 3, 1, 2, 0, 1, 3, 3, 3, 2, 1, 0, 1, 3, 1, 2), seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    np.savez(path, images=images, **({} if labels is None else {"labels": np.array(labels)}))
    return f"npz:{path}"


def arrays_of(folder):
    with np.load(folder / "images.npz") as found:
        return dict(found)


def assert_same_arrays(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def state_of(model):
    """Return all that must be left as it was found."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "weights": {name: value.tolist() for name, value in model.state_dict().items()},
        "gradients": [(one.requires_grad, one.grad) for one in model.parameters()],
        "modes": [one.training for one in model.modules()],
        "hooks": [len(getattr(one, name)) for one in model.modules() for name in hooks],
    }


# Matching features


def looped(network, images, starts, steps, step_size):
    """Match features one image at a time, by the formula: min over delta of ||g(x) - g(x' + delta)||."""
    found, nearest = [], []
    for image, start in zip(images, starts, strict=True):
        point = start.clone()
        for _ in range(steps):
            point = point.detach().requires_grad_()
            distance = (network.features(image[None]) - network.features(point[None])).pow(2).sum().sqrt()
            distance.backward()
            point = point.detach() - step_size * point.grad / point.grad.pow(2).sum().sqrt()
            point = point.clip(0, 1)
        found.append(point)
        nearest.append(float((network.features(image[None]) - network.features(point[None])).detach().norm()))
    return torch.stack(found), nearest


def test_matching_is_the_loop_over_single_images():
    network = Small().double().eval()
    images, starts = torch.rand(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = match_features(network, network.head, images, starts, steps=25, step_size=0.1)
    expected, nearest = looped(network.requires_grad_(False), images, starts, 25, 0.1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    distance = (network.features(found) - network.features(images)).norm(dim=1)
    np.testing.assert_allclose(distance.numpy(), nearest, rtol=0, atol=1e-10)
    begun = (network.features(starts) - network.features(images)).norm(dim=1)
    assert (distance < begun / 2).all()
    assert ((found == 0) | (found == 1)).any()  # so that the bounds of pixels were met


def test_matching_pixels_goes_straight_to_the_image():
    """Where features are pixels each step leads towards the image: after k of length s, k * s of the way is gone."""
    network = PixelModel(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), Preprocessing((0.5,) * 3, (0.25,) * 3)).double()
    images, starts = torch.rand(2, 6, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = match_features(network, network.network[1], images, starts, steps=7, step_size=0.1)
    way = (images - starts).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(found, starts + (images - starts) * 0.7 / way, rtol=0, atol=1e-12)
    left = (head_features(network, network.network[1], found) - (images.flatten(1) - 0.5) / 0.25).norm(dim=1)
    torch.testing.assert_close(left, (way.flatten() - 0.7) / 0.25, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", MATCHING)
def test_robust_and_nonrobust_hold_the_matched_images(model, data, tmp_path, kind):
    record = extract(model, data, kind, ExtractionOptions(steps=6, batch_size=8), out=tmp_path / "out").record
    found, source = arrays_of(tmp_path / "out"), load_data(data)
    (images, _), *_ = source.batches(20)
    images = images.double() / 255
    starts = draw_starts(source.labels, source.indices, 0)
    network = Small().double().eval().requires_grad_(False)
    whole = PixelModel(network).double()
    network.features = lambda pixels: Small.features(network, whole.normalise(pixels))
    expected, nearest = looped(network, images, images[starts], 6, 0.1)
    levels = np.abs(found["images"] - expected.permute(0, 2, 3, 1).numpy() * 255)
    assert levels.max() < 0.51  # rounded to 8 bits, from a float32 path
    assert found["images"].dtype == np.uint8
    np.testing.assert_array_equal(found["labels"], source.labels)
    np.testing.assert_array_equal(found["source_labels"], source.labels[starts])
    np.testing.assert_array_equal(found["indices"], np.arange(20))
    assert (found["labels"] != found["source_labels"]).all()
    wanted = network.features(images)
    kept = torch.from_numpy(found["images"]).permute(0, 3, 1, 2) / 255
    assert record["found"] == {
        "images": 20,
        "feature_distance_initial": pytest.approx((network.features(images[starts]) - wanted).norm(dim=1).mean()),
        "feature_distance_final": pytest.approx(np.mean(nearest), rel=1e-4),
        "feature_distance_rounded": pytest.approx((network.features(kept.double()) - wanted).norm(dim=1).mean()),
        "l2_distance": pytest.approx((kept - images[starts]).flatten(1).norm(dim=1).mean()),
    }
    assert record["extraction"] == {
        "kind": kind,
        "meaning": KINDS[kind].meaning,
        "steps": 6,
        "step_size": 0.1,
        "batch_size": 8,
        "seed": 0,
    }
    assert record == json.loads((tmp_path / "out" / "record.json").read_bytes())


def test_a_start_is_any_image_of_another_class_alike():
    labels = np.array([5, 0, 2, 0, 5, 5, 2, 0, 5, 5, 0, 0])
    drawn = np.array([draw_starts(labels, np.arange(12), seed) for seed in range(3000)])
    for position, starts in enumerate(drawn.T):
        others = np.flatnonzero(labels != labels[position])
        counts = np.bincount(starts, minlength=12)
        assert counts[others].sum() == 3000
        assert stats.chisquare(counts[others]).pvalue > 1e-4


def test_a_start_is_addressed_by_index_not_by_place():
    labels = np.array([0, 1, 0, 1, 1, 2])
    assert len(set(draw_starts(labels, np.full(6, 17), 3)[labels == 1])) == 1
    places = draw_starts(labels, np.arange(6), 3)
    swapped = draw_starts(labels, np.array([2, 1, 0, 3, 4, 5]), 3)  # two images of one class change their indices
    np.testing.assert_array_equal(swapped, places[[2, 1, 0, 3, 4, 5]])
    assert not np.array_equal(places, draw_starts(labels, np.arange(6), 4))


@pytest.mark.parametrize("kind", ["robust", "random"])
def test_the_batch_size_changes_no_draw(model, data, tmp_path, kind):
    found = []
    for size in (3, 20):
        extract(model, data, kind, ExtractionOptions(2, batch_size=size), out=tmp_path / str(size))
        found.append(arrays_of(tmp_path / str(size)))
    for name in ("labels", "source_labels", "indices"):
        np.testing.assert_array_equal(found[0][name], found[1][name])
    assert np.abs(found[0]["images"].astype(int) - found[1]["images"]).max() <= 1


# Adversarial examples


@pytest.mark.parametrize(("kind", "target"), [("random", "random"), ("deterministic", "next"), ("conflict", "next")])
def test_targeted_kinds_are_the_attack(model, data, tmp_path, kind, target):
    options = ExtractionOptions(steps=9, batch_size=8, seed=5, epsilon=0.7)
    record = extract(model, data, kind, options, out=tmp_path / "out").record
    found, source = arrays_of(tmp_path / "out"), load_data(data)
    labels, indices = torch.from_numpy(source.labels), torch.arange(20)
    attack = PixelAttack(0.7, 0.1, 9, norm="l2", target=target, random_start=False)
    attacked = torch.cat(
        [
            attack_images(model, images / 255, labels[places], attack, seed=5, indices=indices[places])
            for images, places in source.batches(8)
        ]
    )
    np.testing.assert_array_equal(found["images"], (attacked * 255).round().permute(0, 2, 3, 1).numpy())
    if target == "next":
        np.testing.assert_array_equal(found["labels"], (source.labels + 1) % CLASSES)
    else:
        assert (found["labels"] != source.labels).all()
        assert len(set(zip(source.labels, found["labels"], strict=True))) > CLASSES
    np.testing.assert_array_equal(found["source_labels"], source.labels)
    rounded = torch.from_numpy(found["images"]).permute(0, 3, 1, 2) / 255
    clean = torch.cat([images / 255 for images, _ in source.batches(20)])
    with torch.no_grad():
        logits, stored_logits, before = model(attacked), model(rounded), model(clean)
    targets = torch.from_numpy(found["labels"])
    assert record["found"] == {
        "images": 20,
        "taken_for_target_final": pytest.approx(float((logits.argmax(1) == targets).double().mean())),
        "taken_for_target_rounded": pytest.approx(float((stored_logits.argmax(1) == targets).double().mean())),
        "l2_distance": pytest.approx(float((rounded - clean).flatten(1).norm(dim=1).mean())),
    }
    assert F.cross_entropy(logits, targets) < F.cross_entropy(before, targets) - 0.2
    assert record["extraction"]["epsilon"] == 0.7
    assert record["extraction"]["target"] == target


def test_conflict_is_deterministic_on_robust_data(model, data, tmp_path):
    few = ExtractionOptions(**FEW)
    extract(model, data, "robust", few, out=tmp_path / "robust")
    robust = f"npz:{tmp_path / 'robust' / 'images.npz'}"
    first = extract(model, robust, "conflict", few, out=tmp_path / "conflict")
    second = extract(model, robust, "deterministic", few, out=tmp_path / "deterministic")
    assert_same_arrays(arrays_of(first.path), arrays_of(second.path))
    np.testing.assert_array_equal(arrays_of(first.path)["labels"], (load_data(data).labels + 1) % CLASSES)
    assert first.record["found"] == second.record["found"]
    named = {"kind": "conflict", "meaning": "as deterministic, of data that are of the kind robust"}
    assert first.record["extraction"] == second.record["extraction"] | named
    assert first.record["data"] == second.record["data"]


def test_the_papers_numbers_are_the_defaults():
    assert {kind: ExtractionOptions().describe(kind)["steps"] for kind in KINDS} == {
        "robust": 1000,
        "nonrobust": 1000,
        "random": 100,
        "deterministic": 100,
        "conflict": 100,
    }
    described = ExtractionOptions().describe("random")
    assert (described["step_size"], described["epsilon"], described["target"]) == (0.1, 0.5, "random")
    assert "epsilon" not in ExtractionOptions().describe("robust")


def test_what_is_written_is_read_back(model, data, tmp_path):
    extract(model, data, "deterministic", ExtractionOptions(**FEW), out=tmp_path / "out")
    read, found = load_data(f"npz:{tmp_path / 'out' / 'images.npz'}"), arrays_of(tmp_path / "out")
    (images, _), *_ = read.batches(20)
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), found["images"])
    np.testing.assert_array_equal(read.labels, found["labels"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "images.npz", "record.json"}


def test_the_training_split_is_the_default(tmp_path):
    build = partial(PixelModel, Small(10).eval(), spec="small")
    record = extract(build(), "digits", "random", ExtractionOptions(1), out=tmp_path / "a", data_options={"limit": 30})
    train = load_data("digits", split="train", limit=30)
    np.testing.assert_array_equal(arrays_of(tmp_path / "a")["indices"], train.indices)
    np.testing.assert_array_equal(arrays_of(tmp_path / "a")["source_labels"], train.labels)
    assert record.record["data"]["content_hash"] == train.content_hash()
    for name, (spec, given) in {"b": ("digits:test", {}), "c": ("digits", {"split": "test"})}.items():
        found = extract(build(), spec, "random", ExtractionOptions(1), out=tmp_path / name, data_options=given)
        assert found.record["data"]["images"] == 597


# The penultimate features


def by_hand(name, network, images):
    if name == "resnet18":
        return nn.Sequential(*list(network.children())[:-1])(images).flatten(1)
    if name == "vgg11":
        return network.classifier[:-1](network.avgpool(network.features(images)).flatten(1))
    if name == "mobilenet_v2":
        return network.features(images).mean((2, 3))
    return network.features(images).flatten(1)


@pytest.mark.parametrize(
    ("name", "head", "width"),
    [
        ("resnet18", "fc", 512),
        ("vgg11", "classifier.6", 4096),
        ("mobilenet_v2", "classifier.1", 1280),
        ("squeezenet1_1", "classifier.1", 512 * 3 * 3),
    ],
)
def test_features_are_what_the_last_layer_takes(name, head, width):
    network = torchvision.models.get_model(name, weights=None, num_classes=7).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = [len(module._forward_pre_hooks) for module in network.modules()]
    found = find_head(network, images[:1])
    assert found is network.get_submodule(head)
    with torch.no_grad():
        features = head_features(network, found, images)
        assert features.shape == (2, width)
        torch.testing.assert_close(features, by_hand(name, network, images), rtol=1e-5, atol=1e-5)
        assert features.std() > 0
    assert [len(module._forward_pre_hooks) for module in network.modules()] == before


@pytest.mark.parametrize(
    ("network", "seen"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "none"),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "0 with 8"),
    ],
)
def test_a_model_without_a_last_layer_is_refused(network, seen):
    before = state_of(network)
    with pytest.raises(InputError, match=rf"whose 4 logits come from a linear layer .* an image meets is {seen}"):
        find_head(network, torch.rand(1, 3, 8, 8))
    assert state_of(network) == before


# The model is left as it was found


@pytest.mark.parametrize("kind", ["robust", "random"])
def test_the_model_is_left_as_it_was_found(data, tmp_path, kind):
    network = Small().train()
    network.norm.eval()
    network.mix.weight.requires_grad_(False)
    before = state_of(network)
    extract(network, data, kind, ExtractionOptions(**FEW), out=tmp_path / "out")
    assert state_of(network) == before


@pytest.mark.parametrize("left", [1, 3, 6, 8])
def test_no_hook_survives_a_failure(data, tmp_path, left):
    network = Failing().train()
    network.left = left
    before = state_of(network)
    with pytest.raises(InputError, match=r"The model fails on images of shape \(\d, 3, 32, 32\): no more"):
        extract(network, data, "robust", ExtractionOptions(**FEW), out=tmp_path / "out")
    assert state_of(network) == before


# Stopped and started again

PROGRAM = """
import sys, time, torch
from test_extraction import Small
from statshift.making.extraction import ExtractionOptions, extract
from statshift.models import PixelModel
wait = lambda done, total: time.sleep(0.05)
extract(
    PixelModel(Small(), spec="small").eval(), sys.argv[1], sys.argv[2], ExtractionOptions(steps=6, batch_size=4),
    out=sys.argv[3], device="cpu", progress=wait,
)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9")
def test_killed_and_started_again(model, data, tmp_path):
    options = ExtractionOptions(steps=6, batch_size=4)
    whole = extract(model, data, "robust", options, out=tmp_path / "whole", device="cpu")
    out = tmp_path / "killed"
    (tmp_path / "program.py").write_text(PROGRAM)
    process = warm.start(data, "robust", out, file=tmp_path / "program.py")
    end = time.monotonic() + 120
    while not (out / "part-00001.npz").exists():
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    assert warm.end(process).returncode == -signal.SIGKILL
    kept = sorted(out.glob("part-*.npz"))
    assert 2 <= len(kept) < 5
    assert not (out / "images.npz").exists()
    (out / ".part-00003.npz.partial").write_bytes(b"half")  # as a kill in the middle of writing leaves it
    seen = []
    again = extract(model, data, "robust", options, out=out, device="cpu", progress=lambda *at: seen.append(at))
    assert {total for _, total in seen} == {20}
    shares = np.arange(6 * len(kept), 31) / 6  # six steps to a batch of four, from the first that is missing
    np.testing.assert_allclose([done for done, _ in seen], 4 * shares)
    assert_same_arrays(arrays_of(out), arrays_of(whole.path))
    assert again.record["found"] == whole.record["found"]
    assert not list(out.glob("part-*.npz"))


def test_ctrl_c_waits_for_the_batch_at_work(model, data, tmp_path):
    options, out = ExtractionOptions(**FEW), tmp_path / "out"
    handler = signal.getsignal(signal.SIGINT)

    def stop(done, total):
        if done > 9:  # in the second of three batches
            signal.raise_signal(signal.SIGINT) if not asked else None
            asked.append(done)

    asked = []
    with pytest.raises(KeyboardInterrupt):
        extract(model, data, "random", options, out=out, progress=stop)
    assert signal.getsignal(signal.SIGINT) is handler
    assert sorted(path.name for path in out.glob("part-*")) == ["part-00000.npz", "part-00001.npz"]
    seen = []
    extract(model, data, "random", options, out=out, progress=lambda *at: seen.append(at))
    assert seen[0] == (16, 20)
    extract(model, data, "random", options, out=tmp_path / "whole")
    assert_same_arrays(arrays_of(out), arrays_of(tmp_path / "whole"))


def test_what_was_finished_is_not_made_again(model, data, tmp_path):
    out = tmp_path / "out"
    first = extract(model, data, "random", ExtractionOptions(**FEW), out=out)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}
    seen = []
    again = extract(model, data, "random", ExtractionOptions(**FEW), out=out, progress=lambda *at: seen.append(at))
    assert again == first
    assert seen == []
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()} == before


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("kind", r"extraction\.kind"),
        ("steps", r"`extraction\.steps`: 3 in the directory, 4 now"),
        ("seed", r"`extraction\.seed`: 0 in the directory, 1 now"),
        ("model", r"`model\.weights_hash`"),
        ("data", r"`data\.content_hash`"),
    ],
)
def test_another_extraction_is_refused(model, data, tmp_path, monkeypatch, finished, change, field):
    out, options = tmp_path / "out", FEW
    with monkeypatch.context() as patch:
        if not finished:
            patch.setattr(parts, "_joined", lambda *arguments: 1 / 0)
        try:
            extract(model, data, "deterministic", ExtractionOptions(**options), out=out)
        except ZeroDivisionError:
            assert len(list(out.glob("part-*.npz"))) == 3
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    kind = "conflict" if change == "kind" else "deterministic"
    if change == "model":
        model.network.head.bias.data[0] += 1
    elif change == "data":
        stored(tmp_path / "data.npz", seed=1)
    elif change != "kind":
        options = FEW | {"steps": 4, "batch_size": 8} if change == "steps" else FEW | {"seed": 1}
    with pytest.raises(
        InputError, match=rf"out holds another run \(.*{field}.*choose another directory, or delete this one\.$"
    ) as error:
        extract(model, data, kind, ExtractionOptions(**options), out=out)
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


# What cannot be


def test_a_folder_that_holds_something_else_is_left_alone(model, data, tmp_path):
    for name, message in (("rows.jsonl", "holds rows.jsonl besides"), ("images.npz", "holds no record.json")):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(InputError, match=message):
            extract(model, data, "random", ExtractionOptions(**FEW), out=folder)
        assert [path.name for path in folder.iterdir()] == [name]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"Cannot write to .*file: .*Choose another directory"):
        extract(model, data, "random", ExtractionOptions(**FEW), out=tmp_path / "file")


def test_bad_numbers_are_told_together():
    with pytest.raises(InputError) as error:
        ExtractionOptions(0, -0.1, float("inf"), 0)
    assert str(error.value) == (
        "Expected `steps` to be an integer of at least 1, but got 0. Expected `batch_size` to be an integer of at "
        "least 1, but got 0. Expected `step_size` above 0, but got -0.1. Expected `epsilon` above 0, but got inf."
    )


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (None, "random", r"Expected labelled images, but .* has no labels\."),
        ([1] * 20, "robust", r"Expected images of two classes or more, but all are of class 1\."),
        ([4] * 20, "random", r"Expected labels below the model's 4 classes, but the largest label in .* is 4"),
        ([0, 1] * 10, "robsut", r"Unknown kind 'robsut'\. Did you mean 'robust'\? Choose from: robust, nonrobust, ra"),
    ],
)
def test_data_and_kinds_that_do_not_fit(model, tmp_path, labels, kind, message):
    with pytest.raises(InputError, match=message):
        extract(model, stored(tmp_path / "d.npz", labels), kind, ExtractionOptions(**FEW), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_would_be_ignored_or_shared_out_is_refused(model, data, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"Expected no `epsilon` for the kind robust"):
        extract(model, data, "robust", ExtractionOptions(epsilon=1), out=tmp_path / "out")
    monkeypatch.setattr(processes, "join", lambda: (0, 2))
    with pytest.raises(InputError, match=r"Expected one process, but got 2"):
        extract(model, data, "robust", out=tmp_path / "out")


def test_models_that_cannot_be_used(data, tmp_path):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))
    nn.init.zeros_(flat[1].weight)
    with pytest.raises(InputError, match="input gradient is zero everywhere"):
        extract(flat, data, "robust", ExtractionOptions(**FEW), out=tmp_path / "out")
    one = nn.Sequential(nn.Flatten(), nn.Linear(3072, 1))
    zeros = stored(tmp_path / "zeros.npz", [0] * 20)
    with pytest.raises(InputError, match="two classes or more, but the model has one logit"):
        extract(one, zeros, "random", ExtractionOptions(**FEW), out=tmp_path / "out")
    other = nn.Sequential(nn.Flatten(), nn.Linear(300, 4))
    with pytest.raises(InputError, match=r"The model fails on images of shape \(1, 3, 32, 32\)"):
        extract(other, data, "random", ExtractionOptions(**FEW), out=tmp_path / "out")


class Overflowing(Small):
    """Logits that are infinite for bright images alone."""

    def forward(self, images):
        bright = images.mean((1, 2, 3)) > 1
        return super().forward(images) + torch.where(bright, torch.inf, 0.0)[:, None]


def test_an_output_that_is_not_finite_is_told_with_its_image(tmp_path):
    images, labels = np.full((20, 32, 32, 3), 100, np.uint8), np.arange(20) % 4
    images[13] = 250
    np.savez(tmp_path / "bright.npz", images=images, labels=labels)
    spec = f"npz:{tmp_path / 'bright.npz'}"
    with pytest.raises(InputError, match=r"The model's output for image 13 is not finite"):
        extract(Overflowing(), spec, "random", ExtractionOptions(**FEW), out=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("part-*")] == ["part-00000.npz"]


def test_a_model_by_spec_is_loaded(data, tmp_path):
    record = extract("cifar:resnet20", data, "random", ExtractionOptions(1, batch_size=20), out=tmp_path / "out").record
    assert record["model"]["spec"] == "cifar:resnet20"
    assert re.fullmatch(r"[0-9a-f]{16}", record["model"]["weights_hash"])
    assert load_model("cifar:resnet20").num_classes == 10


def test_a_start_that_failed_is_no_extraction_yet(model, data, tmp_path):
    with pytest.raises(InputError, match=r"Expected `epsilon` below 55\.4, the greatest L2 distance"):
        extract(model, data, "random", ExtractionOptions(epsilon=80, **FEW), out=tmp_path / "out")
    record = extract(model, data, "random", ExtractionOptions(**FEW), out=tmp_path / "out").record
    assert record["extraction"]["epsilon"] == 0.5


def test_a_full_disk_keeps_the_parts_before(model, data, tmp_path, monkeypatch):
    write, out = np.savez, tmp_path / "out"

    def full(file, **arrays):
        if (out / "part-00000.npz").exists():
            raise OSError(28, "No space left on device")
        write(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match=r"^Cannot write .*part-00001\.npz: No space left on device\. Finished parts"):
        extract(model, data, "random", ExtractionOptions(**FEW), out=out)
    assert {path.name for path in out.iterdir()} == {".lock", "part-00000.npz", "record.json"}


def test_memory_that_runs_out_is_told_in_one_line(model, data, tmp_path, monkeypatch):
    def no_memory(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(extraction, "match_features", no_memory)
    with pytest.raises(InputError, match=r"^Out of memory with 8 images at once; choose a smaller batch size\.$"):
        extract(model, data, "robust", ExtractionOptions(**FEW), out=tmp_path / "out")
