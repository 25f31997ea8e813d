"""A user's own functions as protocols, by what they take."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from statshift._core.errors import InputError, unknown
from statshift.adapting.families import ACCEPTED, Adapter, Rule, Stream
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.passes import OFFERED, offered_to
from statshift.adapting.protocol import Protocol
from statshift.norms.statistics import ChannelStatistics


@dataclass(frozen=True)
class _Own(Protocol):
    """A function, which a record names in the options' place."""

    name = "own"

    function: Callable[..., Any]

    @property
    def code(self) -> Any:
        """The function."""
        return self.function

    def values(self) -> dict[str, Any]:
        """Return none: what is bound to a function is told with it."""
        return {}


@dataclass(frozen=True)
class OwnRule(_Own, Rule):
    """A function of (stored, observed, images) that returns what a layer shall use.

    Attributes:
        function: it gets what it names of `OFFERED` as keywords without a default.
        given: what it takes beside, by name.
    """

    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> set[str]:
        """What the function gets of `OFFERED`."""
        return offered_to(self.function)

    def target(self, *seen: Any, **offered: Any) -> ChannelStatistics:
        """Return what the function returns."""
        made: ChannelStatistics = self.function(*seen, **self.given, **offered)
        return made

    def with_options(self, values: Mapping[str, Any]) -> "OwnRule":
        """Return the function with values of its keywords."""
        taken = inspect.signature(self.function).parameters.values()
        known = {parameter.name for parameter in taken if parameter.kind is parameter.KEYWORD_ONLY} - self.asked
        strange = [name for name in values if name not in known]
        if strange and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
            raise unknown("option of the protocol", strange[0], [*ACCEPTED, *sorted(known)])
        return OwnRule(self.function, {**self.given, **values})


@dataclass(frozen=True)
class OwnAdapter(_Own, Adapter):
    """A function of (model, images) that returns the adapted model."""

    def adapt(self, model: nn.Module, images: Tensor) -> Any:
        """Return what the function returns."""
        return self.function(model, images)


@dataclass(frozen=True)
class OwnStream(_Own, Stream):
    """A function of (model) that returns what answers one batch after another."""

    def begin(self, model: nn.Module, options: AdaptationOptions) -> Any:
        """Return what the function returns."""
        return self.function(model)


def own(name: str, function: Callable[..., Any]) -> Protocol:
    """Return a function as the protocol that its arguments make it.

    Raises:
        InputError: it is no function, or one of other arguments.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise InputError(f"Expected the protocol {name!r} to be a function, but got {function!r}.") from None
    needed = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    keywords = [parameter for parameter in needed if parameter.kind is parameter.KEYWORD_ONLY]
    if len(needed) == 3 + len(keywords):
        needed = [parameter for parameter in needed if parameter.name not in OFFERED or parameter not in keywords]
    kinds: dict[int, Callable[..., Protocol]] = {1: OwnStream, 2: OwnAdapter, 3: OwnRule}
    if len(needed) not in kinds or any(parameter.kind is parameter.KEYWORD_ONLY for parameter in needed):
        raise InputError(
            f"Expected the protocol {name!r} to be a function of (model), (model, images) or (stored, observed, "
            f"images), but it needs ({', '.join(parameter.name for parameter in needed)})."
        )
    return kinds[len(needed)](function)


def own_rule(function: Callable[..., Any]) -> OwnRule:
    """Return a function as a rule, whatever else it takes.

    Raises:
        InputError: it is not one of (stored, observed, images).
    """
    taken = inspect.signature(function).parameters.values()
    needed = [
        parameter.name
        for parameter in taken
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    variable = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in taken)
    if len(needed) > 3 or (len(needed) < 3 and not variable):
        raise InputError(
            "Expected the protocol to be a function of (stored, observed, images), but it needs "
            f"({', '.join(needed)}); `measure` takes others."
        )
    return OwnRule(function)
