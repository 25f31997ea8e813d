"""The random numbers, tested as a generator and against plain Python integers."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from statshift._core.randomness import Draws, _unit, bits, keys, normal, uniform

M32, M64, GOLDEN = (1 << 32) - 1, (1 << 64) - 1, 0x9E3779B97F4A7C15
CHANCE = 1e-5  # at most this share of equally good generators would fail each statistical test


# ------------------------------------------------------------------- the same definition in Python integers


def splitmix(state):
    state &= M64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & M64
    state = (state ^ state >> 27) * 0x94D049BB133111EB & M64
    return state ^ state >> 31


def plain_key(seed, index, purpose):
    word = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    state = splitmix(splitmix(seed * GOLDEN + word) + index * GOLDEN)
    return state & M32, state >> 32


def plain_bits(key, position):
    state = position * 0x9E3779B1 + key[0] & M32
    state = (state ^ state >> 16) * 0x7FEB352D + key[1] & M32
    state = (state ^ state >> 15) * 0x846CA68B & M32
    return state ^ state >> 16


def plain_uniform(key, position):
    return ((plain_bits(key, position) >> 9) + 0.5) / 2**23


def plain_normal(key, position):
    first = position - position % 1024 + position % 512
    radius = math.sqrt(-2 * math.log(plain_uniform(key, first)))
    angle = 2 * math.pi * plain_uniform(key, first + 512)
    return radius * (math.cos(angle) if position % 1024 < 512 else math.sin(angle))


def unsigned(words):
    return words.long().numpy() & M32


def key_of(seed, index, purpose):
    return keys(seed, torch.tensor([index]), purpose)


ADDRESSES = [
    (0, 0, "noise"),
    (1, 0, "noise"),
    (0, 1, "noise"),
    (0, 0, ""),
    (-1, 5, "angle"),
    (2**64 - 1, 5, "angle"),
    (-(10**30), 49_999, "shot_noise/3/noise"),
    (2**63, 2**63 - 1, "größe"),
    (7, -(2**63), "x" * 200),
]


def test_mixing_has_the_published_answers_of_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [splitmix(1234567 + step * GOLDEN) for step in (1, 2, 3)] == published


@pytest.mark.parametrize("address", ADDRESSES)
def test_keys_bits_uniforms_and_normals_equal_plain_integers(address):
    key, plain = key_of(*address), plain_key(*address)
    assert tuple(unsigned(key)[0]) == plain
    positions = [0, 1, 2, 511, 512, 1023, 1024, 1535, 1536, 3071, 40_000, 150_527]
    assert unsigned(bits(key, 150_528))[0, positions].tolist() == [plain_bits(plain, p) for p in positions]
    assert uniform(key, 3, 224, 224).flatten()[positions].tolist() == [plain_uniform(plain, p) for p in positions]
    drawn = normal(key, 3, 224, 224).flatten()[positions].numpy()
    np.testing.assert_allclose(drawn, [plain_normal(plain, p) for p in positions], atol=3e-6)


def test_known_answers():
    """Literal values: a change of these changes every corrupted image ever made."""
    assert unsigned(keys(0, torch.tensor([0, 1]), "noise")).tolist() == [
        [1988826305, 541557073],
        [3713019042, 851494875],
    ]
    assert unsigned(bits(key_of(0, 0, "noise"), 4)).tolist() == [[1427223774, 2936936675, 2423806946, 1477954872]]
    assert unsigned(bits(key_of(-3, 2**40, "fog/5/cloud"), 4)).tolist() == [
        [301558567, 2170380463, 2623421907, 2672302843]
    ]
    assert uniform(key_of(0, 0, "noise"), 3).tolist() == [[0.33230143785476685, 0.6838088631629944, 0.5643364787101746]]
    assert normal(key_of(0, 0, "noise"), 3).tolist() == [pytest.approx([-0.947156, -0.627211, 0.775206], abs=1e-6)]


# ----------------------------------------------------------------------------------------- addresses


def test_a_value_depends_on_its_address_alone():
    indices = torch.tensor([3, 1, 4, 1_000_000, 5])
    batch = keys(9, indices, "p")
    for draw in (uniform, normal):
        large = draw(batch, 3, 40, 41)
        assert torch.equal(draw(batch, 3 * 40 * 41).view_as(large), large)
        assert torch.equal(draw(batch, 2, 700), large.flatten(1)[:, :1400].view(5, 2, 700))
        assert torch.equal(draw(batch), large[:, 0, 0, 0])
        assert torch.equal(draw(batch.flip(0), 3, 40, 41).flip(0), large)
        alone = [draw(key_of(9, int(index), "p"), 3, 40, 41) for index in indices]
        assert torch.equal(torch.cat(alone), large)


def test_working_in_pieces_changes_nothing(monkeypatch):
    batch = keys(0, torch.arange(37), "p")
    whole = bits(batch, 5000)
    for cache in (1, 12_345, 1 << 30):
        monkeypatch.setattr("statshift._core.randomness._CACHE", cache)
        assert torch.equal(bits(batch, 5000), whole)


def test_empty_batches_and_fields():
    none = keys(0, torch.arange(0), "p")
    assert uniform(none, 3, 4).shape == (0, 3, 4)
    assert normal(none, 3, 4).shape == (0, 3, 4)


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, 2**63, -(2**63) - 1, 10**30])
def test_seeds_count_modulo_2_to_the_64(seed):
    indices = torch.arange(4)
    assert torch.equal(keys(seed, indices, "p"), keys(seed + 2**64, indices, "p"))
    assert not torch.equal(keys(seed, indices, "p"), keys(seed + 2**32, indices, "p"))


@pytest.mark.parametrize("vary", ["index", "seed", "purpose"])
def test_no_two_keys_are_equal(vary):
    count = {"index": 1_000_000, "seed": 2000, "purpose": 2000}[vary]
    made = {
        "index": lambda: keys(0, torch.arange(count), "p"),
        "seed": lambda: torch.cat([key_of(seed, 0, "p") for seed in range(-1000, 1000)]),
        "purpose": lambda: torch.cat([key_of(0, 0, f"p{number}") for number in range(count)]),
    }[vary]()
    words = unsigned(made).astype(np.uint64)
    assert len(np.unique(words[:, 0] << np.uint64(32) | words[:, 1])) == count


# ---------------------------------------------------------------------------------------- distributions

LONG = 1 << 20  # values in the tests of one distribution: 64 keys of 16,384


def sample(draw):
    return draw(keys(1, torch.arange(64), "distribution"), LONG // 64).double().numpy()


def test_uniform_stays_off_both_ends():
    """Whatever the bits, for the most extreme ones are tried."""
    extremes = _unit(torch.tensor([0, 511, 512, 2**31 - 1, -(2**31), -512, -1], dtype=torch.int32)).tolist()
    assert extremes == [2**-24, 2**-24, 3 * 2**-24, 0.5 - 2**-24, 0.5 + 2**-24, 1 - 2**-24, 1 - 2**-24]
    values = sample(uniform)
    assert 0 < values.min() < 20 / LONG  # missing (0, 20/N) altogether has a chance of e**-20
    assert 1 - 20 / LONG < values.max() < 1


def test_moments():
    """Each raw moment within 5 standard errors, which follow from the distribution's own moments."""
    for draw, moment in (
        (uniform, lambda k: 1 / (k + 1)),
        (normal, lambda k: 0 if k % 2 else math.prod(range(1, k, 2))),
    ):
        values = sample(draw)
        for k in range(1, 7):
            error = math.sqrt((moment(2 * k) - moment(k) ** 2) / LONG)
            assert abs((values**k).mean() - moment(k)) < 5 * error, (draw.__name__, k)


@pytest.mark.parametrize(("draw", "law"), [(uniform, "uniform"), (normal, "norm")])
def test_kolmogorov_smirnov(draw, law):
    """All values together, each key's values, and each position's values over keys follow the law."""
    values = sample(draw)
    assert stats.kstest(values.ravel(), law).pvalue > CHANCE
    by_key = [stats.kstest(row, law).pvalue for row in values]
    by_position = [stats.kstest(column, law).pvalue for column in values[:, :512].T]
    for p_values in (by_key, by_position):
        assert stats.kstest(p_values, "uniform").pvalue > CHANCE


def test_tails_of_the_normal():
    """Shares beyond 3 and 4 within 5 standard errors; nothing beyond what 23 bits allow."""
    magnitudes = np.abs(sample(normal))
    for threshold in (3, 4):
        share = 2 * stats.norm.sf(threshold)
        assert abs((magnitudes > threshold).mean() - share) < 5 * math.sqrt(share / LONG)
    assert magnitudes.max() < math.sqrt(48 * math.log(2)) + 1e-5


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 2), (-4, 4), (0, 5), (-1, 2), (0, 1000), (7, 8)])
def test_integers_cover_their_range_uniformly(low, high):
    values = Draws(0, torch.arange(16), "s").integers("i", 20_000, low=low, high=high)
    assert values.dtype == torch.int64
    counts = np.bincount(values.flatten().numpy() - low, minlength=high - low)
    assert len(counts) == high - low
    assert counts.min() > 0
    assert high - low == 1 or stats.chisquare(counts).pvalue > CHANCE


def test_every_bit_is_balanced_and_none_follows_another():
    """Means and pairwise correlations of the 32 bits: z-scores over 2**18 words, 32 + 496 of them."""
    words = unsigned(bits(keys(2, torch.arange(64), "p"), 1 << 12)).ravel()
    signs = np.array([1 - 2.0 * (words >> bit & 1) for bit in range(32)])
    scores = np.concatenate([signs.sum(1), (signs @ signs.T)[np.triu_indices(32, 1)]]) / math.sqrt(words.size)
    assert_standard_normal(scores)


def assert_standard_normal(scores):
    """Independent z-scores: their maximum, and their mean square, each beyond its bound by `CHANCE`."""
    scores = np.asarray(scores, dtype=float).ravel()
    assert np.abs(scores).max() < stats.norm.isf(CHANCE / (2 * scores.size))
    low, high = stats.chi2.ppf(CHANCE, scores.size), stats.chi2.isf(CHANCE, scores.size)
    assert low < (scores**2).sum() < high


# -------------------------------------------------------------------------------- one key beside another

NEIGHBOURS = {
    "consecutive indices": lambda n: keys(0, torch.arange(n), "p"),
    "indices of one bit": lambda n: keys(0, torch.tensor([1 << bit for bit in range(63)]), "p"),
    "multiples of 2**32": lambda n: keys(0, torch.arange(n) << 32, "p"),
    "consecutive seeds": lambda n: torch.cat([key_of(seed, 0, "p") for seed in range(-n // 2, n // 2)]),
    "seeds apart by 2**32": lambda n: torch.cat([key_of(seed << 32, 0, "p") for seed in range(n)]),
    "similar purposes": lambda n: torch.cat([key_of(0, 0, f"offsets {step}") for step in range(n)]),
    "seed against index": lambda n: torch.cat([key_of(step, -step, "p") for step in range(n)]),
}


def standardised(fields):
    """Rows of mean about 0 and deviation about 1, by the law of a uniform, not by the rows themselves."""
    return (fields.double().flatten(1).numpy() - 0.5) * math.sqrt(12)


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_streams_of_neighbouring_keys_are_uncorrelated(kind):
    length = 4096
    rows = standardised(uniform(NEIGHBOURS[kind](200), length))
    scores = (rows @ rows.T)[np.triu_indices(len(rows), 1)] / math.sqrt(length)
    assert_standard_normal(scores)
    squares = (rows**2 - 1) / math.sqrt(0.8)  # the variance of the square is 9/5 - 1
    assert_standard_normal((squares @ squares.T)[np.triu_indices(len(rows), 1)] / math.sqrt(length))


def test_no_stream_is_a_shifted_copy_of_another():
    """Circular cross-correlations at all 4096 lags of the 190 pairs among 20 keys, through FFT."""
    length = 4096
    spectra = np.fft.rfft(standardised(uniform(keys(0, torch.arange(20), "p"), length)))
    for first, second in itertools.combinations(spectra, 2):
        scores = np.fft.irfft(first * second.conj(), length) / math.sqrt(length)
        assert np.abs(scores).max() < stats.norm.isf(CHANCE / (2 * length * 190))


def test_no_stream_is_a_copy_of_another_permuted_by_xor():
    """Correlations of stream a at p with stream b at p XOR m, for all 4096 masks m, through Walsh-Hadamard."""
    length = 4096
    spectra = [hadamard(row) for row in standardised(uniform(keys(0, torch.arange(20), "p"), length))]
    for first, second in itertools.combinations(spectra, 2):
        scores = hadamard(first * second) / length / math.sqrt(length)
        assert np.abs(scores).max() < stats.norm.isf(CHANCE / (2 * length * 190))


def hadamard(row):
    """The Walsh-Hadamard transform, unnormalised."""
    for bit in range(len(row).bit_length() - 1):
        pairs = row.reshape(-1, 2, 1 << bit)
        row = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).ravel()
    return row


def test_streams_whose_walks_overlap_still_differ():
    """The worst case made by hand: the same first word, so the same walk, and second words drawn at random."""
    length, pairs = 1 << 14, 500
    words = torch.randint(-(2**31), 2**31, (pairs, 3), generator=torch.Generator().manual_seed(0)).int()
    one, other = (standardised(uniform(words[:, columns], length)) for columns in ([0, 1], [0, 2]))
    assert_standard_normal((one * other).sum(1) / math.sqrt(length))


def test_repeats_are_as_frequent_as_by_chance():
    """No value twice within a key (its hash is a bijection); between keys the birthday count is Poisson's."""
    count, length = 64, 1 << 14
    words = unsigned(bits(keys(5, torch.arange(count), "p"), length))
    assert all(len(np.unique(row)) == length for row in words)
    expected = count * (count - 1) / 2 * length**2 / 2**32  # 126 pairs
    repeats = words.size - len(np.unique(words))
    assert stats.poisson.ppf(CHANCE, expected) <= repeats <= stats.poisson.isf(CHANCE, expected)


# ----------------------------------------------------------------------------- one position beside another


@pytest.mark.parametrize("draw", [uniform, normal])
def test_positions_are_uncorrelated_at_every_lag(draw):
    """Circular autocorrelations at all lags up to half of 2**16, values and squares, mean over 8 keys."""
    length = 1 << 16
    fields = draw(keys(3, torch.arange(8), "p"), length).double().numpy()
    for values in (fields, fields**2):
        power = np.abs(np.fft.rfft((values - values.mean()) / values.std())) ** 2
        scores = np.fft.irfft(power, length)[:, 1 : length // 2].sum(0) / math.sqrt(length * 8)
        assert_standard_normal(scores)


@pytest.mark.parametrize("width", [32, 224])
@pytest.mark.parametrize("draw", [uniform, normal])
def test_neighbours_in_an_image_are_uncorrelated(draw, width):
    """Pixels apart by up to 3 rows and 3 columns, and channels: z-scores over about 600,000 pairs each."""
    count = 600_000 // (3 * width * width)
    fields = draw(keys(4, torch.arange(count), "p"), 3, width, width).double().numpy()
    fields = (fields - fields.mean()) / fields.std()
    scores = []
    for channel, down, right in itertools.product((0, 1), range(4), range(-3, 4)):
        if (channel, down, right) <= (0, 0, 0):
            continue
        here = fields[:, : 3 - channel, : width - down, max(0, -right) : width - max(0, right)]
        there = fields[:, channel:, down:, max(0, right) : width + min(0, right)]
        scores.append((here * there).sum() / math.sqrt(here.size))
    assert_standard_normal(scores)


# -------------------------------------------------------------------------------------------- avalanche


def test_flipping_a_bit_of_the_index_flips_half_of_the_bits():
    """Of the key's words and of a value: binomial z-scores of all 96 output bits, 4096 flips of each input bit."""
    indices = torch.randint(0, 2**62, (4096,), generator=torch.Generator().manual_seed(0))
    scores = []
    for bit in range(64):
        one, other = (keys(0, each, "p") for each in (indices, indices ^ (1 << bit if bit < 63 else -(2**63))))
        scores += [flips(one[:, 0], other[:, 0]), flips(one[:, 1], other[:, 1]), flips(bits(one, 1), bits(other, 1))]
    assert_standard_normal(scores)


def test_flipping_a_bit_of_the_position_flips_half_of_the_bits():
    """Binomial z-scores of the 32 output bits, positions 0 and 2**bit of 1024 keys."""
    words = bits(keys(0, torch.arange(1024), "avalanche"), (1 << 17) + 1)
    assert_standard_normal([flips(words[:, 0], words[:, 1 << bit]) for bit in range(18)])


def flips(one, other):
    """z-scores of how often each of 32 bits differs."""
    changed = unsigned(one.flatten() ^ other.flatten())
    counts = np.array([(changed >> bit & 1).sum() for bit in range(32)])
    return (counts - changed.size / 2) / math.sqrt(changed.size / 4)


# ------------------------------------------------------------------------------------------------ Draws


def test_draws_are_the_streams_of_scope_and_purpose():
    indices = torch.tensor([5, 0, 9])
    draws = Draws(3, indices, "fog/2")
    made = keys(3, indices, "fog/2/cloud")
    assert torch.equal(draws.keys("cloud"), made)
    assert torch.equal(draws.uniform("cloud", 4, 5), uniform(made, 4, 5))
    assert torch.equal(draws.normal("cloud", 4, 5), normal(made, 4, 5))
    assert torch.equal(draws.uniform("cloud", 7, low=-2.0, high=3.0), uniform(made, 7) * 5 - 2)
    assert torch.equal(draws.integers("cloud", 7, low=-2, high=3), (uniform(made, 7) * 5).floor().long() - 2)


def test_draws_of_different_addresses_are_uncorrelated():
    """Every two of these share all but one part of their address: z-scores over 10,000 values."""
    indices = torch.arange(2)
    made = [
        Draws(seed, indices, scope).uniform(purpose, 10_000)
        for seed, scope, purpose in itertools.product((0, 1), ("snow/1", "snow/2", "fog/1"), ("flakes", "angle"))
    ]
    rows = standardised(torch.cat(made))
    assert_standard_normal((rows @ rows.T)[np.triu_indices(len(rows), 1)] / 100)


@pytest.mark.gpu
def test_a_gpu_draws_the_same():
    """Bits and uniforms exactly; normals to the rounding of the device's logarithm and cosine."""
    here = keys(1, torch.arange(16), "p")
    there = keys(1, torch.arange(16, device="cuda"), "p")
    assert torch.equal(there.cpu(), here)
    assert torch.equal(bits(there, 150_528).cpu(), bits(here, 150_528))
    assert torch.equal(uniform(there, 3, 224, 224).cpu(), uniform(here, 3, 224, 224))
    torch.testing.assert_close(normal(there, 3, 224, 224).cpu(), normal(here, 3, 224, 224), atol=4e-6, rtol=0)
