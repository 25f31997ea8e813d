"""Attacks and LIGS under measurement: rows beside loops of their own, adapted models attacked anew, resumption."""

import json
from copy import deepcopy
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import statshift
from statshift import load_data, load_model, read_run, rectify, sweep
from statshift._core.errors import InputError
from statshift.adapting.drawing import adaptation_positions, full_batches
from statshift.adapting.options import AdaptationOptions
from statshift.measuring import memory
from statshift.measuring import probes as readouts
from statshift.measuring.ligs import LigsOptions, ligs
from statshift.models import PixelModel
from statshift.shifts.attacks import PixelAttack, attack_images, parse_attack
from statshift.shifts.attacks import attack as attack_as_shift
from statshift.shifts.conditions import CorruptionOptions
from statshift.tasks.statistics import image_statistics
from synthetic_runs import per_image

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy"),
]

measure = partial(statshift.measure, device="cpu")

COUNT = 60
ATTACKS = ("fgsm:2/255", "pgd-linf:1/255:5", "pgd-l2:0.3:5")
SEED = 3
OPTIONS = CorruptionOptions(seed=SEED)


class Network(nn.Module):
    """Random features with two batch norms and dropout, and on them the nearest mean of a class; in float64.

    So that rounding decides no sign of a gradient, whatever the batch.
    """

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv1, self.norm1 = nn.Conv2d(3, 12, 5, stride=3), nn.BatchNorm2d(12, momentum=None)
            self.conv2, self.norm2 = nn.Conv2d(12, 24, 3, stride=2), nn.BatchNorm2d(24, momentum=None)
        self.drop, self.linear = nn.Dropout(0.5), nn.Linear(24 * 16, 10)
        train = load_data("digits:train", limit=600)
        labels = torch.from_numpy(train.labels)
        with torch.no_grad():
            images = PixelModel(self).double().normalise(pixels_of(train))
            self.features(images)  # settles the running statistics
            features = self.eval().features(images)
            means = torch.stack([features[labels == label].mean(0) for label in range(10)])
            self.linear.weight.copy_(means / 20)
            self.linear.bias.copy_(-means.pow(2).sum(1) / 40)

    def features(self, images):
        images = F.softplus(self.norm1(self.conv1(images)))
        return F.softplus(self.norm2(self.conv2(images))).flatten(1)

    def forward(self, images):
        return self.linear(self.drop(self.features(images)))


def pixels_of(data):
    return torch.cat([images for images, _ in data.batches(50)]).float() / 255


@pytest.fixture(scope="module")
def model():
    return load_model(Network()).double()


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=COUNT)


def attacked(model, data, name, *, options=OPTIONS):
    """Return what an attack makes of all images, against this model."""
    labels, indices = torch.from_numpy(data.labels), torch.from_numpy(data.indices)
    return attack_images(model, pixels_of(data), labels, parse_attack(name), seed=options.seed, indices=indices)


@torch.no_grad()
def outcome(model, images, data, kept=slice(None)):
    """Return per image kept whether it is right and its cross-entropy."""
    found = image_statistics(model.eval()(images), torch.from_numpy(data.labels))
    return found.correct.numpy()[kept], found.cross_entropy.double().numpy()[kept]


def assert_row(row, expected):
    right, cross_entropy = expected
    assert (row["images"], row["correct"]) == (len(right), right.sum())
    np.testing.assert_array_equal(per_image(row), right)
    assert row["cross_entropy_sum"] == pytest.approx(cross_entropy.sum(), rel=1e-6)


def rows_of(found, protocol):
    return [row for row in found.rows if row["protocol"] == protocol]


# The source


@pytest.fixture(scope="module")
def source(model, digits):
    return measure(model, digits, shifts=["clean", *ATTACKS], options=OPTIONS, ligs=["gaussian", "fgsm"])


def test_a_row_of_an_attack_is_the_loop(source, model, digits):
    assert [(row["shift"], row["severity"]) for row in source.rows] == [("clean", 0), *((a, 0) for a in ATTACKS)]
    assert_row(source.rows[0], outcome(model, pixels_of(digits), digits))
    for row in source.rows[1:]:
        assert_row(row, outcome(model, attacked(model, digits, row["shift"]), digits))
        assert 0 < row["correct"] < source.rows[0]["correct"]


def test_the_record_holds_the_attacks_numbers(source):
    attacks = source.record["attacks"]
    assert list(attacks) == list(ATTACKS)
    assert attacks["fgsm:2/255"] == asdict(PixelAttack(2 / 255, 2 / 255, 1, random_start=False))
    assert attacks["pgd-linf:1/255:5"] == asdict(PixelAttack(1 / 255, 2.5 / 255 / 5, 5))
    assert attacks["pgd-l2:0.3:5"] == asdict(PixelAttack(0.3, 2.5 * 0.3 / 5, 5, norm="l2"))
    assert source.record["seed"] == SEED
    per_shift = source.summary["protocols"]["source"]["per_shift"]
    for row in source.rows[1:]:
        assert per_shift[row["shift"]]["accuracy"] == row["correct"] / COUNT


def test_the_seed_is_that_of_the_attack(source, model, digits):
    other = CorruptionOptions(seed=SEED + 1)
    (row,) = measure(model, digits, shifts=["pgd-linf:1/255:5"], options=other).rows
    assert_row(row, outcome(model, attacked(model, digits, row["shift"], options=other), digits))
    assert row["cross_entropy_sum"] != source.rows[2]["cross_entropy_sum"]


def test_adversarial_images_are_not_quantised(model, digits):
    """An attack of a quarter of a level would not outlive it."""
    clean, row = measure(model, digits, shifts=["clean", "fgsm:0.001"], options=OPTIONS).rows
    images = attacked(model, digits, "fgsm:0.001")
    assert torch.equal((images * 255).round() / 255, pixels_of(digits))
    assert_row(row, outcome(model, images, digits))
    assert row["cross_entropy_sum"] > clean["cross_entropy_sum"]


# Adapted


def adapted_rows(model, digits, protocols, **more):
    return measure(model, digits, shifts=["clean", *ATTACKS], options=OPTIONS, rectify=protocols, **more)


@pytest.mark.parametrize("include", [False, True])
def test_a_protocol_adapts_to_images_that_attack_the_source_and_is_attacked_itself(model, digits, include):
    before = deepcopy(model.state_dict())
    adaptation = AdaptationOptions(samples=16, draws=2, include_adaptation=include)
    found = adapted_rows(model, digits, ["replace", "prior:8"], adaptation=adaptation)
    assert len(found.rows) == 4 * (1 + 2 * 2)
    anew = 0
    for row in [*rows_of(found, "replace"), *rows_of(found, "prior:8")]:
        name, clean = row["shift"], pixels_of(digits)
        against_source = clean if name == "clean" else attacked(model, digits, name)
        positions = adaptation_positions(digits.indices, 16, SEED, row["draw"])
        kept = np.arange(COUNT) if include else np.setdiff1d(np.arange(COUNT), positions)
        rectified = rectify(model, against_source[positions], row["protocol"])
        images = clean if name == "clean" else attacked(rectified, digits, name)
        assert_row(row, outcome(rectified, images, digits, kept))
        assert_row(row["paired_source"], outcome(model, against_source, digits, kept))
        assert row["adapted_on"] == positions.tolist()
        _, transferred = outcome(rectified, against_source, digits, kept)
        anew += row["cross_entropy_sum"] > transferred.sum() * 1.00002
    assert anew == 3 * 2 * 2  # an attack on the adapted model itself does more than one on the source
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("kept", [True, False], ids=["images kept", "images made anew"])
def test_full_adapts_to_the_whole_set_that_attacks_the_source(model, kept, monkeypatch):
    """Also while the statistics of the model itself move, where memory does not hold the images."""
    if not kept:
        monkeypatch.setattr(memory, "KEPT_BYTES", 0)
    data = load_data("digits", limit=140)
    found = adapted_rows(model, data, ["full"])
    for row in rows_of(found, "full"):
        name, clean = row["shift"], pixels_of(data)
        against_source = clean if name == "clean" else attacked(model, data, name)
        adapted = deepcopy(model)
        groups = full_batches(140)
        assert len(groups) == 2
        sweep(adapted, lambda images=against_source, groups=groups: (images[group] for group in groups))
        images = clean if name == "clean" else attacked(adapted, data, name)
        assert_row(row, outcome(adapted, images, data))


def test_a_function_s_model_is_attacked_and_the_model_is_left_as_found(digits):
    model = load_model(Network()).double().train()
    model.network.linear.requires_grad_(False)
    before = deepcopy(model.state_dict())
    needs = [parameter.requires_grad for parameter in model.parameters()]

    def shrunk(copy, images):
        return rectify(copy, images, "replace")

    adaptation = AdaptationOptions(samples=16)
    found = adapted_rows(model, digits, [{"shrunk": shrunk}, "replace"], adaptation=adaptation)
    pairs = zip(rows_of(found, "shrunk"), rows_of(found, "replace"), strict=True)
    for own, named in pairs:
        assert {**own, "protocol": "replace"} == named
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == needs
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda model, images: model.forward, r"to return a module, so that fgsm:2/255 can attack"),
        (
            lambda model, images: model.train(),
            r"to return a module in evaluation mode, .*network\.norm1 is in training",
        ),
    ],
    ids=["a function", "a module that trains"],
)
def test_what_cannot_be_attacked_as_it_answers_is_refused(model, digits, function, told):
    adaptation = AdaptationOptions(samples=16)
    with pytest.raises(InputError, match=rf"Expected the protocol own {told}"):
        measure(model, digits, shifts=["fgsm:2/255"], rectify={"own": function}, adaptation=adaptation)
    assert len(measure(model, digits, shifts=["clean"], rectify={"own": function}, adaptation=adaptation).rows) == 2


@pytest.mark.parametrize("protocol", ["batch", "running:0.3", {"own": lambda model: model}])
def test_a_stream_is_not_attacked(model, digits, protocol, tmp_path):
    name = protocol if isinstance(protocol, str) else "own"
    with pytest.raises(InputError, match=f"^Cannot attack {name}, whose statistics move with every batch: .*fgsm") as e:
        measure(model, digits, shifts=["clean", "fgsm:2/255"], rectify=[protocol], out=tmp_path / "run")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


# Batches and sittings


@pytest.fixture(scope="module")
def whole(model, digits):
    return adapted_rows(model, digits, ["replace"], adaptation=AdaptationOptions(samples=16), ligs=["gaussian"])


def test_the_batch_size_changes_nothing(whole, model, digits):
    small = adapted_rows(
        model, digits, ["replace"], adaptation=AdaptationOptions(samples=16), ligs=["gaussian"], batch_size=13
    )
    for ours, theirs in zip(small.rows, whole.rows, strict=True):
        assert (ours["bits"], ours["correct_top5"]) == (theirs["bits"], theirs["correct_top5"])
        assert ours["cross_entropy_sum"] == pytest.approx(theirs["cross_entropy_sum"], rel=1e-4)
    mean = small.summary["ligs"]["gaussian"]["mean"]
    assert mean == pytest.approx(whole.summary["ligs"]["gaussian"]["mean"], rel=1e-6)


class StoppedError(Exception):
    """What stands for a kill."""


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_stopped_run_goes_on_to_the_same_rows(whole, model, digits, tmp_path, number):
    def stop(progress):
        if (progress.number, progress.images) == (number, 0):
            raise StoppedError

    options = {"adaptation": AdaptationOptions(samples=16), "ligs": ["gaussian"], "out": tmp_path}
    with pytest.raises(StoppedError):
        adapted_rows(model, digits, ["replace"], progress=stop, **options)
    assert read_run(tmp_path).rows == whole.rows[:number]
    seen = []
    found = adapted_rows(model, digits, ["replace"], progress=seen.append, **options)
    assert found.rows == read_run(tmp_path).rows == whole.rows
    assert found.summary == whole.summary == json.loads((tmp_path / "summary.json").read_text())
    assert {step.finished_before for step in seen} == {number}


def test_a_later_sitting_adds_attacks_and_perturbations(model, digits, tmp_path, monkeypatch):
    first = measure(model, digits, shifts=["clean"], options=OPTIONS, ligs=["gaussian"], out=tmp_path)
    assert "attacks" not in first.record
    measured, own = [], readouts.similarities
    monkeypatch.setattr(
        readouts, "similarities", lambda *a, **k: measured.append(k["options"].perturbation) or own(*a, **k)
    )
    seen = []
    for attack in ATTACKS[:2]:
        found = measure(
            model, digits, shifts=[attack], options=OPTIONS, ligs=["uniform"], out=tmp_path, progress=seen.append
        )
    assert measured == ["uniform"]
    assert [step.condition.shift for step in seen if step.images == 0] == list(ATTACKS[:2])
    assert found.record["shifts"] == ["clean", *ATTACKS[:2]]
    assert list(found.record["attacks"]) == list(ATTACKS[:2])
    alone = measure(model, digits, shifts=["clean", *ATTACKS[:2]], options=OPTIONS, ligs=["gaussian", "uniform"])
    assert found.rows == alone.rows
    assert found.summary == alone.summary
    assert found.summary["ligs"].keys() == {"gaussian", "uniform"}
    without = measure(model, digits, shifts=["clean"], options=OPTIONS, out=tmp_path)
    assert without.summary == json.loads((tmp_path / "summary.json").read_text()) == alone.summary
    with pytest.raises(InputError, match=r"holds another run .*`seed`: 3 in the directory, 4 now"):
        measure(model, digits, shifts=["clean"], options=CorruptionOptions(seed=4), out=tmp_path)


def test_the_images_that_attack_the_source_are_made_once(model, digits, monkeypatch):
    made, own = [], attack_as_shift.attack_images
    monkeypatch.setattr(
        attack_as_shift, "attack_images", lambda *args, **more: made.append(len(args[1])) or own(*args, **more)
    )
    adaptation = AdaptationOptions(samples=16, draws=2)
    measure(model, digits, shifts=["fgsm:2/255"], rectify=["replace", "full"], adaptation=adaptation)
    assert made == [1, COUNT, *[COUNT] * 3]  # one image to read the layers with, the source, and three adapted models


# LIGS


def test_ligs_is_that_of_the_images(source, model, digits, tmp_path):
    labels, indices = torch.from_numpy(digits.labels), torch.from_numpy(digits.indices)
    for name in ("gaussian", "fgsm"):
        expected = ligs(model, pixels_of(digits), labels, LigsOptions(name), seed=SEED, indices=indices)
        assert source.summary["ligs"][name] == {**expected.describe(), "scale": 0.01}
    assert -1 < source.summary["ligs"]["gaussian"]["mean"] < 1
    options = {"shifts": ["clean"], "options": OPTIONS, "ligs": ["fgsm", "gaussian", "fgsm"]}
    kept = measure(model, digits, out=tmp_path, **options)
    assert kept.summary["ligs"] == source.summary["ligs"] == json.loads((tmp_path / "ligs.json").read_text())


def test_ligs_is_of_the_source_whatever_adapts(whole, source):
    assert whole.summary["ligs"]["gaussian"] == source.summary["ligs"]["gaussian"]


def test_ligs_takes_fewer_images_where_memory_runs_out(source, model, digits, monkeypatch):
    sizes, own = [], readouts.similarities

    def similarities(model, images, *args, **more):
        sizes.append(len(images))
        if len(images) > 20:
            raise torch.OutOfMemoryError
        return own(model, images, *args, **more)

    monkeypatch.setattr(readouts, "similarities", similarities)
    with pytest.warns(UserWarning, match="Out of memory on cpu: going on with"):
        found = measure(model, digits, shifts=["clean"], options=OPTIONS, ligs=["gaussian"])
    assert sizes == [60, 30, 15, 15, 15, 15]
    mean = source.summary["ligs"]["gaussian"]["mean"]
    assert found.summary["ligs"]["gaussian"]["mean"] == pytest.approx(mean, rel=1e-9)


# Bad input


@pytest.fixture
def stored(tmp_path, digits):
    """The layout of CIFAR-10-C, of the digits."""
    images = (pixels_of(digits) * 255).byte().permute(0, 2, 3, 1).numpy()
    np.save(tmp_path / "fog.npy", np.concatenate([images] * 5))
    np.save(tmp_path / "labels.npy", np.tile(digits.labels, 5))
    np.save(tmp_path / "clean.npy", images)
    return f"cifar-c:{tmp_path}"


def test_stored_images_are_not_attacked(stored, model):
    with pytest.raises(
        InputError, match=r"Unknown shift 'pgd-linf:1/255'.*Choose from: clean, common, holdout, .*fog\."
    ):
        measure(model, stored, shifts=["clean", "pgd-linf:1/255"])
    with pytest.raises(InputError, match=r"Expected clean images to measure LIGS on, but cifar-c:.* stores shifted"):
        measure(model, stored, ligs=["gaussian"])


def test_a_stored_shift_may_have_the_name_of_an_attack(tmp_path, model, digits):
    images = (pixels_of(digits) * 255).byte().permute(0, 2, 3, 1).numpy()
    np.save(tmp_path / "labels.npy", np.tile(digits.labels, 5))
    np.save(tmp_path / "fgsm.npy", np.concatenate([images] * 5))
    found = measure(model, f"cifar-c:{tmp_path}", shifts=["fgsm"], severities=[2])
    (row,) = found.rows
    assert "attacks" not in found.record
    assert (row["shift"], row["severity"]) == ("fgsm", 2)
    assert_row(row, outcome(model, pixels_of(digits), digits))


@pytest.mark.parametrize("name", ["fgsm", "pgd-linf:1/255"])
def test_a_function_may_not_have_the_name_of_an_attack(model, digits, name):
    with pytest.raises(InputError, match=f"The shift name '{name}' is taken: give your function another"):
        measure(model, digits, shifts={name: lambda images: images})


def test_a_model_that_rounds_is_not_robust(digits):
    class Rounding(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3072, 10)

        def forward(self, images):
            return self.linear(images.round().flatten(1))

    with pytest.raises(InputError, match="The model's input gradient is zero everywhere"):
        measure(Rounding(), digits, shifts=["clean", "fgsm:1/255"])


# The command line

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(392, 10))
"""


@pytest.fixture
def words(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    model = ["--model", f"py:{tmp_path / 'model.py'}:build", "--out", tmp_path / "run"]
    return ["measure", *model, "--data", "digits", "--limit", "20", "--device", "cpu", "--shifts", "clean"]


def test_the_command_measures_attacks_and_ligs(run, words, tmp_path):
    words += ["--shifts", "clean,fgsm:8/255", "--rectify", "replace", "--samples", "8"]
    done = run(*words, "--ligs", "gaussian, uniform")
    assert done.code == 0, done.err
    found = read_run(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [(row["shift"], row["protocol"]) for row in found.rows] == [
        (shift, protocol) for shift in ("clean", "fgsm:8/255") for protocol in ("source", "replace")
    ]
    for name in ("gaussian", "uniform"):
        one = summary["ligs"][name]
        low, high = one["interval"]
        line = next(line for line in done.out.splitlines() if line.startswith(name))
        assert line.split() == [name, "0.01", *f"{one['mean']:.3f} {low:.3f} to {high:.3f} 20 0".split()]
    again = run(*words)
    assert (again.code, again.out) == (0, done.out)
    assert again.err.endswith("Every condition was finished before; nothing was measured again.\n")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--ligs", "nonsense"], "Unknown perturbation 'nonsense'. Choose from: gaussian, uniform, fgsm, pgd."),
        (["--shifts", "pgd-linf"], "Expected the attack as pgd-linf:EPSILON[:STEPS], such as pgd-linf:1/255, but got"),
        (["--shifts", "pgd-linf:8"], "Expected `epsilon` in [0,1], but got 8: pixels are in [0,1], so 8 of 255 levels"),
        (["--shifts", "fgsm:1/255:3"], "Expected the attack as fgsm:EPSILON, such as fgsm:1/255, but got"),
        (["--shifts", "pdg-linf:1/255"], "Unknown shift 'pdg-linf:1/255'"),
        (["--shifts", "pgd-l2:99"], "Expected `epsilon` below 55.4"),
        (["--shifts", "fgsm:1/255", "--rectify", "batch", "--samples", "8"], "Cannot attack batch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_tells_bad_input_in_one_line(run, words, more, told):
    done = run(*words, *more)
    assert (done.code, done.out) == (2, "")
    (line,) = [line for line in done.err.splitlines() if "passes over" not in line and "pass over" not in line]
    assert line.startswith("statshift: error: ")
    assert told in line
