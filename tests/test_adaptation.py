"""Protocols under measurement: rows beside plain loops in torch, pairs with the source, sums by hand, resumption."""

import base64
import copy
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import statshift
import warm
from statshift import corrupt, load_data, read_run, rectify
from statshift.adapting.drawing import adaptation_positions, shuffled_batches
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.sweep import sweep
from statshift.measuring.compare import compare
from statshift.models import load_model
from statshift.norms.layers import batch_norms
from statshift.results import RunResult
from statshift.shifts.conditions import CorruptionOptions
from statshift.shifts.corruptions import COMMON
from synthetic_runs import paired_by_hand, per_image

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
SHIFTS, SEVERITY = ["clean", "gaussian_noise", "fog"], 5

measure = partial(statshift.measure, device="cpu")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:No frost photographs"),
    pytest.mark.filterwarnings("ignore:Clean accuracy"),
    pytest.mark.filterwarnings("ignore:The images to rectify to are alike"),  # digits are to random features
]


class Network(nn.Module):
    """Random features under four batch norms, the first of them met last, and on them the nearest mean of a class."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.last = nn.BatchNorm2d(32, eps=1e-3, momentum=None)
            widths = [3, 16, 24, 24, 32]
            self.convs = nn.ModuleList(
                nn.Conv2d(a, b, 3, stride, 1) for a, b, stride in zip(widths, widths[1:], (2, 2, 1, 2), strict=False)
            )
            self.norms = nn.ModuleList(nn.BatchNorm2d(width, momentum=None) for width in widths[1:4])
            for norm in (*self.norms, self.last):
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, 0, 0.2)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(32 * 16, 10)
        train = load_data("digits:train", limit=600)
        with torch.no_grad():
            self.features(normalised(pixels_of(train)))  # settles the running statistics, as far as one pass does
            features = self.eval().features(normalised(pixels_of(train)))
            means = torch.stack([features[torch.from_numpy(train.labels) == label].mean(0) for label in range(10)])
            self.linear.weight.copy_(means / 20)
            self.linear.bias.copy_(-means.pow(2).sum(1) / 40)

    def features(self, images):
        for conv, norm in zip(self.convs, [*self.norms, self.last], strict=True):
            images = norm(conv(images)).relu()
        return images.flatten(1)

    def forward(self, images):
        return self.linear(self.drop(self.features(images)))


def pixels_of(data):
    return torch.cat([images for images, _ in data.batches(50)]).float() / 255


def normalised(images):
    return (images - MEAN) / STD


@pytest.fixture(scope="module")
def network():
    return Network().eval()


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=60)


def shifted(data, row, seed=0):
    """Return all images under a row's condition."""
    if row["shift"] == "clean":
        return pixels_of(data)
    indices = torch.from_numpy(data.indices)
    return corrupt(pixels_of(data), row["shift"], row["severity"], seed=seed, indices=indices)


def draws(rows, name):
    return [row for row in rows if row["protocol"] == name]


# The same by hand


def in_execution_order(network):
    return [*network.norms, network.last]


@torch.no_grad()
def adapt_by_hand(network, images, layers=slice(None), part="both", weight=1.0, unbiased=False):
    """Rewrite running statistics layer by layer, in a pass for each; return logits of `images`, then unbias."""
    chosen, values = in_execution_order(network)[layers], {}
    for norm in chosen:
        caught = []
        handle = norm.register_forward_pre_hook(lambda layer, inputs, caught=caught: caught.append(inputs[0]))
        network(normalised(images))
        handle.remove()
        values[norm] = caught[0].transpose(0, 1).flatten(1)
        if part != "var":
            norm.running_mean.mul_(1 - weight).add_(weight * values[norm].mean(1))
        if part != "mean":
            norm.running_var.mul_(1 - weight).add_(weight * values[norm].var(1, unbiased=False))
    logits = network(normalised(images))
    if unbiased:
        for norm in chosen:
            norm.running_var.copy_(values[norm].var(1, unbiased=True))
    return logits


@torch.no_grad()
def logits_in_training_mode(network, images):
    """Return logits with every batch norm of a copy, and nothing else, in training mode."""
    network = copy.deepcopy(network).eval()
    for norm in in_execution_order(network):
        norm.train()
    return network(normalised(images))


@torch.no_grad()
def logits_of(network, images):
    return network(normalised(images))


def expected_counts(logits, labels, kept=slice(None)):
    """Return what a row counts over the images kept, image by image."""
    logits, labels = logits.double().numpy()[kept], labels[kept]
    order = np.argsort(-logits, axis=1, kind="stable")
    right = order[:, 0] == labels
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    return {
        "images": len(labels),
        "correct": int(right.sum()),
        "correct_top5": sum(label in five for label, five in zip(labels, order[:, :5], strict=True)),
        "class_correct": [int(right[labels == label].sum()) for label in range(10)],
        "bits": "".join("01"[int(one)] for one in right),
        "cross_entropy_sum": pytest.approx(losses.sum(), rel=1e-4),
    }


def told(row):
    """Return the same of a row or of a `paired_source`."""
    keys = ("images", "correct", "correct_top5", "class_correct", "cross_entropy_sum")
    digits = "".join(f"{byte:08b}" for byte in base64.b64decode(row["bits"]))
    return {key: row[key] for key in keys} | {"bits": digits[: row["images"]]}


# Protocols that adapt on few images


BY_HAND = {
    "replace": ("replace", {}, {}),
    "prior": ("prior:24", {}, {"weight": 8 / 32}),
    "mean": ("replace", {"statistics": "mean"}, {"part": "mean"}),
    "var": ("replace", {"statistics": "var"}, {"part": "var"}),
    "front third, of two": ("replace", {"where": "front"}, {"layers": slice(0, 2)}),
    "end third, in execution order": ("replace", {"where": "end"}, {"layers": slice(3, 4)}),
    "pattern": ("replace", {"where": "norms.*"}, {"layers": slice(0, 3)}),
    "unbiased": ("replace", {"unbiased": True}, {"unbiased": True}),
}


@pytest.mark.parametrize("include", [False, True], ids=["held out", "included"])
@pytest.mark.parametrize("case", BY_HAND)
def test_rows_equal_a_plain_loop(network, digits, case, include):
    name, options, by_hand = BY_HAND[case]
    adaptation = AdaptationOptions(samples=8, draws=2, include_adaptation=include, **options)
    run = partial(measure, network, digits, shifts=SHIFTS, severities=[SEVERITY], options=CorruptionOptions(seed=3))
    found = run(rectify=[name], adaptation=adaptation)
    source = {row["shift"]: row for row in draws(found.rows, "source")}
    assert [(row["shift"], row["draw"]) for row in draws(found.rows, name)] == [(s, d) for s in SHIFTS for d in (0, 1)]
    for row in draws(found.rows, name):
        images, positions = shifted(digits, row, seed=3), adaptation_positions(digits.indices, 8, 3, row["draw"])
        kept = np.arange(60) if include else np.setdiff1d(np.arange(60), positions)
        adapted = copy.deepcopy(network)
        adapt_by_hand(adapted, images[positions], **by_hand)
        assert told(row) == expected_counts(logits_of(adapted, images), digits.labels, kept)
        assert told(row["paired_source"]) == expected_counts(logits_of(network, images), digits.labels, kept)
        assert np.array_equal(per_image(row["paired_source"]), per_image(source[row["shift"]])[kept])
        assert row["adapted_on"] == positions.tolist()
        assert row["left_out"] == ([] if include else positions.tolist())
        if not include:
            assert row["class_images"] == [int((digits.labels[kept] == label).sum()) for label in range(10)]
    assert len({row["bits"] for row in found.rows}) > 4
    assert draws(found.rows, "source") == run().rows


@pytest.mark.parametrize("name", ["auto", "prior:5", "prior", "replace"])
def test_a_protocol_is_measured_as_rectify_adapts(network, digits, name):
    found = measure(
        network, digits, shifts=SHIFTS, severities=[SEVERITY], rectify=name, adaptation=AdaptationOptions(16)
    )
    positions = adaptation_positions(digits.indices, 16, 0, 0)
    kept = np.setdiff1d(np.arange(60), positions)
    for row in draws(found.rows, name):
        images = shifted(digits, row)
        adapted = rectify(load_model(copy.deepcopy(network)), images[positions], name)
        with torch.no_grad():
            assert told(row) == expected_counts(adapted(images), digits.labels, kept)


@pytest.mark.parametrize("name", ["replace", "batch", "running:1", "full"])
def test_on_all_images_at_once_every_protocol_is_the_forward_in_training_mode(network, digits, name):
    adaptation = AdaptationOptions(samples=60, include_adaptation=True)
    found = measure(network, digits, shifts=SHIFTS, severities=[SEVERITY], rectify=[name], adaptation=adaptation)
    for row in draws(found.rows, name):
        expected = logits_in_training_mode(network, shifted(digits, row))
        assert told(row) == expected_counts(expected, digits.labels)


def test_replace_is_the_forward_in_training_mode_of_the_images_drawn(network, digits):
    """Torch's own mode answers for the images that were adapted on."""
    adaptation = AdaptationOptions(samples=20, include_adaptation=True)
    found = measure(network, digits, shifts=SHIFTS, severities=[SEVERITY], rectify="replace", adaptation=adaptation)
    for row in draws(found.rows, "replace"):
        logits = logits_in_training_mode(network, shifted(digits, row)[row["adapted_on"]])
        expected = logits.argmax(1).numpy() == digits.labels[row["adapted_on"]]
        assert np.array_equal(per_image(row)[row["adapted_on"]], expected)


def test_every_condition_of_a_draw_adapts_on_the_same_images(network, digits):
    def positions(samples, batch_size, seed=0, protocol="replace"):
        found = measure(
            network,
            digits,
            shifts=SHIFTS,
            severities=[1, 4],
            rectify=protocol,
            adaptation=AdaptationOptions(samples, draws=3),
            batch_size=batch_size,
            options=CorruptionOptions(seed=seed),
        )
        by_draw = [
            {tuple(row["adapted_on"]) for row in draws(found.rows, protocol) if row["draw"] == d} for d in range(3)
        ]
        assert [len(one) for one in by_draw] == [1, 1, 1]
        return [one.pop() for one in by_draw]

    eight = positions(8, 60)
    assert len(set(eight)) == 3
    assert positions(8, 7) == eight
    assert positions(8, 60, protocol="auto") == eight
    assert not set(positions(8, 60, seed=1)) & set(eight)
    for few, more in zip(eight, positions(20, 60), strict=True):
        assert len(more) == 20
        assert set(few) < set(more)


# Protocols of a stream, and of all images


@pytest.fixture(scope="module")
def seventy():
    return load_data("digits", limit=70)


@pytest.mark.parametrize("batch_size", [70, 9])
def test_each_batch_is_normalised_by_its_own_statistics(network, seventy, batch_size):
    adaptation = AdaptationOptions(samples=32, draws=2)
    found = measure(
        network,
        seventy,
        shifts=SHIFTS,
        severities=[SEVERITY],
        rectify="batch",
        adaptation=adaptation,
        batch_size=batch_size,
        options=CorruptionOptions(seed=5),
    )
    for row in draws(found.rows, "batch"):
        images, logits = shifted(seventy, row, seed=5), torch.empty(70, 10)
        batches = shuffled_batches(seventy.indices, 32, 5, row["draw"])
        assert [len(positions) for positions in batches] == [32, 38]
        for positions in batches:
            logits[positions] = logits_in_training_mode(network, images[positions])
        expected = expected_counts(logits, seventy.labels)
        assert told(row) == expected
        source = expected_counts(logits_of(network, images), seventy.labels)
        assert told(row["paired_source"]) == source
        assert not {"adapted_on", "left_out", "class_images"} & row.keys()
    first, second = (row for row in draws(found.rows, "batch") if row["shift"] == "fog")
    assert first["cross_entropy_sum"] != second["cross_entropy_sum"]
    assert first["bits"] != first["paired_source"]["bits"]


@pytest.mark.parametrize(("name", "momentum"), [("running:0.3", 0.3), ("running", 0.1), ("running:0", 0)])
def test_a_running_average_begins_anew_in_each_condition(network, digits, name, momentum):
    adaptation = AdaptationOptions(samples=13, draws=2)
    found = measure(
        network, digits, shifts=SHIFTS, severities=[SEVERITY], rectify=name, adaptation=adaptation, batch_size=25
    )
    for row in draws(found.rows, name):
        images, logits, moving = shifted(digits, row), torch.empty(60, 10), copy.deepcopy(network)
        for positions in shuffled_batches(digits.indices, 13, 0, row["draw"]):
            logits[positions] = adapt_by_hand(moving, images[positions], weight=momentum)
        assert told(row) == expected_counts(logits, digits.labels)
        source = pytest.approx(row["paired_source"]["cross_entropy_sum"], rel=1e-6)  # batches of 25, not of 13
        assert (row["cross_entropy_sum"] == source) == (momentum == 0)


@pytest.mark.parametrize("options", [{"statistics": "var"}, {"where": "norms.1"}], ids=str)
@pytest.mark.parametrize("name", ["batch", "running:1"])
def test_streams_heed_the_options(network, digits, name, options):
    adaptation = AdaptationOptions(samples=30, **options)
    found = measure(network, digits, shifts="contrast", severities=[4], rectify=name, adaptation=adaptation)
    (row,) = draws(found.rows, name)
    images, logits = shifted(digits, row), torch.empty(60, 10)
    by_hand = {"part": "var"} if "statistics" in options else {"layers": slice(1, 2)}
    for positions in shuffled_batches(digits.indices, 30, 0, 0):
        logits[positions] = adapt_by_hand(copy.deepcopy(network), images[positions], **by_hand)
    assert told(row) == expected_counts(logits, digits.labels)


@pytest.mark.parametrize("batch_size", [60, 7])
def test_full_takes_the_statistics_of_one_forward_of_all_images(network, digits, batch_size):
    """Within the tolerance of a hundredth of a deviation, which turns no more than an image at the border."""
    found = measure(network, digits, shifts=SHIFTS, severities=[SEVERITY], rectify="full", batch_size=batch_size)
    for row in draws(found.rows, "full"):
        logits = logits_in_training_mode(network, shifted(digits, row))
        expected = expected_counts(logits, digits.labels)
        assert abs(row["correct"] - expected["correct"]) <= 1
        assert sum(a != b for a, b in zip(told(row)["bits"], expected["bits"], strict=True)) <= 1
        source = row["paired_source"]["cross_entropy_sum"]
        now, wanted = row["cross_entropy_sum"], expected["cross_entropy_sum"].expected
        assert abs(now - wanted) < 0.02 * abs(source - wanted)


@pytest.mark.parametrize("size", [1, 5, 60])
@pytest.mark.parametrize("unbiased", [False, True])
def test_sweeps_end_where_one_forward_of_all_images_is(network, digits, size, unbiased):
    images = normalised(shifted(digits, {"shift": "contrast", "severity": 4})).double()

    def swept(tolerance):
        one = copy.deepcopy(network).double()
        return one, sweep(one, lambda: iter(images.split(size)), tolerance=tolerance, unbiased=unbiased)

    expected = copy.deepcopy(network).double()
    adapt_by_hand(expected, images * STD + MEAN, unbiased=unbiased)
    exact, sweeps = swept(0)
    assert sweeps <= 5  # a layer more is exact after each, and the last finds nothing moving
    near, fewer = swept(0.01)
    assert fewer <= sweeps
    for name, norm in batch_norms(expected).items():
        torch.testing.assert_close(batch_norms(exact)[name].running_mean, norm.running_mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(batch_norms(exact)[name].running_var, norm.running_var, rtol=1e-6, atol=1e-6)
        off = batch_norms(near)[name]
        mean = (off.running_mean - norm.running_mean).square() / norm.running_var
        deviation = (off.running_var.sqrt() - norm.running_var.sqrt()).square() / norm.running_var
        assert float((mean + deviation).mean().sqrt()) < 0.01


# The summary


@pytest.fixture(scope="module")
def whole(network):
    """The clean images and the 75 conditions, with two protocols in two draws."""
    return measure(
        network,
        "digits",
        rectify=["replace", "batch"],
        adaptation=AdaptationOptions(samples=10, draws=2),
        data_options={"limit": 40},
        alexnet="cifar10",
    )


@pytest.fixture(scope="module")
def run_of_whole(whole):
    return RunResult(Path("whole"), json.loads(json.dumps(whole.record)), json.loads(json.dumps(whole.rows)))


def accuracies(rows):
    """Return accuracy by shift, severity and draw."""
    return {(r["shift"], r["severity"], r["draw"]): r["correct"] / r["images"] for r in rows}


def mean_over_the_75(accuracy, draw):
    return np.mean([accuracy[name, severity, draw] for name in COMMON for severity in range(1, 6)])


@pytest.mark.parametrize(("name", "images"), [("replace", 30), ("batch", 40)])
def test_means_are_over_the_draws(whole, name, images):
    rows, found = draws(whole.rows, name), whole.summary["protocols"][name]
    assert len(rows) == 76 * 2
    own, source = (
        accuracies(rows),
        accuracies([row["paired_source"] | {k: row[k] for k in ("shift", "severity", "draw")} for row in rows]),
    )
    by_draw = [mean_over_the_75(own, draw) for draw in range(2)]
    assert (found["images"], found["draws"], whole.summary["images"]) == (images, 2, 40)
    assert found["mean_accuracy_by_draw"] == pytest.approx(by_draw)
    assert found["mean_accuracy"] == pytest.approx(np.mean(by_draw))
    assert found["mean_error"] == pytest.approx(1 - np.mean(by_draw))
    assert found["mean_accuracy_deviation"] == pytest.approx(np.std(by_draw, ddof=1))
    assert found["mean_accuracy_deviation"] > 0
    before = np.mean([mean_over_the_75(source, draw) for draw in range(2)])
    assert found["paired_source"]["mean_accuracy"] == pytest.approx(before)
    assert found["gain"]["mean_accuracy"] == pytest.approx(np.mean(by_draw) - before)
    for accuracy, summary in ((own, found), (source, found["paired_source"])):
        assert summary["clean_accuracy"] == pytest.approx(np.mean([accuracy["clean", 0, draw] for draw in range(2)]))
        for shift in ("fog", "gaussian_noise"):
            levels = [np.mean([accuracy[shift, severity, draw] for draw in range(2)]) for severity in range(1, 6)]
            assert summary["per_shift"][shift]["by_severity"] == pytest.approx(levels)
            assert summary["per_shift"][shift]["accuracy"] == pytest.approx(np.mean(levels))
    clean = [row for row in rows if row["shift"] == "clean"]
    totals = np.sum([row.get("class_images", [4] * 10) for row in clean], axis=0)
    expected = np.sum([row["class_correct"] for row in clean], axis=0) / totals
    assert totals.sum() == 2 * images
    assert found["per_class_accuracy"] == pytest.approx(expected.tolist())


def by_image(rows, before):
    """Return what each image gains on average over the rows, less than which it is known of: (M,), the mean kept.

    Args:
        rows: of the 40 images, of which some are left out.
        before: what is right at the images of each row without the protocol.
    """
    total, known = np.zeros(40), set()
    for row, right in zip(rows, before, strict=True):
        places = [place for place in range(40) if place not in row.get("left_out", [])]
        for place, old, new in zip(places, right, per_image(row), strict=True):
            total[place] += (int(new) - int(old)) / len(places) / len(rows)
        known |= set(places)
    return total[sorted(known)] * len(known)


@pytest.mark.parametrize("name", ["replace", "batch"])
def test_the_gains_interval_is_over_images(whole, name):
    rows = [row for row in draws(whole.rows, name) if row["shift"] != "clean"]
    gains = by_image(rows, [per_image(row["paired_source"]) for row in rows])
    gain = whole.summary["protocols"][name]["gain"]
    assert gain["mean_accuracy"] == pytest.approx(gains.mean())
    assert gain["interval"] == pytest.approx(paired_by_hand(gains)[:2])
    assert gain["interval"][0] < gain["mean_accuracy"] < gain["interval"][1]


def test_the_source_is_summarised_as_without_protocols(network, whole):
    alone = measure(network, "digits", data_options={"limit": 40}, alexnet="cifar10")
    assert draws(whole.rows, "source") == alone.rows
    assert whole.summary["protocols"]["source"] == alone.summary["protocols"]["source"]
    assert list(whole.summary["protocols"]) == ["source", "replace", "batch"]


def test_a_paired_source_over_all_images_is_the_source(whole):
    found = whole.summary["protocols"]
    for key, value in found["batch"]["paired_source"].items():
        if key.endswith(("accuracy", "mce", "mean_error")) and not isinstance(value, list):
            assert value == pytest.approx(found["source"][key]), key


def test_without_the_whole_benchmark_there_is_no_gain(network, digits):
    found = measure(network, digits, shifts=SHIFTS, severities=[4], rectify="replace")
    summary = found.summary["protocols"]["replace"]
    assert summary["mean_accuracy"] is summary["gain"] is summary["mean_accuracy_deviation"] is None
    assert summary["mean_accuracy_by_draw"] == []
    assert summary["paired_source"]["clean_accuracy"] == found.rows[1]["paired_source"]["correct"] / 28


# Comparison


@pytest.mark.parametrize(("second", "number"), [("replace", 30), ("batch", 40)])
def test_protocols_of_one_run_are_compared_over_the_same_images(whole, run_of_whole, second, number):
    run = run_of_whole
    found = compare(run, run, protocols=("source", second))
    before = {(row["shift"], row["severity"]): row for row in draws(run.rows, "source")}
    assert len(found.conditions) == 76
    assert found.images == number
    for condition in found.conditions:
        key = (condition.shift, condition.severity)
        rows = [row for row in draws(run.rows, second) if (row["shift"], row["severity"]) == key]
        kept = [np.setdiff1d(np.arange(40), row.get("left_out", [])) for row in rows]
        pairs = [(per_image(before[key])[k], per_image(row)) for k, row in zip(kept, rows, strict=True)]
        lost, gained = (sum(int((x & ~y).sum()) for x, y in one) for one in (pairs, [(y, x) for x, y in pairs]))
        assert (condition.draws, condition.only_first, condition.only_second) == (2, lost, gained)
        assert condition.accuracy.first == pytest.approx(np.mean([x.mean() for x, _ in pairs]))
        assert condition.accuracy.second == pytest.approx(np.mean([y.mean() for _, y in pairs]))
        low, high, p_value = paired_by_hand(by_image(rows, [x for x, _ in pairs]))
        assert (condition.accuracy.low, condition.accuracy.high) == pytest.approx((low, high))
        assert condition.p_value == pytest.approx(p_value)
        assert low <= condition.accuracy.difference <= high
    running = 0.0
    for rank, condition in enumerate(sorted(found.conditions, key=lambda condition: condition.p_value)):
        running = max(running, min(1.0, (76 - rank) * condition.p_value))
        assert condition.adjusted_p_value == pytest.approx(running)
    gain = whole.summary["protocols"][second]["gain"]
    assert found.mean_accuracy.difference == pytest.approx(gain["mean_accuracy"])
    assert [found.mean_accuracy.low, found.mean_accuracy.high] == pytest.approx(gain["interval"])


def test_two_protocols_are_paired_draw_by_draw(run_of_whole):
    """Over the images that both are evaluated on."""
    found = compare(run_of_whole, run_of_whole, protocols=("batch", "replace"))
    by_key = {(r["protocol"], r["shift"], r["severity"], r["draw"]): r for r in run_of_whole.rows}
    for condition in found.conditions:
        key = (condition.shift, condition.severity)
        lost = gained = 0
        for draw in range(2):
            row = by_key[("replace", *key, draw)]
            after, kept = per_image(row), np.setdiff1d(np.arange(40), row["left_out"])
            before = per_image(by_key[("batch", *key, draw)])[kept]
            lost, gained = lost + (before & ~after).sum(), gained + (after & ~before).sum()
        assert (condition.only_first, condition.only_second, condition.draws) == (lost, gained, 2)


# Several processes


MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)
    )

def shrunk(stored, observed, images):
    from statshift.norms.statistics import mix
    return mix(stored, observed, 0.5)

def unchanged(model, images):
    return model

def each_batch(model):
    from statshift.adapting.rectify import rectify
    return lambda images: rectify(model, images, "replace")(images)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.py"
    path.write_text(MODEL)
    return path


def go(count, *words):
    """Run the command in so many processes; all of them must end well."""
    done = warm.run(*words, count=count)
    assert done.returncode == 0, done.stderr


def measuring(model, out, *more):
    words = ["measure", "--model", f"py:{model}:build", "--data", "digits", "--device", "cpu", "--out", out]
    return [*words, "--shifts", "clean,gaussian_noise", "--severities", "5", *more]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "batch_size"),
    [(61, 10), (50, 10)],
    ids=["a batch of one", "odd"],
)
def test_two_processes_give_the_bytes_of_one(model, tmp_path, limit, batch_size):
    own = [f"py:{model}:{name}" for name in ("shrunk", "unchanged", "each_batch")]
    protocols = ",".join(["replace", "auto", "batch", "running:0.3", "full", *own])
    more = ["--limit", limit, "--batch-size", batch_size, "--rectify", protocols, "--samples", "16", "--draws", "2"]
    for count in (1, 2):
        go(count, *measuring(model, tmp_path / f"{count}", *more))
        record = json.loads((tmp_path / f"{count}" / "record.json").read_text())
        assert record["environment"]["processes"] == count
    for file in ("rows.jsonl", "summary.json"):
        assert (tmp_path / "2" / file).read_bytes() == (tmp_path / "1" / file).read_bytes()
    rows = read_run(tmp_path / "2").rows
    assert len(rows) == 2 * (1 + 7 * 2 + 1)  # "full" has nothing to draw
    assert [row["bits"] for row in draws(rows, "each_batch")] == [row["bits"] for row in draws(rows, "batch")]


@pytest.mark.slow
def test_full_on_more_processes_than_batches_is_full_on_one(model, tmp_path):
    """A process without a batch still takes part."""
    for count in (1, 2):
        more = ["--limit", "40", "--batch-size", "64", "--rectify", "full"]
        go(count, *measuring(model, tmp_path / f"{count}", *more))
    assert (tmp_path / "2" / "rows.jsonl").read_bytes() == (tmp_path / "1" / "rows.jsonl").read_bytes()


# The command line


def line_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(start)).split()


def test_the_command_measures_and_compares_protocols(run, model, tmp_path):
    words = ["measure", "--model", "cifar:resnet20", "--data", "digits", "--limit", "40", "--device", "cpu"]
    words += ["--shifts", "clean,contrast", "--severities", "3", "--samples", "8", "--draws", "2"]
    done = run(*words, "--rectify", f"replace, batch,py:{model}:unchanged", "--out", tmp_path / "run")
    assert (done.code, "14 passes over 40 images" in done.err) == (0, True)
    found = read_run(tmp_path / "run")
    adapted = json.loads((tmp_path / "run" / "summary.json").read_text())["protocols"]
    table = done.out.partition("each protocol and of the source over the same images; means: mean of contrast at")[2]
    for name in ("replace", "batch", "unchanged"):
        one, source = adapted[name], adapted[name]["paired_source"]
        gains = {
            "contrast 3": one["per_shift"]["contrast"]["accuracy"] - source["per_shift"]["contrast"]["accuracy"],
            "clean": one["clean_accuracy"] - source["clean_accuracy"],
        }
        least = min(gains, key=gains.get)
        before, after = (
            [f"{100 * value:.1f}" for value in (side["clean_accuracy"], side["per_shift"]["contrast"]["accuracy"])]
            for side in (source, one)
        )
        gained = [f"{100 * gains[condition]:+.1f}" for condition in ("clean", "contrast 3", least)]
        rows = [row for row in found.rows if (row["protocol"], row["shift"]) == (name, "contrast")]
        low, high, _ = paired_by_hand(by_image(rows, [per_image(row["paired_source"]) for row in rows]))
        images = "40" if name == "batch" else "32"
        assert line_of(table, name) == [
            *(name, images, "2", before[0], after[0], gained[0], before[1], after[1], gained[1]),
            *(f"[{100 * low:+.1f},", f"{100 * high:+.1f}]", gained[2], *least.split()),
        ]
    assert adapted["unchanged"]["clean_accuracy"] == adapted["unchanged"]["paired_source"]["clean_accuracy"]
    layers = "19 norm layers: bn1, layer1.0.bn1, layer1.0.bn2, ..., layer3.1.bn2, layer3.2.bn1, layer3.2.bn2."
    assert [line for line in done.out.splitlines() if "norm layers" in line] == [f"Rewritten: {layers}"]
    assert "Accuracy in % over 32 images, protocol replace, 2 draws" in done.out
    assert "Accuracy in % over 40 images, protocol batch, 2 draws" in done.out

    compared = run("compare", tmp_path / "run", "--protocols", "source,replace")
    assert compared.code == 0
    expected = compare(found, found, protocols=("source", "replace"))
    for name, one in zip(("clean", "contrast 3"), expected.conditions, strict=True):
        words = line_of(compared.out, name)[len(name.split()) :]
        assert words[:2] == [f"{100 * one.accuracy.first:.1f}", f"{100 * one.accuracy.second:.1f}"]
        assert words[-3:-1] == [f"{one.only_first}", f"{one.only_second}"]


def test_the_command_takes_a_share_of_the_layers(run, tmp_path):
    words = ["measure", "--model", "cifar:resnet20", "--data", "digits", "--limit", "20", "--device", "cpu"]
    words += ["--shifts", "clean", "--samples", "8", "--rectify", "replace", "--where", "middle"]
    done = run(*words, "--statistics", "mean", "--unbiased", "--include-adaptation", "--out", tmp_path / "run")
    names = "layer2.0.bn1, layer2.0.bn2, layer2.1.bn1, layer2.1.bn2, layer2.2.bn1, layer2.2.bn2"
    assert f"\nRewritten: 6 norm layers: {names}.\n" in done.out
    replaced = read_run(tmp_path / "run").record["protocols"]["replace"]
    assert replaced == {
        "kind": "layers",
        "samples": 8,
        "statistics": "mean",
        "where": "middle",
        "unbiased": True,
        "layers": names.split(", "),
        "evaluated_on": "all images, those adapted on among them",
        "reset": "to the source at each condition and draw",
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rectify", "replce"], "Did you mean 'replace'"),
        (["--rectify", "auto:3"], "Expected no number for the protocol auto, but got 'auto:3'"),
        (["--rectify", "replace", "--samples", "20"], "at most 19 samples of the 20 images for replace, but got 20"),
        (["--rectify", "replace", "--draws", "0"], "Expected --draws to be an integer of at least 1, but got 0"),
        (["--rectify", "replace", "--where", "layer9.*"], "Unknown place or pattern of layers 'layer9.*'"),
        (["--rectify", "replace", "--statistics", "deviation"], "Unknown statistics 'deviation'"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_the_command_tells_bad_input_in_one_line(run, tmp_path, words, told):
    common = ["measure", "--model", "cifar:resnet20", "--data", "digits", "--limit", "20", "--device", "cpu"]
    done = run(*common, "--shifts", "clean", "--samples", "8", "--out", tmp_path / "run", *words)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("statshift: error: ")
    assert told in done.err
    assert not (tmp_path / "run").exists()
