"""Adaptation without training, each method against NumPy's float64, and what is adapted once and then frozen."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from statshift._core.errors import InputError
from statshift.adapting.choosing import find
from statshift.adapting.families import Rule
from statshift.adapting.heads import through_head
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocols.batch import Batch
from statshift.adapting.protocols.lame import Lame
from statshift.adapting.protocols.once import Once
from statshift.adapting.protocols.prior import Prior
from statshift.adapting.protocols.t3a import T3A
from statshift.adapting.rectify import rectify

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
    """Iwasawa & Matsuo, Algorithm 1: the logits of each batch and the prototypes at the end."""
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


STREAMS = ["batch", "running", "lame", "t3a:2"]


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
    ],
)
def test_options_that_cannot_be_are_refused(kind, values, why):
    with pytest.raises(InputError, match=why):
        kind(**values)
