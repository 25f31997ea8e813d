import json

import numpy as np
import pytest
from scipy import stats

from statshift._core.errors import InputError
from statshift.measuring.compare import Difference, compare
from statshift.metrics.alexnet import ALEXNET
from statshift.metrics.uncertainty import mcnemar, paired_interval, paired_test
from statshift.results import RunResult, open_run, restrict
from synthetic_runs import COMMON, benchmark_rows, paired_by_hand, per_image, synthetic_record, synthetic_row


@pytest.fixture
def runs(tmp_path):
    weak = benchmark_rows(0.6, seed=1)
    strong = benchmark_rows(0.75, seed=2)
    return run_of(tmp_path / "weak", weak), run_of(tmp_path / "strong", strong)


def run_of(path, rows, **changes):
    return RunResult(path, json.loads(json.dumps(synthetic_record(**changes))), rows)


def test_conditions_are_compared_image_by_image(runs):
    first, second = runs
    comparison = compare(first, second)
    assert comparison.images == 50
    assert [(c.shift, c.severity) for c in comparison.conditions] == [
        (row["shift"], row["severity"]) for row in first.rows
    ]
    for condition, a, b in zip(comparison.conditions, first.rows, second.rows, strict=True):
        before, after = per_image(a), per_image(b)
        accuracy = condition.accuracy
        assert accuracy.first == pytest.approx(sum(before) / 50, rel=1e-12)
        assert accuracy.second == pytest.approx(sum(after) / 50, rel=1e-12)
        assert accuracy.difference == pytest.approx((sum(after) - sum(before)) / 50, abs=1e-12)
        assert accuracy.low < accuracy.difference < accuracy.high
        lost = sum(x and not y for x, y in zip(before, after, strict=True))
        gained = sum(y and not x for x, y in zip(before, after, strict=True))
        assert (condition.only_first, condition.only_second) == (lost, gained)
        assert condition.p_value == pytest.approx(stats.binomtest(int(lost), int(lost + gained)).pvalue)


def test_p_values_are_adjusted_over_all_conditions(runs):
    conditions = compare(*runs).conditions
    ranked = sorted(conditions, key=lambda condition: condition.p_value)
    running = 0.0
    for rank, condition in enumerate(ranked):
        running = max(running, min(1.0, (76 - rank) * condition.p_value))
        assert condition.adjusted_p_value == pytest.approx(running)


def test_the_intervals_of_means_are_over_images_shared_by_both_runs(runs):
    comparison = compare(*runs, table="cifar10")
    wrong = [{(r["shift"], r["severity"]): ~per_image(r) for r in run.rows} for run in runs]
    by_image = []
    for one in wrong:
        errors = np.array([[one[c, s] for s in range(1, 6)] for c in COMMON]).mean(1)
        alexnet = np.array([ALEXNET["cifar10"][c] for c in COMMON])
        by_image.append((1 - errors.mean(0), (errors / alexnet[:, None]).mean(0)))
    for place, got in enumerate((comparison.mean_accuracy, comparison.mce)):
        before, after = (side[place] for side in by_image)
        assert (got.first, got.second) == pytest.approx((before.mean(), after.mean()))
        assert (got.low, got.high) == pytest.approx(paired_by_hand(after - before)[:2])
    assert comparison.mean_accuracy.low > 0
    assert comparison.mce.high < 0


def test_a_run_does_not_differ_from_itself(runs):
    comparison = compare(runs[0], runs[0], table="imagenet")
    assert all(condition.adjusted_p_value == 1 for condition in comparison.conditions)
    widths = {round(one.accuracy.high - one.accuracy.low, 12) for one in comparison.conditions}
    assert widths == {round(2 * stats.norm.ppf(0.975) * np.sqrt(2) / 52, 12)}  # Bonett & Price's, of no discordant one
    mean = comparison.mean_accuracy
    assert (mean.difference, mean.low) == (0, -mean.high)
    assert round(mean.high - mean.low, 12) in widths
    assert comparison.mce.low < comparison.mce.difference == 0 < comparison.mce.high


def test_one_condition_as_a_mean_has_the_interval_of_the_condition(tmp_path):
    """Also where images were left out to adapt on: those have no value."""
    rows = [synthetic_row("fog", 3, 0.4), synthetic_row("fog", 3, 0.6, seed=1, protocol="replace")]
    run = run_of(tmp_path, [rows[0], restricted(rows[1], range(20))])
    found = compare(run, run, protocols=("source", "replace"))
    assert found.images == 30
    assert found.measured_over == "mean of fog at severity 3"
    (condition,) = found.conditions
    assert vars(found.measured_mean) == pytest.approx(vars(condition.accuracy), abs=1e-12)
    before, after = (per_image(row)[20:] for row in rows)
    assert condition.accuracy.first == pytest.approx(before.mean())
    assert (condition.accuracy.low, condition.accuracy.high) == pytest.approx(paired_interval(before, after))


def restricted(row, left_out):
    return row | restrict(row, left_out) | {"adapted_on": list(left_out)}


def test_several_draws_are_one_value_an_image(tmp_path):
    draws = [synthetic_row("fog", 3, 0.7, seed=n, protocol="replace", draw=n) for n in range(3)]
    draws = [row | {"adapted_on": []} for row in draws]
    source = synthetic_row("fog", 3, 0.5, seed=9)
    run = run_of(tmp_path, [source, *draws])
    (condition,) = compare(run, run, protocols=("source", "replace")).conditions
    before, after = per_image(source) * 1.0, np.mean([per_image(row) for row in draws], 0)
    assert condition.p_value == pytest.approx(paired_test(before, after))
    assert (condition.accuracy.low, condition.accuracy.high) == pytest.approx(paired_interval(before, after))
    pooled = mcnemar(np.tile(per_image(source), 3), np.concatenate([per_image(row) for row in draws]))
    assert (condition.only_first, condition.only_second) == pooled[:2]
    assert condition.p_value > pooled[2]
    (one,) = compare(run_of(tmp_path, [source, draws[0]]), run, protocols=("source", "source")).conditions
    assert one.p_value == 1


def test_only_shared_conditions_are_compared(runs):
    first, second = runs
    fewer = run_of(second.path, [row for row in second.rows if row["shift"] != "fog"])
    comparison = compare(first, fewer, table="cifar10")
    assert len(comparison.conditions) == 71
    assert comparison.mean_accuracy is comparison.mce is None
    assert compare(first, second).mce is None
    with pytest.raises(InputError, match="share no condition"):
        compare(run_of(first.path, first.rows[:1]), run_of(second.path, second.rows[1:]))


def test_protocols_of_one_run_are_compared(tmp_path):
    rows = [synthetic_row("fog", 1, 0.4), synthetic_row("fog", 1, 0.9, protocol="replace")]
    run = run_of(tmp_path, rows)
    comparison = compare(run, run, protocols=("source", "replace"))
    (condition,) = comparison.conditions
    assert condition.accuracy.first == rows[0]["correct"] / 50
    assert condition.accuracy.second == rows[1]["correct"] / 50
    with pytest.raises(InputError, match=r"Unknown protocol .* 'replce'\. Did you mean 'replace'"):
        compare(run, run, protocols=("source", "replce"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": {"indices_hash": "other"}}, r"they used different images \(indices differ\)\."),
        ({"data": {"content_hash": "other"}}, r"they used different images \(content differs\)\."),
        (
            {"data": {"labels_hash": "other", "content_hash": "other"}, "corruption": {"frost": "photographs"}},
            r"they used different images \(labels and content differ\); `corruption.frost` is '.*' in the first and "
            r"'photographs' in the second\.",
        ),
    ],
)
def test_runs_over_other_images_are_refused(runs, changes, told):
    record = synthetic_record()
    other = run_of(runs[1].path, runs[1].rows, **{name: record[name] | new for name, new in changes.items()})
    with pytest.raises(InputError, match=f"^The runs cannot be compared image by image: {told}$"):
        compare(runs[0], other)


def test_other_draws_are_refused(runs):
    with pytest.raises(InputError, match="`seed` is 0 in the first and 1 in the second"):
        compare(runs[0], run_of(runs[1].path, runs[1].rows, seed=1))


def test_models_and_weights_may_differ(runs):
    other = run_of(runs[1].path, runs[1].rows, model={"spec": "timm:resnet50"}, dtype="bfloat16")
    assert compare(runs[0], other) == compare(*runs)


def test_directories_are_read(tmp_path, runs):
    for name, run in zip("ab", runs, strict=True):
        with open_run(tmp_path / name, synthetic_record()) as opened:
            for row in run.rows[:3]:
                opened.append(row)
    comparison = compare(tmp_path / "a", str(tmp_path / "b"))
    assert len(comparison.conditions) == 3
    with pytest.raises(InputError, match="nowhere is not a run directory"):
        compare(tmp_path / "a", tmp_path / "nowhere")


def test_a_difference_is_second_less_first():
    assert Difference(0.25, 0.75, 0.1, 0.9).difference == 0.5
