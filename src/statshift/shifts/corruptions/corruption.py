"""A common corruption as a shift: its function, its constants, and how its images are stored."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError, unknown
from statshift._core.randomness import Draws
from statshift.data.checks import check_images
from statshift.metrics.classification import SEVERITIES
from statshift.shifts.corruptions.constants import TABLES, constants, table_for
from statshift.shifts.corruptions.filters import quantise_
from statshift.shifts.corruptions.jpeg import compress
from statshift.shifts.shift import CorruptionOptions, Shift, Table

SMALLEST = 32  # px, the shorter side
REENCODE_QUALITY = 85  # ImageNet-C is stored as JPEG of this quality
_CACHE = 1 << 20  # values corrupted at once on the CPU, so that the intermediate results stay in cache
_MOST = 1 << 26  # and on a GPU, where a dozen intermediate results of float32 are then 3 GB


@dataclass(frozen=True, eq=False)
class Corruption(Shift):
    """A corruption with constants for five severities.

    Attributes:
        name: name of the corruption.
        function: function of images (B,3,H,W) in [0,1], their `Draws` and the constants; what it returns is clipped.
        tables: the constants of severities 1 to 5 by table, "imagenet" and "cifar"; by default the benchmark's.
        how: which table, and how images are stored.
        title: in a report.
    """

    name: str
    function: Callable[..., Tensor] = field(repr=False)
    tables: Mapping[Table, Sequence[Mapping[str, Any]]] | None = field(default=None, repr=False)
    how: CorruptionOptions = field(default_factory=CorruptionOptions)
    title: str = ""
    family = "corruption"
    severities = SEVERITIES

    def __post_init__(self) -> None:
        for name in ("__module__", "__doc__"):  # where and what it is, as of the function itself
            object.__setattr__(self, name, getattr(self.function, name, None))

    def code(self) -> Any:
        """Return the function where it is a user's own."""
        module = str(getattr(self.function, "__module__", ""))
        return super().code() if module.startswith("statshift.") else self.function

    def numbers(self) -> dict[str, Any]:
        """Return its own constants."""
        return super().numbers() | ({} if self.tables is None else {"tables": self.tables})

    def __call__(self, images: Tensor, draws: Draws, **arguments: Any) -> Tensor:
        """Return images under the function itself, by constants of one's own, neither clipped nor rounded."""
        return self.function(images, draws, **arguments)

    def configured(self, spec: str, how: CorruptionOptions) -> Shift:
        """Return the corruption with the run's options; see `Shift.configured`."""
        super().configured(spec, how)
        return replace(self, how=how)

    def arguments(self, severity: int, size: tuple[int, int], table: Table, device: torch.device) -> dict[str, Any]:
        """Return the constants for images of a size (H,W), and what else the function takes."""
        if self.tables is None:
            return constants(self.name, severity, min(size), table, self.how.scale_constants)
        return dict(self.tables[table][severity - 1])

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
        """Return corrupted images (B,3,H,W) of their dtype and device, in [0,1]; see `statshift.corrupt`."""
        check_severity(severity)
        try:
            seed = operator.index(seed)
        except TypeError:
            raise InputError(f"Expected `seed` to be an integer, but got {seed!r}.") from None
        check_images(images, least=0)
        height, width = images.shape[-2:]
        if images.shape[1] != 3:
            raise InputError(f"Expected images (B,3,H,W), RGB, but got shape {tuple(images.shape)}.")
        if min(height, width) < SMALLEST:
            raise InputError(f"Expected images of at least {SMALLEST} px, but got {height} x {width}.")
        table = self.how.table
        if table is not None and table not in TABLES:
            raise unknown("table", table, TABLES)
        arguments = self.arguments(severity, (height, width), table or table_for(min(height, width)), images.device)
        indices = _checked_indices(indices, images)
        out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        chunk = max(1, (_CACHE if images.device.type == "cpu" else _MOST) // (3 * height * width))
        for start in range(0, len(images), chunk):
            part = slice(start, start + chunk)
            draws = Draws(seed, indices[part], f"{self.name}/{severity}")
            with _full_precision(images.device):
                result = self.function(images[part].float().contiguous(), draws, **arguments)
                out[part] = finish(result, self.how.quantise, self.how.reencode)
        return out.to(images.dtype)


def corruption(function: Callable[..., Tensor]) -> Corruption:
    """Return a function of the benchmark as the corruption of its name."""
    return Corruption(function.__name__, function)


def finish(images: Tensor, quantise: bool, reencode: bool) -> Tensor:
    """Store float32 images as the benchmark does, in place: clipped to [0,1], truncated to 8 bits, as JPEG."""
    images = quantise_(images) if quantise else images.clamp_(0, 1)
    return compress(images, REENCODE_QUALITY) if reencode else images


def _checked_indices(indices: Tensor, images: Tensor) -> Tensor:
    indices = torch.as_tensor(indices)
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise InputError(f"Expected `indices` to be integers, but got {indices.dtype}.")
    if indices.shape != images.shape[:1]:
        raise InputError(f"Expected `indices` of shape ({len(images)},), but got {tuple(indices.shape)}.")
    return indices.to(images.device, torch.int64)


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Keep products in float32, whatever autocast or the caller's matmul precision say."""
    backend = (torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn).matmul
    kept = backend.fp32_precision
    backend.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        backend.fp32_precision = kept


def check_severity(severity: object) -> None:
    """Raise InputError unless `severity` is an integer from 1 to 5."""
    if isinstance(severity, bool) or not isinstance(severity, Integral) or severity not in SEVERITIES:
        raise InputError(f"Expected `severity` to be an integer from 1 to 5, but got {severity!r}.")
