"""What a training step minimises: a batch, its targets, and the methods, each a function from both to losses.

A method is given the `Branches` and a batch and returns the mean loss of each branch that it trains.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from statshift._core.errors import InputError
from statshift._core.randomness import Draws, keys
from statshift.hardening.augmentation import sent
from statshift.measuring.ligs import LigsOptions, losses_and_cosines
from statshift.models import PixelModel
from statshift.norms.layers import aside, evaluating, running_norms
from statshift.shifts.attacks import (
    HALF_SCALE,
    FeatureAttack,
    PixelAttack,
    attack_features,
    attack_pixels,
    attackable,
    batch_moments,
    check_images,
    perturb,
)
from statshift.shifts.corruptions import corrupt
from statshift.splitting.branches import Branches
from statshift.tasks.targets import Loss, Targets


@dataclass(frozen=True)
class Batch:
    """Images of a training step, and what is drawn for them.

    Attributes:
        images: (V*B,3,H,W) in [0,1].
        targets: of them.
        draws: addressed by epoch, view and image, over the V*B images; on the CPU.
        dtype: what the model runs in, by autocast unless float32.
    """

    images: Tensor
    targets: Loss
    draws: Draws
    dtype: torch.dtype = torch.float32

    @property
    def draws_on_device(self) -> Draws:
        """The draws, where the images are."""
        return replace(self.draws, indices=sent(self.draws.indices, self.images.device))


Losses = dict[str, Tensor]
Method = Callable[[Branches, Batch], Losses]


def standard(branches: Branches, batch: Batch) -> Losses:
    """Fine-tune on the images as they are (or as an augmentation makes them)."""
    logits = branches.suffix(branches.prefix(batch.images), "clean")
    return {"clean": batch.targets.loss(logits)}


def advbn(branches: Branches, batch: Batch, *, attack: FeatureAttack) -> Losses:
    """Fine-tune on features and on their worst-case statistics.

    Reference:
        Shu et al., NeurIPS 2021, Algorithm 1.
    """
    cut = branches.splits["clean"].cut
    assert cut is not None
    features = branches.prefix(batch.images)
    relu = attack.clamp and cut.rectified
    with _attacked(branches, batch) as suffix:
        factors = attack_features(
            features, lambda worst: batch.targets.loss(suffix(worst)), attack, relu=relu, loss_scale=_scale(batch)
        )
    worst = perturb(features, factors, batch_moments(features, attack), attack, relu=relu)
    return {
        "clean": batch.targets.loss(branches.suffix(features, "clean")),
        "adv": batch.targets.loss(branches.suffix(worst, "adv")),
    }


def advbn_losses(branches: Branches, images: Tensor, labels: Tensor, attack: FeatureAttack | None = None) -> Losses:
    """Return AdvBN's losses of a batch, for a training loop of one's own: step down their sum.

    The images are as they are, augmented by the loop if at all; the model runs in the dtype of the autocast in force.

    Args:
        branches: in training mode, with a twin; train those of their parameters that require a gradient.
        images: (B,3,H,W); in [0,1] where the model is a `PixelModel`, else as the model takes them.
        labels: (B,) int64, on the images' device.
        attack: the numbers; default those of the paper.

    Returns:
        The mean cross-entropy of each branch, "clean" and "adv".

    Raises:
        InputError: branches without a cut or twin; of a `PixelModel`, images and labels that do not fit, or pixels that
            are not in [0,1].
    """
    if "adv" not in branches.splits or branches.splits["clean"].cut is None:
        raise InputError("Expected branches with a twin behind a cut: Branches(model, LAYER, images).")
    if isinstance(branches.clean, PixelModel):
        check_images(images, labels)
    kind = images.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    undrawn = Draws(0, torch.arange(len(images)), "loop")  # AdvBN draws nothing
    return advbn(branches, Batch(images, Targets(labels), undrawn, dtype), attack=attack or FeatureAttack())


def pixel_adversarial(branches: Branches, batch: Batch, *, attack: PixelAttack) -> Losses:
    """Fine-tune on images and on images attacked by PGD, which have norms of their own.

    Reference:
        Xie et al., CVPR 2020, section 4 (AdvProp); Shu et al., NeurIPS 2021, section 5.1 ("Adv. Training").
    """
    with _attacked(branches, batch) as suffix:
        prefix = branches.splits["adv"].prefix
        worst = attack_pixels(
            batch.images,
            lambda images: batch.targets.loss(suffix(prefix(images)).double()),
            attack,
            batch.draws_on_device,
            loss_scale=_scale(batch),
        )
    losses = {}
    for branch, images in (("clean", batch.images), ("adv", worst)):
        losses[branch] = batch.targets.loss(branches.suffix(branches.prefix(images), branch))
    return losses


def adversarial(branches: Branches, batch: Batch, *, attack: PixelAttack) -> Losses:
    """Train on attacked images alone, by one set of norms; the attack sees the model in evaluation mode.

    Reference:
        Madry et al., ICLR 2018, section 2.1; Benz et al., ICLR 2021 submission, appendix B.1, Table 5.
    """
    with _autocast(batch), attackable(branches):
        worst = attack_pixels(
            batch.images,
            lambda images: batch.targets.loss(branches.suffix(_features(branches, images), "clean").double()),
            attack,
            batch.draws_on_device,
            loss_scale=_scale(batch),
        )
    return {"adv": batch.targets.loss(branches.suffix(branches.prefix(worst), "clean"))}


def corrupted(branches: Branches, batch: Batch, *, corruption: str, severity: int) -> Losses:
    """Train on images under one corruption, drawn anew each epoch: the upper bound of a protocol that adapts to it.

    Reference:
        Benz et al., WACV 2021, section 6.4, Table 8.
    """
    draws = batch.draws_on_device
    seed = int(keys(draws.seed, torch.zeros(1, dtype=torch.int64), draws.scope)[0, 0])
    images = corrupt(batch.images.contiguous(), corruption, severity, seed=seed, indices=draws.indices)
    if batch.images.is_contiguous(memory_format=torch.channels_last):
        images = images.contiguous(memory_format=torch.channels_last)
    return {"clean": batch.targets.loss(branches.suffix(branches.prefix(images), "clean"))}


def ligs_regularised(branches: Branches, batch: Batch, *, options: LigsOptions, weight: float) -> Losses:
    """Train on the images, and for input gradients that are alike at x and x + nu: the loss adds weight * (1 - LIGS).

    Both gradients are taken as training sees the network; running statistics are of the images alone.

    Reference:
        Benz et al., ICLR 2021 submission, section 4.1, Figure 5.
    """
    norms = running_norms(branches)
    losses, cosines = losses_and_cosines(
        lambda images: batch.targets.losses(branches.suffix(_features(branches, images), "clean")),
        batch.images,
        options,
        batch.draws_on_device,
        quietly=lambda: aside(norms),
    )
    return {"clean": losses.mean(), "ligs": weight * (1 - cosines.mean())}


SECOND_ORDER: tuple[Callable[..., Losses], ...] = (ligs_regularised,)
"""Methods that take gradients of gradients."""


def takes_channels_last(method: Method, device: torch.device) -> bool:
    """Tell whether a method may train channels last on a device.

    Not where it takes gradients of gradients on a CPU: those of oneDNN's channels-last convolutions corrupt memory.
    """
    return device.type != "cpu" or getattr(method, "func", method) not in SECOND_ORDER


def moex(branches: Branches, batch: Batch, *, share: float = 0.9, probability: float = 1.0) -> Losses:
    """Fine-tune on features that have the moments of another image's, and on both images' labels.

    The moments are over the channels at each position (PONO). With several processes an image's partner is in the
    same process's share of the batch.

    Reference:
        Li et al., "On Feature Normalization and Data Augmentation" (CVPR 2021), equations 1 to 4; a share of 0.9 of
        the loss is for the image's own label.
    """
    features = branches.prefix(batch.images)
    own, targets = batch.targets.loss, batch.targets
    chance = batch.draws.uniform("exchange")
    count = len(targets.labels)
    order = batch.draws.uniform("exchange partner")[:count].argsort(stable=True)
    if bool(chance[0] < probability):
        everyone = torch.cat([order + view * count for view in range(targets.views)])
        features = exchange_moments(features, everyone)
        logits = branches.suffix(features, "clean")
        return {"clean": share * own(logits) + (1 - share) * targets.partners(order).loss(logits)}
    return {"clean": own(branches.suffix(features, "clean"))}


def exchange_moments(features: Tensor, order: Tensor, eps: float = 1e-5) -> Tensor:
    """Return features (B,C,H,W) with mean and deviation over channels, at each position, of the images at `order`."""
    var, mean = torch.var_mean(features, dim=1, keepdim=True, correction=0)
    deviation = (var + eps).sqrt()
    return (features - mean) / deviation * deviation[order] + mean[order]


def _features(branches: Branches, images: Tensor) -> Tensor:
    """Return the features (B,C,H,W) of images (B,3,H,W) as `Branches.prefix`, but with a gradient to the images."""
    with evaluating(branches.clean):
        return branches.splits["clean"].prefix(images)


def _autocast(batch: Batch) -> torch.autocast:
    """Return an attack's own autocast, which keeps no weights that lack a gradient."""
    mixed = batch.dtype if batch.dtype in (torch.bfloat16, torch.float16) else None
    return torch.autocast(batch.images.device.type, mixed, enabled=mixed is not None, cache_enabled=False)


@contextmanager
def _attacked(branches: Branches, batch: Batch) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield the adversarial suffix under an autocast of its own."""
    with _autocast(batch), branches.attacked(None if batch.dtype == torch.float32 else batch.dtype) as suffix:
        yield suffix


def _scale(batch: Batch) -> float:
    return HALF_SCALE if batch.dtype == torch.float16 else 1.0
