"""The parts of `gpu.py` that time networks, with random weights; each yields the rows of its table."""

import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attacks
from advbn_step import ATTACK, DTYPES, peak, plain_step, step
from gpu_sizes import Row, Size
from hardening import ON_ALL, on_all
from measure import beside_bare
from reporting import best, in_turns, once
from statshift import corrupt, rectify
from statshift._core.randomness import Draws
from statshift.hardening.batch import Batch
from statshift.hardening.methods.advbn import AdvBN
from statshift.hardening.methods.auxiliary import AdvProp
from statshift.hardening.methods.standard import Standard
from statshift.norms.layers import running_norms
from statshift.splitting.branches import Branches
from statshift.tasks.targets import Targets

DATA = Path(__file__).parents[1] / "runs" / "gpu"


def rectifying(device: torch.device, size: Size) -> Iterator[Row]:
    for count in size.rectifying:
        images = torch.rand(count, 3, size.side, size.side)
        model = attacks.network(size.network, images.to(device))
        brighter = corrupt(images, "brightness", 3)
        moved = brighter.to(device)
        here = deepcopy(model).cpu() if count == min(size.rectifying) else None  # the CPU takes long for many
        functions: dict[str, Callable[[], Any]] = {"a forward pass": partial(torch.no_grad()(model), moved)}
        functions |= {protocol: partial(rectify, model, moved, protocol) for protocol in ("replace", "auto")}
        seconds = in_turns(functions, device, size.repeats)
        for name, passes in (("replace", 1), ("auto", 2)):
            yield {
                "protocol": name,
                "images": count,
                "seconds": seconds[name],
                "forward passes": passes,
                "of them bare": seconds[name] / passes / seconds["a forward pass"],
                "mean off the CPU's, deviations": here and furthest(rectify(here, brighter, name), functions[name]()),
            }


def furthest(here: torch.nn.Module, there: torch.nn.Module) -> float:
    """Return the largest difference of a running mean, in standard deviations of its channel."""
    norms = zip(running_norms(here).values(), running_norms(there).values(), strict=True)
    return max(
        float(((a.running_mean - b.running_mean.cpu()).abs() / (a.running_var + a.eps).sqrt()).max()) for a, b in norms
    )


def batch_of(device: torch.device, size: Size, count: int) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """Return the network, and images (B,3,H,W) and labels (B,) for it."""
    images = torch.rand(count, 3, size.side, size.side).to(device)
    return attacks.network(size.network, images), images, torch.randint(10, (count,)).to(device)


def timed(functions: dict[str, Any], device: torch.device, repeats: int) -> Iterator[Row]:
    """Yield the rows of what `attacks` times."""
    seconds = in_turns({name: function for name, (function, _, _) in functions.items()}, device, repeats)
    for name, (_, bare, theirs) in functions.items():
        yield {
            "what": name,
            "seconds": seconds[name],
            "of the bare ones": seconds[name] / seconds[bare] if bare else None,
            "of torchattacks": seconds[name] / seconds[theirs] if theirs in seconds else None,
        }


def pgd(device: torch.device, size: Size) -> Iterator[Row]:
    functions = attacks.attacked(*batch_of(device, size, size.attacked))
    left_out = ("2 bare passes", "LIGS, gaussian")
    yield from timed(
        {name: what for name, what in functions.items() if name not in left_out}, device, min(2, size.repeats)
    )
    if not find_spec("torchattacks"):
        yield {"what": "torchattacks", "note": "skipped: torchattacks is not installed"}


def ligs(device: torch.device, size: Size) -> Iterator[Row]:
    functions = attacks.attacked(*batch_of(device, size, size.attacked))
    yield from timed({name: functions[name] for name in ("2 bare passes", "LIGS, gaussian")}, device, size.repeats)


def training(device: torch.device, size: Size) -> Iterator[Row]:
    spec, batch, count = size.trained
    images, labels = torch.rand(batch, 3, 32, 32).to(device), torch.randint(10, (batch,)).to(device)
    macs = attacks.operations(attacks.network(spec, images), images, labels)
    functions = attacks.trained(spec, images, labels, count, "bfloat16")
    bare = functions["bare steps of an epoch"]
    functions["bare steps of an epoch"] = (attacks.autocast(bare[0], device, "bfloat16"), *bare[1:])
    for row in timed(functions, device, size.repeats):
        rate = count / row["seconds"]
        share = macs * rate / attacks.product_rate(device, 3) if device.type == "cuda" else None
        yield row | {"images/s": rate, "of the bfloat16 rate": share}


def run(device: torch.device, size: Size) -> Iterator[Row]:
    model = attacks.network(size.network, torch.rand(2, 3, size.side, size.side).to(device))
    for dtype in ("bfloat16", "float32"):
        figures = beside_bare(model, size.side, size.images, size.run_batch, dtype, 1)
        parts = {f"{name}, s": seconds for name, seconds in figures.pop("parts").items()}
        yield {"network": size.network, "dtype": dtype, "images": size.images, **figures, **parts}


def steps(device: torch.device, size: Size, compiled: bool = False) -> Iterator[Row]:
    model, images, labels = batch_of(device, size, size.batch)
    plain = partial(plain_step, Branches(model, size.cut, images).train(), images, labels)
    reference = best(plain, device, size.repeats)
    yield {"step": "plain AdvBN", "dtype": "float32", "seconds": reference, "peak GiB": peak(device, plain)}
    del model, plain
    branches = Branches(attacks.network(size.network, images), size.cut, images, compiled=compiled).train()
    branches.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    methods = {
        "standard": Standard(),
        "AdvBN": AdvBN(ATTACK),
        "AdvProp": AdvProp(),
    }
    draws = Draws(0, torch.arange(len(images)), "benchmark")
    batches = {name: Batch(images, Targets(labels), draws, DTYPES[name]) for name in ("bfloat16", "float32")}
    batches["float32, attack in bfloat16"] = replace(batches["float32"], attack_dtype=torch.bfloat16)
    bare = 0.0
    for name, batch in batches.items():
        for method, losses in methods.items():
            if method == "standard" and batch.attack_dtype:
                continue  # it has no attack
            function = partial(step, losses, branches, batch)
            first = once(function, device)
            seconds = best(function, device, size.repeats)
            bare = seconds if method == "standard" else bare
            yield {
                "step": method,
                "dtype": name,
                "seconds": seconds,
                "first call, s": first,
                "of the plain step": seconds / reference,
                "of standard": seconds / bare,
                "peak GiB": peak(device, function),
            }


def hardened(device: torch.device, size: Size) -> Iterator[Row]:
    lacking = [name for name in ("cifar10_jpeg_train.npz", "cifar10_jpeg_test.npz") if not (DATA / name).is_file()]
    if lacking:
        yield {"skipped": f"there is no runs/gpu/{lacking[0]}"}
        return
    methods = {name: ON_ALL[name] for name in ("standard", "standard, autoaugment", "advbn, m = 6")}
    network, limit = size.hardened
    with tempfile.TemporaryDirectory() as folder:
        for name, figures in on_all(DATA, Path(folder), network, str(device), methods, [0], limit):
            told = {"as it is": "source", "rectified": "auto"}
            yield {"network: branch": name} | {
                f"{kind}, {what}": figures[protocol][at]
                for kind, protocol in told.items()
                for at, what in enumerate(("clean images", "15 x 3"))
            }


def compiled_steps(device: torch.device, size: Size) -> Iterator[Row]:
    yield from steps(device, size, compiled=True)
