"""Training on the images alone."""

from dataclasses import dataclass

from statshift.hardening.batch import Batch, Losses
from statshift.hardening.method import Method
from statshift.splitting.branches import Branches


@dataclass(frozen=True)
class Standard(Method):
    """Train on the images as they are (or as an augmentation makes them).

    Reference:
        Shu et al., NeurIPS 2021, Table 1.
    """

    name = "standard"
    summary = "fine-tuning on the images alone"
    title = "fine-tuned"

    def losses(self, branches: Branches, batch: Batch) -> Losses:
        """Return the loss of the images."""
        logits = branches.suffix(branches.prefix(batch.images), "clean")
        return {"clean": batch.targets.loss(logits)}
