"""Noise by its spectrum: blue and brownish."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
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
    cosines, sines = half.cos(), half.sin_()
    amplitudes = _amplitudes(images.device, height, width, side, colour)
    near, far = _frequencies(images.device, height, width), _frequencies(images.device, height, width, -1)
    parts = []
    for values, middle, sign in ((cosines, 1.0, 1), (sines, 0.0, -1)):
        centre = values.new_full((*values.shape[:2], height * width % 2), middle)
        plane = torch.cat([values, centre, values.flip(-1)], dim=-1).mul_(amplitudes)
        there = plane.index_select(-1, near)
        parts.append(there.add_(plane.index_select(-1, far), alpha=sign))
    spectrum = torch.complex(*parts).view(len(images), count, height, width // 2 + 1)
    noise: Tensor = torch.fft.irfft2(spectrum, s=(height, width))
    spread = noise.square().mean((-2, -1), keepdim=True) - noise.mean((-2, -1), keepdim=True).square()
    return noise.div_(spread.sqrt_())


@on_device
def _amplitudes(height: int, width: int, side: float, colour: str) -> Array:
    """Return (H * W,) about the spectrum's centre: d, or 1 / (d**2 + 1), d in cycles per `side` pixels."""
    rows = (np.arange(height) - height / 2) * side / height
    columns = (np.arange(width) - width / 2) * side / width
    squares = (rows[:, None] ** 2 + columns**2).ravel()
    return np.asarray(np.sqrt(squares) if colour == "blue" else 1 / (squares + 1))


@on_device
def _frequencies(height: int, width: int, sign: int = 1) -> NDArray[np.int64]:
    """Return (H * (W // 2 + 1),) where a spectrum about its centre holds what a real transform's frequencies are."""
    rows = (sign * np.arange(height) - height // 2) % height
    columns = (sign * np.arange(width // 2 + 1) - width // 2) % width
    return np.asarray(rows[:, None] * width + columns).ravel()
