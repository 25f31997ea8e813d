"""A protocol under measurement: adapt to a condition, answer it, and leave the model as found."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from statshift._core.copying import copied
from statshift._core.errors import InputError, unknown
from statshift.adapting.protocols import (
    SOURCE,
    Protocol,
    adaptation_positions,
    full_batches,
    shuffled_batches,
)
from statshift.adapting.rectify import rewrite
from statshift.adapting.sweep import sweep
from statshift.data import ImageData
from statshift.measuring.evaluate import Evaluator
from statshift.norms.layers import batch_norms, evaluating, execution_order, keeping_statistics
from statshift.norms.selection import PARTS, select_layers
from statshift.results import Row, make_row
from statshift.results.provenance import describe_functions
from statshift.shifts.conditions import Condition
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Results, Task

MODES = (_NormBase, _DropoutNd)
"""What answers otherwise in training mode."""


@dataclass(frozen=True)
class AdaptationOptions:
    """How protocols adapt.

    Attributes:
        samples: images that a protocol adapts on, and in a batch of a stream.
        draws: with how many choices of these images each condition is repeated; the same in every condition.
        include_adaptation: evaluate on the images adapted on too; by default they are held out.
        statistics: "both", "mean" or "var" are rewritten.
        where: which layers; see `statshift.norms.selection.select_layers`.
        unbiased: write the variance with count - 1 in the denominator.
        reset_every: after so many batches a stream begins at the source again; by default only at each condition.
    """

    samples: int = 32
    draws: int = 1
    include_adaptation: bool = False
    statistics: str = "both"
    where: str = "all"
    unbiased: bool = False
    reset_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "draws", "reset_every"):
            value = getattr(self, name)
            if name == "reset_every" and value is None:
                continue
            if not (isinstance(value, int) and value >= 1):
                raise InputError(f"Expected `{name}` to be an integer of at least 1, but got {value}.")
        if self.statistics not in PARTS:
            raise unknown("statistics", self.statistics, PARTS)

    def repeats(self, protocol: Protocol) -> int:
        """Return how often a protocol is measured: one that takes all images has nothing to draw."""
        return 1 if protocol.kind == "full" else self.draws

    @property
    def layers(self) -> dict[str, Any]:
        """What `rewrite` is told."""
        return self.written | {"where": self.where}

    @property
    def written(self) -> dict[str, Any]:
        """Which statistics are written."""
        return {"statistics": self.statistics, "unbiased": self.unbiased}


def describe_protocols(
    protocols: Sequence[Protocol],
    options: AdaptationOptions,
    model: nn.Module,
    image: Tensor,
    images: int,
) -> dict[str, dict[str, Any]]:
    """Return for a record what each protocol does, with all its numbers.

    Args:
        protocols: to be measured.
        options: for all of them.
        model: the source.
        image: (1,3,H,W), for the layers' order.
        images: how many will be measured on.

    Raises:
        InputError: a model without batch norm for a protocol that rewrites it, layers that are not there, or more
            samples than images.
    """
    described: dict[str, dict[str, Any]] = {}
    for one in protocols:
        rewrites = not one.own or one.kind == "layers"
        numbers = {name: value if math.isfinite(value) else repr(value) for name, value in one.numbers.items()}
        found: dict[str, Any] = {"kind": one.kind, **numbers}
        if one.own:
            found["function"] = describe_functions({one.name: one.function})[one.name]
        if one.kind != "full":
            most = images - (one.few_images and not options.include_adaptation)
            if options.samples > most:
                raise InputError(
                    f"Expected at most {most} samples of the {images} images for {one.name}, but got {options.samples}."
                )
            found["samples"] = options.samples
        if rewrites:
            layers = select_layers(model, image, options.where)
            found |= options.layers | {"layers": execution_order(model, layers, image)}
        held_out = one.few_images and not options.include_adaptation
        found["evaluated_on"] = "the other images" if held_out else "all images, those adapted on among them"
        found["reset"] = "to the source at each condition and draw"
        if one.kind == "stream" and options.reset_every:
            found["reset"] += f", and after every {options.reset_every} batches"
        described[one.name] = found
    return described


def measure_condition(
    evaluate: Evaluator,
    images: ImageData,
    classes: int,
    condition: Condition,
    repeated: Sequence[tuple[Protocol | None, int]],
    adaptation: AdaptationOptions,
    seed: int,
    begin: Callable[[Condition, str], Callable[[int], None]],
    examples: NDArray[np.int64] | None = None,
    task: Task = CLASSIFICATION,
) -> Iterator[Row]:
    """Yield a row for each protocol and draw of a condition; before any, the source is measured, to pair with.

    Args:
        evaluate: with the source model, which is left as found.
        images: with labels.
        classes: number of classes of the data.
        condition: what is done to the images.
        repeated: the rows wanted, as protocol and draw; None is the source.
        adaptation: for all protocols.
        seed: of the draws.
        begin: called with condition and protocol before each pass; returns what is told the number of images finished.
        examples: positions of images whose predictions the rows hold.
        task: what the labels are of; the evaluator's.
    """
    labels = task.labels_of(images)
    assert labels is not None
    if not repeated:
        return
    with evaluating(evaluate.model):
        source = evaluate(images, condition, begin(condition, SOURCE))
    for protocol, draw in repeated:
        if protocol is None:
            yield make_row(
                source,
                labels,
                classes,
                shift=condition.shift,
                severity=condition.severity,
                examples=examples,
                task=task,
            )
            continue
        tell = begin(condition, protocol.name)
        with evaluating(evaluate.model):
            found = evaluate_adapted(evaluate, images, condition, protocol, draw, adaptation, seed, tell)
        few = protocol.few_images
        yield make_row(
            found,
            labels,
            classes,
            shift=condition.shift,
            severity=condition.severity,
            protocol=protocol.name,
            draw=draw,
            adapted_on=adaptation_positions(images.indices, adaptation.samples, seed, draw) if few else None,
            held_out=not adaptation.include_adaptation,
            source=source,
            examples=examples,
            task=task,
        )


def evaluate_adapted(
    evaluate: Evaluator,
    data: ImageData,
    condition: Condition,
    protocol: Protocol,
    draw: int,
    options: AdaptationOptions,
    seed: int,
    on_batch: Callable[[int], None],
) -> Results:
    """Adapt the evaluator's model to a condition, and return what it answers for all images; see `Evaluator`.

    Args:
        evaluate: with the source model, which is left as found.
        data: the images.
        condition: what is done to them.
        protocol: how to adapt.
        draw: number of the choice of images.
        options: for all protocols.
        seed: of the choice.
        on_batch: called with the number of images finished.
    """
    model = evaluate.model
    given = protocol.numbers | ({} if protocol.own and protocol.kind != "layers" else options.layers)
    if protocol.kind == "stream":
        return evaluate(
            data,
            condition,
            on_batch,
            classify=_resetting(protocol, model, given, options.reset_every),
            groups=shuffled_batches(data.indices, options.samples, seed, draw),
            in_order=protocol.name != "batch",
        )
    if protocol.kind == "full":
        with keeping_statistics(batch_norms(model)):
            with _adapting(evaluate, len(data)):
                first = evaluate.shifted(data, condition, np.zeros(1, np.int64))
                layers = select_layers(model, first, options.where)
                groups = full_batches(len(data))
                sweep(model, lambda: evaluate.shares(data, condition, groups), layers, **options.written)
            return evaluate(data, condition, on_batch, attacked=model)
    images = evaluate.shifted(data, condition, adaptation_positions(data.indices, options.samples, seed, draw))
    if protocol.kind == "model":
        with _adapting(evaluate, len(images)):
            adapted = protocol.function(copied(model), images)
        answer = _callable(protocol, adapted)
        attacked = adapted if isinstance(adapted, nn.Module) else None
        if evaluate.attacks(condition):
            _check_attacked(protocol, condition, adapted)
        return evaluate(data, condition, on_batch, classify=answer, attacked=attacked)
    with keeping_statistics(batch_norms(model)):
        with _adapting(evaluate, len(images)):
            rewrite(model, images, protocol.function, **given)
        return evaluate(data, condition, on_batch, attacked=model)


def _resetting(
    protocol: Protocol, model: nn.Module, given: Mapping[str, Any], every: int | None
) -> Callable[[Tensor], Tensor]:
    """Return what answers batch after batch, made anew from the model after every so many."""

    def make() -> Callable[[Tensor], Tensor]:
        return _callable(protocol, protocol.function(copied(model), **given))

    step, answered = make(), 0

    def answer(images: Tensor) -> Tensor:
        nonlocal step, answered
        if every and answered and answered % every == 0:
            step = make()
        answered += 1
        return step(images)

    return answer


def _callable(protocol: Protocol, made: Any) -> Callable[[Tensor], Tensor]:
    if not callable(made):
        raise InputError(
            f"Expected the protocol {protocol.name} to return what answers images, but got {type(made).__name__}."
        )
    return cast(Callable[[Tensor], Tensor], made)


def _check_attacked(protocol: Protocol, condition: Condition, adapted: Any) -> None:
    """Check that an attack, which sees a model in evaluation mode, would be on what answers.

    Raises:
        InputError: it would be on something else, or on nothing.
    """
    if not isinstance(adapted, nn.Module):
        raise InputError(
            f"Expected the protocol {protocol.name} to return a module, so that {condition.shift} can attack what it "
            f"has adapted, but got {type(adapted).__name__}."
        )
    moving = [name for name, module in adapted.named_modules() if module.training and isinstance(module, MODES)]
    if moving:
        raise InputError(
            f"Expected the protocol {protocol.name} to return a module in evaluation mode, in which {condition.shift} "
            f"attacks it, but {moving[0] or 'it'} is in training mode."
        )


@contextmanager
def _adapting(evaluate: Evaluator, images: int) -> Iterator[None]:
    try:
        with evaluate.autocast():
            yield
    except torch.OutOfMemoryError:
        raise InputError(f"Out of memory on {evaluate.device} adapting on {images} images; use `device` cpu.") from None
