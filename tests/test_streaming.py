"""Streams: against training mode, a hand-written average, and `rectify` on the window."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

import statshift
from shared_answers import shared_answer
from statshift._core.errors import InputError
from statshift.adapting.choosing import find
from statshift.adapting.online import RectifiedStream
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocols.batch import Batch
from statshift.adapting.protocols.running import Running
from statshift.adapting.rectify import rectify
from statshift.adapting.registry import PROTOCOLS, STREAMS
from statshift.norms.layers import batch_norms

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The images to rectify to are alike"),  # without a shift, those of brightness are
]


def pictures(images, number):
    """Return images (n,3,8,8) that differ in brightness and contrast as photographs do."""
    generator = torch.Generator().manual_seed(number)
    brightness, contrast = torch.rand(2, images, 3, 1, 1, generator=generator, dtype=torch.float64)
    noise = torch.rand(images, 3, 8, 8, generator=generator, dtype=torch.float64)
    return (0.25 + 0.5 * brightness + 0.5 * contrast * (noise - 0.5)).clamp(0, 1)


def stream_of(batches, size=8, gain=1.0, first=1):
    return [gain * pictures(size, number) for number in range(first, first + batches)]


@pytest.fixture(scope="module")
def network():
    """A network of three batch norms, one without affine terms, that has stored the statistics of 2000 pictures."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU()]
    layers += [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers += [nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5, momentum=None)]
    network = nn.Sequential(*layers).double().eval()
    nn.init.uniform_(network[1].weight, 0.5, 2)
    nn.init.normal_(network[1].bias)
    return rectify(network, pictures(2000, 0), "replace")


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def in_training_mode(network, images):
    copy = deepcopy(network)
    for layer in batch_norms(copy).values():
        layer.train()
    return copy(images)


# Each batch its own; an exponential average


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_is_normalised_as_in_training_mode_and_no_batch_changes_the_next(network, training):
    step = Batch()(deepcopy(network).train(training))
    for images in stream_of(3):
        answer = step(images)
        torch.testing.assert_close(answer, in_training_mode(network, images), rtol=1e-9, atol=1e-9)
        assert torch.equal(answer, Batch()(deepcopy(network))(images))
        assert torch.equal(answer, step.adapted()(images))


def test_a_batch_in_one_place_takes_the_options_of_rectified(network):
    images = pictures(8, 1)
    expected = rectify(network, images, "replace", where="4", statistics="mean")(images)
    step = Batch().begin(deepcopy(network), AdaptationOptions(where="4", statistics="mean"))
    assert torch.equal(step(images), expected)


def averaged(network, batches, momentum):
    """Return the logits of each batch and the last statistics, module by module."""
    kept = {layer: (layer.running_mean.clone(), layer.running_var.clone()) for layer in batch_norms(network).values()}
    logits = []
    for images in batches:
        features = images
        for module in network:
            if module not in kept:
                features = module(features)
                continue
            axes = (0, 2, 3)[: features.ndim - 1]
            shape = (1, -1, 1, 1)[: features.ndim]
            seen = features.mean(axes), features.var(axes, correction=0)
            kept[module] = tuple(
                (1 - momentum) * old + momentum * new for old, new in zip(kept[module], seen, strict=True)
            )
            mean, var = (value.view(shape) for value in kept[module])
            features = (features - mean) / (var + module.eps).sqrt()
            if module.affine:
                features = features * module.weight.view(shape) + module.bias.view(shape)
        logits.append(features)
    return logits, list(kept.values())


@pytest.mark.parametrize("momentum", [0, 0.1, 0.6, 1])
@torch.no_grad()
def test_running_is_an_exponential_average_that_the_batch_itself_has_moved(network, momentum):
    model, gains = deepcopy(network), (1, 0.5, 0.4, 0.8)
    batches = [gain * images for gain, images in zip(gains, stream_of(4), strict=True)]
    step = Running(momentum)(model)
    logits, statistics = averaged(network, batches, momentum)
    for images, expected in zip(batches, logits, strict=True):
        torch.testing.assert_close(step(images), expected, rtol=1e-10, atol=1e-10)
    for layer, (mean, var) in zip(batch_norms(model).values(), statistics, strict=True):
        torch.testing.assert_close(layer.running_mean, mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(layer.running_var, var, rtol=1e-10, atol=1e-12)


def test_running_begins_at_the_source_and_ends_at_the_batch(network):
    still, restless = Running(0)(deepcopy(network)), Running(1)(deepcopy(network))
    for images in stream_of(3, gain=0.5):
        assert torch.equal(still(images), network(images))
        assert torch.equal(restless(images), Batch()(deepcopy(network))(images))


@pytest.mark.parametrize("momentum", [-0.1, 1.5, float("nan")])
def test_momentum_is_from_zero_to_one(network, momentum):
    with pytest.raises(InputError, match=rf"Expected `momentum` in \[0,1\], but got {momentum}\."):
        Running(momentum)(network)


def test_a_batch_that_cannot_be_does_not_end_the_running_average(network):
    first, second = stream_of(2)
    model = deepcopy(network)
    step = Running(0.3)(model)
    step(first)
    before, unspoilt = state(model), deepcopy(model)
    with pytest.raises(InputError):
        step(second[:, :2])
    assert same(state(model), before)
    step(second * float("nan"))
    assert (int(step.skipped), same(state(model), before)) == (1, True)
    assert torch.equal(step(second), Running(0.3)(unspoilt)(second))


# Names that are no protocol of `rectify`


@pytest.mark.parametrize("name", ["batch", "running", "running:0.3"])
def test_what_moves_with_every_batch_is_not_written(network, name):
    with pytest.raises(InputError, match=r"has no statistics to write: they move with every batch") as error:
        rectify(network, pictures(8, 1), name)
    assert "\n" not in str(error.value)
    assert name.partition(":")[0] in str(error.value)


def test_full_of_images_in_one_forward_is_replace(network):
    images = pictures(8, 1)
    assert same(state(rectify(network, images, "full")), state(rectify(network, images, "replace")))


# A window


@pytest.mark.parametrize("protocol", ["auto", "replace", "prior:8"])
def test_a_stream_answers_as_rectified_to_its_newest_images(network, protocol):
    before, model = state(network), deepcopy(network)
    stream = RectifiedStream(model, window=12, every=8, protocol=protocol)
    seen = torch.empty(0, 3, 8, 8).double()
    for images in stream_of(4, gain=0.4):
        seen = torch.cat([seen, images])
        expected = rectify(network, seen[-12:], protocol)
        answer, plain = stream(images), expected(images)
        if protocol == "auto" and len(seen) == len(images):
            assert not torch.equal(answer, plain)
            torch.testing.assert_close(answer, shared_answer(network, expected, images), rtol=1e-9, atol=1e-9)
        else:
            assert torch.equal(answer, plain)
        assert same(state(stream.model), state(expected))
    assert not same(state(stream.model), before)
    assert same(state(model), before)


def test_one_large_batch_is_answered_by_its_newest_images(network):
    images = 0.4 * pictures(20, 1)
    stream = RectifiedStream(network, window=12)
    assert torch.equal(stream(images), rectify(network, images[-12:])(images))


def test_options_reach_the_protocol(network):
    images = 0.4 * pictures(8, 1)
    stream = RectifiedStream(network, 8, 8, "prior", prior_count=3, where="front", statistics="var", unbiased=True)
    expected = rectify(network, images, "prior", prior_count=3, where="front", statistics="var", unbiased=True)
    assert torch.equal(stream(images), expected(images))


def test_a_stream_is_rectified_after_each_batch_until_the_window_is_full_and_then_every_so_many(network):
    stream, rectified_at, last = RectifiedStream(network, window=12, every=20, protocol="replace"), [], None
    batches = stream_of(12, size=5, gain=0.4)
    for number, images in enumerate(batches):
        stream(images)
        now = state(stream.model)
        if last is None or not same(now, last):
            rectified_at.append(number)
            window = torch.cat(batches[: number + 1])[-12:]
            assert same(now, state(rectify(network, window, "replace")))
        last = now
    assert rectified_at == [0, 1, 2, 6, 10]  # 5, 10 and 15 images; then after 20 each


def test_a_stream_falls_back_to_the_source_when_the_shift_is_gone(network):
    stream = RectifiedStream(network, window=128, every=64)
    for images in stream_of(2, size=64, gain=0.5):
        shifted = stream(images)
    assert (shifted - network(images)).abs().max() > 0.05
    clean = stream_of(6, size=64, first=12)  # chance shows a shift in about one such window of fifty
    answers = [stream(images) for images in clean]
    for images, logits in list(zip(clean, answers, strict=True))[1:]:  # half of the first window is shifted
        assert torch.equal(logits, network(images))


def test_reset_forgets_the_stream(network):
    first, second = stream_of(2, gain=0.4)
    stream = RectifiedStream(network, window=16, every=16)
    stream(first)
    assert not same(state(stream.model), state(network))
    stream.reset()
    assert same(state(stream.model), state(network))
    assert torch.equal(stream(second), RectifiedStream(network, window=16, every=16)(second))


@pytest.mark.parametrize("training", [True, False])
def test_a_stream_answers_the_same_whatever_mode_it_is_told(network, training):
    plain, told = (RectifiedStream(network, window=16, every=16) for _ in range(2))
    for images in stream_of(5, gain=0.4):
        expected = plain(images)
        told.train(training)
        assert torch.equal(told(images), expected)
        assert same(state(told.model), state(plain.model))


def test_a_model_in_training_mode_is_answered_for_in_evaluation_mode_and_left_as_it_is(network):
    model = deepcopy(network).train()
    images = 0.4 * pictures(8, 1)
    assert torch.equal(RectifiedStream(model, 8)(images), RectifiedStream(network, 8)(images))
    assert all(module.training for module in model.modules())
    assert same(state(model), state(network))


@pytest.mark.parametrize("sizes", [{"window": 0}, {"every": 0}, {"window": -3, "every": 2}])
def test_window_and_every_are_at_least_one(network, sizes):
    with pytest.raises(InputError, match="Expected `window` and `every` to be at least 1, but got"):
        RectifiedStream(network, **sizes)


@pytest.mark.parametrize("name", ["batch", "atuo"])
def test_a_protocol_that_cannot_be_is_refused_in_one_line(network, name):
    with pytest.raises(InputError) as error:
        RectifiedStream(network, protocol=name)(pictures(8, 1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("fault", ["channels", "size"])
def test_images_that_cannot_be_are_told_in_one_line_and_do_not_stay_in_the_window(network, started, fault):
    stream, unspoilt = (RectifiedStream(network, window=16, every=8, protocol="replace") for _ in range(2))
    first, second = stream_of(2, gain=0.4)
    if started:
        assert torch.equal(stream(first), unspoilt(first))
    bad = {"channels": second[:, :2], "size": second[..., :2]}[fault]
    with pytest.raises(InputError) as error:
        stream(bad)
    assert "\n" not in str(error.value)
    assert torch.equal(stream(second), unspoilt(second))


# "eata" asks for clean images.
STEPPINGS = [name for name, entry in PROTOCOLS.items() if entry.family == STREAMS and name != "eata"]


@pytest.mark.parametrize("name", STEPPINGS)
def test_a_bad_frame_is_counted_and_leaves_every_stream_as_it_was(name):
    model = statshift.load_model("cifar:resnet20", model_args={"width": 0.25}).eval()
    images = torch.rand(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    broken = images[0].clone()
    broken[2, 1, 3, 3] = math.nan
    met, spared = (find(name).begin(deepcopy(model), AdaptationOptions()) for _ in range(2))
    with torch.no_grad():
        for stepping in (met, spared):
            stepping(images[0])
        logits = met(broken)
        assert logits[2].isnan().all()
        assert logits[[0, 1, 3]].isfinite().all()
        assert torch.equal(met(images[1]), spared(images[1]))
    assert (int(met.skipped), int(spared.skipped)) == (1, 0)
