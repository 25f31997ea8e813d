"""Adapted and hardened models in foolbox's, torchattacks', RobustBench's and timm's hands: they stay what they are."""

import pickle
import sys
from copy import deepcopy

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from timm.utils import CheckpointSaver
from torch import nn
from torch.nn import functional as F

from settled_norms import settle
from statshift import (
    HardenOptions,
    PixelModel,
    RectifiedStream,
    TrainingOptions,
    attack_images,
    corrupt,
    harden,
    load_data,
    load_model,
    measure,
    rectified,
    rectify,
)
from statshift._core.errors import InputError
from statshift.adapting.drawing import adaptation_positions
from statshift.adapting.frozen import foolbox_model, frozen
from statshift.adapting.options import AdaptationOptions
from statshift.models import Preprocessing
from statshift.shifts.attacks import PixelAttack

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The images to rectify to are alike"),  # drawn pixels are
]

CLASSES = 5
LABELS = torch.arange(8) % CLASSES
FLAGS = [(False, False, False), (True, False, False), (True, True, True)]
"""What torchattacks can be told to put into training mode: the model, batch norms, dropout."""


class Network(nn.Module):
    """Two batch norms with statistics of their own, no kink, and a dropout that matters in training mode."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
            self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8)
            self.dropout, self.linear = nn.Dropout(0.3), nn.Linear(8, CLASSES)
            for norm in (self.bn1, self.bn2):
                norm.running_mean.normal_(0, 0.3)
                norm.running_var.uniform_(0.05, 0.3)
        self.to(dtype)

    def forward(self, images):
        features = F.softplus(self.bn1(self.conv1(images)), beta=4)
        features = torch.tanh(self.bn2(self.conv2(features)))
        return self.linear(self.dropout(features.mean((2, 3))))


def source(dtype=torch.float64):
    """Return a model in pixel space, in training mode as its owner may have left it."""
    return PixelModel(Network(dtype), Preprocessing((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))).to(dtype).train()


def pixels(count=8, seed=2, side=9, dtype=torch.float64):
    """Return images of three bright and dark stripes; independent pixels would show nothing."""
    generator = torch.Generator().manual_seed(seed)
    stripes = torch.rand(count, 3, 1, 3, generator=generator).repeat_interleave(-(-side // 3), 3)[..., :side]
    found = 1.6 * stripes + 0.3 * torch.rand(count, 3, side, side, generator=generator) - 0.45
    return found.to(dtype).clamp(0, 1)


SHIFTED = 0.4 * pixels(16, 5)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def found(model):
    """Return all that a model's user could change without meaning to."""
    parameters = [(value.requires_grad, value.grad) for value in model.parameters()]
    return state(model), [module.training for module in model.modules()], parameters


def assert_same(first, second):
    weights, flags, parameters = first
    assert weights.keys() == second[0].keys()
    assert all(torch.equal(value, second[0][name]) for name, value in weights.items())
    assert (flags, parameters) == second[1:]


@torch.no_grad()
def by_hand(model, images):
    """Return the logits of a copy in evaluation mode."""
    return deepcopy(model).eval()(images)


# Of what


def of_a_model():
    model = source()
    return frozen(model), model


def of_a_rectified_model():
    model = rectify(source(), SHIFTED)
    return frozen(model), model


def of_a_context_that_has_ended():
    model = source()
    with rectified(model, SHIFTED) as adapted:
        kept = frozen(adapted)
    return kept, rectify(source(), SHIFTED)


def of_a_stream_that_goes_on():
    stream = RectifiedStream(source(), window=8, every=1)
    stream(SHIFTED[:8])
    twin = deepcopy(stream.model)
    kept = frozen(stream)
    stream((1 - SHIFTED[8:]).contiguous())
    assert (by_hand(stream.model, SHIFTED) - by_hand(twin, SHIFTED)).abs().max() > 0.01  # it has moved
    return kept, twin


def of_a_module():
    module = Network()
    module.bn1.running_mean.add_(0.1)
    return frozen(module), module


def of_a_frozen_model():
    model = rectify(source(), SHIFTED)
    return frozen(frozen(model)), model


MAKERS = [
    *(of_a_model, of_a_rectified_model, of_a_context_that_has_ended, of_a_stream_that_goes_on),
    *(of_a_module, of_a_frozen_model),
]


def trained(model):
    model.train()


def trained_module_by_module(model):
    for module in model.modules():
        module.training = True


def trained_by_apply(model):
    model.apply(nn.Module.train)


@pytest.mark.parametrize("disturb", [trained, trained_module_by_module, trained_by_apply])
@pytest.mark.parametrize("make", MAKERS)
def test_a_frozen_model_answers_as_the_model_did_whatever_its_mode(make, disturb):
    model, twin = make()
    images = pixels()
    expected, before = by_hand(twin, images), state(model)
    assert (deepcopy(twin).train()(images) - expected).abs().max() > 0.05  # training mode would show
    assert torch.equal(model(images), expected)
    disturb(model)
    assert torch.equal(model(images), expected)
    torch.testing.assert_close(model(images[:1]), expected[:1], rtol=0, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    with torch.no_grad():
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.add_(1)
    assert torch.equal(model(images), expected)


def test_a_hardened_model_is_frozen_too():
    data = torch.utils.data.TensorDataset((255 * pixels(side=32)).byte(), LABELS)
    options = HardenOptions("standard", training=TrainingOptions(1, 4, augment="none", learning_rate=0.1))
    hardened = harden(source(torch.float32), data, options, device="cpu")
    images = pixels(dtype=torch.float32)
    assert torch.equal(frozen(hardened.model)(images), by_hand(hardened.model, images))
    assert not torch.allclose(by_hand(source(torch.float32), images), by_hand(hardened.model, images), atol=1e-3)
    with pytest.raises(InputError, match=r"^Expected a module to freeze, but got Hardened; freeze its \.model\.$"):
        frozen(hardened)


def test_images_have_the_gradient_of_the_formula_and_weights_have_none():
    model, twin = of_a_stream_that_goes_on()
    images = pixels().requires_grad_()
    F.cross_entropy(model(images), LABELS).backward()
    again = images.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(deepcopy(twin).eval()(again), LABELS), again)
    assert torch.equal(images.grad, expected)
    assert expected.abs().max() > 1e-5
    assert all(value.grad is None and not value.requires_grad for value in model.parameters())
    assert not RectifiedStream(source())(images).requires_grad  # what it is frozen for


def test_it_is_copied_saved_and_moved_as_any_module(tmp_path):
    model, images = frozen(rectify(source(), SHIFTED)), pixels()
    expected = model(images)
    torch.save(model, tmp_path / "model.pt")
    other = frozen(source())
    assert not torch.equal(other(images), expected)
    other.load_state_dict(model.state_dict(), strict=True)
    copies = [deepcopy(model), pickle.loads(pickle.dumps(model)), other]
    copies.append(torch.load(tmp_path / "model.pt", weights_only=False))
    for copy in copies:
        assert torch.equal(copy.train()(images), expected)
    plain = source()
    plain.load_state_dict(model.state_dict(), strict=True)  # under the same names
    assert torch.equal(by_hand(plain, images), expected)
    moved = deepcopy(model).to(torch.float32)
    assert moved(images.float()).dtype == torch.float32
    torch.testing.assert_close(moved(images.float()), expected.float(), rtol=1e-4, atol=1e-4)
    assert {value.device.type for value in deepcopy(model).to("meta").state_dict().values()} == {"meta"}


def test_freezing_leaves_the_model_as_it_is():
    for make in (source, lambda: source().network):
        model = make()
        before = found(model)
        frozen(model).network.conv1.weight.data.zero_()
        assert_same(found(model), before)


def test_a_module_keeps_its_dtype():
    module, images = Network(torch.bfloat16), pixels(dtype=torch.bfloat16)
    assert torch.equal(frozen(module)(images), by_hand(module, images))


def test_what_has_no_statistics_to_keep_is_told():
    model = source()
    model.network.bn2.track_running_stats = False
    model.network.bn2.running_mean = model.network.bn2.running_var = None  # as Tent does
    with pytest.raises(InputError, match=r"keep, but network\.bn2 normalises each batch by its own: .* beside it"):
        frozen(model)
    with pytest.raises(InputError, match=r"^Expected a module to freeze, but got function\.$"):
        frozen(lambda images: images)


# foolbox and torchattacks


ATTACKS = {
    "linf": PixelAttack(8 / 255, random_start=False, steps=10),
    "l2": PixelAttack(0.5, norm="l2", random_start=False, steps=10),
}


@pytest.mark.parametrize("norm", ATTACKS)
@pytest.mark.parametrize("make", [of_a_context_that_has_ended, of_a_stream_that_goes_on])
def test_foolbox_attacks_the_adapted_model(make, norm):
    foolbox = pytest.importorskip("foolbox")
    model, twin = make()
    images, attack, before = pixels(), ATTACKS[norm], found(model)
    wrapped = foolbox_model(model)
    assert (wrapped.bounds, wrapped.device) == ((0, 1), torch.device("cpu"))
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    theirs = kind(rel_stepsize=None, abs_stepsize=attack.length, steps=attack.steps, random_start=False)
    adversarial, _, fooled = theirs(wrapped, images, LABELS, epsilons=attack.epsilon)
    torch.testing.assert_close(adversarial, attack_images(twin, images, LABELS, attack), rtol=0, atol=1e-12)
    of_the_source = attack_images(source(), images, LABELS, attack)
    assert (of_the_source - adversarial).abs().max() > attack.epsilon / 10
    assert torch.equal(fooled, by_hand(twin, adversarial).argmax(1) != LABELS)
    assert_same(found(model), before)


def test_foolbox_would_leave_gradients_in_the_weights():
    """What the copy is for: foolbox walks the graph backwards to all that wants a gradient."""
    foolbox = pytest.importorskip("foolbox")
    model, images = rectify(source(), SHIFTED).eval(), pixels()
    attack = foolbox.attacks.LinfPGD(steps=1, random_start=False)
    before = found(model)
    attack(foolbox_model(model), images, LABELS, epsilons=0.1)
    assert_same(found(model), before)
    attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), images, LABELS, epsilons=0.1)
    assert model.network.conv1.weight.grad is not None


def test_foolbox_has_to_be_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(InputError, match=r"^The package foolbox is needed here: pip install foolbox\.$"):
        foolbox_model(source())


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("name", ["FGSM", "PGD", "PGDL2"])
def test_torchattacks_attacks_the_adapted_model(name, flags):
    torchattacks = pytest.importorskip("torchattacks")
    model, twin = of_a_context_that_has_ended()
    images, before = pixels(), found(model)
    ours, options = {
        "FGSM": (PixelAttack(0.1, 0.1, 1, random_start=False), {"eps": 0.1}),
        "PGD": (ATTACKS["linf"], {"eps": 8 / 255, "alpha": ATTACKS["linf"].length}),
        "PGDL2": (ATTACKS["l2"], {"eps": 0.5, "alpha": ATTACKS["l2"].length, "eps_for_division": 0}),
    }[name]
    options |= {} if name == "FGSM" else {"steps": 10, "random_start": False}
    attack = getattr(torchattacks, name)(model, **options)
    attack.set_model_training_mode(*flags)
    adversarial = attack(images, LABELS)
    torch.testing.assert_close(adversarial, attack_images(twin, images, LABELS, ours), rtol=0, atol=1e-12)
    assert not torch.allclose(adversarial, images)
    assert attack.device == torch.device("cpu")
    assert_same(found(model), before)


# Accuracy, by everybody


def accuracy_as_robustbench_does(model, images, labels, batch_size=100):
    """Return the share of images classified rightly, by the loop that RobustBench's `benchmark` runs."""
    assert not model.training, "RobustBench warns that the model is not in evaluation mode"
    model, correct = model.to(torch.device("cpu")), 0.0
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            logits = model(images[start : start + batch_size])
            correct += (logits.max(1)[1] == labels[start : start + batch_size]).float().sum()
    return float(correct) / len(images)


@pytest.mark.filterwarnings("ignore::statshift._core.errors.FewImagesWarning")  # digits are alike to drawn weights
def test_accuracy_is_measure_s_by_robustbench_s_loop_and_by_foolbox():
    foolbox = pytest.importorskip("foolbox")
    data = load_data("digits", split="test")
    images, labels = data.tensors()
    images, labels = images[:300], labels[:300]
    data = load_data(torch.utils.data.TensorDataset((255 * images).round().byte(), labels))
    torch.manual_seed(0)
    model = settle(load_model(nn.Sequential(*_layers()), mean=(0.1,) * 3, std=(0.3,) * 3))
    with torch.no_grad():  # the last layer by least squares: right on most digits
        features = model.network[:-1].eval()(model.normalise(images))
        fit = torch.linalg.lstsq(features, F.one_hot(labels, 10).float(), driver="gelsd").solution
        model.network[-1].weight.copy_(fit.T)
        model.network[-1].bias.zero_()
    settings = {"shifts": ["clean", "brightness"], "severities": [3], "device": "cpu"}
    adaptation = AdaptationOptions(samples=32, include_adaptation=True)
    rows = measure(model, data, rectify=["auto"], adaptation=adaptation, **settings).rows
    expected = {(row["shift"], row["protocol"]): row["correct"] / row["images"] for row in rows}
    drawn = adaptation_positions(data.indices, 32, 0, 0)
    shifted = corrupt(images, "brightness", 3, seed=0, indices=torch.from_numpy(data.indices))
    shifted = (shifted * 255).round() / 255
    counts = {}
    for shift, some in (("clean", images), ("brightness", shifted)):
        for protocol, adapted in (("source", model), ("auto", rectify(model, some[drawn]))):
            kept = frozen(adapted.train())
            theirs = accuracy_as_robustbench_does(kept, some, labels, 70)
            assert theirs == pytest.approx(expected[shift, protocol], abs=1e-9)
            assert foolbox.utils.accuracy(foolbox_model(adapted), some, labels) == pytest.approx(theirs, abs=1e-6)
            counts[shift, protocol] = theirs
    again = measure(frozen(model), data, **settings).rows  # normalised once, not twice
    assert [row["correct"] for row in again] == [row["correct"] for row in rows if row["protocol"] == "source"]
    assert counts["clean", "source"] > 0.8
    assert len(set(counts.values())) > 2


def _layers():
    sizes = ((3, 16), (16, 32), (32, 32))
    blocks = [(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b in sizes]
    return [layer for block in blocks for layer in block] + [nn.Flatten(), nn.Linear(512, 10)]


# Checkpoints


PHOTOGRAPHS = np.random.default_rng(0).integers(0, 256, (8, 3, 64, 64), dtype=np.uint8)


@pytest.fixture
def photographs(tmp_path):
    """Return a file of images with labels."""
    np.savez(tmp_path / "images.npz", images=PHOTOGRAPHS.transpose(0, 2, 3, 1), labels=np.arange(8) % 4)
    return tmp_path / "images.npz"


def built(name, seed=0):
    """Return a timm or torchvision network of four classes, weights and norms random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name.startswith("timm:"):
            network = timm.create_model(name.partition(":")[2], pretrained=False, num_classes=4)
        else:
            network = torchvision.models.get_model(name.partition(":")[2].partition("@")[0], num_classes=4)
    return settle(network, seed).eval()


NAMES = ["timm:test_resnet", "torchvision:shufflenet_v2_x0_5@none"]
ARGUMENTS = {"num_classes": 4}


def saved_as_timm_does(network, folder):
    """Return the checkpoint that timm's training script leaves."""
    optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    CheckpointSaver(network, optimiser, checkpoint_dir=str(folder)).save_checkpoint(0, metric=1.0)
    return folder / "last.pth.tar"


@pytest.mark.parametrize("name", NAMES)
def test_rectified_weights_are_a_checkpoint_of_timm_s_and_of_torch_s(name, run, photographs, tmp_path):
    network = built(name)
    weights = saved_as_timm_does(network, tmp_path)  # and timm's own training checkpoint goes in
    out = tmp_path / "rectified.safetensors"
    data = ("--data", f"npz:{photographs}", "--samples", 8, "--protocol", "replace", "--device", "cpu")
    done = run("rectify", "--model", name, "--model-args", "num_classes=4", "--weights", weights, *data, "--out", out)
    assert done.code == 0, done.err
    fresh = built(name, 1)
    if name.startswith("timm:"):
        fresh = timm.create_model("test_resnet", num_classes=4, checkpoint_path=str(out)).eval()
        timm.models.load_checkpoint(built(name, 1), str(out), strict=True)
    else:
        fresh.load_state_dict(load_file(out), strict=True)
    model = load_model(name, weights=weights, model_args=ARGUMENTS)
    images, _ = load_data(f"npz:{photographs}", **model.loading_options).tensors()
    expected = rectify(model, images, "replace")
    with torch.no_grad():
        inputs = model.normalise(images)
        assert torch.equal(fresh(inputs), expected.network(inputs))
        assert torch.equal(model.network(inputs), network(inputs))
        assert (fresh(inputs) - network(inputs)).abs().max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_hardened_weights_are_a_checkpoint_of_timm_s_and_of_torch_s(name, photographs, tmp_path):
    model = load_model(name, weights=saved_as_timm_does(built(name), tmp_path), model_args=ARGUMENTS)
    training = TrainingOptions(1, 4, augment="none", learning_rate=0.05)
    hardened = harden(
        model,
        f"npz:{photographs}",
        HardenOptions("advbn", at="layer1" if "resnet" in name else "maxpool", training=training),
        out=tmp_path / "hardened",
        device="cpu",
    )
    images = model.normalise(torch.from_numpy(PHOTOGRAPHS).float() / 255)
    answers = {}
    for branch, one in hardened.branches.splits.items():
        path = tmp_path / "hardened" / f"{branch}.safetensors"
        fresh = built(name, 1)
        if name.startswith("timm:"):
            timm.models.load_checkpoint(fresh, str(path), strict=True)
        else:
            fresh.load_state_dict(load_file(path), strict=True)
        with torch.no_grad():
            answers[branch] = fresh(images)
            assert torch.equal(answers[branch], one.model.network(images))
    assert (answers["clean"] - answers["adv"]).abs().max() > 1e-4
    assert (answers["clean"] - built(name)(images)).abs().max() > 1e-3
