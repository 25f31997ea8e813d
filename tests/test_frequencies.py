"""Where in the spectrum a change lies: beside a NumPy loop, closed forms, and real digits under corruption."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from statshift import InputError, corrupt, load_data

_spec = importlib.util.spec_from_file_location("spectrum", Path(__file__).parents[1] / "benchmarks" / "spectrum.py")
spectrum = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(spectrum)
high_frequency_share, radial_energy = spectrum.high_frequency_share, spectrum.radial_energy
spectral_energy = spectrum.spectral_energy

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(count, height, width, seed=0, dtype=torch.float64):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def grating(down, across, height=32, width=32):
    """Return one image (1,3,H,W) of whole waves, with a phase, alike in all channels."""
    rows, columns = (torch.arange(side, dtype=torch.float64) / side for side in (height, width))
    return torch.cos(2 * math.pi * (down * rows[:, None] + across * columns) + 0.3).expand(1, 3, height, width)


def loop(changes, bins, cutoff):
    """Return mean shares and high shares by the discrete Fourier transform as it is written, cell by cell."""
    shares, high = [], []
    for image in changes.numpy():
        _, height, width = image.shape
        found, above, whole = np.zeros(bins), 0.0, 0.0
        for u in range(height):
            for v in range(width):
                wave = np.exp(-2j * np.pi * (u * np.arange(height)[:, None] / height + v * np.arange(width) / width))
                energy = sum(abs((channel * wave).sum()) ** 2 for channel in image)
                radius = math.hypot(min(u, height - u) / (height / 2), min(v, width - v) / (width / 2))
                found[min(int(radius * bins), bins - 1)] += energy
                above += energy * (radius > cutoff)
                whole += energy
        shares.append(found / whole)
        high.append(above / whole)
    return np.mean(shares, 0), np.array(high)


@pytest.mark.parametrize(("height", "width", "bins", "cutoff"), [(8, 8, 5, 0.5), (9, 6, 7, 0.37), (7, 12, 1, 0.9)])
def test_shares_are_those_of_a_loop(height, width, bins, cutoff):
    changes = noise(3, height, width) + 0.4 * grating(1, 2, height, width)
    changes[1] *= 100  # each image counts alike
    shares, high = loop(changes, bins, cutoff)
    np.testing.assert_allclose(radial_energy(changes, bins), shares, rtol=1e-10)
    np.testing.assert_allclose(high_frequency_share(changes, cutoff), high, rtol=1e-10)


@pytest.mark.parametrize(
    ("down", "across", "radius"),
    [(0, 1, 1 / 16), (3, 4, 5 / 16), (-6, 8, 10 / 16), (0, 15, 15 / 16), (16, 0, 1), (12, 12, 1.06), (16, 16, 1.42)],
)
def test_a_grating_lies_in_its_bin(down, across, radius):
    shares = radial_energy(grating(down, across), bins=16)
    expected = torch.zeros(16, dtype=torch.float64)
    expected[min(int(radius * 16), 15)] = 1
    torch.testing.assert_close(shares, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("side", [28, 30, 32, 224])
def test_a_radius_on_an_edge_belongs_to_the_bin_above_it_and_not_beyond_the_cutoff(side):
    half = side // 2
    assert all(radial_energy(grating(0, k, 4, side), half)[min(k, half - 1)] > 1 - 1e-12 for k in range(half + 1))
    for k in range(1, half):
        wave = grating(0, k, 4, side)
        assert high_frequency_share(wave, k / half) < 1e-12
        assert high_frequency_share(wave, (k - 0.5) / half) > 1 - 1e-12


def test_a_constant_is_all_at_zero():
    flat = torch.tensor([0.1, -0.2, 0.3]).view(1, 3, 1, 1).expand(2, 3, 32, 20)
    torch.testing.assert_close(radial_energy(flat)[0].item(), 1.0, atol=1e-12, rtol=0)
    assert high_frequency_share(flat, 0.0).max() < 1e-12
    at_zero = torch.zeros(32, 20, dtype=torch.float64)
    at_zero[0, 0] = 32 * 20 * flat[0, :, 0, 0].double().square().sum()
    torch.testing.assert_close(spectral_energy(flat)[0], at_zero)


def test_energies_sum_to_the_sum_of_squares():
    changes = noise(4, 31, 18, dtype=torch.float32)
    expected = changes.double().square().sum((1, 2, 3))
    torch.testing.assert_close(spectral_energy(changes).sum((1, 2)), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(radial_energy(changes).sum().item(), 1.0, rtol=1e-12, atol=0)


@pytest.mark.parametrize("cutoff", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_white_noise_lies_above_the_cutoff_as_its_cells_do(cutoff):
    cells = [math.hypot(u, v) > 16 * cutoff for u in [*range(17), *range(-15, 0)] for v in [*range(17), *range(-15, 0)]]
    share, images = np.mean(cells), 400
    # The share of 3 * 1024 squared normals is a beta variable, of these two halves.
    deviation = math.sqrt(2 * share * (1 - share) / (3 * 1024 + 2) / images)
    found = high_frequency_share(noise(images, 32, 32, seed=1), cutoff).mean().item()
    assert found == pytest.approx(share, abs=4.5 * deviation)


def test_an_image_that_changes_nowhere_has_no_share_and_is_left_out():
    changes = noise(3, 16, 16)
    changes[1] = 0
    assert high_frequency_share(changes).isnan().tolist() == [False, True, False]
    torch.testing.assert_close(radial_energy(changes), radial_energy(changes[[0, 2]]))
    assert radial_energy(torch.zeros(2, 3, 8, 8)).isnan().all()


def test_digits_brighten_at_lower_frequencies_than_noise_has():
    images, _ = load_data("digits", limit=64).tensors()
    changes = {name: corrupt(images, name, 3) - images for name in ("brightness", "gaussian_noise")}
    high = {name: high_frequency_share(change) for name, change in changes.items()}
    assert high["brightness"].max() < 0.01
    assert 0.7 < high["gaussian_noise"].min() <= high["gaussian_noise"].max() < 0.82  # white noise 0.80, but clipped
    assert radial_energy(changes["brightness"])[0] > 0.95
    assert radial_energy(changes["gaussian_noise"])[0] < 0.05


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: radial_energy(torch.zeros(3, 8, 8)), r"`changes` as images \(B,3,H,W\), but got shape \(3, 8, 8\)"),
        (lambda: high_frequency_share(torch.zeros(0, 3, 8, 8)), r"got shape \(0, 3, 8, 8\)"),
        (lambda: radial_energy(torch.full((1, 3, 8, 8), torch.nan)), "`changes` to be finite"),
        (lambda: radial_energy(torch.zeros(1, 3, 8, 8), 0), "`bins` to be an integer of at least 1, but got 0"),
        (lambda: high_frequency_share(torch.zeros(1, 3, 8, 8), 1.5), r"`cutoff` in \[0,1\], but got 1.5"),
    ],
)
def test_what_cannot_be_is_refused(call, told):
    with pytest.raises(InputError, match=told):
        call()
