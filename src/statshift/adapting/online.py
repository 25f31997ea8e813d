"""A stream that is answered by a window of its newest images, to which the model is rectified anew."""

import threading
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, cast
from warnings import warn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.copying import copied
from statshift._core.errors import FewImagesWarning, InputError, LeftAloneWarning
from statshift.adapting.monitoring import Monitor, StreamStatus
from statshift.adapting.passes import FEW_IMAGES, rewrite_unchecked
from statshift.adapting.rectify import By, read_options
from statshift.adapting.stepping import Stepping
from statshift.adapting.window import Window
from statshift.data.checks import check_images
from statshift.models import check_input
from statshift.norms.layers import alone, evaluating, keeping_statistics, run, running_norms
from statshift.norms.shrinkage import stored_statistics


class RectifiedStream(Stepping):
    """Answer a stream by a copy of the model that is rectified to the newest images, and anew as they change.

    With "auto" the copy goes as far as the window shows a shift beyond noise, so it is back at the source, or nearly,
    once the shift is gone; a model without batch norm it leaves alone, with a warning. It costs two more forward passes
    of `window` images for every `every` images answered; on the CPU, where a batch is the window, one in all. A batch
    that is all of the window is answered between source and copy, each image by how far it shows the shift that they
    have in common (`Evidence.shares`), for no pass more: that helps where a batch mixes shifts.

    A batch with a value that is not finite is answered by the model as it stands, counted, and does not enter the
    window; it counts towards `every`. Images that the model cannot take raise and leave all as it is; those of another
    size begin a new window.

    Threads may share it: they are answered one after another, each by one window's statistics. Its `state_dict` is all
    that the next answer depends on. Memory is bounded: the copy of the model, its statistics twice more, and `window`
    images of the type that they come in (32 of 224 x 224 px in float32: 19 MB), twice that while it rectifies, beside
    what a forward of so many takes. On a GPU nothing is waited for once the window is full; until then, one flag of
    each batch.

    Args:
        model: left as it is.
        window: how many of the newest images are rectified to.
        every: after how many new images; until `window` images have come, after each batch.
        protocol: see `rectified`.
        **options: of `rectified`.

    Raises:
        InputError: no such protocol or option, or a model without batch norm, by any protocol but "auto".
    """

    def __init__(self, model: nn.Module, window: int = 32, every: int = 32, protocol: By = "auto", **options: Any):
        if window < 1 or every < 1:
            raise InputError(f"Expected `window` and `every` to be at least 1, but got {window} and {every}.")
        self._how = read_options(protocol, options)
        with torch.inference_mode(False):  # what changes is written to outside of it too
            super().__init__(copied(model).eval())
            self.window, self.every = window, every
            self.left_alone: str = self._how["rule"].leaves_alone(self.model)
            self.source = Statistics(self._norms())
            self.monitor = Monitor()
            self.monitor.to(device_of(self.model))
            self.skipped = self.skipped.to(device_of(self.model))
        self.newest = Window(window)
        self._waiting = self._answered = 0
        self._lock = threading.RLock()
        self.eval()
        if self.left_alone:
            warn(f"The model is left alone: {self.left_alone}.", LeftAloneWarning, stacklevel=2)

    @property
    def status(self) -> StreamStatus:
        """What it is doing; on a GPU this waits for the answers so far."""
        with self._lock:
            return self.monitor.status(self._answered, self.skipped, self.newest.fill, self.left_alone)

    def reset(self) -> None:
        """Forget the stream: back to the source."""
        with self._lock:
            self.source.give_back(self._norms())
            self.newest = Window(self.window)
            self._waiting = self._answered = 0
            self.skipped.zero_()
            self.monitor.reset()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,K) for the next images (B,3,H,W), which are in the window already."""
        with self._lock:
            return self._answer(images)

    @torch.no_grad()
    def _answer(self, images: Tensor) -> Tensor:
        check_images(images, in_range=False)
        good = images.isfinite().all()
        check_input(self.model, torch.where(good, images, 0))
        logits = self._plain(images) if self.left_alone else self._rectified(images, good)
        self._answered += len(images)
        self.skipped += good.logical_not()
        return logits

    def _rectified(self, images: Tensor, good: Tensor) -> Tensor:
        newest = self.newest if self.newest.takes(images) else Window(self.window, images)
        known = bool(good) if at_hand(images) or newest.filling else None
        if known is False:
            newest = self.newest
        growing = newest.filling and known is not False
        waiting = self._waiting + len(images)
        due = newest.fill + growing * len(images) >= min(2, self.window) and (growing or waiting >= self.every)
        if due:
            seen = newest.images if known is False else newest.followed_by(images)
            whole = seen is images
            if known is None:
                seen = torch.where(good, seen, newest.images)
            logits = self._rewritten(seen, images, good if whole else None)
        else:
            logits = self._plain(images)
        if known is not False:
            newest.add(images, good)
        self.newest, self._waiting = newest, 0 if due else waiting
        return logits

    def _plain(self, images: Tensor) -> Tensor:
        with evaluating(self.model):
            logits: Tensor = run(self.model, images)
        return logits

    def _rewritten(self, seen: Tensor, images: Tensor, whole: Tensor | None) -> Tensor:
        """Rectify to `seen`, from the source, and answer; where features are not finite, as before.

        Args:
            seen: (n,3,H,W) of the window.
            images: (B,3,H,W) to be answered.
            whole: () bool, whether they are what is seen; None where they cannot be.
        """
        layers = self._norms()
        with alone(layers, nested=True), keeping_statistics(layers, unless_done=True):
            before = Statistics(layers)
            self.source.give_back(layers)
            made = rewrite_unchecked(self.model, seen, **self._how)
            finite, alike = made.finite, made.alike
            before.give_back(layers, where=finite.logical_not())
            self.monitor.note(self._answered + len(images), finite, alike, made.evidence)
            if at_hand(images) and alike is not None and alike:
                warn(FEW_IMAGES, FewImagesWarning, stacklevel=2)
            if whole is None:
                return self._plain(images)
            whole = whole & finite & made.replaced.logical_not()
            used = at_hand(images) and whole and not self._how.get("unbiased")  # by the layers, what is written now
            logits = cast(Tensor, made.output) if used else self._plain(images)
            return cast(Tensor, made.answer(logits, whole)) if self._how["rule"].shared else logits

    def _norms(self) -> dict[str, _BatchNorm]:
        return running_norms(self.model)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return all that the next answer depends on; what the next batch changes, as copies."""
        with self._lock:
            state = super().state_dict(*args, **kwargs)
            for name, _ in self.named_buffers():
                key = kwargs.get("prefix", "") + name
                if key in state:
                    state[key] = state[key].clone()
            return state

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Go on where another stream of the same model, window and protocol has been."""
        with self._lock:
            return super().load_state_dict(*args, **kwargs)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the window, the oldest image first, and how far the stream is."""
        return {"newest": self.newest.images, "answered": self._answered, "waiting": self._waiting}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over the window and how far a stream was."""
        images: Tensor = state["newest"].to(self.skipped.device)
        self.newest = Window(self.window, images)
        self.newest.add(images, torch.ones_like(self.skipped, dtype=torch.bool))
        self._answered, self._waiting = state["answered"], state["waiting"]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lock = threading.RLock()


class Statistics(nn.Module):
    """Copies of the running statistics of some norms, which move and are saved with the module that holds them."""

    def __init__(self, layers: Mapping[str, _BatchNorm]) -> None:
        super().__init__()
        for number, value in enumerate(_running(layers)):
            self.register_buffer(str(number), value.clone())

    def give_back(self, layers: Mapping[str, _BatchNorm], where: Tensor | None = None) -> None:
        """Write the copies into the norms; `where` () bool, if that is so."""
        for kept, value in zip(self.buffers(), _running(layers), strict=True):
            value.copy_(kept if where is None else torch.where(where, kept, value))


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first weight; the CPU where it has none."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))


def at_hand(tensor: Tensor) -> bool:
    """Return whether a tensor can be looked at without waiting for a device."""
    return tensor.device.type == "cpu"


def _running(layers: Mapping[str, _BatchNorm]) -> Iterator[Tensor]:
    for stored in map(stored_statistics, layers.values()):
        yield from (stored.mean, stored.var)
