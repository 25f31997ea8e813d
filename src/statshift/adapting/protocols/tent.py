"""Tent: the entropy of the predictions, minimised batch by batch."""

from dataclasses import dataclass

from torch import Tensor

from statshift.adapting.affine import AffineStepping, AffineStream, entropy


class TentStepping(AffineStepping):
    """Answer a batch, then step against the mean entropy of what was answered."""

    def adapt(self, images: Tensor) -> Tensor:
        """Return the logits (B,K,...) from before the step."""
        logits = self.answer(images)
        self.update(entropy(logits).mean())
        return logits


@dataclass(frozen=True)
class Tent(AffineStream):
    """Minimise the entropy of predictions by the affine terms of norm layers, with the batch's own statistics.

    Attributes:
        learning_rate: None, which a record leaves out, is 0.00025 for 1000 classes or more, and 0.001 for fewer.
        optimiser: None is "sgd" for 1000 classes or more, and "adam" for fewer.

    Reference:
        Wang et al., "Tent: Fully test-time adaptation by entropy minimization", ICLR 2021, section 3; numbers of
        section 4: SGD with momentum at 0.00025 in batches of 64 on ImageNet, Adam at 0.001 in batches of 128 elsewhere.

    Differs:
        Layer and group norms are trained as well. Dropout stays off, where the authors' code has it on.
    """

    name = "tent"
    summary = "Wang et al., ICLR 2021"
    stepping = TentStepping
