"""The examples do what they say: their losses and weights are the library's own trainer's, and the formula's."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from settled_norms import settle
from statshift import AdvBN, Branches, FeatureAttack, HardenOptions, PixelModel, TrainingOptions, harden, load_data
from statshift._core.errors import InputError
from statshift.hardening.augmentation import augmentation_for
from statshift.hardening.batches import Batches
from statshift.hardening.methods.advbn import advbn_losses
from statshift.models import Preprocessing

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLES = Path(__file__).parents[1] / "examples"
TRAINING = TrainingOptions(2, 64, 0.01, schedule="constant", augment="none", channels_last=False)
ATTACK = FeatureAttack(steps=2)


@pytest.fixture(scope="module")
def plain():
    return runpy.run_path(str(EXAMPLES / "plain_loop.py"))


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", split="train", limit=200)


class Loader:
    """The batches of the library's trainer, epoch after epoch, as pairs of images and labels."""

    def __init__(self, data):
        augmentation = augmentation_for(TRAINING.augment, data, TRAINING.seed)
        device = torch.device("cpu")
        self.batches = Batches(data, augmentation, TRAINING.batch_size, 1, 10, device, channels_last=False)
        self.asked = -1  # once before the first epoch, for an example

    def __iter__(self):
        epoch, self.asked = max(self.asked, 0), self.asked + 1
        return ((batch.images, batch.targets.labels) for batch, _ in self.batches.epoch(epoch))


def pixel_model(network):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PixelModel(settle(network()).eval(), Preprocessing((0.5,) * 3, (0.25,) * 3))


def by_hand(clean, adv, images, labels, cut, *, steps, step_size=0.2):
    """Return AdvBN's two losses of plain networks in training mode, whose layers up to `cut` make the features."""
    with torch.no_grad():
        features = clean[:cut].eval()(images)
    mean = features.mean((0, 2, 3), keepdim=True)

    def changed(factors):
        return (factors[1] * (features - mean) + factors[0] * mean).relu()

    factors = torch.ones(2, *mean.shape, dtype=features.dtype)
    for _ in range(steps):
        factors.requires_grad_()
        loss = F.cross_entropy(adv[cut:].eval()(changed(factors)), labels)
        (gradient,) = torch.autograd.grad(loss, factors)
        bound = steps * step_size - 0.1
        factors = (factors.detach() + step_size * gradient.sign()).clamp(1 - bound, 1 + bound)
    with torch.no_grad():
        pairs = (clean[cut:].train(), features), (adv[cut:].train(), changed(factors))
        return [float(F.cross_entropy(suffix(some), labels)) for suffix, some in pairs]


# The plain loop


def test_losses_of_a_batch_are_the_formula_s(plain, digits):
    model, (images, labels) = pixel_model(plain["network"]).double(), digits.tensors()
    images, labels = images[:32].double(), labels[:32]
    branches = Branches(model, "2", images[:2]).train()
    with torch.no_grad():
        branches.norms["network.4"].weight.mul_(1.5)  # the twin is another network
    twins = [pixel_model(plain["network"]).double().network for _ in range(2)]
    twins[1][4].weight.data.mul_(1.5)
    expected = by_hand(*twins, model.normalise(images), labels, 3, steps=2)
    losses = advbn_losses(branches, images, labels, ATTACK)
    assert [losses["clean"].item(), losses["adv"].item()] == pytest.approx(expected, rel=1e-10)
    assert abs(expected[1] - expected[0]) > 1e-3
    (losses["clean"] + losses["adv"]).backward()
    trained = {name for name, value in branches.named_parameters() if value.grad is not None}
    assert trained == {name for name, value in branches.named_parameters() if value.requires_grad}
    assert "clean.network.0.weight" not in trained


def test_losses_run_in_the_autocast_in_force(plain, digits):
    images, labels = digits.tensors()
    found = []
    for dtype in (None, torch.bfloat16):
        branches = Branches(pixel_model(plain["network"]), "2", images[:2]).train()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            found.append(advbn_losses(branches, images[:32], labels[:32], ATTACK)["clean"].item())
    assert found[0] != found[1] == pytest.approx(found[0], rel=0.02)


def test_what_the_losses_cannot_take_is_told(plain, digits):
    images, labels = digits.tensors()
    branches = Branches(pixel_model(plain["network"]), "2", images[:2])
    with pytest.raises(InputError, match=r"^Expected pixels in \[0,1\], but got values from -2"):
        advbn_losses(branches, 4 * images - 2, labels)
    for some in (("input", True), ("2", False)):
        with pytest.raises(InputError, match=r"^Expected branches with a twin behind a cut: Branches\("):
            advbn_losses(Branches(pixel_model(plain["network"]), some[0], images[:2], dual=some[1]), images, labels)


def test_the_plain_loop_ends_with_the_weights_of_harden(plain, digits, monkeypatch):
    history = []

    def watched(*given):
        losses = advbn_losses(*given)
        history.append({name: loss.item() for name, loss in losses.items()})
        return losses

    monkeypatch.setattr("statshift.advbn_losses", watched)
    model = pixel_model(plain["network"])
    ours = plain["fine_tune"](model, Loader(digits), "2", epochs=2, learning_rate=0.01, attack=ATTACK)
    options = HardenOptions(AdvBN(ATTACK), "2", TRAINING)
    theirs = harden(pixel_model(plain["network"]), digits, options, device="cpu")
    per_epoch = len(digits) // 64
    for epoch, entry in enumerate(theirs.record["history"]):
        some = history[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert {name: np.mean([one[name] for one in some]) for name in some[0]} == pytest.approx(entry["losses"])
    assert len(history) == 2 * per_epoch
    for branch in ("clean", "adv"):
        expected = getattr(theirs.branches, branch).state_dict()
        for name, value in getattr(ours, branch).state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    assert ours.clean is model
    before = pixel_model(plain["network"]).state_dict()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[1] for name in moved} == {"3", "4", "6", "7", "11"}  # nothing before the cut


def test_the_plain_example_prints_what_its_network_does(plain, capsys):
    network = plain["main"](epochs=(2, 1)).eval()
    assert isinstance(network, nn.Sequential)
    images, labels = load_data("digits", split="test").tensors()
    with torch.no_grad():
        accuracy = float((network((images - 0.5) / 0.25).argmax(1) == labels).float().mean())
    header, before, after = capsys.readouterr().out.splitlines()
    assert header.split() == ["clean", "corrupted"]
    assert after.startswith(f"fine-tuned by AdvBN  {accuracy:.3f}  ")
    assert before.startswith("plainly trained      0.")
    assert accuracy > 0.5


# The Hugging Face Trainer


@pytest.fixture(scope="module")
def hugging_face():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        pytest.importorskip("transformers")
        pytest.importorskip("accelerate")
        yield runpy.run_path(str(EXAMPLES / "hugging_face.py"))


def hf_branches(hugging_face, images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = settle(hugging_face["network"]()).eval()
    return Branches(model, "resnet.embedder.embedder", images[:2])


def test_the_trainer_steps_down_the_objective(hugging_face, digits, tmp_path):
    images, labels = digits.tensors()
    images, labels = 2 * images[:32] - 1, labels[:32]
    data = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    given = {"per_device_train_batch_size": 32, "use_cpu": True, "disable_tqdm": True, "optim": "sgd"}
    options = hugging_face["arguments"](str(tmp_path), max_steps=1, learning_rate=0.1, max_grad_norm=0, **given)
    branches = hf_branches(hugging_face, images)
    trainer = hugging_face["AdvBNTrainer"](branches, options, train_dataset=data)
    found = trainer.train().training_loss

    twins = [hf_branches(hugging_face, images).clean for _ in range(2)]
    nets = [nn.Sequential(one.resnet.embedder.embedder, _Rest(one)) for one in twins]
    order = list(trainer.get_train_dataloader().sampler)
    assert found == pytest.approx(sum(by_hand(*nets, images[order], labels[order], 1, steps=3)), rel=1e-5)

    twin = hf_branches(hugging_face, images).train()
    losses = advbn_losses(twin, images, labels, hugging_face["ATTACK"])
    (losses["clean"] + losses["adv"]).backward()
    for name, value in twin.named_parameters():
        step = 0 if value.grad is None else 0.1 * value.grad
        torch.testing.assert_close(branches.get_parameter(name), value - step, rtol=1e-4, atol=1e-5)


class _Rest(nn.Module):
    """What a network of Hugging Face's does behind its first convolution."""

    def __init__(self, model):
        super().__init__()
        self.pool, self.encoder = model.resnet.embedder.pooler, model.resnet.encoder
        self.classifier = model.classifier

    def forward(self, features):
        features = self.encoder(self.pool(features)).last_hidden_state
        return self.classifier(F.adaptive_avg_pool2d(features, 1))


def test_the_trained_model_is_saved_for_its_own_architecture(hugging_face, tmp_path, capsys):
    from transformers import ResNetForImageClassification

    hugging_face["main"](str(tmp_path), epochs=(1, 1))
    *_, header, before, after = capsys.readouterr().out.splitlines()
    model = ResNetForImageClassification.from_pretrained(tmp_path).eval()
    images, labels = load_data("digits", split="test").tensors()
    with torch.no_grad():
        accuracy = float((model(2 * images - 1).logits.argmax(1) == labels).float().mean())
    assert header.split() == ["clean", "corrupted"]
    assert after.startswith(f"fine-tuned by AdvBN  {accuracy:.3f}  ")
    assert before.startswith("plainly trained      0.")
    assert accuracy > 0.5
