"""Which modules of a model lie before a cut, and which behind it."""

import hashlib
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from statshift._core.walking import modules_of
from statshift.models import PixelModel
from statshift.norms.layers import evaluating, run
from statshift.splitting.cuts import network_of
from statshift.splitting.parts import Split


def sides(found: Split, image: Tensor) -> tuple[set[nn.Module], set[nn.Module]]:
    """Return the modules that end before the cut, its own among them, and those that end behind it.

    Args:
        found: a split; its model is left as found.
        image: (B,3,H,W), what the model is run on.
    """
    before_and_after: tuple[set[nn.Module], set[nn.Module]] = (set(), set())
    network = network_of(found.model)
    last = None if found.cut is None else network.get_submodule(found.cut.name)
    passed = last is None

    def ended(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal passed
        before_and_after[passed].add(module)
        passed = passed or module is last

    handles = [module.register_forward_hook(ended) for module in modules_of(network)]
    try:
        with torch.no_grad(), evaluating(found.model):
            run(found.model, image)
    finally:
        for handle in handles:
            handle.remove()
    return before_and_after


def prefix_hash(found: Split, image: Tensor) -> str:
    """Return 16 hexadecimal characters of SHA-256 over what makes the features: models that share them share it.

    It is over the cut's name, the tensors of the modules that end before the cut, those that the modules around it hold
    themselves, and the mean, deviation and size that images are brought to.

    Args:
        found: a split; its model is left as found.
        image: (B,3,H,W), what the model is run on.
    """
    before, _ = sides(found, image)
    cut = found.cut.name if found.cut is not None else ""
    digest = hashlib.sha256(cut.encode())
    if isinstance(found.model, PixelModel):
        wanted = found.model.preprocessing
        digest.update(f"{wanted.mean} {wanted.std} {wanted.input_size}".encode())
    for name, module in network_of(found.model).named_modules():
        if module not in before and not f"{cut}.".startswith(f"{name}." if name else ""):
            continue
        tensors = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        for own, tensor in tensors:
            if own != "num_batches_tracked":
                digest.update(f"{name}.{own} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
