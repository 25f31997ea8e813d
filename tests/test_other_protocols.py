"""Adaptation without training, each method against NumPy's float64, and what is adapted once and then frozen."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageOps
from torch import nn

from statshift import load_data, measure
from statshift._core.errors import InputError, LeftAloneWarning
from statshift._core.randomness import Draws
from statshift.adapting.augmenting import OPERATIONS, augmix_views, shifted_views, turned_views
from statshift.adapting.choosing import find
from statshift.adapting.families import Rule
from statshift.adapting.heads import through_head
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocols.batch import Batch
from statshift.adapting.protocols.lame import Lame
from statshift.adapting.protocols.memo import Memo
from statshift.adapting.protocols.once import Once
from statshift.adapting.protocols.prior import Prior
from statshift.adapting.protocols.realistic import Realistic, usual_momentum
from statshift.adapting.protocols.t3a import T3A
from statshift.adapting.protocols.views import Views
from statshift.adapting.rectify import rectify
from test_protocols import build as network_of_digits

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 4


def pictures(images, number, size=8):
    """Return images (n,3,8,8) in [0,1] of different brightness and contrast."""
    generator = torch.Generator().manual_seed(number)
    level, gain = torch.rand(2, images, 3, 1, 1, generator=generator, dtype=torch.float64)
    noise = torch.rand(images, 3, size, size, generator=generator, dtype=torch.float64)
    return (0.2 + 0.6 * level + gain * (noise - 0.5)).clamp(0, 1)


BATCHES = [pictures(images, number) for images, number in ((12, 1), (7, 2), (9, 3))]


@pytest.fixture(scope="module")
def network():
    """A network of two batch norms that has stored the statistics of 500 pictures, with sure answers."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 6, 3, stride=2), nn.BatchNorm2d(6)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES), nn.Dropout(0.5), nn.Identity()]
    model = nn.Sequential(*layers).double().eval()
    nn.init.normal_(model[7].weight, std=3)
    return rectify(model, pictures(500, 0), "replace")


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def begun(protocol, network, **options):
    protocol = replace(protocol, views=4) if isinstance(protocol, Memo) and protocol.views is None else protocol
    return protocol.begin(deepcopy(network), AdaptationOptions(**options))


def parts(network, images):
    """Return features, classifier's weight and bias, and logits in NumPy."""
    with torch.no_grad():
        features = network[:7](images).numpy()
    weight, bias = (value.detach().numpy() for value in (network[7].weight, network[7].bias))
    return features, weight, bias, features @ weight.T + bias


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def unit(rows):
    return rows / np.sqrt((rows**2).sum(-1, keepdims=True))


# LAME


def agreed(features, logits, affinity, k):
    """Boudiaf et al., section 4, image by image."""
    directions, images = unit(features), len(features)
    distances = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in directions] for a in directions])
    weights = np.zeros((images, images))
    ranks = [sorted((distances[i, j], j) for j in range(images) if j != i) for i in range(images)]
    k = min(k, images - 1)
    if affinity == "knn":
        for i in range(images):
            for _, j in ranks[i][:k]:
                weights[i, j] = 1
    elif affinity == "rbf":
        width = np.mean([rank[k - 1][0] for rank in ranks])
        weights = np.exp(-(distances**2) / (2 * width**2))
    else:
        weights = directions @ directions.T
    given = softmax(logits)
    told, before = given, np.inf
    for step in range(100):
        heard = weights @ told
        told = given * np.exp(heard)
        told /= told.sum(1, keepdims=True)
        objective = (told * np.log(told / given)).sum() - (told * heard).sum()
        if step > 1 and abs(objective - before) <= 1e-8 * abs(before):
            break
        before = objective
    return np.log(told)


@pytest.mark.parametrize(("affinity", "k"), [("knn", 5), ("knn", 1), ("rbf", 5), ("rbf", 1), ("linear", 5)])
def test_lame_is_the_written_method(network, affinity, k):
    step = begun(Lame(k, affinity), network)
    moved = 0
    for images in BATCHES:
        features, _, _, logits = parts(network, images)
        expected = agreed(features, logits, affinity, k)
        np.testing.assert_allclose(step(images).numpy(), expected, rtol=1e-9, atol=1e-9)
        moved += (expected.argmax(1) != logits.argmax(1)).sum()
    assert moved > 0
    assert same(state(step.model), state(network))


def test_lame_forgets_each_batch_and_takes_no_image_for_its_own_neighbour(network):
    first, second = begun(Lame(), network), begun(Lame(), network)
    first(BATCHES[0])
    assert torch.equal(first(BATCHES[1]), second(BATCHES[1]))
    copies = BATCHES[0][:1].expand(4, -1, -1, -1)
    logits = network(copies).detach()
    for affinity in ("knn", "rbf"):  # all hear the same, so that they go further the way they went
        told = begun(Lame(1, affinity), network)(copies)
        assert (told == told[0]).all()
        assert told[0].argmax() == logits[0].argmax()
        assert told[0].max() > logits[0].log_softmax(0).max()


# T3A


def supported(network, batches, most):
    """Iwasawa & Matsuo, section 3: the logits of each batch and the prototypes at the end."""
    _, weight, bias, _ = parts(network, batches[0])

    def unsure(features):
        told = softmax(features[None] @ weight.T + bias)[0]
        return -(told * np.log(told)).sum()

    kept = {label: [(unsure(weight[label]), weight[label])] for label in range(len(weight))}
    answers = []
    for images in batches:
        features, _, _, logits = parts(network, images)
        for row, label in zip(features, logits.argmax(1), strict=True):
            kept[label].append((unsure(row), row))
        kept = {label: sorted(rows, key=lambda row: row[0])[:most] for label, rows in kept.items()}
        centres = np.stack([unit(sum(unit(row) for _, row in rows)) for rows in kept.values()])
        answers.append(features @ centres.T)
    return answers, centres


@pytest.mark.parametrize("protocol", [Lame(2, affinity="linear"), Lame(2, affinity="rbf"), T3A(3)])
def test_under_autocast_only_the_model_is_in_less_than_float32(network, protocol):
    """What comes of features and logits is worked out as without autocast, to float32's last digits."""

    class Rounding(nn.Module):
        """The network, its features rounded to bfloat16, and its last layer in bfloat16."""

        def __init__(self):
            super().__init__()
            self.before, self.head = deepcopy(network[:7]).float(), deepcopy(network[7]).bfloat16()

        def forward(self, images):
            with torch.autocast("cpu", enabled=False):
                return self.head(self.before(images.float()).bfloat16())

    images, step, plain = BATCHES[0].float(), begun(protocol, Rounding()), begun(protocol, Rounding())
    with torch.autocast("cpu", torch.bfloat16):
        found = step(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(images), rtol=1e-6, atol=1e-6)
    head, features = Rounding().head, Rounding().before(images).bfloat16().double().detach().numpy()
    if isinstance(protocol, Lame):
        logits = head(torch.from_numpy(features).bfloat16()).double().detach().numpy()
        expected = agreed(features, logits, protocol.affinity, 2)
        np.testing.assert_allclose(found.double().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("most", [1, 3, 100])
def test_t3a_is_the_written_method(network, most):
    step = begun(T3A(most), network)
    expected, centres = supported(network, BATCHES, most)
    for images, answer in zip(BATCHES, expected, strict=True):
        np.testing.assert_allclose(step(images).numpy(), answer, rtol=1e-9, atol=1e-10)
    assert same(state(step.model), state(network))
    frozen = step.adapted()
    np.testing.assert_allclose(frozen[7].weight.detach().numpy(), centres, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(frozen(BATCHES[2]).detach().numpy(), answer, rtol=1e-9, atol=1e-10)
    assert same(state(step.model), state(network))


def test_a_class_keeps_no_more_supports_than_asked_for_and_those_of_least_entropy(network):
    step = begun(T3A(3), network)
    for images in BATCHES:
        step(images)
    counts = torch.bincount(step.supports.labels, minlength=CLASSES)
    assert counts.max() == 3
    assert counts.min() >= 1


def test_what_is_not_finite_supports_nothing(network):
    class Blind(nn.Module):
        def forward(self, features):
            return torch.where(features[:, :1] > features[:, 0].mean(), torch.nan, features)

    blind, step = nn.Sequential(*network[:7], Blind(), *network[7:]), begun(T3A(), network)
    images = BATCHES[0]
    lost = blind(images).isnan().all(1)
    assert 0 < lost.sum() < len(images)
    expected = step(images[~lost])
    answer = begun(T3A(), blind)(images)
    torch.testing.assert_close(answer[~lost], expected, rtol=1e-12, atol=1e-12)
    assert answer[lost].isnan().all()


# Norm layers, in NumPy


def convolved(values, layer):
    """Return values (n,C,H,W) through a convolution without padding."""
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    windows = sliding_window_view(values, weight.shape[2:], axis=(2, 3))
    stride = layer.stride[0]
    return np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], weight) + bias[:, None, None]


def through(network, images, statistics_of, weights=None):
    """Return the logits (n,K) where norm k normalises its features by `statistics_of(k, features)`, mean and var."""
    values = images.numpy()
    for index, layer in enumerate(network[:5]):
        if isinstance(layer, nn.Conv2d):
            values = convolved(values, layer)
        elif isinstance(layer, nn.ReLU):
            values = np.maximum(values, 0)
        else:
            mean, var = statistics_of(index, values)
            values = (values - mean[:, None, None]) / np.sqrt(var + layer.eps)[:, None, None]
            terms = (layer.weight, layer.bias)
            scale, shift = (term.detach().numpy()[:, None, None] for term in terms)
            values = values * scale + shift
    weight, bias = weights or (term.detach().numpy() for term in (network[7].weight, network[7].bias))
    return values.mean((2, 3)) @ weight.T + bias


def moments(values):
    return values.mean((0, 2, 3)), values.var((0, 2, 3))


def stored(network):
    return {k: (network[k].running_mean.numpy().copy(), network[k].running_var.numpy().copy()) for k in (1, 4)}


def mixed(share, first, second):
    return tuple(share * one + (1 - share) * other for one, other in zip(first, second, strict=True))


# RealisticTTA


def rectified_by_layer(network, batches, momentum):
    """Su et al.: the logits of each batch, by two forwards."""
    source = stored(network)
    average, priors = dict(source), [dict.fromkeys(source, 0.0)]

    def blended(k, prior):
        (mean, var), (other, spread) = source[k], average[k]
        return prior * mean + (1 - prior) * other, mixed(prior, (var,), (spread,))[0] + prior * (1 - prior) * (
            mean - other
        ) ** 2

    def kl(first, second):
        (mean, var), (other, spread) = first, second
        var, spread = var + 1e-5, spread + 1e-5
        return 0.5 * (np.log(spread / var) + (var + (mean - other) ** 2) / spread - 1).sum()

    answers = []
    for images in batches:

        def moving(k, values):
            average[k] = mixed(momentum, moments(values), average[k])
            return blended(k, priors[-1][k])

        through(network, images, moving)
        apart = np.array([(kl(source[k], average[k]) + kl(average[k], source[k])) / 2 for k in source])
        prior = dict(zip(source, (np.clip((apart - apart.mean()) / apart.std(), -1, 1) + 1) / 4, strict=True))
        answers.append(through(network, images, lambda k, _, prior=prior: blended(k, prior[k])))
        priors.append({k: 0.9 * before + 0.1 * prior[k] for k, before in priors[-1].items()})
    return answers


@pytest.mark.parametrize("momentum", [0.1, 0.3, 1.0])
def test_realistic_is_the_written_method(network, momentum):
    batches = [0.4 * images for images in BATCHES]
    step = begun(Realistic(momentum), network)
    for images, expected in zip(batches, rectified_by_layer(network, batches, momentum), strict=True):
        np.testing.assert_allclose(step(images).numpy(), expected, rtol=1e-9, atol=1e-9)
        assert np.abs(expected - network(images).detach().numpy()).max() > 0.1
    assert torch.equal(step.adapted()(batches[2]), step.adapted()(batches[2]))


def test_of_small_batches_the_average_moves_less_and_of_many_classes(network):
    for size, classes, momentum in [(64, 10, 1), (63, 100, 0.1), (4, 10, 0.1), (3, 10, 0.01)]:
        assert usual_momentum(size, classes) == momentum
    for size, momentum in [(200, 1), (199, 0.1), (16, 0.1), (15, 0.01), (1, 0.01)]:
        assert usual_momentum(size, 1000) == momentum
    usual, given = begun(Realistic(), network), begun(Realistic(0.1), network)
    for images in BATCHES:  # of 7 to 12 images of 4 classes
        assert torch.equal(usual(images), given(images))


def test_a_single_layer_has_half_the_largest_weight(network):
    step = begun(Realistic(1.0), network, where="1")
    images = 0.4 * BATCHES[0]
    source = stored(network)

    def halved(k, values):
        if k != 1:
            return source[k]
        (mean, var), (other, spread) = source[k], moments(values)
        return (mean + 3 * other) / 4, (var + 3 * spread) / 4 + 3 / 16 * (mean - other) ** 2

    np.testing.assert_allclose(step(images).numpy(), through(network, images, halved), rtol=1e-9, atol=1e-9)


# DUA's views


def test_views_is_the_written_method(network):
    step, kept, number = begun(Views(views=6), network), stored(network), 0
    for images in [images[:3] for images in BATCHES]:
        for image in images:
            draws = Draws(0, torch.tensor([number]), "views")
            views = turned_views(shifted_views(image[None], 6, draws), draws)
            number += 1
            share = 0.1 * 0.94**number + 0.005

            def moving(k, values, share=share):
                kept[k] = mixed(share, moments(values), kept[k])
                return moments(values)

            through(network, views, moving)
        expected = through(network, images, lambda k, _: kept[k])
        np.testing.assert_allclose(step(images).numpy(), expected, rtol=1e-9, atol=1e-9)
    assert int(step.seen) == 9
    assert Views().weight(1) == pytest.approx(0.099)
    assert Views().weight(10_000) == pytest.approx(0.005)


def test_views_are_the_shifts_and_turns_of_an_image_and_all_of_them_come():
    image = pictures(1, 0, 16)
    padded = np.pad(image[0].numpy(), ((0, 0), (2, 2), (2, 2)))
    cuts = [padded[:, top : top + 16, left : left + 16] for top in range(5) for left in range(5)]
    wanted = {(cut[:, :, ::-1] if mirrored else cut).tobytes() for cut in cuts for mirrored in (False, True)}
    found = shifted_views(image, 800, Draws(0, torch.tensor([3]), "views"))
    assert {one.numpy().tobytes() for one in found} == wanted
    turned = turned_views(image.expand(60, -1, -1, -1), Draws(0, torch.tensor([3]), "views"))
    assert {one.numpy().tobytes() for one in turned} == {np.rot90(image[0], k, (1, 2)).tobytes() for k in range(4)}
    wide = image[:, :, :8].expand(60, -1, -1, -1)
    turned = turned_views(wide, Draws(0, torch.tensor([3]), "views"))
    assert {one.numpy().tobytes() for one in turned} == {np.rot90(wide[0], k, (1, 2)).tobytes() for k in (0, 2)}


# MEMO


def lowered(network, loss, step_size):
    """Move a network's weights down a loss, whose slope is told by differences."""
    loss()
    slopes = []
    for weight in network.parameters():
        values = weight.detach().numpy()  # the weight itself
        slope = np.zeros_like(values)
        for place in np.ndindex(values.shape):
            kept = values[place]
            for by, share in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
                values[place] = kept + 1e-4 * by
                slope[place] += share * loss() / 12e-4
            values[place] = kept
        slopes.append(slope)
    for weight, slope in zip(network.parameters(), slopes, strict=True):
        weight.detach().numpy()[...] -= step_size * slope


def test_memo_is_the_written_method(network):
    """Zhang et al., section 3; the statistics of what is seen are no part of the slope."""
    step, source = begun(Memo(0.01, 2), network), stored(network)
    for number, image in enumerate(images[:1] for images in BATCHES):
        views = augmix_views(image, 2, Draws(0, torch.tensor([number]), "memo"))
        seen, model = {}, deepcopy(network)

        def counted(k, values, seen=seen):
            return seen.setdefault(k, mixed(16 / 17, source[k], moments(values)))

        def loss(views=views, model=model, counted=counted):
            told = softmax(through(model, views, counted)).mean(0)
            return -(told * np.log(told)).sum()

        before = through(model, image, lambda k, values: mixed(16 / 17, source[k], moments(values)))
        lowered(model, loss, 0.01)
        expected = through(model, image, lambda k, values: mixed(16 / 17, source[k], moments(values)))
        np.testing.assert_allclose(step(image).numpy(), expected, rtol=1e-8, atol=1e-8)
        assert np.abs(expected - before).max() > 1e-3
    assert same(state(step.model), state(network))


def test_memo_answers_by_its_step_under_autocast_too(network):
    model, memo = deepcopy(network).float(), Memo(step_size=0.5, views=4)
    images = BATCHES[0].float()
    with torch.no_grad():
        source, expected = model(images), begun(memo, model)(images)
        with torch.autocast("cpu", torch.bfloat16):
            found = begun(memo, model)(images).float()
    assert (expected - source).abs().mean() > 0.2
    assert (found - expected).abs().mean() < 0.2 * (expected - source).abs().mean()


@pytest.mark.parametrize("size", [16, 72])
def test_the_views_of_an_image_are_those_of_its_number(size):
    image = pictures(1, 0, size)
    first, second, other = (augmix_views(image, 4, Draws(0, torch.tensor([n]), "memo")) for n in (7, 7, 8))
    assert torch.equal(first, second)
    assert (first != other).flatten(1).any(1).all()
    assert (first.shape, first.min() >= 0, first.max() <= 1) == ((4, 3, size, size), True, True)
    assert len({one.numpy().tobytes() for one in first}) == 4


def test_views_of_nothing_are_nothing():
    """Grey keeps its value under every operation, and comes in where there is none."""
    grey = torch.full((1, 3, 72, 72), 128 / 255, dtype=torch.float64)
    torch.testing.assert_close(augmix_views(grey, 24, Draws(0, torch.tensor([0]), "memo")), grey.expand(24, -1, -1, -1))


def test_operations_are_pillows():
    image = (255 * pictures(1, 4, 6)[0]).float()
    image = nn.functional.interpolate(image[None], (32, 32), mode="bicubic")[0].clamp(0, 255).round().to(torch.uint8)
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy())

    def affine(*matrix):
        return pillow.transform((32, 32), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

    for level in (0.97, -0.97, 0.5):
        moved = -int(level * 32 / 30)
        expected = [
            ImageOps.autocontrast(pillow),
            ImageOps.equalize(pillow),
            pillow.rotate(int(level * 3), Image.Resampling.BILINEAR),
            ImageOps.solarize(pillow, 256 - int(abs(level) * 25.6)),
            affine(1, 0.03 * level, 0, 0, 1, 0),
            affine(1, 0, 0, 0.03 * level, 1, 0),
            affine(1, 0, moved, 0, 1, 0),
            affine(1, 0, 0, 0, 1, moved),
            ImageOps.posterize(pillow, 4),
        ]
        for operation, one in zip(OPERATIONS, expected, strict=True):
            ours, theirs = operation(image, level).permute(1, 2, 0).numpy(), np.asarray(one)
            inner = np.s_[3:-3, 3:-3]  # at the border they blend with what comes in
            assert np.abs(ours[inner].astype(int) - theirs[inner]).max() <= 1


def test_memo_adapts_networks_without_batch_norm_and_refuses_maps(network):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    plain = plain.double().eval()
    step = begun(Memo(0.5, 4), plain)
    with torch.no_grad():
        first, *others = (step(BATCHES[0][:2]) for _ in range(2))
    assert first.shape == (2, 3)
    assert (first != plain(BATCHES[0][:2])).all()
    assert not torch.equal(first, others[0])  # the views are those of the images' numbers
    assert same(state(step.model), state(plain))
    with pytest.raises(InputError, match=r"logits \(B,K\) for memo, which adapts classifiers alone"):
        begun(Memo(), network[:3])(BATCHES[0][:1])


@pytest.mark.parametrize("name", ["views", "realistic"])
def test_statistics_need_batch_norm(name):
    with pytest.raises(InputError, match="its norms are: LayerNorm"):
        begun(find(name), nn.Sequential(nn.Flatten(), nn.LayerNorm(192), nn.Linear(192, 3)).double())


# The classifier's last layer


class Ending(nn.Module):
    """A body, and something of one's own behind it."""

    def __init__(self, body, end):
        super().__init__()
        self.body, self.end = body, end

    def forward(self, images):
        return self.end(self.body(images))


def test_the_head_is_found_behind_whatever_and_in_front_of_what_changes_nothing(network):
    images = BATCHES[0]
    for end in (nn.Identity(), nn.Dropout(), nn.Flatten(), lambda logits: {"logits": logits.float()}):
        met = through_head(Ending(network, end), images, "lame")
        assert (met.name, met.head) == ("body.7", network[7])
        np.testing.assert_array_equal(met.features.detach().numpy(), parts(network, images)[0])
        assert torch.equal(met.logits, network(images).to(met.logits.dtype))
    assert not any(module._forward_hooks for module in network.modules())


def test_a_convolution_over_one_pixel_is_a_head(network):
    conv = nn.Conv2d(6, CLASSES, 1).double()
    conv.load_state_dict({"weight": network[7].weight[:, :, None, None], "bias": network[7].bias})
    model = nn.Sequential(*network[:6], conv).eval()
    for protocol in (Lame(), T3A(3)):
        ours, theirs = begun(protocol, model), begun(protocol, network)
        for images in BATCHES:
            torch.testing.assert_close(ours(images), theirs(images), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.adapted()(images), theirs.adapted()(images)[:, :, None, None], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["lame", "t3a"])
def test_logits_that_no_linear_layer_returns_are_refused(network, name):
    protocol = find(name)
    for end in (nn.Softmax(1), nn.ReLU(), lambda logits: logits * 2):
        model = Ending(network, end)
        with pytest.raises(InputError, match=rf"those of a linear layer for {name}, .*\(the last is body.7\)"):
            begun(protocol, model)(BATCHES[0])
        assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(InputError, match=rf"logits \(B,K\) for {name}.*\(12, 5, 6, 6\)"):
        begun(protocol, network[:3])(BATCHES[0])


def test_a_network_without_norms_and_one_with_layer_norm_are_adapted():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.LayerNorm(6), nn.Linear(6, CLASSES)).double().eval()
    for name in ("lame", "t3a"):
        assert begun(find(name), plain)(BATCHES[0]).isfinite().all()


# Once, then frozen


@pytest.mark.parametrize("options", [{}, {"where": "4", "statistics": "mean"}, {"unbiased": True}])
def test_batch_once_is_replace_by_these_images(network, options):
    images, others = BATCHES[0], BATCHES[1]
    expected = rectify(network, images, "replace", **options)
    frozen = Once(Batch(), len(images), AdaptationOptions(**options)).adapt(deepcopy(network), images)
    assert same(state(frozen), state(expected))
    assert torch.equal(frozen(others), expected(others))
    assert not any(module.training for module in frozen.modules())


def test_a_rule_once_is_that_rule(network):
    images = BATCHES[0]
    assert same(state(find("prior:3@12").adapt(deepcopy(network), images)), state(rectify(network, images, Prior(3))))


def test_a_stream_once_answers_each_image_by_what_its_images_left(network):
    images, others = BATCHES[0], BATCHES[1]
    frozen = find("t3a:3@12").adapt(deepcopy(network), images)
    _, centres = supported(network, [images], 3)
    expected = parts(network, others)[0] @ centres.T
    for answer in (frozen(others), torch.cat([frozen(one[None]) for one in others])):
        np.testing.assert_allclose(answer.detach().numpy(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Clean accuracy")
def test_a_measurement_gives_a_protocol_its_own_number_of_images():
    """Rows of "batch@16" are those of "replace" with 16 samples, whatever `samples` says."""
    model, digits = network_of_digits(), load_data("digits", limit=60)
    ask = partial(measure, model, digits, shifts=["contrast"], severities=[5], device="cpu")
    before = state(model)
    once = ask(rectify=["batch@16", "replace@16", "t3a@24"], adaptation=AdaptationOptions(4, where="middle"))
    replaced = ask(rectify=["replace"], adaptation=AdaptationOptions(16, where="middle"))
    rows = {row["protocol"]: row | {"protocol": ""} for row in [*once.rows, *replaced.rows]}
    assert rows["batch@16"] == rows["replace@16"] == rows["replace"]
    assert (rows["batch@16"]["images"], rows["t3a@24"]["images"]) == (44, 36)
    told, other = once.record["protocols"]["batch@16"], replaced.record["protocols"]["replace"]
    assert (told["kind"], told["protocol"], told["samples"]) == ("model", "batch", 16)
    assert told["layers"] == other["layers"]
    assert told["evaluated_on"] == other["evaluated_on"] == "the other images"
    assert same(state(model), before)


@pytest.mark.filterwarnings("ignore:Clean accuracy")
def test_a_record_has_all_numbers_of_what_was_adapted_once():
    model, digits = network_of_digits(), load_data("digits", limit=40)
    ask = partial(measure, model, digits, shifts=["clean"], examples=0, device="cpu")
    adaptation = AdaptationOptions(8, clean=load_data("digits", limit=20))
    record = ask(rectify=["tent", "sar@8", "tent@16", "eata@16"], adaptation=adaptation).record
    tent, sar, once, eata = (record["protocols"][name] for name in ("tent", "sar@8", "tent@16", "eata@16"))
    numbers = {"learning_rate": 0.001, "optimiser": "adam"}
    assert numbers.items() <= tent.items()
    assert (numbers | {"protocol": "tent", "samples": 16}).items() <= once.items()
    assert once["evaluated_on"] == "the other images"
    assert {"protocol": "sar", "learning_rate": 0.00025, "radius": 0.05, "samples": 8}.items() <= sar.items()
    assert {"fisher_weight": 1.0, "similarity": 0.4}.items() <= eata.items()
    assert eata["clean"]["images"] == 20
    with pytest.raises(InputError, match="The protocol eata needs clean images: give `clean_data`, or adapt by eta"):
        ask(rectify="eata@16", adaptation=AdaptationOptions(8))


def test_auto_once_leaves_a_network_without_batch_norm_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    images = pictures(8, 5)
    before = state(model)
    with torch.no_grad():
        assert torch.equal(find("auto@8").adapt(model, images)(images), model(images))
    assert same(state(model), before)
    with pytest.warns(LeftAloneWarning, match="The protocol auto leaves the model alone"):
        told = find("auto@8").describe("auto@8", AdaptationOptions(), model, images[:1], 20)
    assert told["left_alone"].endswith("its norms are: GroupNorm")
    with pytest.raises(InputError, match="its norms are: GroupNorm"):
        find("replace@8").describe("replace@8", AdaptationOptions(), model, images[:1], 20)


def test_names_with_a_number_of_images_are_read():
    assert find("t3a:20@16") == Once(T3A(20), 16)
    assert find("running:0.3@1").label == "running:0.3@1"
    assert find("t3a@16").values() == {"protocol": "t3a", "supports": 100}
    assert find("batch@16").taking(AdaptationOptions(4, draws=3)) == AdaptationOptions(16, draws=3)
    assert isinstance(find("auto@8").at_once, Rule)
    assert find("t3a@16").at_once is None
    assert (find("t3a@16").changes, find("batch@2").rewrites) == (("prototypes",), True)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("source@32", "but it adapts to no image"),
        ("full@32", "but it adapts to all images"),
        ("batch@3@4", "but it is neither a stream nor a rule"),
        ("lame@32", "lame, as 'lame@32' asks for: it keeps nothing of a batch"),
        ("memo@32", "memo, as 'memo@32' asks for: it begins at the source with each image"),
        ("batch@0", "an integer of at least 1, but got 'batch@0'"),
        ("batch@", "an integer of at least 1, but got 'batch@'"),
        ("batch@1.5", "an integer of at least 1, but got 'batch@1.5'"),
        ("batsh@3", "Unknown protocol 'batsh'. Did you mean 'batch'"),
        ("t3a:0@3", "from 1 to 1000000"),
    ],
)
def test_what_cannot_be_adapted_once_is_refused_in_one_line(spec, why):
    with pytest.raises(InputError, match=why) as refused:
        find(spec)
    assert "\n" not in str(refused.value)


# What all of them promise


STREAMS = ["batch", "running", "lame", "t3a:2", "views:3", "realistic", "memo"]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_was_stopped_goes_on_with_the_same_bits(network, name, tmp_path):
    first = begun(find(name), network)
    first(BATCHES[0])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = begun(find(name), network)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for images in BATCHES[1:]:
        assert torch.equal(first(images), second(images))
    first_kept, second_kept = first.adapted(), second.adapted()
    assert torch.equal(first_kept(BATCHES[0]), second_kept(BATCHES[0]))


@pytest.mark.parametrize("name", STREAMS)
def test_a_batch_that_is_not_finite_adapts_nothing(network, name):
    first, second = begun(find(name), network), begun(find(name), network)
    first(BATCHES[0])
    second(BATCHES[0])
    first(torch.full_like(BATCHES[1], torch.nan))
    assert torch.equal(first(BATCHES[2]), second(BATCHES[2]))
    assert (first.skipped, second.skipped) == (1, 0)


def test_lame_needs_company(network):
    with pytest.raises(InputError, match=r"^Expected batches of at least 2 images for lame, but got 1\.$"):
        begun(Lame(), network)(BATCHES[0][:1])


@pytest.mark.parametrize(
    ("kind", "values", "why"),
    [
        (Lame, {"neighbours": 0}, "`neighbours`"),
        (Lame, {"neighbours": 2.5}, "`neighbours`"),
        (Lame, {"affinity": "cosine"}, "affinity 'cosine'"),
        (Lame, {"steps": 0}, "`steps`"),
        (T3A, {"supports": 0.5}, "`supports`"),
        (Views, {"views": 0}, "`views`"),
        (Views, {"decay": 1.5}, "`decay`"),
        (Realistic, {"momentum": -0.1}, "`momentum`"),
        (Realistic, {"most": 2}, "`most`"),
        (Memo, {"step_size": -1}, "`step_size`"),
        (Memo, {"views": 1.5}, "`views`"),
        (Memo, {"prior": -1}, "`prior`"),
    ],
)
def test_options_that_cannot_be_are_refused(kind, values, why):
    with pytest.raises(InputError, match=why):
        kind(**values)
