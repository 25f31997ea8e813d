"""What protocols of a family have in common; a protocol of one's own is built upon `Rule`, `Adapter` or `Stream`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast
from warnings import warn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from statshift._core.copying import copied
from statshift._core.errors import InputError, LeftAloneWarning, unknown
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.passes import offered_to, rewrite_by
from statshift.adapting.protocol import Answer, Protocol, Session, Step, option_names
from statshift.adapting.registry import ADAPTERS, RULES, STREAMS
from statshift.adapting.steps import Beginning, Restarting
from statshift.norms.layers import batch_norms, keeping_statistics, lacking_statistics
from statshift.norms.shrinkage import stored_statistics
from statshift.norms.statistics import ChannelStatistics, Observed

MODES = (_NormBase, _DropoutNd)
"""What answers otherwise in training mode."""

ACCEPTED = ("statistics", "where", "unbiased")
"""What `rectify` takes beside a protocol's own options."""


@dataclass(frozen=True)
class Writer(Protocol):
    """A protocol that writes statistics into the model before it answers."""

    rewrites = True
    changes: ClassVar[tuple[str, ...]] = ("statistics",)

    def write(self, session: Session) -> None:
        """Rewrite the statistics of the session's model."""
        raise NotImplementedError

    @contextmanager
    def adapted(self, session: Session) -> Iterator[Answer]:
        """Write, and give the statistics back in the end."""
        layers = batch_norms(session.model)
        with keeping_statistics(layers):
            before = statistics_of(layers)
            self.write(session)
            yield Answer(attacked=session.model, as_source=torch.equal(before, statistics_of(layers)))

    def exported(self, session: Session) -> nn.Module:
        """Return the session's model, rewritten."""
        if self.not_exported:
            return super().exported(session)
        self.write(session)
        return session.model


@dataclass(frozen=True)
class Rule(Writer):
    """A function by which each layer's statistics are rewritten once, in one forward of a few images.

    Attributes:
        target: the method of (stored, observed, images) that returns what a layer shall use. It gets what it names as
            keywords without a default: `eps` of the layer; and `persisting`, `certain`, `effective` and `agreeing`, of
            a survey of the untouched model (see `statshift.norms.shrinkage.Evidence`).
        trusted: whether it returns what is finite wherever what it observes is, so that this is not looked at.
        sparing: whether a model without batch norm is left alone, with a warning, rather than refused.
        shared: whether a stream answers a batch that is all of its window by the source too, each image by its share of
            the common shift, which costs a survey where the target does not ask for one anyway.
    """

    family = RULES
    target: ClassVar[Callable[..., ChannelStatistics]]
    trusted: ClassVar[bool] = False
    sparing: ClassVar[bool] = False
    shared: ClassVar[bool] = False

    def __call__(self, stored: ChannelStatistics, observed: Observed, images: int, **offered: Any) -> ChannelStatistics:
        """Return what a layer shall use."""
        return self.target(stored, observed, images, **offered)

    @property
    def asked(self) -> set[str]:
        """What it gets of `OFFERED`."""
        return offered_to(self.target)

    @property
    def at_once(self) -> "Rule":
        """Itself."""
        return self

    def streamed(self, session: Session) -> Step:
        """Answer by the newest `samples` images, rectified to anew after as many; or by a model that is left alone."""
        from statshift.adapting.online import RectifiedStream  # which knows the protocols, and so this module

        if self.leaves_alone(session.model):
            return Restarting(lambda: session.model, None, memoryless=True)
        samples = session.options.samples

        def make() -> Step:
            return RectifiedStream(session.model, samples, samples, self, **session.options.layers)

        return Restarting(make, session.options.reset_every)

    def with_options(self, values: Mapping[str, Any]) -> "Rule":
        """Return the rule with other values of its options.

        Raises:
            InputError: it has no such option, or values that cannot be.
        """
        known = option_names(self)
        for name in values:
            if name not in known:
                raise unknown("option of the protocol", name, [*ACCEPTED, *sorted(known)])
        return replace(self, **values)

    def leaves_alone(self, model: nn.Module) -> str:
        """Return in words why the model is left alone; "" if it is not.

        Raises:
            InputError: it has no batch norm, and the rule does not spare such models.
        """
        if not self.sparing:
            batch_norms(model)
        return lacking_statistics(model)

    def placed(self, model: nn.Module, image: Tensor, options: AdaptationOptions) -> dict[str, Any]:
        """Return for a record which layers it rewrites, or why it leaves the model alone, which is warned of."""
        if why := self.leaves_alone(model):
            warn(f"The protocol {self.label} leaves the model alone: {why}.", LeftAloneWarning, stacklevel=2)
            return {"left_alone": why}
        return super().placed(model, image, options)

    @contextmanager
    def adapted(self, session: Session) -> Iterator[Answer]:
        """Write and give back, or leave the model alone."""
        if self.leaves_alone(session.model):
            yield Answer(attacked=session.model, as_source=True)
            return
        with super().adapted(session) as answer:
            yield answer

    def write(self, session: Session) -> None:
        """Rewrite by the images drawn."""
        images = session.few()
        with session.adapting(len(images)):
            rewrite_by(session.model, images, self, **session.options.layers)


@dataclass(frozen=True)
class Adapter(Protocol):
    """A function that makes a model out of a few images and a model, which is its own to change."""

    family = ADAPTERS

    def adapt(self, model: nn.Module, images: Tensor) -> Any:
        """Return the adapted model, in evaluation mode; any function of images will do where nobody attacks it.

        Args:
            model: in evaluation mode; takes images in [0,1].
            images: (n,3,H,W) in [0,1].
        """
        raise NotImplementedError

    def __call__(self, model: nn.Module, images: Tensor) -> Any:
        """Return the adapted model."""
        return self.adapt(model, images)

    @contextmanager
    def adapted(self, session: Session) -> Iterator[Answer]:
        """Answer by what is returned, which is attacked if it is a module."""
        images = session.few()
        with session.adapting(len(images)):
            made = self.adapt(copied(session.model), images)
        answer = _checked(session.label, made)
        if session.attack:
            _check_attacked(session, made)
        yield Answer(answer, made if isinstance(made, nn.Module) else None)

    def streamed(self, session: Session) -> Step:
        """Answer by what is made of the first `samples` images, and of fewer until they have come."""
        label, samples = session.label, self.taking(session.options).samples

        def adapt(images: Tensor) -> Step:
            return _checked(label, self.adapt(copied(session.model), images))

        return Restarting(lambda: Beginning(adapt, samples), session.options.reset_every)

    def exported(self, session: Session) -> nn.Module:
        """Return the adapted model."""
        images = session.few()
        made = self.adapt(session.model.eval(), images)
        if not isinstance(made, nn.Module):
            raise InputError(f"Expected {session.label} to return the adapted model, but got {type(made).__name__}.")
        return made


@dataclass(frozen=True)
class Stream(Protocol):
    """Statistics, or anything else, that move while they predict: batch after batch, in a shuffled order.

    Attributes:
        not_frozen: why "NAME@IMAGES" cannot freeze it, behind its name; "" if it can.
    """

    family = STREAMS
    not_frozen: ClassVar[str] = ""
    shareable = False
    not_attacked = "whose statistics move with every batch"
    not_exported = "they move with every batch"

    def begin(self, model: nn.Module, options: AdaptationOptions) -> Any:
        """Return what answers one batch after another, from (B,3,H,W) in [0,1] to logits (B,K).

        It runs without gradients unless it enables them.

        Args:
            model: the source, in evaluation mode; its own to change.
            options: how to adapt.
        """
        raise NotImplementedError

    def __call__(self, model: nn.Module) -> Any:
        """Return what answers one batch after another, by the default options."""
        return self.begin(model, AdaptationOptions())

    def streamed(self, session: Session) -> Step:
        """Answer by what has begun at the source, and begins there again after every `reset_every` batches."""

        def make() -> Step:
            return _checked(session.label, self.begin(copied(session.model), session.options))

        return Restarting(make, session.options.reset_every, memoryless=self.shareable)

    @contextmanager
    def adapted(self, session: Session) -> Iterator[Answer]:
        """Answer a shuffled stream; see `streamed`."""
        yield Answer(self.streamed(session), groups=session.batches(), in_order=not self.shareable)

    def resetting(self, options: AdaptationOptions) -> str:
        """Return in words when it begins at the source."""
        more = f", and after every {options.reset_every} batches" if options.reset_every else ""
        return super().resetting(options) + more


def statistics_of(layers: Mapping[str, _BatchNorm]) -> Tensor:
    """Return a copy of all that layers have stored, float64 (C,), end to end."""
    stored = map(stored_statistics, layers.values())
    return torch.cat([value.double().flatten() for one in stored for value in (one.mean, one.var)])


def _checked(label: str, made: Any) -> Step:
    if not callable(made):
        raise InputError(f"Expected the protocol {label} to return what answers images, but got {type(made).__name__}.")
    return cast(Step, made)


def _check_attacked(session: Session, adapted: Any) -> None:
    """Check that an attack, which sees a model in evaluation mode, would be on what answers.

    Raises:
        InputError: it would be on something else, or on nothing.
    """
    if not isinstance(adapted, nn.Module):
        raise InputError(
            f"Expected the protocol {session.label} to return a module, so that {session.attack} can attack what it "
            f"has adapted, but got {type(adapted).__name__}."
        )
    moving = [name for name, module in adapted.named_modules() if module.training and isinstance(module, MODES)]
    if moving:
        raise InputError(
            f"Expected the protocol {session.label} to return a module in evaluation mode, in which {session.attack} "
            f"attacks it, but {moving[0] or 'it'} is in training mode."
        )
