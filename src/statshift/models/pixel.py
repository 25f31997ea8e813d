"""A model in pixel space: images in [0,1] go in, logits come out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from statshift._core.errors import InputError
from statshift.data.checks import check_images
from statshift.models.checkpoints import weights_hash

if TYPE_CHECKING:
    from typing_extensions import Self

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


ONE_LOGIT = "give two logits an image, such as torch.stack([torch.zeros_like(z), z], 1) of the one logit z (B,)"
"""The remedy of a binary model."""

WHERE_LOGITS = "return a tensor, a dict with `logits` or `out`, or an object with `.logits`"
"""The remedy of a model whose logits are not found."""


def extract_logits(output: Any) -> Tensor:
    """Return the logits in what a network returned.

    Args:
        output: a tensor, an object with `.logits`, a dict (`logits`, else `out`, else its only value), or a
            tuple or list (its first element); nested as they like.

    Returns:
        Logits (B,K), or (B,K,...) of a task with several answers an image, such as (B,K,h,w) of segmentation; (B,K)
            of a network that returns (B,K,1,1).

    Raises:
        InputError: there are none in it.
    """
    found = output
    while not isinstance(found, Tensor):
        if isinstance(found, Mapping):
            only = next(iter(found.values())) if len(found) == 1 else None
            found = found.get("logits", found.get("out", only))
        elif hasattr(found, "logits"):
            found = found.logits
        elif isinstance(found, Sequence) and not isinstance(found, str) and found:
            found = found[0]
        else:
            raise InputError(f"Expected the model to return logits, but got {_describe(output)}: {WHERE_LOGITS}.")
    if found.ndim == 4 and found.shape[2:] == (1, 1):  # of a convolution as the head
        found = found[:, :, 0, 0]
    if found.ndim < 2:
        what = f"shape {tuple(found.shape)}: {ONE_LOGIT}"
        raise InputError(f"Expected the model to return logits (B,K), but got {what}.")
    return found


def class_logits(output: Any) -> Tensor:
    """Return the logits (B,K) in what a network returned, as `extract_logits`.

    Raises:
        InputError: there are none in it, or they are of several answers an image.
    """
    found = extract_logits(output)
    if found.ndim != 2:
        what = f"shape {tuple(found.shape)}"
        if found.ndim == 4:
            what += ", as of segmentation: give images with label maps, such as seg:DIR"
        raise InputError(f"Expected the model to return logits (B,K), but got {what}.")
    return found


def _describe(output: Any) -> str:
    names = f" with the keys {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
    return f"an object of type {type(output).__name__}{names}"


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects of its input.

    `mean` and `std` are of the channels in [0,1]. Images of another side than `input_size` (px) are resized
    to it; None takes them as they are. `resize` (shorter side, px), `crop` (px) and `interpolation` are how
    the model's authors load a photograph. Where the network takes multiples of `size_multiple` px alone, images are
    padded to them at the right and at the bottom by their last column and row, once normalised, and logits (B,K,h,w)
    are cropped back.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    input_size: int | None = None
    resize: int | None = None
    crop: int | None = None
    interpolation: str = "bilinear"
    size_multiple: int | None = None

    def __post_init__(self) -> None:
        if self.size_multiple is not None and (
            isinstance(self.size_multiple, bool) or not isinstance(self.size_multiple, int) or self.size_multiple < 1
        ):
            raise InputError(f"Expected `size_multiple` to be a positive integer, but got {self.size_multiple!r}.")
        for name in ("mean", "std"):
            value = tuple(float(v) for v in getattr(self, name))
            object.__setattr__(self, name, value)
            if len(value) != 3 or not all(map(math.isfinite, value)) or (name == "std" and min(value) <= 0):
                kind = "positive numbers" if name == "std" else "numbers"
                raise InputError(f"Expected `{name}` to be three {kind}, but got {value}.")

    def described(self) -> dict[str, Any]:
        """Return it for a record; without a `size_multiple`, where there is none."""
        return {name: value for name, value in vars(self).items() if name != "size_multiple" or value is not None}

    def size_of(self, size: Sequence[int]) -> tuple[int, int]:
        """Return the (height, width) that the network gets of images of a (height, width), before padding."""
        return (size[0], size[1]) if self.input_size is None else (self.input_size, self.input_size)

    def padded_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Return the (height, width) that the network gets of images of a (height, width)."""
        height, width = self.size_of(size)
        multiple = self.size_multiple or 1
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple


class PixelModel(nn.Module):
    """Wrap `network`, itself and not a copy, so that it takes images in [0,1].

    It is in the mode that the network is in when it is wrapped. What it learns and what its state dict holds is all
    the network's: `mine.load_state_dict(model.network.state_dict())` takes it over into the network alone.

    Args:
        network: takes normalised images (B,3,H,W).
        preprocessing: what it expects.
        spec: the name it goes by in a record.
        num_classes: K, where known.
        arguments: what it was built with, for a record.
        source_hash: hash of the user's code that built it, if any, for a record.

    Attributes:
        weights_file: the checkpoint that `load_model` loaded, where it was given one.
        checkpoint: what that held beside the weights that were loaded, for a record; see `Loaded`.
        network: the one that was given.
        known_sizes: (height, width) that the network is known to take as they are, see `statshift.norms.sizes`.
        random_weights: hash of the weights that were drawn for it, where `statshift.hardening.from_scratch.build`
            drew them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing | None = None,
        *,
        spec: str = "",
        num_classes: int | None = None,
        arguments: Mapping[str, Any] | None = None,
        source_hash: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing or Preprocessing()
        self.spec = spec
        self.num_classes = num_classes
        self.arguments = dict(arguments or {})
        self.source_hash = source_hash
        self.random_weights: str | None = None
        self.weights_file: str | None = None
        self.checkpoint: dict[str, Any] = {}
        self.known_sizes: set[tuple[int, int]] = set()
        self._made: tuple[dict[str, str], str] | None = None
        self.register_buffer("mean", torch.tensor(self.preprocessing.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.preprocessing.std).view(3, 1, 1), persistent=False)
        self.training = network.training

    @property
    def made_by(self) -> dict[str, str] | None:
        """How statshift made the weights, if it did and they are still those; see `statshift.models.made_by`."""
        found, made = self._made or (None, None)
        return found if found is not None and made == weights_hash(self.network) else None

    def mark(self, made_by: dict[str, str] | None) -> None:
        """Say how statshift made the weights, as they are now; None says that it did not."""
        self._made = None if made_by is None else (made_by, weights_hash(self.network))

    @property
    def loading_options(self) -> dict[str, Any]:
        """The `resize`, `crop` and `interpolation` with which the model's authors load a photograph, if known."""
        wishes = self.preprocessing
        size = wishes.crop or wishes.input_size
        if size is None:
            return {}
        return {"interpolation": wishes.interpolation, "resize": wishes.resize or size, "crop": size}

    def train(self, mode: bool = True) -> "Self":
        """Put it into training or evaluation mode; an exported network (torch.export) stays in the one it has."""
        try:
            return super().train(mode)
        except NotImplementedError:
            self.training = mode
            return self

    def resized(self, images: Tensor) -> Tensor:
        """Return images (B,3,H,W) in [0,1] at the network's own size, if it has one."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"Expected images (B,3,H,W), but got shape {tuple(images.shape)}.")
        size = self.preprocessing.input_size
        if size is not None and images.shape[-2:] != (size, size):
            mode = "bicubic" if self.preprocessing.interpolation == "bicubic" else "bilinear"
            images = F.interpolate(images, size=(size, size), mode=mode, antialias=True).clamp(0, 1)
        return images

    def normalise(self, images: Tensor) -> Tensor:
        """Return what the network takes, at its own size and padded, for images (B,3,H,W) in [0,1]."""
        images = self.resized(images)
        if isinstance(images, Tensor) and not images.is_floating_point():
            raise InputError(f"Expected pixels in [0,1], but got {images.dtype}: divide 8-bit values by 255.")
        normalised = (images - self.mean) / self.std
        for side, size in zip((-2, -1), self.preprocessing.padded_size(images.shape[-2:]), strict=True):
            if missing := size - images.shape[side]:  # F.pad's replication has a gradient that varies on a GPU
                last = normalised.narrow(side, -1, 1)
                normalised = torch.cat([normalised, *[last] * missing], side)
        return normalised if (kind := self._own_type()) is None else normalised.to(kind)

    def cropped(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Return what the network answers to padded images as of those that were padded.

        Args:
            logits: (B,K,h,w), resized bilinearly to the padded size first if they have another; others stay.
            size: (H,W) of the images that were given.

        Returns:
            (B,K,H,W), or `logits` where nothing was padded.
        """
        own, padded = self.preprocessing.size_of(size), self.preprocessing.padded_size(size)
        if own == padded or logits.ndim != 4:
            return logits
        if logits.shape[-2:] != padded:
            logits = F.interpolate(logits, padded, mode="bilinear", align_corners=False)
        return logits[..., : own[0], : own[1]]

    def _own_type(self) -> torch.dtype | None:
        """Return the type of the network's weights where images must be cast to it; None in single precision."""
        kinds = {weight.dtype for weight in self.network.parameters() if weight.is_floating_point()}
        return kinds.pop() if len(kinds) == 1 and kinds != {torch.float32} else None

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,K), or (B,K,h,w) of a network that answers for each pixel, for images (B,3,H,W) in [0,1].

        Where images were padded, these are (B,K,H,W).
        """
        return self.cropped(extract_logits(self.network(self.normalise(images))), images.shape[-2:])


def pixel_model(model: nn.Module) -> PixelModel | None:
    """Return a `PixelModel`, compiled or in parallel or neither, as it is; None for any other model."""
    inner: Any = model
    while not isinstance(inner, PixelModel):
        inner = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
        if not isinstance(inner, nn.Module):
            return None
    return inner


def check_input(model: nn.Module, images: Any, *, least: int = 1) -> None:
    """Check the images of a model as `check_images` does; their range only if it is a `PixelModel`.

    Raises:
        InputError: the model cannot take them.
    """
    check_images(images, least=least, in_range=pixel_model(model) is not None)
