"""What a recipe is run with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from statshift.adapting.choosing import Protocols
from statshift.data import ImageData
from statshift.hardening.training import Step
from statshift.measuring.loading import Dtype
from statshift.measuring.progress import Progress
from statshift.models import PixelModel
from statshift.shifts.conditions import Shifts

Makes = str | Callable[[], PixelModel]
"""A model's spec, or what makes a fresh one."""

DataOrSpec = str | Dataset[Any] | ImageData
"""Data, or their spec."""


@dataclass(frozen=True)
class RunOptions:
    """What a recipe is run with; see `run_recipe`, whose arguments these are."""

    model: Makes | None = None
    data: DataOrSpec | None = None
    out: str | Path | None = None
    validation: DataOrSpec | None = None
    shifts: Shifts | None = None
    severities: Sequence[int] | None = None
    rectify: Protocols | None = None
    against: str | ImageData | None = None
    batch_size: int | None = None
    device: str | torch.device = "auto"
    dtype: Dtype | None = None
    compiled: bool = False
    seed: int = 0
    model_args: Mapping[str, Any] | None = None
    data_options: Mapping[str, Any] | None = None
    training_progress: Callable[[str], Callable[[Step], None]] | None = None
    measuring_progress: Callable[[str], Callable[[Progress], None]] | None = None

    @property
    def folder(self) -> Path:
        """Where results are written."""
        assert self.out is not None
        return Path(self.out)
