"""Noise by its spectrum: blue and brownish."""

import math

import numpy as np
import torch
from torch import Tensor

from statshift._core.randomness import Draws
from statshift.shifts.bar.corruption import bar_corruption
from statshift.shifts.corruptions.filters import Array, on_device


@bar_corruption
def blue_noise_sample(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Blacken the pixels where blue noise of unit deviation is not above 0.3 level - 2.5."""
    noise = _spectral_noise(images, draws, side, "blue", 1)
    return images * (noise > 0.3 * level - 2.5)


@bar_corruption
def brownish_noise(images: Tensor, draws: Draws, *, level: float, side: float) -> Tensor:
    """Add to each channel brownish noise of a deviation of 6.4 level / 255."""
    return _spectral_noise(images, draws, side, "brownish", 3).mul_(6.4 * level / 255).add_(images)


def _spectral_noise(images: Tensor, draws: Draws, side: float, colour: str, count: int) -> Tensor:
    """Return (B, count, H, W) of unit deviation: amplitudes by frequency, phases drawn.

    Phases are uniform, and the same at places of the spectrum that mirror one another about its centre.
    """
    height, width = images.shape[-2:]
    half = draws.uniform("phases", count, height * width // 2, high=2 * math.pi)
    centre = half.new_zeros(*half.shape[:2], height * width % 2)
    phases = torch.cat([half, centre, half.flip(-1)], dim=-1).unflatten(-1, (height, width))
    phases = phases.roll((height // 2, width // 2), (-2, -1))
    noise = torch.fft.ifft2(torch.polar(_amplitudes(images.device, height, width, side, colour), phases)).real
    return noise / noise.std(dim=(-2, -1), correction=0, keepdim=True)


@on_device
def _amplitudes(height: int, width: int, side: float, colour: str) -> Array:
    """Return (H, W) in the order of a Fourier transform: d, or 1 / (d**2 + 1), d in cycles per `side` pixels."""
    rows = (np.arange(height) - height / 2) * side / height
    columns = (np.arange(width) - width / 2) * side / width
    squares = np.roll(rows[:, None] ** 2 + columns**2, (height // 2, width // 2), (0, 1))
    return np.asarray(np.sqrt(squares) if colour == "blue" else 1 / (squares + 1))
