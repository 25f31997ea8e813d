"""Pixel attacks on a model: beside foolbox and torchattacks from the same start, and what the model keeps."""

import random as python_random
import sys
from copy import deepcopy
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from statshift import Branches, load_model, rectified, rectify
from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.shifts.attacks import (
    AutoAttack,
    PixelAttack,
    attack_images,
    attack_named,
    cross_entropy,
    parse_attack,
    random_offset,
)
from statshift.shifts.registry import family_of
from statshift.tasks.targets import margin

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 5
LABELS = torch.arange(8) % CLASSES


class Network(nn.Module):
    """Two batch norms with statistics of their own, no kink, and a dropout that matters in training mode."""

    def __init__(self, classes=CLASSES, dtype=torch.float64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
            self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8)
            self.dropout, self.linear = nn.Dropout(0.3), nn.Linear(8, classes)
            for norm in (self.bn1, self.bn2):
                norm.running_mean.normal_(0, 0.3)
                norm.running_var.uniform_(0.05, 0.3)
        self.to(dtype).eval()

    def forward(self, images):
        features = F.softplus(self.bn1(self.conv1(images)), beta=4)
        features = torch.tanh(self.bn2(self.conv2(features)))
        return self.linear(self.dropout(features.mean((2, 3))))


def pixels(count=8, side=9, dtype=torch.float64):
    """Return images, some of whose pixels are at the ends of the range."""
    found = 1.4 * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(2), dtype=dtype) - 0.2
    return found.clamp(0, 1)


def start_of(model, images, attack, **options):
    """Return where an attack starts: a loss without slope moves nothing."""
    return attack_images(model, images, LABELS, attack, loss=lambda logits, labels: 0 * logits.sum(1), **options)


def wrong(logits, labels):
    return logits.argmax(1) != labels


# Beside others


def foolbox_found(model, images, attack, start=None, targets=None, labels=LABELS):
    """Return foolbox's images with the same numbers, and the margin written anew for the loss of Carlini & Wagner."""
    foolbox = pytest.importorskip("foolbox")
    import eagerpy

    base = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[attack.norm]

    class Theirs(base):
        def get_random_start(self, x0, epsilon):
            return type(x0)(start)

        def get_loss_fn(self, network, classes):
            if attack.loss == "cross-entropy":
                return super().get_loss_fn(network, classes)
            own = F.one_hot(classes.raw, network(type(classes)(images[:1])).shape[1]).to(images.dtype)

            def loss(inputs):
                logits = network(inputs).raw
                gap = (logits - 1e9 * own).max(1).values - (logits * own).sum(1)
                capped = torch.minimum(gap, gap.new_tensor(50)) if targets is None else gap.clamp(min=-50)
                return eagerpy.astensor(capped.sum())

            return loss

    options = {"rel_stepsize": None, "abs_stepsize": attack.length, "steps": attack.steps}
    criterion = foolbox.criteria.TargetedMisclassification(targets) if targets is not None else labels
    return Theirs(**options, random_start=start is not None).run(
        foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), images, criterion, epsilon=attack.epsilon
    )


EPSILONS = {"linf": 8 / 255, "l2": 0.5}


@pytest.mark.parametrize("epsilon", [1 / 255, 0.1])
def test_fgsm_is_foolbox_s_and_torchattacks_s(epsilon):
    foolbox, torchattacks = pytest.importorskip("foolbox"), pytest.importorskip("torchattacks")
    model, images = Network(), pixels()
    found = attack_images(model, images, LABELS, attack_named("fgsm")(epsilon))
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    theirs = foolbox.attacks.FGSM(random_start=False).run(wrapped, images, LABELS, epsilon=epsilon)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-12)
    theirs = torchattacks.FGSM(model, eps=epsilon)(images, LABELS)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-12)
    assert not torch.equal(found, images)


@pytest.mark.parametrize("loss", ["cross-entropy", "cw"])
@pytest.mark.parametrize("target", ["none", "next", "random"])
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_foolbox_s_from_the_same_start(norm, random_start, target, loss):
    model, images = Network(), pixels()
    attack = PixelAttack(EPSILONS[norm], norm=norm, loss=loss, target=target, random_start=random_start, steps=10)
    found = attack_images(model, images, LABELS, attack, seed=4)
    start = start_of(model, images, attack, seed=4) if random_start else None
    draws = Draws(4, torch.arange(8), "pixel attack").integers("target", low=1, high=CLASSES)
    targets = {"none": None, "next": (LABELS + 1) % CLASSES, "random": (LABELS + draws) % CLASSES}[target]
    theirs = foolbox_found(model, images, attack, start, targets)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-12)
    assert ((found - images).flatten(1).abs().amax(1) > 0.01).all()


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("epsilon", [0.2, 2.0])
def test_pgd_l2_is_torchattacks_s(epsilon, random_start, monkeypatch):
    torchattacks = pytest.importorskip("torchattacks")
    model, images = Network(), pixels()
    attack = PixelAttack(epsilon, norm="l2", random_start=random_start)
    found = attack_images(model, images, LABELS, attack)
    noise = start_of(model, images, attack) - images
    lengths = noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self: self.copy_(noise))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(lengths / epsilon))
    options = {"eps": epsilon, "alpha": attack.length, "steps": 20, "random_start": random_start}
    theirs = torchattacks.PGDL2(model, **options, eps_for_division=0)(images, LABELS)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-12)


def test_a_target_is_torchattacks_s(monkeypatch):
    torchattacks = pytest.importorskip("torchattacks")
    model, images = Network(), pixels()
    attack = PixelAttack(8 / 255, target="next")
    found = attack_images(model, images, LABELS, attack)
    noise = start_of(model, images, attack) - images
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(noise))
    theirs = torchattacks.PGD(model, eps=attack.epsilon, alpha=attack.length, steps=20)
    theirs.set_mode_targeted_by_label(quiet=True)
    targets = (LABELS + 1) % CLASSES
    torch.testing.assert_close(found, theirs(images, targets), rtol=0, atol=1e-12)
    with torch.no_grad():
        before, after = (F.cross_entropy(model(some), targets, reduction="none") for some in (images, found))
    assert (after < before).all()


@pytest.mark.parametrize("loss", ["cross-entropy", "cw"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_float32_is_foolbox_s_step_by_step(norm, loss):
    """Each step from where ours stood; later ones would magnify a sign that rounding decides."""
    model, images = Network(dtype=torch.float32), pixels(dtype=torch.float32)
    whole = {"epsilon": EPSILONS[norm], "norm": norm, "loss": loss, "step_size": EPSILONS[norm] / 8}
    points = [start_of(model, images, PixelAttack(**whole))]
    points += [attack_images(model, images, LABELS, PixelAttack(**whole, steps=steps)) for steps in range(1, 21)]
    for before, after in pairwise(points):
        theirs = foolbox_found(model, images, PixelAttack(**whole, steps=1), before)
        torch.testing.assert_close(after, theirs, rtol=0, atol=1e-6)
    assert points[-1].dtype == torch.float32


def test_the_margin_is_the_loop():
    logits = 3 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(40) % 6
    expected = [
        max(value for place, value in enumerate(row) if place != label) - row[label]
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(margin(logits, labels).numpy(), np.array(expected))


class Rising(nn.Module):
    """Two logits, of which the second is ahead of the first by `lead` where pixels are 0.5, and rises with them."""

    def __init__(self, lead):
        super().__init__()
        self.lead = lead

    def forward(self, images):
        rise = images.mean((1, 2, 3)) - 0.5 + self.lead
        return torch.stack([0 * rise, rise], 1)


@pytest.mark.parametrize(("lead", "moved"), [(-60.0, 0.1), (-40.0, 0.1), (40.0, 0.1), (60.0, 0.0)])
@pytest.mark.parametrize("target", ["none", "next"])
def test_the_cw_loss_ends_where_the_margin_is_50_and_not_before(target, lead, moved):
    """Of an image of class 0, that class 1 be ahead; however far it is behind at first."""
    images = torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    attack = PixelAttack(0.1, 0.1, 1, loss="cw", target=target, random_start=False)
    found = attack_images(Rising(lead), images, torch.tensor([0]), attack)
    torch.testing.assert_close(found, images + moved, rtol=0, atol=1e-12)


# The start


def test_the_l2_start_is_uniform_in_the_ball():
    """The share of the volume within the radius is uniform, and the direction has no preference."""
    count, shape, epsilon = 6000, (3, 2, 2), 0.4
    images = torch.full((count, *shape), 0.5, dtype=torch.float64)
    attack = PixelAttack(epsilon, norm="l2", clip=False)
    offsets = random_offset(images, attack, Draws(7, torch.arange(count), "pixel attack")).flatten(1).numpy()
    dimensions = offsets.shape[1]
    radii = np.sqrt((offsets**2).sum(1))
    assert radii.max() <= epsilon * (1 + 1e-6)
    volumes = (radii / epsilon) ** dimensions
    assert volumes.mean() == pytest.approx(0.5, abs=4 / np.sqrt(12 * count))
    assert stats.kstest(volumes, "uniform").pvalue > 1e-3
    units = offsets / radii[:, None]
    assert np.abs(units.mean(0)).max() < 4.5 / np.sqrt(dimensions * count)
    spread = dimensions * units.T @ units / count
    np.testing.assert_allclose(spread, np.eye(dimensions), rtol=0, atol=5 * np.sqrt(2 / count))
    # a coordinate of a uniform direction: its square is Beta(1/2, (d-1)/2)
    assert stats.kstest(units[:, 0] ** 2, stats.beta(0.5, (dimensions - 1) / 2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(units[:, 0], volumes)[0, 1]) < 4 / np.sqrt(count)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_start_of_an_attack_on_a_model_is_the_addressed_one(norm):
    model, images, indices = Network(), pixels(), torch.tensor([5, 900, 3, 77, 0, 12, 8, 41])
    attack = PixelAttack(EPSILONS[norm], norm=norm)
    found = start_of(model, images, attack, seed=9, indices=indices)
    draws = Draws(9, indices, "pixel attack")
    if norm == "linf":
        offset = draws.uniform("start", 3, 9, 9, low=-attack.epsilon, high=attack.epsilon)
    else:
        normal, share = draws.normal("start", 3, 9, 9), draws.uniform("radius", 1, 1, 1)
        offset = attack.epsilon * normal / normal.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * share ** (1 / 243)
    torch.testing.assert_close(found, (images + offset).clamp(0, 1), rtol=0, atol=1e-7)
    assert not torch.equal(found, start_of(model, images, attack, seed=10, indices=indices))


@pytest.mark.parametrize("target", ["none", "random"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_image_is_attacked_alike_in_every_batch(norm, target):
    model, images, indices = Network(), pixels(), torch.tensor([5, 900, 3, 77, 0, 12, 8, 41])
    attack = PixelAttack(EPSILONS[norm], norm=norm, target=target, steps=6)

    def attacked(places):
        return attack_images(model, images[places], LABELS[places], attack, seed=1, indices=indices[places])

    whole = attacked(list(range(8)))
    for places in ([3], [7, 0], [4, 1, 2, 6, 5], [7, 6, 5, 4, 3, 2, 1, 0]):
        torch.testing.assert_close(attacked(places), whole[places], rtol=0, atol=1e-12)
    elsewhere = attack_images(model, images, LABELS, attack, seed=1)
    moved = (elsewhere - whole).flatten(1).abs().amax(1) > 1e-6
    assert moved.sum() >= 4  # some go to the same corner from everywhere


@pytest.mark.parametrize("classes", [2, 5])
def test_random_targets_are_every_class_but_the_own(classes):
    """The loss is told what it shall drive to."""
    model, images, labels, seen = Network(classes), pixels(1).expand(600, 3, 9, 9), torch.arange(600) % classes, []

    def loss(logits, wanted):
        seen.append(wanted)
        return F.cross_entropy(logits, wanted, reduction="none")

    attack = partial(attack_images, model, images, labels, loss=loss)
    attack(PixelAttack(target="random", steps=1), seed=2)
    counts = torch.bincount((seen[0] - labels) % classes, minlength=classes)
    assert counts[0] == 0
    others = 600 / (classes - 1)
    assert (counts[1:] - others).abs().max() <= 4 * np.sqrt(others)
    attack(PixelAttack(target="next", steps=1))
    assert torch.equal(seen[1], (labels + 1) % classes)
    attack(PixelAttack(steps=1))
    assert torch.equal(seen[2], labels)


# The ball


@pytest.mark.parametrize("epsilon", [0.0, 1 / 255, 0.3, 1.0])
@pytest.mark.parametrize("loss", ["cross-entropy", "cw"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_images_stay_in_the_ball_and_the_range(norm, loss, epsilon, dtype):
    model, images = Network(dtype=dtype), pixels(dtype=dtype)
    kept = images.clone()
    attack = PixelAttack(epsilon, epsilon / 2 or 0.1, norm=norm, loss=loss, steps=5)
    found = attack_images(model, images, LABELS, attack)
    assert torch.equal(images, kept)
    assert found.dtype == dtype
    assert not found.requires_grad
    assert found.min() >= 0
    assert found.max() <= 1
    offset = (found - images).flatten(1)
    distances = offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)
    assert (distances <= epsilon * (1 + 1e-6) + 1e-7).all()
    if epsilon == 0:
        assert torch.equal(found, images)
    else:
        assert (distances > 0.7 * epsilon).all()
        with torch.no_grad():
            rise = F.cross_entropy(model(found), LABELS) - F.cross_entropy(model(images), LABELS)
        assert rise > 0


def test_an_attack_without_clipping_leaves_the_range():
    found = attack_images(Network(), pixels(), LABELS, PixelAttack(0.3, clip=False))
    assert found.min() < -0.1
    assert found.max() > 1.1
    assert (found - pixels()).abs().max() <= 0.3 + 1e-12


def test_epsilon_zero_by_name_changes_nothing():
    for name in ("fgsm", "pgd-linf", "pgd-l2", "cw-linf", "cw-l2"):
        assert torch.equal(attack_images(Network(), pixels(), LABELS, parse_attack(f"{name}:0")), pixels())


# What the model keeps


def snapshot(model):
    """Return all of a model that an attack could change."""
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "flags": [module.training for module in model.modules()],
        "wants": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [
            [len(value) for name, value in sorted(vars(module).items()) if name.endswith("hooks")]
            for module in model.modules()
        ],
    }


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ("flags", "wants", "hooks"):
        assert ours[name] == theirs[name]
    for name, value in ours["state"].items():
        assert torch.equal(value, theirs["state"][name])
    for one, other in zip(ours["gradients"], theirs["gradients"], strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def unlike(model):
    """Put a model into a state in which its parts differ: flags, frozen parameters, a gradient, a hook."""
    model.train()
    model.bn2.eval()
    model.conv1.weight.requires_grad_(False)
    model.bn1.bias.requires_grad_(False)
    model.linear.bias.grad = torch.full_like(model.linear.bias, 0.25)
    model.conv2.register_forward_hook(lambda module, args, output: None)
    return model


ONE_OF_EACH = [
    PixelAttack(8 / 255, steps=3),
    PixelAttack(0.5, norm="l2", loss="cw", target="random", steps=3),
    attack_named("fgsm")(0.1),
]


@pytest.mark.parametrize("attack", ONE_OF_EACH, ids=str)
def test_a_model_in_training_mode_is_attacked_in_evaluation_mode_and_given_back(attack):
    model = unlike(Network())
    before = snapshot(model)
    with torch.no_grad():
        found = attack_images(model, pixels(), LABELS, attack)
        assert not torch.is_grad_enabled()
    assert_same(snapshot(model), before)
    assert torch.equal(found, attack_images(Network(), pixels(), LABELS, attack))


class FailingError(Exception):
    pass


@pytest.mark.parametrize("error", [RuntimeError, FailingError, KeyboardInterrupt])
@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_a_model_that_raises_is_given_back(error, fails_at):
    model, calls = unlike(Network()), []

    def fail(module, args):
        calls.append(1)
        if len(calls) == fails_at:
            raise error("on purpose")

    model.linear.register_forward_pre_hook(fail)
    before = snapshot(model)
    with pytest.raises(InputError if error is RuntimeError else error, match="on purpose"):
        attack_images(model, pixels(), LABELS, PixelAttack(steps=10))
    assert len(calls) == fails_at
    assert_same(snapshot(model), before)


class Counting(torch.autograd.Function):
    """The identity, which counts its gradients."""

    @staticmethod
    def forward(ctx, tensor, seen):
        ctx.seen = seen
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient):
        ctx.seen.append(len(gradient))
        return gradient, None


class Counted(nn.Module):
    """A model that notes the images of each forward and backward, and each gradient of its weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * 81, CLASSES, generator=torch.Generator().manual_seed(0)).double())
        self.forwards, self.backwards, self.of_weight = [], [], []

    def forward(self, images):
        self.forwards.append(len(images))
        weight = Counting.apply(self.weight, self.of_weight)
        return Counting.apply(images.flatten(1).tanh() @ weight, self.backwards)


def test_steps_are_all_that_is_computed():
    model = Counted()
    model(pixels()).sum().backward()
    assert model.of_weight == [243]  # a gradient of the weight would be seen
    model.weight.grad = None
    for attack, targets in (
        (PixelAttack(), 0),
        (PixelAttack(target="random", norm="l2"), 1),
        (attack_named("fgsm")(0.1), 0),
    ):
        model.forwards.clear()
        model.backwards.clear()
        attack_images(model, pixels(), LABELS, attack)
        assert model.forwards == [1] * targets + [1] + [8] * attack.steps  # one image tells of classes and of gradients
        assert model.backwards == [1] + [8] * attack.steps
    assert model.of_weight == [243]
    assert model.weight.grad is None
    assert model.weight.requires_grad


# The model as it is


def target_statistics(model, images):
    """Return mean and biased variance at both norms, the second behind the first as rectified; by NumPy."""
    features = model.conv1(images).detach()
    first = features.numpy().mean((0, 2, 3)), features.numpy().var((0, 2, 3))
    affine = model.bn1.weight, model.bn1.bias, False, 0.0, model.bn1.eps
    features = F.batch_norm(features, *map(torch.tensor, first), *affine)
    features = model.conv2(F.softplus(features, beta=4)).detach()
    return first, (features.numpy().mean((0, 2, 3)), features.numpy().var((0, 2, 3)))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_rectified_model_is_attacked_as_rectified(norm):
    source, images, attack = Network(), pixels(), PixelAttack(EPSILONS[norm], norm=norm)
    unlabelled = pixels(6).flip(0) ** 2
    plain = deepcopy(source)
    for layer, (mean, var) in zip((plain.bn1, plain.bn2), target_statistics(source, unlabelled), strict=True):
        layer.running_mean.copy_(torch.tensor(mean))
        layer.running_var.copy_(torch.tensor(var))
    expected = attack_images(plain, images, LABELS, attack)
    copied = attack_images(rectify(source, unlabelled, "replace"), images, LABELS, attack)
    torch.testing.assert_close(copied, expected, rtol=0, atol=1e-12)
    source.train()
    with rectified(source, unlabelled, "replace") as adapted:
        within = attack_images(adapted, images, LABELS, attack)
    torch.testing.assert_close(within, expected, rtol=0, atol=1e-12)
    unadapted = attack_images(source, images, LABELS, attack)
    assert ((expected - unadapted).flatten(1).abs().amax(1) > 1e-2).all()


def test_the_adversarial_branch_is_attacked_itself():
    source, images, attack = Network(), pixels(), PixelAttack(8 / 255)
    clean = attack_images(source, images, LABELS, attack)
    by_hand = deepcopy(source)
    branches = Branches(source, "conv2", images[:1])
    with torch.no_grad():
        for norm in (branches.norms["bn2"], by_hand.bn2):
            norm.running_mean.add_(torch.linspace(-0.5, 0.5, 8))
            norm.weight.mul_(torch.linspace(-1, 2, 8))
    branches.train()
    before = snapshot(branches)
    found = attack_images(branches.adv, images, LABELS, attack)
    torch.testing.assert_close(found, attack_images(by_hand, images, LABELS, attack), rtol=0, atol=1e-12)
    torch.testing.assert_close(attack_images(branches.clean, images, LABELS, attack), clean, rtol=0, atol=1e-12)
    assert ((found - clean).flatten(1).abs().amax(1) > 1e-2).all()
    assert_same(snapshot(branches), before)


def test_logits_are_found_in_what_a_model_returns():
    class Wrapped(Network):
        def forward(self, images):
            return {"logits": super().forward(images), "features": images}

    expected = attack_images(Network(), pixels(), LABELS, PixelAttack())
    assert torch.equal(attack_images(Wrapped(), pixels(), LABELS, PixelAttack()), expected)


# What cannot be


def told(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epsilon": -0.1}, ["but got -0.1", "pixels are in [0,1], so 8 of 255 levels is 8/255"]),
        ({"epsilon": 8}, ["but got 8", "pixels are in [0,1], so 8 of 255 levels is 8/255"]),
        ({"epsilon": float("nan")}, ["but got nan"]),
        ({"epsilon": -0.1, "norm": "l2"}, ["`epsilon` to be at least 0, but got -0.1"]),
        ({"epsilon": float("inf"), "norm": "l2"}, ["but got inf"]),
        ({"norm": "L2"}, ["Unknown norm 'L2'", "Did you mean 'l2'?"]),
        ({"loss": "cross_entropy"}, ["Unknown loss", "Did you mean 'cross-entropy'?"]),
        ({"target": "nxt"}, ["Unknown target 'nxt'", "Did you mean 'next'?"]),
        ({"steps": 0, "step_size": -1.0, "target": "?"}, ["`steps`", "but got 0", "`step_size`", "Unknown target"]),
    ],
)
def test_an_attack_that_cannot_be_is_told(values, words):
    with pytest.raises(InputError) as error:
        PixelAttack(**values)
    assert all(some in told(error) for some in words)


@pytest.mark.parametrize("low_high", [(0.0, 255.0), (-0.1, 1.0), (-2.1, 2.6)], ids=str)
def test_pixels_outside_the_range_are_told(low_high):
    low, high = low_high
    images = pixels() * (high - low) + low
    with pytest.raises(InputError, match=r"Expected pixels in \[0,1\]") as error:
        attack_images(Network(), images, LABELS, PixelAttack())
    assert f"from {low:.4g} to {high:.4g}" in told(error)


def test_pixels_that_are_nan_are_told():
    images = pixels()
    images[3, 1, 2, 2] = torch.nan
    with pytest.raises(InputError, match=r"Expected pixels in \[0,1\]"):
        attack_images(Network(), images, LABELS, PixelAttack())


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (pixels(), LABELS[:7]),
        (pixels(), LABELS[:, None]),
        (pixels(), F.one_hot(LABELS)),
        (pixels()[0], LABELS[:1]),
        (pixels()[:0], LABELS[:0]),
    ],
    ids=["few", "column", "one-hot", "one image", "none"],
)
def test_other_shapes_are_told(images, labels):
    with pytest.raises(InputError, match=r"Expected images \(B,3,H,W\)") as error:
        attack_images(Network(), images, labels, PixelAttack())
    wrong = labels if images.ndim == 4 and len(images) else images
    assert str(tuple(wrong.shape)) in told(error)


@pytest.mark.parametrize("attack", [partial(PixelAttack, norm="l2"), partial(AutoAttack, norm="l2")])
def test_a_ball_that_holds_all_images_is_told(attack):
    """Images of 3 x 9 x 9 are at most 15.59 from one another."""
    with pytest.raises(InputError, match=r"`epsilon` below 15\.6.*\(3, 9, 9\).*but got 15\.6") as error:
        attack_images(Network(), pixels(), LABELS, attack(15.6))
    told(error)
    attack_images(Network(), pixels(), LABELS, PixelAttack(15.5, norm="l2", steps=1))


@pytest.mark.parametrize("spec", ["pgd-linf", "pgd-linf:", "pgd-linf:x", "pgd-l2:1/0", "pgd-linf:1e999", "cw-l2:nan"])
def test_an_attack_without_its_numbers_is_told(spec):
    with pytest.raises(InputError, match=r"EPSILON\[:STEPS\], such as .*:1/255, but got") as error:
        parse_attack(spec)
    assert repr(spec) in told(error)


@pytest.mark.parametrize("spec", ["fgsm:0.1:5", "autoattack-linf:0.1:5", "pgd-linf:0.1:2.5", "pgd-linf:0.1:5:5"])
def test_steps_that_are_none_or_not_asked_for_are_told(spec):
    with pytest.raises(InputError, match=r"Expected the attack as .*:EPSILON") as error:
        parse_attack(spec)
    assert ("[:STEPS]" in told(error)) == spec.startswith("pgd")


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ("pdg-l2:0.2", "pgd-l2"),
        ("pgd_linf:1/255", "pgd-linf"),
        ("FGSM:0.1", "fgsm"),
        ("autoattack:0.1", "autoattack-l"),
    ],
)
def test_a_mistyped_attack_is_told_the_nearest(spec, nearest):
    assert family_of(spec) == "own"
    with pytest.raises(InputError, match="Unknown attack") as error:
        parse_attack(spec)
    assert f"Did you mean '{nearest}" in told(error)
    assert "fgsm, pgd-linf, pgd-l2, cw-linf, cw-l2, autoattack-linf, autoattack-l2" in told(error)


def test_attacks_are_read_from_a_line():
    assert parse_attack("pgd-linf:1/255") == PixelAttack(1 / 255)
    assert parse_attack("pgd-l2:0.25:7") == PixelAttack(0.25, norm="l2", steps=7)
    assert parse_attack("cw-linf: 8/255 :100") == PixelAttack(8 / 255, loss="cw", steps=100)
    assert parse_attack("cw-l2:3") == PixelAttack(3.0, norm="l2", loss="cw")
    assert parse_attack("fgsm:.1") == PixelAttack(0.1, 0.1, 1, random_start=False)
    assert parse_attack("autoattack-l2:1/2") == AutoAttack(0.5, "l2")
    assert PixelAttack(0.2).length == pytest.approx(0.025)
    assert PixelAttack(0.2, steps=50).length == pytest.approx(0.01)


class Rounding(Network):
    def forward(self, images):
        return super().forward((images * 255).round() / 255)


class Detaching(Network):
    def forward(self, images):
        return super().forward(images.detach())


class Ungraded(Network):
    @torch.no_grad()
    def forward(self, images):
        return super().forward(images)


class Constant(Network):
    def forward(self, images):
        return self.linear.bias.expand(len(images), -1)


@pytest.mark.parametrize("kind", [Rounding, Detaching, Ungraded, Constant])
@pytest.mark.parametrize("attack", [PixelAttack(), PixelAttack(0.5, norm="l2"), AutoAttack(0.1)], ids=str)
def test_a_model_without_input_gradient_is_told_with_likely_causes(kind, attack):
    model = unlike(kind())
    before = snapshot(model)
    with pytest.raises(InputError, match="input gradient is zero everywhere") as error:
        attack_images(model, pixels(), LABELS, attack)
    assert "rounds, detaches or runs without gradients" in told(error)
    assert_same(snapshot(model), before)


class Dead(nn.Module):
    """A network whose features are all dead where the image is dark."""

    def __init__(self):
        super().__init__()
        self.network = Network()

    def forward(self, images):
        return self.network((images - 0.1).relu())


@pytest.mark.parametrize("place", [0, 5])
def test_one_saturated_image_says_nothing_of_the_model(place):
    images, attack = pixels(), PixelAttack(0.05, random_start=False)
    images[place] = 0.02
    found = attack_images(Dead(), images, LABELS, attack)
    moved = (found != images).flatten(1).any(1)
    assert moved.tolist() == [row != place for row in range(8)]
    with pytest.raises(InputError, match="zero everywhere"):
        attack_images(Dead(), images[place : place + 1], LABELS[:1], attack)


def test_targets_need_two_classes():
    with pytest.raises(InputError, match="at least two classes for targets, but got 1") as error:
        attack_images(Network(1), pixels(), torch.zeros(8, dtype=torch.long), PixelAttack(target="next"))
    told(error)


# AutoAttack


@pytest.fixture(scope="module")
def task():
    """Return a network that tells four kinds of patterns apart, and images of them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 4
    patterns = torch.rand(4, 3, 8, 8, generator=generator)
    images = (0.3 + 0.4 * patterns[labels] + 0.25 * torch.randn(64, 3, 8, 8, generator=generator)).clamp(0, 1)
    model = Network(4, dtype=torch.float32)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()
    model.zero_grad()
    right = ~wrong(model(images), labels)
    assert right.sum() >= 56
    return model, images[right][:32], labels[right][:32]


@pytest.fixture
def few_queries(monkeypatch):
    """Let the last of the ensemble, which has no gradients, ask less often."""
    torchattacks = pytest.importorskip("torchattacks")
    whole = torchattacks.Square
    few = lambda *args, **options: whole(*args, **{**options, "n_queries": 60})  # noqa: E731
    monkeypatch.setattr("torchattacks.attacks.autoattack.Square", few)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.03), ("l2", 0.35)])
@pytest.mark.usefixtures("few_queries")
def test_autoattack_leaves_no_more_standing_than_pgd(task, norm, epsilon):
    model, images, labels = task
    before = snapshot(model)
    found = attack_images(model, images, labels, AutoAttack(epsilon, norm), seed=3)
    assert_same(snapshot(model), before)
    assert found.min() >= 0
    assert found.max() <= 1
    offset = (found - images).flatten(1)
    distances = offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)
    assert distances.max() <= epsilon * (1 + 1e-5)
    fallen = wrong(model(found), labels)
    assert 0 < fallen.sum() < len(labels)
    assert not wrong(model(images), labels).any()
    by_pgd = wrong(model(attack_images(model, images, labels, PixelAttack(epsilon, norm=norm))), labels)
    assert by_pgd.any()
    assert fallen.sum() >= by_pgd.sum()


@pytest.mark.usefixtures("few_queries")
def test_autoattack_s_draws_are_of_its_seed_alone(task, capsys):
    model, images, labels = task[0], task[1][:6], task[2][:6]
    generators = torch.get_rng_state(), np.random.get_state()[1].copy(), python_random.getstate()
    first = attack_images(model, images, labels, AutoAttack(0.1), seed=3)
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.array_equal(np.random.get_state()[1], generators[1])
    assert python_random.getstate() == generators[2]
    torch.rand(5)
    again = attack_images(unlike(deepcopy(model)), images, labels, AutoAttack(0.1), seed=3)
    assert torch.equal(first, again)
    assert not torch.equal(first, attack_images(model, images, labels, AutoAttack(0.1), seed=4))
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("few_queries")
def test_autoattack_finds_the_logits_in_what_a_model_returns(task):
    model, images, labels = task[0], task[1][:6], task[2][:6]

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return {"logits": self.model(images), "features": images}

    attack = AutoAttack(0.1)
    expected = attack_images(model, images, labels, attack)
    assert torch.equal(attack_images(Wrapped(), images, labels, attack), expected)


def test_an_absent_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(InputError) as error:
        attack_images(Network(), pixels(), LABELS, AutoAttack(0.1))
    assert told(error) == "AutoAttack needs the package torchattacks: pip install torchattacks."


def test_autoattack_that_cannot_be_is_told():
    with pytest.raises(InputError, match="at least 4 classes for AutoAttack, but got 3"):
        attack_images(Network(3), pixels(), LABELS % 3, AutoAttack(0.1))
    for epsilon in (0, -0.1, 8, float("nan")):
        with pytest.raises(InputError, match=f"but got {epsilon:g}"):
            AutoAttack(epsilon)
    with pytest.raises(InputError, match="Did you mean 'linf'"):
        AutoAttack(0.1, "Linf")


# A real model


@pytest.fixture(scope="module")
def resnet20(shared):
    """Return a ResNet-20 that is right of 91.5 % of CIFAR-10's test images, and 64 of these."""
    data = np.load(shared / "data/cifar10_test_1000.npz")
    model = load_model("cifar:resnet20", weights=shared / "data/cifar10_resnet20.th")
    images = torch.from_numpy(data["images"][:64].transpose(0, 3, 1, 2)).float() / 255
    return model, images, torch.from_numpy(data["labels"][:64]).long()


@pytest.mark.parametrize(("norm", "loss"), [("linf", "cross-entropy"), ("l2", "cw")])
def test_a_real_network_is_attacked_as_by_foolbox(resnet20, norm, loss):
    model, images, labels = resnet20
    double, images, labels = deepcopy(model).double(), images[:16].double(), labels[:16]
    attack = PixelAttack({"linf": 1 / 255, "l2": 0.25}[norm], norm=norm, loss=loss, steps=5)
    found = attack_images(double, images, labels, attack)
    flat = lambda logits, labels: 0 * logits.sum(1)  # noqa: E731
    start = attack_images(double, images, labels, attack, loss=flat)
    theirs = foolbox_found(double, images, attack, start, labels=labels)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-12)


def test_the_robust_accuracy_of_a_real_network_is_foolbox_s(resnet20):
    """PGD of 10 steps on the margin, 1/255 in the maximum norm, on 64 images in float32; some pixels' signs may differ.

    Cross-entropy is in float64 here, and an image that is classified surely has another gradient.
    """
    model, images, labels = resnet20
    attack = PixelAttack(1 / 255, steps=10, loss="cw")
    found = attack_images(model, images, labels, attack)
    start = attack_images(model, images, labels, attack, loss=lambda logits, labels: 0 * logits.sum(1))
    theirs = foolbox_found(model, images, attack, start, labels=labels)
    with torch.no_grad():
        clean, ours, other = (int((~wrong(model(some), labels)).sum()) for some in (images, found, theirs))
    assert ours == other
    assert ours < clean / 2


def test_a_sure_image_has_the_gradient_that_float32_rounds_away():
    """With p = 1 - 1e-9 the derivative by the label's own logit is p - 1, which in float32 is zero."""
    logits = torch.tensor([[20.7, 0.0]], requires_grad=True)
    (found,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([0])).sum(), logits)
    expected = 1 / (1 + np.exp(np.float64(np.float32(20.7))))
    np.testing.assert_allclose(found.numpy(), [[-expected, expected]], rtol=1e-6)
    (rounded,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0])), logits)
    assert rounded[0, 0] == 0
