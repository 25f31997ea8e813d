"""A protocol under measurement: adapt to a condition, answer it, and leave the model as found."""

from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from statshift._core import processes
from statshift._core.errors import InputError
from statshift._core.parts import part
from statshift.adapting.drawing import adaptation_positions, shuffled_batches, whole_batches
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocol import Protocol, Session
from statshift.adapting.registry import FAMILIES, SOURCE, STREAMS
from statshift.data import ImageData
from statshift.measuring.evaluate import Evaluator
from statshift.norms.layers import evaluating
from statshift.results import Row, make_row
from statshift.shifts.conditions import Condition
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Results, Task


def describe_protocols(
    protocols: Mapping[str, Protocol],
    options: AdaptationOptions,
    model: nn.Module,
    image: Tensor,
    images: int,
    *,
    reset: str = "",
) -> dict[str, dict[str, Any]]:
    """Return for a record what each protocol does, see `Protocol.describe`; with `reset`, its words, along a stream."""
    if not reset:
        return {name: protocol.describe(name, options, model, image, images) for name, protocol in protocols.items()}
    nothing_held_out = replace(options, include_adaptation=True)
    more = f", and after every {options.reset_every} batches" if options.reset_every else ""
    along = {"kind": FAMILIES[STREAMS].kind, "evaluated_on": "all images, batch after batch", "reset": reset + more}
    return {
        name: protocol.describe(name, nothing_held_out, model, image, images) | along
        for name, protocol in protocols.items()
    }


def check_attacked(protocols: Mapping[str, Protocol], attacks: Collection[str]) -> None:
    """Check that attacks can be made on what the protocols adapt.

    Raises:
        InputError: they cannot, for a reason of the protocol's own.
    """
    refused = {name: protocol.not_attacked for name, protocol in protocols.items() if protocol.not_attacked}
    if not (attacks and refused):
        return
    reason = next(iter(refused.values()))
    raise InputError(
        f"Cannot attack {', '.join(name for name, why in refused.items() if why == reason)}, {reason}: measure "
        f"{', '.join(attacks)} without, or by another protocol."
    )


def check_streamed(protocols: Mapping[str, Protocol], attacks: Collection[str]) -> None:
    """Check that the protocols can answer a stream.

    Raises:
        InputError: one cannot, for a reason of its own, or its images would be attacks on what moves.
    """
    for name, protocol in protocols.items():
        if protocol.not_streamed:
            raise InputError(
                f"Cannot measure {name} along a stream, {protocol.not_streamed}: leave out `stream`, or {name}."
            )
    if attacks and protocols:
        raise InputError(
            f"Cannot attack {', '.join(protocols)} along a stream, where a model moves with every batch: measure "
            f"{', '.join(attacks)} without `stream`."
        )


def measure_condition(
    evaluate: Evaluator,
    images: ImageData,
    classes: int,
    condition: Condition,
    repeated: Sequence[tuple[str, Protocol | None, int]],
    adaptation: AdaptationOptions,
    seed: int,
    begin: Callable[[Condition, str], Callable[[int], None]],
    examples: NDArray[np.int64] | None = None,
    task: Task = CLASSIFICATION,
    known: MutableMapping[Condition, Results] | None = None,
) -> Iterator[Row]:
    """Yield a row for each protocol and draw of a condition; before any, the source is measured, to pair with.

    Args:
        evaluate: with the source model, which is left as found.
        images: with labels.
        classes: number of classes of the data.
        condition: what is done to the images.
        repeated: the rows wanted, as name, protocol and draw; None is the source.
        adaptation: for all protocols.
        seed: seed of the draws.
        begin: called with condition and protocol before each pass; returns what is told the number of images finished.
        examples: positions of images whose predictions the rows hold.
        task: what the labels are of; the evaluator's.
        known: by condition what the source answers, looked up here and added, though no row be wanted.
    """
    labels = task.labels_of(images)
    assert labels is not None
    if not repeated and known is None:
        return
    if (found := (known or {}).get(condition)) is None:
        with evaluating(evaluate.model):
            found = evaluate(images, condition, begin(condition, SOURCE))
    source = found
    if known is not None:
        known[condition] = source
    for name, protocol, draw in repeated:
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
        tell = begin(condition, name)
        with evaluating(evaluate.model):
            answered = evaluate_adapted(
                evaluate, images, condition, protocol, draw, adaptation, seed, tell, name, source=source
            )
        few = protocol.kin.adapts_on == "few"
        yield make_row(
            answered,
            labels,
            classes,
            shift=condition.shift,
            severity=condition.severity,
            protocol=name,
            draw=draw,
            adapted_on=adaptation_positions(images.indices, protocol.taking(adaptation).samples, seed, draw)
            if few
            else None,
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
    label: str = "",
    source: Results | None = None,
) -> Results:
    """Adapt the evaluator's model to a condition, and return what it answers for all images; see `Evaluator`.

    Args:
        evaluate: with the source model, which is left as found.
        data: the images.
        condition: what is done to them.
        protocol: how to adapt.
        draw: number of the choice of images.
        options: for all protocols.
        seed: seed of the choice.
        on_batch: called with the number of images finished.
        label: what rows call the protocol, for messages.
        source: what the source answers, which stands where the protocol leaves it as it is.
    """
    options = protocol.taking(options)
    indices, samples = data.indices, options.samples
    session = Session(
        label or protocol.label,
        evaluate.model,
        options,
        few=lambda: evaluate.shifted(data, condition, adaptation_positions(indices, samples, seed, draw)),
        first=lambda: evaluate.shifted(data, condition, np.zeros(1, np.int64)),
        whole=lambda: evaluate.shares(data, condition, whole_batches(data)),
        batches=lambda: shuffled_batches(indices, samples, seed, draw),
        images=len(data),
        attack=condition.shift if evaluate.attacks(condition) else "",
        adapting=partial(adapting_in, evaluate),
    )
    with ExitStack() as until_answered:
        with part("adapt"):
            answer = until_answered.enter_context(protocol.adapted(session))
        how = dict(vars(answer))
        if all(processes.gather(how.pop("as_source"))) and source is not None:
            on_batch(len(data))
            return source
        return evaluate(data, condition, on_batch, **how)


@contextmanager
def adapting_in(evaluate: Evaluator, images: int) -> Iterator[None]:
    """Adapt on so many images in the evaluator's dtype.

    Raises:
        InputError: memory runs out.
    """
    try:
        with evaluate.autocast():
            yield
    except torch.OutOfMemoryError:
        raise InputError(f"Out of memory on {evaluate.device} adapting on {images} images; use `device` cpu.") from None
