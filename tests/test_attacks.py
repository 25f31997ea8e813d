"""Attacks on feature statistics and on pixels: against loops, finite differences, analytic signs and foolbox."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import warm
from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.shifts.attacks import (
    HALF_SCALE,
    FeatureAttack,
    PixelAttack,
    attack_features,
    attack_pixels,
    batch_moments,
    initial_factors,
    perturb,
)
from statshift.shifts.attacks.ascent import ascend, linf_ball

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("multiplicative", "additive")
both_kinds = pytest.mark.parametrize("kind", KINDS)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def features_of(count=6, channels=4, side=5, **options):
    """Return features whose channels have means and deviations of their own, of both signs."""
    spread = torch.tensor([0.5, 2.0, 1.0, 0.1, 3.0][:channels]).view(1, -1, 1, 1)
    centre = torch.tensor([1.0, -2.0, 0.3, 5.0, -0.1][:channels]).view(1, -1, 1, 1)
    found = random(count, channels, side, side, **options)
    return found * spread.to(found) + centre.to(found)


class Suffix(nn.Module):
    """A small network with a norm, a kink and weights that want gradients."""

    def __init__(self, channels=4, dtype=torch.float64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(channels, 6, 3)
            self.norm = nn.BatchNorm2d(6)
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
            self.linear = nn.Linear(6, 3)
        self.to(dtype).eval()

    def forward(self, features):
        return self.linear(F.gelu(self.norm(self.conv(features))).mean((2, 3)))


def cross_entropy(model, count=6, classes=3):
    return lambda features: F.cross_entropy(model(features), torch.arange(count) % classes)


def linear_loss(channels=4, seed=5):
    """Return a loss that is linear in each channel's average, and its weights (C,)."""
    weights = random(channels, seed=seed)
    return (lambda features: (features.mean((0, 2, 3)).to(weights) * weights).sum()), weights


def channels_of(features):
    """Return mean and deviation (C,) over images and positions, by NumPy."""
    array = features.double().numpy()
    return array.mean((0, 2, 3)), array.std((0, 2, 3))


# Equation 2


@both_kinds
def test_perturbed_features_are_the_formula(kind):
    """Equation 2, and for the additive kind equation 1 with the shifts of appendix E, channel by channel."""
    features, factors = features_of(), random(2, 4, seed=3)
    attack = FeatureAttack(form=kind)
    found = perturb(features, factors, batch_moments(features, attack), attack, relu=False)
    array, (d_mu, d_sigma) = features.numpy(), factors.numpy()
    means, deviations = channels_of(features)
    for channel in range(4):
        f, mu, sigma = array[:, channel], means[channel], deviations[channel]
        if kind == "multiplicative":
            expected = d_sigma[channel] * (f - mu) + d_mu[channel] * mu
        else:
            new_sigma = sigma + d_sigma[channel] * deviations.max()
            new_mu = mu + d_mu[channel] * np.abs(means).max()
            expected = new_sigma * (f - mu) / sigma + new_mu
        np.testing.assert_allclose(found[:, channel].numpy(), expected, rtol=1e-12, atol=1e-12)
    new_means, new_deviations = channels_of(found)
    if kind == "multiplicative":
        expected_mean, expected_deviation = d_mu * means, np.abs(d_sigma) * deviations
    else:
        expected_mean = means + d_mu * np.abs(means).max()
        expected_deviation = np.abs(deviations + d_sigma * deviations.max())
    np.testing.assert_allclose(new_means, expected_mean, rtol=1e-12)
    np.testing.assert_allclose(new_deviations, expected_deviation, rtol=1e-12)


@both_kinds
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_factors_at_their_start_change_nothing(kind, dtype, layout):
    features = (features_of() * 3).to(dtype).contiguous(memory_format=layout)
    attack = FeatureAttack(form=kind, epsilon=0)
    moments = batch_moments(features, attack)
    assert moments.mean.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    factors = attack_features(features, linear_loss()[0], attack)
    assert torch.equal(factors, initial_factors(features, attack))
    found = perturb(features, factors, moments, attack, relu=False)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=layout)
    assert torch.equal(found, features)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("clamp", [False, True])
def test_the_clamp_is_where_features_are_rectified_and_the_attack_asks_for_it(rectified, clamp):
    features, seen = features_of().relu(), []

    def loss(changed):
        seen.append(changed.detach())
        return (changed * random(*changed.shape, seed=8)).sum()

    attack = FeatureAttack(clamp=clamp)
    factors = attack_features(features, loss, attack, relu=rectified)
    assert len(seen) == attack.steps
    assert (torch.stack(seen).min() >= 0) == (rectified and clamp)
    moments = batch_moments(features, attack)
    plain = perturb(features, factors, moments, attack, relu=False)
    assert plain.min() < 0
    assert torch.equal(perturb(features, factors, moments, attack, relu=True), plain.clamp(min=0))


@both_kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("factor", [1.2, 0.8, 1.4, -0.1])
def test_no_rounding_lets_a_gradient_through_the_kink(kind, dtype, factor):
    """With equal factors of both a zero stays zero, where the slope of a ReLU is none; half of all features are."""
    features, attack = features_of(dtype=dtype).relu(), FeatureAttack(form=kind)
    moments = batch_moments(features, attack)
    factors = initial_factors(features, attack)
    if kind == "multiplicative":  # additive ones are equal at their start alone
        factors *= factor
    factors.requires_grad_()
    found = perturb(features, factors, moments, attack, relu=True)
    assert (found[features == 0] == 0).all()
    slopes = random(*features.shape, seed=3, dtype=dtype)
    (gradient,) = torch.autograd.grad((found * slopes).sum(), factors)
    alive = slopes * ((features > 0) & (factor > 0 if kind == "multiplicative" else True))
    reach = moments.mean if kind == "multiplicative" else moments.mean.abs().max()
    torch.testing.assert_close(gradient[0], alive.sum((0, 2, 3)) * reach)


# Gradients and steps


@both_kinds
@pytest.mark.parametrize("relu", [False, True])
def test_gradients_are_central_differences(kind, relu):
    features, attack = features_of(), FeatureAttack(form=kind)
    loss, moments = cross_entropy(Suffix()), batch_moments(features, attack)
    factors = initial_factors(features, attack) + 0.3 * random(2, 4, seed=4)

    def value(at):
        return loss(perturb(features, at, moments, attack, relu=relu))

    plain = perturb(features, factors, moments, attack, relu=False)
    assert plain.abs().min() > 1e-4  # the differences stay on one side of each kink
    assert not relu or (plain < 0).float().mean() > 0.2
    (found,) = torch.autograd.grad(value(factors.requires_grad_()), factors)
    for place in np.ndindex(2, 4):
        step = torch.zeros_like(factors)
        step[place] = 1e-6
        difference = (value(factors.detach() + step) - value(factors.detach() - step)) / 2e-6
        torch.testing.assert_close(found[place], difference, rtol=1e-5, atol=1e-9)


@both_kinds
def test_the_first_step_is_the_analytic_sign(kind):
    """The average of a channel is d_mu * mu, so the loss's slope is w * mu; the deviation does not enter it."""
    features, (loss, weights) = features_of(), linear_loss()
    attack = FeatureAttack(steps=1, form=kind, part="mean", epsilon=5)
    moved = attack_features(features, loss, attack) - initial_factors(features, attack)
    slope = weights * (features.mean((0, 2, 3)) if kind == "multiplicative" else 1)
    torch.testing.assert_close(moved[0], 0.2 * slope.sign())
    assert torch.equal(moved[1], torch.zeros(4, dtype=torch.float64))


def test_the_first_step_on_a_linear_suffix_is_the_analytic_sign():
    """Logits W . average: of the cross-entropy's slope in d_mu, (softmax - one-hot) averaged over the images, W mu."""
    features, linear = features_of(), random(3, 4, seed=6)
    labels = torch.arange(6) % 3
    averages = features.mean((2, 3))
    errors = F.softmax(averages @ linear.T, 1) - F.one_hot(labels, 3)
    mean = features.mean((0, 2, 3))
    slopes = torch.stack([(errors @ linear).mean(0) * mean, (errors @ linear * (averages - mean)).mean(0)])
    loss = lambda changed: F.cross_entropy(changed.mean((2, 3)) @ linear.T, labels)  # noqa: E731
    factors = attack_features(features, loss, FeatureAttack(steps=1, epsilon=5))
    torch.testing.assert_close(factors, 1 + 0.2 * slopes.sign())


@both_kinds
@pytest.mark.parametrize(("epsilon", "steps"), [(None, 6), (None, 2), (0.5, 6), (0.05, 1), (3.0, 6)])
def test_factors_end_on_the_ball_and_never_leave_it(kind, epsilon, steps):
    features, (loss, _) = features_of(dtype=torch.float32), linear_loss()
    attack = FeatureAttack(form=kind, epsilon=epsilon, steps=steps)
    bound = steps * 0.2 - 0.1 if epsilon is None else epsilon
    assert attack.bound == bound
    start = initial_factors(features, attack)
    factors = attack_features(features, loss, attack)
    if bound < steps * 0.2:  # each step of a linear loss goes the same way, so the last one overshoots
        ends = torch.stack([start[0] - bound, start[0] + bound])
        assert (factors[0] == ends).any(0).all()
    else:
        torch.testing.assert_close((factors - start)[0].abs(), torch.full((4,), steps * 0.2))
    assert (factors >= start - bound).all()
    assert (factors <= start + bound).all()


def test_default_factors_reach_below_zero():
    """The published m = 6 and tau = 0.2 give epsilon = 1.1."""
    features, (loss, weights) = features_of(), linear_loss()
    factors = attack_features(features, loss, FeatureAttack())
    expected = 1 + 1.1 * (weights * features.mean((0, 2, 3))).sign()
    torch.testing.assert_close(factors[0], expected, rtol=0, atol=1e-15)
    assert factors[0].min() == pytest.approx(-0.1)


@both_kinds
@pytest.mark.parametrize(("part", "kept"), [("mean", 1), ("deviation", 0)])
def test_a_part_leaves_the_other_at_its_start(kind, part, kept):
    features, attack = features_of(), FeatureAttack(form=kind, part=part)
    factors = attack_features(features, cross_entropy(Suffix()), attack)
    start = initial_factors(features, attack)
    assert torch.equal(factors[kept], start[kept])
    assert (factors[1 - kept] != start[1 - kept]).all()


@both_kinds
def test_a_convex_loss_rises_with_each_step(kind):
    features, (loss, _) = features_of(), linear_loss()
    values, attack = [], FeatureAttack(form=kind, epsilon=10)
    attack_features(features, lambda changed: values.append(loss(changed).detach()) or loss(changed), attack)
    assert len(values) == 6
    assert values[0] == pytest.approx(float(loss(features)))
    assert all(after > before for before, after in pairwise(values))


@both_kinds
def test_a_network_s_loss_rises(kind):
    features, loss = features_of(), cross_entropy(Suffix())
    values, attack = [], FeatureAttack(form=kind, step_size=0.05)
    factors = attack_features(features, lambda changed: values.append(loss(changed).detach()) or loss(changed), attack)
    values.append(loss(perturb(features, factors, batch_moments(features, attack), attack, relu=False)).detach())
    assert values[-1] > values[0]
    assert all(after > before - 0.01 * abs(before) for before, after in pairwise(values))


def test_the_attack_is_plain_algorithm_1():
    """The paper's loop, written from the paper, on the same network."""
    features, loss = features_of(), cross_entropy(Suffix())
    mu = features.mean((0, 2, 3)).view(1, -1, 1, 1)
    d_mu = torch.ones(1, 4, 1, 1, dtype=torch.float64)
    d_sigma = torch.ones_like(d_mu)
    for _ in range(6):
        d_mu.requires_grad_()
        d_sigma.requires_grad_()
        gradients = torch.autograd.grad(loss(d_sigma * (features - mu) + d_mu * mu), [d_mu, d_sigma])
        d_mu, d_sigma = (
            (d + 0.2 * gradient.sign()).detach().clip(1 - 1.1, 1 + 1.1)
            for d, gradient in zip((d_mu, d_sigma), gradients, strict=True)
        )
    found = attack_features(features, loss, FeatureAttack())
    torch.testing.assert_close(found, torch.stack([d_mu.flatten(), d_sigma.flatten()]), rtol=0, atol=1e-12)


# What it leaves alone


class NoGradient(torch.autograd.Function):
    """The identity, which fails where its gradient is asked for."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient):
        raise AssertionError("a gradient was computed that nobody needs")


def test_nothing_but_the_factors_gets_a_gradient():
    model, features, images = Suffix(), features_of(), torch.rand(6, 4, 5, 5, dtype=torch.float64)
    model.linear.bias.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    wants = {name: parameter.requires_grad for name, parameter in model.named_parameters()}

    def loss(changed):
        guarded = {name: NoGradient.apply(parameter) for name, parameter in model.named_parameters()}
        return F.cross_entropy(torch.func.functional_call(model, guarded, (changed,)), torch.arange(6) % 3)

    with pytest.raises(AssertionError, match="nobody needs"):
        loss(features).backward()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient: pytest.fail("a weight gradient was computed"))
    for one in (loss, cross_entropy(model)):
        with torch.no_grad():
            factors = attack_features(features, one, FeatureAttack())
            changed = attack_pixels(images, one, PixelAttack(), draws_of(range(6)))
        assert not factors.requires_grad
        assert not changed.requires_grad
        assert not (factors == 1).all()
        assert not torch.equal(changed, images)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert wants == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@both_kinds
def test_features_and_factors_are_not_written_to(kind):
    features, attack = features_of(), FeatureAttack(form=kind)
    kept = features.clone()
    attack_features(features, cross_entropy(Suffix()), attack, relu=True)
    assert torch.equal(features, kept)
    start = initial_factors(features, attack)
    perturb(features, start, batch_moments(features, attack), attack, relu=True)
    assert torch.equal(features, kept)
    assert torch.equal(start, initial_factors(features, attack))


# Half precision


def faint(strength, counted=None):
    """Return a loss whose gradients pass through float16 at about this strength, and its weights (C,)."""
    weights = random(4, seed=9).float()

    def loss(changed):
        if counted is not None:
            counted.append(1)
        half = changed.half().mean((0, 2, 3)) * 1.0  # what arrives here is float16
        return (half.float() * weights * strength).sum()

    return loss, weights


def test_the_loss_scale_keeps_gradients_that_float16_loses():
    features = features_of(dtype=torch.float32)
    loss, weights = faint(1e-7)
    exact = attack_features(features, lambda changed: changed.mean((0, 2, 3)) @ weights, FeatureAttack())
    unscaled = attack_features(features.half(), loss, FeatureAttack())
    assert torch.equal(unscaled, torch.ones(2, 4))  # every gradient is zero
    scaled = attack_features(features.half(), loss, FeatureAttack(), loss_scale=HALF_SCALE)
    assert torch.equal(scaled[0], exact[0])
    assert (scaled[0] != 1).all()


def test_the_loss_scale_gives_the_signs_of_float32_through_a_half_network():
    """Of mean and deviation, through a convolution in float16."""
    features = features_of(dtype=torch.float32)
    model = Suffix(dtype=torch.float32)
    half = Suffix(dtype=torch.float16)
    labels, dim = torch.arange(6) % 3, 2.0**-18

    def loss_of(network):
        return lambda changed: dim * F.cross_entropy(network(changed).float(), labels)

    attack = FeatureAttack(steps=1)
    exact = attack_features(features, loss_of(model), attack)
    unscaled = attack_features(features.half(), loss_of(half), attack)
    scaled = attack_features(features.half(), loss_of(half), attack, loss_scale=HALF_SCALE)
    assert torch.equal(scaled, exact)
    assert not torch.equal(unscaled, exact)


def test_an_overflow_lowers_the_scale_for_good():
    features, counted = features_of(dtype=torch.float32), []
    loss, weights = faint(2e3, counted)  # 2**12 times it is beyond float16, 2**4 times it is not
    factors = attack_features(features.half(), loss, FeatureAttack(), loss_scale=HALF_SCALE)
    assert len(counted) == 6 + 2
    expected = 1 + 1.1 * (weights * features.mean((0, 2, 3))).sign()
    torch.testing.assert_close(factors[0], expected)


@pytest.mark.parametrize("loss_scale", [1.0, HALF_SCALE])
def test_a_gradient_that_is_never_finite_ends(loss_scale):
    features = features_of()
    factors = attack_features(features, lambda f: f.sum() * torch.nan, FeatureAttack(), loss_scale=loss_scale)
    assert torch.equal(factors, torch.ones(2, 4, dtype=torch.float64))


def test_the_loss_scale_is_for_pixels_too():
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    weights = random(2, 3, 4, 4, seed=9).float()

    def loss(point):
        return (point.half().float() * weights).mean() * 1e-7

    start = attack_pixels(images, lambda point: 0 * point.sum(), PixelAttack(), draws_of([0, 1]))
    assert torch.equal(attack_pixels(images, loss, PixelAttack(), draws_of([0, 1])), start)
    found = attack_pixels(images, loss, PixelAttack(), draws_of([0, 1]), loss_scale=HALF_SCALE)
    moved = found != start
    assert torch.equal((found - start).sign()[moved], weights.sign()[moved])
    assert moved.float().mean() > 0.9


# Features without spread


@both_kinds
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dead", [(0.0,), (3.3,), (0.0, 3.3), (0.0, 3.3, 7.77, -1e-3)], ids=str)
def test_constant_channels_stay_constant_and_finite(kind, dtype, dead):
    """Of zeros, and of values whose mean is not exact; in some channels or in all."""
    features = features_of(count=16, side=17).to(dtype)
    for channel, value in enumerate(dead):
        features[:, channel] = value
    attack, weights, scales = FeatureAttack(form=kind), random(16, 4, 17, 17, seed=3).to(dtype), []

    def loss(changed):
        scales.append(changed.detach())
        return (changed * weights).float().mean()

    factors = attack_features(features, loss, attack, loss_scale=64)
    assert len(scales) == attack.steps  # no gradient was taken for an overflow
    assert factors.isfinite().all()
    moments = batch_moments(features, attack)
    found = perturb(features, factors, moments, attack, relu=False)
    assert found.isfinite().all()
    rounding = 2e-3 if dtype == torch.float16 else 1e-3
    spread = found[:, : len(dead)].double().std((0, 2, 3), correction=0)
    assert (spread <= rounding * float(moments.mean.abs().max())).all()
    mean, largest = features.double().mean((0, 2, 3)), float(features.double().mean((0, 2, 3)).abs().max())
    expected = factors[0] * mean if kind == "multiplicative" else mean + factors[0] * largest
    got = found.double().mean((0, 2, 3))[: len(dead)]
    torch.testing.assert_close(got, expected[: len(dead)].double(), rtol=0, atol=rounding * largest)
    if kind == "multiplicative":
        zeros = [channel for channel, value in enumerate(dead) if value == 0]
        assert (found[:, zeros] == 0).all()
    elif len(dead) < 4:  # the channels with a spread are the formula's, whatever the others are
        deviations = features.double().std((0, 2, 3), correction=0)
        expected = (deviations + factors[1] * deviations.max()).abs()[len(dead) :]
        got = found.double().std((0, 2, 3), correction=0)[len(dead) :]
        torch.testing.assert_close(got, expected, rtol=5e-3 if dtype == torch.float16 else 1e-5, atol=1e-5)


def test_spread_too_small_to_divide_by_counts_as_none():
    features = features_of(dtype=torch.float32)
    features[:, 0] = 0
    features[0, 0, 0, 0] = 1e-20
    features[:, 1] *= 1e3
    attack = FeatureAttack(form="additive")
    factors = attack_features(features, cross_entropy(Suffix(dtype=torch.float32)), attack)
    assert perturb(features, factors, batch_moments(features, attack), attack, relu=False).isfinite().all()


@both_kinds
def test_one_image_of_one_position_is_enough(kind):
    features = random(1, 4, 1, 1)
    attack = FeatureAttack(form=kind)
    factors = attack_features(features, linear_loss()[0], attack)
    found = perturb(features, factors, batch_moments(features, attack), attack, relu=False)
    mean = features.flatten()
    expected = factors[0] * mean if kind == "multiplicative" else mean + factors[0] * mean.abs().max()
    torch.testing.assert_close(found.flatten(), expected)


# Values that cannot be


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"steps": 0}, ["`steps` to be an integer of at least 1, but got 0"]),
        ({"steps": 2.5}, ["`steps` to be an integer of at least 1, but got 2.5"]),
        ({"step_size": 0.0}, ["`step_size` above 0, but got 0.0"]),
        ({"step_size": float("nan")}, ["`step_size` above 0, but got nan"]),
        ({"step_size": float("inf")}, ["`step_size` above 0, but got inf"]),
        ({"epsilon": -0.1}, ["`epsilon` to be at least 0, but got -0.1"]),
        ({"epsilon": float("nan")}, ["`epsilon` to be at least 0, but got nan"]),
        ({"steps": 1, "step_size": 0.05}, ["Expected `epsilon`", "is -0.05, below 0"]),
        ({"form": "multiplicativ"}, ["Unknown form 'multiplicativ'", "Did you mean 'multiplicative'?"]),
        (
            {"steps": -1, "step_size": -1, "epsilon": -1, "form": "?", "part": "std", "perturbation": "all"},
            ["`steps`", "`step_size`", "`epsilon`", "Unknown form '?'", "Unknown part 'std'", "perturbation 'all'"],
        ),
    ],
)
def test_what_cannot_be_is_told(values, told):
    with pytest.raises(InputError) as error:
        FeatureAttack(**values)
    assert "\n" not in str(error.value)
    assert all(words in str(error.value) for words in told)
    assert str(error.value).count("Expected") + str(error.value).count("Unknown") == max(
        1, len(values) * (len(told) > 2)
    )


@pytest.mark.parametrize(
    "values",
    [{"steps": 0}, {"steps": 1.5}, {"step_size": 0}, {"step_size": float("nan")}, {"epsilon": -1}, {"epsilon": 1.5}],
)
def test_what_cannot_be_is_told_of_pixels(values):
    with pytest.raises(InputError, match=f"{next(iter(values.values()))}".replace(".", r"\.")):
        PixelAttack(**values)


def test_bounds_that_can_be():
    assert FeatureAttack(steps=1, step_size=0.1).bound == 0
    assert FeatureAttack(epsilon=0).bound == 0
    assert FeatureAttack().bound == pytest.approx(1.1)
    assert PixelAttack(epsilon=0).epsilon == 0


# Ascent


def test_no_step_is_taken_where_the_gradient_is_nan():
    gradient = torch.tensor([1.0, torch.nan, -2.0, 0.0, torch.inf])
    start = torch.zeros(5)
    found = ascend(start, lambda point: gradient, linf_ball(start, 1.0), steps=2, step_size=0.25)
    assert torch.equal(found, torch.tensor([0.5, 0, -0.5, 0, 0.5]))
    assert torch.equal(start, torch.zeros(5))


def test_ball():
    project = linf_ball(torch.tensor([0.0, 0.5, 1.0]), 0.25, 0.0, 1.0)
    assert torch.equal(project(torch.full((3,), -9.0)), torch.tensor([0.0, 0.25, 0.75]))
    assert torch.equal(project(torch.full((3,), 9.0)), torch.tensor([0.25, 0.75, 1.0]))


# Pixels


def draws_of(indices, seed=3):
    return Draws(seed, torch.tensor(list(indices)), "attack")


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        self.double().eval()

    def forward(self, images):
        return self.linear(torch.tanh(3 * self.conv(images)).mean((2, 3)))


def pixels(count=6, side=8, dtype=torch.float64):
    """Return images with values at both ends of the range."""
    found = 1.4 * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(2), dtype=dtype) - 0.2
    return found.clamp(0, 1)


SIZES = (PixelAttack(), PixelAttack(8 / 255, 2 / 255, 10), PixelAttack(0.3, 0.1, 3), PixelAttack(0, 0.1, 2))


@pytest.mark.parametrize("attack", SIZES, ids=str)
def test_pixels_are_foolbox_s_and_torchattacks_s_from_the_same_start(attack, monkeypatch):
    foolbox, torchattacks = pytest.importorskip("foolbox"), pytest.importorskip("torchattacks")
    model, images, labels = Classifier(), pixels(), torch.arange(6) % 5
    loss = lambda point: F.cross_entropy(model(point), labels)  # noqa: E731
    found = attack_pixels(images, loss, attack, draws_of(range(6)))
    start = start_of(images, attack)
    if attack.epsilon > 0:
        assert (start != images).any(dim=(1, 2, 3)).all()

    class Started(foolbox.attacks.LinfPGD):
        def get_random_start(self, x0, epsilon):
            return type(x0)(start)

    options = {"rel_stepsize": None, "abs_stepsize": attack.length, "steps": attack.steps, "random_start": True}
    theirs = Started(**options).run(
        foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), images, labels, epsilon=attack.epsilon
    )
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-12)

    noise = start - images
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(noise))
    other = torchattacks.PGD(model, eps=attack.epsilon, alpha=attack.length, steps=attack.steps, random_start=True)
    torch.testing.assert_close(found, other(images, labels), rtol=0, atol=1e-12)


def start_of(images, attack, indices=range(6)):
    """Return where the attack starts: a loss without slope moves nothing."""
    return attack_pixels(images, lambda point: 0 * point.sum(), attack, draws_of(indices))


def test_the_start_is_uniform_in_the_ball():
    images = torch.full((50, 3, 32, 32), 0.5)
    noise = start_of(images, PixelAttack(4 / 255), range(50)) - images
    assert noise.abs().max() <= 4 / 255 + 1e-7
    assert noise.abs().max() > 0.999 * 4 / 255
    assert float(noise.mean()) == pytest.approx(0, abs=1e-4)
    assert float(noise.std()) == pytest.approx(4 / 255 / 3**0.5, rel=1e-2)
    assert len(noise.flatten(1).unique(dim=0)) == 50


def test_an_image_is_attacked_alike_in_every_batch():
    """The mean loss of another batch has other slopes, but the same signs."""
    model, images, labels = Classifier(), pixels(), torch.arange(6) % 5

    def attacked(places):
        loss = lambda point: F.cross_entropy(model(point), labels[places])  # noqa: E731
        return attack_pixels(images[places], loss, PixelAttack(), draws_of(places))

    whole = attacked(list(range(6)))
    for places in ([3], [5, 0], [4, 1, 2]):
        torch.testing.assert_close(attacked(places), whole[places], rtol=0, atol=1e-12)
        alone = start_of(images[places], PixelAttack(), places)
        assert torch.equal(alone, start_of(images, PixelAttack())[places])


@pytest.mark.parametrize("attack", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_images_stay_in_the_ball_and_the_range(attack, dtype):
    model, images = Classifier().to(dtype), pixels(dtype=dtype)
    loss = lambda point: F.cross_entropy(model(point), torch.arange(6) % 5)  # noqa: E731
    found = attack_pixels(images, loss, attack, draws_of(range(6)))
    assert found.dtype == dtype
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found <= images + attack.epsilon).all()
    assert (found >= images - attack.epsilon).all()
    if attack.epsilon > 0:
        assert loss(found) > loss(images)
    else:
        assert torch.equal(found, images)


# Over processes

WORKER = """
import sys
import torch
from torch.nn import functional as F
from statshift.shifts.attacks import FeatureAttack, attack_features, batch_moments
from statshift._core.processes import join, mean_over_ranks

rank, _ = join()
generator = torch.Generator().manual_seed(0)
features = torch.randn(8, 4, 5, 5, generator=generator, dtype=torch.float64) + 0.5
features[4:] *= 2
weights = torch.randn(3, 4, generator=generator, dtype=torch.float64)
labels = torch.arange(8) % 3
mine = slice(4 * rank, 4 * rank + 4)

def loss(changed):
    return F.cross_entropy(changed.tanh().mean((2, 3)) @ weights.T, labels[mine])

found = {}
for kind in ("multiplicative", "additive"):
    for which in ("global", "local"):
        attack = FeatureAttack(form=kind, perturbation=which)
        moments = batch_moments(features[mine], attack)
        found[kind, which] = attack_features(features[mine], loss, attack), moments.mean, moments.deviation

def overflowing(changed):  # the gradient at one process alone is beyond float16 at first
    if changed.dtype == torch.float16:
        changed = changed.mean((0, 2, 3)) * 1.0
    return (changed.double() * weights[0] * (2e3 if rank else 1.0)).sum()

half = FeatureAttack(steps=2)
found["half"] = attack_features(features[mine].half(), overflowing, half, loss_scale=2.0**12)

parameter = torch.tensor([0.7, -1.2], dtype=torch.float64, requires_grad=True)
own = parameter * torch.arange(1 + rank, 3 + rank) + rank  # of each process
mean = mean_over_ranks(own)
value = (mean.sin() * (rank + 1)).sum() + (own * mean * rank).sum()
(gradient,) = torch.autograd.grad(value, parameter)
found["mean"] = mean.detach(), value.detach(), gradient
found["transposed"] = mean_over_ranks(torch.arange(6.0).view(2, 3).T + rank)
torch.save(found, f"{sys.argv[1]}/{rank}.pt")
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Return what two processes over gloo find, each with half of a batch of eight."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "worker.py").write_text(WORKER)
    ended = warm.run(folder, file=folder / "worker.py", count=2)
    assert ended.returncode == 0, ended.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def shared_batch():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 4, 5, 5, generator=generator, dtype=torch.float64) + 0.5
    features[4:] *= 2
    weights, labels = torch.randn(3, 4, generator=generator, dtype=torch.float64), torch.arange(8) % 3
    return features, weights, labels


def loss_on(weights, labels):
    return lambda changed: F.cross_entropy(changed.tanh().mean((2, 3)) @ weights.T, labels)


@both_kinds
def test_two_processes_find_the_factors_of_one(two_processes, kind):
    features, weights, labels = shared_batch()
    attack = FeatureAttack(form=kind)
    whole = attack_features(features, loss_on(weights, labels), attack)
    moments = batch_moments(features, attack)
    for found in two_processes:
        factors, mean, deviation = found[kind, "global"]
        torch.testing.assert_close(factors, whole, rtol=0, atol=1e-12)
        torch.testing.assert_close(mean, moments.mean, rtol=1e-12, atol=0)
        if kind == "additive":
            torch.testing.assert_close(deviation, moments.deviation, rtol=1e-12, atol=0)


@both_kinds
def test_a_local_perturbation_is_of_each_process_s_share(two_processes, kind):
    features, weights, labels = shared_batch()
    shares = [slice(0, 4), slice(4, 8)]
    for found, mine in zip(two_processes, shares, strict=True):
        alone = attack_features(features[mine], loss_on(weights, labels[mine]), FeatureAttack(form=kind))
        torch.testing.assert_close(found[kind, "local"][0], alone, rtol=0, atol=1e-12)
    assert not torch.equal(two_processes[0][kind, "local"][1], two_processes[1][kind, "local"][1])


def test_processes_lower_the_loss_scale_together(two_processes):
    first, second = (found["half"] for found in two_processes)
    assert torch.equal(first, second)
    assert (first[0] != 1).all()


def test_the_mean_over_processes_and_its_gradient_are_those_of_one(two_processes):
    parameter = torch.tensor([0.7, -1.2], dtype=torch.float64, requires_grad=True)
    own = [parameter * torch.arange(1 + rank, 3 + rank) + rank for rank in range(2)]
    mean = (own[0] + own[1]) / 2
    values = [(mean.sin() * (rank + 1)).sum() + (own[rank] * mean * rank).sum() for rank in range(2)]
    (gradient,) = torch.autograd.grad((values[0] + values[1]) / 2, parameter)
    for found, value in zip(two_processes, values, strict=True):
        torch.testing.assert_close(found["mean"][0], mean.detach())
        torch.testing.assert_close(found["mean"][1], value.detach())
        assert torch.equal(found["transposed"], torch.arange(6.0).view(2, 3).T + 0.5)
    averaged = (two_processes[0]["mean"][2] + two_processes[1]["mean"][2]) / 2  # as DistributedDataParallel does
    torch.testing.assert_close(averaged, gradient)
