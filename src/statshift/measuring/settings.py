"""What a caller asks of a measurement, checked as far as it can be without model and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from statshift._core.errors import InputError, unknown
from statshift.adapting.choosing import Protocols
from statshift.adapting.options import AdaptationOptions
from statshift.data import ImageData
from statshift.measuring.loading import Dtype, dtype_name
from statshift.shifts.conditions import Shifts
from statshift.shifts.groups import NamedShifts
from statshift.shifts.shift import CorruptionOptions
from statshift.tasks.task import Task

MOST_EXAMPLES = 64


@dataclass(frozen=True)
class Wanted:
    """What is asked for, beside model and data; the arguments of `measure` by these names."""

    shifts: Shifts | None
    severities: Sequence[int]
    rectify: Protocols
    adaptation: AdaptationOptions
    options: CorruptionOptions
    corrupt_at: str
    data_options: Mapping[str, Any]
    ligs: Sequence[str]
    examples: int
    task: str | Task | None = None
    groups: str | Path | NamedShifts | None = None
    full_argmax: bool = False
    stream: str | None = None
    clean_data: str | Dataset[Any] | ImageData | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.examples <= MOST_EXAMPLES:
            raise InputError(f"Expected `examples` from 0 to {MOST_EXAMPLES}, but got {self.examples}.")
        if self.corrupt_at not in ("benchmark", "model"):
            raise unknown("place of corruption", self.corrupt_at, ["benchmark", "model"])


@dataclass(frozen=True)
class Setup:
    """How the model runs; the arguments of `measure` by these names."""

    batch_size: int | None
    device: str | torch.device
    dtype: Dtype
    compiled: bool
    fast: bool = False

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"Expected `batch_size` to be at least 1, but got {self.batch_size}.")
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
