"""Will adapting help, and how? What a few unlabelled images tell of a shift, layer by layer and in two sentences."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift._core.tables import short_table
from statshift.adapting.recommending import recommendation, recommended
from statshift.models import check_input
from statshift.models.pixel import extract_logits
from statshift.norms.kinds import norms_of
from statshift.norms.layers import evaluating, lacking_statistics, run
from statshift.norms.likeness import FEW
from statshift.norms.selection import select_layers
from statshift.norms.shrinkage import (
    TRAINING_BATCH,
    check_finite,
    last_third,
    stored_statistics,
    survey,
    weigh_evidence,
)
from statshift.norms.sizes import fit_size

LIKELY = 0.5
"""From this share of the shift beyond noise on, the sentence says "likely"."""


@dataclass(frozen=True)
class Diagnosis:
    """The shift that images show a model.

    Attributes:
        layers: names of the norm layers, in execution order.
        shift: (L,), root-mean-square distance of the channels' means and deviations from what is stored, in stored
            deviations.
        noise: (L,), what `shift` would be without a shift, from sampling so many effective images alone.
        images: how many there were.
        persisting: share in [0,1] of the shift in the last third of the layers that no noise explains; "auto" goes
            half this share of the way, and up to all of it where no scene's content explains the shift.
        effective: as how many independent images they count, from 1 (copies) to `images`.
        untrained: whether the stored means are all 0 and the variances all 1.
        norms: kinds of the norms of a model that stores no statistics, in words; "" of others. Such a model has no
            layers here.
        classes: how many classes the model chooses from; 0 where it is no classifier.
        predicted: as how many classes, equally frequent, its answers count, from 1 to `classes`.
    """

    layers: list[str]
    shift: NDArray[np.float64]
    noise: NDArray[np.float64]
    images: int
    persisting: float
    effective: float
    untrained: bool = False
    norms: str = ""
    classes: int = 0
    predicted: float = 0.0

    def __repr__(self) -> str:
        """Return the sentence, and a table of the first and last layers, if there are any."""
        if not self.layers:
            return f"Diagnosis of {self.images} images: {self.sentence}"
        rows = [["layer", "shift", "noise", "ratio"]]
        values = zip(self.layers, self.shift, self.noise, self.ratios, strict=True)
        rows += [[name, f"{shift:.3f}", f"{noise:.3f}", f"{ratio:.1f}"] for name, shift, noise, ratio in values]
        return f"Diagnosis of {self.images} images: {self.sentence}\n{short_table(rows)}"

    @property
    def ratios(self) -> NDArray[np.float64]:
        """(L,), each layer's shift in units of its noise; 1 is no shift."""
        return self._ratio(np.arange(len(self.layers))[:, None])

    @property
    def number(self) -> float:
        """The shift that reaches the last third of the layers, in units of its noise; 1 is no shift.

        More images make less noise: compare numbers of equally many.
        """
        if not self.layers:
            return 1.0
        return float(self._ratio(np.arange(len(self.layers))[None, -last_third(len(self.layers)) :])[0])

    @property
    def protocol(self) -> str:
        """What to use: "auto", or "source" for leaving the model alone."""
        return recommended(self)

    @property
    def advice(self) -> str:
        """Which protocol to use, and on what that depends, in one to three sentences; "" of an untrained model."""
        return recommendation(self)

    @property
    def sentence(self) -> str:
        """What the images tell, in words."""
        if self.norms:
            return (
                f"The model stores no statistics to compare these images with (its norms: {self.norms}), so there is "
                "nothing to rectify, and no shift is told from its layers."
            )
        if self.untrained:
            return (
                "The norm layers store means of 0 and variances of 1 everywhere: the model was never trained, or its "
                "weights were not loaded, so there is nothing to compare with."
            )
        if self.effective < FEW and self.persisting == 0:
            return (
                f"The {self.images} images are alike (copies, frames of one scene or pictures of nothing) and count as "
                f"{self.effective:.1f}: no shift is told from what they show. Give different images."
            )
        count = f" ({self.images} images, so alike that they count as {self.effective:.1f})"
        return self._verdict + (count if self.effective < min(FEW, self.images / 2) else "")

    @property
    def _verdict(self) -> str:
        thirds = np.array_split(np.arange(len(self.layers)), min(3, len(self.layers)))
        largest = int(np.argmax([self._ratio(third[None])[0] for third in thirds]))
        beyond = 1 - (1 + self.effective / TRAINING_BATCH) / self.number**2  # what persists of images of all classes
        if self.persisting == 0 and beyond > 0:
            return (
                f"The shift is {self.number:.1f} x sampling noise where it reaches the last layers, but the model sees "
                "few classes in these images, whose content may explain it: leave the model alone, or give images of "
                "more classes."
            )
        if self.persisting == 0:
            return (
                f"No shift beyond noise reaches the last layers ({self.number:.1f} x sampling noise, no more than in "
                "training): leave the model alone."
            )
        where = ("first", "second", "last")[largest] if len(thirds) == 3 else "last"
        verdict = "will likely help" if beyond >= LIKELY else "may help a little"
        return (
            f"The shift is {self.number:.1f} x sampling noise where it reaches the last layers, and largest in the "
            f"{where} third: rectifying {verdict}."
        )

    def _ratio(self, groups: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return (G,) for groups of layers (G,M): their joint shift in units of their joint noise."""
        shift, noise = (np.square(values[groups]).sum(1) for values in (self.shift, self.noise))
        ratios: NDArray[np.float64] = np.sqrt(np.divide(shift, noise, out=np.ones_like(shift), where=noise > 0))
        return ratios


def diagnose(model: nn.Module, images: Tensor) -> Diagnosis:
    """Measure the shift that images show a model, by one forward pass; labels are not needed.

    Of a model without batch norm only its answers are looked at.

    Args:
        model: a `PixelModel`, or a module that takes the images as they are; left as found.
        images: (n,3,H,W), at least two.

    Raises:
        InputError: a model whose layers cannot be reached, fewer than two images, images that the model cannot take,
            or NaN.
    """
    check_input(model, images, least=2)  # one does not tell noise
    fit_size(model, [images.shape[-2:]])
    if lacking_statistics(model):
        return _without_layers(model, images)
    layers = select_layers(model, images)
    with _overhearing(model) as answers:
        shifts = survey(model, images, layers)
    evidence = weigh_evidence(list(shifts.values())[-last_third(len(shifts)) :], images, answers[-1], model)
    stored = [stored_statistics(layers[name]) for name in shifts]
    initial = torch.stack([(one.mean == 0).all() & (one.var == 1).all() for one in stored]).all()
    (untrained,) = check_finite({name: shift.distance[None] for name, shift in shifts.items()}, initial)
    classes, predicted = _predicted(answers)
    distance = torch.stack([shift.distance for shift in shifts.values()]).double().cpu()
    noise = torch.stack([torch.add(*shift.noise(evidence.effective)) for shift in shifts.values()]).double().cpu()
    return Diagnosis(
        layers=list(shifts),
        shift=distance.sqrt().numpy(),
        noise=noise.sqrt().numpy(),
        images=len(images),
        persisting=float(evidence.persisting),
        effective=float(evidence.effective),
        untrained=untrained,
        classes=classes,
        predicted=predicted,
    )


def _without_layers(model: nn.Module, images: Tensor) -> Diagnosis:
    with _overhearing(model) as answers, evaluating(model), torch.no_grad():
        run(model, images)
    classes, predicted = _predicted(answers)
    none = np.empty(0)
    return Diagnosis(
        [], none, none, len(images), 0.0, len(images), norms=norms_of(model), classes=classes, predicted=predicted
    )


@contextmanager
def _overhearing(model: nn.Module) -> Iterator[list[Any]]:
    """Yield a list of what the model returns while the context lasts."""
    answers: list[Any] = []
    handle = model.register_forward_hook(lambda _module, _given, answer: answers.append(answer))
    try:
        yield answers
    finally:
        handle.remove()


def _predicted(answers: list[Any]) -> tuple[int, float]:
    """Return how many classes there are, and as how many the answers to n images count; 0 of no classifier's.

    That is the inverse of the share of pairs of images with the same answer, which is not biased by n, and at most all.

    Reference:
        Simpson, "Measurement of diversity", Nature 1949.
    """
    try:
        logits = extract_logits(answers[-1])
    except InputError:
        return 0, 0.0
    if logits.ndim != 2 or logits.shape[1] < 2:
        return 0, 0.0
    counts = logits.argmax(1).bincount(minlength=logits.shape[1]).double()
    pairs = float((counts * (counts - 1)).sum())
    images, classes = logits.shape
    return classes, min(float(classes), images * (images - 1) / pairs) if pairs else float(classes)
