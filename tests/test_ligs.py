"""LIGS: against closed forms, single images by torch.autograd, and finite differences of the regularizer."""

from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from statshift import load_model
from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.measuring.ligs import PERTURBATIONS, LigsOptions, cosines, ligs, losses_and_cosines

pytestmark = pytest.mark.usefixtures("one_thread")

each_perturbation = pytest.mark.parametrize("perturbation", PERTURBATIONS)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pixels(count=12, side=6, dtype=torch.float64):
    """Return images, some of whose pixels are at the ends of the range."""
    found = 1.4 * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(2), dtype=dtype) - 0.2
    return found.clamp(0, 1)


class Network(nn.Module):
    """A small network without kinks, with a batch norm, that is far from linear over 0.1."""

    def __init__(self, width=6, dtype=torch.float64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.conv, self.norm, self.linear = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 4)
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.001, 0.01)
            nn.init.uniform_(self.norm.weight, 0.5, 1.5)
            nn.init.normal_(self.norm.bias)
        self.to(dtype).eval()

    def forward(self, images):
        return self.linear(torch.tanh(self.norm(self.conv(images))).mean((2, 3)))


LABELS = torch.arange(12) % 4


def cosine(first, second):
    first, second = (np.asarray(one, np.float64).ravel() for one in (first, second))
    return first @ second / np.sqrt((first @ first) * (second @ second))


def one_by_one(model, images, labels, options, *, seed=0, indices=None):
    """Return the cosine of each image alone, its gradient by torch.autograd, from the definition."""
    places = torch.arange(len(images)) if indices is None else indices
    found = []
    for image, label, place in zip(images, labels, places, strict=True):
        draws = Draws(seed, place[None], "ligs")

        def gradient(at, label=label):
            point = at.detach().clone().requires_grad_()
            F.cross_entropy(model(point[None]).double(), label[None]).backward()
            return point.grad

        here, scale = gradient(image), options.scale
        if options.perturbation == "gaussian":
            beside = image + scale * draws.normal("noise", *image.shape)[0].to(image)
        elif options.perturbation == "uniform":
            beside = image + draws.uniform("noise", *image.shape, low=-scale, high=scale)[0].to(image)
        elif options.perturbation == "fgsm":
            beside = image + scale * here.sign()
        else:
            beside = image + draws.uniform("start", *image.shape, low=-scale, high=scale)[0].to(image)
            for _ in range(7):
                stepped = beside + 2.5 * scale / 7 * gradient(beside).sign()
                beside = torch.minimum(torch.maximum(stepped, image - scale), image + scale)
        found.append(cosine(here, gradient(beside)))
    return np.array(found)


class Flat(nn.Module):
    """Return the pixels as logits (B,3*H*W), and note what came; the loss is all there is."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(images.detach())
        return images.flatten(1)


# Closed forms


@each_perturbation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_two_classes_told_apart_by_a_plane_have_ligs_1(perturbation, dtype):
    """The gradient is p of the wrong class times plus or minus w, of the same sign on both sides."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2)).to(dtype)
    with torch.no_grad():
        model[1].weight.mul_(5)
    found = ligs(model, pixels(dtype=dtype), LABELS % 2, LigsOptions(perturbation, 0.1))
    assert found.values.shape == (12,)
    assert found.values.dtype == torch.float64
    np.testing.assert_allclose(found.values.numpy(), 1, rtol=0, atol=1e-6)
    assert found.mean == pytest.approx(1, abs=1e-6)
    assert found.left_out == 0


@pytest.mark.parametrize("perturbation", ["gaussian", "uniform"])
def test_a_quadratic_loss_is_its_closed_form(perturbation):
    """Of x A x / 2: the cosine of A x and A (x + nu), with nu from its address."""
    images, root = pixels(), random(108, 108, seed=3)
    matrix, indices, scale = root @ root.T / 108 - torch.eye(108).double(), 7 * torch.arange(12) + 3, 0.2
    loss = lambda logits, labels: 0.5 * ((logits @ matrix) * logits).sum(1)  # noqa: E731
    options = LigsOptions(perturbation, scale)
    found = ligs(Flat(), images, LABELS, options, loss=loss, seed=5, indices=indices)
    draws = Draws(5, indices, "ligs")
    if perturbation == "gaussian":
        noise = scale * draws.normal("noise", 3, 6, 6).double().numpy()
    else:
        noise = draws.uniform("noise", 3, 6, 6, low=-scale, high=scale).double().numpy()
    array, matrix = images.numpy().reshape(12, -1), matrix.numpy()
    for row, (image, nu) in enumerate(zip(array, noise.reshape(12, -1), strict=True)):
        assert float(found.values[row]) == pytest.approx(cosine(matrix @ image, matrix @ (image + nu)), abs=1e-12)
    assert found.values.max() < 0.999


def test_fgsm_on_a_quadratic_loss_is_its_closed_form():
    images = pixels() + 1e-3
    loss = lambda logits, labels: 0.5 * (logits.square() * curvature).sum(1)  # noqa: E731
    curvature = random(108, seed=6)
    found = ligs(Flat(), images.clamp(max=1), LABELS, LigsOptions("fgsm", 0.3), loss=loss)
    for row, image in enumerate(images.clamp(max=1).flatten(1).numpy()):
        slope = curvature.numpy() * image
        beside = curvature.numpy() * (image + 0.3 * np.sign(slope))
        assert float(found.values[row]) == pytest.approx(cosine(slope, beside), abs=1e-12)


@pytest.mark.parametrize(("perturbation", "scale"), [("gaussian", 0.1), ("gaussian", 0.4), ("uniform", 0.5)])
def test_the_expectation_for_a_round_bowl(perturbation, scale):
    """Of |x - c|^2 / 2 the gradient is x - c: a Monte Carlo in NumPy, with other draws, has the same mean."""
    count, offset = 3000, random(108, seed=1) * 0.05
    images = torch.full((count, 3, 6, 6), 0.5, dtype=torch.float64)
    loss = lambda logits, labels: 0.5 * (logits - 0.5 - offset).square().sum(1)  # noqa: E731
    labels = torch.zeros(count, dtype=torch.long)
    found = ligs(Flat(), images, labels, LigsOptions(perturbation, scale), loss=loss, batch_size=1000)
    generator, slope = np.random.default_rng(0), -offset.numpy()
    shape = (20_000, 108)
    noise = generator.normal(0, scale, shape) if perturbation == "gaussian" else generator.uniform(-scale, scale, shape)
    moved = slope + noise
    expected = moved @ slope / np.sqrt((moved**2).sum(1) * (slope @ slope))
    error = float(found.values.std()) / np.sqrt(count)
    assert found.mean == pytest.approx(expected.mean(), abs=4 * error)
    assert float(found.values.std()) == pytest.approx(expected.std(), rel=0.06)
    assert found.mean < 0.6


# Image by image


@each_perturbation
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
def test_values_are_those_of_each_image_alone(perturbation, dtype, atol):
    model, images, options = Network(dtype=dtype), pixels(dtype=dtype), LigsOptions(perturbation, 0.1)
    indices = torch.arange(12) * 11 + 2
    found = ligs(model, images, LABELS, options, seed=8, indices=indices)
    expected = one_by_one(Network(dtype=dtype), images, LABELS, options, seed=8, indices=indices)
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=0, atol=atol)
    assert found.mean == pytest.approx(expected.mean(), abs=atol)
    assert found.values.std() > 0.01
    assert found.mean < 0.98


@each_perturbation
def test_the_size_and_order_of_batches_change_nothing(perturbation):
    model, images, options = Network(), pixels(), LigsOptions(perturbation, 0.1)
    whole = ligs(model, images, LABELS, options).values
    for size in (1, 5, 12):
        torch.testing.assert_close(
            ligs(model, images, LABELS, options, batch_size=size).values, whole, rtol=0, atol=1e-12
        )
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    turned = ligs(model, images[order], LABELS[order], options, indices=order)
    torch.testing.assert_close(turned.values, whole[order], rtol=0, atol=1e-12)
    if perturbation != "fgsm":  # which has no draws
        other = ligs(model, images, LABELS, options, seed=1).values
        assert ((other - whole).abs() > 1e-6).sum() >= (1 if perturbation == "pgd" else 12)  # it ends in corners


def test_the_loss_is_cross_entropy_unless_another_is_given():
    model, images = Network(), pixels()
    options = LigsOptions("gaussian", 0.1)
    plain = ligs(model, images, LABELS, options).values
    nats = lambda logits, labels: logits.logsumexp(1) - logits[torch.arange(len(labels)), labels]  # noqa: E731
    torch.testing.assert_close(ligs(model, images, LABELS, options, loss=nats).values, plain, rtol=0, atol=1e-12)
    first = ligs(model, images, LABELS, options, loss=lambda logits, labels: logits[:, 0]).values
    assert (first - plain).abs().max() > 1e-3
    default = ligs(model, images, LABELS, LigsOptions("gaussian", 0.01)).values
    assert torch.equal(ligs(model, images, LABELS).values, default)


@pytest.mark.parametrize("strength", [1e-20, 1e-30, 1e15])
@pytest.mark.parametrize("perturbation", ["gaussian", "fgsm"])
def test_a_multiple_of_the_loss_has_the_same_cosines(perturbation, strength):
    """In float32, where the squares of the gradient vanish or overflow."""
    model, images = Network(dtype=torch.float32), pixels(dtype=torch.float32)
    loss = lambda logits, labels: F.cross_entropy(logits, labels, reduction="none") * strength  # noqa: E731
    options = LigsOptions(perturbation)
    plain = ligs(model, images, LABELS, options).values
    torch.testing.assert_close(ligs(model, images, LABELS, options, loss=loss).values, plain, rtol=0, atol=1e-5)


# The perturbation


def points_of(perturbation, images, *, scale=0.01):
    """Return the loss's gradient at each image, and the point beside it, of a loss whose slopes are both signs."""
    model, slopes = Flat(), random(images[0].numel(), seed=4).to(images.dtype)
    ligs(
        model,
        images,
        torch.zeros(len(images), dtype=torch.long),
        LigsOptions(perturbation, scale),
        loss=lambda z, y: z @ slopes,
    )
    assert torch.equal(model.seen[0], images)
    return slopes.view(images.shape[1:]), model.seen[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_fgsm_goes_one_step_along_the_signs_and_out_of_the_range(dtype):
    images = pixels(dtype=dtype)
    slopes, beside = points_of("fgsm", images)
    assert torch.equal(beside, images + 0.01 * slopes.sign())
    assert beside.min() < 0
    assert beside.max() > 1


def test_pgd_goes_to_the_corner_of_the_ball_and_out_of_the_range():
    images = pixels()
    slopes, beside = points_of("pgd", images)
    torch.testing.assert_close(beside, images + 0.01 * slopes.sign(), rtol=0, atol=1e-15)


def test_uniform_noise_fills_its_box():
    images = pixels(count=100)
    noise = (points_of("uniform", images)[1] - images).numpy()
    assert np.abs(noise).max() <= 0.01 + 1e-9
    assert np.abs(noise).max() > 0.0099
    assert noise.std() == pytest.approx(0.01 / np.sqrt(3), rel=0.02)
    assert abs(noise.mean()) < 4 * 0.01 / np.sqrt(3 * noise.size)
    beside = images.numpy() + noise
    assert beside.min() < 0
    assert beside.max() > 1


def test_gaussian_noise_has_its_deviation_and_is_not_clipped():
    images = pixels(count=100)
    noise = (points_of("gaussian", images, scale=0.03)[1] - images).numpy()
    assert noise.std() == pytest.approx(0.03, rel=0.02)
    assert abs(noise.mean()) < 4 * 0.03 / np.sqrt(noise.size)
    at_zero, at_one = (noise[images.numpy() == end] for end in (0, 1))
    assert (at_zero < 0).mean() == pytest.approx(0.5, abs=0.05)
    assert (at_one > 0).mean() == pytest.approx(0.5, abs=0.05)


# Images that have no direction


def by_label(*strengths):
    """Return a loss that is |logits|^4 times a strength by label."""
    return lambda logits, labels: logits.square().sum(1).square() * torch.tensor(strengths).to(logits)[labels]


@each_perturbation
def test_images_without_a_direction_are_counted_and_left_out(perturbation):
    """Of class 1 the gradient vanishes, of class 2 it is infinite, of class 3 it is NaN."""
    images, options = pixels(), LigsOptions(perturbation, 0.3)
    found = ligs(Flat(), images, LABELS, options, loss=by_label(1.0, 0.0, torch.inf, torch.nan))
    assert found.left_out == 9
    assert torch.equal(found.values.isnan(), LABELS != 0)
    some = LABELS == 0
    alone = ligs(Flat(), images[some], LABELS[some], options, loss=by_label(1.0), indices=torch.arange(12)[some])
    assert torch.equal(found.counted, alone.values)
    assert found.mean == pytest.approx(alone.values.mean().item(), abs=1e-15)
    low, high = found.interval
    assert low <= found.mean <= high
    assert found.describe() == {"mean": found.mean, "interval": [low, high], "images": 3, "left_out": 9}


def test_a_gradient_that_vanishes_at_the_image_or_beside_it_leaves_it_out():
    """The loss rises up to 0.6 and is flat there: the second image steps onto the plateau, the third stands on it."""
    images = torch.tensor([0.2, 0.5, 0.9]).double().view(3, 1, 1, 1).expand(3, 3, 6, 6)
    loss = lambda logits, labels: logits.clamp(max=0.6).sum(1)  # noqa: E731
    found = ligs(Flat(), images, torch.tensor([0, 0, 0]), LigsOptions("fgsm", 0.25), loss=loss)
    assert found.values.isnan().tolist() == [False, True, True]
    assert found.mean == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        by_label(0.0, 0.0, 0.0, 0.0),
        by_label(torch.inf, torch.nan, 0.0, 0.0),
        lambda logits, labels: logits.detach().sum(1),
    ],
    ids=["zero", "not finite", "detached"],
)
def test_no_image_with_a_direction_is_told(loss):
    with pytest.raises(InputError, match="none of 12 has one") as error:
        ligs(Flat(), pixels(), LABELS, loss=loss)
    assert "\n" not in str(error.value)
    assert "exactly zero in float32" in str(error.value)
    assert "rounds, detaches or runs without gradients" in str(error.value)


def test_cosines_are_the_loop():
    first, second = random(6, 3, 2, 2), random(6, 3, 2, 2, seed=1)
    first[1], second[2], first[3, 0], second[4, 1, 0, 0] = 0, 0, torch.nan, -torch.inf
    first[5], second[5] = 1e-200, -1e200
    found = cosines(first, second)
    assert found[1:5].isnan().all()
    assert float(found[0]) == pytest.approx(cosine(first[0], second[0]), abs=1e-15)
    assert float(found[5]) == pytest.approx(-1, abs=1e-15)


def test_the_interval_is_that_of_a_mean():
    model, images = Flat(), pixels(400)
    loss = lambda logits, labels: 0.25 * (logits - 0.5).pow(4).sum(1)  # noqa: E731
    found = ligs(model, images, torch.zeros(400, dtype=torch.long), LigsOptions(scale=0.3), loss=loss, seed=2)
    low, high = found.interval
    assert low < found.mean < high
    width = 2 * 1.96 * float(found.values.std()) / np.sqrt(400)
    assert high - low == pytest.approx(width, rel=0.15)
    assert found.interval == (low, high)
    assert found.mean == pytest.approx(float(found.values.numpy().mean()), abs=1e-15)


# The model, and what cannot be


@each_perturbation
def test_the_model_is_measured_in_evaluation_mode_and_given_back(perturbation):
    model, options = Network(), LigsOptions(perturbation)
    expected = ligs(model, pixels(), LABELS, options).values
    model.train()
    model.linear.eval()
    model.conv.weight.requires_grad_(False)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(ligs(model, pixels(), LABELS, options).values, expected)
    assert [module.training for module in model.modules()] == [True, True, True, False]
    wants = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert wants == {"conv.weight"}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("scale", [0, -0.1, 2.0, float("nan")])
def test_a_scale_that_cannot_be_is_told(scale):
    with pytest.raises(InputError, match=f"`scale` above 0 and, of pixels in .0,1., at most 1, but got {scale}"):
        LigsOptions(scale=scale)


def test_other_input_that_cannot_be_is_told():
    with pytest.raises(InputError, match=r"Unknown perturbation 'gausian'.*Did you mean 'gaussian'"):
        LigsOptions("gausian")
    with pytest.raises(InputError, match=r"Expected pixels in \[0,1\], but got values from 0 to 255"):
        ligs(Network(), pixels() * 255, LABELS)
    with pytest.raises(InputError, match=r"labels \(B,\), but got \(12, 3, 6, 6\) and \(3,\)"):
        ligs(Network(), pixels(), LABELS[:3])


# The regularizer


def losses_of(model, labels, weights=None):
    """Return the loss of a model as training sees it."""

    def losses(images):
        found = F.cross_entropy(model(images), labels, reduction="none")
        return found if weights is None else found * weights

    return losses


def draws_of(count, seed=3):
    return Draws(seed, torch.arange(count), "ligs")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("perturbation", ["gaussian", "uniform", "fgsm"])
def test_the_regularizer_s_gradient_is_central_differences(perturbation, training):
    """With respect to every weight, through a batch norm in training and in evaluation mode."""
    model, images, labels = Network(width=2).train(training), pixels(4), LABELS[:4]
    options, draws = LigsOptions(perturbation, 0.1), draws_of(4)

    def penalty():
        return 1 - losses_and_cosines(losses_of(model, labels), images, options, draws)[1].mean()

    named = dict(model.named_parameters())
    value = penalty()
    gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    assert value > 0.01
    largest = max(float(gradient.abs().max()) for gradient in gradients if gradient is not None)
    for parameter, gradient in zip(named.values(), gradients, strict=True):
        found = torch.zeros_like(parameter) if gradient is None else gradient
        for place in np.ndindex(*parameter.shape):
            values, kept = [], float(parameter.detach()[place])
            for step in (1e-6, -1e-6):
                parameter.data[place] = kept + step
                values.append(float(penalty().detach()))
            parameter.data[place] = kept
            difference = (values[0] - values[1]) / 2e-6
            assert float(found[place]) == pytest.approx(difference, rel=1e-5, abs=1e-7 * largest + 1e-9)
    assert sum(bool((gradient.abs() > 1e-4).any()) for gradient in gradients if gradient is not None) >= 4


@pytest.mark.parametrize("perturbation", ["gaussian", "uniform", "fgsm"])
def test_the_regularizer_s_cosines_are_the_measure_s(perturbation):
    model, images, options = Network(), pixels(), LigsOptions(perturbation)
    losses, found = losses_and_cosines(losses_of(model, LABELS), images, options, draws_of(12))
    measured = ligs(model, images, LABELS, options, seed=3).values
    torch.testing.assert_close(found.detach(), measured, rtol=0, atol=1e-12)
    torch.testing.assert_close(losses, F.cross_entropy(model(images), LABELS, reduction="none"), rtol=0, atol=1e-12)
    assert not images.requires_grad


def test_the_losses_are_those_to_train_on():
    """Their gradient with respect to the weights is the plain one, whatever the penalty's graph."""
    model, images = Network().train(), pixels()
    losses, _ = losses_and_cosines(losses_of(model, LABELS), images, LigsOptions(), draws_of(12))
    ours = torch.autograd.grad(losses.mean(), list(model.parameters()), retain_graph=True)
    theirs = torch.autograd.grad(F.cross_entropy(model(images), LABELS), list(model.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("strength", [0.0, 1e-42])
def test_an_image_without_a_direction_has_cosine_1_and_moves_nothing(strength):
    """Its gradient is zero, or too weak to be divided by in float32."""
    model, images, options = Network(dtype=torch.float32), pixels(4, dtype=torch.float32), LigsOptions(scale=0.05)
    weights = torch.tensor([1.0, strength, 1.0, 1.0])
    _, found = losses_and_cosines(losses_of(model, LABELS[:4], weights), images, options, draws_of(4))
    assert float(found[1].detach()) == 1
    gradients = torch.autograd.grad((1 - found).sum(), list(model.parameters()), allow_unused=True)
    kept = torch.tensor([0, 2, 3])
    others = Draws(3, kept, "ligs")
    _, expected = losses_and_cosines(losses_of(model, LABELS[kept]), images[kept], options, others)
    torch.testing.assert_close(found[kept], expected, rtol=0, atol=1e-6)
    theirs = torch.autograd.grad((1 - expected).sum(), list(model.parameters()), allow_unused=True)
    for one, other in zip(gradients, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.isfinite().all()
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_images_that_all_lack_a_direction_give_no_nan():
    model, images = Network(dtype=torch.float32), pixels(4, dtype=torch.float32)
    losses, found = losses_and_cosines(losses_of(model, LABELS[:4], torch.zeros(4)), images, LigsOptions(), draws_of(4))
    assert torch.equal(found.detach(), torch.ones(4))
    gradients = torch.autograd.grad((1 - found).sum() + losses.sum(), list(model.parameters()), allow_unused=True)
    assert all(gradient is None or torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


@pytest.mark.parametrize("strength", [1e-20, 1e-30, 1e10])
def test_the_regularizer_is_the_same_of_a_multiple_of_the_loss(strength):
    """In float32; its value and its gradient."""
    model, images, options = Network(dtype=torch.float32), pixels(4, dtype=torch.float32), LigsOptions(scale=0.05)
    found = []
    for weights in (torch.ones(4), torch.full((4,), strength)):
        _, cosine_of = losses_and_cosines(losses_of(model, LABELS[:4], weights), images, options, draws_of(4))
        gradients = torch.autograd.grad((1 - cosine_of).mean(), list(model.parameters()), allow_unused=True)
        found.append((cosine_of.detach(), *(gradient for gradient in gradients if gradient is not None)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_second_forward_alone_is_quiet():
    seen, quiet, model, images = [], [False], Network(), pixels(4)

    @contextmanager
    def quietly():
        quiet[0] = True
        yield
        quiet[0] = False

    def losses(point):
        seen.append(quiet[0])
        return losses_of(model, LABELS[:4])(point)

    losses_and_cosines(losses, images, LigsOptions(), draws_of(4), quietly)
    assert seen == [False, True]


def test_pgd_does_not_regularise():
    with pytest.raises(InputError, match="Expected noise or fgsm to regularise with, but got pgd"):
        losses_and_cosines(losses_of(Network(), LABELS[:4]), pixels(4), LigsOptions("pgd"), draws_of(4))


# A real model


@pytest.fixture(scope="module")
def resnet20(shared):
    """Return a ResNet-20 that is right of 91.5 % of CIFAR-10's test images, and a hundred of these."""
    data = np.load(shared / "data/cifar10_test_1000.npz")
    model = load_model("cifar:resnet20", weights=shared / "data/cifar10_resnet20.th")
    images = torch.from_numpy(data["images"][:100].transpose(0, 3, 1, 2)).float() / 255
    return model, images, torch.from_numpy(data["labels"][:100]).long()


@each_perturbation
def test_a_real_network_s_values_are_those_of_each_image_alone(resnet20, perturbation):
    model, images, labels = resnet20
    double, images, labels = deepcopy(model).double(), images[:6].double(), labels[:6]
    options = LigsOptions(perturbation)
    found = ligs(double, images, labels, options).values.numpy()
    np.testing.assert_allclose(found, one_by_one(double, images, labels, options), rtol=0, atol=1e-9)


def test_a_real_network_s_ligs_in_float32_is_that_of_images_alone(resnet20):
    """But for those where rounding decides on which side of a ReLU's kink a feature is."""
    model, images, labels = resnet20
    found, options = ligs(model, images, labels), LigsOptions()
    expected = one_by_one(model, images, labels, options)
    apart = np.abs(found.values.numpy() - expected)
    assert (apart < 1e-5).mean() >= 0.9
    assert apart.max() < 5e-3
    assert found.mean == pytest.approx(expected.mean(), abs=1e-4)


def test_a_real_network_s_similarity_falls_with_the_strength_of_nu(resnet20):
    """Noise of a larger deviation, and what goes against the image, leave less of it."""
    model, images, labels = resnet20
    measured = partial(ligs, model, images[:50], labels[:50])
    means = [measured(LigsOptions(scale=scale)).mean for scale in (1e-4, 1e-3, 0.01, 0.1)]
    assert means[0] > 0.99
    assert means[3] < 0.1
    assert all(before > after + 0.02 for before, after in pairwise(means))
    kinds = {kind: measured(LigsOptions(kind)).mean for kind in ("uniform", "fgsm", "pgd")}
    assert kinds["uniform"] > means[2] + 0.1  # whose deviation is 0.01 over the root of 3
    assert max(kinds["fgsm"], kinds["pgd"]) < means[2] - 0.1
    assert measured().left_out == 0
