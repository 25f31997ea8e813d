"""ROID: certain and diverse images, weights kept near the source, and predictions corrected by the classes seen."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, log_softmax

from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.adapting.affine import AffineStepping, AffineStream, entropy
from statshift.adapting.looks import look

LARGEST_CHANCE = 0.99
"""Probabilities above it count as this in the likelihood ratio, whose gradient would grow without bound."""


class RoidStepping(AffineStepping):
    """Answer a batch, step against the weighted losses of its certain and diverse images, and draw back."""

    def adapt(self, images: Tensor) -> Tensor:
        """Return the logits (B,K) from before the step, corrected by the classes of the batch."""
        logits = self.told(images)
        weights = self.weights(logits.detach())
        loss = (weights * likelihood_ratio(logits)).sum()
        chosen = weights > 0
        if int(chosen.sum()) > 1 or not self.layers:  # a batch norm needs two images to tell anything
            places = torch.arange(self.seen, self.seen + len(images), device=images.device)[chosen]
            looked = look(images[chosen], Draws(0, places, "roid"))
            again = self.told(looked, kept=False)
            loss = loss + (weights[chosen] * symmetric_cross_entropy(again, logits[chosen])).sum()
        if self.update(loss / len(images)):
            self.draw_back()
        return logits + log_prior(logits.detach())

    def weights(self, logits: Tensor) -> Tensor:
        """Return the weight (B,) of each image, 0 of those less diverse than the mean; remember the mean prediction.

        Diversity is 1 less the cosine to the average prediction, certainty the entropy below 0; both are scaled to
        [0,1] over the batch, and the weight is exp(diversity * certainty / temperature).
        """
        predicted = logits.softmax(1)
        average = self.memory.get("average", torch.full_like(predicted[0], 1 / predicted.shape[1]))
        diversity = to_unit(1 - cosine_similarity(average[None], predicted))
        certainty = to_unit(-entropy(logits))
        keep = self.how.keep
        self.memory["average"] = keep * average + (1 - keep) * predicted.mean(0)
        weights: Tensor = (diversity * certainty / self.how.temperature).exp()
        return weights * (diversity >= diversity.mean())

    @torch.no_grad()
    def draw_back(self) -> None:
        """Average the terms with the source's, by `source_weight`."""
        for name, term in self.terms.items():
            term.lerp_(self.source[name], self.how.source_weight)


def to_unit(values: Tensor) -> Tensor:
    """Return values (B,) scaled to reach from 0 to 1; 0 where they are all the same."""
    spread = values.max() - values.min()
    return (values - values.min()) / torch.where(spread > 0, spread, torch.ones_like(spread))


def likelihood_ratio(logits: Tensor) -> Tensor:
    """Return the soft likelihood ratio (B,) of logits (B,K): -sum_c p_c log(p_c / (1 - p_c))."""
    chances = logits.softmax(1).clamp(max=LARGEST_CHANCE)
    logs = log_softmax(logits, 1).clamp(max=torch.tensor(LARGEST_CHANCE).log().item())
    return -(chances * (logs - torch.log1p(-chances))).sum(1)


def symmetric_cross_entropy(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean (B,) of the cross-entropies of two predictions, from logits (B,K), each to the other."""
    forth = (first.softmax(1) * log_softmax(second, 1)).sum(1)
    back = (second.softmax(1) * log_softmax(first, 1)).sum(1)
    return -(forth + back) / 2


def log_prior(logits: Tensor) -> Tensor:
    """Return the logarithm (K,) of the smoothed mean prediction of a batch, from logits (B,K)."""
    images, classes = logits.shape
    prior = logits.softmax(1).mean(0)
    smoothing = max(1 / images, 1 / classes) / prior.max()
    return ((prior + smoothing) / (1 + smoothing * classes)).log()


@dataclass(frozen=True)
class Roid(AffineStream):
    """Train on certain and diverse images, average with the source after each step, correct by the classes seen.

    Attributes:
        learning_rate: None, which a record leaves out, is 0.00025 for 1000 classes or more, and 0.001 for fewer.
        optimiser: None is "sgd" for 1000 classes or more, and "adam" for fewer.
        temperature: tau, above 0: the lower, the more certain and diverse images count.
        source_weight: 1 - alpha, in [0,1]: how far the weights are drawn back to the source after a step.
        keep: weight of the predictions remembered against the newest batch's, in [0,1].

    Raises:
        InputError: other numbers.

    Reference:
        Marsden et al., "Universal test-time adaptation through weight ensembling, diversity weighting, and prior
        correction", WACV 2024; numbers of the authors' code: 1/3, 0.01, 0.9.

    Differs:
        Predictions are multiplied by the smoothed prior, as the paper has it; the authors' code multiplies logits. The
        second view of an image is `statshift.adapting.looks.look`'s, addressed by its place in the stream. It is left
        out of batches of which one image at most is chosen, in a model with batch norm. Dropout stays off. Frozen,
        it answers without the correction, which is of a batch.
    """

    name = "roid"
    summary = "Marsden et al., WACV 2024"
    changes = ("statistics", "affine", "logits")
    forwards = 2
    backwards = 2
    stepping = RoidStepping

    temperature: float = 1 / 3
    source_weight: float = 0.01
    keep: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise InputError(f"Expected `temperature` above 0, but got {self.temperature}.")
        for name in ("source_weight", "keep"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"Expected `{name}` in [0,1], but got {getattr(self, name)}.")
