"""A shift: what is done to images before a model sees them, or which others it sees in their place."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift.data import ImageData
from statshift.tasks.task import Task

T = TypeVar("T", bound="Shift")

CLEAN = "clean"
Table = Literal["imagenet", "cifar"]
Load = Callable[..., ImageData]
"""Loads images as those of the run are loaded: of a spec, a data set or loaded data, and further arguments."""


@dataclass(frozen=True)
class StyleOptions:
    """How the shift `stylised` is made.

    Attributes:
        decoder: a file that `train_decoder` wrote, or pytorch-AdaIN's `decoder.pth`.
        styles: folder of the style images.
        encoder: spec of the model whose decoder it is, by default the one that its file names, or pytorch-AdaIN's
            `vgg_normalised.pth`.
        alpha: how far features go to a style's statistics, in [0,1].
        style_size: side of a style image, px; its central square is taken.
    """

    decoder: str | Path
    styles: str | Path
    encoder: str | Path | None = None
    alpha: float = 1.0
    style_size: int = 256


@dataclass(frozen=True)
class CorruptionOptions:
    """How corruptions are made; see `statshift.corrupt`. The `seed` of `measure` goes before this one.

    `style` is what the shift `stylised` is made by.
    """

    seed: int = 0
    table: Table | None = None
    quantise: bool = True
    reencode: bool = False
    frost: str | Path | None = None
    scale_constants: bool = True
    style: StyleOptions | None = None


class Shift:
    """What happens to images, at some severities; a user's own derives from it and says how, by `make` or by `data`.

    Attributes:
        name: by which rows and tables call it.
        family: family of like shifts: "clean", "corruption", "c-bar", "filter", "style", "natural", "attack", or "own".
            Families stand side by side and are never averaged together.
        title: in a report; the name where there is none.
        severities: integers from 1 to 5, ascending; () is a shift without severities, whose only one is 0.
        options: names of the numbers that its spec gives, as in NAME:EPSILON:STEPS.
        needs_model: the images are made against a model, and anew against each that is adapted.
        reads: the images come from `data`; they are not made of the run's.
        paired: image i is the run's image i, with its label. Else the images, their number and their labels are its
            own, its figures stand alone, and `data` gives them.
        typed: how a command asks for it, where that is not its name.
    """

    name: str
    family: str = "own"
    title: str = ""
    severities: tuple[int, ...] = ()
    options: tuple[str, ...] = ()
    needs_model: bool = False
    reads: bool = False
    paired: bool = True
    typed: str = ""

    def configured(self, spec: str, how: CorruptionOptions) -> "Shift":
        """Return this shift as a user asks for it, by a spec of name and numbers, and with the run's options.

        Raises:
            InputError: no such numbers.
        """
        if spec != self.name:
            raise InputError(f"Expected no numbers for the shift {self.name}, but got {spec!r}.")
        return self

    def spelled(self, spec: str, how: CorruptionOptions) -> "list[Shift]":
        """Return `configured`; several where a spec stands for several."""
        return [self.configured(spec, how)]

    def fitted(self: T, task: Task) -> T:
        """Return the shift as it is where labels are a task's; itself, unless it asks what they mean.

        Raises:
            InputError: the task lacks what it needs.
        """
        return self

    def at(self, levels: Sequence[int]) -> list[int]:
        """Return which of the severities asked for it has, ascending; [0] of one without severities.

        Raises:
            InputError: it has none of them.
        """
        if not self.severities:
            return [0]
        there = [level for level in levels if level in self.severities]
        if not there:
            raise InputError(f"The shift {self.name} has the severities {[*self.severities]}, none of {[*levels]}.")
        return there

    def data(self, severity: int, load: Load) -> ImageData | None:
        """Return the images that are read at a severity, or None where they are made of the run's."""
        return None

    def scored_by(self, task: Task, data: ImageData, *, masked: bool = True) -> Task:
        """Return by which task the images of a shift that is not paired are scored: by default the run's.

        Args:
            task: the run's.
            data: the shift's own images.
            masked: where they lack classes, the logits of these do not count.
        """
        return task

    def with_classes(self, data: ImageData, *, masked: bool) -> "Shift":
        """Return the shift as it is once its own images are read: by default itself."""
        return self

    def beside(self, task: Task, data: ImageData, base: ImageData | None) -> "Shift | None":
        """Return what its figure is to be set against where the run's clean images are not: by default nothing.

        Args:
            task: what `scored_by` returns.
            data: the shift's own images.
            base: the run's clean images; None where the data store shifted ones alone.
        """
        return None

    def told(self, data: ImageData, *, masked: bool) -> Mapping[str, Any]:
        """Return what a record's `sets` says of its own images beside what they are."""
        return {}

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
        """Return images (B,3,H,W) in [0,1] under this shift, of the same shape; the images given may be changed.

        Args:
            images: (B,3,H,W) in [0,1].
            severity: one of its own, or 0.
            seed: seed of its draws.
            indices: (B,) the images' places in their data set, by which draws are addressed.
            labels: (B,...) as the task has them, where they are known.
            model: the one that is attacked; of a shift that needs none it may be None.
        """
        return images

    def quantised(self, images: Tensor) -> Tensor:
        """Return images (B,3,H,W), which may be changed, as they would be stored; by default as they are."""
        return images

    def check(self) -> None:
        """Say what is lacking before the first batch, by a warning or an `InputError`."""

    def describe(self, batch_size: int) -> Mapping[str, Mapping[str, Any]]:
        """Return what a record's sections hold of it; `batch_size` is that of the run."""
        return {}

    def code(self) -> Any:
        """Return what of it is the user's own code, or None of a shift that ships."""
        return None if type(self).__module__.startswith("statshift.") else type(self)

    def numbers(self) -> dict[str, Any]:
        """Return what a record says of the user's own code beside its file: the fields of a dataclass."""
        return numbers_of(self) if self.code() is type(self) else {}


def numbers_of(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that its representation shows; nothing of another value."""
    fields = getattr(value, "__dataclass_fields__", {})
    return {name: getattr(value, name) for name, field in fields.items() if field.repr}


def under(shift: Shift, images: Tensor, severity: int, **given: Any) -> Tensor:
    """Return images (B,3,H,W) in [0,1] under a shift; what a user's own code returns is checked.

    Args:
        shift: any.
        images: left as they are.
        severity: one of those it has.
        given: as for `Shift.make`.

    Raises:
        InputError: a user's code returns another shape or values that are not in [0,1].
    """
    if shift.code() is None:
        return shift.quantised(shift.make(images, severity, **given))
    shifted = shift.make(images.clone(), severity, **given)
    _check_shifted(shifted, images, shift.name)
    shifted = shifted.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return shift.quantised(shifted)


def of_clean_images(shifts: Iterable[Shift]) -> bool:
    """Return whether a run's images are clean ones, of which shifts are made, and none that are stored shifted."""
    return not any(shift.reads and shift.paired for shift in shifts)


def _check_shifted(shifted: Any, images: Tensor, name: str) -> None:
    if not isinstance(shifted, Tensor) or shifted.shape != images.shape:
        found = tuple(shifted.shape) if isinstance(shifted, Tensor) else type(shifted).__name__
        raise InputError(f"Expected the shift {name!r} to return {tuple(images.shape)}, but got {found}.")
    inside = ((shifted >= 0) & (shifted <= 1)).all()
    if shifted.device.type != "cpu":
        torch._assert_async(inside)
    elif not inside:
        low, high = torch.aminmax(shifted.float())
        raise InputError(
            f"Expected the shift {name!r} to return pixels in [0,1], but got values from "
            f"{float(low):.4g} to {float(high):.4g}."
        )
