"""What goes into a record: enough to know whether two figures are of the same thing."""

import hashlib
import json
import math
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from statshift._core import processes
from statshift._core import randomness as streams
from statshift._core.walking import modules_of
from statshift.data import ImageData, integers_hash
from statshift.models import PixelModel, source_hash, weights_hash
from statshift.norms.layers import evaluating, run
from statshift.results.answering import warn_of_answers
from statshift.shifts.corruptions import frost_source, table_for
from statshift.shifts.functions import ShiftFunction
from statshift.shifts.shift import CorruptionOptions, Shift
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Task

MOST_LOGITS = 1 << 20
"""Of more logits an image, as a network for label maps has, every so many pixels' are looked at."""


def describe_model(model: PixelModel) -> dict[str, Any]:
    """Return the model's spec and arguments, hashes of weights and of a user's code, norms and preprocessing."""
    return {
        "spec": model.spec,
        "arguments": {name: repr(value) for name, value in model.arguments.items()},
        "source_hash": model.source_hash,
        "weights_hash": weights_hash(model.network),
        "made_by": model.made_by,
        **({"checkpoint": model.checkpoint} if model.checkpoint else {}),
        "norms": dict(Counter(map(_describe_norm, (one for one in modules_of(model) if "Norm" in type(one).__name__)))),
        "preprocessing": model.preprocessing.described(),
    }


def answers_of(model: PixelModel, shape: Sequence[int]) -> list[float] | None:
    """Return eight numbers that tell what a model answers to two images (3,H,W) of noise, always the same ones.

    They are four projections of the logits of each; a model that is the same to the last weight and computes otherwise
    has others. None stands for a model whose answers are left to chance, or are not finite. The model and the random
    numbers are left as they were. Probabilities and answers left to chance are warned of.

    Raises:
        InputError: the model raises.
    """
    device = model.mean.device
    images = streams.uniform(streams.keys(0, torch.arange(2), "probe"), *shape)
    images[1] = 0.25 + images[1] / 2  # of less contrast
    answers, all_logits = [], []
    with evaluating(model), torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        for seed, image in enumerate(images[[0, 1, 0]]):  # the first twice
            torch.manual_seed(seed)
            given = run(model, image[None].to(device))
            rows = given.movedim(1, -1).reshape(-1, given.shape[1])  # one of a classifier, of dense logits one a pixel
            rows = rows[:: -(-rows.numel() // MOST_LOGITS)].double().cpu()
            all_logits.append(rows)
            logits = rows.flatten()
            places = torch.arange(1, len(logits) + 1).double()
            answers.append(torch.stack([(wave * places).cos() @ logits for wave in range(1, 5)]) / len(logits) ** 0.5)
    found, again = torch.cat(answers[:2]), answers[2]
    warn_of_answers(all_logits[:2], all_logits[2])
    largest = float(found.abs().max())
    if not math.isfinite(largest) or not torch.allclose(answers[0], again, rtol=0, atol=1e-3 * largest):
        return None
    return [float(f"{value:.5g}") for value in found.tolist()]


def _describe_norm(norm: Any) -> str:
    groups = f" of {norm.num_groups} groups" if hasattr(norm, "num_groups") else ""
    return f"{type(norm).__name__}{groups}, eps {getattr(norm, 'eps', None)}"


def describe_data(data: ImageData, labels: NDArray[np.int64] | None, task: Task = CLASSIFICATION) -> dict[str, Any]:
    """Return which images of which data, with which labels if any, how they were loaded, and what was left out."""
    labelled = {} if labels is None else task.describe_labels(data)
    return {
        "spec": data.spec,
        "images": len(data),
        "shape": list(data.shape),
        **_describe_maps(data),
        "indices_hash": integers_hash(data.indices),
        "content_hash": data.content_hash(),
        "bytes_hash": data.bytes_hash,
        "class_order": data.class_order,
        **labelled,
        "preprocessing": data.preprocessing,
        "counts": data.counts,
        "skipped": data.skipped,
    }


def _describe_maps(data: ImageData) -> dict[str, Any]:
    """Return how label maps are read: which value is left out, and a hash of the labels given in place of theirs."""
    if not data.has_maps:
        return {}
    return {"maps": {"ignore_index": data.ignore_index, "label_map": data.label_map_hash}}


REPEATED = ("resize", "crop", "interpolation", "class_map", "skip_bad", "split", "ignore_index", "label_map")
"""Options of `load_data` of which the rest of a record does not tell whether and how they were given."""


def describe_request(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given and what a command needs to ask for the same again: paths as they were written."""
    return {
        name: value if isinstance(value, int | float | dict) else str(value)
        for name, value in asked.items()
        if not (value is None or value is False or value in ("", {}))
    }


def places_of(functions: Mapping[str, Any]) -> dict[str, str]:
    """Return by name how a command names functions of a file, as py:FILE:FUNCTION; others are left out."""
    found = {}
    for name, function in functions.items():
        code = getattr(function, "__code__", None)
        if code is not None and getattr(function, "__qualname__", "").isidentifier():
            found[name] = f"py:{code.co_filename}:{function.__qualname__}"
    return found


def describe_corruption(options: CorruptionOptions, shape: Sequence[int], at: str) -> dict[str, Any]:
    """Return how images of `shape` (3,H,W) are corrupted: constants, rounding, re-encoding, frost and at which size."""
    return {
        "table": options.table or table_for(min(shape[1:])),
        "quantise": options.quantise,
        "reencode": options.reencode,
        "frost": frost_source(options.frost),
        "at": at,
        **({} if options.scale_constants else {"scale_constants": False}),
    }


USUAL = {"corruption.scale_constants": True, "asked.full_argmax": False}
"""Fields, by dotted name, that a record holds only where they have another value."""


def describe_functions(functions: Mapping[str, ShiftFunction]) -> dict[str, str]:
    """Return for each function of the user's own its name, the hash of its file and what arguments are bound to it."""
    return {name: _describe_function(function) for name, function in functions.items()}


def describe_own(shifts: Sequence[Shift]) -> dict[str, str]:
    """Return the same for each shift that is the user's own code, with its own numbers."""
    return {shift.name: _describe_own(shift) for shift in shifts if shift.code() is not None}


def _describe_own(shift: Shift) -> str:
    bound = ", ".join(f"{name}={value!r}" for name, value in shift.numbers().items())
    told = _describe_function(shift.code())
    return re.sub(r" at 0x\w+", "", f"{told}({bound})") if bound else told


def set_hash(data: ImageData, task: Task) -> str:
    """Return 16 hexadecimal characters that two sets of images share if these, their order and labels are the same."""
    told = describe_data(data, task.labels_of(data), task)
    names = ("indices_hash", "content_hash", "bytes_hash", "labels_hash", "preprocessing")
    return hashlib.sha256(json.dumps([told[name] for name in names]).encode()).hexdigest()[:16]


def _describe_function(function: Any) -> str:
    if isinstance(function, partial):
        bound = [*map(repr, function.args), *(f"{name}={value!r}" for name, value in function.keywords.items())]
        return re.sub(r" at 0x\w+", "", f"{_describe_function(function.func)}({', '.join(bound)})")
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{source_hash(function) or source_hash(type(function)) or ''}:{name}"


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return versions and the machine: what may differ between two sittings of one run."""
    return {
        "versions": {name: version(name) for name in ("statshift", "torch", "torchvision", "timm", "numpy")},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": processes.join()[1],
    }
