"""Training on features that have another image's moments (MoEx)."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from statshift._core.errors import InputError
from statshift.hardening.batch import Batch, Losses
from statshift.hardening.method import Method
from statshift.hardening.registry import FINE_TUNING
from statshift.splitting.branches import Branches


@dataclass(frozen=True)
class MoEx(Method):
    """Fine-tune on features that have the moments of another image's, and on both images' labels.

    The moments are over the channels at each position (PONO). With several processes an image's partner is in the
    same process's share of the batch.

    Attributes:
        share: share of the loss, in [0,1], that is for the image's own label.
        probability: in [0,1], with which a batch exchanges moments.

    Raises:
        InputError: values that cannot be.

    Reference:
        Li et al., "On Feature Normalization and Data Augmentation" (CVPR 2021), equations 1 to 4; a share of 0.9.
    """

    name = "moex"
    family = FINE_TUNING
    summary = "Li et al., CVPR 2021"
    title = "MoEx"
    needs_cut = True

    share: float = 0.9
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("share", "probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"Expected `{name}` in [0,1], but got {getattr(self, name)}.")

    def losses(self, branches: Branches, batch: Batch) -> Losses:
        """Return the loss of features with exchanged moments."""
        features = branches.prefix(batch.images)
        own, targets = batch.targets.loss, batch.targets
        chance = batch.draws.uniform("exchange")
        count = len(batch.images) // targets.views
        order = batch.draws.uniform("exchange partner")[:count].argsort(stable=True)
        if bool(chance[0] < self.probability):
            everyone = torch.cat([order + view * count for view in range(targets.views)])
            features = exchange_moments(features, everyone)
            logits = branches.suffix(features, "clean")
            return {"clean": self.share * own(logits) + (1 - self.share) * targets.partners(order).loss(logits)}
        return {"clean": own(branches.suffix(features, "clean"))}

    def describe(self) -> dict[str, Any]:
        """Return what is not the paper's."""
        return {} if self == MoEx() else {"moex": asdict(self)}

    @property
    def by_process(self) -> bool:
        """Partners are of the same process's share."""
        return True


def exchange_moments(features: Tensor, order: Tensor, eps: float = 1e-5) -> Tensor:
    """Return features (B,C,H,W) with mean and deviation over channels, at each position, of the images at `order`."""
    var, mean = torch.var_mean(features, dim=1, keepdim=True, correction=0)
    deviation = (var + eps).sqrt()
    return (features - mean) / deviation * deviation[order] + mean[order]
