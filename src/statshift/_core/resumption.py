"""The state of a training, or of a stream, in one file, and a stop that waits until it is written."""

import io
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from statshift._core.errors import InputError
from statshift._core.files import replacing
from statshift._core.identity import differing, flat


class Stateful(Protocol):
    """What has a state dict: a module, an optimiser, a gradient scaler."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Take a state over."""


class Checkpoint:
    """A file that is replaced atomically and read as data; without a path there is none.

    Args:
        path: the file.
        identity: what it must have been made with, to be read; plain data, nested by name.
        parts: whose states it holds, by name.
        of: what is kept, for messages.
    """

    def __init__(
        self, path: Path | None, identity: Mapping[str, Any], parts: Mapping[str, Stateful], of: str = "training"
    ) -> None:
        self._path, self._identity, self._parts, self._kind = path, dict(identity), dict(parts), of
        self._written = time.monotonic()

    def is_due(self, seconds: float) -> bool:
        """Tell whether it was written as long ago."""
        return self._path is not None and time.monotonic() - self._written >= seconds

    def write(self, state: Mapping[str, Any]) -> None:
        """Write the parts' states and `state`, plain data.

        Raises:
            InputError: it cannot be written; an earlier one is kept.
        """
        if self._path is None:
            return
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        buffer = io.BytesIO()
        torch.save({"identity": self._identity, "parts": parts, "state": dict(state)}, buffer)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as partial:
                partial.write_bytes(buffer.getbuffer())
        except OSError as error:
            kept = f"; the state of an earlier step is kept in {self._path}" if self._path.exists() else ""
            raise InputError(f"Cannot write {self._path}: {error.strerror or error}{kept}.") from error
        self._written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """Return what was written; None if there is no file.

        Raises:
            InputError: a damaged file, one of another kind, or one that was made with something else.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            content = torch.load(self._path, map_location="cpu", weights_only=True)
            theirs = flat(content["identity"])
            if content["parts"].keys() != self._parts.keys() or not isinstance(content["state"], dict):
                raise KeyError
        except Exception as error:  # a damaged file makes the reader raise anything
            raise InputError(
                f"Cannot read {self._path}: it is damaged, or no checkpoint of a {self._kind}. Remove it to begin anew."
            ) from error
        if names := differing(theirs, flat(self._identity)):
            raise InputError(
                f"{self._path} is of another {self._kind}: it differs in {', '.join(names[:3])}. Choose another "
                "folder, or remove it."
            )
        return dict(content)

    def restore(self, content: dict[str, Any]) -> dict[str, Any]:
        """Give the parts their states back, and return the state that was written with them.

        Raises:
            InputError: states that do not fit.
        """
        try:
            for name, part in self._parts.items():
                part.load_state_dict(content["parts"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(f"{self._path} is of another {self._kind}: {str(error).partition(':')[0]}.") from error
        return dict(content["state"])


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Let Ctrl-C and SIGTERM wait for the step at work, so that a checkpoint can be written; a second does not wait."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
