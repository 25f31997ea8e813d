"""Weights of networks: loaded from checkpoints strictly, written, and hashed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from torch import Tensor, nn

from statshift._core.errors import BackboneWarning, CheckpointWarning, InputError
from statshift._core.files import replacing
from statshift.models import layouts
from statshift.models.layouts import COUNTER
from statshift.models.pairs import choose_branch
from statshift.models.reading import few, read_state
from statshift.models.segmenting import DilatedResNet


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint was found to hold.

    Attributes:
        branch: whose norms were loaded; None where there is one set alone.
        others: the branches that were passed by.
        mean: of the three channels in [0,1], where the checkpoint holds a normalisation of its own.
        std: likewise.
        dropped: what was passed by beside the network, by the first parts of the names.
    """

    branch: str | None = None
    others: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dropped: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """Return it for a record: what there was beside a network's weights alone."""
        return {name: value for name, value in vars(self).items() if value not in (None, ())}


def load_weights(network: nn.Module, path: str | Path, *, branch: str | None = None) -> Loaded:
    """Copy the weights of a checkpoint into `network`, all of them or none.

    How names in the file become the network's is in docs/checkpoints.md. A missing `num_batches_tracked` is tolerated:
    nothing but a momentum of None reads it. A `DilatedResNet` takes the weights of its backbone alone as well, with a
    `BackboneWarning`: its head is then drawn by a seed.

    Args:
        network: the module to fill.
        path: a .pt, .pth, .th, .tar or .safetensors file.
        branch: which norms of a file with two sets: "clean" or "adv". None takes the clean ones, with a
            `CheckpointWarning`.

    Returns:
        What the file holds beside the weights that were loaded.

    Raises:
        InputError: the file is missing, damaged, needs more than data, or does not fit; or it lacks the branch.
    """
    own = network.state_dict()
    weights, loaded = _named_as(own, read_state(path), branch, path)
    backbone = isinstance(network, DilatedResNet) and not any(name.startswith(f"{network.head}.") for name in weights)
    if backbone:
        own = {name: value for name, value in own.items() if not name.startswith(f"{network.head}.")}
        weights = {name: value for name, value in weights.items() if not name.startswith(f"{network.unused}.")}
    missing = [name for name in own if name not in weights and not name.endswith(COUNTER)]
    unexpected = [name for name in weights if name not in own]
    differing = [
        f"{name} {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own.keys() & weights.keys()
        if weights[name].shape != own[name].shape
    ]
    whole = [
        f"{name} {str(weights[name].dtype).removeprefix('torch.')} in the file"
        for name in own.keys() & weights.keys()
        if own[name].is_floating_point() and not weights[name].is_floating_point()
    ]
    faults = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": sorted(differing),
        "no fractions": sorted(whole),
    }
    if any(faults.values()):
        told = "; ".join(f"{kind}: {few(names)}" for kind, names in faults.items() if names)
        raise InputError(f"The weights in {path} do not fit {type(network).__name__}; {told}.{_stray(weights, own)}")
    network.load_state_dict(weights, strict=False)
    if isinstance(network, DilatedResNet) and backbone:
        network.reset_head()
        warn(
            f"{path} has the weights of a backbone alone: the head, {network.head}, stays random and wants training.",
            BackboneWarning,
            stacklevel=3,
        )
    if loaded.others and branch is None:
        warn(
            f"{path} holds {1 + len(loaded.others)} sets of norms: those of `branch` {loaded.branch} are loaded, and "
            f"{', '.join(loaded.others)} passed by.",
            CheckpointWarning,
            stacklevel=3,
        )
    return loaded


def _named_as(
    own: layouts.State, weights: layouts.State, branch: str | None, path: str | Path
) -> tuple[dict[str, Tensor], Loaded]:
    """Return a file's weights by the names of a network's state dict, as far as the rules go."""
    weights, dropped = layouts.unwrapped(weights, own)
    weights, mean, std = layouts.without_normalisation(weights, own)
    weights = layouts.advbn_names(weights, own)
    weights, chosen, others = choose_branch(weights, own, branch, path)
    weights = layouts.with_counters(layouts.own_names(weights, own), own)
    return weights, Loaded(chosen, tuple(others), mean, std, tuple(dropped))


def _stray(weights: layouts.State, own: layouts.State) -> str:
    """Return a sentence on the names for whose sake a wrapper's prefix stays; "" where there are none."""
    for prefix in layouts.PREFIXES:
        without = [name for name in weights if not name.startswith(prefix)]
        if 0 < len(without) < len(weights) / 2 and not any(name.startswith(prefix) for name in own):
            return f" All names but {few(without)} begin with {prefix}, which is dropped where all do."
    return ""


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
