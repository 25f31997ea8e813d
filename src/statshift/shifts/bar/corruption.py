"""A corruption of C-bar as a shift."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from statshift.shifts.bar.constants import bar_constants
from statshift.shifts.corruptions.corruption import Corruption
from statshift.shifts.shift import Table


class BarCorruption(Corruption):
    """A corruption whose function takes a level, from 0 to 10, and the side by which its lengths grow."""

    family = "c-bar"

    def arguments(self, severity: int, size: tuple[int, int], table: Table, device: torch.device) -> dict[str, Any]:
        """Return the level, and the side in px."""
        return bar_constants(self.name, severity, min(size), table, self.how.scale_constants)


def bar_corruption(function: Callable[..., Tensor]) -> BarCorruption:
    """Return a function as the corruption of its name."""
    return BarCorruption(function.__name__, function)


def axes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows (H,1) and the columns (1,W) of images, in pixels."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, dtype=torch.float32, device=images.device)
    columns = torch.arange(width, dtype=torch.float32, device=images.device)
    return rows[:, None], columns[None]


def plane(values: Tensor) -> Tensor:
    """Return one number for each image (B,) as (B,1,1), beside its pixels."""
    return values[:, None, None]
