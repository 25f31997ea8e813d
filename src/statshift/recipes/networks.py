"""A network that a recipe builds: what it is, what is wrong with it, and the model that it makes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from statshift._core.errors import unknown
from statshift._core.randomness import seeded
from statshift.hardening.from_scratch import build
from statshift.models import PixelModel, load_model
from statshift.models.choices import EXCHANGES
from statshift.models.cifar import ZOO
from statshift.models.loading import MODEL_SCHEMES


@dataclass(frozen=True)
class Network:
    """A network that is built for a label.

    Attributes:
        spec: of the model.
        arguments: of whatever builds it, such as `norm`.
        weights: the name of a file among the recipe's `files`; "" keeps those of the spec, or random ones.
        mean: of the three channels in [0,1]; default the model's own.
        std: likewise.
    """

    spec: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def faults(self) -> list[str]:
        """Return what is wrong with it by itself, "field: what"."""
        scheme, _, rest = self.spec.partition(":")
        faults = []
        if scheme not in MODEL_SCHEMES:
            faults.append(f"spec: {unknown('model scheme', scheme, MODEL_SCHEMES)}")
        if scheme == "cifar" and rest not in ZOO:
            faults.append(f"spec: {unknown('CIFAR model', rest, ZOO)}")
        norm = self.arguments.get("norm", "batch")
        if scheme != "py" and norm not in EXCHANGES:
            faults.append(f"arguments.norm: {unknown('norm', norm, EXCHANGES)}")
        faults += [
            f"{name}: Expected three numbers, but got {list(value)}."
            for name, value in (("mean", self.mean), ("std", self.std))
            if value is not None and len(value) != 3
        ]
        return faults

    def make(self, files: Mapping[str, str], arguments: Mapping[str, Any], seed: int, *, fresh: bool) -> PixelModel:
        """Return the model.

        Args:
            files: paths of weights by name.
            arguments: further ones of whatever builds it, which go before its own.
            seed: of random weights.
            fresh: whether it is to be trained: from random weights, where it has no file.
        """
        every: dict[str, Any] = {**self.arguments, **arguments}
        channels: dict[str, Any] = {"mean": self.mean, "std": self.std}
        if self.weights:
            return load_model(self.spec, weights=files[self.weights], model_args=every, **channels)
        if fresh:
            return build(self.spec, every, seed=seed, **channels)
        with seeded(seed):  # what is not pretrained
            return load_model(self.spec, model_args=every, **channels)
