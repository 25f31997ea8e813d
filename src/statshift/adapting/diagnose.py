"""Will rectifying help? What a few unlabelled images tell of a shift, layer by layer and in one sentence."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from statshift._core.tables import short_table
from statshift.models import check_input
from statshift.norms.likeness import FEW
from statshift.norms.selection import select_layers
from statshift.norms.shrinkage import check_finite, last_third, stored_statistics, survey, weigh_evidence
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
    """

    layers: list[str]
    shift: NDArray[np.float64]
    noise: NDArray[np.float64]
    images: int
    persisting: float
    effective: float
    untrained: bool = False

    def __repr__(self) -> str:
        """Return the sentence, and a table of the first and last layers."""
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
        return float(self._ratio(np.arange(len(self.layers))[None, -last_third(len(self.layers)) :])[0])

    @property
    def sentence(self) -> str:
        """What to do, in words."""
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
        if self.persisting == 0:
            return (
                f"No shift beyond noise reaches the last layers ({self.number:.1f} x sampling noise, no more than in "
                "training): leave the model alone."
            )
        where = ("first", "second", "last")[largest] if len(thirds) == 3 else "last"
        verdict = "will likely help" if self.persisting >= LIKELY else "may help a little"
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

    Args:
        model: a `PixelModel`, or a module that takes the images as they are; left as found.
        images: (n,3,H,W), at least two.

    Raises:
        InputError: a model without batch norm, fewer than two images, images that the model cannot take, or NaN.
    """
    check_input(model, images, least=2)  # one does not tell noise
    fit_size(model, [images.shape[-2:]])
    layers = select_layers(model, images)
    shifts, output = survey(model, images, layers)
    evidence = weigh_evidence(list(shifts.values())[-last_third(len(shifts)) :], images, output, model)
    stored = [stored_statistics(layers[name]) for name in shifts]
    initial = torch.stack([(one.mean == 0).all() & (one.var == 1).all() for one in stored]).all()
    (untrained,) = check_finite({name: shift.distance[None] for name, shift in shifts.items()}, initial)
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
    )
