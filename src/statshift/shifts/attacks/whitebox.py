"""Attacks on a model as it is now, which is left as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError, NoGradientError
from statshift._core.randomness import Draws
from statshift.data.checks import check_images
from statshift.models import class_logits, extract_logits
from statshift.norms.layers import check_changeable, evaluating, run
from statshift.shifts.attacks.autoattack import AutoAttack
from statshift.shifts.attacks.balls import ball_of
from statshift.shifts.attacks.pixels import LogitLoss, PixelAttack, attack_pixels
from statshift.tasks.choice import task_of_labels
from statshift.tasks.targets import CONFIDENCE
from statshift.tasks.task import Task


def attack_images(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: PixelAttack | AutoAttack,
    *,
    seed: int = 0,
    indices: Tensor | None = None,
    loss: LogitLoss | None = None,
    check: bool = True,
    task: str | Task | None = None,
) -> Tensor:
    """Return adversarial images (B,3,H,W) in [0,1] against a model as it is now; it is left as it was found.

    The model is attacked in evaluation mode, whatever its state: rectified statistics stay what they are, and no
    gradient of a weight is computed.

    Args:
        model: takes images in [0,1].
        images: (B,3,H,W) in [0,1], on the model's device.
        labels: (B,) of the true classes, integers of any kind; or label maps (B,H,W), or as `task` has them.
        attack: the numbers.
        seed: seed of the random start and target.
        indices: (B,) of the images in their data set, to which both are addressed; default 0 to B-1.
        loss: loss (B,) by image, of logits (B,K,...) and labels (B,...), in the place of `attack.loss`.
        check: look first whether there is an input gradient, which a device is waited for.
        task: what labels are of, whose losses rise: of label maps each image's mean over the pixels that count. Default
            classification, and of label maps "segmentation"; `Segmentation(ignore_index)` leaves out other pixels.

    Raises:
        InputError: images that are not in [0,1], labels that do not fit, a ball that holds all images, a model
            without input gradient, or an attack that the task has no loss for.
    """
    check_images(images)
    chosen = task_of_labels(labels, task)
    labels = chosen.checked_labels(labels, images)
    check_attack(attack, chosen, loss=loss)
    ball = ball_of(attack.norm)
    if attack.epsilon > (largest := ball.largest(images[0].numel())):
        raise InputError(
            f"Expected `epsilon` below {largest:.1f}, the greatest {ball.title} distance of images of shape "
            f"{tuple(images.shape[1:])} with pixels in [0,1], but got {attack.epsilon:g}."
        )
    if check:
        with attackable(model):
            check_gradient(model, images)
    if isinstance(attack, AutoAttack):
        with attackable(model):
            classes = logits_of(model, images[:1]).shape[1]
            chosen.checked_labels(labels, images, classes)
            return attack.run(model, images, labels, classes, seed)
    places = torch.arange(len(images), device=images.device) if indices is None else indices.to(images.device)
    draws = Draws(seed, places, "pixel attack")
    with attackable(model):
        wanted, sign = labels, 1
        if attack.target != "none":
            wanted, sign = targets_of(model, images, labels, attack.target, draws), -1

        def rising(point: Tensor) -> Tensor:
            logits = wide_logits(model, point)
            chosen.checked_labels(labels, images, chosen.width(logits))
            if loss is not None:
                return (sign * loss(logits, wanted)).sum()
            if attack.loss == "cw":
                return (sign * chosen.margins(logits, wanted)).clamp_max(CONFIDENCE).sum()
            return (sign * chosen.targets(wanted).losses(logits.double())).sum()

        found = attack_pixels(images.contiguous(memory_format=torch.channels_last), rising, attack, draws)
    return found.contiguous()


@contextmanager
def attackable(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, its weights without gradient and autograd at work; all is put back."""
    check_changeable(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return logits (B,K) in float32, or float64 where the model's are."""
    return class_logits(wide_logits(model, images))


def wide_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return logits (B,K,...) in float32, or float64 where the model's are."""
    logits = extract_logits(run(model, images))
    return logits if logits.dtype == torch.float64 else logits.float()


def check_attack(
    attack: PixelAttack | AutoAttack, task: Task, name: str = "", *, loss: LogitLoss | None = None
) -> None:
    """Check that a task has what an attack, of a name or of none, needs; of a loss of one's own that is little.

    Raises:
        InputError: it has not.
    """
    if isinstance(attack, AutoAttack):
        task.check_one_class(name or "AutoAttack")
    elif attack.target != "none":
        task.check_one_class(name or f"the target {attack.target!r}")
    elif loss is None:
        check = task.check_margins if attack.loss == "cw" else task.check_gradients
        check(name or f"the loss {attack.loss!r}")


@torch.no_grad()
def targets_of(model: nn.Module, images: Tensor, labels: Tensor, target: str, draws: Draws) -> Tensor:
    """Return the classes (B,) that images shall be taken for, none its own: "next", or "random" and addressed."""
    classes = logits_of(model, images[:1]).shape[1]
    if classes < 2:
        raise InputError(f"Expected a model of at least two classes for targets, but got {classes}.")
    step = 1 if target == "next" else draws.integers("target", low=1, high=classes).to(labels.device)
    return (labels + step) % classes


def check_gradient(model: nn.Module, images: Tensor) -> None:
    """Check that logits depend on the pixels of some of the images, in a model that is `attackable`.

    Raises:
        NoGradientError: they do not, so that no attack by gradients can say anything.
    """
    for some in (images[:1], images):  # one image tells, unless it happens to be where the network is dead
        point = some.detach().clone().requires_grad_()
        logits = wide_logits(model, point)
        if logits.requires_grad:
            weights = torch.linspace(1, 2, logits.shape[1], dtype=logits.dtype, device=logits.device)
            weights = weights.view(-1, *[1] * (logits.ndim - 2))
            (found,) = torch.autograd.grad((logits * weights).sum(), point, allow_unused=True)
            if found is not None and bool((found != 0).any()):
                return
    raise NoGradientError(
        "The model's input gradient is zero everywhere, so an attack by gradients would find nothing and pass for "
        "robustness. Likely causes: something in the model rounds, detaches or runs without gradients, or its "
        "features are all dead."
    )
