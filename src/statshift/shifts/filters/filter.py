"""A photo filter as a shift: its steps, on images as they are stored."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift.data.checks import check_images
from statshift.shifts.filters.levels import TOP
from statshift.shifts.filters.steps import Steps, merged, stepped
from statshift.shifts.shift import Shift

_CACHE = 3 * 224 * 224  # values filtered at once by a thread of the CPU, so that the intermediate results stay in cache
_MOST = 1 << 26  # and on a GPU


@dataclass(frozen=True, eq=False)
class Filter(Shift):
    """A filter without severities; an image's pixels depend on that image alone.

    Attributes:
        name: as the package that defines it names it.
        steps: in order; see `statshift.shifts.filters.steps`.
    """

    name: str
    steps: Steps = field(repr=False)
    family = "filter"

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", merged(self.steps))

    @torch.no_grad()
    def make(
        self,
        images: Tensor,
        severity: int,
        *,
        seed: int,
        indices: Tensor,
        labels: Tensor | None = None,
        model: nn.Module | None = None,
    ) -> Tensor:
        """Return filtered images (B,3,H,W) of their dtype and device, in [0,1]: multiples of 1/255.

        Every step works on 8-bit levels, and so the images given are rounded to them first.

        Raises:
            InputError: images that are not RGB, or on the CPU values that are not in [0,1].
        """
        check_images(images, least=0)
        if images.shape[1] != 3:
            raise InputError(f"Expected images (B,3,H,W), RGB, but got shape {tuple(images.shape)}.")
        out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        most = _CACHE * torch.get_num_threads() if images.device.type == "cpu" else _MOST
        chunk = max(1, most // max(1, images[:1].numel()))
        for start in range(0, len(images), chunk):
            part = slice(start, start + chunk)
            levels = (images[part].float() * TOP).round_().contiguous()
            torch.div(stepped(self.steps, levels), TOP, out=out[part])
        return out.to(images.dtype)
