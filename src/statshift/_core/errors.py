"""Bad input, told in one line; and what is told without stopping, each kind by a class of its own."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Input that cannot be used; the message is one line that names the value and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """

    @property
    def lines(self) -> str:
        """The message as the command line prints it."""
        return " ".join(str(self).split())


class NoGradientError(InputError):
    """A model whose loss does not depend on its pixels, so that gradients say nothing of it."""


class StatshiftWarning(UserWarning):
    """What goes on all the same but should be known; every warning of the library is one, so filters go by class."""


class FewImagesWarning(StatshiftWarning):
    """Images that are copies of one another, or nearly, and so tell next to nothing of a shift."""


class SkippedLayerWarning(StatshiftWarning):
    """Norm layers that are not rectified, beside others that are."""


class LeftAloneWarning(StatshiftWarning):
    """A model that a protocol leaves as it is, since it has nothing that could safely be adapted."""


class ProbabilitiesWarning(StatshiftWarning):
    """A model that answers probabilities where logits are expected."""


class RandomAnswersWarning(StatshiftWarning):
    """A model that answers the same image differently each time."""


class DefaultPreprocessingWarning(StatshiftWarning):
    """A user's own model that is taken to want ImageNet's mean and deviation, since none were given."""


class BackboneWarning(StatshiftWarning):
    """Weights of a backbone alone, so that what lies behind it stays random."""


class CheckpointWarning(StatshiftWarning):
    """What a checkpoint holds beside the weights that were loaded: another set of norms, or its own normalisation."""


class ClassesWarning(StatshiftWarning):
    """Labels that may mean other classes than the model's, or a model near chance."""


class DataWarning(StatshiftWarning):
    """Files passed by, fewer images than asked for, or stand-ins for what is not there."""


class MemoryWarning(StatshiftWarning):
    """Memory that ran out, so that batches are smaller from then on."""


class ReportWarning(StatshiftWarning):
    """What a report or a directory of examples lacks."""


MOST = 30
"""How many choices an error names."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> InputError:
    """Return the error for a name that is not among `choices`: it lists them, the nearest first named."""
    choices = list(choices)
    near = get_close_matches(str(name).lower(), choices, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    more = f", ... ({len(choices)} in all)" if len(choices) > MOST else ""
    return InputError(f"Unknown {kind} {name!r}.{hint} Choose from: {', '.join(choices[:MOST])}{more}.")
