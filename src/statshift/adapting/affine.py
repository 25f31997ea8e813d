"""Affine terms of norm layers, trained without labels while a stream is answered: what those methods share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from statshift._core.copying import check_initialised
from statshift._core.errors import InputError, unknown
from statshift.adapting.families import Stream
from statshift.adapting.heads import answers
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocol import Number
from statshift.adapting.stepping import Stepping
from statshift.models import extract_logits
from statshift.norms.kinds import check_reachable
from statshift.norms.layers import before_forward, check_changeable, evaluating, run

if TYPE_CHECKING:
    from typing_extensions import Self

MANY_CLASSES = 1000
"""From so many classes on, a model is taken for one of ImageNet, and the papers' numbers for ImageNet are used."""

OPTIMISERS = ("sgd", "adam")
MOMENTUM = 0.9


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy (B,...) in nats of the softmax of logits (B,K,...)."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def norm_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the norm layers by name, in the order in which the model holds them: torch's, and what is called so."""
    kinds = (_NormBase, nn.LayerNorm, nn.GroupNorm)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) or "norm" in type(module).__name__.lower()
    }


def affine_terms(layers: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Return the weights and biases of norm layers, by name; one that several layers share, once."""
    found: dict[str, nn.Parameter] = {}
    for name, layer in layers.items():
        for kind, term in layer.named_parameters(recurse=False):
            if kind in ("weight", "bias") and all(term is not other for other in found.values()):
                found[f"{name}.{kind}"] = term
    return found


def make_optimiser(name: str, terms: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """Return SGD with momentum 0.9, or Adam; both without weight decay."""
    if name == "sgd":
        return torch.optim.SGD(terms, learning_rate, momentum=MOMENTUM)
    return torch.optim.Adam(terms, learning_rate)


@contextmanager
def on_batch_statistics(layers: dict[str, _BatchNorm], *, kept: bool) -> Iterator[None]:
    """Let batch norms normalise each batch by its own statistics, through which gradients pass.

    Args:
        layers: by name; the rest of the model stays in the mode that it is in.
        kept: write the statistics, with the biased variance, as running statistics.
    """
    counts: dict[str, int] = {}

    def count(name: str, layer: _BatchNorm, features: Tensor) -> None:
        counts[name] = features.numel() // features.shape[1]

    before = [(layer, layer.training, layer.momentum, layer.track_running_stats) for layer in layers.values()]
    for layer in layers.values():
        layer.training, layer.momentum = True, 1.0
        layer.track_running_stats = kept and layer.running_mean is not None
    try:
        with before_forward(layers, count) if kept and layers else nullcontext():
            yield
    finally:
        for layer, training, momentum, tracked in before:
            layer.training, layer.momentum, layer.track_running_stats = training, momentum, tracked
    for name, images in counts.items():
        if (unbiased := layers[name].running_var) is not None:  # not in place: the graph holds it
            layers[name].running_var = unbiased * ((images - 1) / images)


class _NotFiniteError(Exception):
    """Logits that no step is made by."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits


@dataclass(frozen=True)
class AffineStream(Stream):
    """A protocol that trains affine terms; where a number is None, it is the paper's.

    Attributes:
        learning_rate: 0 or more.
        optimiser: "sgd", with a momentum of 0.9, or "adam".
        many: the paper's numbers for models of `MANY_CLASSES` or more, which are ImageNet's.
        few: those for models of fewer classes, which are CIFAR-10's.
        stepping: what answers.

    Raises:
        InputError: other numbers.
    """

    number = Number("learning_rate", 0, float("inf"))
    changes: ClassVar[tuple[str, ...]] = ("statistics", "affine")
    backwards = 1
    many: ClassVar[Mapping[str, Any]] = {"optimiser": "sgd", "learning_rate": 0.00025}
    few: ClassVar[Mapping[str, Any]] = {"optimiser": "adam", "learning_rate": 0.001}
    stepping: ClassVar[Any]

    learning_rate: float | None = None
    optimiser: str | None = None

    def __post_init__(self) -> None:
        if self.learning_rate is not None and not 0 <= self.learning_rate < float("inf"):
            raise InputError(f"Expected `learning_rate` to be 0 or more, but got {self.learning_rate}.")
        if self.optimiser is not None and self.optimiser not in OPTIMISERS:
            raise unknown("optimiser", self.optimiser, OPTIMISERS)

    def begin(self, model: nn.Module, options: AdaptationOptions) -> Stepping:
        """Return what trains the model batch by batch."""
        stepping: Stepping = self.stepping(model, self)
        return stepping

    def usual(self, model: nn.Module, classes: int) -> Mapping[str, Any]:
        """Return the paper's numbers for a model of so many classes."""
        return self.many if classes >= MANY_CLASSES else self.few

    def settled(self, model: nn.Module, classes: int) -> "Self":
        """Return the protocol with all its numbers."""
        usual = self.usual(model, classes)
        return replace(self, **{name: value for name, value in usual.items() if getattr(self, name) is None})

    def terms(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return what it trains of a model, by name.

        Raises:
            InputError: there is nothing; the norms that the model has are named.
        """
        check_initialised(model)
        layers = norm_layers(model)
        terms = affine_terms(self.chosen(layers))
        if not terms:
            check_reachable(model)
            kinds = sorted({type(layer).__name__ for layer in layers.values()})
            raise InputError(
                f"Expected a model whose norm layers have weights and biases for {self.label} to train, but its norms "
                f"are: {', '.join(kinds) or 'none'}."
            )
        return terms

    def chosen(self, layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
        """Return those norm layers whose affine terms are trained: all."""
        return layers

    def describe(
        self, label: str, options: AdaptationOptions, model: nn.Module, image: Tensor, images: int
    ) -> dict[str, Any]:
        """Return for a record what it does, the paper's numbers among it."""
        self.terms(model)
        with torch.no_grad(), evaluating(model):
            classes = extract_logits(run(model, image)).shape[1]
        return super().describe(label, options, model, image, images) | self.settled(model, classes).values()


class AffineStepping(Stepping):
    """Train the affine terms of norm layers batch after batch; a subclass gives `adapt`.

    Batch norms normalise by the statistics of the batch, which stay in the model as its running statistics: so it
    answers by them in evaluation mode. All else stays in evaluation mode. A batch whose logits, loss or gradients are
    not finite counts as skipped; it and one that the model fails on leave terms, statistics, optimiser and memory as
    they were.

    Args:
        model: its own to change.
        protocol: what it does; its numbers are settled with the first batch, which tells the number of classes.

    Attributes:
        how: the protocol with all its numbers, once there was a batch.
        terms: what is trained, by name.
        layers: the batch norms, by name.
        source: what terms and statistics were, by name.
        memory: what a method remembers of the stream; its tensors are never written to.
        batches: adapted to since the source.
        seen: images answered.
        resets: how often it went back to the source.
    """

    def __init__(self, model: nn.Module, protocol: AffineStream) -> None:
        super().__init__(model)
        check_changeable(model)
        self.protocol = protocol
        self.how: Any = None
        self.terms = protocol.terms(model)
        model.requires_grad_(False)
        for term in self.terms.values():
            term.requires_grad_(True)
        self.layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
        self.source = {name: value.detach().clone() for name, value in (self.terms | self._statistics()).items()}
        self.memory: dict[str, Tensor] = {}
        self.optimiser: torch.optim.Optimizer | None = None
        self.classes = self.batches = self.seen = self.resets = 0

    def adapt(self, images: Tensor) -> Tensor:
        """Adapt to images (B,3,H,W) in [0,1], with gradients enabled, and return their logits (B,K)."""
        raise NotImplementedError

    def step(self, images: Tensor) -> Tensor:
        """Adapt to finite images, and return their logits."""
        self._hold()
        with torch.inference_mode(False), torch.enable_grad():
            try:
                logits = self.adapt(images.clone() if images.is_inference() else images)
            except _NotFiniteError as stopped:
                self.skipped += 1
                self._undo()
                return stopped.logits
            except BaseException:
                self._undo()
                raise
        self.batches += 1
        self.seen += len(images)
        return logits.detach()

    def answer(self, images: Tensor, *, kept: bool = True) -> Tensor:
        """Return logits (B,K,...) on the batch's own statistics.

        Args:
            images: (B,3,H,W) in [0,1].
            kept: whether these statistics stay.
        """
        with on_batch_statistics(self.layers, kept=kept):
            logits = extract_logits(run(self.model, images))
        if self.optimiser is None:
            self._settle(logits.shape[1])
        if kept and not logits.isfinite().all():
            raise _NotFiniteError(logits.detach())
        return logits

    def told(self, images: Tensor, *, kept: bool = True) -> Tensor:
        """Return logits (B,K) as `answer` does.

        Raises:
            InputError: they are of several answers an image.
        """
        return answers(self.answer(images, kept=kept), self.protocol.name)

    def update(self, loss: Tensor) -> bool:
        """Make one step of the optimiser against a loss (), and return whether it was made."""
        gradients = self.gradients(loss)
        if gradients is not None:
            self.step_by(gradients)
        return gradients is not None

    def step_by(self, gradients: Sequence[Tensor | None]) -> None:
        """Make one step of the optimiser by the gradients of the terms."""
        assert self.optimiser is not None
        for term, gradient in zip(self.terms.values(), gradients, strict=True):
            term.grad = gradient
        self.optimiser.step()
        self.optimiser.zero_grad()

    def gradients(self, loss: Tensor) -> tuple[Tensor | None, ...] | None:
        """Return the gradients of a loss () by term; None if not all is finite, and the batch counts as skipped."""
        found = torch.autograd.grad(loss, list(self.terms.values()), allow_unused=True)
        values = [loss.detach(), *(gradient for gradient in found if gradient is not None)]
        if not torch.cat([value.flatten() for value in values]).isfinite().all():
            self.skipped += 1
            self._undo()
            return None
        return found

    @torch.no_grad()
    def reset(self) -> None:
        """Go back to the source, to the bit; what is remembered is forgotten."""
        for name, value in (self.terms | self._statistics()).items():
            value.copy_(self.source[name])
        self.optimiser, self.how = None, None
        self.memory = {}
        self._hold()
        self.batches = 0
        self.resets += 1
        if self.classes:
            self._settle(self.classes)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what is neither parameter nor buffer, cloned."""
        numbers = {name: getattr(self, name) for name in ("classes", "batches", "seen", "resets")}
        optimiser = None if self.optimiser is None else self.optimiser.state_dict()
        return deepcopy(numbers | {"optimiser": optimiser, "memory": self.memory, "source": self.source})

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over such a state, cloned."""
        state = deepcopy(state)
        optimiser, self.memory, self.source = state.pop("optimiser"), state.pop("memory"), state.pop("source")
        vars(self).update(state)
        self.optimiser, self.how = None, None
        if optimiser is not None:
            self._settle(self.classes).load_state_dict(optimiser)

    def _settle(self, classes: int) -> torch.optim.Optimizer:
        self.classes = classes
        self.how = self.protocol.settled(self.model, classes)
        self.optimiser = make_optimiser(self.how.optimiser, list(self.terms.values()), self.how.learning_rate)
        return self.optimiser

    def _statistics(self) -> dict[str, Tensor]:
        return {
            f"{name}.{kind}": value
            for name, layer in self.layers.items()
            for kind, value in layer.named_buffers(recurse=False)
        }

    def _hold(self) -> None:
        self._before = {name: value.clone() for name, value in self._statistics().items()}, dict(self.memory)

    @torch.no_grad()
    def _undo(self) -> None:
        statistics, self.memory = self._before[0], dict(self._before[1])
        for name, value in self._statistics().items():
            value.copy_(statistics[name])
