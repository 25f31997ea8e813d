"""Will rectifying help? What a few unlabelled images tell of a shift, layer by layer and in one sentence."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from statshift.models import check_input
from statshift.norms.selection import select_layers
from statshift.norms.shrinkage import check_finite, joint_share, last_third, survey

LIKELY = 0.5
"""From this share of the shift beyond noise on, the sentence says "likely"."""


@dataclass(frozen=True)
class Diagnosis:
    """The shift that images show a model.

    Attributes:
        layers: names of the norm layers, in execution order.
        shift: (L,), root-mean-square distance of the channels' means and deviations from what is stored, in stored
            deviations.
        noise: (L,), what `shift` would be without a shift, from sampling so many images alone.
        images: how many there were.
        persisting: share in [0,1] of the shift in the last third of the layers that no noise explains; "auto" goes
            half this share of the way.
    """

    layers: list[str]
    shift: NDArray[np.float64]
    noise: NDArray[np.float64]
    images: int
    persisting: float

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
    shifts = survey(model, images, select_layers(model, images))
    check_finite({name: shift.distance[None] for name, shift in shifts.items()})
    distance = torch.stack([shift.distance for shift in shifts.values()]).double().cpu()
    spread = torch.stack([shift.spread for shift in shifts.values()]).double().cpu()
    last = list(shifts.values())[-last_third(len(shifts)) :]
    return Diagnosis(
        layers=list(shifts),
        shift=distance.sqrt().numpy(),
        noise=(spread / len(images)).sqrt().numpy(),
        images=len(images),
        persisting=float(joint_share(last)),
    )
