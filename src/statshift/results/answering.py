"""What a model's answers to a few images tell of it before it is measured."""

from collections.abc import Sequence
from warnings import warn

import torch
from torch import Tensor

from statshift._core.errors import ProbabilitiesWarning, RandomAnswersWarning

PROBABILITIES = (
    "The model answers probabilities (each row is in [0,1] and sums to 1) where logits are expected: cross-entropy, "
    "calibration, attacks and LIGS would be of something else. Remove the softmax at its end; accuracy is the same."
)
RANDOM = (
    "The model answers twice the same image differently, by up to {by:.2g}, in evaluation mode: its figures are left "
    "to chance. Something draws random numbers, such as F.dropout(x, 0.5) without training=self.training."
)


def are_probabilities(logits: Tensor) -> bool:
    """Return whether logits (B,K) are none, but probabilities: all in [0,1], and rows sum to 1 within 1e-3."""
    if logits.shape[1] < 2:
        return False
    inside = ((logits >= 0) & (logits <= 1)).all()
    return bool(inside and ((logits.double().sum(1) - 1).abs() <= 1e-3).all())


def warn_of_answers(logits: Sequence[Tensor], again: Tensor) -> None:
    """Tell of probabilities in place of logits, and of answers that are left to chance.

    Args:
        logits: (P,K) of each image, at P places; one of a classifier.
        again: those of the first image, asked for a second time.
    """
    if are_probabilities(torch.cat(list(logits))):
        warn(PROBABILITIES, ProbabilitiesWarning, stacklevel=4)
    first = logits[0]
    by = float((first - again).abs().max())
    if by > 1e-3 * float(first.abs().max()):
        warn(RANDOM.format(by=by), RandomAnswersWarning, stacklevel=4)
