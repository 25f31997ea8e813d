"""What goes into a record: enough to know whether two figures are of the same thing."""

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
from statshift.data import ImageData, integers_hash
from statshift.models import PixelModel, source_hash, weights_hash
from statshift.shifts.conditions import CorruptionOptions, ShiftFunction
from statshift.shifts.corruptions import frost_source, table_for


def describe_model(model: PixelModel) -> dict[str, Any]:
    """Return the model's spec and arguments, hashes of weights and of a user's file, norms and preprocessing."""
    return {
        "spec": model.spec,
        "arguments": {name: repr(value) for name, value in model.arguments.items()},
        "source_hash": source_hash(type(model.network)) if model.spec.startswith("py:") else None,
        "weights_hash": weights_hash(model.network),
        "made_by": model.made_by,
        "norms": dict(Counter(map(_describe_norm, (one for one in model.modules() if "Norm" in type(one).__name__)))),
        "preprocessing": vars(model.preprocessing),
    }


def _describe_norm(norm: Any) -> str:
    groups = f" of {norm.num_groups} groups" if hasattr(norm, "num_groups") else ""
    return f"{type(norm).__name__}{groups}, eps {getattr(norm, 'eps', None)}"


def describe_data(data: ImageData, labels: NDArray[np.int64] | None) -> dict[str, Any]:
    """Return which images of which data, with which labels if any, how they were loaded, and what was left out."""
    labelled = (
        {}
        if labels is None
        else {
            "labels_hash": integers_hash(labels),
            "classes": data.classes or int(labels.max()) + 1,
            "class_counts": np.bincount(labels, minlength=data.classes or 0).tolist(),
        }
    )
    return {
        "spec": data.spec,
        "images": len(data),
        "shape": list(data.shape),
        "indices_hash": integers_hash(data.indices),
        "content_hash": data.content_hash(),
        "class_order": data.class_order,
        **labelled,
        "preprocessing": data.preprocessing,
        "counts": data.counts,
        "skipped": data.skipped,
    }


def describe_corruption(options: CorruptionOptions, shape: Sequence[int], at: str) -> dict[str, Any]:
    """Return how images of `shape` (3,H,W) are corrupted: constants, rounding, re-encoding, frost and at which size."""
    return {
        "table": options.table or table_for(min(shape[1:])),
        "quantise": options.quantise,
        "reencode": options.reencode,
        "frost": frost_source(options.frost),
        "at": at,
    }


def describe_functions(functions: Mapping[str, ShiftFunction]) -> dict[str, str]:
    """Return for each function of the user's own its name, the hash of its file and what arguments are bound to it."""
    return {name: _describe_function(function) for name, function in functions.items()}


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
