"""What was once wrong of attacks, LIGS and training from scratch: half precision, processes, identities, refusals.

Run as a program it writes the gradients of the LIGS regularizer, of its process's share: `python ... FOLDER`.
"""

import json
import re
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import TensorDataset

import training_jobs
import warm
from statshift import load_data, load_model, measure
from statshift._core import processes
from statshift._core.errors import InputError, NoGradientError
from statshift._core.randomness import Draws
from statshift.hardening.batch import Batch
from statshift.hardening.from_scratch import build
from statshift.hardening.harden import harden
from statshift.hardening.methods.ligs import LigsRegularised
from statshift.hardening.options import HardenOptions
from statshift.hardening.training import TrainingOptions
from statshift.hardening.validation import Validation
from statshift.measuring.ligs import LigsOptions
from statshift.models import exchange_norm, weights_hash
from statshift.norms.synchronisation import synchronised
from statshift.results.provenance import describe_model
from statshift.shifts.attacks import AutoAttack, PixelAttack, attack_images, describe_attack, parse_attack
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.targets import Targets

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy"),
]

COUNT = 32
ATTACKS = ("pgd-linf:1/255:5", "pgd-l2:0.25:5")
ONE_EPOCH = TrainingOptions(epochs=1, batch_size=16, learning_rate=0.01, augment="none", checkpoint_every=0)


# Half precision


@pytest.fixture(scope="module")
def by_type(shared):
    """Rows and LIGS of real images, by the type that the model runs in."""
    model = load_model("cifar:resnet20", weights=shared / "data/cifar10_resnet20.th")
    data = load_data(f"npz:{shared}/data/cifar10_test_1000.npz", limit=COUNT)
    types = ("float32", "bfloat16", "float16")
    return {
        dtype: measure(model, data, shifts=["clean", *ATTACKS], ligs=["gaussian"], dtype=dtype, device="cpu")
        for dtype in types
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_the_robust_accuracies_of_float32(by_type, dtype):
    whole, half = (by_type[name].rows for name in ("float32", dtype))
    assert [row["shift"] for row in half] == ["clean", *ATTACKS]
    for ours, theirs in zip(half, whole, strict=True):
        assert ours["images"] == COUNT
        assert abs(ours["correct"] - theirs["correct"]) <= 2, ours["shift"]
        assert ours["cross_entropy_sum"] == pytest.approx(theirs["cross_entropy_sum"], rel=0.03)
        assert ours["cross_entropy_sum"] != theirs["cross_entropy_sum"]  # it did answer in half precision
    assert whole[0]["correct"] > 26
    assert whole[1]["correct"] < 16


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_has_the_ligs_of_float32_over_all_images(by_type, dtype):
    whole, half = (by_type[name].summary["ligs"]["gaussian"] for name in ("float32", dtype))
    assert (half["images"], half["left_out"]) == (COUNT, 0)
    assert half["mean"] == pytest.approx(whole["mean"], abs=0.02)
    assert 0.4 < whole["mean"] < 0.8


def test_under_float16_gradients_are_float32_s(by_type):
    """To the bit, and images are attacked as far as in float32: a gradient of 1e-9 has a direction."""
    means = {dtype: found.summary["ligs"]["gaussian"]["mean"] for dtype, found in by_type.items()}
    assert means["float16"] == means["float32"] != means["bfloat16"]
    for half, whole in zip(by_type["float16"].rows[1:], by_type["float32"].rows[1:], strict=True):
        assert half["cross_entropy_sum"] == pytest.approx(whole["cross_entropy_sum"], rel=2e-3)


class Sure(nn.Module):
    """Two classes, by whether a picture's first pixel is bright; logits whose loss has a gradient of 1e-9 or so."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 32)
        nn.init.zeros_(self.conv.weight)
        self.conv.weight.data[0, :, 0, 0] = 14.0  # three channels: 21 above the middle, where the loss is 7e-10
        self.conv.bias.data.copy_(torch.tensor([-21.0, 0.0]))

    def forward(self, images):
        return self.conv(images).flatten(1)


def test_sure_images_are_attacked_and_compared_in_float16():
    """Their loss's gradient is below the least number of float16, so that no step would be taken in it."""
    images = torch.zeros(8, 3, 32, 32)
    images[4:] = 1.0
    labels = (images[:, 0, 0, 0] < 0.5).long()
    model = load_model(Sure(), mean=(0, 0, 0), std=(1, 1, 1))
    data = TensorDataset(images, labels)
    found = measure(model, data, shifts=["clean", "pgd-linf:0.6:3"], ligs=["gaussian"], dtype="float16", device="cpu")
    assert [row["correct"] for row in found.rows] == [8, 0]
    assert found.summary["ligs"]["gaussian"]["images"] == 8
    assert found.summary["ligs"]["gaussian"]["mean"] == pytest.approx(1, abs=1e-6)  # the gradient's direction is fixed


# Over processes


def regularised(rank, world):
    """Return the value and gradient of each of the regularizer's losses, of this process's share of eight images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = torch.rand(8, 3, 32, 32, dtype=torch.float64)
    branches = training_jobs.branches_of().train()
    norms = [module for module in branches.modules() if isinstance(module, _BatchNorm)]
    part, found = slice(rank * 8 // world, (rank + 1) * 8 // world), {}
    labels, indices = torch.arange(8) % 10, torch.arange(8)
    batch = Batch(images[part], Targets(labels[part]), Draws(0, indices[part], "test"))
    for perturbation in ("gaussian", "fgsm"):
        branches.zero_grad()
        with synchronised(norms):
            losses = LigsRegularised(LigsOptions(perturbation))(branches, batch)
        for name, loss in losses.items():
            wanted = [one for one in branches.parameters() if one.requires_grad]
            gradients = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
            flat = torch.cat([one.flatten() for one in gradients if one is not None])
            found[perturbation, name] = processes.mean_over_ranks(loss.detach()), processes.mean_over_ranks(flat)
    return found


def penalty(rank, world):
    """Return the gradient of the squared norm of a gradient, and that of the plain loss, through one norm."""
    norm = nn.BatchNorm2d(3).double()
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(8, 3, 4, 4, generator=generator, dtype=torch.float64)
    scale = torch.linspace(0.5, 2, 8, dtype=torch.float64).view(-1, 1, 1, 1)
    part = slice(rank * 8 // world, (rank + 1) * 8 // world)
    point = (features * scale)[part].requires_grad_()
    with synchronised([norm]):
        (gradient,) = torch.autograd.grad((norm(point).sin() * scale[part]).sum(), point, create_graph=True)
    second, weight = torch.autograd.grad(gradient.square().sum() / len(gradient), [point, norm.weight])
    return {"at the images": second / world, "of the weight": processes.mean_over_ranks(weight)}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Return what two processes over gloo find, each with half of the images."""
    folder = tmp_path_factory.mktemp("processes")
    ended = warm.run(folder, file=__file__, count=2)
    assert ended.returncode == 0, ended.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def difference(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_the_mean_over_processes_has_a_second_derivative(monkeypatch):
    """As of two processes that see the same, whose mean is one's own."""
    monkeypatch.setattr(processes, "_mean", lambda tensor: tensor.detach().clone())
    point = torch.tensor([0.7, -1.2], dtype=torch.float64, requires_grad=True)

    def cubed(tensor):
        return processes._MeanOverRanks.apply(tensor) ** 3

    assert torch.autograd.gradgradcheck(cubed, point)
    (first,) = torch.autograd.grad(cubed(processes._MeanOverRanks.apply(point)).sum(), point, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), point)
    torch.testing.assert_close(second, 6 * point.detach())


@pytest.mark.slow
@pytest.mark.parametrize("perturbation", ["gaussian", "fgsm"])
def test_two_processes_regularise_as_one(two_processes, perturbation):
    alone = regularised(0, 1)
    for name in ("clean", "ligs"):
        value, gradient = alone[perturbation, name]
        assert gradient.norm() > 1e-3
        for found in two_processes:
            theirs = found["regularised"][perturbation, name]
            assert float(theirs[0]) == pytest.approx(float(value), rel=1e-9)
            assert difference(theirs[1], gradient) < 1e-9


@pytest.mark.slow
def test_a_penalty_on_gradients_has_the_gradient_of_one_process(two_processes):
    alone = penalty(0, 1)
    shares = [found["penalty"] for found in two_processes]
    whole = torch.cat([share["at the images"] for share in shares])
    assert difference(whole, alone["at the images"]) < 1e-9
    for share in shares:
        assert difference(share["of the weight"], alone["of the weight"]) < 1e-9


# What a record tells apart


def exchanged(norm, spec="cifar:resnet20", eps=None):
    """Return a network whose norms were exchanged after it was loaded, so that no argument tells."""
    model = build(spec, {"width": 0.5} if spec.startswith("cifar") else {})
    exchange_norm(model.network, norm)
    for module in model.modules():
        if eps is not None and isinstance(module, nn.GroupNorm):
            module.eps = eps
    return model.eval()


@pytest.mark.parametrize("spec", ["cifar:resnet20", "torchvision:resnet18"])
def test_a_record_tells_group_norm_from_layer_norm(spec):
    group, layer = exchanged("group", spec), exchanged("layer", spec)
    assert weights_hash(group.network) == weights_hash(layer.network)
    ours, theirs = describe_model(group), describe_model(layer)
    assert {name for name in ours if ours[name] != theirs[name]} == {"norms"}
    norms = [module for module in layer.modules() if isinstance(module, nn.GroupNorm)]
    assert theirs["norms"] == {"GroupNorm of 1 groups, eps 1e-05": len(norms)}
    assert sum(ours["norms"].values()) == len(norms)
    groups = {module.num_groups for module in group.modules() if isinstance(module, nn.GroupNorm)}
    assert ours["norms"].keys() == {f"GroupNorm of {count} groups, eps 1e-05" for count in groups}


@pytest.mark.parametrize("other", [{"norm": "layer"}, {"norm": "group", "eps": 1e-3}])
def test_two_norms_do_not_share_a_run(tmp_path, other):
    data = load_data("digits", limit=20)
    first = measure(exchanged("group"), data, shifts=["clean"], out=tmp_path, device="cpu")
    with pytest.raises(InputError, match=r"holds another run \(.*norms") as error:
        measure(exchanged(**other), data, shifts=["clean"], out=tmp_path, device="cpu")
    assert "\n" not in str(error.value)
    again = measure(exchanged("group"), data, shifts=["clean"], out=tmp_path, device="cpu")
    assert again.rows == first.rows


def test_autoattack_draws_by_batch_and_a_record_says_so():
    """A pixel attack addresses its draws to images, so that a batch size changes neither it nor what is recorded."""
    attack = AutoAttack(0.1)
    described = [describe_attack(attack, size) for size in (4, 8)]
    assert described == [{**asdict(attack), "batch_size": size} for size in (4, 8)]
    pixels = PixelAttack(0.1, steps=5)
    assert describe_attack(pixels, 4) == describe_attack(pixels, 8) == {**asdict(pixels), "step_size": pixels.length}


@pytest.mark.parametrize(("name", "told"), [("autoattack-linf:1/255", "batch_size"), ("fgsm:1/255", None)])
def test_a_run_of_autoattack_goes_on_with_its_batch_size_only(tmp_path, monkeypatch, name, told):
    monkeypatch.setattr(AutoAttack, "run", lambda self, model, images, *more: images)
    model, data = build("cifar:resnet20", {"width": 0.25}).eval(), load_data("digits", limit=12)
    first = measure(model, data, shifts=[name], batch_size=6, out=tmp_path, device="cpu")
    assert first.record["attacks"][name].get("batch_size") == (6 if told else None)
    if told:
        with pytest.raises(InputError, match=rf"holds another run \(.*{told}"):
            measure(model, data, shifts=[name], batch_size=4, out=tmp_path, device="cpu")
    else:
        assert measure(model, data, shifts=[name], batch_size=4, out=tmp_path, device="cpu").rows == first.rows


# What a training refuses


def told(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_gradients_of_gradients_in_float16_are_refused():
    with pytest.raises(InputError, match="float16") as error:
        HardenOptions("ligs", training=TrainingOptions(dtype="float16"))
    assert "bfloat16" in told(error)
    assert HardenOptions("ligs", training=TrainingOptions(dtype="bfloat16")).training.dtype == "bfloat16"
    assert HardenOptions("standard", training=TrainingOptions(dtype="float16")).method.name == "standard"


def test_gradients_of_gradients_are_refused_of_a_compiled_model(tmp_path):
    model = training_jobs.build()
    before = weights_hash(model)
    options = HardenOptions("ligs", training=ONE_EPOCH)
    with pytest.raises(InputError, match=r"ligs takes gradients of gradients.*torch\.compile") as error:
        harden(model, load_data("digits:train", limit=32), options, compiled=True, out=tmp_path / "out", device="cpu")
    assert told(error).endswith(".")
    assert weights_hash(model) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("walked_first", [False, True])
def test_a_training_with_a_walk_is_not_one_without(tmp_path, walked_first):
    def train(walk):
        data, options = load_data("digits:train", limit=32), HardenOptions("standard", "input", ONE_EPOCH)
        return harden(training_jobs.build(), data, options, landscape=walk, out=tmp_path, device="cpu")

    first = train(walked_first)
    assert ("landscape" in first.record["history"][0].get("validation", {})) == walked_first
    written = (tmp_path / "record.json").read_bytes()
    with pytest.raises(InputError, match=r"is of another training: it differs in landscape\. ") as error:
        train(not walked_first)
    told(error)
    assert (tmp_path / "record.json").read_bytes() == written
    assert train(walked_first).record["history"] == first.record["history"]


# The command line


@pytest.mark.parametrize("method", ["ligs", "corrupted"])
def test_harden_hints_at_train_for_methods_of_training(run, tmp_path, method):
    out = tmp_path / "out"
    words = ["--model", "cifar:resnet20", "--data", "digits", "--limit", 20, "--device", "cpu", "--out", out]
    done = run("harden", *words, "--method", method)
    assert done.code == 2
    assert re.search(rf"method {method} is one of statshift train", " ".join(done.err.split()))
    assert len(done.err.strip().splitlines()) == 1
    assert not out.exists()


def test_train_prints_what_loads_the_network_again(run, tmp_path):
    """The words printed are taken as they are: measured by them, the network has the accuracy it ended with."""
    out = tmp_path / "out"
    words = ["--model", "cifar:resnet20", "--model-args", "width=0.25", "--norm", "group", "--data", "digits"]
    words += ["--limit", 64, "--epochs", 1, "--batch-size", 16, "--device", "cpu", "--out", out]
    done = run("train", *words, "--validation", "digits", "--validation-limit", 40)
    assert done.code == 0, done.err
    last = done.out.splitlines()[-1]
    assert last.endswith(", as in statshift measure.")
    printed = shlex.split(last.removesuffix(", as in statshift measure."))
    expected = ["--model", "cifar:resnet20", "--model-args", "width=0.25", "--model-args", "norm=group"]
    assert printed == [*expected, "--weights", str(out / "clean.safetensors")]
    rest = ["--data", "digits", "--limit", 40, "--seed", 0, "--shifts", "clean", "--device", "cpu"]
    measured = run("measure", *printed, *rest, "--out", tmp_path / "run")
    assert measured.code == 0, measured.err
    ours, theirs = (json.loads((path / "record.json").read_bytes()) for path in (out, tmp_path / "run"))
    assert theirs["model"]["weights_hash"] == ours["weights_hash"]["clean"]
    assert theirs["model"]["norms"] == ours["model"]["norms"]


# What cannot be measured of a network while it trains


def dead():
    """Return a network none of whose features ever fires."""
    conv = nn.Conv2d(3, 4, 3)
    nn.init.constant_(conv.bias, -1e3)
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


def sure():
    """Return a network that sees the first class, so surely that the loss is 0 exactly; its logits follow pixels."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    network[-1].bias.data[0] = 1e4
    return network


def validated(network, validation, **more):
    """Return what is found of a network after an epoch in which next to nothing was learnt."""
    data, options = load_data("digits:train", limit=16), HardenOptions("standard", "input", ONE_EPOCH)
    found = harden(network, data, options, validation=validation, device="cpu", **more)
    return found.record["history"][-1]["validation"]["clean"]


@pytest.mark.parametrize("shifts", [("clean", "fgsm:4/255"), "fgsm:4/255", ["fgsm:4/255", "pgd-l2:0.5:2"]])
def test_a_dead_network_s_attacks_are_none_and_the_rest_is_measured(shifts):
    validation = load_data("digits", limit=20)
    accuracy = validated(dead(), validation, shifts=shifts, ligs=["gaussian", "uniform"])
    attacks = [name for name in ([shifts] if isinstance(shifts, str) else shifts) if name != "clean"]
    undefined = dict.fromkeys([*attacks, "LIGS gaussian", "LIGS uniform"])
    assert accuracy == {"clean": 0.1} | undefined  # one class of ten


def test_robust_accuracies_stay_where_only_ligs_is_undefined():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    validation = load_data(TensorDataset(images, torch.zeros(20, dtype=torch.int64)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = sure()
    shifts = ("clean", "fgsm:4/255", "pgd-linf:8/255:3")
    looking = Validation(validation, shifts, (1,), ["gaussian"], walk=False, device="cpu", task=CLASSIFICATION)
    found = looking.look(_only(network), validation, TrainingOptions())
    assert found == {"clean": {**dict.fromkeys(shifts, 1.0), "LIGS gaussian": None}}


def _only(network):
    """Return a network as the one branch of a training."""
    return training_jobs.Branches(load_model(network), "input", torch.rand(2, 3, 32, 32), dual=False)


def test_robust_accuracies_that_are_not_all_or_nothing_stay_too(monkeypatch):
    """Beside the loop, with a LIGS that says that it is undefined."""

    def undefined(evaluate, data, wanted, *more):
        if wanted:
            raise NoGradientError("Expected an image whose input gradient is neither zero nor infinite.")

    monkeypatch.setattr("statshift.measuring.run.measure_ligs", undefined)
    network, validation, name = training_jobs.build(), load_data("digits", limit=40), "fgsm:2/255"
    shifts = {"shifts": ("clean", name), "ligs": ["gaussian"]}
    found = validated(network, validation, **shifts)
    (pixels, positions), *_ = validation.batches(40)
    images, labels = pixels.float() / 255, torch.from_numpy(validation.labels[positions])
    model = load_model(network).eval()
    indices = torch.from_numpy(validation.indices)
    worst = attack_images(model, images, labels, parse_attack(name), indices=indices)
    with torch.no_grad():
        right = [float((model(one).argmax(1) == labels).float().mean()) for one in (images, worst)]
    assert found == {"clean": pytest.approx(right[0]), name: pytest.approx(right[1]), "LIGS gaussian": None}
    assert right[0] > 0


if __name__ == "__main__":
    place = processes.join()
    found = {"regularised": regularised(*place), "penalty": penalty(*place)}
    torch.save(found, Path(sys.argv[1]) / f"{place[0]}.pt")
