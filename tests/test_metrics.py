import math

import numpy as np
import pytest
import torch

from statshift._core.errors import InputError
from statshift.metrics.alexnet import ALEXNET, ALEXNET_CLEAN
from statshift.metrics.classification import (
    calibration_bins,
    calibration_error,
    corruption_error,
    mean_corruption_error,
    relative_corruption_error,
    relative_mean_corruption_error,
)
from statshift.tasks.statistics import image_statistics

RESNET50_CE = (80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77)  # percent; Hendrycks et al., AugMix


@pytest.mark.parametrize(
    ("corruption", "accuracy", "ce"),
    [  # a published evaluation of torchvision's first ResNet-50 on ImageNet-C, in percent
        ("gaussian_noise", 29.29, 79.77),
        ("impulse_noise", 23.81, 82.58),
        ("defocus_blur", 38.75, 74.71),
        ("glass_blur", 26.79, 88.61),
        ("frost", 38.14, 74.84),
        ("fog", 45.83, 66.11),
        ("brightness", 68.02, 56.64),
        ("contrast", 39.06, 71.43),
        ("elastic_transform", 45.25, 84.75),
    ],
)
def test_ce_agrees_with_published_accuracies(corruption, accuracy, ce):
    errors = [1 - accuracy / 100] * 5
    assert 100 * corruption_error(errors, ALEXNET["imagenet"][corruption]) == pytest.approx(ce, abs=0.01)


def test_mce_and_mean_error_of_resnet50_agree_through_the_table():
    """AugMix prints the CEs and mCE 76.7, Benz et al. accuracy 39.2 % of the same model: one table joins them."""
    table = ALEXNET["imagenet"]
    errors = {name: [ce / 100 * table[name]] * 5 for name, ce in zip(table, RESNET50_CE, strict=True)}
    assert 100 * mean_corruption_error(errors, table) == pytest.approx(76.7, abs=0.5)
    assert 100 * np.mean(list(errors.values())) == pytest.approx(100 - 39.2, abs=0.5)


@pytest.mark.parametrize("name", ALEXNET)
def test_alexnet_itself_has_mce_one(name):
    table = ALEXNET[name]
    assert list(table) == list(ALEXNET["imagenet"])
    assert len(table) == 15
    assert mean_corruption_error({c: [e] * 5 for c, e in table.items()}, table) == pytest.approx(1)


def test_alexnet_has_relative_mce_one():
    table, clean = ALEXNET["imagenet"], ALEXNET_CLEAN["imagenet"]
    errors = {name: [error - 0.1, error + 0.1, error, error, error] for name, error in table.items()}
    assert relative_mean_corruption_error(errors, clean, table, clean) == pytest.approx(1)


def test_mce_and_relative_mce_are_the_papers_sums():
    generator = np.random.default_rng(0)
    table, clean, baseline_clean = ALEXNET["imagenet"], 0.2, ALEXNET_CLEAN["imagenet"]
    errors = {name: generator.uniform(0.3, 0.9, 5) for name in table}
    ce = relative = 0.0
    for name, alexnet in table.items():
        ce += sum(errors[name]) / (5 * alexnet) / 15
        relative += sum(e - clean for e in errors[name]) / (5 * (alexnet - baseline_clean)) / 15
    assert mean_corruption_error(errors, table) == pytest.approx(ce, rel=1e-12)
    assert relative_mean_corruption_error(errors, clean, table, baseline_clean) == pytest.approx(relative, rel=1e-12)


def test_hold_out_corruptions_do_not_count():
    table = ALEXNET["cifar10"]
    errors = {name: [0.3] * 5 for name in table}
    assert mean_corruption_error({**errors, "spatter": [0.9] * 5}, table) == mean_corruption_error(errors, table)


def test_mce_of_fewer_conditions_is_refused_by_name():
    table = ALEXNET["cifar10"]
    errors = {name: [0.3] * 5 for name in table if name != "fog"} | {"snow": [0.3] * 4}
    with pytest.raises(InputError, match=r"missing: snow \(4 of 5 severities\), fog \(0 of 5 severities\)"):
        mean_corruption_error(errors, table)


def test_a_faultless_baseline_is_refused():
    with pytest.raises(InputError, match="above 0, but got 0"):
        corruption_error([0.1], 0)
    with pytest.raises(InputError, match="above 0"):
        relative_corruption_error([0.1], 0.05, 0.2, 0.2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [1, 2, 4, 5, 17])
def test_image_statistics_against_a_loop(classes, dtype):
    torch.manual_seed(classes)
    logits = (torch.randn(40, classes) * 3).round(decimals=1).to(dtype)
    logits[::3] = logits[::3].round()  # ties
    labels = torch.randint(classes, (40,))
    got = image_statistics(logits, labels)
    assert [field.dtype for field in got] == [torch.bool, torch.bool, torch.float32, torch.float32, torch.int64]
    for i, label in enumerate(labels.tolist()):
        row = logits[i].double().tolist()
        ranking = sorted(range(classes), key=lambda k: (-row[k], k))
        total = sum(math.exp(value) for value in row)
        assert got.correct[i] == (ranking[0] == label)
        assert got.predicted[i] == ranking[0]
        assert got.correct_top5[i] == (label in ranking[:5])
        assert got.cross_entropy[i] == pytest.approx(math.log(total) - row[label], rel=1e-5, abs=1e-5)
        assert got.confidence[i] == pytest.approx(math.exp(max(row)) / total, rel=1e-5)


def test_equal_logits_rank_by_class():
    statistics = image_statistics(torch.zeros(7, 7), torch.arange(7))
    assert statistics.correct.tolist() == [True] + [False] * 6
    assert statistics.correct_top5.tolist() == [True] * 5 + [False] * 2


def test_nan_is_never_correct_and_shows():
    logits = torch.tensor([[math.nan, 0.0, 0.0], [math.nan] * 3, [0.0, 1.0, math.nan]])
    statistics = image_statistics(logits, torch.tensor([0, 1, 1]))
    assert not statistics.correct.any()
    assert statistics.cross_entropy.isnan().all()
    assert statistics.confidence.isnan().all()


def test_large_logits_do_not_overflow():
    statistics = image_statistics(torch.tensor([[6e4, -6e4]], dtype=torch.float16), torch.tensor([1]))
    assert statistics.cross_entropy.item() == pytest.approx(120_000, rel=1e-3)
    assert statistics.confidence.item() == 1


@pytest.mark.gpu
def test_a_gpu_gives_the_same_without_a_transfer_to_the_host():
    torch.manual_seed(0)
    logits, labels = torch.randn(64, 1000).round(decimals=1), torch.randint(1000, (64,))
    expected = image_statistics(logits, labels)
    logits, labels = logits.cuda(), labels.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = image_statistics(logits, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b.cpu())


@pytest.mark.parametrize(("logits", "labels"), [((3,), (3,)), ((3, 2), (2,)), ((3, 2), (3, 1))])
def test_shapes_are_checked(logits, labels):
    with pytest.raises(InputError, match=r"\(B, K\)"):
        image_statistics(torch.zeros(logits), torch.zeros(labels, dtype=torch.long))


def test_calibration_against_a_loop():
    generator = np.random.default_rng(1)
    confidence = np.concatenate([generator.uniform(0, 1, 500), np.arange(16) / 15]).astype(np.float32)
    correct = generator.random(516) < 0.6
    counts, hits, sums = [0] * 15, [0] * 15, [0.0] * 15
    for value, hit in zip(confidence.tolist(), correct.tolist(), strict=True):
        m = next(m for m in range(15) if value <= (m + 1) / 15)
        counts[m] += 1
        hits[m] += hit
        sums[m] += value
    bins = calibration_bins(confidence, correct)
    assert bins[0].tolist() == counts
    assert bins[1].tolist() == hits
    assert bins[2].tolist() == pytest.approx(sums, rel=1e-12)
    expected = sum(n / 516 * abs(h / n - s / n) for n, h, s in zip(counts, hits, sums, strict=True) if n)
    assert calibration_error(*bins) == pytest.approx(expected, rel=1e-12)


def test_calibration_error_of_known_cases():
    sure = np.ones(10)
    assert calibration_error(*calibration_bins(sure, sure)) == 0
    assert calibration_error(*calibration_bins(sure, 1 - sure)) == 1
    assert calibration_error(*calibration_bins(sure * 0.75, np.arange(10) < 5)) == pytest.approx(0.25)
    with pytest.raises(InputError, match="at least one image"):
        calibration_error([0], [0], [0.0])
