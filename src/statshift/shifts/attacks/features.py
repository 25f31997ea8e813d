"""The worst case of a batch's feature statistics (AdvBN)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from statshift._core.errors import InputError, unknown
from statshift._core.processes import mean_over_ranks
from statshift.shifts.attacks.ascent import ascend, linf_ball
from statshift.shifts.attacks.gradients import Loss, gradient_of

ATTACK_FORMS = ("multiplicative", "additive")
PARTS = ("both", "mean", "deviation")
PERTURBATIONS = ("global", "local")


@dataclass(frozen=True)
class FeatureAttack:
    """How a batch's feature statistics are perturbed.

    Attributes:
        steps: m, sign steps.
        step_size: tau, of each.
        epsilon: how far a factor may go; default m * tau - 0.1.
        form: "multiplicative" factors of mean and deviation, or "additive" shifts, which are in units of the largest
            mean and deviation among the channels.
        part: perturb "both", the "mean" or the "deviation" alone.
        clamp: put the result through a ReLU where the features come from one.
        perturbation: whose statistics are perturbed: the "global" batch's over all processes, or each process's
            "local" share's.

    Raises:
        InputError: values that cannot be.

    Reference:
        Shu et al., NeurIPS 2021, section 3, Algorithm 1 and section 5.1; additive: the ICLR 2021 submission,
        appendix E.
    """

    steps: int = 6
    step_size: float = 0.2
    epsilon: float | None = None
    form: str = "multiplicative"
    part: str = "both"
    clamp: bool = True
    perturbation: str = "global"

    def __post_init__(self) -> None:
        faults = []
        counted = isinstance(self.steps, int) and self.steps >= 1
        if not counted:
            faults.append(f"Expected `steps` to be an integer of at least 1, but got {self.steps}.")
        if not (self.step_size > 0 and math.isfinite(self.step_size)):
            faults.append(f"Expected `step_size` above 0, but got {self.step_size}.")
        if self.epsilon is not None and not (self.epsilon >= 0 and math.isfinite(self.epsilon)):
            faults.append(f"Expected `epsilon` to be at least 0, but got {self.epsilon}.")
        if self.epsilon is None and counted and 0 < self.steps * self.step_size < 0.1:
            faults.append(
                f"Expected `epsilon`, since its default of steps * step size - 0.1 is {self.bound:.3g}, below 0."
            )
        for name, choices in (("form", ATTACK_FORMS), ("part", PARTS), ("perturbation", PERTURBATIONS)):
            if getattr(self, name) not in choices:
                faults.append(str(unknown(name, getattr(self, name), choices)))
        if faults:
            raise InputError(" ".join(faults))

    @property
    def bound(self) -> float:
        """The radius in force."""
        return self.steps * self.step_size - 0.1 if self.epsilon is None else self.epsilon


@dataclass(frozen=True)
class BatchMoments:
    """Mean and deviation (C,) of a batch's features over images and positions; the latter where additive."""

    mean: Tensor
    deviation: Tensor | None


def batch_moments(features: Tensor, attack: FeatureAttack) -> BatchMoments:
    """Return what an attack needs to know of features (B,C,H,W), over all processes of as many images unless local.

    They are float32, or float64 where the features are.
    """
    reduce = mean_over_ranks if attack.perturbation == "global" else (lambda tensor: tensor)
    wide = torch.float64 if features.dtype == torch.float64 else torch.float32
    mean = reduce(features.mean((0, 2, 3), dtype=wide))
    if attack.form == "multiplicative":
        return BatchMoments(mean, None)
    squares = (features.to(wide) - mean.view(1, -1, 1, 1)).square_().mean((0, 2, 3))
    return BatchMoments(mean, reduce(squares).sqrt())


def initial_factors(features: Tensor, attack: FeatureAttack) -> Tensor:
    """Return the factors (2,C) of mean and deviation that change nothing: ones, or zeros if additive."""
    wide = torch.float64 if features.dtype == torch.float64 else torch.float32
    value = 1.0 if attack.form == "multiplicative" else 0.0
    return torch.full((2, features.shape[1]), value, dtype=wide, device=features.device)


def perturb(features: Tensor, factors: Tensor, moments: BatchMoments, attack: FeatureAttack, *, relu: bool) -> Tensor:
    """Return features (B,C,H,W) whose channels' mean and deviation are changed by factors.

    Multiplicative: d_sigma * (f - mu) + d_mu * mu. Additive: the deviation grows by d_sigma times the largest, the
    mean by d_mu times the largest magnitude, of any channel.

    Args:
        features: (B,C,H,W).
        factors: (2,C), of mean and of deviation.
        moments: mean and deviation of the batch.
        attack: the numbers, and which form.
        relu: clamp the result at zero.

    Reference:
        Shu et al., NeurIPS 2021, equation 2.

    Differs:
        from the formula by `relu`, as the authors' runs do; additive: a negative mean counts by its magnitude, and a
        channel whose deviation is zero keeps it.
    """
    mean, (d_mu, d_sigma) = moments.mean, factors
    if attack.form == "multiplicative":
        scale, offset = d_sigma, (d_mu - d_sigma) * mean
    else:
        assert moments.deviation is not None
        rounding = 256 * torch.finfo(mean.dtype).eps * mean.abs()  # the deviation of what is constant stays below it
        unit = torch.where(moments.deviation > rounding, moments.deviation.max() / moments.deviation, 0)
        scale, offset = 1 + d_sigma * unit, d_mu * mean.abs().max() - d_sigma * unit * mean
    # scale * f + offset, so that with equal factors what is zero stays zero, and rounding decides nothing at the ReLU's
    # kink; as a batch norm, whose kernel sums the factors' gradients too
    neutral = torch.zeros_like(mean), torch.ones_like(mean)
    changed = F.batch_norm(features, *neutral, scale, offset, False, 0.0, 0.0)
    return changed.relu() if relu else changed


def attack_features(
    features: Tensor, loss: Loss, attack: FeatureAttack, *, relu: bool = False, loss_scale: float = 1.0
) -> Tensor:
    """Return the factors (2,C) of mean and deviation that m projected sign steps find.

    Gradients are taken with respect to the factors alone, so nothing else gets one.

    Args:
        features: (B,C,H,W), without gradient.
        loss: mean loss of perturbed features, by a model in evaluation mode.
        attack: the numbers.
        relu: whether the features end in a ReLU, so that `attack.clamp` applies.
        loss_scale: the loss is multiplied by it; divided by 16 wherever a gradient overflows.

    Reference:
        Shu et al., NeurIPS 2021, Algorithm 1.
    """
    moments = batch_moments(features, attack)

    def perturbed_loss(factors: Tensor) -> Tensor:
        return loss(perturb(features, factors, moments, attack, relu=relu and attack.clamp))

    whole = gradient_of(perturbed_loss, loss_scale, everywhere=attack.perturbation == "global")

    def gradient(factors: Tensor) -> Tensor:
        found = whole(factors)
        if attack.part != "both":
            found[1 if attack.part == "mean" else 0] = 0
        return found

    start = initial_factors(features, attack)
    ball = linf_ball(start, attack.bound)
    return ascend(start, gradient, ball, steps=attack.steps, step_size=attack.step_size)
