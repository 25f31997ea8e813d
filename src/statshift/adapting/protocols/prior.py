"""A mixture of what is stored and what is observed, by numbers of images."""

from dataclasses import dataclass

from statshift._core.errors import InputError
from statshift.adapting.families import Rule
from statshift.adapting.protocol import Number
from statshift.norms.statistics import ChannelStatistics, Observed, mix

USUAL = 16
"""As how many images what is stored counts by default."""


@dataclass(frozen=True)
class Prior(Rule):
    """Mix linearly in mean and in variance, as if what is stored were of so many images.

    Attributes:
        prior_count: as how many, 0 or more; None, which a record leaves out, is 16.

    Raises:
        InputError: a negative number.

    Reference:
        Schneider et al., NeurIPS 2020, section 3.
    """

    name = "prior"
    summary = "Schneider et al., NeurIPS 2020, section 3"
    number = Number("prior_count", 0, float("inf"))
    trusted = True

    prior_count: float | None = None

    def __post_init__(self) -> None:
        if self.prior_count is not None and not self.prior_count >= 0:
            raise InputError(f"Expected `prior_count` to be 0 or more, but got {self.prior_count}.")

    def target(self, stored: ChannelStatistics, observed: Observed, images: int) -> ChannelStatistics:
        """Return the mixture."""
        count = USUAL if self.prior_count is None else self.prior_count
        return mix(stored, observed, 1 - images / (count + images))
