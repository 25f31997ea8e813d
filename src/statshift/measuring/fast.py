"""What `fast` runs a model by: chosen for the device, tried on clean images beside float32, and told.

On the CPU: weights in channels_last, bfloat16 where the processor multiplies in it, and the batch size at which the
model is fastest. On a GPU also `torch.compile`, of small models by CUDA graphs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from statshift._core import processes
from statshift._core.copying import copied
from statshift.data import ImageData
from statshift.measuring.evaluate import Evaluator
from statshift.measuring.joining import joined, of_type
from statshift.measuring.memory import AtOnce
from statshift.models import PixelModel
from statshift.norms.layers import evaluating, run
from statshift.results import make_row
from statshift.shifts.conditions import Condition
from statshift.shifts.shift import CLEAN
from statshift.tasks.task import Results, Task

TRIED = 256
"""Clean images that are classified both ways."""

GRAPHED = 30_000_000
"""Weights up to which a model is replayed as a CUDA graph: of larger ones a kernel takes longer than its launch."""

GAIN = 0.97
"""Share of the seconds of an image below which another batch size is faster, beyond a clock's noise."""

LARGEST_BATCH = 4
"""Times the usual batch size up to which others are tried."""


@dataclass(frozen=True)
class Way:
    """How a model runs fast.

    Attributes:
        dtype: of autocast, a name of `DTYPES`.
        compiled: mode of `torch.compile`; "" is not at all.
    """

    dtype: str
    compiled: str = ""


def find_way(device: torch.device, model: nn.Module, dtype: str) -> Way:
    """Return how a model runs fast on a device; a `dtype` other than float32 stays."""
    if dtype == "float32" and multiplies_bfloat16(device):
        dtype = "bfloat16"
    if device.type != "cuda" or find_spec("triton") is None:
        return Way(dtype)
    weights = sum(weight.numel() for weight in model.parameters())
    return Way(dtype, "reduce-overhead" if weights <= GRAPHED else "default")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies in bfloat16: a GPU from compute capability 8, a CPU with AVX-512 BF16 or AMX.

    A torch that does not tell what the processor can is taken to say no.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.backends.mkldnn.is_available() and bool(told.get("avx512_bf16") or told.get("amx_bf16"))  # type: ignore[no-untyped-call]


def in_channels_last(model: PixelModel) -> PixelModel:
    """Return a copy of a model whose convolutions have their weights, and so their images, in channels_last."""
    made = copied(model)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 4 and not weight.is_sparse:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return made


def compiled_as(model: nn.Module, mode: str) -> Callable[[Tensor], Tensor]:
    """Return a model through `torch.compile`, each size of batch on its own; what it answers is the caller's.

    A CUDA graph writes each answer over the one before, so that of one a copy is returned.
    """
    made: Callable[[Tensor], Tensor] = torch.compile(model, mode=mode, dynamic=False)
    if mode != "reduce-overhead":
        return made

    def answer(images: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return made(images).clone()

    return answer


def find_batch_size(seconds: Callable[[int], float], usual: int, most: int) -> int:
    """Return the batch size at which an image takes least, by doubling or halving the usual one as long as it helps.

    Args:
        seconds: what a batch of so many images takes; infinite where there is no memory for it.
        usual: where to begin.
        most: images there are.
    """
    size = max(1, min(usual, most))
    best = seconds(size) / size
    for times in (2, 0.5):
        begun = size
        while 1 <= (other := int(size * times)) <= min(most, usual * LARGEST_BATCH):
            found = seconds(other) / other
            if found >= best * GAIN:
                break
            size, best = other, found
        if size != begun:
            break
    return size


def time_batches(evaluate: Evaluator, shape: tuple[int, int, int]) -> Callable[[int], float]:
    """Return what tells the seconds of the evaluator's model for a batch of so many grey images of a shape (3,H,W)."""

    @torch.no_grad()
    def seconds(size: int) -> float:
        try:
            images = torch.full((size, *shape), 0.5, device=evaluate.device)
            return min(once(images) for _ in range(3))
        except torch.OutOfMemoryError:
            return float("inf")

    def once(images: Tensor) -> float:
        started = time.perf_counter()
        with evaluating(evaluate.model), evaluate.autocast():
            run(evaluate.model, images)
        if evaluate.device.type == "cuda":
            torch.cuda.synchronize(evaluate.device)
        return time.perf_counter() - started

    return seconds


def settle(
    evaluate: Evaluator,
    plain: PixelModel,
    way: Way,
    data: ImageData,
    classes: int,
    task: Task,
    *,
    sizing: bool,
) -> dict[str, Any]:
    """Find the batch size if asked to, classify some clean images both ways, and return what was chosen and found.

    Args:
        evaluate: runs the fast copy of the model; it is made to compile it if it shall, and runs it as written where
            that fails.
        plain: the model itself.
        way: how the copy runs.
        data: with labels.
        classes: number of classes of the data.
        task: what the labels are of.
        sizing: find the batch size; every process takes what the first has found.
    """
    if sizing:
        usual, shape = evaluate.batch_size, (*data.shape,)
        first = processes.join()[0] == 0
        found = find_batch_size(time_batches(evaluate, shape), usual, len(data)) if first else usual
        evaluate.take_batches_of(processes.from_first(found))
    groups = first_groups(data, evaluate.batch_size)
    if way.compiled:
        evaluate.classify = compiled_as(evaluate.model, way.compiled)
    try:
        with evaluating(evaluate.model, plain):
            exact = classified(evaluate, data, task, groups, in_float32(plain, evaluate.device))
            quick = classified(evaluate, data, task, groups, evaluate.classify)
    except torch.OutOfMemoryError:
        if evaluate.batch_size == 1:
            raise AtOnce(evaluate.device, 1).no_memory(1) from None
        evaluate.take_batches_of(evaluate.batch_size // 2)
        return settle(evaluate, plain, way, data, classes, task, sizing=False)
    except RuntimeError:  # torch.compile's own are of many kinds
        if not way.compiled:
            raise
        evaluate.classify = evaluate.model
        return settle(evaluate, plain, Way(way.dtype), data, classes, task, sizing=False)
    labels = task.labels_of(data)
    assert labels is not None
    positions = np.concatenate(groups)
    scores = {}
    for name, (results, _) in (("score", quick), ("float32_score", exact)):
        row = make_row(results, labels[positions], classes, shift=CLEAN, severity=0, task=task)
        scores[name] = task.measures(row)[task.headline]
    differing = sum(int((one != other).sum()) for one, other in zip(quick[1], exact[1], strict=True))
    return {
        "channels_last": True,
        "dtype": way.dtype,
        "compiled": way.compiled,
        "batch_size": evaluate.batch_size,
        "tried": len(positions),
        "predictions": sum(one.numel() for one in exact[1]),
        "differing": differing,
        "headline": task.headline,
        **scores,
    }


def first_groups(data: ImageData, batch_size: int) -> list[NDArray[np.int64]]:
    """Return the positions of the first batches, of at most `TRIED` images in all."""
    groups: list[NDArray[np.int64]] = []
    left = TRIED
    for group in data.batch_positions(batch_size):
        if left:
            groups.append(group[:left])
            left -= len(groups[-1])
    return groups


@torch.no_grad()
def classified(
    evaluate: Evaluator,
    data: ImageData,
    task: Task,
    groups: list[NDArray[np.int64]],
    classify: Callable[[Tensor], Tensor],
) -> tuple[Results, list[Tensor]]:
    """Return what a task keeps of images as they are, (n,...) on the CPU, and the predictions of each group."""
    found, predicted = [], []
    for positions in groups:
        images = evaluate.shifted(data, Condition(CLEAN, 0), positions)
        labels = task.labels(data, positions).to(images.device)
        with evaluate.autocast():
            logits = classify(images)
        found.append(task.per_image(logits, labels))
        predicted.append(logits.argmax(1).cpu())
    whole = joined(found)
    return of_type(whole, [field.cpu() for field in whole]), predicted


def in_float32(model: PixelModel, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return what answers as a model does without autocast."""

    def answer(images: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            logits: Tensor = run(model, images)
        return logits

    return answer
