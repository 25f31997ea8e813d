"""Training under one corruption, the upper bound of a protocol that adapts to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from statshift._core.errors import InputError, unknown
from statshift._core.randomness import keys
from statshift.hardening.batch import Batch, Losses
from statshift.hardening.method import Flag, Method
from statshift.hardening.registry import FROM_SCRATCH
from statshift.shifts.corruptions import CORRUPTIONS, check_severity, corrupt
from statshift.splitting.branches import Branches


def _read(typed: str) -> Mapping[str, Any]:
    """Return the corruption, and the severity if any, of "fog:4"."""
    name, colon, severity = typed.partition(":")
    try:
        return {"corruption": name} | ({"severity": int(severity)} if colon else {})
    except ValueError:
        raise InputError(f"Expected `corruption` as NAME or NAME:SEVERITY, but got {typed!r}.") from None


@dataclass(frozen=True)
class Corrupted(Method):
    """Train on images under one corruption, drawn anew each epoch.

    Attributes:
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.

    Raises:
        InputError: no corruption, or one that there is not.

    Reference:
        Benz et al., WACV 2021, section 6.4, Table 8.
    """

    name = "corrupted"
    family = FROM_SCRATCH
    summary = "images under one corruption, the upper bound of Benz et al., WACV 2021, section 6.4"
    title = "corruption-trained"
    flags = (Flag("corruption", "corruption", _read),)

    corruption: str = ""
    severity: int = 3

    def __post_init__(self) -> None:
        if not self.corruption:
            raise InputError("Expected `corruption`, which the method corrupted trains on.")
        if self.corruption not in CORRUPTIONS:
            raise unknown("corruption", self.corruption, CORRUPTIONS)
        check_severity(self.severity)

    def losses(self, branches: Branches, batch: Batch) -> Losses:
        """Return the loss of the corrupted images."""
        draws = batch.draws_on_device
        seed = int(keys(draws.seed, torch.zeros(1, dtype=torch.int64), draws.scope)[0, 0])
        images = corrupt(batch.images.contiguous(), self.corruption, self.severity, seed=seed, indices=draws.indices)
        if batch.images.is_contiguous(memory_format=torch.channels_last):
            images = images.contiguous(memory_format=torch.channels_last)
        return {"clean": batch.targets.loss(branches.suffix(branches.prefix(images), "clean"))}

    def describe(self) -> dict[str, Any]:
        """Return the corruption."""
        return {"corruption": {"name": self.corruption, "severity": self.severity}}
