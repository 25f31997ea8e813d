"""The frequency view of a shift: where in the spectrum the change that it makes to images lies.

Reference: Yin et al., "A Fourier Perspective on Model Robustness in Computer Vision" (NeurIPS 2019), on which Benz et
    al., "Batch Normalization Increases Adversarial Vulnerability" (ICLR 2021 submission), appendix A, build.
"""

import torch
from torch import Tensor

from statshift._core.errors import InputError

_SLACK = 1e-9  # by which a radius may round below an edge that it lies on


def spectral_energy(changes: Tensor) -> Tensor:
    """Return the energy (B,H,W) float64 of changes at each frequency, in the order of `torch.fft.fft2`.

    It is |FFT2|^2 / (H W), summed over channels, so that an image's energies sum to the sum of its squares.

    Args:
        changes: (B,3,H,W), shifted images minus clean ones.

    Raises:
        InputError: another shape, no image, or changes that are not finite.
    """
    if changes.ndim != 4 or 0 in changes.shape:
        raise InputError(f"Expected `changes` as images (B,3,H,W), but got shape {tuple(changes.shape)}.")
    if not bool(changes.isfinite().all()):
        raise InputError("Expected `changes` to be finite, but some are infinite or NaN.")
    spectrum: Tensor = torch.fft.fft2(changes.double(), norm="ortho")
    return spectrum.abs().square().sum(1)


def radial_energy(changes: Tensor, bins: int = 16) -> Tensor:
    """Return the mean share (bins,) float64 of spectral energy by radial frequency; the shares sum to 1.

    Bins are equally wide, from radius 0, a constant, to 1, the Nyquist frequency along an axis; what lies at 1 and in
    the corners beyond counts in the last. Images that change nowhere are left out; if none changes, shares are NaN.

    Args:
        changes: (B,3,H,W), shifted images minus clean ones.
        bins: how many.

    Raises:
        InputError: as `spectral_energy`, or fewer than one bin.

    Reference:
        Yin et al., NeurIPS 2019, Figure 2.

    Differs:
        There the mean magnitude is shown over the plane; here energy over radii, of each image alike.
    """
    if not (isinstance(bins, int) and bins >= 1):
        raise InputError(f"Expected `bins` to be an integer of at least 1, but got {bins}.")
    energy = spectral_energy(changes)
    places = (_radii(energy) * bins + _SLACK).long().clamp_max_(bins - 1)
    sums = energy.new_zeros(len(energy), bins).index_add_(1, places.flatten(), energy.flatten(1))
    return (sums / sums.sum(1, keepdim=True)).nanmean(0)


def high_frequency_share(changes: Tensor, cutoff: float = 0.5) -> Tensor:
    """Return of each image the share (B,) float64 of spectral energy above a radius; NaN where it changes nowhere.

    Args:
        changes: (B,3,H,W), shifted images minus clean ones.
        cutoff: the radius, in [0,1]; 1 is the Nyquist frequency along an axis, and only the corners lie beyond.

    Raises:
        InputError: as `spectral_energy`, or a cutoff outside [0,1].
    """
    if not 0 <= cutoff <= 1:
        raise InputError(f"Expected `cutoff` in [0,1], but got {cutoff}.")
    energy = spectral_energy(changes)
    return energy[:, _radii(energy) > cutoff + _SLACK].sum(1) / energy.sum((1, 2))


def _radii(energy: Tensor) -> Tensor:
    """Return the radius (H,W) of each frequency, 1 for half a cycle a pixel along an axis."""
    down, across = (2 * torch.fft.fftfreq(side, dtype=energy.dtype, device=energy.device) for side in energy.shape[1:])
    return torch.hypot(down[:, None], across)
