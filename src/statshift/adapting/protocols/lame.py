"""Answers that neighbours agree on: the logits of a batch, adjusted among themselves."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from statshift._core.errors import InputError, unknown
from statshift.adapting.families import Stream
from statshift.adapting.heads import through_head
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocol import Number
from statshift.adapting.stepping import Stepping

AFFINITIES = ("knn", "rbf", "linear")


@dataclass(frozen=True)
class Lame(Stream):
    """Answer a batch by the probabilities that stay near the model's and are alike where features are.

    They minimise the sum over images i of KL(z_i || q_i), q_i the model's, less half the sum over pairs of
    w_ij z_i . z_j, where w_ij is the affinity of features. Concave-convex updates go down: z_ik becomes proportional
    to q_ik exp(sum_j w_ij z_jk), until the objective stands still. Nothing of the model changes, and nothing of a batch
    is left for the next.

    Attributes:
        neighbours: k, of the nearest neighbours ("knn"), or of the neighbour that tells the width ("rbf"); with the
            authors' code, 5, the best of 1, 3 and 5 over their scenarios.
        affinity: of features of length 1; "knn": 1 for the k nearest other images, else 0; "rbf": exp(-d^2 / (2 s^2))
            of the distance d, s the mean distance of the k-th nearest other image; "linear": their inner product.
        steps: most updates, 100 in the authors' code.
        tolerance: the relative change of the objective at which they end, 1e-8 there.

    Reference:
        Boudiaf et al., "Parameter-free Online Test-time Adaptation", CVPR 2022; the numbers are those of
        github.com/fiveai/LAME.

    Differs:
        The model's log-probabilities are exact, without 1e-10 within the logarithm. An image is never its own
        neighbour, nor its own k-th, also among copies; ties go to the earlier image.

    Raises:
        InputError: options that cannot be; in a step, fewer than 2 images, or a model whose logits no linear layer
            returns.
    """

    name = "lame"
    summary = "Boudiaf et al., CVPR 2022: answers that neighbours agree on"
    number = Number("neighbours", 1, 10_000)
    shareable = True
    not_frozen = "keeps nothing of a batch"
    changes = ("logits",)
    least = 2

    neighbours: float = 5
    affinity: str = "knn"
    steps: int = 100
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        if not (self.neighbours >= 1 and self.neighbours == int(self.neighbours)):
            raise InputError(f"Expected `neighbours` to be an integer of at least 1, but got {self.neighbours}.")
        if self.affinity not in AFFINITIES:
            raise unknown("affinity", self.affinity, AFFINITIES)
        if not (self.steps >= 1 and self.tolerance >= 0):
            raise InputError(f"Expected `steps` >= 1 and `tolerance` >= 0, but got {self.steps} and {self.tolerance}.")

    def begin(self, model: nn.Module, options: AdaptationOptions) -> "Agreeing":
        """Return what answers a batch as a whole."""
        return Agreeing(model, self)


class Agreeing(Stepping):
    """Answer each batch by log-probabilities (B,K) on which its images agree."""

    def __init__(self, model: nn.Module, how: Lame) -> None:
        super().__init__(model)
        self.how = how

    @torch.no_grad()
    def step(self, images: Tensor) -> Tensor:
        """Return log-probabilities (B,K)."""
        if len(images) < self.how.least:
            raise InputError(f"Expected batches of at least 2 images for lame, but got {len(images)}.")
        met = through_head(self.model, images, self.how.name)
        with torch.autocast(images.device.type, enabled=False):
            affinity = affinities(F.normalize(met.features, dim=1), self.how)
            return agree(met.logits.log_softmax(1), affinity, self.how)


def affinities(features: Tensor, how: Lame) -> Tensor:
    """Return w (B,B) of features (B,D) of length 1; a row is what an image hears of the others."""
    if how.affinity == "linear":
        return features @ features.T
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    others = distances.clone().fill_diagonal_(torch.inf)
    nearest, order = others.sort(dim=1, stable=True)
    k = min(int(how.neighbours), len(features) - 1)
    if how.affinity == "knn":
        return torch.zeros_like(distances).scatter_(1, order[:, :k], 1)
    width = nearest[:, k - 1].mean().clamp_min(torch.finfo(distances.dtype).tiny ** 0.5)
    return (-((distances / width) ** 2) / 2).exp()


def agree(log_given: Tensor, affinity: Tensor, how: Lame) -> Tensor:
    """Return the log-probabilities (B,K) at which the updates from the model's own (B,K) end."""
    log_agreed, before = log_given, torch.inf
    for step in range(how.steps):
        heard = affinity @ log_agreed.exp()
        log_agreed = (log_given + heard).log_softmax(1)
        objective = float((log_agreed.exp() * (log_agreed - log_given - heard)).sum())
        if step > 1 and abs(objective - before) <= how.tolerance * abs(before):
            break
        before = objective
    return log_agreed
