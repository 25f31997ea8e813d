"""Channel statistics: against NumPy, and as identities."""

import numpy as np
import pytest
import torch

from statshift._core.errors import InputError
from statshift.norms.statistics import ChannelStatistics, channel_statistics, mix, pool


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 1


@pytest.mark.parametrize("shape", [(7, 4), (3, 4, 5), (2, 4, 5, 6), (2, 4, 3, 5, 2)])
def test_statistics_are_numpys(shape):
    features = drawn(*shape)
    found = channel_statistics(features)
    values = np.moveaxis(features.numpy(), 1, 0).reshape(shape[1], -1)
    np.testing.assert_allclose(found.mean, values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.var, values.var(1), rtol=1e-12)
    np.testing.assert_allclose(found.unbiased_var, values.var(1, ddof=1), rtol=1e-12)
    assert found.count == values.shape[1]


def test_halves_are_measured_in_float32():
    features = drawn(4, 3, 8, 8).half()
    found = channel_statistics(features)
    assert found.mean.dtype == torch.float32
    torch.testing.assert_close(found.var, features.float().var((0, 2, 3), correction=0))


def test_one_value_has_no_variance():
    with pytest.raises(InputError, match=r"at least two values in a channel, but got features \(1, 4, 1, 1\)"):
        channel_statistics(drawn(1, 4, 1, 1))


def test_pooling_is_exact():
    features = drawn(9, 4, 5)
    parts = [channel_statistics(part) for part in features.split([1, 3, 5])]
    pooled, whole = pool(*parts), channel_statistics(features)
    torch.testing.assert_close(pooled.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(pooled.var, whole.var, rtol=1e-13, atol=0)
    assert pooled.count == whole.count == 45


def test_mixing_is_linear_in_mean_and_variance_and_so_not_pooling():
    first, second = (ChannelStatistics(torch.tensor([m]), torch.tensor([v]), 10) for m, v in ((0.0, 1.0), (4.0, 9.0)))
    mixed = mix(first, second, 0.25)
    assert (mixed.mean.item(), mixed.var.item()) == (3.0, 7.0)
    pooled = pool(first, second)
    assert (pooled.mean.item(), pooled.var.item()) == (2.0, 9.0)  # 5 within and 4 between


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_weights_are_from_zero_to_one(weight):
    one = ChannelStatistics(torch.zeros(1), torch.ones(1), 10)
    with pytest.raises(InputError, match=r"`source_weight` in \[0,1\]"):
        mix(one, one, weight)
