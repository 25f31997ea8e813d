"""The two parts of a model, and what both ways of cutting need of it."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from statshift._core.errors import InputError
from statshift.models import PixelModel, extract_logits
from statshift.splitting.cuts import Cut

Part = Callable[..., Any]


@dataclass(frozen=True)
class ImageSize:
    """Stands for images (B,3,H,W) of which the size alone is read."""

    shape: torch.Size

    def size(self, side: int | None = None) -> Any:
        """Return the size, or that of a side, as a tensor does."""
        return self.shape if side is None else self.shape[side]


@dataclass(frozen=True)
class Split:
    """A model cut in two.

    Each part follows the model's own train flags, as the whole does; under torch.fx functional dropout follows that of
    the network alone.

    Attributes:
        model: whose parts these are.
        cut: where; None for the input, where the prefix only normalises, if that.
        graph: the suffix in evaluation mode as torch.fx traced it; None where it could not and the suffix is replayed.
        copies: whether the suffix changes its input in evaluation mode, so that it is given a copy.
        sized: whether the graph reads the size of the image too, as its second input; see `beside`.
        latest: height and width of the latest images of the prefix, which logits are of where images are padded.
    """

    model: nn.Module
    cut: Cut | None
    graph: fx.Graph | None = field(repr=False)
    _prefix: Part = field(repr=False)
    _suffix: Part = field(repr=False)
    _build: Callable[[nn.Module], "Split"] = field(repr=False)
    copies: bool = False
    sized: bool = False
    latest: list[int] = field(default_factory=list, repr=False)

    def prefix(self, images: Tensor) -> Tensor:
        """Return the features (B,C,H,W) of images (B,3,H,W)."""
        self.latest[:] = images.shape[-2:]
        features: Tensor = self._prefix(images)
        return features

    def suffix(self, features: Tensor) -> Tensor:
        """Return the logits (B,K) or (B,K,h,w) of features, which stay as they are; of the latest prefix of as many."""
        if self.copies or self.model.training:  # dropout may be in place
            features = features.clone()
        return self.logits(self._suffix(features, *self.beside(features)))

    def beside(self, features: Tensor) -> tuple["ImageSize", ...]:
        """Return what the suffix takes beside features: the size of the latest images, as the network takes them."""
        if not self.sized:
            return ()
        height, width = self.latest
        if isinstance(self.model, PixelModel):
            height, width = self.model.preprocessing.padded_size(self.latest)
        return (ImageSize(torch.Size((len(features), 3, height, width))),)

    def logits(self, output: Any) -> Tensor:
        """Return the logits in what the network returned for the latest images of the prefix."""
        found = extract_logits(output)
        return self.model.cropped(found, self.latest) if isinstance(self.model, PixelModel) and self.latest else found

    def onto(self, model: nn.Module) -> "Split":
        """Return the same split of another model of the same structure; by replay they share the latest prefix."""
        return replace(self._build(model), copies=self.copies, latest=self.latest)

    def compiled(self) -> "Split":
        """Return the split with its suffix through `torch.compile`.

        Raises:
            InputError: torch.fx could not trace the model.
        """
        if self.graph is None:
            raise InputError("Cannot compile the model: torch.fx cannot trace it. Leave out `compiled`.")
        return replace(self, _suffix=torch.compile(self._suffix))


def as_network_takes(model: nn.Module, images: Tensor) -> Tensor:
    """Return images as the network of a model takes them."""
    return model.normalise(images) if isinstance(model, PixelModel) else images


def generator_states(device: torch.device) -> list[Any]:
    """Return the states of the random generators that a model on a device may draw from."""
    return [random.getstate(), torch.get_rng_state(), *([_on(device).get_rng_state(device)] if _on(device) else [])]


def set_generator_states(device: torch.device, states: list[Any]) -> None:
    """Put the generators into states that `generator_states` returned."""
    random.setstate(states[0])
    torch.set_rng_state(states[1])
    for state in states[2:]:
        _on(device).set_rng_state(state, device)


def _on(device: torch.device) -> Any:
    return None if device.type == "cpu" else torch.get_device_module(device)
