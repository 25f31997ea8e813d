"""Checkpoints as data: read without running anything, and the state dict in what was read."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statshift._core.errors import InputError

NESTS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model", "model_state_dict", "net")
"""Where the weights are looked for, in this order; averaged ones come first, as in timm."""

_SCALAR: Any = np.float64(0).__reduce__()[0]
DATA: list[Any] = [
    argparse.Namespace,  # the options that timm keeps beside the weights
    np.dtype,  # NumPy's numbers, such as a best accuracy, by the names of NumPy 1 and 2
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""What a checkpoint may hold beside tensors and Python's own numbers, text and containers: none of it runs anything."""


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint, on the CPU.

    It is the file's content, or lies under the first of `NESTS` that holds one; nested as they like.

    Raises:
        InputError: the file is missing, damaged, needs more than data, or holds no state dict.
    """
    content = _read(Path(path).expanduser())
    state = _find_state(content)
    if state is None:
        raise InputError(f"Expected {path} to hold a state dict, but got {type(content).__name__}.")
    others = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise InputError(f"Expected {path} to hold a state dict, but these are no tensors: {few(others)}.")
    return dict(state)


def few(names: list[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _find_state(content: Any) -> Mapping[str, Any] | None:
    """Return the state dict in a checkpoint's content: with others in it told of later, but with tensors."""
    if not isinstance(content, Mapping) or not content:
        return None
    nested = [found for name in NESTS if (found := _find_state(content.get(name))) is not None]
    if nested:
        return nested[0]
    tensors = sum(isinstance(value, Tensor) for value in content.values())
    return content if tensors else None


def _read(path: Path) -> Any:
    """Return what the file holds, on the CPU."""
    if not path.is_file():
        raise InputError(f"Expected `weights` to be a checkpoint file, but {path} is not a file.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(DATA):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        with path.open("rb") as file:
            text = not file.read(2).startswith((b"\x80", b"PK"))  # neither a pickle nor an archive
        if text and not wanted:
            raise InputError(
                f"Expected `weights` to be a checkpoint (.pt, .pth, .th, .tar or .safetensors), but {path} is none."
            ) from error
        reason = f"it asks for {wanted[1]}" if wanted else "its pickle does what no tensor needs"
        raise InputError(
            f"Refused to load {path}: it is more than data ({reason}); save its state_dict alone instead."
        ) from error
    except Exception as error:  # a damaged file makes the readers raise anything
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise InputError(f"Cannot read {path}: truncated, or not a checkpoint ({reason}).") from error
