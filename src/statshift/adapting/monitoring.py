"""What a stream that is rectified tells of itself, kept where the model is and read only when asked for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NO_SHIFT = "no shift beyond noise reaches the last layers"
TOO_ALIKE = "the images of the window are alike, of one class, or show nothing"
NOT_FINITE = "the features of the window are not finite"
TOO_FEW = "there are not two images yet"


@dataclass(frozen=True)
class StreamStatus:
    """What a `RectifiedStream` is doing.

    Attributes:
        images: answered since it began.
        skipped: batches that were not adapted to, for a value that is not finite.
        window: images in the window.
        shift: of the window, in the last third of the layers of the untouched model, root-mean-square, in units of
            sampling noise; 1 is none. None before the first time, and by a protocol that does not look at it.
        weight: in [0,1], how far the model is moved to the target where a layer's own noise does not hold it back: the
            mean of what persists and what is certain. None likewise.
        agreeing: in [0,1], how far the classes that the untouched model predicts for different images of it agree
            beyond chance. None likewise.
        since: how many images had been answered when the present shift was first seen, or was first seen to be gone.
        left_alone: why the model is as it was, or stays at an earlier window; "" if it is moved.
    """

    images: int
    skipped: int
    window: int
    shift: float | None
    weight: float | None
    agreeing: float | None
    since: int
    left_alone: str


class Monitor(nn.Module):
    """Keep what the rectifications of a stream told, on their device.

    Attributes:
        told: (3,) whether anything was, whether the last could be used, and whether its images were alike.
        looked: (3,) the `shift`, `weight` and `agreeing` of the last that could be used; NaN where nothing is known.
        since: () as in `StreamStatus`.
    """

    told: Tensor
    looked: Tensor
    since: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("told", torch.zeros(3, dtype=torch.bool))
        self.register_buffer("looked", torch.full((3,), torch.nan))
        self.register_buffer("since", torch.zeros((), dtype=torch.long))

    def reset(self) -> None:
        """Forget it."""
        self.told.zero_()
        self.looked.fill_(torch.nan)
        self.since.zero_()

    def note(self, images: int, finite: Tensor, alike: Tensor | None, evidence: Mapping[str, Any]) -> None:
        """Note what a rectification told.

        Args:
            images: answered so far, with this batch.
            finite: () bool, whether it could be used; if not, the model is as before.
            alike: () bool, whether the images are alike, if that was looked at.
            evidence: as `Rewritten` has it.
        """
        same = torch.zeros_like(finite) if alike is None else alike
        self.told.copy_(torch.stack([torch.ones_like(finite), finite, same]))
        if not evidence:
            return
        weight = (evidence["persisting"] + evidence["certain"]) / 2
        looked = torch.stack([evidence["shift"], weight, evidence["agreeing"]]).to(self.looked)
        turned = finite & ((looked[1] > 0) != (self.looked[1] > 0))
        self.since.copy_(torch.where(turned, images, self.since))
        self.looked.copy_(torch.where(finite, looked, self.looked))

    def status(self, images: int, skipped: Tensor, window: int, left_alone: str) -> StreamStatus:
        """Return all that is known.

        Args:
            images: answered so far.
            skipped: () batches.
            window: images in it.
            left_alone: why the model cannot be moved; "" if it can.
        """
        told, finite, alike = self.told.tolist()
        shift, weight, agreeing = (None if math.isnan(value) else value for value in self.looked.tolist())
        return StreamStatus(
            images=images,
            skipped=int(skipped),
            window=window,
            shift=shift,
            weight=weight,
            agreeing=agreeing,
            since=int(self.since),
            left_alone=left_alone or _why(told, finite, alike, weight),
        )


def _why(told: bool, finite: bool, alike: bool, weight: float | None) -> str:
    if not told:
        return TOO_FEW
    if not finite:
        return NOT_FINITE
    if alike:
        return TOO_ALIKE
    return NO_SHIFT if weight == 0 else ""
