"""Prototypes in the classifier's place: the mean of the features that each class was told of most surely."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from statshift._core.copying import copied
from statshift._core.errors import InputError
from statshift._core.walking import put_in_place
from statshift.adapting.families import Stream
from statshift.adapting.heads import Headed, through_head
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocol import Number
from statshift.adapting.stepping import Stepping


@dataclass(frozen=True)
class T3A(Stream):
    """Answer by the inner product of features with prototypes, which are the mean direction of a class's supports.

    A class begins with its row of the classifier as its support. Each image becomes one of the class that the
    classifier gives it, and of every class the `supports` of the least entropy are kept, before the batch is answered.
    Features and logits that are not finite support nothing.

    Attributes:
        supports: M, how many a class keeps. The paper chooses 1, 5, 20, 50, 100 or all by labelled images of the
            source; here 100.

    Reference:
        Iwasawa & Matsuo, "Test-Time Classifier Adjustment Module for Model-Agnostic Domain Generalization", NeurIPS
        2021; as github.com/matsuolab/T3A has them, prototypes have length 1, and a support
        has the entropy of what the classifier, with its bias, says of it.

    Differs:
        A row of the classifier supports its own class, as in the paper, and not the class that the classifier gives
        the row, so that no class is without a prototype.

    Raises:
        InputError: a number that cannot be; in a step, a model whose logits no linear layer returns.
    """

    name = "t3a"
    summary = "Iwasawa & Matsuo, NeurIPS 2021: prototypes in the classifier's place"
    number = Number("supports", 1, 1_000_000)
    changes = ("prototypes",)

    supports: float = 100

    def __post_init__(self) -> None:
        if not (self.supports >= 1 and self.supports == int(self.supports)):
            raise InputError(f"Expected `supports` to be an integer of at least 1, but got {self.supports}.")

    def begin(self, model: nn.Module, options: AdaptationOptions) -> "Prototypes":
        """Return what collects supports, and answers by them."""
        return Prototypes(model, self)


@dataclass
class Supports:
    """Features that stand for classes.

    Attributes:
        features: (S,D).
        labels: (S,) int64, the class of each.
        entropies: (S,) in nats, of what the classifier said of each.
    """

    features: Tensor
    labels: Tensor
    entropies: Tensor

    def joined(self, other: "Supports") -> "Supports":
        """Return these, and then the others."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Supports(*(torch.cat([mine.to(theirs), theirs]) for mine, theirs in pairs))

    def surest(self, most: int) -> "Supports":
        """Return of each class the `most` of the least entropy, in the order they stand; of equals, the earlier."""
        order = self.entropies.argsort(stable=True)
        order = order[self.labels[order].argsort(stable=True)]
        labels = self.labels[order]
        places = torch.arange(len(labels), device=labels.device)
        kept = order[places - torch.searchsorted(labels, labels) < most].sort().values
        return Supports(self.features[kept], self.labels[kept], self.entropies[kept])

    def prototypes(self, classes: int) -> Tensor:
        """Return the mean direction (K,D) of each class's supports."""
        sums = self.features.new_zeros(classes, self.features.shape[1])
        return F.normalize(sums.index_add_(0, self.labels, F.normalize(self.features, dim=1)), dim=1)


class Prototypes(Stepping):
    """Answer by prototypes, of which the batch is part; the model itself stays as it is."""

    def __init__(self, model: nn.Module, how: T3A) -> None:
        super().__init__(model)
        self.how = how
        self.supports: Supports | None = None
        self.head = ""

    @torch.no_grad()
    def step(self, images: Tensor) -> Tensor:
        """Return the inner products (B,K)."""
        met = through_head(self.model, images, self.how.name)
        told = met.logits.isfinite().all(1) & met.features.isfinite().all(1)
        logits, features = met.logits[told], met.features[told]
        self.head = met.name
        with torch.autocast(images.device.type, enabled=False):
            new = Supports(features, logits.argmax(1), _entropy(logits))
            self.supports = (self.supports or first_supports(met)).joined(new).surest(int(self.how.supports))
            return met.features @ self.supports.prototypes(met.logits.shape[1]).T

    def adapted(self) -> nn.Module:
        """Return a copy of the model with the prototypes in its last layer; before any batch, the model."""
        if self.supports is None:
            return super().adapted()
        made = copied(self.model).eval()
        old = made.get_submodule(self.head)
        put_in_place(made, {old: _headed(old, self.supports)})
        return made

    def get_extra_state(self) -> dict[str, Any]:
        """Return the supports, and where the classifier's last layer is."""
        return {} if self.supports is None else {"head": self.head, **vars(self.supports)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on with supports."""
        self.head = state.get("head", "")
        found = {name: value for name, value in state.items() if name != "head"}
        self.supports = Supports(**found) if found else None


def first_supports(met: Headed) -> Supports:
    """Return the rows of the classifier, each for its class."""
    logits = F.linear(met.weight, met.weight, met.bias)
    return Supports(met.weight, torch.arange(len(met.weight), device=met.weight.device), _entropy(logits))


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy (B,) in nats of logits (B,K)."""
    log_probabilities = logits.log_softmax(1)
    return -(log_probabilities.exp() * log_probabilities).sum(1)


def _headed(old: nn.Module, supports: Supports) -> nn.Module:
    """Return a layer like the old one that has the prototypes as its rows, and no bias."""
    weight = old.weight
    assert isinstance(weight, Tensor)
    rows = supports.prototypes(len(weight)).to(weight)
    classes, width = rows.shape
    new: nn.Linear | nn.Conv2d = nn.Linear(width, classes, bias=False)
    if weight.ndim == 4:
        new = nn.Conv2d(width, classes, 1, bias=False)
    new.weight = nn.Parameter(rows.view(weight.shape), requires_grad=weight.requires_grad)
    return new.eval()
