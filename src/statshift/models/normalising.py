"""Which mean and deviation images are normalised by, and that it is done once."""

from collections.abc import Sequence
from typing import Any
from warnings import warn

from torch import Tensor, nn

from statshift._core.errors import CheckpointWarning, InputError
from statshift.models.pixel import PixelModel, Preprocessing

SAME = 1e-3
"""Means and deviations in [0,1] that differ by less are the same: they are printed with three or four digits."""

LARGEST_STD = 10
"""No deviation of pixels in [0,1] is larger; one of pixels up to 255 is."""


def three(value: Sequence[float] | float) -> tuple[float, ...]:
    """Return a number for each channel."""
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(value)


def settle_normalisation(
    found_mean: tuple[float, ...],
    found_std: tuple[float, ...],
    mean: Sequence[float] | float | None,
    std: Sequence[float] | float | None,
    preprocessing: Preprocessing,
    path: Any,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and deviation that a checkpoint holds, if those given agree.

    Raises:
        InputError: they do not, or the checkpoint's are of pixels up to 255.
    """
    if max(found_mean) > 1 or min(found_std) > LARGEST_STD:
        raise InputError(
            f"Expected {path} to normalise pixels in [0,1], but its mean is {found_mean} and its deviation "
            f"{found_std}: if it takes pixels up to 255, divide both by 255 in the file."
        )
    for name, found, given in (("mean", found_mean, mean), ("std", found_std, std)):
        if given is not None and max(abs(a - b) for a, b in zip(found, three(given), strict=True)) > SAME:
            raise InputError(
                f"Expected `{name}` to be {found}, by which the network in {path} was trained, but got {given}: leave "
                "out `mean` and `std`."
            )
    usual = (*preprocessing.mean, *preprocessing.std)
    if None in (mean, std) and max(abs(a - b) for a, b in zip((*found_mean, *found_std), usual, strict=True)) > SAME:
        warn(
            f"Images are normalised as {path} says: mean {found_mean}, deviation {found_std}.",
            CheckpointWarning,
            stacklevel=3,
        )
    return found_mean, found_std


def check_normalised_once(network: nn.Module, preprocessing: Preprocessing) -> None:
    """Check that a network does not normalise its input itself, where it is normalised before.

    It does where it holds a module with mean and deviation of three channels whose name, or whose class's, tells of
    normalising: as in MadryLab's library and RobustBench, or torchvision's `Normalize`; or a `PixelModel`.

    Raises:
        InputError: it does.
    """
    if not any(preprocessing.mean) and set(preprocessing.std) == {1.0}:
        return
    for name, module in network.named_modules():
        told = f"{name.rpartition('.')[2]} {type(module).__name__}".lower()
        pairs = (("new_mean", "new_std"), ("mean", "std"), ("mu", "sigma"))
        named = "normali" in told and any(
            all(_of_channels(getattr(module, one, None)) for one in pair) for pair in pairs
        )
        if named or isinstance(module, PixelModel):
            raise InputError(
                f"Expected a network that takes normalised images, but its {name or type(module).__name__} normalises "
                "them itself: give `mean` 0 and `std` 1, so that it is done once."
            )


def _of_channels(value: Any) -> bool:
    """Return whether a value is three numbers."""
    return value.numel() == 3 if isinstance(value, Tensor) else isinstance(value, list | tuple) and len(value) == 3
