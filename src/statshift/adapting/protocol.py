"""A protocol: how a model is adapted to images, with all that is its own; each is a file of `protocols`."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from statshift._core.errors import InputError, unknown
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.registry import FAMILIES, PROTOCOLS, WRITABLE, Family, listed
from statshift.norms.layers import execution_order
from statshift.norms.selection import select_layers
from statshift.results.provenance import describe_functions

CHANGED = ("statistics", "affine", "prototypes", "weights", "logits")
"""What a protocol may change: of norms the statistics, or weight and bias; the classifier's rows; all weights; what it
answers."""

Step = Callable[[Tensor], Tensor]
"""From a batch of images (B,3,H,W) to its logits (B,K)."""


@dataclass(frozen=True)
class Number:
    """What a protocol takes as "NAME:NUMBER": a field, from where to where."""

    field: str
    low: float
    high: float


def _no_context(images: int) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Session:
    """What a protocol adapts: a model and the images of one condition and draw, which are made when asked for.

    Attributes:
        label: what rows call the protocol, for messages.
        model: the source. What is changed of it must be given back, unless the model is to be written.
        options: how to adapt.
        few: returns the images drawn, (n,3,H,W) in [0,1].
        first: returns the first image, (1,3,H,W).
        whole: returns all images, batch by batch and the same each time; of several processes, this one's share.
        batches: returns the positions of each batch of a stream.
        images: how many there are in all.
        attack: the attack that will be made on what answers; "" for none.
        adapting: context in which so many images are adapted on: the dtype, and what is said if memory runs out.
    """

    label: str
    model: nn.Module
    options: AdaptationOptions
    few: Callable[[], Tensor]
    first: Callable[[], Tensor]
    whole: Callable[[], Iterable[Tensor]]
    batches: Callable[[], Sequence[NDArray[np.int64]]] = field(default=list)
    images: int = 0
    attack: str = ""
    adapting: Callable[[int], AbstractContextManager[None]] = _no_context


@dataclass(frozen=True)
class Answer:
    """How the images of a condition are answered, as `Evaluator` takes it.

    Attributes:
        classify: returns logits (B,K) for images (B,3,H,W); None is the session's model.
        attacked: what an attack is made against anew; None where it is the source.
        groups: positions of each batch; None are consecutive ones.
        in_order: whether an answer depends on the batches before, so that they cannot be shared out over processes.
        as_source: whether what answers is the source to the bit, so that what it has answered stands.
    """

    classify: Step | None = None
    attacked: nn.Module | None = None
    groups: Sequence[NDArray[np.int64]] | None = None
    in_order: bool = False
    as_source: bool = False


@dataclass(frozen=True)
class Protocol:
    """How a model is adapted; its fields are its options.

    A protocol of one's own is a frozen dataclass upon `Rule`, `Adapter` or `Stream`, with a `name` and the one method
    that they ask for. It is called as a function of its family is.

    Attributes:
        name: as a user gives it.
        family: one of `FAMILIES`, which says what it adapts on.
        summary: where it is from.
        title: what a report calls it; the name where there is none.
        number: what it takes behind a colon, if anything.
        rewrites: whether it writes the norms' statistics.
        shareable: whether batches may be shared out over processes, because none depends on those before.
        not_attacked: why it cannot be attacked, behind its name; "" if it can.
        not_streamed: why it cannot answer a stream, behind its name; "" if it can.
        not_exported: why it leaves no weights to write, behind its name; "" if it does.
        changes: what it changes, of `CHANGED`.
        forwards: passes of each image that it costs, the answer among them.
        backwards: passes back, likewise.
        least: images that a batch needs.
    """

    name: ClassVar[str] = ""
    family: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    title: ClassVar[str] = ""
    number: ClassVar[Number | None] = None
    rewrites: ClassVar[bool] = False
    shareable: ClassVar[bool] = True
    not_attacked: ClassVar[str] = ""
    not_streamed: ClassVar[str] = ""
    not_exported: ClassVar[str] = ""
    changes: ClassVar[tuple[str, ...]] = ()
    forwards: ClassVar[float] = 1
    backwards: ClassVar[float] = 0
    least: ClassVar[int] = 1

    def __call__(self, *given: Any, **offered: Any) -> Any:
        """Do what a function of the family does.

        Raises:
            InputError: the family has no functions.
        """
        raise InputError(f"The protocol {self.label} is no function: measure it.")

    def adapted(self, session: Session) -> AbstractContextManager[Answer]:
        """Adapt, and say what answers while the context lasts; then the session's model is as it was.

        Raises:
            InputError: the model or the images cannot be adapted.
        """
        raise NotImplementedError

    def streamed(self, session: Session) -> Step:
        """Return what answers a stream batch after batch, from the source on; the session's model stays as it is.

        Raises:
            InputError: it cannot.
        """
        why = self.not_streamed or "which does not say how"
        raise InputError(f"Cannot measure {session.label} along a stream, {why}: leave out `stream`, or the protocol.")

    def exported(self, session: Session) -> nn.Module:
        """Return the adapted model, which may be the session's own, changed, for its weights to be written.

        Raises:
            InputError: there are none.
        """
        raise InputError(
            f"The protocol {session.label} leaves no statistics to write: {self.not_exported}. Write those of "
            f"{listed(WRITABLE)}."
        )

    @property
    def at_once(self) -> "Protocol | None":
        """What rewrites the statistics in one forward of a few images, as `rectify` does; None where nothing does."""
        return None

    @property
    def kin(self) -> Family:
        """Its family."""
        return FAMILIES[self.family]

    @property
    def label(self) -> str:
        """What rows call it by default: its name, with its number if that is not the usual one, as "prior:64"."""
        numbers = [option for option in fields(self) if self.number and option.name == self.number.field]
        given = [getattr(self, option.name) for option in numbers if getattr(self, option.name) != option.default]
        return ":".join([self.name, *(f"{value:g}" for value in given)])

    @property
    def code(self) -> Any:
        """What a record names by its file; None of what ships."""
        kind, entry = type(self), PROTOCOLS.get(self.name)
        return None if entry and entry.path == f"{kind.__module__}:{kind.__qualname__}" else self

    def values(self) -> dict[str, Any]:
        """Return its options for a record; None is left out."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {
            name: repr(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in given.items()
        }

    def taking(self, options: AdaptationOptions) -> AdaptationOptions:
        """Return the options that it goes by: those of the measurement, but for what is its own."""
        return options

    def held_out(self, options: AdaptationOptions) -> bool:
        """Return whether the images adapted on are not among those evaluated on."""
        return self.kin.adapts_on == "few" and not options.include_adaptation

    def repeats(self, options: AdaptationOptions) -> int:
        """Return how often it is measured: where there is nothing to draw, once."""
        return options.draws if self.kin.drawn else 1

    def describe(
        self, label: str, options: AdaptationOptions, model: nn.Module, image: Tensor, images: int
    ) -> dict[str, Any]:
        """Return for a record what it does, with all its numbers.

        Args:
            label: what rows call it.
            options: how it adapts.
            model: the source.
            image: (1,3,H,W), for the layers' order.
            images: how many will be measured on.

        Raises:
            InputError: a model without batch norm for a protocol that rewrites it, layers that are not there, or more
                samples than images.
        """
        options = self.taking(options)
        described: dict[str, Any] = {"kind": self.kin.kind, **self.values()}
        if self.code is not None:
            described["function"] = describe_functions({label: self.code})[label]
        held_out = self.held_out(options)
        if self.kin.drawn:
            most = images - held_out
            if options.samples > most:
                raise InputError(
                    f"Expected at most {most} samples of the {images} images for {label}, but got {options.samples}."
                )
            described["samples"] = options.samples
        if self.rewrites:
            described |= self.placed(model, image, options)
        described["evaluated_on"] = "the other images" if held_out else "all images, those adapted on among them"
        return described | {"reset": self.resetting(options)}

    def placed(self, model: nn.Module, image: Tensor, options: AdaptationOptions) -> dict[str, Any]:
        """Return for a record which layers are rewritten, and how."""
        layers = select_layers(model, image, options.where)
        return options.layers | {"layers": execution_order(model, layers, image)}

    def resetting(self, options: AdaptationOptions) -> str:
        """Return in words when it begins at the source."""
        return "to the source at each condition and draw"


def option_names(protocol: Protocol | type[Protocol]) -> tuple[str, ...]:
    """Return the names of a protocol's options, in order."""
    return tuple(option.name for option in fields(protocol))


RESERVED = (
    "kind",
    "function",
    "samples",
    "statistics",
    "unbiased",
    "where",
    "layers",
    "evaluated_on",
    "reset",
    "left_alone",
)
"""What a record says of every protocol, so that no option can be called so."""


def check_protocol(protocol: Protocol) -> None:
    """Check that a protocol says what it must.

    Raises:
        InputError: it does not.
    """
    what = type(protocol).__name__
    if not protocol.name:
        raise InputError(f"Expected {what} to have a `name`, as rows have it.")
    if protocol.family not in FAMILIES:
        raise unknown(f"family of {what},", protocol.family, FAMILIES)
    if protocol.name in PROTOCOLS and protocol.code is not None:
        raise InputError(f"Expected {what} to have a name of its own, but {protocol.name} ships.")
    taken = [name for name in option_names(protocol) if name in RESERVED]
    if taken:
        raise InputError(f"Expected {what} to have no option {taken[0]!r}, which every record has: call it otherwise.")
