"""What `rectify` and `diagnose` share: a model on its device, and images as it now meets them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statshift.cli import typed as t

if TYPE_CHECKING:
    from statshift.data import ImageData
    from statshift.models import PixelModel


def load_model_on(
    device: str,
    spec: str,
    weights: Path | None,
    mean: str | None,
    std: str | None,
    model_args: list[str] | None,
    size_multiple: int | None = None,
    branch: str | None = None,
) -> "PixelModel":
    """Return the model that the options name, on the device they name; random weights are the same in every process."""
    from statshift._core.randomness import seeded
    from statshift.measuring.loading import find_device
    from statshift.models import load_model

    with seeded(0):
        found = load_model(
            spec,
            weights=weights,
            mean=t.parse_channels("mean", mean),
            std=t.parse_channels("std", std),
            model_args=t.parse_model_args(model_args),
            size_multiple=size_multiple,
            branch=branch,
        )
    return found.to(find_device(device))


def load_target(model: "PixelModel", data: str, options: Mapping[str, Any]) -> "ImageData":
    """Return the images, sized as the model's authors do unless the options say otherwise."""
    from statshift.data import load_data, loading_options
    from statshift.measuring.loading import fit_sizes

    images = load_data(data, **loading_options(data, options, model.loading_options, split=None))
    fit_sizes(model, images)
    return images
