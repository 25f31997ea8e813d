"""Evidence of a shift: against NumPy loops, a second writing of `auto`, and as identities."""

from copy import deepcopy
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shared_answers import own_shares
from statshift._core.errors import FewImagesWarning, InputError
from statshift.adapting.passes import between
from statshift.adapting.rectify import rectify
from statshift.norms import shrinkage
from statshift.norms.layers import batch_norms
from statshift.norms.likeness import show_something
from statshift.norms.shrinkage import (
    TRAINING_BATCH,
    LayerShift,
    distances,
    gather_evidence,
    last_third,
    layer_shift,
    share_beyond,
    survey,
    weigh_evidence,
)
from statshift.norms.statistics import (
    ChannelStatistics,
    Observed,
    channel_statistics,
    instance_statistics,
    quarter_statistics,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def seed(number):
    return torch.Generator().manual_seed(number)


def normal(*shape, number=0):
    return torch.randn(*shape, generator=seed(number), dtype=torch.float64)


def pictures(images, number, side=10):
    """Return images (n,3,H,W) that differ in brightness and contrast as photographs do, and across each."""
    generator = seed(number)
    brightness, contrast, slope = torch.rand(3, images, 3, 1, 1, generator=generator, dtype=torch.float64)
    noise = torch.rand(images, 3, side, side, generator=generator, dtype=torch.float64)
    across = (slope - 0.5) * torch.linspace(-1, 1, side, dtype=torch.float64)
    return (0.15 + 0.7 * brightness + 0.5 * contrast * (noise - 0.5) + across).clamp(0, 1)


def small(layers=5, width=16, eps=1e-5):
    """Return a float64 network of so many convolutions, each with its batch norm."""
    torch.manual_seed(0)
    blocks = []
    for number in range(layers):
        convolution = nn.Conv2d(width if number else 3, width, 3, padding=1, padding_mode="replicate")
        blocks += [convolution, nn.BatchNorm2d(width, eps=eps), nn.ReLU()]
    network = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)).double().eval()
    for number, layer in enumerate(batch_norms(network).values()):
        nn.init.uniform_(layer.weight, 0.5, 1.5, generator=seed(number))
        nn.init.normal_(layer.bias, 0, 0.3, generator=seed(number + 100))
    return network


@pytest.fixture(scope="module")
def trained():
    """A network that has stored the statistics of 4000 pictures."""
    return rectify(small(), pictures(4000, 0), "replace")


def buffers(network):
    return {name: value.clone() for name, value in network.state_dict().items() if "running" in name}


def unchanged(network, other):
    return [name for name, value in buffers(network).items() if torch.equal(value, other.state_dict()[name])]


# What a layer observes


@pytest.mark.parametrize("shape", [(7, 4), (5, 4, 6), (6, 4, 5, 3), (4, 3, 2, 3, 4)])
def test_spreads_are_the_variances_between_what_images_add(shape):
    features = normal(*shape) * 2 + normal(shape[0], shape[1], *[1] * (len(shape) - 2), number=1)
    values = features.numpy().reshape(*shape[:2], -1)
    expected = np.zeros((2, shape[1]))
    for channel in range(shape[1]):
        mean = values[:, channel].mean()
        adds = [(image[channel].mean(), ((image[channel] - mean) ** 2).mean()) for image in values]
        expected[:, channel] = np.var(adds, axis=0)
        assert np.mean([added for _, added in adds]) == pytest.approx(values[:, channel].var(), rel=1e-12)
    found = channel_statistics(features).spreads
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-11)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-11)


def test_one_image_has_no_spread():
    from_mean, from_var = channel_statistics(normal(1, 3, 4, 4)).spreads
    assert from_mean.tolist() == from_var.tolist() == [0] * 3


def numpy_apart(values, mean):
    """Return the variances (2,) between neighbouring quarters of what they add, values (n,H,W) of one channel."""
    height, width = values.shape[1] // 2, values.shape[2] // 2
    found = []
    for image in values:
        for rows in (image[:height], image[-height:]):
            left, right = (((part.mean()), ((part - mean) ** 2).mean()) for part in (rows[:, :width], rows[:, -width:]))
            found.append([(one - other) ** 2 / 2 for one, other in zip(left, right, strict=True)])
    return np.mean(found, axis=0)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 2)])
def test_quarters_lie_as_far_apart_as_half_their_squared_differences(size):
    features = normal(3, 4, *size) * 2 + 0.5
    observed = channel_statistics(features, quarters=True)
    for channel in range(4):
        values = features[:, channel].numpy()
        found = [one[channel].item() for one in observed.apart]
        np.testing.assert_allclose(found, numpy_apart(values, values.mean()), rtol=1e-11)
    assert channel_statistics(features).apart is None


def test_quarters_of_one_row_of_a_volume_and_of_none():
    row = normal(3, 4, 10)
    assert quarter_statistics(row).mean.shape == (1, 2, 3, 4)
    torch.testing.assert_close(quarter_statistics(row).mean[0, 0], row[..., :5].mean(2))
    volume = normal(3, 4, 2, 3, 6)
    torch.testing.assert_close(quarter_statistics(volume).mean[1, 1], volume[:, :, 1, :, 3:].mean((2, 3)))
    assert quarter_statistics(normal(3, 4)) is None
    assert quarter_statistics(normal(3, 4, 5, 1)) is None


def test_independent_halves_differ_as_independent_images_do():
    between, apart = [], []
    for number in range(
        200
    ):  # images of 2 x 2 independent quarters of the same mean: a quarter's variance is four images'
        parts = normal(8, 16, 2, 2, number=number)
        features = parts.repeat_interleave(3, 2).repeat_interleave(3, 3)
        observed = channel_statistics(features, quarters=True)
        between.append(observed.spreads[0].mean().item() * 8 / 7)
        apart.append(observed.apart[0].mean().item())
    assert np.mean(apart) == pytest.approx(1, rel=0.05)
    assert np.mean(between) == pytest.approx(0.25, rel=0.05)


MAPS = [(6, 5, 40), (6, 5, 28, 28), (3, 4, 6, 7, 8)]


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize(("deviations", "tolerance"), [(0, 2e-6), (3, 1e-5), (30, 1e-5), (-1000, 1e-4)])
@pytest.mark.parametrize("unit", [1e-5, 1, 1e4])
def test_float32_keeps_the_digits_of_float64(shape, deviations, tolerance, unit):
    features = ((normal(*shape) + deviations) * unit).float()
    found, exact = instance_statistics(features), instance_statistics(features.double())
    assert found.mean.dtype == found.var.dtype == torch.float32
    torch.testing.assert_close(found.var.double(), exact.var, rtol=tolerance, atol=0)
    resolution = torch.finfo(torch.float32).eps * (abs(deviations) + 10) * unit
    torch.testing.assert_close(found.mean.double(), exact.mean, rtol=0, atol=4 * resolution)
    values = features.double().numpy().reshape(*shape[:2], -1)
    np.testing.assert_allclose(exact.mean, values.mean(2), rtol=1e-9, atol=1e-12 * unit)
    np.testing.assert_allclose(exact.var, values.var(2), rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_maps_a_little_under_ten_deviations_from_zero_lose_at_most_1e_5_of_the_variance(dtype):
    features = (normal(2, 4, 224, 224) + 9.5).to(dtype)
    exact = instance_statistics(features.double())
    torch.testing.assert_close(instance_statistics(features).var.double(), exact.var, rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, -1000.1, 3e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_channels_have_no_variance(value, dtype):
    features = normal(3, 2, 9, 9).to(dtype)
    features[:, 1] = value
    found = channel_statistics(features)
    assert found.mean[1].item() == pytest.approx(torch.tensor(value, dtype=dtype).item(), rel=1e-6)
    assert 0 <= found.var[1] <= (torch.finfo(dtype).eps * value) ** 2 + torch.finfo(dtype).tiny * 2
    torch.testing.assert_close(found.var[0], features[:, 0].var(correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_float32(dtype):
    features = (normal(4, 3, 64, 64) * 300 + 200).to(dtype)  # float16 squares overflow at 256
    found, exact = channel_statistics(features), channel_statistics(features.double())
    assert found.var.dtype == torch.float32
    torch.testing.assert_close(found.mean.double(), exact.mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.var.double(), exact.var, rtol=1e-5, atol=0)


# From observation to shares


def some_layer(number=0):
    """Return stored statistics and what is observed of 6 images, 4 channels, 5 x 5."""
    stored = ChannelStatistics(normal(4, number=number), normal(4, number=number + 1).square() + 0.1, 0)
    return stored, normal(6, 4, 5, 5, number=number + 2) * 1.5 + 0.3


def numpy_shift(stored, features, eps):
    """Return (mean, var, mean_spread, var_spread, mean_apart, var_apart), channel by channel."""
    values, rows = features.numpy(), []
    for channel in range(values.shape[1]):
        own, mean, var = values[:, channel], float(stored.mean[channel]), float(stored.var[channel])
        scale = var + eps
        adds = [(image.mean(), ((image - own.mean()) ** 2).mean()) for image in own]
        spread, apart = np.var(adds, axis=0), numpy_apart(own, own.mean())
        rows.append(
            (
                (own.mean() - mean) ** 2 / scale,
                ((own.var() - var) / (2 * scale)) ** 2,
                spread[0] / scale,
                spread[1] / (2 * scale) ** 2,
                apart[0] / scale,
                apart[1] / (2 * scale) ** 2,
            )
        )
    return np.mean(rows, axis=0)


def test_layer_shift_is_numpys():
    stored, features = some_layer()
    observed = channel_statistics(features, quarters=True)
    found, expected = layer_shift(stored, observed, 0.01), numpy_shift(stored, features, 0.01)
    numbers = [found.mean, found.var, found.mean_spread, found.var_spread, found.mean_apart, found.var_apart]
    np.testing.assert_allclose(numbers, expected, rtol=1e-11)
    np.testing.assert_allclose(distances(stored, observed, 0.01), expected[:2], rtol=1e-11)
    np.testing.assert_allclose(found.distance, expected[:2].sum(), rtol=1e-11)
    for effective in (1.0, 3.0, 6.0):
        noise = (expected[2:4] + expected[4:] / effective) / (effective - 0.5)
        np.testing.assert_allclose(found.noise(torch.tensor(effective)), noise, rtol=1e-7)
    scaled = (features.mean((2, 3)) - stored.mean) / (stored.var + 0.01).sqrt() / 2
    np.testing.assert_allclose(found.means, scaled, rtol=1e-11)


def test_a_layer_without_positions_goes_by_the_images_and_a_single_one_by_what_is_stored():
    stored, features = ChannelStatistics(torch.zeros(2), torch.tensor([1.0, 4.0]), 0), normal(6, 2).float()
    found = layer_shift(stored, channel_statistics(features, quarters=True), 0)
    assert found.mean_apart.item() == found.mean_spread.item() > 0
    assert found.var_apart.item() == found.var_spread.item() > 0
    one = ChannelStatistics(features[0], torch.zeros(2), 1)
    found = layer_shift(stored, Observed(one.mean, one.var, 1, ChannelStatistics(one.mean[None], one.var[None], 1)), 0)
    assert found.mean_apart.item() == pytest.approx(1)
    assert found.var_apart.item() == pytest.approx(0.5)  # of a normal value's square: 2 variance² over (2 variance)²


def test_half_the_relative_variance_is_the_deviation_to_first_order():
    first = ChannelStatistics(torch.zeros(1), torch.tensor([4.0]), 0)
    second = ChannelStatistics(torch.zeros(1), torch.tensor([2.02**2]), 0)
    assert distances(first, second, 0)[1].item() == pytest.approx(((2.02 - 2) / 2) ** 2, rel=0.011)


def test_without_a_shift_the_expected_distance_is_the_spread_over_the_images():
    stored = ChannelStatistics(torch.full((16,), 0.5, dtype=torch.float64), torch.full((16,), 2.0).double(), 0)
    found = []
    for number in range(500):  # of each 16 channels: the ratios' standard errors are about 2 %
        features = normal(64, 16, 20, number=number) + normal(64, 16, 1, number=number + 1000)
        shift = layer_shift(stored, channel_statistics(features + 0.5), 0)
        found.append([shift.mean, shift.var, shift.mean_spread, shift.var_spread])
    mean, var, mean_spread, var_spread = np.mean(found, axis=0)
    assert mean == pytest.approx(mean_spread / 64, rel=0.06)
    assert var == pytest.approx(var_spread / 64, rel=0.06 + 2 / 64)  # a biased variance: right to first order in 1/n


@pytest.mark.parametrize(
    ("noise", "distance", "share"),
    [(0, 0, 0), (1, 1, 0), (2, 1, 0), (1, 4, 0.75), (0, 3, 1), (float("inf"), 5, 0), (1, 0, 0)],
)
def test_share_beyond_is_the_positive_part_of_james_and_stein(noise, distance, share):
    assert share_beyond(torch.tensor(float(noise)), torch.tensor(float(distance))).item() == share


def some_shift(mean, var, mean_spread, var_spread, images):
    """Return a shift whose images are all different."""
    numbers = map(torch.tensor, (mean, var, mean_spread, var_spread, 1e-6, 0.0))
    return LayerShift(*numbers, means=torch.eye(images, dtype=torch.float64))


def test_evidence_adds_the_layers_up_before_it_compares():
    numbers = np.array(
        [[3.0, 1.0, 8.0, 2.0], [0.5, 0.0, 4.0, 1.0], [1.0, 2.0, 0.0, 3.0]]
    )  # mean, var and their spreads
    shifts = [some_shift(*row.tolist(), images=8) for row in numbers]
    distance, spread = numbers[:, :2].sum(), numbers[:, 2:].sum()
    found = weigh_evidence(shifts, pictures(8, 0))
    assert TRAINING_BATCH == 32
    assert found.effective.item() == pytest.approx(8)
    assert found.persisting.item() == pytest.approx(1 - spread * 8 / 7.5 * (1 / 8 + 1 / 32) / distance, rel=1e-4)
    assert found.certain.item() == 0  # a scene's worth, 5 * 8/7.5 and more, is beyond the 5 of the distance
    strong = weigh_evidence([some_shift(30, 10, 8, 2, images=8)], pictures(8, 0))
    assert strong.certain.item() == pytest.approx(1 - 10 * 8 / 7.5 * (1 / 8 + 1 + 1 / 32) / 40, rel=1e-4)
    assert weigh_evidence(shifts[1:2], pictures(8, 0)).persisting.item() == 0  # 0.5 against 5 * 5/32


def test_of_copies_only_a_shift_beyond_their_quarters_persists():
    for distance in (16.0, 8.0, 4.0):
        copies = LayerShift(*map(torch.tensor, (distance - 1, 1.0, 0.0, 0.0, 1.5, 0.5)), means=torch.ones(32, 4))
        found = weigh_evidence([copies], pictures(1, 0).repeat(32, 1, 1, 1))
        assert found.effective.item() == 1
        assert found.persisting.item() == pytest.approx(max(0, 1 - 4 * (1 + 1 / 32) / distance))
        assert found.certain.item() == pytest.approx(max(0, 1 - 4 * (1 + 1 + 1 / 32) / distance))
        assert [one.item() for one in copies.noise(found.effective)] == [3, 1]


@pytest.mark.parametrize("side", [32, 31, 100])
def test_pictures_of_nothing_are_told_from_pictures(side):
    for images in (1, 32):
        nothing = {
            "black": torch.zeros(images, 3, side, side),
            "one colour each": torch.rand(images, 3, 1, 1, generator=seed(0)).expand(-1, -1, side, side),
            "a covered lens": 0.02 * torch.rand(images, 3, side, side, generator=seed(2)),
            "its noise, amplified": 0.1 * torch.rand(images, 3, side, side, generator=seed(1)),
        }
        assert [name for name, one in nothing.items() if show_something(one)] == []
        noisy = pictures(images, 3, side) + 0.4 * normal(images, 3, side, side, number=4)
        for seen in (pictures(images, 3, side), 0.05 * pictures(images, 3, side), noisy, 0.3 * noisy):
            assert show_something(seen)


def test_pictures_of_nothing_count_as_one_and_move_nothing(trained):
    noise = 0.1 * torch.rand(16, 3, 10, 10, generator=seed(0), dtype=torch.float64)
    evidence = gather_evidence(trained, noise, batch_norms(trained))
    assert [one.item() for one in (evidence.effective, evidence.persisting, evidence.certain)] == [1, 0, 0]
    with pytest.warns(FewImagesWarning, match="pictures of nothing"):
        adapted = rectify(trained, noise)
    assert len(unchanged(adapted, trained)) == 10


@pytest.mark.parametrize(("layers", "last"), [(1, 1), (2, 1), (4, 1), (5, 2), (6, 2), (19, 6), (53, 18)])
def test_the_last_third_is_at_least_one_layer(layers, last):
    assert last_third(layers) == last


class Backwards(nn.Module):
    """Batch norms defined in the reverse of the order they are met in; the aside is never met."""

    def __init__(self):
        super().__init__()
        self.third, self.second, self.first = (nn.BatchNorm2d(3).double() for _ in range(3))
        self.aside = nn.BatchNorm2d(3).double()

    def forward(self, images):
        return self.third(2 * self.second(3 * self.first(images) + 1)).mean((2, 3))


def test_a_survey_keeps_the_order_of_execution_and_leaves_the_model_untouched():
    network, images = Backwards().eval(), pictures(6, 3)
    before = buffers(network)
    shifts = survey(network, images, batch_norms(network))
    assert list(shifts) == ["first", "second", "third"]
    features, root = images, (1 + 1e-5) ** 0.5
    for name, (factor, offset) in {"first": (3, 1), "second": (2, 0), "third": (1, 0)}.items():
        expected = numpy_shift(ChannelStatistics(torch.zeros(3), torch.ones(3), 0), features, 1e-5)
        found = shifts[name]
        numbers = [found.mean, found.var, found.mean_spread, found.var_spread, found.mean_apart, found.var_apart]
        np.testing.assert_allclose(numbers, expected, rtol=1e-10)
        features = factor * features / root + offset
    assert list(survey(network, images, batch_norms(network), skip=2)) == ["third"]
    assert len(unchanged(network, network)) == len(before)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())


def test_a_survey_of_one_value_names_the_layer():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)).double()
    with pytest.raises(InputError, match=r"The layer 1 cannot be rectified: .*\(1, 3, 1, 1\)"):
        survey(network, pictures(1, 0), batch_norms(network))


# `auto`, written a second time


def plain_forward(network, images, decide):
    """Run `small` module by module; `decide(number, layer, features)` gives mean and variance to normalise by."""
    features, number = images, 0
    for module in network:
        if isinstance(module, nn.BatchNorm2d):
            mean, var = decide(number, module, features)
            shape = (1, -1, 1, 1)
            features = (features - mean.view(shape)) / (var.view(shape) + module.eps).sqrt()
            features = features * module.weight.view(shape) + module.bias.view(shape)
            number += 1
        else:
            features = module(features)
    return features


@torch.no_grad()
def plain_auto(network, images):
    """Return the evidence, of each layer the rectified mean and variance, and the logits."""
    count, layers = len(images), len(batch_norms(network))
    reached, written, pairs = [], [], []

    def look(number, layer, features):
        if number >= layers - round(layers / 3):
            stored = ChannelStatistics(layer.running_mean, layer.running_var, 0)
            reached.append(numpy_shift(stored, features, layer.eps))
            own = (features.mean((2, 3)) / (layer.running_var + layer.eps).sqrt()).numpy()
            pairs.append([[((one - other) ** 2).mean() for other in own] for one in own])
        return layer.running_mean, layer.running_var

    predicted = plain_forward(network, images, look).softmax(1).numpy()
    mean, var, mean_spread, var_spread, mean_apart, var_apart = np.sum(reached, axis=0)
    alike = np.maximum(0, 1 - np.sum(pairs, axis=0) / mean_apart)
    rows = network[-1].weight.numpy() - network[-1].weight.numpy().mean(0)
    cosines = [[one @ other / np.linalg.norm(one) / np.linalg.norm(other) for other in rows] for one in rows]
    agreeing = max(0, np.sum((1 - alike) * np.einsum("ia,ab,jb->ij", predicted, cosines, predicted))) / (count + 1) ** 2
    scenes = count**2 / alike.sum()
    effective = 1 / (1 / scenes + agreeing)
    known = scenes / (scenes - 1 / 2)
    spread = known * (mean_spread + var_spread + (mean_apart + var_apart) / effective)
    persisting, certain = (max(0, 1 - spread * (1 / effective + n + 1 / 32) / (mean + var)) for n in (0, 1))

    def move(number, layer, features):
        stored = ChannelStatistics(layer.running_mean, layer.running_var, 0)
        distances, spreads, apart = np.split(numpy_shift(stored, features, layer.eps), 3)
        weights = (
            (persisting + certain)
            / 2
            * np.maximum(0, 1 - (spreads + apart / count) * (1 / count + agreeing) / distances)
        )
        mean = (1 - weights[0]) * layer.running_mean + weights[0] * features.mean((0, 2, 3))
        var = (1 - weights[1]) * layer.running_var + weights[1] * features.var((0, 2, 3), correction=0)
        written.append((mean, var))
        return mean, var

    return (persisting, certain, scenes, agreeing), written, plain_forward(network, images, move)


@pytest.mark.parametrize(("gain", "count"), [(0.4, 6), (0.5, 8), (0.3, 16)])
def test_auto_is_what_a_second_writing_of_it_finds(trained, gain, count):
    images = pictures(count, 7) * gain
    (persisting, certain, effective, agreeing), written, logits = plain_auto(trained, images)
    adapted = rectify(trained, images, "auto")
    evidence = gather_evidence(trained, images, batch_norms(trained))
    assert evidence.persisting.item() == pytest.approx(persisting, rel=1e-9)
    assert evidence.certain.item() == pytest.approx(certain, rel=1e-9)
    assert evidence.effective.item() == pytest.approx(effective, rel=1e-9)
    assert evidence.agreeing.item() == pytest.approx(agreeing, rel=1e-9)
    assert 0 <= certain < persisting < 1
    assert agreeing > 0.01
    for (mean, var), layer in zip(written, batch_norms(adapted).values(), strict=True):
        torch.testing.assert_close(layer.running_mean, mean, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(layer.running_var, var, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(adapted(images), logits, rtol=1e-9, atol=1e-12)


def test_of_a_mixed_batch_the_images_without_the_shift_show_little_of_it(trained):
    images = pictures(32, 7)
    images[16:] *= 0.4
    shares = gather_evidence(trained, images, batch_norms(trained)).shares
    np.testing.assert_allclose(shares, own_shares(trained, images), rtol=1e-9)
    assert shares[:16].mean() < 0.5
    assert shares[16:].mean() > 0.9


def test_where_there_is_no_shift_at_all_each_image_shows_all_of_it():
    assert torch.equal(shrinkage.own_shares([torch.zeros(3, 2)]), torch.ones(3))


@pytest.mark.parametrize(("gain", "moves"), [(1, False), (0.2, True)])
def test_one_image_moves_auto_where_the_shift_is_beyond_its_quarters(trained, gain, moves):
    parts = pictures(4, 5, side=5)  # an image of four, so that its quarters differ as images do
    image = gain * torch.cat([torch.cat(list(row), 2) for row in parts.view(2, 2, 3, 5, 5)], 1)[None]
    assert (len(unchanged(rectify(trained, image, "auto"), trained)) < 10) == moves


def test_auto_leaves_the_source_alone_where_there_is_no_shift_and_moves_where_there_is(trained):
    asleep = [len(unchanged(rectify(trained, pictures(32, draw), "auto"), trained)) for draw in range(100, 120)]
    assert asleep.count(10) >= 18  # of 20 draws of the source's own images
    for draw, (gain, least, most) in product(range(100, 104), ((0.3, 0.8, 1), (0.5, 0.3, 0.5))):
        images = pictures(32, draw) * gain
        adapted, replaced = (rectify(trained, images, name)[1] for name in ("auto", "replace"))
        for part in ("running_mean", "running_var"):
            source = getattr(trained[1], part)
            moved = (getattr(adapted, part) - source) / (getattr(replaced, part) - source)
            assert ((moved > least) & (moved < most)).all()  # half-way, less noise, where a scene might explain it


@pytest.mark.parametrize(("where", "touched"), [("front", ["1.", "4."]), ("end", ["13."]), ("7", ["7."])])
def test_auto_in_one_place_touches_nothing_else_and_hears_the_last_layers_all_the_same(trained, where, touched):
    images = pictures(16, 7) * 0.4
    everywhere, here = rectify(trained, images, "auto"), rectify(trained, images, "auto", where=where)
    moved = set(buffers(trained)) - set(unchanged(here, trained))
    assert moved == {f"{name}running_{part}" for name in touched for part in ("mean", "var")}
    if where == "front":  # nothing before it differs
        for name in moved:
            assert torch.equal(here.state_dict()[name], everywhere.state_dict()[name])


def test_auto_does_not_care_for_the_order_of_the_images(trained):
    images = pictures(16, 7) * 0.4
    first, second = rectify(trained, images, "auto"), rectify(trained, images[normal(16).argsort()], "auto")
    for name, value in buffers(first).items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=1e-6, atol=1e-6)


def test_auto_does_not_care_for_the_units_of_channels():
    network = rectify(small(eps=1e-14), pictures(200, 0), "replace")
    scaled = deepcopy(network)
    units = {}
    with torch.no_grad():
        for number in (0, 3, 6, 9, 12):
            units[str(number + 1)] = unit = 10 ** normal(16, number=number)
            scaled[number].weight.mul_(unit.view(-1, 1, 1, 1))
            scaled[number].bias.mul_(unit)
            scaled[number + 1].running_mean.mul_(unit)
            scaled[number + 1].running_var.mul_(unit**2)
    images = pictures(12, 7) * 0.4
    first, second = rectify(network, images, "auto"), rectify(scaled, images, "auto")
    assert len(unchanged(first, network)) < 5
    for name, unit in units.items():
        one, other = batch_norms(first)[name], batch_norms(second)[name]
        torch.testing.assert_close(other.running_mean / unit, one.running_mean, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(other.running_var / unit**2, one.running_var, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(second(images), F.linear(first[:-1](images), first[-1].weight, first[-1].bias))


def test_auto_asks_the_layers_that_a_forward_meets():
    network = rectify(small(), pictures(200, 0), "replace")
    images = pictures(16, 7) * 0.4
    expected = rectify(network, images, "auto")
    for layer in list(batch_norms(network).values()):
        layer.aside = nn.BatchNorm2d(16).double()  # as the second norm for adversarial images in AdvProp
    found = rectify(network, images, "auto")
    for name, value in buffers(expected).items():
        assert torch.equal(found.state_dict()[name], value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (7,), (7, 3, 2)])
def test_between_two_answers_lies_as_much_of_each_as_the_share_says(shape, dtype):
    source, rectified = torch.randn(2, 5, *shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    shares = torch.tensor([0, 0.25, 0.5, 0.75, 1])
    found = between(source, rectified, shares)
    for share, one, other, answer in zip(shares.tolist(), source, rectified, found, strict=True):
        expected = (1 - share) * one.double() + share * other.double()
        torch.testing.assert_close(answer.double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
    assert torch.equal(found[0], source[0])
    assert torch.equal(found[-1], rectified[-1])
    assert torch.equal(between(source, source, shares), source)


def test_classes_that_both_exclude_stay_excluded():
    source, rectified = torch.tensor([[[1.0, 2.0, -np.inf]], [[3.0, 1.0, -np.inf]]])
    assert torch.equal(between(source, rectified, torch.tensor([0.5])), torch.tensor([[2.0, 1.5, -np.inf]]))
