"""Attacks and LIGS beside the bare passes that they contain and beside torchattacks; training beside bare steps.

python benchmarks/attacks.py [--network cifar:resnet20] [--images 128] [--size 32] [--device cpu] [--dtype float32]
    [--threads 2] [--training-images 1280] [--repeats 3]

A bare pass is forward and backward to the images, which lie channels last, with weights that want no gradient. A bare
step is forward, backward and SGD on one batch that lies ready. On a GPU training is set against the rate of a large
bfloat16 matrix product too, measured in the same run.
"""

import argparse
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from reporting import best, in_turns, machine, report, start
from statshift import LigsOptions, PixelAttack, TrainingOptions, attack_images, ligs, load_data, load_model, rectify
from statshift.hardening.methods.standard import Standard
from statshift.hardening.trainer import train
from statshift.measuring.loading import DTYPES
from statshift.norms.layers import running_norms
from statshift.splitting.branches import Branches

STEPS = 20
ATTACKS = {
    "PGD-20, Linf": PixelAttack(1 / 255, steps=STEPS),
    "PGD-20, L2": PixelAttack(0.25, steps=STEPS, norm="l2"),
    "CW-20, Linf": PixelAttack(1 / 255, steps=STEPS, loss="cw"),
}
SIDE = 8192  # of the matrices


def network(spec: str, images: Tensor) -> nn.Module:
    """Return the model with random weights, and norms that have seen the images."""
    torch.manual_seed(0)
    model = load_model(spec, pretrained=False).to(images.device)
    return rectify(model, images, "replace") if running_norms(model) else model


def passes(model: nn.Module, images: Tensor, labels: Tensor, count: int) -> None:
    """Make bare passes."""
    for _ in range(count):
        point = images.detach().requires_grad_()
        loss = F.cross_entropy(model(point).float(), labels, reduction="sum")
        torch.autograd.grad(loss, point)


def attacked(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, tuple[Callable[[], Any], str, str]]:
    """Return what is timed of attacks: the function, its bare passes, and whose attack of torchattacks' it is."""
    model.requires_grad_(False)
    laid_out = images.contiguous(memory_format=torch.channels_last)
    timed: dict[str, tuple[Callable[[], Any], str, str]] = {}
    for count in (STEPS, 2):
        timed[f"{count} bare passes"] = (partial(passes, model, laid_out, labels, count), "", "")
    bare = f"{STEPS} bare passes"
    for name, attack in ATTACKS.items():
        theirs = f"torchattacks, {name}" if attack.loss == "cross-entropy" else ""
        timed[name] = (partial(attack_images, model, images, labels, attack), bare, theirs)
    noise = LigsOptions("gaussian")
    timed["LIGS, gaussian"] = (partial(ligs, model, images, labels, noise, batch_size=len(images)), "2 bare passes", "")
    if find_spec("torchattacks"):
        import torchattacks

        for name, kind in (("PGD-20, Linf", torchattacks.PGD), ("PGD-20, L2", torchattacks.PGDL2)):
            attack = ATTACKS[name]
            theirs = kind(model, eps=attack.epsilon, alpha=attack.length, steps=STEPS)
            timed[f"torchattacks, {name}"] = (partial(theirs, images, labels), bare, "")
    return timed


def steps(model: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor, count: int) -> None:
    """Make bare steps of training."""
    model.train()
    for _ in range(count):
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(images).float(), labels))
        optimiser.step()


def epoch(model: nn.Module, images: Tensor, data: Any, options: TrainingOptions) -> None:
    """Train for an epoch as `harden` does, without checkpoints."""
    train(Branches(model, "input", images[:2], dual=False), data, Standard(), options)


def trained(
    spec: str, images: Tensor, labels: Tensor, count: int, dtype: str
) -> dict[str, tuple[Callable[[], Any], str, str]]:
    """Return what is timed of training on `count` images."""
    pixels = torch.randint(256, (count, *images.shape[1:]), dtype=torch.uint8)
    data = load_data(TensorDataset(pixels, labels.cpu().repeat(-(-count // len(labels)))[:count]))
    options = TrainingOptions(epochs=1, batch_size=len(images), schedule="constant", augment="standard", dtype=dtype)
    plain = network(spec, images).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(plain.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    bare = partial(
        steps, plain, optimiser, images.contiguous(memory_format=torch.channels_last), labels, count // len(images)
    )
    return {
        "bare steps of an epoch": (bare, "", ""),
        "epoch of training": (
            partial(epoch, network(spec, images), images, data, options),
            "bare steps of an epoch",
            "",
        ),
    }


def autocast(function: Callable[[], Any], device: torch.device, dtype: str) -> Callable[[], Any]:
    """Return a function that is run in a type, by autocast."""

    def run() -> None:
        with torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32"):
            function()

    return run


def operations(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Return the multiply-accumulates of an image in a step of training: forward, and backward to the weights."""
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(F.cross_entropy(model(images[:2]), labels[:2]))
    return int(counter.get_total_flops()) // 2 // 2


def product_rate(device: torch.device, repeats: int) -> float:
    """Return the multiply-accumulates a second of a large matrix product in bfloat16."""
    left, right = (torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))
    return SIDE**3 / best(lambda: left @ right, device, 5 * repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="cifar:resnet20")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--training-images", type=int, default=1280)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    start(arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    images = torch.rand(arguments.images, 3, arguments.size, arguments.size).to(device)
    model = network(arguments.network, images)
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    labels = torch.randint(classes, (len(images),)).to(device)
    macs = operations(model, images, labels)
    extra = trained(arguments.network, images, labels, arguments.training_images, arguments.dtype)
    timed = {**attacked(model, images, labels), **extra}
    functions = {name: autocast(function, device, arguments.dtype) for name, (function, _, _) in timed.items()}
    functions["epoch of training"] = timed["epoch of training"][0]  # which does so itself
    seconds = in_turns(functions, device, arguments.repeats)

    def share(name: str, reference: str) -> str:
        return f"{seconds[name] / seconds[reference]:.2f}" if reference in seconds else ""

    rows = [
        [name, f"{seconds[name]:.3f}", share(name, bare), share(name, his)] for name, (_, bare, his) in timed.items()
    ]
    rate = len(images) * (arguments.training_images // len(images)) / seconds["epoch of training"]
    results = {
        "machine": machine(device),
        **vars(arguments),
        "seconds": seconds,
        "training_images_a_second": rate,
        "training_macs_an_image": macs,
    }
    print(f"training: {rate:.0f} images/s of {macs / 1e6:.0f} million multiply-accumulates")
    if device.type == "cuda":
        results["bfloat16_macs_a_second"] = product_rate(device, arguments.repeats)
        found = macs * rate / results["bfloat16_macs_a_second"]
        print(f"training: {100 * found:.1f} % of the rate of a bfloat16 matrix product of side {SIDE}")
        rows.append([f"training, of the bfloat16 rate: {100 * found:.1f} %", "", "", ""])
    name = "attacks-gpu" if device.type == "cuda" else "attacks-cpu"
    report(name, results, ["what", "seconds", "of the bare ones", "of torchattacks"], rows)


if __name__ == "__main__":
    main()
