"""The statistics of the whole set, exactly."""

from dataclasses import dataclass

from statshift.adapting.families import Rule, Writer
from statshift.adapting.protocol import Session
from statshift.adapting.protocols.replace import Replace
from statshift.adapting.registry import WHOLE
from statshift.adapting.sweep import sweep
from statshift.norms.selection import select_layers


@dataclass(frozen=True)
class Full(Writer):
    """Replace what is stored by the statistics of all images, however many they are; see `sweep`.

    Reference:
        Li et al., "Revisiting batch normalization for practical domain adaptation", 2016.
    """

    name = "full"
    family = WHOLE
    summary = "Li et al., 2016: the whole set's statistics, exactly"
    not_streamed = "which needs the whole set at once"

    @property
    def at_once(self) -> Rule:
        """What it is of a set that fits into one forward."""
        return Replace()

    def write(self, session: Session) -> None:
        """Sweep until no layer moves."""
        with session.adapting(session.images):
            layers = select_layers(session.model, session.first(), session.options.where)
            sweep(session.model, session.whole, layers, **session.options.written)
