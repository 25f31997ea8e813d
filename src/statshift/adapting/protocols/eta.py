"""ETA: entropy minimised on reliable images that differ from what was seen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from statshift._core.errors import InputError
from statshift.adapting.affine import AffineStepping, AffineStream, entropy


class EtaStepping(AffineStepping):
    """Answer a batch, then step against the weighted entropy of the images chosen, if any is."""

    def adapt(self, images: Tensor) -> Tensor:
        """Return the logits (B,K) from before the step."""
        logits = self.told(images)
        loss = self.weighted_entropy(logits)
        if loss is not None:
            self.update(loss + self.penalty())
        return logits

    def weighted_entropy(self, logits: Tensor) -> Tensor | None:
        """Return the mean over the chosen images of exp(E_0 - E) E, and remember their mean prediction.

        Chosen are those with E < E_0 whose prediction has a cosine below `similarity` with the average of
        those chosen before; None if there are none.
        """
        entropies = entropy(logits)
        with torch.no_grad():
            margin = self.how.entropy_margin * math.log(logits.shape[1])
            predicted, average = logits.softmax(1), self.memory.get("average")
            chosen = entropies < margin
            if average is not None:
                chosen &= cosine_similarity(average[None], predicted) < self.how.similarity
            if not chosen.any():
                return None
            newest = predicted[chosen].mean(0)
            keep = self.how.keep
            self.memory["average"] = newest if average is None else keep * average + (1 - keep) * newest
            weights: Tensor = (margin - entropies[chosen]).exp()
        return (weights * entropies[chosen]).mean()

    def penalty(self) -> Tensor | float:
        """Return what is added to the loss: nothing."""
        return 0.0


@dataclass(frozen=True)
class Eta(AffineStream):
    """Minimise entropy as `tent` does, on reliable and new images alone; the surer, the more one counts.

    Attributes:
        learning_rate: None, which a record leaves out, is 0.00025 for 1000 classes or more, and 0.005 for fewer.
        optimiser: None is "sgd".
        entropy_margin: E_0, below which an image is reliable, in units of ln K, the largest entropy that there is.
        similarity: epsilon, the cosine below which an image is new; None is 0.05 for 1000 classes or more, and 0.4 for
            fewer.
        keep: weight of what is remembered against the newest batch, in [0,1].

    Raises:
        InputError: other numbers.

    Reference:
        Niu et al., "Efficient test-time model adaptation without forgetting", ICML 2022; numbers of
        github.com/mr-eggplant/EATA for ImageNet and CIFAR-10: 0.4 ln K, 0.05 and 0.4, 0.9.

    Differs:
        Layer and group norms are trained as well. The loss is the mean over the images chosen, as in the authors' code.
        Dropout stays off.
    """

    name = "eta"
    summary = "Niu et al., ICML 2022, without weights of Fisher"
    many: ClassVar[Mapping[str, Any]] = {"optimiser": "sgd", "learning_rate": 0.00025, "similarity": 0.05}
    few: ClassVar[Mapping[str, Any]] = {"optimiser": "sgd", "learning_rate": 0.005, "similarity": 0.4}
    stepping = EtaStepping

    entropy_margin: float = 0.4
    similarity: float | None = None
    keep: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.entropy_margin > 0:
            raise InputError(f"Expected `entropy_margin` above 0, but got {self.entropy_margin}.")
        if self.similarity is not None and not self.similarity >= 0:
            raise InputError(f"Expected `similarity` to be 0 or more, but got {self.similarity}.")
        if not 0 <= self.keep <= 1:
            raise InputError(f"Expected `keep` in [0,1], but got {self.keep}.")
