"""A step of AdvBN as it is made here beside Algorithm 1 as printed, in one run; and the floor.

python benchmarks/advbn_step.py [--batch-size 8] [--side 224] [--device cpu] [--repeats 5] [--threads 2]

The plain step is contiguous, with evaluation-mode norms unfolded, gradients of the factors by `autograd.grad`, float32.
The floor is the operations of the step, 2m + 6 suffix passes and a prefix, over the best throughput of any of the
network's convolutions measured in the same run.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from reporting import best, in_turns, machine, report, start
from statshift import load_model
from statshift._core.randomness import Draws
from statshift.hardening.batch import Batch
from statshift.hardening.methods.advbn import AdvBN
from statshift.hardening.methods.standard import Standard
from statshift.norms.layers import evaluating
from statshift.shifts.attacks import FeatureAttack
from statshift.splitting.branches import Branches
from statshift.tasks.targets import Targets

ATTACK = FeatureAttack()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def plain_step(branches: Branches, images: Tensor, labels: Tensor) -> None:
    """Make one step of Algorithm 1 as printed."""
    features = branches.prefix(images)
    mean = features.mean((0, 2, 3), keepdim=True)
    factors = torch.ones(2, 1, mean.shape[1], 1, 1, device=images.device)
    with evaluating(branches.adv):
        for _ in range(ATTACK.steps):
            factors.requires_grad_()
            worst = factors[1] * (features - mean) + factors[0] * mean
            loss = F.cross_entropy(branches.suffix(worst, "adv"), labels)
            (gradient,) = torch.autograd.grad(loss, factors)
            factors = factors.detach() + ATTACK.step_size * gradient.sign()
            factors = factors.clamp(1 - ATTACK.bound, 1 + ATTACK.bound)
    worst = factors[1] * (features - mean) + factors[0] * mean
    loss = F.cross_entropy(branches.suffix(worst, "adv"), labels)
    torch.autograd.backward(loss + F.cross_entropy(branches.suffix(features, "clean"), labels))


def step(method: Callable[..., Any], branches: Branches, batch: Batch) -> None:
    """Make one step as the trainer does."""
    mixed = batch.dtype != torch.float32
    with torch.autocast(batch.images.device.type, batch.dtype if mixed else None, enabled=mixed):
        losses = method(branches, batch)
    torch.autograd.backward(sum(losses.values(), start=torch.zeros((), device=batch.images.device)))


def operations(branches: Branches, images: Tensor) -> dict[str, int]:
    """Return the floating-point operations of one pass through prefix and suffix."""
    found = {}
    with torch.no_grad(), evaluating(branches):
        with FlopCounterMode(display=False) as counter:
            features = branches.prefix(images)
        found["prefix"] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            branches.suffix(features, "clean")
        found["suffix"] = counter.get_total_flops()
    return found


def throughput(branches: Branches, images: Tensor, dtype: torch.dtype, repeats: int) -> float:
    """Return the highest rate, in operations a second, of any of the network's convolutions, alone."""
    kinds: dict[tuple[str, torch.Size], nn.Conv2d] = {}

    def meet(conv: nn.Conv2d, inputs: tuple[Tensor]) -> None:
        kinds[str(conv), inputs[0].shape] = conv

    convs = [module for module in branches.clean.modules() if isinstance(module, nn.Conv2d)]
    handles = [conv.register_forward_pre_hook(meet) for conv in convs]
    with torch.no_grad(), evaluating(branches):
        branches.clean(images)
        for handle in handles:
            handle.remove()
        rates = []
        for (_, shape), conv in kinds.items():
            features = torch.rand(shape, device=images.device).to(dtype, memory_format=torch.channels_last)
            weight = conv.weight.to(dtype, memory_format=torch.channels_last)
            run = partial(F.conv2d, features, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
            out = run()
            count = 2 * out.numel() * weight[0].numel()
            rates.append(count / best(run, images.device, repeats))
    return max(rates)


def peak(device: torch.device, function: Callable[[], Any]) -> float | None:
    """Return the most memory that a call takes on a GPU, in GiB."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    function()
    return torch.cuda.max_memory_allocated(device) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    start(arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    images = torch.rand(arguments.batch_size, 3, arguments.side, arguments.side, device=device)
    labels = torch.randint(1000, (arguments.batch_size,), device=device)

    def branches_of(compiled: bool = False) -> Branches:
        model = load_model("torchvision:resnet50@none").to(device)
        return Branches(model, "layer1", images, compiled=compiled).train()

    contiguous, last = branches_of(), branches_of(arguments.compile)
    last.to(memory_format=torch.channels_last)
    laid_out = images.contiguous(memory_format=torch.channels_last)
    draws = Draws(0, torch.arange(len(images)), "benchmark")
    batches = {name: Batch(laid_out, Targets(labels), draws, dtype) for name, dtype in DTYPES.items()}
    mixed = replace(batches["float32"], attack_dtype=torch.bfloat16)
    steps: dict[str, Callable[[], None]] = {
        "plain, float32": partial(plain_step, contiguous, images, labels),
        "standard fine-tuning of the suffix, plain, float32": partial(
            step, Standard(), contiguous, Batch(images, Targets(labels), draws)
        ),
        "AdvBN, float32": partial(step, AdvBN(ATTACK), last, batches["float32"]),
        "AdvBN, float32 with the attack in bfloat16": partial(step, AdvBN(ATTACK), last, mixed),
        "AdvBN, bfloat16": partial(step, AdvBN(ATTACK), last, batches["bfloat16"]),
        "standard fine-tuning, float32": partial(step, Standard(), last, batches["float32"]),
        "standard fine-tuning, bfloat16": partial(step, Standard(), last, batches["bfloat16"]),
    }
    seconds = in_turns(steps, device, arguments.repeats)
    memory = {name: peak(device, function) for name, function in steps.items()}
    passes = operations(last, laid_out)
    total = passes["prefix"] + (2 * ATTACK.steps + 6) * passes["suffix"]
    for name, dtype in DTYPES.items():
        rate = throughput(last, laid_out, dtype, arguments.repeats)
        steps[f"floor, {name}"] = lambda: None
        seconds[f"floor, {name}"] = total / rate
        print(f"{name}: {total / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s")
    reference = seconds["plain, float32"]
    results = {
        "machine": machine(device),
        "batch_size": arguments.batch_size,
        "compiled": arguments.compile,
        "seconds": seconds,
        "peak_gib": memory,
    }
    rows = [
        [name, f"{value:.3f}", f"{value / reference:.2f}", "-" if not memory.get(name) else f"{memory[name]:.1f}"]
        for name, value in seconds.items()
    ]
    suffix = f"-{device.type}{'-compiled' if arguments.compile else ''}"
    report(f"advbn_step{suffix}", results, ["step", "seconds", "of the plain step", "peak GiB"], rows)


if __name__ == "__main__":
    main()
