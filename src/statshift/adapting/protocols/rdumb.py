"""RDumb: ETA that begins at the source again and again."""

from dataclasses import dataclass

from torch import Tensor

from statshift._core.errors import InputError
from statshift.adapting.protocol import Number
from statshift.adapting.protocols.eta import Eta, EtaStepping


class RdumbStepping(EtaStepping):
    """Answer and adapt as ETA does; go back to the source before the batch that is one too many."""

    protocol: "Rdumb"

    def adapt(self, images: Tensor) -> Tensor:
        """Return the logits (B,K) from before the step."""
        if self.batches == self.protocol.steps:
            self.reset()
        return super().adapt(images)


@dataclass(frozen=True)
class Rdumb(Eta):
    """Adapt as `eta` does, from the source again after every so many batches.

    Attributes:
        steps: after how many.

    Raises:
        InputError: other numbers.

    Reference:
        Press et al., "RDumb: a simple approach that questions our progress in continual test-time adaptation", NeurIPS
        2023: 1000 steps.

    Differs:
        As `eta`; its entropy margin too, 0.4 ln K, where the authors' code has ln(1000) / 2 - 1 for ImageNet.
    """

    name = "rdumb"
    summary = "Press et al., NeurIPS 2023: eta, reset now and then"
    number = Number("steps", 1, float("inf"))
    stepping = RdumbStepping

    steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.steps >= 1 and float(self.steps).is_integer()):
            raise InputError(f"Expected `steps` to be an integer of at least 1, but got {self.steps}.")
        object.__setattr__(self, "steps", int(self.steps))
