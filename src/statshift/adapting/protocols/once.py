"""Adapted once on so many images, then frozen: what "NAME@IMAGES" stands for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift.adapting.families import Adapter, Rule, Stream
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.passes import rewrite_by
from statshift.adapting.protocol import Answer, Protocol, Session, Step
from statshift.adapting.stepping import Stepping


@dataclass(frozen=True)
class Once(Adapter):
    """Adapt by another protocol on so many images, all at once, and answer with the model that this leaves.

    Attributes:
        protocol: a stream, for which the images are its first batch, or a rule.
        images: how many, in the place of the measurement's `samples`.
        options: which statistics of which layers; in a measurement, its own.

    Raises:
        InputError: a protocol that adapts to no image or to all, or leaves nothing to freeze, or too few images.
    """

    name = "once"

    protocol: Protocol
    images: int
    options: AdaptationOptions = field(default_factory=AdaptationOptions, repr=False)

    def __post_init__(self) -> None:
        spec, protocol = self.label, self.protocol
        if not (isinstance(self.images, int) and self.images >= 1):
            raise InputError(f"Expected NAME@IMAGES with an integer of at least 1, but got {spec!r}.")
        if protocol.kin.adapts_on not in ("few", "stream") or not isinstance(protocol, Rule | Stream):
            what = {"none": "adapts to no image", "all": "adapts to all images"}
            why = what.get(protocol.kin.adapts_on, "is neither a stream nor a rule")
            raise InputError(f"Expected a protocol that adapts to some images before the @ of {spec!r}, but it {why}.")
        if isinstance(protocol, Stream) and protocol.not_frozen:
            raise InputError(f"Cannot freeze {protocol.label}, as {spec!r} asks for: it {protocol.not_frozen}.")
        if self.images < protocol.least:
            raise InputError(f"Expected at least {protocol.least} images for {protocol.label}, but got {spec!r}.")
        for name in ("rewrites", "changes", "least"):
            object.__setattr__(self, name, getattr(protocol, name))

    @property
    def label(self) -> str:
        """What rows call it by default: as "tent@32"."""
        return f"{self.protocol.label}@{self.images}"

    @property
    def code(self) -> Any:
        """What a record names by its file, of the protocol."""
        return self.protocol.code

    @property
    def at_once(self) -> Protocol | None:
        """The protocol, if it is a rule: whoever rectifies by it gives the images."""
        return self.protocol.at_once

    def values(self) -> dict[str, Any]:
        """Return the protocol with its options."""
        return {"protocol": self.protocol.name, **self.protocol.values()}

    def taking(self, options: AdaptationOptions) -> AdaptationOptions:
        """Return the options with its own number of images."""
        return replace(options, samples=self.images)

    def describe(
        self, label: str, options: AdaptationOptions, model: nn.Module, image: Tensor, images: int
    ) -> dict[str, Any]:
        """Return for a record what it does, with all numbers of the protocol."""
        whole = self.protocol.describe(label, self.taking(options), model, image, images)
        return whole | super().describe(label, options, model, image, images)

    def placed(self, model: nn.Module, image: Tensor, options: AdaptationOptions) -> dict[str, Any]:
        """Return nothing: what the protocol says of itself tells it."""
        return {}

    @torch.no_grad()
    def adapt(self, model: nn.Module, images: Tensor) -> nn.Module:
        """Return the model, adapted and frozen."""
        if isinstance(self.protocol, Rule):
            if self.protocol.leaves_alone(model):
                return model.eval()
            rewrite_by(model, images, self.protocol, **self.options.layers)
            return model.eval()
        assert isinstance(self.protocol, Stream)
        step = self.protocol.begin(model, self.options)
        if not isinstance(step, Stepping):
            raise InputError(f"Expected the stream {self.protocol.label} to begin as a Stepping, which can be frozen.")
        step(images)
        return step.adapted()

    @contextmanager
    def adapted(self, session: Session) -> Iterator[Answer]:
        """Answer by the adapted model."""
        with super(Once, replace(self, options=session.options)).adapted(session) as answer:
            yield answer

    def streamed(self, session: Session) -> Step:
        """Answer by what the first images make, and fewer until they have come."""
        return super(Once, replace(self, options=session.options)).streamed(session)

    def exported(self, session: Session) -> nn.Module:
        """Return the adapted model."""
        return super(Once, replace(self, options=session.options)).exported(session)
