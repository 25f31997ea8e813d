"""Checkpoints as data: read without running anything, fitted to a network strictly, and hashed."""

import argparse
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from warnings import warn

import torch
from torch import Tensor, nn

from statshift._core.errors import BackboneWarning, InputError
from statshift._core.files import replacing
from statshift.models.segmenting import DilatedResNet

NESTS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "net")
"""Where the weights are looked for, in this order; averaged ones come first, as in timm."""

PREFIXES = ("module.", "_orig_mod.", "model.")
COUNT = "n_averaged"


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Copy the weights of a checkpoint into `network`, all of them or none.

    A state dict may lie under one of `NESTS`, and its names may share the `PREFIXES` that wrappers leave.
    A missing `num_batches_tracked` is tolerated: nothing but a momentum of None reads it. A `DilatedResNet`
    takes the weights of its backbone alone as well, with a `BackboneWarning`: its head is then drawn by a seed.

    Args:
        network: the module to fill.
        path: a .pt, .pth, .th, .tar or .safetensors file.

    Raises:
        InputError: the file is missing, damaged, needs more than data, or does not fit.
    """
    own = network.state_dict()
    weights = _strip_prefixes(read_state(path), own)
    backbone = isinstance(network, DilatedResNet) and not any(name.startswith(f"{network.head}.") for name in weights)
    if backbone:
        own = {name: value for name, value in own.items() if not name.startswith(f"{network.head}.")}
        weights = {name: value for name, value in weights.items() if not name.startswith(f"{network.unused}.")}
    missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in own]
    differing = [
        f"{name} {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own.keys() & weights.keys()
        if weights[name].shape != own[name].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": sorted(differing)}
    if any(faults.values()):
        told = "; ".join(f"{kind}: {_few(names)}" for kind, names in faults.items() if names)
        raise InputError(f"The weights in {path} do not fit {type(network).__name__}; {told}.")
    network.load_state_dict(weights, strict=False)
    if isinstance(network, DilatedResNet) and backbone:
        network.reset_head()
        warn(
            f"{path} has the weights of a backbone alone: the head, {network.head}, stays random and wants training.",
            BackboneWarning,
            stacklevel=3,
        )


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint, as `load_weights` finds it, on the CPU.

    Raises:
        InputError: the file is missing, damaged, needs more than data, or holds no state dict.
    """
    return _find_state(_read(Path(path).expanduser()), path)


def check_writable(path: str | Path) -> None:
    """Check that a checkpoint may be written under this name.

    Raises:
        InputError: another extension than .safetensors, or a folder.
    """
    if Path(path).suffix != ".safetensors" or Path(path).is_dir():
        raise InputError(f"Expected a .safetensors file to write, but got {path}.")


def save_weights(network: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the state dict to a .safetensors file, whole or not at all; its folder is made if need be.

    Equal tensors and metadata are equal bytes.

    Args:
        network: the module.
        path: the file.
        metadata: text by name, kept in the file's header.

    Raises:
        InputError: the file is of another kind or cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    check_writable(path)
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(_in_order(save(tensors, {"format": "pt", **(metadata or {})})))
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}.") from error


def _in_order(content: bytes) -> bytes:
    """Return a .safetensors file with its metadata in the order of their names; the library's own order is random."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[end:]))


def weights_hash(network: nn.Module) -> str:
    """Return 16 hexadecimal characters of SHA-256 over the state dict: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):  # of a quantised module, or a module's extra state
            digest.update(f"{name} {_plain(value)}".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        whole = value.dequantize() if value.is_quantized else value
        digest.update(whole.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> str:
    """Return what stands for a state that is no tensor, the same in every process."""
    if isinstance(value, Tensor):
        whole = (value.dequantize() if value.is_quantized else value).detach().cpu().contiguous().reshape(-1)
        return hashlib.sha256(whole.view(torch.uint8).numpy().tobytes()).hexdigest()
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_plain, value))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_plain(one)}' for key, one in value.items())}}}"
    return repr(value) if isinstance(value, str | int | float | bytes | torch.dtype | None) else type(value).__name__


def _read(path: Path) -> Any:
    """Return what the file holds, on the CPU."""
    if not path.is_file():
        raise InputError(f"Expected `weights` to be a checkpoint file, but {path} is not a file.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options that timm keeps beside the weights
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


def _find_state(content: Any, path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint's content."""
    while isinstance(content, Mapping):
        nested = next((content[key] for key in NESTS if isinstance(content.get(key), Mapping)), None)
        if nested is None:
            break
        content = nested
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"Expected {path} to hold a state dict, but got {type(content).__name__}.")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise InputError(f"Expected {path} to hold a state dict, but these are no tensors: {_few(others)}.")
    return dict(content)


def _strip_prefixes(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that all names share, and that the network's own names do not.

    The count that torch's `AveragedModel` keeps beside its `module` goes first.
    """
    weights = {name: value for name, value in weights.items() if name != COUNT or name in own}

    def shared(prefix: str, names: Iterable[str]) -> bool:
        return all(name.startswith(prefix) for name in names)

    while prefix := next((p for p in PREFIXES if shared(p, weights) and not shared(p, own)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _few(names: list[str], most: int = 3) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
