"""Adversarial, corrupted and LIGS-regularised training: losses, gradients and running statistics written out."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from statshift import corrupt, load_data
from statshift._core.errors import InputError
from statshift._core.randomness import Draws, keys
from statshift.hardening.augmentation import augmentation_for
from statshift.hardening.batch import Batch
from statshift.hardening.batches import Batches
from statshift.hardening.methods import adversarial, corrupted
from statshift.hardening.methods.adversarial import Adversarial
from statshift.hardening.methods.auxiliary import AdvProp, PixelAT
from statshift.hardening.methods.corrupted import Corrupted
from statshift.hardening.methods.ligs import LigsRegularised
from statshift.measuring.ligs import LigsOptions
from statshift.models import PixelModel
from statshift.models.pixel import Preprocessing
from statshift.shifts.attacks import HALF_SCALE, PixelAttack, attack_pixels
from statshift.splitting.branches import Branches
from statshift.tasks.targets import Targets
from training_jobs import branches_of

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 8
LABELS = torch.arange(COUNT) % 10
L2 = PixelAttack(0.5, 0.1, 7, norm="l2")
LINF = PixelAttack(8 / 255, 2 / 255, 5)


def ligs_options(perturbation="gaussian", scale=0.05):
    return LigsOptions(perturbation, scale)


METHODS = {
    "adversarial": Adversarial(L2),
    "corrupted": Corrupted("gaussian_noise", 3),
    "ligs": LigsRegularised(ligs_options(), 0.5),
}

one_branch = partial(branches_of, dual=False)
both_cuts = pytest.mark.parametrize("at", ["input", "act1"])


def batch_of(dtype=torch.float64, views=1, soft=None, seed=0, run_in=torch.float32):
    images = torch.rand(views * COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    draws = Draws(seed, torch.arange(views * COUNT), "training epoch 0")
    return Batch(images, Targets(LABELS, soft, views), draws, run_in)


def statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name or "num_" in name}


def gradients(model):
    return {name: None if weight.grad is None else weight.grad.clone() for name, weight in model.named_parameters()}


def assert_gradients_close(found, expected):
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-14, msg=name)


# Adversarial


@both_cuts
@pytest.mark.parametrize("attack", [L2, LINF], ids=["l2", "linf"])
def test_adversarial_is_cross_entropy_on_the_images_that_attack_the_whole_model(attack, at):
    """In pixel space: what attacks and what is trained on is normalised as when the model is measured."""
    branches, batch = one_branch(at).train(), batch_of()
    model = deepcopy(branches.clean)  # with the prefix in evaluation mode, as Branches keeps it
    losses = Adversarial(attack)(branches, batch)
    assert losses.keys() == {"adv"}
    losses["adv"].backward()

    attacked = deepcopy(model).eval()
    worst = attack_pixels(batch.images, lambda x: F.cross_entropy(attacked(x), LABELS), attack, batch.draws)
    assert not torch.equal(worst, batch.images)
    expected = F.cross_entropy(model(worst), LABELS)
    expected.backward()
    assert losses["adv"].item() == pytest.approx(expected.item(), rel=1e-12)
    assert_gradients_close(gradients(branches.clean), gradients(model))
    assert sum(one is not None for one in gradients(model).values()) == (13 if at == "input" else 9)
    for name, value in statistics(model).items():  # moved once, by the adversarial images
        torch.testing.assert_close(statistics(branches.clean)[name], value, rtol=1e-12, atol=0, msg=name)


def test_the_attack_leaves_modes_and_needs_for_gradients():
    branches = one_branch("act1").train()
    before = [module.training for module in branches.modules()], [p.requires_grad for p in branches.parameters()]
    Adversarial(LINF)(branches, batch_of())
    after = [module.training for module in branches.modules()], [p.requires_grad for p in branches.parameters()]
    assert before == after
    assert all(parameter.grad is None for parameter in branches.parameters())


def test_adversarial_takes_soft_targets():
    soft = torch.rand(COUNT, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64).softmax(1)
    branches, batch = one_branch("input").eval(), batch_of(soft=soft)
    model = branches.clean
    worst = attack_pixels(batch.images, lambda x: F.cross_entropy(model(x), soft), LINF, batch.draws)
    expected = -(soft * model(worst).log_softmax(1)).sum(1).mean()
    assert Adversarial(LINF)(branches, batch)["adv"].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("change", [{"loss": "cw"}, {"target": "next"}])
def test_an_attack_on_another_loss_or_to_a_target_is_not_trained_against(change):
    """The step would pass over both in silence."""
    for method in (Adversarial, PixelAT, AdvProp):
        with pytest.raises(InputError, match="Expected an attack on the cross-entropy and without target"):
            method(PixelAttack(**change))


# Corrupted


@both_cuts
def test_corrupted_is_cross_entropy_on_corrupted_pixels(at):
    branches, batch = one_branch(at).train(), batch_of(torch.float32)
    model = deepcopy(branches.clean)
    losses = Corrupted("gaussian_noise", 4)(branches, batch)
    assert losses.keys() == {"clean"}
    losses["clean"].backward()
    seed = int(keys(0, torch.zeros(1, dtype=torch.int64), "training epoch 0")[0, 0])
    expected = F.cross_entropy(
        model(corrupt(batch.images, "gaussian_noise", 4, seed=seed, indices=batch.draws.indices)), LABELS
    )
    expected.backward()
    assert losses["clean"].item() == pytest.approx(expected.item(), rel=1e-12)
    assert_gradients_close(gradients(branches.clean), gradients(model))
    for name, value in statistics(model).items():
        assert torch.equal(statistics(branches.clean)[name], value), name


@pytest.fixture
def seen(monkeypatch):
    """The images that the method makes."""
    images, own = [], corrupted.corrupt
    monkeypatch.setattr(corrupted, "corrupt", lambda *args, **more: images.append(own(*args, **more)) or images[-1])
    return images


def test_corrupted_images_are_drawn_anew_each_epoch_whatever_the_order(seen):
    """Of the batches as a training makes them, without augmentation."""
    data = load_data("digits:train", limit=24)
    branches, made = one_branch("input", dtype=torch.float32).eval(), []
    for size, epoch in ((8, 0), (8, 1), (24, 0), (24, 0)):
        seen.clear()
        device = torch.device("cpu")
        batches = Batches(data, augmentation_for("none", data, 5), size, 1, 10, device, channels_last=False)
        places = []
        for batch, positions in batches.epoch(epoch):
            Corrupted("gaussian_noise", 3)(branches, batch)
            places.append(positions)
        made.append(torch.cat(seen)[np.concatenate(places).argsort()])
    first, other_epoch, other_batch, again = made
    assert torch.equal(first, other_batch)
    assert torch.equal(other_batch, again)
    assert (first != other_epoch).float().mean() > 0.3
    ((clean, _),) = data.batches(24)
    assert (first != clean / 255).float().mean() > 0.5


def test_corrupted_images_are_the_same_under_autocast_and_of_every_view(seen):
    branches, batch = one_branch("input", dtype=torch.float32).eval(), batch_of(torch.float32, views=3)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            Corrupted("defocus_blur", 3)(branches, batch)
    assert torch.equal(seen[0], seen[1])
    assert seen[0].shape == (3 * COUNT, 3, 32, 32)


# LIGS


class Smooth(nn.Module):
    """A network without kinks, with a batch norm in training mode; 61 weights."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.conv, self.norm, self.linear = nn.Conv2d(3, 2, 3, stride=2), nn.BatchNorm2d(2), nn.Linear(2, 3)

    def forward(self, images):
        return self.linear(torch.tanh(self.norm(self.conv(images))).mean((2, 3)))


def smooth_branches():
    how = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    model = PixelModel(Smooth(), how, num_classes=3).double()
    return Branches(model, "input", torch.rand(2, 3, 7, 7, dtype=torch.float64), dual=False).train()


def smooth_batch():
    images = torch.rand(5, 3, 7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Batch(images, Targets(torch.tensor([0, 1, 2, 1, 0])), Draws(4, torch.arange(10, 15), "training epoch 3"))


def input_gradients(model, images, labels):
    point = images.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(point), labels, reduction="sum"), point)[0]


def written_out(model, batch, options, weight):
    """Return the mean loss and weight * (1 - LIGS) of a copy in its own mode, image by image in NumPy."""
    model = deepcopy(model)
    labels = batch.targets.labels
    with torch.no_grad():
        loss = F.cross_entropy(deepcopy(model)(batch.images), labels).item()
    here = input_gradients(model, batch.images, labels)
    if options.perturbation == "fgsm":
        nu = options.scale * here.sign()
    else:
        nu = options.scale * batch.draws.normal("noise", *batch.images.shape[1:]).double()
    there = input_gradients(model, batch.images + nu, labels)
    cosines = []
    for a, b in zip(here.flatten(1).numpy(), there.flatten(1).numpy(), strict=True):
        cosines.append(a @ b / np.sqrt((a @ a) * (b @ b)))
    return loss, weight * (1 - np.mean(cosines))


@pytest.mark.parametrize("perturbation", ["gaussian", "fgsm"])
def test_the_regularised_loss_and_its_gradient_are_finite_differences(perturbation):
    branches, batch, options = smooth_branches(), smooth_batch(), ligs_options(perturbation)
    model = deepcopy(branches.clean)
    losses = LigsRegularised(options, 0.7)(branches, batch)
    assert losses.keys() == {"clean", "ligs"}
    loss, term = written_out(model, batch, options, 0.7)
    assert losses["clean"].item() == pytest.approx(loss, rel=1e-12)
    assert losses["ligs"].item() == pytest.approx(term, rel=1e-9)
    assert term > 1e-4
    torch.stack(list(losses.values())).sum().backward()
    found = {name: weight.grad for name, weight in branches.clean.named_parameters()}

    def total_with(weight, place, change):
        kept = weight.data.view(-1)[place].item()
        weight.data.view(-1)[place] = kept + change
        value = sum(written_out(model, batch, options, 0.7))
        weight.data.view(-1)[place] = kept
        return value

    step = 1e-5
    for name, weight in model.named_parameters():
        for place in range(0, weight.numel(), 7):
            expected = (total_with(weight, place, step) - total_with(weight, place, -step)) / (2 * step)
            assert found[name].view(-1)[place].item() == pytest.approx(expected, rel=1e-5, abs=1e-9), (name, place)


@both_cuts
@pytest.mark.parametrize("perturbation", ["gaussian", "fgsm"])
def test_running_statistics_are_of_the_images_alone(perturbation, at):
    branches, batch = one_branch(at).train(), batch_of()
    model = deepcopy(branches.clean)
    loss, term = written_out(model, batch, ligs_options(perturbation), 0.5)
    losses = LigsRegularised(ligs_options(perturbation), 0.5)(branches, batch)
    assert losses["clean"].item() == pytest.approx(loss, rel=1e-12)
    assert losses["ligs"].item() == pytest.approx(term, rel=1e-8)
    torch.stack(list(losses.values())).sum().backward()
    before = statistics(model)
    model(batch.images)
    after = statistics(model)
    for name, value in statistics(branches.clean).items():
        torch.testing.assert_close(value, after[name], rtol=1e-12, atol=0, msg=name)
        moved = at == "input" or ".bn1." not in name
        assert torch.equal(value, before[name]) != moved, name


def test_several_views_have_no_loss_by_image():
    with pytest.raises(InputError, match="Expected one view of each image for a loss by image, but AugMix makes three"):
        LigsRegularised(ligs_options())(one_branch("input"), batch_of(views=3))


# Half precision


@pytest.mark.parametrize("at", ["input", "act1"])
@pytest.mark.parametrize("name", METHODS)
def test_every_trained_weight_gets_its_gradient_under_autocast(name, at):
    wide, half = (one_branch(at, dtype=torch.float32).train() for _ in range(2))
    torch.stack(list(METHODS[name](wide, batch_of(torch.float32)).values())).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        losses = METHODS[name](half, batch_of(torch.float32, run_in=torch.bfloat16))
    torch.stack(list(losses.values())).sum().backward()
    for (label, ours), theirs in zip(half.named_parameters(), wide.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None) == (not ours.requires_grad), label
        if ours.requires_grad and theirs.grad.norm() > 1e-3:
            assert F.cosine_similarity(ours.grad.flatten(), theirs.grad.flatten(), dim=0) > 0.8, label


def test_under_float16_the_attacks_loss_is_scaled(monkeypatch):
    seen, own = [], adversarial.attack_pixels
    monkeypatch.setattr(
        adversarial, "attack_pixels", lambda *args, **more: seen.append(more["loss_scale"]) or own(*args, **more)
    )
    for dtype in (torch.float32, torch.float16):
        with torch.autocast("cpu", dtype, enabled=dtype == torch.float16):
            Adversarial(LINF)(one_branch("input", dtype=torch.float32), batch_of(torch.float32, run_in=dtype))
    assert seen == [1.0, HALF_SCALE]
