"""EATA: ETA, with what matters on clean images held where it was."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from statshift._core.errors import InputError
from statshift.adapting.drawing import adaptation_positions, shuffled_batches
from statshift.adapting.options import AdaptationOptions, describe_clean
from statshift.adapting.protocols.eta import Eta, EtaStepping
from statshift.data import ImageData
from statshift.models import weights_hash

FISHER_BATCH = 64
"""Clean images of which one gradient is taken."""

_KNOWN: WeakKeyDictionary[ImageData, dict[tuple[bytes, int], dict[str, Tensor]]] = WeakKeyDictionary()
"""Weights of Fisher by clean images, what the source answers to the first, and how many: once for all conditions."""


class EataStepping(EtaStepping):
    """Answer and adapt as ETA does, with the penalty on what has moved away from the source.

    Args:
        model: its own to change.
        protocol: what it does.
        clean: clean images.

    Attributes:
        fisher: weights of Fisher of each term, by name.
    """

    def __init__(self, model: nn.Module, protocol: "Eata", clean: ImageData) -> None:
        super().__init__(model, protocol)
        self.fisher = self._fisher(clean, protocol.fisher_images)

    def penalty(self) -> Tensor | float:
        """Return beta times the weighted sum of squares of how far each term is from the source."""
        moved = [
            (self.fisher[name] * (term - self.source[name]) ** 2).sum()
            for name, term in self.terms.items()
            if name in self.fisher
        ]
        weight: float = self.how.fisher_weight
        return weight * torch.stack(moved).sum()

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state, with the weights of Fisher."""
        fisher = {name: value.clone() for name, value in self.fisher.items()}
        return super().get_extra_state() | {"fisher": fisher}

    def _fisher(self, clean: ImageData, most: int) -> dict[str, Tensor]:
        """Return the mean over batches of the squared gradient of the cross-entropy to the prediction."""
        images = clean.subset(adaptation_positions(clean.indices, min(most, len(clean)), 0, 0))
        term = next(iter(self.terms.values()))
        dtype = torch.promote_types(term.dtype, torch.float32)
        batches = shuffled_batches(images.indices, min(FISHER_BATCH, len(images)), 0, 0)
        known, address = _KNOWN.setdefault(clean, {}), (b"", most)
        squares: dict[str, Tensor] = {}
        in_full = torch.autocast(term.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), in_full:
            for pixels, _ in images.groups(batches):
                logits = self.told(pixels.to(term.device, dtype) / 255, kept=False)
                if not squares:
                    address = weights_hash(self.model).encode() + logits.detach().double().cpu().numpy().tobytes(), most
                    if address in known:
                        return known[address]
                loss = cross_entropy(logits, logits.argmax(1))
                gradients = torch.autograd.grad(loss, list(self.terms.values()), allow_unused=True)
                for name, gradient in zip(self.terms, gradients, strict=True):
                    if gradient is not None:
                        squares[name] = squares.get(name, 0) + gradient**2 / len(batches)
        if not all(square.isfinite().all() for square in squares.values()):
            raise InputError(f"Expected finite gradients on the clean images, but those of {clean.spec} are not.")
        known[address] = squares
        return squares


@dataclass(frozen=True)
class Eata(Eta):
    """Adapt as `eta` does, with a penalty on moving what the predictions on clean images depend on.

    It needs clean images, without labels: `AdaptationOptions.clean`.

    Attributes:
        fisher_weight: beta; None, which a record leaves out, is 2000 for 1000 classes or more, and 1 for fewer.
        fisher_images: as many of the clean images are looked at, or all that there are.

    Raises:
        InputError: other numbers.

    Reference:
        Niu et al., "Efficient test-time model adaptation without forgetting", ICML 2022; numbers of
        github.com/mr-eggplant/EATA: beta of 2000 for ImageNet and 1 for CIFAR-10, 2000 images.

    Differs:
        As `eta`. A squared gradient is one of the mean over a batch of 64, on the batch's statistics, as in the
        authors' code, to which beta belongs; the paper has one of each image.
    """

    name = "eata"
    summary = "Niu et al., ICML 2022; needs clean images"
    many: ClassVar[Mapping[str, Any]] = {**Eta.many, "fisher_weight": 2000.0}
    few: ClassVar[Mapping[str, Any]] = {**Eta.few, "fisher_weight": 1.0}

    fisher_weight: float | None = None
    fisher_images: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fisher_weight is not None and not 0 <= self.fisher_weight < float("inf"):
            raise InputError(f"Expected `fisher_weight` to be 0 or more, but got {self.fisher_weight}.")
        if not (isinstance(self.fisher_images, int) and self.fisher_images >= 1):
            raise InputError(f"Expected `fisher_images` to be an integer of at least 1, but got {self.fisher_images}.")

    def begin(self, model: nn.Module, options: AdaptationOptions) -> EataStepping:
        """Return what trains the model batch by batch.

        Raises:
            InputError: there are no clean images.
        """
        return EataStepping(model, self, self._clean(options))

    def describe(
        self, label: str, options: AdaptationOptions, model: nn.Module, image: Tensor, images: int
    ) -> dict[str, Any]:
        """Return for a record what it does, and by which clean images."""
        clean = describe_clean(self._clean(options))
        return super().describe(label, options, model, image, images) | {"clean": clean}

    def _clean(self, options: AdaptationOptions) -> ImageData:
        if options.clean is None:
            raise InputError(f"The protocol {self.label} needs clean images: give `clean_data`, or adapt by eta.")
        return options.clean
