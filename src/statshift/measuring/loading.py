"""What every verb begins with: a device, a model on it, and images as the model's authors load them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from statshift._core import processes
from statshift._core.copying import copied
from statshift._core.errors import InputError, unknown
from statshift.data import ImageData, fit_labels, fit_maps, imagenet_indices, load_data, loading_options
from statshift.models import PixelModel, extract_logits, load_model
from statshift.norms.layers import evaluating, run
from statshift.norms.sizes import fit_size
from statshift.tasks.task import Task

Dtype = str | torch.dtype
"""What a model runs in: a name of `DTYPES`, or what it names."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_name(dtype: Dtype) -> str:
    """Return "bfloat16" for that name and for `torch.bfloat16`, as of each of `DTYPES`.

    Raises:
        InputError: another.
    """
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    return name


def find_device(name: str | torch.device) -> torch.device:
    """Return a device, or the one named "auto", "cpu", "cuda" or "cuda:N"; "auto" is a GPU if there is one.

    Raises:
        InputError: an unknown name, Apple's "mps", or a GPU that is not there.
    """
    name = str(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind == "mps":
        raise InputError(f"Device {name!r} has no float64, which shifts and adaptation need; use `device` cpu.")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:N"])
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(f"Device {name!r} was asked for, but torch finds no CUDA GPU; use `device` cpu or auto.")
    index = int(number) if number else processes.local_rank() % torch.cuda.device_count()
    if index >= torch.cuda.device_count():
        raise InputError(f"Device {name!r} was asked for, but there are {torch.cuda.device_count()} GPUs, from cuda:0.")
    return torch.device("cuda", index)


def usual_workers(device: torch.device) -> int:
    """Return how many processes decode unless told: none but where the model runs on a GPU."""
    return min(8, torch.get_num_threads()) if device.type == "cuda" else 0


def place(model: str | nn.Module, device: torch.device, *, in_place: bool = False) -> PixelModel:
    """Return a model in pixel space on a device.

    Args:
        model: a spec, or a module, which is taken to want ImageNet's mean and deviation if it is no `PixelModel`.
        device: where to.
        in_place: move the caller's own module if it lies elsewhere; otherwise a copy is moved.
    """
    if isinstance(model, nn.Module) and not in_place:
        inner = model.network if isinstance(model, PixelModel) else model
        if any(tensor.device != device for tensor in [*inner.parameters(), *inner.buffers()]):
            model = copied(model)
    return (model if isinstance(model, PixelModel) else load_model(model)).to(device)


def load(
    model: str | nn.Module,
    data: str | Dataset[Any] | ImageData,
    device: torch.device,
    data_options: Mapping[str, Any] | None,
    *,
    split: str | None = "train",
    in_place: bool = False,
) -> tuple[PixelModel, ImageData]:
    """Return a model on a device, see `place`, and the images as its authors load them and it numbers them."""
    pixel_model = place(model, device, in_place=in_place)
    if not isinstance(data, ImageData):
        data = load_data(data, **loading_options(data, data_options, pixel_model.loading_options, split=split))
    return pixel_model, fit_to_model(pixel_model, data, device)


def fit_sizes(model: nn.Module, data: ImageData) -> None:
    """Set on a model the `size_multiple` that it needs for the images, see `fit_size`."""
    fit_size(model, data.sizes)


@torch.no_grad()
def fit_to_model(model: nn.Module, data: ImageData, device: torch.device) -> ImageData:
    """Return the images with labels as a model on the device numbers its classes; see `fit_labels`.

    The model is asked for its logits only where that matters. Of images without labels, or with label maps, it is given
    the `size_multiple` that it needs, see `fit_size`; where bad ones are skipped, so are maps with other classes.
    """
    if data.labels is None:
        fit_sizes(model, data)
    bad_maps = data.has_maps and data.skip_bad
    if not bad_maps and (data.labels is None or imagenet_indices(data.class_names) is None):
        return data
    images, _ = next(data.batches(1, which=[0]))
    with evaluating(model):
        classes = extract_logits(run(model, images.to(device).float() / 255)).shape[1]
    return fit_maps(data, classes) if bad_maps else fit_labels(data, classes)


@torch.no_grad()
def count_classes(model: nn.Module, data: ImageData, task: Task) -> int:
    """Return K, the width of the logits of a model on its device.

    Raises:
        InputError: the labels of the data are not what the logits are of.
    """
    images, _ = next(data.batches(1, which=[0]))
    device = next(model.parameters()).device
    with evaluating(model):
        classes = task.width(extract_logits(run(model, images.to(device).float() / 255)))
    task.check_labels(data, classes)
    return classes
