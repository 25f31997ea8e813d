"""Protocols as a measurement runs them: on which images each adapts, and on which it is evaluated."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statshift._core.errors import InputError
from statshift._core.randomness import keys, uniform
from statshift.adapting.online import STREAM_PROTOCOLS
from statshift.adapting.rectify import FULL, OFFERED, PROTOCOLS, parse_protocol
from statshift.data import ImageData

SOURCE = "source"

Protocols = str | Sequence[str | Mapping[str, Callable[..., Any]]] | Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Protocol:
    """How a model is adapted.

    Attributes:
        name: as asked for; rows and summary carry it.
        kind: "layers" (a layer's statistics from a few images), "model" (a model from a few images), "stream" (answers
            batch after batch) or "full" (the statistics of the whole set).
        function: of the kind; for "full" there is none.
        numbers: that the function takes.
        own: whether it is the user's.
    """

    name: str
    kind: str
    function: Callable[..., Any]
    numbers: dict[str, float] = field(default_factory=dict)
    own: bool = False

    @property
    def few_images(self) -> bool:
        """Whether it adapts on a few images, so that the others can be held out."""
        return self.kind in ("layers", "model")


def resolve_protocols(protocols: Protocols) -> list[Protocol]:
    """Return the protocols named, in order, none twice; the source is not among them, it is always measured.

    Args:
        protocols: names ("auto", "prior:64"), and mappings from a user's own names to functions of (stored, observed,
            images), of (model, images), or of (model); see `statshift.measure`.

    Raises:
        InputError: an unknown name, a name given to two things, or a function of other arguments.
    """
    if protocols is None:
        raise InputError("Expected protocols as names or {name: function}, but got None; () is the source alone.")
    parts: Sequence[Any] = [protocols] if isinstance(protocols, str | Mapping) else protocols
    found: dict[str, Protocol] = {}
    for part in parts:
        for one in map(_own, part, part.values()) if isinstance(part, Mapping) else [_named(part)]:
            if one.name in found and (one.own or found[one.name].own):
                raise InputError(f"The protocol name {one.name!r} is given twice: choose another for your function.")
            found[one.name] = one
    return [one for name, one in found.items() if name != SOURCE]


def _named(spec: str) -> Protocol:
    if not isinstance(spec, str):
        raise InputError(f"Expected protocols as names or {{name: function}}, but got {spec!r}.")
    name, numbers = parse_protocol(spec)
    if name == FULL:
        return Protocol(spec, "full", lambda: None)
    kind, function = ("stream", STREAM_PROTOCOLS[name]) if name in STREAM_PROTOCOLS else ("layers", PROTOCOLS[name])
    return Protocol(spec, kind, function, numbers)


def _own(name: str, function: Callable[..., Any]) -> Protocol:
    if name in (*PROTOCOLS, *STREAM_PROTOCOLS, FULL):
        raise InputError(f"The protocol name {name!r} is taken: give your function another.")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise InputError(f"Expected the protocol {name!r} to be a function, but got {function!r}.") from None
    needed = [
        one for one in parameters if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    kinds = {1: "stream", 2: "model", 3: "layers"}
    if len(needed) == 3 + len(offered := [one for one in needed if one.kind is one.KEYWORD_ONLY]):
        needed = [one for one in needed if one.name not in OFFERED or one not in offered]
    if len(needed) not in kinds or any(one.kind is one.KEYWORD_ONLY for one in needed):
        raise InputError(
            f"Expected the protocol {name!r} to be a function of (model), (model, images) or (stored, observed, "
            f"images), but it needs ({', '.join(one.name for one in needed)})."
        )
    return Protocol(name, kinds[len(needed)], function, own=True)


def adaptation_positions(indices: NDArray[np.int64], samples: int, seed: int, draw: int) -> NDArray[np.int64]:
    """Return the ascending positions of the images that a draw adapts on; a smaller sample lies in every larger one.

    Args:
        indices: (N,), the images' places in the whole data set.
        samples: how many, at most N.
        seed: of the run.
        draw: its number, from 0.

    Raises:
        InputError: fewer images than samples.
    """
    if not 1 <= samples <= len(indices):
        raise InputError(f"Expected `samples` from 1 to the {len(indices)} images, but got {samples}.")
    return np.sort(_order(indices, seed, f"adaptation draw {draw}")[:samples])


def draw_images(data: ImageData, samples: int, seed: int = 0, draw: int = 0) -> Tensor:
    """Return the images (n,3,H,W) in [0,1] that a draw adapts on; see `adaptation_positions`."""
    ((images, _),) = data.groups([adaptation_positions(data.indices, samples, seed, draw)])
    return images.float() / 255


def full_batches(images: int, size: int = 64) -> list[NDArray[np.int64]]:
    """Return the positions of each batch in which "full" goes through all images; a short last one joins its like."""
    return np.split(np.arange(images), np.arange(size, images - size + 1, size))


def shuffled_batches(indices: NDArray[np.int64], size: int, seed: int, draw: int) -> list[NDArray[np.int64]]:
    """Return the positions of each batch of a shuffled stream; a short last batch joins the one before.

    Args: as in `adaptation_positions`.

    Raises:
        InputError: fewer images than one batch.
    """
    if not 1 <= size <= len(indices):
        raise InputError(f"Expected batches of 1 to the {len(indices)} images, but got {size}.")
    order = _order(indices, seed, f"stream draw {draw}")
    starts = np.arange(size, len(order) - size + 1, size)
    return np.split(order, starts)


def _order(indices: NDArray[np.int64], seed: int, purpose: str) -> NDArray[np.int64]:
    draws = uniform(keys(seed, torch.from_numpy(indices), purpose), 1)
    return draws[:, 0].argsort(stable=True).numpy()
