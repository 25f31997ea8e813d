import numpy as np
import pytest
from scipy import stats

from statshift._core.errors import InputError
from statshift.metrics.uncertainty import (
    _t_quantile,
    bootstrap_interval,
    holm,
    mcnemar,
    mean_interval,
    paired_interval,
    paired_test,
    wilson_interval,
)


def paired(both, only_first, only_second, neither):
    """Return the two vectors of correctness with these counts."""
    first = [1] * (both + only_first) + [0] * (only_second + neither)
    second = [1] * both + [0] * only_first + [1] * only_second + [0] * neither
    return np.array(first), np.array(second)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [  # Newcombe (1998), Table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_the_published_table(correct, total, low, high):
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_agrees_with_scipy(level):
    total = np.array([1, 7, 500])[:, None]
    correct = np.round(total * np.array([0, 0.2, 0.5, 1])).astype(int)
    low, high = wilson_interval(correct, total, level)
    assert low.shape == (3, 4)
    for i, j in np.ndindex(3, 4):
        expected = stats.binomtest(int(correct[i, j]), int(total[i, 0])).proportion_ci(level, "wilson")
        assert (low[i, j], high[i, j]) == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(correct, total):
    with pytest.raises(InputError, match="Expected 0 <= `correct` <= `total`"):
        wilson_interval(correct, total)


def test_a_level_outside_0_and_1_is_refused():
    with pytest.raises(InputError, match="`level` to be between 0 and 1, but got 95"):
        wilson_interval(1, 2, level=95)


def test_bootstrap_of_conditions_equals_resampling_the_images_of_all_of_them():
    generator = np.random.default_rng(0)
    bits = generator.random((6, 40)) < 0.7
    weights = generator.uniform(0, 1, 6)
    resampler = np.random.default_rng(3)
    estimates = []
    for _ in range(200):
        images = resampler.integers(40, size=40)
        estimates.append(sum(w * bits[c, images].mean() for c, w in enumerate(weights)))
    tail = stats.norm.cdf(np.sqrt(40 / 39) * stats.t.ppf(0.05, 39))  # further out, as Hesterberg has it
    expected = np.quantile(estimates, [tail, 1 - tail])
    assert bootstrap_interval(weights @ bits, draws=200, seed=3, level=0.9) == pytest.approx(tuple(expected), abs=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 0.97])
def test_the_interval_of_a_mean_covers_at_20_images(share):
    right = np.random.default_rng(0).binomial(20, share, 4000)
    ends = np.array([mean_interval(np.arange(20) < count) for count in range(21)])
    for count in range(21):
        assert ends[count] == pytest.approx(np.array(wilson_interval(count, 20)))
    covered = np.mean([ends[count][0] <= share <= ends[count][1] for count in right])
    assert 0.945 <= covered <= 0.985


def test_the_interval_of_a_mean_over_conditions_covers_at_20_images():
    """Fifteen conditions share their images, of which some are hard; the plain percentiles cover less."""
    generator = np.random.default_rng(1)
    hits = {"mean": 0, "plain": 0}
    resampled = generator.integers(20, size=(400, 20))
    for _ in range(1500):
        values = generator.binomial(15, 0.7 + 0.1 * generator.choice([-1, 1], 20)) / 15
        low, high = mean_interval(values)
        hits["mean"] += low <= 0.7 <= high
        low, high = np.quantile(values[resampled].mean(1), [0.025, 0.975])
        hits["plain"] += low <= 0.7 <= high
    assert 0.94 <= hits["mean"] / 1500 <= 0.97
    assert hits["plain"] / 1500 < 0.935


def test_the_expanded_percentiles_cover_at_20_images():
    generator = np.random.default_rng(2)
    values = generator.binomial(20, 0.7, (2000, 20)) / 20
    low, high = bootstrap_interval(values)
    assert 0.935 <= np.mean((low <= 0.7) & (high >= 0.7)) <= 0.96


def test_the_quantiles_are_students():
    for degrees in (4, 19, 99):
        assert _t_quantile(0.95, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0.01)


@pytest.mark.parametrize("images", [20, 200])
def test_several_draws_without_a_difference_are_marked_as_often_as_said(images):
    """Ten draws of two models that err on the same images alike; pooled draws would be marked far more often."""
    generator = np.random.default_rng(3)
    marked = pooled = 0
    for _ in range(1000):
        hard = generator.random((images, 1))
        own = [np.where(generator.random((images, 1)) < 0.9, generator.random((images, 1)), 2.0) for _ in range(2)]
        first, second = (np.where(fixed < 2, fixed, generator.random((images, 10))) > hard for fixed in own)
        p_value = paired_test(first.mean(1), second.mean(1))
        low, high = paired_interval(first.mean(1), second.mean(1))
        assert (p_value < 0.05) == (low > 0 or high < 0)
        marked += p_value < 0.05
        pooled += mcnemar(first.ravel(), second.ravel())[2] < 0.05
    assert 0.025 <= marked / 1000 <= 0.065
    assert pooled / 1000 > 0.4


def test_bootstrap_is_as_wide_as_theory_says():
    values = np.random.default_rng(1).normal(size=2000)
    low, high = bootstrap_interval(values, draws=2000)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_bootstrap_shares_draws_and_is_addressed_by_seed():
    values = np.random.default_rng(2).random((2, 50))
    low, high = bootstrap_interval(values, seed=5)
    for i in range(2):
        assert bootstrap_interval(values[i], seed=5) == pytest.approx((low[i], high[i]), rel=1e-12)
    assert bootstrap_interval(values[0], seed=6) != (low[0], high[0])
    with pytest.raises(InputError, match="at least one image"):
        bootstrap_interval([])


def test_paired_interval_agrees_with_published_examples():
    # Fagerland, Lydersen & Laake, Statistical Analysis of Contingency Tables (2017), chapter 8
    assert paired_interval(*paired(59, 16, 6, 80)) == pytest.approx((-0.1195, -0.0032), abs=5e-5)


def test_paired_interval_covers_at_small_n():
    generator = np.random.default_rng(0)
    cells = np.array([0.55, 0.05, 0.2, 0.2])
    hits = 0
    for _ in range(2000):
        low, high = paired_interval(*paired(*generator.multinomial(25, cells)))
        hits += low <= cells[2] - cells[1] <= high
    assert 0.935 <= hits / 2000 <= 0.98


def test_paired_interval_of_equal_runs_is_centred_on_nothing():
    low, high = paired_interval(np.ones(30), np.ones(30))
    assert low == -high
    assert 0 < high < 0.1


def test_paired_interval_stays_within_one():
    low, high = paired_interval(np.zeros(2), np.ones(2))
    assert (low < high, high) == (True, 1.0)


@pytest.mark.parametrize("counts", [(1, 7), (0, 0), (0, 5), (6, 6), (40, 61), (900, 1000), (12_000, 12_500)])
def test_mcnemar_agrees_with_the_binomial_test(counts):
    only_first, only_second, p_value = mcnemar(*paired(10, *counts, 10))
    assert (only_first, only_second) == counts
    expected = stats.binomtest(counts[0], sum(counts)).pvalue if sum(counts) else 1
    assert p_value == pytest.approx(expected, rel=1e-9)


def test_mcnemar_does_not_overflow():
    assert mcnemar(*paired(0, 0, 30_000, 0))[2] == 0
    assert mcnemar(*paired(0, 15_000, 15_000, 0))[2] == 1


def test_pairs_must_be_of_the_same_images():
    with pytest.raises(InputError, match=r"same images, shape \(N,\), but got \(2,\) and \(3,\)"):
        mcnemar([0, 1], [0, 1, 1])
    with pytest.raises(InputError, match="same images"):
        paired_interval([], [])


def test_holm_steps_down():
    p_values = np.random.default_rng(0).uniform(0, 0.1, 12)
    p_values[3] = p_values[7]
    adjusted = holm(p_values)
    ranked = sorted(p_values)
    for p, got in zip(p_values, adjusted, strict=True):
        steps = [(12 - i) * q for i, q in enumerate(ranked) if q <= p]
        assert got == pytest.approx(min(1, max(steps)))
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
