"""The optimisation landscape: against closed forms, and against weights moved by hand in a copy of the model."""

import copy
import json
import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from statshift._core.errors import InputError
from statshift.hardening.landscape import Landscape, landscape, step_sizes_around
from statshift.models import PixelModel, Preprocessing

pytestmark = pytest.mark.usefixtures("one_thread")

STEP_SIZES = (0.4, 0.05, 0.1)


@pytest.fixture(autouse=True)
def _own_random_state():
    with torch.random.fork_rng([]):
        yield


def images_of(count=6, side=6):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


LABELS = torch.arange(6) % 4


class Gain(nn.Module):
    """A buffer that the forward of a training step both moves and depends on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("gain", torch.ones(()))

    def forward(self, features):
        if self.training:
            self.gain.mul_(1.5)
        return features * self.gain


class Clipped(nn.Linear):
    """Keeps its own weights, trained or not, within bounds."""

    bound = 0.4

    def forward(self, features):
        for values in self.parameters():
            values.data.clamp_(-self.bound, self.bound)
        return super().forward(features)


class Frozen(nn.BatchNorm2d):
    """A norm that stays in evaluation mode, whatever a trainer calls."""

    def train(self, mode=True):
        return super().train(False)


class Network(nn.Module):
    """All that can go wrong: norms, dropout, a buffer that counts, weights clipped, shared, frozen and unused."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = Frozen(4)
        self.gain = Gain()
        self.dropout = nn.Dropout(0.3)
        self.one, self.other = Clipped(4, 4), nn.Linear(4, 4)
        self.other.weight = self.one.weight
        self.unused = nn.Linear(2, 2)
        self.one.bias.requires_grad_(False)

    def forward(self, images):
        features = self.frozen(torch.tanh(self.norm(self.conv(images)))).mean((2, 3))
        return self.other(self.dropout(torch.sigmoid(self.one(self.gain(features)))))


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = Network().double()
    for norm in (model.norm, model.frozen):
        for values in (*norm.parameters(), norm.running_mean, norm.running_var):
            nn.init.uniform_(values, 0.5, 2)
    return model.eval()


class Linear(nn.Module):
    """Logits that are linear in the weights alone."""

    def __init__(self, classes=4, side=2):
        super().__init__()
        self.linear = nn.Linear(3 * side * side, classes, bias=False, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        nn.init.normal_(self.linear.weight, generator=generator)

    def forward(self, images):
        return self.linear(images.flatten(1))


def half_squares(logits, targets):
    return (logits - targets).square().sum() / (2 * len(logits))


def test_a_quadratic_loss_has_its_closed_form():
    model, images = Linear(), images_of(side=2)
    targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = landscape(model, images, targets, step_sizes=STEP_SIZES, loss=half_squares)

    x, y, weights = images.flatten(1).numpy(), targets.numpy(), model.linear.weight.detach().numpy()
    gradient = (x @ weights.T - y).T @ x / 6
    curved = gradient @ (x.T @ x / 6)  # the Hessian times the gradient
    start = ((x @ weights.T - y) ** 2).sum() / 12
    slope, bend = (gradient**2).sum(), (gradient * curved).sum()
    losses = [start - eta * slope + eta**2 / 2 * bend for eta in STEP_SIZES]
    changes = [eta * np.linalg.norm(curved) for eta in STEP_SIZES]
    assert found.step_sizes == STEP_SIZES
    assert found.loss == pytest.approx(start, rel=1e-12)
    assert found.gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
    assert found.losses == pytest.approx(losses, rel=1e-12)
    assert found.gradient_changes == pytest.approx(changes, rel=1e-12)
    assert found.smoothness == pytest.approx(np.linalg.norm(curved) / np.linalg.norm(gradient), rel=1e-12)
    assert found.loss_range == (min(found.losses), max(found.losses))
    assert found.gradient_range == pytest.approx((changes[1], changes[0]), rel=1e-12)


def test_a_linear_loss_is_smooth():
    model, images = Linear(), images_of(side=2)
    found = landscape(model, images, LABELS, step_sizes=STEP_SIZES, loss=lambda logits, labels: logits.mean())
    assert found.gradient_norm == pytest.approx(float(images.flatten(1).mean(0).norm() / 2), rel=1e-12)
    assert found.gradient_changes == (0, 0, 0)
    assert found.smoothness == 0
    assert found.losses == pytest.approx([found.loss - eta * found.gradient_norm**2 for eta in STEP_SIZES], rel=1e-12)


def moved_by_hand(model, images, labels, gradient, step_size, training):
    """Return the loss and the gradient, by name, of a copy whose weights are moved in place."""
    there = copy.deepcopy(model)
    there.train(training)
    for name, weight in there.named_parameters():
        if name in gradient:
            weight.data.sub_(step_size * torch.from_numpy(gradient[name]))
    torch.manual_seed(5)
    loss = F.cross_entropy(there(images), labels)
    loss.backward()
    gradients = {name: w.grad.numpy().copy() for name, w in there.named_parameters() if w.grad is not None}
    return loss.item(), gradients


@pytest.mark.parametrize("training", [True, False])
def test_it_is_what_moving_a_copy_by_hand_gives(network, training):
    images = images_of()
    torch.manual_seed(5)
    found = landscape(network, images, LABELS, step_sizes=STEP_SIZES, training=training)

    start, gradient = moved_by_hand(network, images, LABELS, {}, 0, training)
    walk = [moved_by_hand(network, images, LABELS, gradient, eta, training) for eta in STEP_SIZES]
    length = math.sqrt(sum((one**2).sum() for one in gradient.values()))
    changes = [math.sqrt(sum(((there[k] - gradient[k]) ** 2).sum() for k in gradient)) for _, there in walk]
    assert "unused.weight" not in gradient
    assert "one.bias" not in gradient
    assert found.loss == pytest.approx(start, rel=1e-10)
    assert found.losses == pytest.approx([loss for loss, _ in walk], rel=1e-10)
    assert found.gradient_norm == pytest.approx(length, rel=1e-10)
    assert found.gradient_changes == pytest.approx(changes, rel=1e-10)
    ratios = [change / (eta * length) for change, eta in zip(changes, STEP_SIZES, strict=True)]
    assert found.smoothness == pytest.approx(max(ratios), rel=1e-10)


def test_the_mode_is_that_asked_for_and_not_that_found(network):
    images = images_of()

    def of(mode, training):
        torch.manual_seed(5)
        return landscape(network.train(mode), images, LABELS, step_sizes=STEP_SIZES, training=training)

    assert of(True, True) == of(False, True)
    assert of(True, False) == of(False, False)
    assert of(True, True) != of(True, False)


def test_short_steps_have_the_curvature_along_the_gradient(network):
    network.one.bound = math.inf  # where it clips there is no curvature
    images = images_of()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    gradient = torch.autograd.grad(
        F.cross_entropy(network(images), LABELS), weights, create_graph=True, allow_unused=True, materialize_grads=True
    )
    slope = sum(one.square().sum() for one in gradient)
    # the gradient of half the squared gradient is the Hessian times the gradient
    curved = torch.autograd.grad(slope / 2, weights, allow_unused=True, materialize_grads=True)
    expected = math.sqrt(sum(one.square().sum().item() for one in curved) / slope.item())
    found = landscape(network, images, LABELS, step_sizes=[1e-6], training=False)
    assert found.smoothness == pytest.approx(expected, rel=1e-5)


def test_a_pixel_model_normalises_and_a_dict_of_logits_is_read():
    class Answers(Linear):
        def forward(self, images):
            return {"logits": super().forward(images)}

    images, mean, std = images_of(side=2), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    wrapped = PixelModel(Answers(), Preprocessing(mean=mean, std=std)).double()
    normalised = (images - wrapped.mean) / wrapped.std
    one = landscape(wrapped, images, LABELS, step_sizes=STEP_SIZES)
    other = landscape(Linear(), normalised, LABELS, step_sizes=STEP_SIZES)
    assert one == other


class Broken(nn.Module):
    """Fails at the second forward, once the network behind it has run."""

    def __init__(self, network):
        super().__init__()
        self.network, self.left = network, [None]

    def forward(self, images):
        logits = self.network(images)
        if not self.left:
            raise RuntimeError("out of order")
        self.left.pop()
        return logits


def state_of(model):
    return {
        "values": {name: value.clone() for name, value in (*model.named_parameters(), *model.named_buffers())},
        "identities": [id(value) for value in (*model.parameters(), *model.buffers())],
        "shared": model.other.weight is model.one.weight,
        "gradients": [None if weight.grad is None else weight.grad.clone() for weight in model.parameters()],
        "wants": [weight.requires_grad for weight in model.parameters()],
        "flags": [module.training for module in model.modules()],
        "hooks": [len(hooks) for module in model.modules() for key, hooks in vars(module).items() if "_hooks" in key],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", ["", "model", "loss"])
def test_the_model_is_left_as_found(network, training, fails):
    for number, weight in enumerate(network.parameters()):
        weight.grad = torch.full_like(weight, number) if number % 2 else None
    for number, module in enumerate(network.modules()):
        module.training = number % 2 == 0
    images, model, calls = images_of(), network, []
    kept = images.clone()
    if fails == "model":
        model = Broken(network)

    def loss(logits, labels):
        calls.append(None)
        if fails == "loss" and len(calls) == 3:
            raise ZeroDivisionError
        return F.cross_entropy(logits, labels)

    before = state_of(network)
    with torch.no_grad():
        if fails:
            with pytest.raises(InputError if fails == "model" else ZeroDivisionError):
                landscape(model, images, LABELS, step_sizes=STEP_SIZES, loss=loss, training=training)
        else:
            landscape(model, images, LABELS, step_sizes=STEP_SIZES, loss=loss, training=training)
            assert len(calls) == 4
        assert not torch.is_grad_enabled()
    after = state_of(network)
    torch.testing.assert_close(after.pop("values"), before.pop("values"), rtol=0, atol=0)
    torch.testing.assert_close(after.pop("torch"), before.pop("torch"), rtol=0, atol=0)
    for one, other in zip(after.pop("gradients"), before.pop("gradients"), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    assert after == before
    assert torch.equal(images, kept)
    assert images.grad is None


def test_it_works_under_inference_mode(network):
    torch.manual_seed(5)
    expected = landscape(network, images_of(), LABELS, step_sizes=STEP_SIZES)
    images = images_of()
    torch.manual_seed(5)
    with torch.inference_mode():
        assert landscape(network, images, LABELS, step_sizes=STEP_SIZES) == expected


@pytest.mark.parametrize("lost", [math.inf, math.nan])
def test_a_walk_may_leave_what_is_finite(lost):
    def loss(logits, targets):
        found = half_squares(logits, targets)
        return found + (0 * found if math.isnan(lost) else 0)

    model, images, targets = Linear(), images_of(side=2), torch.zeros(6, 4, dtype=torch.float64)
    found = landscape(model, images, targets, step_sizes=[0.1, 1e200], loss=loss)
    near = landscape(model, images, targets, step_sizes=[0.1], loss=loss)
    assert found.losses == (*near.losses, math.inf)
    assert found.gradient_changes == (*near.gradient_changes, math.inf)
    assert found.smoothness == math.inf
    assert json.loads(json.dumps(found.describe(), allow_nan=False)) == {
        "step_sizes": [0.1, 1e200],
        "losses": [*near.losses, None],
        "gradient_changes": [*near.gradient_changes, None],
        "loss": near.loss,
        "gradient_norm": near.gradient_norm,
        "loss_range": [*near.losses, None],
        "gradient_range": [*near.gradient_changes, None],
        "smoothness": None,
    }
    assert near.describe()["smoothness"] == near.smoothness


def test_a_finite_loss_may_have_a_gradient_that_is_not():
    model, images = Linear(classes=1, side=1), torch.tensor([1.0, 0, 0]).double().view(1, 3, 1, 1)
    nn.init.ones_(model.linear.weight)

    def distance(logits, labels):  # from 0; its gradient there is 0 / 0
        return logits.square().sum().sqrt()

    found = landscape(model, images, LABELS[:1], step_sizes=[1.5, 1], loss=distance)
    assert found.losses == (0.5, 0)
    assert found.gradient_changes == (2, math.inf)
    assert found.smoothness == math.inf
    assert found.describe()["gradient_range"] == [2, None]


def test_at_a_flat_start_nothing_moves():
    model, images = Linear(), images_of(side=2)
    targets = model(images).detach()
    found = landscape(model, images, targets, step_sizes=STEP_SIZES, loss=half_squares)
    assert found == Landscape(STEP_SIZES, (0, 0, 0), (0, 0, 0), 0, 0)
    assert math.isnan(found.smoothness)
    assert found.describe()["smoothness"] is None


def test_step_sizes_around_a_learning_rate():
    assert step_sizes_around(0.1) == pytest.approx(np.geomspace(0.05, 0.4, 8), rel=1e-12)
    assert step_sizes_around(2, 3) == pytest.approx([1, math.sqrt(8), 8], rel=1e-12)
    for learning_rate, count in [(0, 8), (-1, 8), (math.nan, 8), (math.inf, 8), (0.1, 1)]:
        with pytest.raises(InputError, match="`learning_rate` above 0 and `count` of at least 2, but got"):
            step_sizes_around(learning_rate, count)


class Detached(Linear):
    def forward(self, images):
        return super().forward(images).detach()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_sizes": []}, r"`step_sizes` to be finite numbers above 0, but got \[\]"),
        ({"step_sizes": [0.1, 0]}, r"above 0, but got \[0.1, 0.0\]"),
        ({"step_sizes": [-0.1]}, r"above 0, but got \[-0.1\]"),
        ({"step_sizes": [math.nan]}, r"above 0, but got \[nan\]"),
        ({"step_sizes": [math.inf]}, r"above 0, but got \[inf\]"),
        ({"labels": LABELS[:5]}, r"labels of as many, but got shapes \(6, 3, 2, 2\) and \(5,\)"),
        ({"labels": torch.tensor(1)}, r"and \(\)"),
        ({"images": torch.zeros(3, 2, 2)}, r"Expected images \(B,3,H,W\)"),
        ({"images": torch.zeros(0, 3, 2, 2), "labels": LABELS[:0]}, r"Expected images \(B,3,H,W\)"),
        ({"images": images_of(side=3)}, r"The model fails on images of shape \(6, 3, 3, 3\)"),
        ({"model": Linear().requires_grad_(False)}, "trainable weights, but none requires a gradient"),
        ({"model": Detached()}, "no gradient reaches them"),
        ({"loss": lambda logits, labels: logits.sum(1)}, r"a scalar, but got shape \(6,\)"),
        ({"images": images_of(side=2) * math.nan}, "at the start, but the loss is nan and the gradient's norm nan"),
        (
            {"loss": lambda logits, labels: (logits * 0).square().sum().sqrt()},
            "the loss is 0.0 and the gradient's norm nan",
        ),
    ],
)
def test_what_cannot_be_walked_is_refused(changes, message):
    given = {"model": Linear(), "images": images_of(side=2), "labels": LABELS, "step_sizes": [0.1]} | changes
    with pytest.raises(InputError, match=message):
        landscape(given.pop("model"), given.pop("images"), given.pop("labels"), **given)


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_same(network):
    network.dropout.p = 0
    here = landscape(network, images_of(), LABELS, step_sizes=STEP_SIZES)
    state = torch.cuda.get_rng_state()
    network.dropout.p = 0.3
    there = copy.deepcopy(network).cuda()
    landscape(there, images_of().cuda(), LABELS.cuda(), step_sizes=STEP_SIZES)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    there.dropout.p = 0
    found = landscape(there, images_of().cuda(), LABELS.cuda(), step_sizes=STEP_SIZES)
    assert found.losses == pytest.approx(here.losses, rel=1e-10)
    assert found.gradient_changes == pytest.approx(here.gradient_changes, rel=1e-8)
