"""A rectified stream in production: bad frames, threads, a stop and a restart, monitoring, devices, memory."""

import gc
import itertools
import pickle
import threading
import time
import warnings
from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import statshift
from shared_answers import shared_answer
from statshift import InputError, RectifiedStream, load_model, rectify
from statshift._core.errors import FewImagesWarning, LeftAloneWarning
from statshift.adapting import online
from statshift.adapting.monitoring import NO_SHIFT, NOT_FINITE, TOO_ALIKE, TOO_FEW
from statshift.adapting.protocols.replace import Replace
from statshift.norms.selection import select_layers
from statshift.norms.shrinkage import gather_evidence
from statshift.norms.statistics import mix

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The images to rectify to are alike"),
]


def pictures(images, number, dtype=torch.float64):
    """Return images (n,3,8,8) that differ in brightness and contrast as photographs do."""
    generator = torch.Generator().manual_seed(number)
    brightness, contrast = torch.rand(2, images, 3, 1, 1, generator=generator, dtype=torch.float64)
    noise = torch.rand(images, 3, 8, 8, generator=generator, dtype=torch.float64)
    return (0.25 + 0.5 * brightness + 0.5 * contrast * (noise - 0.5)).clamp(0, 1).to(dtype)


def stream_of(batches, size=8, gain=0.4, first=1):
    return [gain * pictures(size, number) for number in range(first, first + batches)]


def spoilt(images, value=float("nan")):
    """Return images with one value that is not finite."""
    bad = images.clone()
    bad[0, 0, 0, 0] = value
    return bad


@pytest.fixture(scope="module")
def network():
    """A network of three batch norms that has stored the statistics of 2000 pictures."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU()]
    layers += [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers += [nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5, momentum=None)]
    return rectify(nn.Sequential(*layers).double().eval(), pictures(2000, 0), "replace")


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(params=["cpu", "elsewhere"])
def place(request, monkeypatch):
    """As on the CPU, and as on a device whose values are far away."""
    if request.param == "elsewhere":
        monkeypatch.setattr(online, "at_hand", lambda tensor: False)


# Bad frames


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_batch_that_is_not_finite_is_skipped_counted_and_leaves_no_trace(network, at, value):
    stream, unspoilt = (RectifiedStream(network, window=16, every=8) for _ in range(2))
    for number, images in enumerate(stream_of(6)):
        if number == at:
            bad, stands = spoilt(images, value), deepcopy(stream.model)
            logits = stream(bad)
            assert torch.equal(logits[1:], stands(bad)[1:])
            assert logits[1:].isfinite().all()
        assert torch.equal(stream(images), unspoilt(images))
        assert same(state(stream.model), state(unspoilt.model))
    assert (stream.status.skipped, unspoilt.status.skipped) == (1, 0)
    assert (stream.status.images, unspoilt.status.images) == (56, 48)


@pytest.mark.usefixtures("place")
def test_a_skipped_batch_counts_towards_every_and_does_not_enter_the_window(network):
    stream = RectifiedStream(network, window=12, every=16, protocol="replace")
    first, second, third, fourth = stream_of(4)
    for images in (first, second, third):
        stream(images)
    assert same(state(stream.model), state(rectify(network, torch.cat([first, second])[-12:], "replace")))
    stream(spoilt(fourth))
    assert same(state(stream.model), state(rectify(network, torch.cat([second, third])[-12:], "replace")))


@pytest.mark.usefixtures("place")
def test_a_bad_batch_of_another_size_does_not_end_the_window(network):
    stream, unspoilt = (RectifiedStream(network, window=16, every=8, protocol="replace") for _ in range(2))
    first, second = stream_of(2)
    for one in (stream, unspoilt):
        one(first)
    stream(spoilt(0.4 * torch.rand(8, 3, 9, 9, dtype=torch.float64)))
    assert torch.equal(stream(second), unspoilt(second))


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("protocol", ["replace", "auto"])
def test_a_window_of_one_image_is_rectified_to_image_after_image(network, protocol):
    network = network[:-1]
    stream = RectifiedStream(network, window=1, every=1, protocol=protocol)
    for images in stream_of(3, size=2):
        assert torch.equal(stream(images), rectify(network, images[-1:], protocol)(images))
        assert stream.status.left_alone in ("", NO_SHIFT)


def test_images_of_another_size_begin_a_new_window(network):
    stream = RectifiedStream(network, window=16, every=8, protocol="replace")
    larger = 0.4 * torch.rand(8, 3, 9, 9, dtype=torch.float64)
    stream(stream_of(1)[0])
    assert torch.equal(stream(larger), rectify(network, larger, "replace")(larger))
    assert stream.status.window == 8


def test_a_model_in_pixel_space_skips_bad_frames_and_refuses_a_wrong_range(network):
    stream, unspoilt = (RectifiedStream(load_model(network, mean=(0, 0, 0), std=(1, 1, 1)), 8, 8) for _ in range(2))
    first, second = stream_of(2)
    for one in (stream, unspoilt):
        one(first)
    stream(spoilt(second))
    with pytest.raises(InputError, match="values from 0 to 255"):
        stream(torch.tensor([0.0, 255.0]).double().expand(2, 3, 8, 2))
    assert torch.equal(stream(second), unspoilt(second))
    assert stream.status.skipped == 1
    assert stream.status.images == 24


@pytest.mark.usefixtures("place")
def test_features_that_are_not_finite_leave_the_statistics_as_they_are(network):
    stream = RectifiedStream(network, window=64, every=64)
    first, second, third = stream_of(3, size=64)
    stream(first)
    before, told = state(stream.model), stream.status
    overflowing = 1e200 * second
    assert torch.equal(stream(overflowing), rectify(network, first)(overflowing))
    assert same(state(stream.model), before)
    now = stream.status
    assert (told.left_alone, now.left_alone) == ("", NOT_FINITE)
    assert now.shift is not None
    assert (now.shift, now.weight, now.since) == (told.shift, told.weight, told.since)
    assert torch.equal(stream(third), RectifiedStream(network, window=64, every=64)(third))
    assert stream.status.left_alone == ""


# What is waited for


class Reading(TorchDispatchMode):
    """Count what makes a host wait for a device."""

    WAIT = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += any(name in str(func) for name in self.WAIT)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("protocol", ["auto", "replace", "prior:8"])
def test_nothing_is_read_once_the_window_is_full_and_one_flag_of_a_batch_before(network, monkeypatch, protocol):
    monkeypatch.setattr(online, "at_hand", lambda tensor: False)
    stream, read = RectifiedStream(network, window=12, every=8, protocol=protocol), []
    for images in [*stream_of(3), spoilt(stream_of(1)[0]), *stream_of(3)]:
        with Reading() as reading:
            stream(images)
        read.append(reading.count)
    assert read == [1, 1, 0, 0, 0, 0, 0]
    with Reading() as reading:
        assert stream.status.skipped == 1
    assert reading.count > 0


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_stream_runs_where_no_value_can_be_read(network, wrapped):
    model = load_model(network, mean=(0, 0, 0), std=(1, 1, 1)) if wrapped else network
    stream = RectifiedStream(model, window=8, every=16)
    first = stream_of(1)[0]
    stream(first)
    stream.to("meta")
    for _ in range(4):
        assert stream(first.to("meta")).shape == (8, 5)
    with pytest.raises((NotImplementedError, RuntimeError)):
        _ = stream.status


def test_what_a_stream_keeps_is_on_the_device_of_the_model(network):
    stream = RectifiedStream(deepcopy(network).to("meta"))
    assert {tensor.device.type for name, tensor in stream.named_buffers() if "newest" not in name} == {"meta"}


def test_far_away_the_answers_are_those_of_the_cpu(network, monkeypatch):
    batches = stream_of(8, size=5)
    batches[3] = spoilt(batches[3])
    streams = [RectifiedStream(network, window=12, every=8) for _ in range(2)]
    expected = list(map(streams[0], batches))
    monkeypatch.setattr(online, "at_hand", lambda tensor: False)
    for images, logits in zip(batches, expected, strict=True):
        torch.testing.assert_close(streams[1](images), logits, rtol=0, atol=0, equal_nan=True)
    assert streams[0].status == streams[1].status


@pytest.mark.parametrize(("options", "forwards"), [({}, 2), ({"unbiased": True}, 3), ({"protocol": "replace"}, 1)])
def test_a_batch_that_is_the_window_is_answered_by_the_forward_that_rectifies(network, monkeypatch, options, forwards):
    model, sizes = deepcopy(network), []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    stream = RectifiedStream(model, window=8, every=8, **options)
    for images in stream_of(3):
        before = len(sizes)
        logits = stream(images)
        assert sizes[before:] == [8] * forwards
        adapted = rectify(network, images, **options)
        if options.get("protocol"):
            assert torch.equal(logits, adapted(images))
        else:
            torch.testing.assert_close(logits, shared_answer(network, adapted, images), rtol=1e-9, atol=1e-9)


def certainly(stored, observed, images, *, certain):
    """Go to the target as far as it is certain; a rule of one's own that asks for evidence."""
    return mix(stored, observed, 1 - float(certain))


@dataclass(frozen=True)
class Sharing(Replace):
    """Replace, which asks for no evidence, and answer by the source too."""

    name = "sharing"
    shared = True


def test_a_rule_that_shares_need_not_ask_for_evidence(network):
    images = stream_of(1)[0]
    answer = RectifiedStream(network, window=8, every=8, protocol=Sharing())(images)
    expected = shared_answer(network, rectify(network, images, "replace"), images)
    torch.testing.assert_close(answer, expected, rtol=1e-9, atol=1e-9)


class Decided(nn.Sequential):
    """Return the class itself."""

    def forward(self, images):
        return super().forward(images).argmax(1)


def test_rules_of_ones_own_and_what_is_no_number_are_answered_by_the_copy_alone(network):
    images = stream_of(1)[0]
    own = RectifiedStream(network, window=8, every=8, protocol=certainly)
    assert torch.equal(own(images), rectify(network, images, certainly)(images))
    decided = Decided(*deepcopy(network))
    assert torch.equal(RectifiedStream(decided, window=8, every=8)(images), rectify(decided, images)(images))


# Threads


class Slow(nn.Module):
    """Note the first pixel of what comes, and give other threads time in the middle."""

    def __init__(self, network):
        super().__init__()
        self.network, self.met = network, []

    def forward(self, images):
        self.met.append(float(images[0, 0, 0, 0]))
        for number, layer in enumerate(self.network):
            images = layer(images)
            if number % 4 == 0:
                time.sleep(0.0005)
        return images


def test_threads_are_answered_as_if_one_after_another(network):
    batches = stream_of(24, size=6)
    stream = RectifiedStream(Slow(network), window=16, every=12, protocol="replace")
    answers = {}

    def ask(mine):
        for number in mine:
            answers[number] = stream(batches[number])

    threads = [threading.Thread(target=ask, args=(range(first, 24, 4),)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = {float(images[0, 0, 0, 0]): number for number, images in enumerate(batches)}
    # A forward of a window begins with an earlier batch's image or within one: it is met again, or is none of these.
    order = list(dict.fromkeys(numbers[pixel] for pixel in stream.model.met if pixel in numbers))
    assert sorted(order) == list(range(24))
    assert order != list(range(24))  # else one thread may have been answered wholly before the next
    alone = RectifiedStream(network, window=16, every=12, protocol="replace")
    for number in order:
        assert torch.equal(answers[number], alone(batches[number]))
    assert stream.status == alone.status


# A stop and a restart


@pytest.mark.parametrize("cut", [0, 1, 2, 4, 5, 6])
@pytest.mark.parametrize("protocol", ["auto", "replace"])
def test_a_stream_that_was_stopped_goes_on_with_the_same_bits(network, tmp_path, cut, protocol):
    batches = stream_of(10, size=5)
    batches[4] = spoilt(batches[4])
    stream = RectifiedStream(network, window=12, every=8, protocol=protocol)
    for images in batches[:cut]:
        stream(images)
    saved = stream.state_dict()
    kept = deepcopy(saved)
    expected = [stream(images) for images in batches[cut:]]
    torch.testing.assert_close(saved, kept, rtol=0, atol=0, equal_nan=True)  # later batches do not reach it
    torch.save(saved, tmp_path / "stream.pt")
    other = deepcopy(network)
    with torch.no_grad():
        for tensor in other.parameters():
            tensor.mul_(0.5)  # weights and the source's statistics are of the state
        other[1].running_mean.add_(1)
    again = RectifiedStream(other, window=12, every=8, protocol=protocol)
    again.load_state_dict(torch.load(tmp_path / "stream.pt", weights_only=True))
    for images, logits in zip(batches[cut:], expected, strict=True):
        torch.testing.assert_close(again(images), logits, rtol=0, atol=0, equal_nan=True)
    assert again.status == stream.status


@pytest.mark.parametrize("copy", [deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_a_copy_goes_on_by_itself_with_the_same_bits(network, copy):
    first, second, third, fourth = stream_of(4)
    stream = RectifiedStream(network, window=12, every=8)
    stream(first)
    stream(second)
    other = copy(stream)
    other(fourth)
    again = copy(stream)
    assert torch.equal(stream(third), again(third))
    assert stream.status == again.status


def test_a_stream_that_is_reset_is_as_new(network):
    first, second = stream_of(2)
    stream, new = (RectifiedStream(network, window=16, every=16) for _ in range(2))
    stream(first)
    stream(spoilt(first))
    stream.reset()
    assert stream.status == new.status
    assert torch.equal(stream(second), new(second))
    assert stream.status == new.status


def test_a_stream_that_is_cast_goes_on_with_its_window(network):
    stream = RectifiedStream(network, window=16, every=8, protocol="replace")
    first, second = stream_of(2)
    stream(first)
    stream.to(torch.float32)
    expected = rectify(deepcopy(network).float(), torch.cat([first, second]).float(), "replace")
    assert torch.equal(stream(second.float()), expected(second.float()))


@pytest.mark.parametrize("order", list(itertools.product([False, True], repeat=3)))
def test_inference_mode_changes_nothing(network, order):
    with torch.inference_mode(order[0]):
        stream = RectifiedStream(network, window=12, every=8)
    plain = RectifiedStream(network, window=12, every=8)
    for images, within in zip(stream_of(4), [*order, False], strict=True):
        with torch.inference_mode(within):
            logits = stream(images.clone())
        assert torch.equal(logits, plain(images))
    assert same(state(stream.model), state(plain.model))


# Monitoring


def test_the_status_is_what_the_window_tells(network):
    stream = RectifiedStream(network, window=64, every=64)
    assert stream.status == type(stream.status)(0, 0, 0, None, None, None, 0, TOO_FEW)
    clean, shifted = [stream_of(2, size=64, gain=gain, first=20) for gain in (1, 0.5)]
    since = {0: 0, 1: 0, 2: 192, 3: 192, 4: 320}
    for number, images in enumerate([*clean, *shifted, clean[0]]):
        stream(images)
        found = stream.status
        evidence = gather_evidence(network, images, select_layers(network, images))
        weight = float(evidence.persisting + evidence.certain) / 2
        assert found.shift == pytest.approx(statshift.diagnose(network, images).number, rel=1e-6)
        assert found.weight == pytest.approx(weight, rel=1e-6)
        assert found.agreeing == pytest.approx(float(evidence.agreeing), rel=1e-6)
        assert (weight > 0) == (number in (2, 3))
        assert found.left_alone == ("" if weight else NO_SHIFT)
        assert (found.images, found.window, found.since) == (64 * (number + 1), 64, since[number])


def test_the_status_of_a_rule_that_does_not_look_has_no_shift(network):
    stream = RectifiedStream(network, window=8, every=8, protocol="replace")
    stream(stream_of(1)[0])
    assert stream.status == type(stream.status)(8, 0, 8, None, None, None, 0, "")


def test_images_that_are_alike_are_said_to_be_why(network):
    stream = RectifiedStream(network, window=8, every=8)
    with pytest.warns(FewImagesWarning):
        stream(stream_of(1, first=3)[0])
    assert stream.status.left_alone == TOO_ALIKE


# Memory


def held(stream):
    """Return how many bytes of tensors a stream holds, its model's among them."""
    return sum(tensor.nbytes for tensor in [*stream.parameters(), *stream.buffers()])


def tensors_alive():
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def test_a_stream_holds_its_model_its_statistics_and_the_window(network):
    stream = RectifiedStream(network, window=12, every=8)
    stream(stream_of(1)[0])
    model = sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers()])
    statistics = sum(value.nbytes for name, value in network.state_dict().items() if "running" in name)
    counters = 3 * 4 + 3 + 3 * 8  # what is monitored; skipped, since, and the end of the ring
    assert held(stream) == model + statistics + 12 * 3 * 8 * 8 * 8 + counters


def many(network, batches):
    stream, images = RectifiedStream(network, window=8, every=4), stream_of(16, size=4)
    alive = []
    for number in range(batches):
        stream(images[number % 16])
        if number in (20, batches - 1):
            alive.append((tensors_alive(), held(stream)))
    assert alive[0] == alive[1]
    assert stream.status.images == 4 * batches


def test_a_stream_does_not_grow(network):
    many(network, 200)


@pytest.mark.slow
def test_two_thousand_batches_do_not_grow(network):
    many(network, 2_000)


# Models without batch norm


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.LayerNorm(144))

    def forward(self, images):
        return self.layers(images)


def test_a_model_without_batch_norm_is_left_alone_with_one_warning():
    model = Grouped().double()
    with pytest.warns(LeftAloneWarning) as told:
        stream = RectifiedStream(model, window=8, every=8)
    why = "it has no batch normalization with running statistics; its norms are: GroupNorm, LayerNorm"
    assert [str(one.message) for one in told] == [f"The model is left alone: {why}."]
    first, second = stream_of(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(stream(first), model(first))
        stream(spoilt(second))
        assert torch.equal(stream(second), model(second))
    assert stream.status == type(stream.status)(24, 1, 0, None, None, None, 0, why)
    resumed = deepcopy(stream)
    resumed.reset()
    resumed.load_state_dict(stream.state_dict())
    assert resumed.status == stream.status


@pytest.mark.parametrize("protocol", ["replace", "prior", lambda stored, observed, images: observed])
def test_other_rules_refuse_a_model_without_batch_norm(protocol):
    with pytest.raises(InputError, match="its norms are: GroupNorm, LayerNorm"):
        RectifiedStream(Grouped(), protocol=protocol)


def test_a_model_whose_layers_cannot_be_reached_is_refused_and_not_left_alone(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        scripted = torch.jit.script(deepcopy(network))
    with pytest.raises(InputError, match="can be reached"):
        RectifiedStream(scripted)


def test_rectify_goes_on_to_refuse_a_model_without_batch_norm():
    with pytest.raises(InputError, match="its norms are: GroupNorm, LayerNorm"):
        rectify(Grouped().double(), stream_of(1)[0])


def test_the_batch_norms_of_a_hybrid_are_rectified(network):
    hybrid = nn.Sequential(*deepcopy(network)[:6], nn.GroupNorm(2, 6).double(), *deepcopy(network)[6:9]).eval()
    images = stream_of(1)[0]
    stream = RectifiedStream(hybrid, window=8, every=8, protocol="replace")
    assert torch.equal(stream(images), rectify(hybrid, images, "replace")(images))
    assert not torch.equal(stream(images), hybrid(images))
