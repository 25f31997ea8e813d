"""Bad input, told in one line."""

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


class FewImagesWarning(UserWarning):
    """Images that are copies of one another, or nearly, and so tell next to nothing of a shift."""


MOST = 30
"""How many choices an error names."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> InputError:
    """Return the error for a name that is not among `choices`: it lists them, the nearest first named."""
    choices = list(choices)
    near = get_close_matches(str(name).lower(), choices, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    more = f", ... ({len(choices)} in all)" if len(choices) > MOST else ""
    return InputError(f"Unknown {kind} {name!r}.{hint} Choose from: {', '.join(choices[:MOST])}{more}.")
