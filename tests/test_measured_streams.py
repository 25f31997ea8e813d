"""Streams as settings of `measure`: the orders beside NumPy, what a step sees, rows along the stream, resumption."""

import json
import os
import signal
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import statshift
from statshift import read_run
from statshift._core.errors import InputError
from statshift.adapting.families import Stream
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.stepping import Stepping
from statshift.data import ImageData
from statshift.data.sources import Pixels
from statshift.measuring import streamed
from statshift.measuring.evaluate import Evaluator
from statshift.measuring.streams.course import Member, Passage, in_batches
from statshift.measuring.streams.film import film
from statshift.measuring.streams.find import find_course
from statshift.results import bits
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import Shift
from statshift.tasks.segmentation import Segmentation

measure = partial(statshift.measure, device="cpu", examples=0)

CLEAN, DARK, DARKER = Condition("clean", 0), Condition("brightness", 1), Condition("brightness", 3)
CONTRAST = Condition("contrast", 2)


@pytest.fixture(autouse=True, scope="module")
def _quick(one_thread):
    pass


class Network(nn.Module):
    """The brightness and the contrast of 4 bands, a norm, and random logits of these."""

    def __init__(self, classes=5):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, classes)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(3)
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape))
        self.eval()

    def forward(self, images):
        return self.linear(self.norm(self.conv(images)).relu().mean((2, 3)))


def images_of(count=30, classes=5, size=32, seed=0, labels=None):
    """Images of smooth noise, each class of its own brightness."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count) if labels is None else labels
    coarse = generator.integers(0, 128, (count, 4, 4, 3)) + 24 * labels[:, None, None, None]
    pixels = coarse.repeat(size // 4, 1).repeat(size // 4, 2).astype(np.uint8)
    names = tuple(f"class {number}" for number in range(classes))
    source = Pixels(place="made", labels=labels, class_names=names, images=pixels)
    how = {"resize": None, "crop": None, "interpolation": "bilinear"}
    return ImageData("made", source, np.arange(count), labels, names, (3, size, size), how)


@pytest.fixture(scope="module")
def network():
    return Network()


@pytest.fixture(scope="module")
def data():
    return images_of()


def by_key(rows):
    return {(row["protocol"], row["shift"], row["severity"], row["draw"]): row for row in rows}


def member(condition=CLEAN, count=400, classes=8, seed=0, places=3):
    labels = np.random.default_rng(seed).integers(0, classes, count)
    return Member(condition, np.arange(count) * places, labels)


def orders(spec, members, seed=0, draw=0):
    return find_course(spec).stretches(members, seed, draw)


# ------------------------------------------------------------------- orders


@pytest.mark.parametrize("spec", ["iid", "sorted", "dirichlet:0.3", "mixed", "continual", "gradual"])
def test_each_image_comes_once_in_each_condition(spec):
    members = [member(one, count) for one, count in ((DARK, 60), (DARKER, 61), (CONTRAST, 7), (CLEAN, 60))]
    for draw in (0, 1):
        whole = np.concatenate(orders(spec, members, draw=draw))
        every = [(number, place) for number, one in enumerate(members) for place in range(len(one))]
        assert sorted(map(tuple, whole.tolist())) == every
    first, second, again = (np.concatenate(orders(spec, members, 0, draw)) for draw in (0, 1, 0))
    other = np.concatenate(orders(spec, members, 1, 0))
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    assert (first != other).any()


def test_an_order_is_addressed_by_the_places_of_the_images():
    whole = member(count=200)
    half = Member(CLEAN, whole.indices[::2], whole.labels[::2])
    order = np.concatenate(orders("iid", [whole]))[:, 1]
    np.testing.assert_array_equal(np.concatenate(orders("iid", [half]))[:, 1] * 2, order[order % 2 == 0])


@pytest.mark.parametrize("length", [1, 9, 10, 19, 20, 39, 40, 41])
def test_a_short_last_batch_joins_its_neighbour(length):
    order = np.arange(2 * length).reshape(length, 2)
    batches = in_batches(order, 10)
    np.testing.assert_array_equal(np.concatenate(batches), order)
    assert [len(one) for one in batches[:-1]] == [10] * (max(1, length // 10) - 1)
    assert len(batches[-1]) == length - 10 * (len(batches) - 1)


def test_bins_are_twentieths_of_the_time():
    order = np.stack([np.array([0, 1] * 35), np.arange(70)], 1)
    passage = Passage(np.split(order, [30, 31]))
    for number in (0, 1):
        positions, bins = passage.along(number)
        np.testing.assert_array_equal(positions, np.arange(number, 70, 2))
        assert bins.tolist() == [int(20 * rank / 70) for rank in range(number, 70, 2)]


def test_sorted_is_class_after_class_in_an_order_that_is_drawn():
    one = member()
    seen = set()
    for draw in range(6):
        labels = one.labels[np.concatenate(orders("sorted", [one], draw=draw))[:, 1]]
        turns = labels[np.flatnonzero(np.diff(labels, prepend=-1))]
        assert sorted(turns) == list(range(8))
        seen.add(tuple(turns))
    assert len(seen) == 6
    inside = np.concatenate(orders("sorted", [one]))[:, 1]
    inside = inside[one.labels[inside] == 3]
    assert (np.diff(inside) < 0).any()


def classes_by_batch(spec, one, size=50, draw=0):
    labels = one.labels[np.concatenate(orders(spec, [one], draw=draw))[:, 1]]
    return np.array([np.bincount(part, minlength=8) for part in np.split(labels, np.arange(size, len(labels), size))])


def entropy(counts):
    shares = counts / counts.sum(1, keepdims=True)
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1).mean()


def test_a_large_delta_is_as_good_as_shuffled_and_a_small_one_comes_in_runs():
    one = member(count=1600)
    shuffled, even, runs, ordered = (
        np.mean([entropy(classes_by_batch(spec, one, draw=draw)) for draw in range(3)])
        for spec in ("iid", "dirichlet:1e6", "dirichlet:0.1", "sorted")
    )
    assert abs(even - shuffled) < 0.02
    assert ordered < runs < even - 0.5
    spread = classes_by_batch("dirichlet:1e6", one, 200)
    assert np.abs(spread - np.bincount(one.labels) / 8).max() <= 4  # 8 slots of 200 images, of each class its eighth


def test_dirichlets_shares_have_the_variance_of_their_distribution():
    """Of K slots a class puts share p into the first, and Var p = (K-1) / (K^2 (K delta + 1))."""
    slots, delta, shares = 8, 0.5, []
    labels = np.arange(800) % 8
    for seed in range(60):
        one = Member(CLEAN, np.arange(800), labels)
        order = np.concatenate(orders(f"dirichlet:{delta}", [one], seed))[:, 1]
        first = labels[order[:20]]  # the first slot has 100 images in the mean, and hardly ever under 20
        shares.append((first[:, None] == first).mean())
    alike = np.mean(shares)  # that two of the first slot are of one class: sum of E[p^2] over (sum of p)^2, about
    second = (slots - 1) / (slots**2 * (slots * delta + 1)) + 1 / slots**2
    expected = slots * second / (slots * second + slots * (slots - 1) / slots**2)
    assert abs(alike - expected) < 0.06


def test_mixed_is_one_shuffle_and_then_the_clean_images():
    members = [member(CLEAN, 100), member(DARK, 300), member(CONTRAST, 300)]
    course = find_course("mixed")
    group = course.groups([one.condition for one in members])
    assert group == [[DARK, CONTRAST, CLEAN]]
    shifted, clean = course.stretches([members[1], members[2], members[0]], 0, 0)
    assert (clean[:, 0] == 2).all()
    quarters = [part[:, 0].mean() for part in np.split(shifted, 4)]
    assert max(abs(share - 0.5) for share in quarters) < 4 * 0.5 / np.sqrt(150)


def test_a_severitys_images_are_shared_between_rise_and_fall():
    conditions = [Condition("fog", one) for one in (1, 2, 3)] + [Condition("snow", 2), CLEAN]
    members = [member(one, 31) for one in conditions]
    found = orders("gradual", members)
    visits = [conditions[part[0, 0]] for part in found]
    fog = [Condition("fog", one) for one in (1, 2, 3, 2, 1)]
    assert visits == [*fog, Condition("snow", 2), CLEAN]
    assert [len(part) for part in found] == [16, 16, 31, 15, 15, 31, 31]
    told = find_course("gradual").itinerary(members)
    assert [one.condition for one in told] == visits


@pytest.mark.parametrize(
    "spec", ["", "mixd", "iid:3", "dirichlet", "dirichlet:0", "dirichlet:x", "dirichlet:inf", "video:1", "video:2.5", 7]
)
def test_a_stream_that_cannot_be_is_told_in_one_line(spec, network, data):
    with pytest.raises(InputError, match=r"Expected `stream` to be iid, sorted, dirichlet:DELTA, .*, but got") as told:
        measure(network, data, stream=spec)
    assert "\n" not in str(told.value)
    assert ("Did you mean mixed?" in str(told.value)) == (spec == "mixd")


# ------------------------------------------------------------------- video


def test_frames_are_copies_within_bounds_of_movement_and_noise():
    size, copies = 64, 12
    pixels = np.random.default_rng(0).integers(40, 215, (3, size, size, 3)).astype(np.uint8)
    scenes = every_other(pixels)
    frames = film(scenes, copies, seed=5)
    assert len(frames) == 36
    np.testing.assert_array_equal(frames.labels, [0] * 12 + [1] * 12 + [2] * 12)
    everything = np.arange(36)
    made = next(frames.groups([everything]))[0].numpy().astype(int)
    again = np.concatenate([one.numpy() for one, _ in frames.groups([everything[20:], everything[:20]])])
    np.testing.assert_array_equal(made, np.roll(again, 20, axis=0))
    moves, left = set(), []
    for frame, scene in enumerate(np.arange(3).repeat(copies)):
        padded = np.pad(pixels[scene], ((2, 2), (2, 2), (0, 0)), mode="reflect").astype(int)
        apart = {
            (down, right): made[frame] - padded[down : down + size, right : right + size].transpose(2, 0, 1)
            for down in range(5)
            for right in range(5)
        }
        best = min(apart, key=lambda move: np.abs(apart[move]).mean())
        moves.add(best)
        left.append(apart[best])
    assert len(moves) > 12  # of 25
    noise = np.array(left)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - np.hypot(1.5, np.sqrt(1 / 12))) < 0.02  # rounded to grey levels
    flat = noise.reshape(36, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(36)).max() < 0.06


def every_other(pixels):
    """Images that are every other one of their source."""
    labels, names = np.arange(len(pixels)), tuple(map(str, range(len(pixels))))
    source = Pixels(place="made", labels=labels.repeat(2), class_names=names, images=pixels.repeat(2, 0))
    how = {"resize": None, "crop": None, "interpolation": "bilinear"}
    return ImageData("made", source, labels * 2, labels, names, (3, *pixels.shape[1:3]), how)


def test_a_videos_frames_come_in_order_scene_after_scene(network, data):
    found = measure(network, data, shifts="clean", stream="video:7", rectify={"seen": Watch()}, adaptation=few(14))
    stream = found.record["stream"]
    assert {stream[name] for name in ("copies", "scenes")} == {7, 4}
    assert found.record["data"]["images"] == 28
    order = find_course("video:7").stretches([Member(CLEAN, np.arange(28))], 0, 0)[0][:, 1].reshape(4, 7)
    assert (np.diff(order, axis=1) == 1).all()
    assert sorted(order[:, 0]) == [0, 7, 14, 21]
    assert [len(one) for one in Watch.batches] == [14, 14]


# ------------------------------------------------------------------- what a step sees


def few(samples=8, **more):
    return AdaptationOptions(samples=samples, **more)


class Counting(Stepping):
    """Answers, and notes what it has seen; another model's state is its count of batches."""

    def __init__(self, model, note, fails_at=None):
        super().__init__(model)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.note, self.fails_at = note, fails_at

    def step(self, images):
        if self.fails_at is not None and int(self.count) == self.fails_at:
            raise RuntimeError("the power is cut")
        self.note(int(self.count), images)
        self.count += 1
        return self.model(images) + 0.3 * self.count * torch.arange(5)


@dataclass(frozen=True)
class Watch(Stream):
    """Notes each batch; `fails_at` is the batch at which the power is cut."""

    name = "watch"
    fails_at: int | None = None

    batches: ClassVar[list] = []

    def begin(self, model, options):
        Watch.batches = []
        return Counting(model, lambda count, images: Watch.batches.append(images.clone()), self.fails_at)


@pytest.mark.parametrize("shifts", ["clean", ["clean", "brightness"]])
def test_iid_has_the_rows_of_a_measurement_without_a_stream(shifts, network, data):
    how = {"shifts": shifts, "severities": [3], "rectify": ["batch", "running"], "adaptation": few(8, draws=2)}
    plain, stream = measure(network, data, **how), measure(network, data, stream="iid", **how)
    kept = [{name: value for name, value in row.items() if name != "along"} for row in stream.rows]
    assert json.dumps(by_text(kept)) == json.dumps(by_text(plain.rows))
    assert "stream" not in plain.record
    assert not any("along" in row for row in plain.rows)
    assert {row["protocol"] for row in stream.rows if "along" in row} == {"batch", "running"}


def by_text(rows):
    return sorted(map(json.dumps, rows))


def test_a_mixed_batch_is_answered_in_one_step_and_scored_by_condition(network, data):
    found = measure(
        network,
        data,
        shifts=["clean", "brightness", "contrast"],
        severities=[2],
        stream="mixed",
        rectify={"watch": Watch()},
        adaptation=few(16),
    )
    bright, contrast = Condition("brightness", 2), CONTRAST
    conditions = [bright, contrast, CLEAN]
    members = [Member(one, data.indices, data.labels) for one in conditions]
    passage = find_course("mixed").passage(members, 16, 0, 0)
    assert [len(one) for one in passage.batches] == [len(one) for one in Watch.batches] == [16, 16, 28, 30]
    pixels = [shifted(data, one) for one in conditions]
    scores, source = np.zeros((3, 30)), np.zeros((3, 30))
    for count, (batch, seen) in enumerate(zip(passage.batches, Watch.batches, strict=True), start=1):
        expected = torch.stack([pixels[number][place] for number, place in batch])
        torch.testing.assert_close(seen, expected, rtol=0, atol=0)
        with torch.no_grad():
            logits = by_imagenet(network, seen)
        answers = (logits + 0.3 * count * torch.arange(5)).argmax(1).numpy()
        for (number, place), answer, plain in zip(batch, answers, logits.argmax(1).numpy(), strict=True):
            scores[number, place] = answer == data.labels[place]
            source[number, place] = plain == data.labels[place]
    rows = by_key(found.rows)
    ranks = {tuple(one): rank for rank, one in enumerate(passage.order.tolist())}
    for number, one in enumerate(conditions):
        row = rows["watch", one.shift, one.severity, 0]
        np.testing.assert_array_equal(bits(row), scores[number])
        assert row["paired_source"]["correct"] == source[number].sum()
        bins = np.array([20 * ranks[number, place] // 90 for place in range(30)])
        assert row["along"] == [
            [part, sum(bins == part), scores[number][bins == part].sum(), source[number][bins == part].sum()]
            for part in np.unique(bins)
        ]


def shifted(data, condition):
    images = next(data.groups([np.arange(len(data))]))[0].float() / 255
    if condition == CLEAN:
        return images
    return statshift.corrupt(images, condition.shift, condition.severity)


def by_imagenet(network, images):
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return network((images - mean) / std)


@pytest.mark.parametrize(
    ("spec", "batches"),
    [("iid", [3, 3, 3]), ("sorted", [3, 3, 3]), ("continual", [9]), ("gradual", [8]), ("mixed", [9])],
)
def test_who_begins_anew_and_how_many_batches_it_sees(spec, batches, network, data):
    begun = []

    @dataclass(frozen=True)
    class Begun(Stream):
        name = "begun"

        def begin(self, model, options):
            begun.append(0)

            def note(count, images):
                begun[-1] += 1

            return Counting(model, note)

    found = measure(
        network,
        data,
        shifts=["clean", "brightness"],
        severities=[1, 5],
        stream=spec,
        rectify={"begun": Begun()},
        adaptation=few(10, draws=2),
    )  # gradual: 15 images of severity 1 on the rise and 15 on the fall are a batch each
    if len(batches) == 1:
        assert begun == batches * 2
    else:
        assert begun == [3] * 6  # three conditions, two draws
    assert found.record["protocols"]["begun"]["reset"] == (
        "to the source at each draw" if len(batches) == 1 else "to the source at each condition and draw"
    )
    assert {row["shift"] for row in found.rows} == {"clean", "brightness"}


def test_reset_every_counts_batches_of_the_passage(network, data):
    begun = []

    def mine(model):
        begun.append([])
        return lambda images: (begun[-1].append(len(images)), model(images))[1]

    how = {"shifts": ["clean", "brightness"], "severities": [1], "stream": "continual"}
    measure(network, data, rectify={"mine": mine}, adaptation=few(10, reset_every=4), **how)
    assert begun == [[10, 10, 10, 10], [10, 10]]


def test_an_adapter_is_made_of_the_first_images_and_then_frozen(network, data):
    made = []

    def mine(model, images):
        made.append(images.clone())
        assert torch.is_grad_enabled()
        return lambda new: model(new) + len(made)

    how = {"shifts": ["brightness"], "severities": [1], "stream": "iid", "adaptation": few(8)}
    measure(network, data, rectify={"mine": mine}, **how)
    order = np.concatenate(orders("iid", [Member(DARK, data.indices)]))[:, 1]
    assert len(made) == 1
    torch.testing.assert_close(made[0], shifted(data, DARK)[order[:8]], rtol=0, atol=0)


def test_once_on_more_images_than_a_batch_takes_as_many_of_the_stream(network, data):
    """batch@20 along batches of 8: by 8 images, by 16, and by 20 from the third batch on."""
    how = {"shifts": ["clean"], "stream": "iid", "adaptation": few(8)}
    found = measure(network, data, rectify="replace@20", **how)
    order = np.concatenate(orders("iid", [Member(CLEAN, data.indices)]))[:, 1]
    pixels, right = shifted(data, CLEAN), np.zeros(30)
    wanting = statshift.load_model(network)
    for start, stop in ((0, 8), (8, 16), (16, 30)):
        with statshift.rectified(wanting, pixels[order[: min(stop, 20)]], protocol="replace"), torch.no_grad():
            answers = wanting(pixels[order[start:stop]]).argmax(1).numpy()
        right[order[start:stop]] = answers == data.labels[order[start:stop]]
    row = by_key(found.rows)["replace@20", "clean", 0, 0]
    np.testing.assert_array_equal(bits(row), right)
    assert "adapted_on" not in row
    assert found.record["protocols"]["replace@20"]["samples"] == 20


def test_a_rule_follows_the_newest_images(network, data):
    how = {"shifts": ["clean", "contrast"], "severities": [2], "stream": "continual", "adaptation": few(10)}
    found = by_key(measure(network, data, rectify="replace", **how).rows)
    online = statshift.RectifiedStream(statshift.load_model(network), 10, 10, "replace")
    order = np.concatenate(orders("iid", [Member(CLEAN, data.indices)]))[:, 1]
    for condition in (CONTRAST, CLEAN):
        pixels, right = shifted(data, condition), np.zeros(30)
        for part in np.split(order, 3):
            right[part] = online(pixels[part]).argmax(1).numpy() == data.labels[part]
        np.testing.assert_array_equal(bits(found["replace", condition.shift, condition.severity, 0]), right)


def test_what_is_left_on_clean_images_is_measured_last(network, data):
    """A step that answers rightly until the shift has been there: its clean row tells what it has forgotten."""

    def forgetful(model):
        count = 0

        def step(images):
            nonlocal count
            count += 1
            return model(images) if count <= 3 else torch.full((len(images), 5), 0.0)

        return step

    how = {"shifts": ["clean", "contrast"], "severities": [2], "adaptation": few(10), "rectify": {"one": forgetful}}
    rows = by_key(measure(network, data, stream="continual", **how).rows)
    assert rows["one", "contrast", 2, 0]["bits"] == rows["source", "contrast", 2, 0]["bits"]
    assert rows["one", "clean", 0, 0]["correct"] == (data.labels == 0).sum()
    assert min(part for part, *_ in rows["one", "clean", 0, 0]["along"]) == 10
    stream = measure(network, data, stream="continual", **how).record["stream"]
    assert stream["order"] == [["contrast", 2], ["clean", 0]]
    assert stream["clean_last"] is True


# ------------------------------------------------------------------- resumption


SHIFTS = {"shifts": ["clean", "brightness", "contrast"], "severities": [1, 3]}


@pytest.mark.parametrize("spec", ["continual", "mixed", "dirichlet:0.5"])
def test_a_stopped_stream_goes_on_with_the_same_rows_from_the_state_written(spec, network, data, tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "KEPT_EVERY", 0.0)
    how = {**SHIFTS, "stream": spec, "adaptation": few(10, draws=2)}
    whole = measure(network, data, out=tmp_path / "whole", rectify={"watch": Watch()}, **how)
    stopped, go_on = tmp_path / "stopped", {"rectify": {"watch": Watch()}, "out": tmp_path / "stopped", **how}
    monkeypatch.setattr(Counting, "step", failing(Counting.step, 2))
    with pytest.raises(RuntimeError, match="the power is cut"):
        measure(network, data, **go_on)
    assert [path.suffix for path in (stopped / "streams").iterdir()] == [".pt"]
    monkeypatch.undo()
    monkeypatch.setattr(Counting, "step", never_again(Counting.step, 2))
    measure(network, data, **go_on)
    assert (stopped / "rows.jsonl").read_bytes() == (tmp_path / "whole" / "rows.jsonl").read_bytes()
    assert not (stopped / "streams").exists()
    assert len(whole.rows) == 5 * 3


def failing(step, at):
    def fail(self, images):
        if int(self.count) == at:
            raise RuntimeError("the power is cut")
        return step(self, images)

    return fail


def never_again(step, at):
    """A step whose first passage may not see what it has seen before the power was cut."""
    first = []

    def check(self, images):
        first.append(self) if not first else None
        assert self is not first[0] or int(self.count) >= at
        return step(self, images)

    return check


SHIPPED = ["auto", "tent", "eta", "sar", "lame", "t3a", "roid", "rdumb:4", "batch"]


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_goes_on_in_mid_stream_to_the_bit(name, network, data, tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "KEPT_EVERY", 0.0)
    how = {**SHIFTS, "stream": "continual", "rectify": name, "adaptation": few(10, reset_every=6)}
    measure(network, data, out=tmp_path / "whole", **how)
    answered, numbers = Evaluator.answered, []

    def fail(self, parts, answer):
        numbers.append(len(numbers))
        if len(numbers) == 9:
            raise RuntimeError("the power is cut")
        return answered(self, parts, answer)

    monkeypatch.setattr(Evaluator, "answered", fail)
    with pytest.raises(RuntimeError, match="the power is cut"):
        measure(network, data, out=tmp_path / "stopped", **how)
    measure(network, data, out=tmp_path / "stopped", **how)
    assert len(numbers) == 9 + (15 - 8)
    whole, stopped = (tmp_path / one / "rows.jsonl" for one in ("whole", "stopped"))
    assert whole.read_bytes() == stopped.read_bytes()


def test_rows_that_lack_of_a_finished_passage_are_made_again(network, data, tmp_path):
    how = {**SHIFTS, "stream": "mixed", "rectify": "batch", "adaptation": few(10), "out": tmp_path}
    measure(network, data, **how)
    whole = (tmp_path / "rows.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_bytes(b"".join(lines[:-2]) + lines[-1][:40])
    measure(network, data, **how)
    assert (tmp_path / "rows.jsonl").read_bytes() == whole


def test_a_step_without_a_state_goes_through_its_passage_again(network, data, tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "KEPT_EVERY", 0.0)
    cut = [True]

    def mine(model):
        seen = []

        def step(images):
            if len(seen) == 5 and cut[0]:
                raise RuntimeError("the power is cut")
            seen.append(len(images))
            return model(images) * len(seen)

        return step

    how = {**SHIFTS, "stream": "continual", "adaptation": few(10), "rectify": {"mine": mine}}
    with pytest.raises(RuntimeError, match="the power is cut"):
        measure(network, data, out=tmp_path / "one", **how)
    assert not (tmp_path / "one" / "streams").exists()
    assert {row["protocol"] for row in read_run(tmp_path / "one").rows} == {"source"}
    cut[0] = False
    measure(network, data, out=tmp_path / "one", **how)
    measure(network, data, out=tmp_path / "two", **how)
    one, two = (tmp_path / name / "rows.jsonl" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_stop_waits_for_the_batch_and_writes_the_state(network, data, tmp_path, monkeypatch):
    plain = Counting.step

    def ask(self, images):
        if int(self.count) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, images)

    monkeypatch.setattr(Counting, "step", ask)
    how = {**SHIFTS, "stream": "continual", "adaptation": few(10), "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        measure(network, data, rectify={"watch": Watch()}, **how)
    (kept,) = (tmp_path / "run" / "streams").iterdir()
    assert torch.load(kept, weights_only=True)["state"]["batches"] == 4
    monkeypatch.setattr(Counting, "step", never_again(plain, 4))
    measure(network, data, rectify={"watch": Watch()}, **how)
    whole = measure(network, data, rectify={"watch": Watch()}, **{**how, "out": None})
    assert by_text(read_run(tmp_path / "run").rows) == by_text(whole.rows)


def test_a_run_with_another_stream_is_another_run(network, data, tmp_path):
    how = {"shifts": ["clean", "brightness"], "severities": [1], "rectify": "batch", "adaptation": few(10)}
    measure(network, data, out=tmp_path, stream="continual", **how)
    for other in ({"stream": "mixed"}, {}, {"stream": "continual", "severities": [1, 2]}):
        with pytest.raises(InputError, match="holds another run"):
            measure(network, data, out=tmp_path, **{**how, **other})


# ------------------------------------------------------------------- what is refused, and progress


def test_passes_are_counted_as_they_come(network, data):
    told = []
    how = {**SHIFTS, "adaptation": few(10, draws=2), "rectify": ["batch", "running"], "progress": told.append}
    measure(network, data, stream="continual", **how)
    done = [one.number * one.images_per_pass + one.images for one in told]
    assert done == sorted(done)
    assert done[-1] == told[-1].passes * 30 == 5 * 5 * 30
    assert {str(one.condition) for one in told if one.protocol == "batch"} == {"continual"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rectify": "full"}, "Cannot measure full along a stream, which needs the whole set at once"),
        ({"rectify": "auto", "shifts": "pgd-linf:1/255"}, "Cannot attack auto along a stream"),
        ({"rectify": "tent", "shifts": "fgsm:1/255"}, "Cannot attack tent"),
        ({"rectify": "batch", "adaptation": few(31)}, "Expected at most 30 samples of the 30 images for batch"),
        ({"rectify": "batch", "stream": "video:31"}, "Expected at least 31 images for the stream video:31, but made"),
        ({"rectify": "lame", "adaptation": few(1)}, "Expected batches of at least 2 images for lame, but got 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(more, message, network, data):
    with pytest.raises(InputError, match=message) as told:
        measure(network, data, **{"stream": "iid", "shifts": "clean", **more})
    assert "\n" not in str(told.value)


# ------------------------------------------------------------------- label maps, sets of their own, and the command


class Dense(nn.Module):
    """Two classes of each pixel."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, -1, 0], [0, 1, -1]]).view(2, 3, 1, 1))
            self.head.bias.zero_()
        self.eval()

    def forward(self, images):
        return self.head(self.norm(images))


@pytest.fixture
def streets(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number in range(8):
        colours = generator.integers(0, 256, (8, 8, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(colours).save(tmp_path / f"images/{number}.png")
        Image.fromarray((colours[..., 0] > colours[..., 1]).astype(np.uint8)).save(tmp_path / f"labels/{number}.png")
    return f"seg:{tmp_path}"


@pytest.mark.filterwarnings("ignore:Clean pixel accuracy")
@pytest.mark.parametrize("spec", ["iid", "mixed", "gradual", "video:3"])
def test_label_maps_come_along_a_stream(spec, streets):
    how = {"shifts": ["clean", "contrast"], "severities": [2], "rectify": ["source", "batch"], "adaptation": few(3)}
    found = measure(Dense(), streets, stream=spec, **how)
    task = found.record["task"]["name"]
    assert task == "segmentation"
    rows = by_key(found.rows)
    for shift, severity in (("clean", 0), ("contrast", 2)):
        source, row = rows["source", shift, severity, 0], rows["batch", shift, severity, 0]
        scores = [Segmentation().image_scores(one) for one in (row, source)]
        assert sum(images for _, images, *_ in row["along"]) == row["images"]
        totals = np.array([one[2:] for one in row["along"]]).sum(0)
        np.testing.assert_allclose(totals, [one.sum() for one in scores], rtol=1e-12)
    if spec == "iid":
        plain = by_key(measure(Dense(), streets, **how).rows)
        assert {**rows["batch", "contrast", 2, 0], "along": 0} == {**plain["batch", "contrast", 2, 0], "along": 0}


@pytest.mark.parametrize("spec", ["sorted", "dirichlet:0.1"])
def test_label_maps_have_no_class_to_sort_by(spec, streets):
    with pytest.raises(InputError, match=f"Expected one class an image for the stream {spec}, but the task is segm"):
        measure(Dense(), streets, shifts="clean", stream=spec, rectify="batch")


def test_frames_move_with_their_label_maps(streets):
    data = statshift.load_data(streets)
    frames = film(data, 5, seed=1)
    images = next(frames.groups([np.arange(40)]))[0].int()
    labels = frames.label_maps(np.arange(40))
    sure = (images[:, 0] - images[:, 1]).abs() > 20  # beyond the noise
    assert sure.float().mean() > 0.5
    assert ((images[:, 0] > images[:, 1]) == labels.bool())[sure].all()


@dataclass(frozen=True)
class Another(Shift):
    """Images of its own, of a side."""

    name: str = "another"
    family: str = "own"
    side: int = 32

    paired = False
    reads = True

    def data(self, severity, load):
        return load(images_of(17, seed=8, size=self.side))


@pytest.mark.parametrize("spec", ["mixed", "continual", "sorted"])
def test_a_set_of_its_own_is_a_further_condition(spec, network, data):
    how = {"shifts": ["clean", Another()], "stream": spec, "rectify": ["source", "batch"], "adaptation": few(10)}
    rows = by_key(measure(network, data, **how).rows)
    own = images_of(17, seed=8)
    with torch.no_grad():
        answers = by_imagenet(network, shifted(own, CLEAN)).argmax(1).numpy()
    np.testing.assert_array_equal(bits(rows["source", "another", 0, 0]), answers == own.labels)
    row = rows["batch", "another", 0, 0]
    assert row["images"] == sum(images for _, images, *_ in row["along"]) == 17
    assert row["set"] == rows["source", "another", 0, 0]["set"]
    if spec != "continual":
        return
    order = np.concatenate(orders("iid", [Member(Condition("another", 0), own.indices)]))[:, 1]
    expected, model = np.zeros(17), statshift.load_model(network)
    with statshift.rectified(model, shifted(own, CLEAN)[order], protocol="replace"), torch.no_grad():
        expected[order] = model(shifted(own, CLEAN)[order]).argmax(1).numpy() == own.labels[order]
    np.testing.assert_array_equal(bits(row), expected)  # 17 images are one batch


def test_a_set_of_another_size_has_no_place_among_others(network, data):
    how = {"shifts": ["clean", Another(side=36)], "rectify": "batch", "adaptation": few(10)}
    with pytest.raises(InputError, match="for the stream mixed, but those of another are 36x36 px"):
        measure(network, data, stream="mixed", **how)
    assert len(measure(network, data, stream="iid", **how).rows) == 4


@pytest.fixture
def folder(tmp_path, data):
    place = tmp_path / "images"
    images = next(data.groups([np.arange(30)]))[0].permute(0, 2, 3, 1).numpy()
    for number, (pixels, label) in enumerate(zip(images, data.labels, strict=True)):
        (place / f"class{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"class{label}/{number:02}.png")
    (tmp_path / "model.py").write_text(
        "import torch\nfrom torch import nn\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), "
        "nn.Flatten(), nn.Linear(8, 5)).eval()\n"
    )
    return place


@pytest.mark.filterwarnings("ignore:Clean accuracy")
def test_the_command_measures_compares_and_reports_streams(run, folder, tmp_path):
    words = ["measure", "--model", f"py:{tmp_path / 'model.py'}:build", "--data", f"folder:{folder}", "--device", "cpu"]
    words += ["--shifts", "clean,contrast", "--severities", "1,2", "--samples", "10", "--rectify", "eata,batch"]
    words += ["--clean-data", f"folder:{folder}", "--stream", "gradual"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(*words, "--out", first).code == 0
    done = run(*words, "--out", second, "--json")
    assert done.code == 0
    assert set(json.loads(done.out)["protocols"]) == {"source", "eata", "batch"}
    record = read_run(first).record
    order = [["contrast", 1], ["contrast", 2], ["contrast", 1], ["clean", 0]]
    assert record["stream"] == {
        **{"kind": "gradual", "spec": "gradual", "batch": 10, "bins": 20, "clean_last": True, "order": order}
    }
    assert record["protocols"]["eata"]["clean"]["hash"] == record["data"]["content_hash"]
    assert record["asked"]["clean_data"] == f"folder:{folder}"
    compared = run("compare", first, second, "--protocols", "batch,batch")
    assert compared.code == 0
    assert compared.out.count("contrast") > 0
    assert run("report", first, "--out", tmp_path / "page.html").code == 0
    refused = run(*words[:-1], "continul", "--out", tmp_path / "third")
    assert refused.code == 2
    assert refused.err.endswith("but got 'continul'. Did you mean continual?\n")
    assert "Expected --stream to be iid, sorted, dirichlet:DELTA" in refused.err
