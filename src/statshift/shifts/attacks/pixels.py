"""The worst case of pixels: FGSM, PGD and PGD on the loss of Carlini and Wagner, in the maximum norm and in L2."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from statshift._core.errors import InputError, unknown
from statshift._core.randomness import Draws
from statshift.shifts.attacks.ascent import Map, ascend
from statshift.shifts.attacks.balls import BALLS, Ball, ball_of
from statshift.shifts.attacks.gradients import Loss, gradient_of

TARGETS = ("none", "random", "next")
LOSSES = ("cross-entropy", "cw")
LogitLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy (B,) of logits (B,K) and labels (B,), in nats, float64.

    In float32 the gradient of an image that is classified surely has no part at its own label: 1 - p rounds to zero.
    """
    return F.cross_entropy(logits.double(), labels, reduction="none")


@dataclass(frozen=True)
class PixelAttack:
    """How pixels are perturbed: projected gradient ascent of a loss within a ball, and within [0,1].

    Attributes:
        epsilon: radius of the ball, in the units of pixels in [0,1].
        step_size: length of each step; default 2.5 * epsilon / steps.
        steps: how many.
        norm: norm of the ball and the steps, "linf" or "l2", or a `Ball` of your own.
        loss: what rises, "cross-entropy" or "cw", the margin of Carlini and Wagner, up to 50.
        target: a class to which each image is driven instead of only away from its own: "random", another one drawn for
            it, or "next", the one after its own; "none" is no target.
        random_start: begin at a place drawn uniformly from the ball, else at the image.
        clip: keep pixels in [0,1].

    Raises:
        InputError: values that cannot be, all told together.

    Reference:
        Madry et al., ICLR 2018, section 2.1; the default step and number of steps: Benz et al., "Batch Normalization
        Increases Adversarial Vulnerability", appendix B.2.
    """

    epsilon: float = 1 / 255
    step_size: float | None = None
    steps: int = 20
    norm: str | Ball = "linf"
    loss: str = "cross-entropy"
    target: str = "none"
    random_start: bool = True
    clip: bool = True

    def __post_init__(self) -> None:
        faults = []
        if not (isinstance(self.steps, int) and self.steps >= 1):
            faults.append(f"Expected `steps` to be an integer of at least 1, but got {self.steps}.")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            faults.append(f"Expected `step_size` above 0, but got {self.step_size}.")
        known = isinstance(self.norm, Ball) or self.norm in BALLS
        greatest = ball_of(self.norm).bound if known else math.inf
        if not 0 <= self.epsilon <= greatest or math.isinf(self.epsilon):
            faults.append(
                f"Expected `epsilon` in [0,1], but got {self.epsilon:g}: pixels are in [0,1], so 8 of 255 levels is "
                "8/255."
                if math.isfinite(greatest)
                else f"Expected `epsilon` to be at least 0, but got {self.epsilon:g}."
            )
        if not known:
            faults.append(str(unknown("norm", str(self.norm), BALLS)))
        for name, choices in (("loss", LOSSES), ("target", TARGETS)):
            if getattr(self, name) not in choices:
                faults.append(str(unknown(name, getattr(self, name), choices)))
        if faults:
            raise InputError(" ".join(faults))

    @property
    def length(self) -> float:
        """The step size in force."""
        return 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size

    @property
    def geometry(self) -> Ball:
        """The ball's geometry."""
        return ball_of(self.norm)

    def ball(self, images: Tensor) -> Map:
        """Return the projection to the ball around images (B,3,H,W)."""
        return self.geometry.project(images, self.epsilon, *((0.0, 1.0) if self.clip else ()))


def attack_pixels(images: Tensor, loss: Loss, attack: PixelAttack, draws: Draws, *, loss_scale: float = 1.0) -> Tensor:
    """Return images (B,3,H,W) after projected ascent of a loss; see `attack_images` for attacks on a model.

    Args:
        images: (B,3,H,W) in [0,1].
        loss: sum or mean over images, by a model in evaluation mode.
        attack: the numbers.
        draws: draws of these images, on their device; the random start is addressed.
        loss_scale: as for `attack_features`.
    """
    ball = attack.ball(images)
    start = ball(images + random_offset(images, attack, draws)) if attack.random_start else images
    return ascend(
        start,
        gradient_of(loss, loss_scale),
        ball,
        steps=attack.steps,
        step_size=attack.length,
        steepest=attack.geometry.steepest,
    )


def random_offset(images: Tensor, attack: PixelAttack, draws: Draws) -> Tensor:
    """Return offsets (B,3,H,W), drawn from the ball around zero as its norm says."""
    return attack.geometry.offset(tuple(images.shape[1:]), attack.epsilon, draws).to(images.dtype)
