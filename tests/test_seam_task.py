"""The seam of tasks: what ships is what the registry says, and a task of one's own needs no change to the package."""

import math
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import Dataset

from statshift import HardenOptions, TrainingOptions, compare, harden, load_data, load_model, measure
from statshift._core.errors import InputError
from statshift.metrics.uncertainty import bootstrap_interval
from statshift.report import as_markdown, build_report, tables, tidy_csv
from statshift.results import make_row, read_run, restrict, summarise
from statshift.results.conditions import mean_score
from statshift.results.worded import as_accuracy
from statshift.tasks.choice import describe_task, resolve_task, task_of
from statshift.tasks.classification import Classification
from statshift.tasks.mean import MeanTask
from statshift.tasks.registry import TASKS
from statshift.tasks.subset import ClassSubset
from statshift.tasks.task import Task

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(
        "ignore:Clean accuracy", "ignore:The images to rectify to are alike"
    ),  # to drawn weights
]

ROOT = Path(__file__).parents[1]

TOY = re.search(r'^```python title="parity.py"\n(.*?)^```$', (ROOT / "docs" / "tasks.md").read_text(), re.S | re.M)[1]
"""What a user writes: the task, as in test_seams.py, and a network for it."""


class Pairs(Dataset):
    """Handwritten digits, each with its class and the class's parity."""

    def __init__(self, count=40):
        images, digits = load_data("digits", limit=count).tensors()
        self.images, self.labels = images, torch.stack([digits, digits % 2], 1)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        first, second = self.labels[index].tolist()
        return self.images[index], (first, second)


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("parity.py").write_text(TOY)
    torch.manual_seed(0)
    return resolve_task("py:parity.py:DigitAndParity"), load_model("py:parity.py:build", mean=(0, 0, 0), std=(1, 1, 1))


def both_right(model, images, labels):
    """Return by a loop which images have both labels right."""
    with torch.no_grad():
        logits = model.eval()(images).numpy()
    found = []
    for values, (digit, parity) in zip(logits, labels.tolist(), strict=True):
        found.append(max(range(10), key=lambda k, v=values: v[k]) == digit and int(values[11] > values[10]) == parity)
    return np.array(found)


# What ships


@pytest.mark.parametrize("name", TASKS)
def test_a_registered_task_is_what_its_value_says(name):
    entry, value = TASKS[name], resolve_task(name)
    assert (value.name, value.family) == (entry.name, entry.family) == (name, entry.family)
    assert entry.options == tuple(field.name for field in fields(value))
    assert type(value) is entry.load()
    assert {value.headline, "error"} <= set(value.measure_names)
    assert task_of({"task": value.describe()}) == value
    assert f"\n| `{name}`" in (ROOT / "docs" / "tasks.md").read_text()


def test_a_record_that_names_no_task_is_of_classification():
    assert task_of({}) == Classification() == resolve_task("classification")
    assert describe_task(Classification()) == {}
    assert describe_task(ClassSubset((4, 1))) == {"task": {"name": "subset", "options": {"classes": (1, 4)}}}


@pytest.mark.parametrize("classes", [(0, 2, 3), (1, 2, 3, 4, 5, 6, 8)])
def test_a_subset_is_classification_among_its_classes(classes):
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(0, 2, (200, 9)).astype(np.float32), generator.choice(classes, 200)
    logits[:, 7] += 9  # of another class, and the highest
    right, five, entropies, tops = [], [], [], []
    for values, label in zip(logits.astype(np.float64), labels, strict=True):
        order = sorted(classes, key=lambda k, v=values: -v[k])
        total = sum(math.exp(values[k]) for k in classes)
        right.append(order[0] == label)
        five.append(label in order[:5])
        entropies.append(math.log(total) - values[label])
        tops.append(math.exp(values[order[0]]) / total)
    task = ClassSubset(classes)
    found = task.per_image(torch.from_numpy(logits), torch.from_numpy(labels))
    assert found.correct.tolist() == right
    assert 0 < sum(right) < 200
    assert found.correct_top5.tolist() == five
    assert set(found.predicted.tolist()) <= set(classes)
    np.testing.assert_allclose(found.cross_entropy, entropies, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.confidence, tops, rtol=1e-5)
    targets = task.targets(torch.from_numpy(labels))
    assert float(targets.loss(torch.from_numpy(logits))) == pytest.approx(np.mean(entropies), rel=1e-5)
    np.testing.assert_allclose(targets.losses(torch.from_numpy(logits)), entropies, rtol=1e-10)
    row = make_row(found, labels, 9, shift="clean", severity=0, task=task)
    assert task.measures(row)["accuracy"] == sum(right) / 200
    assert task.measures(row)["top5_accuracy"] == sum(five) / 200


def test_shares_of_a_subset_s_classes_are_trained_towards_without_the_others():
    logits = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    task, labels = ClassSubset((0, 3, 4)), torch.tensor([0, 3, 4, 0, 3, 4])
    soft = 0.7 * task.soft(labels, 5) + 0.3 * task.soft(labels.flip(0), 5)
    loss = task.targets(labels, soft.double()).loss(logits)
    kept = logits[:, [0, 3, 4]].log_softmax(1)
    torch.testing.assert_close(loss, -(soft[:, [0, 3, 4]].double() * kept).sum(1).mean())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:, [1, 2]] == 0).all()
    assert gradient[:, [0, 3, 4]].abs().min() > 0


def test_a_subset_has_the_classes_of_the_whole_data_set(tmp_path):
    labels = np.array([1, 1, 4, 6, 6, 6])
    np.savez(tmp_path / "some.npz", images=np.zeros((6, 32, 32, 3), np.uint8), labels=labels)
    data = load_data(f"npz:{tmp_path / 'some.npz'}", limit=2)
    task = ClassSubset().fitted(data)
    assert task.classes == (1, 4, 6)
    task.check_labels(data, 7)
    with pytest.raises(InputError, match="below the model's 6"):
        task.check_labels(load_data(f"npz:{tmp_path / 'some.npz'}", limit=1), 6)
    with pytest.raises(InputError, match="the task's 2 classes, but got 6"):
        ClassSubset((1, 4)).check_labels(load_data(f"npz:{tmp_path / 'some.npz'}"), 9)
    with pytest.raises(InputError, match="at least two, from 0 up, but got \\[3\\]"):
        ClassSubset((3,))


def test_a_subset_is_measured_reported_and_refused_autoattack(tmp_path):
    images, labels = load_data("digits", limit=60).tensors()
    chosen = torch.isin(labels, torch.tensor([1, 3, 8]))
    np.savez(tmp_path / "few.npz", images=(images[chosen] * 255).byte().permute(0, 2, 3, 1), labels=labels[chosen])
    torch.manual_seed(0)
    model, data = load_model("cifar:resnet20"), f"npz:{tmp_path / 'few.npz'}"
    found = measure(model, data, shifts="clean", task="subset", out=tmp_path / "run", device="cpu")
    with torch.no_grad():
        logits = model.eval()(images[chosen]).numpy()
    right = [(1, 3, 8)[int(np.argmax(values[[1, 3, 8]]))] for values in logits] == labels[chosen].numpy()
    assert found.summary["protocols"]["source"]["clean_accuracy"] == right.mean()
    run = read_run(tmp_path / "run")
    assert run.record["task"] == {"name": "subset", "options": {"classes": [1, 3, 8]}}
    assert run.record["alexnet"] is None
    assert f",{right.mean():.6g}," in tidy_csv(tmp_path / "run")
    with pytest.raises(InputError, match=r"all of the model's classes for autoattack-linf:0\.1, but the task is subs"):
        measure(model, data, shifts=("clean", "autoattack-linf:0.1"), task="subset", device="cpu")
    with pytest.raises(InputError, match="no `alexnet` for the task subset"):
        measure(model, data, shifts="clean", alexnet="cifar10", task="subset", device="cpu")


# A task of one's own


def test_a_task_with_two_labels_is_measured(own, tmp_path):
    task, model = own
    pairs = Pairs()
    found = measure(
        model,
        pairs,
        task=task,
        shifts=("clean", "fog"),
        severities=(3,),
        rectify="auto",
        out=tmp_path / "run",
        device="cpu",
        options=None,
    )
    right = both_right(model, pairs.images, pairs.labels)
    clean = next(row for row in found.rows if row["protocol"] == "source" and row["shift"] == "clean")
    assert task.image_values(clean).tolist() == right.astype(float).tolist()
    source = found.summary["protocols"]["source"]
    assert source["clean_both_right"] == right.mean()
    assert source["clean_error"] == 1 - right.mean()
    low, high = stats.binomtest(int(right.sum()), len(right)).proportion_ci(0.95, "wilson")
    assert source["clean_interval"] == pytest.approx([low, high], abs=1e-6)
    run = read_run(tmp_path / "run")
    assert run.record["task"]["name"] == "digit-and-parity"
    assert found.summary["headline"] == "both_right"
    with pytest.raises(InputError, match="Expected `task` for a run of a task of your own, digit-and-parity"):
        compare(run, run, protocols=("source", "auto"))
    adapted = next(row for row in found.rows if row["protocol"] == "auto" and row["shift"] == "clean")
    one = compare(run, run, protocols=("source", "auto"), task=task).conditions[0]
    kept = np.setdiff1d(np.arange(40), adapted["left_out"])
    after = task.image_values(adapted)
    assert (one.accuracy.first, one.accuracy.second) == pytest.approx((right[kept].mean(), after.mean()))
    assert one.only_first == sum(right[kept] > after)


def test_a_report_shows_the_score_under_its_name(own, tmp_path):
    task, model = own
    measure(model, Pairs(), task=task, shifts=("clean", "fog"), severities=(3,), out=tmp_path / "run", device="cpu")
    page = build_report(tmp_path / "run", task=task)
    text = as_markdown(tables(page))
    assert "clean both right %" in text
    assert "accuracy" not in text.lower()
    head, clean, *_ = tidy_csv(tmp_path / "run", task=task).splitlines()
    score = read_run(tmp_path / "run").rows[0]
    assert head.split(",")[7] == "both_right"
    assert float(clean.split(",")[7]) == pytest.approx(task.measures(score)["both_right"], rel=1e-5)
    with pytest.raises(InputError, match="Expected `task` for a run of a task of your own"):
        build_report(tmp_path / "run")


def test_a_task_with_two_labels_is_trained(own, tmp_path):
    task, model = own
    pairs = Pairs()
    with torch.no_grad():
        logits = model.train()(pairs.images).double().numpy()
    expected = 0.0
    for values, (digit, parity) in zip(logits, pairs.labels.tolist(), strict=True):
        expected -= values[digit] - math.log(sum(map(math.exp, values[:10])))
        expected -= values[10 + parity] - math.log(sum(map(math.exp, values[10:])))
    training = TrainingOptions(epochs=2, batch_size=40, learning_rate=1e-9, augment="none")
    options = HardenOptions(method="standard", training=training)
    done = harden(model, pairs, options, task=task, validation=pairs, out=tmp_path / "hardened", device="cpu")
    assert done.record["task"]["name"] == "digit-and-parity"
    for epoch in done.record["history"]:
        assert epoch["losses"]["clean"] == pytest.approx(expected / 40, rel=1e-4)
    right = both_right(done.model, pairs.images, pairs.labels)
    assert done.record["history"][-1]["validation"]["clean"]["clean"] == right.mean()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("classfication", "Unknown task 'classfication'. Did you mean 'classification'"),
        ("py:parity.py:DigitAndPartiy", "Unknown name of parity.py, 'DigitAndPartiy'"),
        ("py:parity.py", "Expected py:FILE_OR_MODULE:NAME"),
        ("py:parity.py:torch", "Expected a task, or the name of one, but got 'py:parity.py:torch'"),
    ],
)
def test_what_is_no_task_is_told(own, given, told):
    with pytest.raises(InputError) as error:
        resolve_task(given)
    assert told in str(error.value)


def test_what_a_task_lacks_is_told(own):
    task, model = own
    with pytest.raises(InputError, match=r"with `margins` for cw-linf:1/255, but digit-and-parity has none"):
        measure(model, Pairs(), task=task, shifts=("clean", "cw-linf:1/255"), device="cpu")
    with pytest.raises(
        InputError, match=r"one class an image for autoattack-linf:0\.1, but the task is digit-and-parity"
    ):
        measure(model, Pairs(), task=task, shifts=("clean", "autoattack-linf:0.1"), device="cpu")
    lossless = type("Lossless", (type(task),), {"name": "lossless", "losses": Task.losses})()
    with pytest.raises(InputError, match="with `losses` for pgd-linf:1/255, but lossless has none"):
        measure(model, Pairs(), task=lossless, shifts=("clean", "pgd-linf:1/255"), device="cpu")
    with pytest.raises(InputError, match="with `losses` for LIGS under gaussian, but lossless has none"):
        measure(model, Pairs(), task=lossless, shifts="clean", ligs=("gaussian",), device="cpu")
    cutmix = HardenOptions(method="cutmix", training=TrainingOptions(epochs=1, batch_size=40))
    with pytest.raises(InputError, match="has no labels that mix"):
        harden(model, Pairs(), cutmix, task=task, device="cpu")
    with pytest.raises(InputError, match=r"one label for each image .* shape \(40, 2\)"):
        measure(model, Pairs(), shifts="clean", device="cpu")


# A ratio of sums


class Overlap(Task):
    """Label maps, and the mean over classes of intersection over union, each a ratio of sums over the images."""

    name = "overlap"
    headline = "miou"
    classes = 3

    def per_image(self, logits, labels):
        predicted = logits.argmax(1)
        both, left, right = (
            torch.stack([mask.flatten(1).sum(1) for mask in masks], 1)
            for masks in zip(
                *(((predicted == k) & (labels == k), predicted == k, labels == k) for k in range(self.classes)),
                strict=True,
            )
        )
        return both, left, right

    def score(self, sums, images):
        both, left, right = (sums[..., k * self.classes : (k + 1) * self.classes] for k in range(3))
        return (both / (left + right - both)).mean(-1)


OVERLAP = Overlap()
MAPS = torch.randint(3, (30, 8, 8), generator=torch.Generator().manual_seed(0))


def maps_row(shift, noise, seed, **named):
    """Return a row, and by image and class the pixels in both maps and in each (30,3,3)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.nn.functional.one_hot(MAPS, 3).permute(0, 3, 1, 2).float()
    logits = logits + noise * torch.rand(30, 1, 1, 1, generator=generator) * torch.randn(
        30, 3, 8, 8, generator=generator
    )
    counts = np.zeros((30, 3, 3))
    for i, (values, truth) in enumerate(zip(logits.numpy(), MAPS.numpy(), strict=True)):
        found = values.argmax(0)
        for k in range(3):
            counts[i, :, k] = ((found == k) & (truth == k)).sum(), (found == k).sum(), (truth == k).sum()
    row = make_row(OVERLAP.per_image(logits, MAPS), MAPS, 3, shift=shift, severity=3, task=OVERLAP, **named)
    return row, counts


def miou(counts):
    both, found, truth = counts.sum(0)
    return np.mean([both[k] / (found[k] + truth[k] - both[k]) for k in range(3)])


def resampled(figure, images=30):
    """Return a figure of the images drawn, and its interval, by a loop over resamples."""
    generator = np.random.default_rng(0)
    values = [figure(generator.integers(images, size=images)) for _ in range(1000)]
    tail = stats.norm.cdf(-math.sqrt(images / (images - 1)) * stats.t.ppf(0.975, images - 1))
    return values, np.quantile(values, [tail, 1 - tail])


def test_a_ratio_of_sums_is_resampled_by_image():
    row, counts = maps_row("fog", 2, 1)
    assert OVERLAP.measures(row)["miou"] == pytest.approx(miou(counts))
    _, ends = resampled(lambda drawn: miou(counts[drawn]))
    assert OVERLAP.condition_interval([row]) == pytest.approx(ends, abs=2e-4)


def test_a_mean_of_ratios_has_its_conditions_resampled_together():
    rows, counts = zip(maps_row("fog", 2, 1), maps_row("snow", 3, 2), strict=True)
    figure = mean_score({("fog", 3): [rows[0]], ("snow", 3): [rows[1]]}, {"fog": 0.5, "snow": 0.5})
    _, ends = resampled(lambda drawn: (miou(counts[0][drawn]) + miou(counts[1][drawn])) / 2)
    assert OVERLAP.interval(figure) == pytest.approx(ends, abs=2e-4)


def test_a_difference_of_ratios_is_paired_by_image():
    (first, before), (second, after) = maps_row("fog", 2, 1), maps_row("fog", 3, 2)
    values, ends = resampled(lambda drawn: miou(after[drawn]) - miou(before[drawn]))
    found = OVERLAP.paired([(first, second)])
    difference = miou(after) - miou(before)
    assert found.difference.difference == pytest.approx(difference)
    assert (found.difference.low, found.difference.high) == pytest.approx(ends, abs=2e-4)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(difference) / np.std(values, ddof=1)))
    alone = [(miou(before[i : i + 1]), miou(after[i : i + 1])) for i in range(30)]
    assert found.only_second == sum(b > a for a, b in alone)


def test_images_left_out_are_no_part_of_a_ratio():
    row, counts = maps_row("fog", 2, 1, adapted_on=np.array([3, 7]), held_out=True)
    kept = np.setdiff1d(np.arange(30), [3, 7])
    assert OVERLAP.measures(row)["miou"] == pytest.approx(miou(counts[kept]))
    _, ends = resampled(lambda drawn: miou(counts[drawn[np.isin(drawn, kept)]]))
    assert OVERLAP.condition_interval([row]) == pytest.approx(ends, abs=2e-4)
    fewer = restrict(row, [5], OVERLAP)
    assert fewer["left_out"] == [3, 5, 7]
    assert OVERLAP.measures(fewer)["miou"] == pytest.approx(miou(np.delete(counts, [3, 5, 7], 0)))


def test_a_summary_of_a_ratio_says_its_name():
    rows = [maps_row("fog", 2, 1)[0], maps_row("clean", 1, 3)[0] | {"severity": 0}]
    summary = summarise(rows, task=OVERLAP)
    source = summary["protocols"]["source"]
    assert source["clean_miou"] == OVERLAP.measures(rows[1])["miou"]
    assert source["per_shift"]["fog"]["miou"] == source["measured_mean"]["miou"] == OVERLAP.measures(rows[0])["miou"]
    assert source["measured_mean"]["interval"] == list(OVERLAP.condition_interval(rows[:1]))
    plain = as_accuracy(summary, "miou")["protocols"]["source"]
    assert plain["clean_accuracy"] == source["clean_miou"]
    assert plain["per_shift"]["fog"]["accuracy"] == source["per_shift"]["fog"]["miou"]


def test_the_resampling_of_a_mean_is_bootstrap_interval():
    class Plain(MeanTask):
        name = "plain"

        def per_image(self, logits, labels):
            return (logits[:, 0],)

    values = torch.rand(25, 1, generator=torch.Generator().manual_seed(0))
    row = make_row(Plain().per_image(values, None), np.zeros(25), 1, shift="fog", severity=3, task=Plain())
    low, high = Task.interval(Plain(), mean_score({("fog", 3): [row]}, {"fog": 1.0}))
    assert (low, high) == pytest.approx(bootstrap_interval(values[:, 0].double().numpy()))
