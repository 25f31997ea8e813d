"""Local Input Gradient Similarity (LIGS): E[cos(grad l(x, y), grad l(x + nu, y))], gradients with respect to pixels.

Reference: Benz et al., "Batch Normalization Increases Adversarial Vulnerability" (ICLR 2021 submission), section 4.1,
    equation 1, and appendix B.4.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from statshift._core.errors import InputError, NoGradientError, unknown
from statshift._core.randomness import Draws
from statshift.data.checks import check_images
from statshift.measuring import choices
from statshift.metrics.uncertainty import bootstrap_interval
from statshift.shifts.attacks import (
    LogitLoss,
    PixelAttack,
    attack_pixels,
    attackable,
    gradient_of,
    wide_logits,
)
from statshift.shifts.attacks.ascent import directions
from statshift.tasks.choice import task_of_labels
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Task

PERTURBATIONS = choices.PERTURBATIONS
PGD_STEPS = 7


@dataclass(frozen=True)
class LigsOptions:
    """What nu is.

    Attributes:
        perturbation: "gaussian" noise, "uniform" noise, or of an attack against the image: "fgsm", or "pgd" of 7 steps
            in the maximum norm.
        scale: the noise's deviation, or how far the others may go; in the units of pixels in [0,1].

    Raises:
        InputError: an unknown perturbation, or a scale that is not above 0.
    """

    perturbation: str = "gaussian"
    scale: float = 0.01

    def __post_init__(self) -> None:
        if self.perturbation not in PERTURBATIONS:
            raise unknown("perturbation", self.perturbation, PERTURBATIONS)
        if not 0 < self.scale <= 1:
            raise InputError(f"Expected `scale` above 0 and, of pixels in [0,1], at most 1, but got {self.scale}.")


@dataclass(frozen=True)
class Ligs:
    """The similarity of a model's input gradients over some images.

    Attributes:
        values: (N,) in [-1,1], of each image; NaN where it is left out.
        seed: seed of the interval's resamples.
    """

    values: Tensor
    seed: int = 0

    @property
    def counted(self) -> Tensor:
        """The values of the images that count, (M,)."""
        return self.values[~self.values.isnan()]

    @property
    def left_out(self) -> int:
        """How many images have a gradient that vanishes or is not finite, at the image or beside it."""
        return len(self.values) - len(self.counted)

    @property
    def mean(self) -> float:
        """LIGS."""
        return math.fsum(self.counted.tolist()) / len(self.counted)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % bootstrap interval of the mean, over images."""
        low, high = bootstrap_interval(self.counted.numpy(), seed=self.seed)
        return float(low), float(high)

    def describe(self) -> dict[str, Any]:
        """Return mean, interval and counts as plain data."""
        return {
            "mean": self.mean,
            "interval": list(self.interval),
            "images": len(self.counted),
            "left_out": self.left_out,
        }


def ligs(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    options: LigsOptions | None = None,
    *,
    loss: LogitLoss | None = None,
    seed: int = 0,
    indices: Tensor | None = None,
    batch_size: int = 128,
    task: str | Task | None = None,
) -> Ligs:
    """Return LIGS, the Local Input Gradient Similarity E[cos(grad l(x, y), grad l(x + nu, y))], of a model over images.

    The model is left as it was found; it is measured in evaluation mode.

    Args:
        model: takes images in [0,1].
        images: (N,3,H,W) in [0,1], on the model's device.
        labels: (N,), or label maps (N,H,W), or as `task` has them.
        options: what nu is; the perturbed image is not clipped to [0,1].
        loss: loss (B,) by image, of logits (B,K,...) and labels (B,...), in the place of the task's.
        seed: seed of nu and of the interval.
        indices: (N,) of the images in their data set, to which nu is addressed; default 0 to N-1.
        batch_size: images at once.
        task: what labels are of, as for `attack_images`.

    Raises:
        InputError: images that are not in [0,1], labels that do not fit, a task without losses, or no image with a
            gradient.

    Reference:
        Benz et al., ICLR 2021 submission, equation 1.
    """
    check_images(images)
    own = task_of_labels(labels, task)
    labels = own.checked_labels(labels, images)
    if loss is None:
        own.check_gradients("LIGS")
    places = torch.arange(len(images), device=images.device) if indices is None else indices.to(images.device)
    chosen = options or LigsOptions()
    values = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        few = images[part], labels[part], places[part]
        values.append(similarities(model, *few, chosen, loss=loss, seed=seed, task=own))
    return checked(torch.cat(values), seed)


def checked(values: Tensor, seed: int = 0) -> Ligs:
    """Return the measure of similarities (N,), NaN where undefined.

    Raises:
        NoGradientError: they are undefined everywhere.
    """
    found = Ligs(values.double().cpu(), seed)
    if not len(found.counted):
        raise NoGradientError(
            f"Expected an image whose input gradient is neither zero nor infinite, but none of {len(values)} has one. "
            "Likely causes: a loss that is exactly zero in float32 (a very sure model: choose another loss), weights "
            "that are not finite, or a model that rounds, detaches or runs without gradients."
        )
    return found


def similarities(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    options: LigsOptions,
    *,
    loss: LogitLoss | None = None,
    seed: int = 0,
    task: Task = CLASSIFICATION,
) -> Tensor:
    """Return the cosine (B,) of each image's gradient and its perturbed image's; NaN where either has no direction.

    Args:
        model: left as it was found.
        images: (B,3,H,W).
        labels: (B,...) as the task has them.
        indices: (B,) of the images, on their device.
        options: what nu is.
        loss: by image; by default the task's.
        seed: seed of nu.
        task: what labels are of.
    """
    draws = Draws(seed, indices, "ligs")
    images = images.contiguous(memory_format=torch.channels_last)
    with attackable(model):

        def total(point: Tensor) -> Tensor:
            logits = wide_logits(model, point)
            task.checked_labels(labels, images, task.width(logits))
            return (loss(logits, labels) if loss else task.targets(labels).losses(logits.double())).sum()

        try:
            gradient = gradient_of(total, 1.0)
            here = gradient(images)
            there = gradient(perturbed(images, here, total, options, draws))
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            return torch.full(images.shape[:1], torch.nan, device=images.device)
    return cosines(here, there)


def perturbed(
    images: Tensor, gradient: Tensor, loss: Callable[[Tensor], Tensor], options: LigsOptions, draws: Draws
) -> Tensor:
    """Return x + nu (B,3,H,W), not clipped, for images x with the loss's gradient there."""
    shape, scale = images.shape[1:], options.scale
    if options.perturbation == "gaussian":
        return images + scale * draws.normal("noise", *shape).to(images.dtype)
    if options.perturbation == "uniform":
        return images + draws.uniform("noise", *shape, low=-scale, high=scale).to(images.dtype)
    if options.perturbation == "fgsm":
        return images + scale * gradient.sign()
    return attack_pixels(images, loss, PixelAttack(scale, steps=PGD_STEPS, clip=False), draws)


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine (B,) between the rows of two tensors (B,...); NaN where a row is zero or not finite."""
    ours, theirs = directions(first).double().flatten(1), directions(second).double().flatten(1)
    found = (ours * theirs).sum(1).clamp(-1, 1)
    return torch.where(ours.any(1) & theirs.any(1), found, torch.nan)


def losses_and_cosines(
    losses_at: Callable[[Tensor], Tensor],
    images: Tensor,
    options: LigsOptions,
    draws: Draws,
    quietly: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> tuple[Tensor, Tensor]:
    """Return the losses (B,) at images, and the cosines (B,) of LIGS with a graph to the weights: a regularizer.

    Where a gradient has no direction the cosine is 1 and moves nothing. On a CPU the images are laid out contiguous,
    and a model's weights have to be: gradients of gradients of channels-last convolutions corrupt oneDNN's memory.

    Args:
        losses_at: losses (B,) of images (B,3,H,W), as training sees them.
        images: (B,3,H,W) in [0,1].
        options: what nu is; not "pgd", whose steps would each be a training forward.
        draws: draws of these images, on their device.
        quietly: the context of the second forward, which shall leave running statistics alone.

    Reference:
        Benz et al., ICLR 2021 submission, section 4.1, "Regularization of LIGS", Figure 5.
    """
    if images.device.type == "cpu":
        images = images.contiguous()
    point = images.detach().requires_grad_()
    losses = losses_at(point)
    (here,) = torch.autograd.grad(losses.sum(), point, create_graph=True)
    with quietly():
        beside = perturbed(images, here.detach(), _no_steps, options, draws).requires_grad_()
        (there,) = torch.autograd.grad(losses_at(beside).sum(), beside, create_graph=True)
    here, there = here.flatten(1), there.flatten(1)
    defined = _defined(here) & _defined(there)
    whole = torch.where(defined[:, None], here, 1), torch.where(defined[:, None], there, 1)
    first, second = (one / one.detach().abs().amax(1, keepdim=True) for one in whole)
    return losses, F.cosine_similarity(first, second, dim=1)


def _defined(gradients: Tensor) -> Tensor:
    """Tell of which rows (B,N) the greatest magnitude is finite and has a finite inverse."""
    greatest = gradients.detach().abs().amax(1)
    return greatest.isfinite() & (greatest >= torch.finfo(greatest.dtype).tiny)


def _no_steps(point: Tensor) -> Tensor:
    raise InputError("Expected noise or fgsm to regularise with, but got pgd: its steps would be training forwards.")
