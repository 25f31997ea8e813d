"""The library names arguments; the command says the flags that give them."""

import re
from collections.abc import Callable
from typing import Any


def in_flags(command: Callable[[], Any], message: str) -> str:
    """Return a message with each argument in backticks as the flag that gives it: `batch_size` is --batch-size.

    Args:
        command: returns the command that was asked for, with its `params`, or None; called only where it matters.
        message: message of the library.
    """
    if "`" not in message:
        return message
    flags = {
        param.name: next((flag for flag in param.opts if flag.startswith("--")), None)
        for param in getattr(command(), "params", ())
    }

    def flag(match: re.Match[str]) -> str:
        return flags.get(match[1]) or match[0]

    return re.sub(r"`(\w+)`", flag, message)
