"""A task: everything that depends on what a label is. Nothing outside `statshift.tasks` asks which one it has."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from statshift._core.errors import InputError
from statshift.tasks.figures import (
    Difference,
    Figure,
    Paired,
    bootstrap,
    normal_test,
    percentiles,
    score_of,
)
from statshift.tasks.labelled import Labelled
from statshift.tasks.row import Array, Row
from statshift.tasks.targets import Loss, LossByImage

Results = tuple[Any, ...]
"""A named tuple of what is kept of each image's logits: tensors, or arrays, that all begin with B."""


class Task(Labelled, ABC):
    """What labels are, what is kept of logits, and what a score is.

    A task of one's own says what `per_image` keeps, what the `score` of its sums is, and, to train, its `losses`.
    All else has a default: intervals and tests resample images, so that a ratio of sums, such as mIoU, has them too.

    Attributes:
        name: in records, and for a task that ships in `statshift.tasks.registry`.
        family: family of like tasks.
        headline: what the score is called, in [0,1] of which 1 is best; the name of its fields in a summary.
        measure_names: what a summary tells of each condition; the headline and "error", 1 less it, among them.
        counts_images: whether the score is the share of images that are right, as a report's sentences have it.
        meaning: what the score is of the images, as a report explains it.
        test: the test of `paired`, as a report names it.
        class_score: what `class_scores` are called; "" for none.
        shows_maps: whether truth and answers are maps of classes, which a report shows as pictures.
        training_images: what an advised command names for the images of a training.
        picture_side: px; larger example images are stored reduced to it.
        alexnets: tables of AlexNet's errors that its errors may be divided by.
    """

    name: ClassVar[str]
    family: ClassVar[str] = "own"
    headline: ClassVar[str] = "score"
    counts_images: ClassVar[bool] = False
    meaning: ClassVar[str] = "The score of the images"
    test: ClassVar[str] = "the normal one, with the deviation over resamples of the images"
    class_score: ClassVar[str] = ""
    shows_maps: ClassVar[bool] = False
    training_images: ClassVar[str] = "folder:TRAIN"
    picture_side: ClassVar[int] = 128
    alexnets: ClassVar[tuple[str, ...]] = ()

    @property
    def measure_names(self) -> tuple[str, ...]:
        """Names of what `measures` returns."""
        return (self.headline, "error")

    def describe(self) -> dict[str, Any]:
        """Return name and options for a record."""
        held: Any = self
        options = {one.name: getattr(held, one.name) for one in fields(held)} if is_dataclass(held) else {}
        return {"name": self.name, "options": options}

    # what takes gradients of pixels

    def check_gradients(self, what: str) -> None:
        """Check that `what` can be had, which needs the loss of each image.

        Raises:
            InputError: the task has no `losses`.
        """
        if type(self).losses is Task.losses and type(self).targets is Task.targets:
            raise InputError(f"Expected a task with `losses` for {what}, but {self.name} has none: leave it out.")

    def check_margins(self, what: str) -> None:
        """Check that `what` can be had, which needs the margin of each image.

        Raises:
            InputError: the task has no `margins`.
        """
        if type(self).margins is Task.margins:
            raise InputError(f"Expected a task with `margins` for {what}, but {self.name} has none: attack by pgd.")

    def check_one_class(self, what: str) -> None:
        """Check that `what` can be had, which needs one class an image among all that the logits have.

        Raises:
            InputError: it cannot.
        """
        raise InputError(
            f"Expected one class an image for {what}, but the task is {self.name}: attack by fgsm, pgd-linf or pgd-l2, "
            "without a target."
        )

    # results

    @abstractmethod
    def per_image(self, logits: Tensor, labels: Tensor) -> Results:
        """Reduce logits (B,...) and labels (B,...) to a named tuple of tensors (B,...), on the same device."""

    def count(self, results: Results, labels: NDArray[np.int64], classes: int) -> dict[str, Any]:
        """Return what a row stores of its images, in JSON types: by default all that `per_image` kept.

        Args:
            results: arrays (N,...) of what `per_image` returns.
            labels: (N,...).
            classes: how many `class_counts` there are in `describe_labels`.

        Raises:
            FloatingPointError: something is not finite; its message says for how many images.
        """
        columns = [np.asarray(one, np.float64).reshape(len(one), -1) for one in results]
        table = np.concatenate(columns, axis=1)
        broken = int((~np.isfinite(table)).any(axis=1).sum())
        if broken:
            raise FloatingPointError(f"{broken} of {len(table)}")
        return {"images": len(table), "statistics": table.tolist()}

    def left(self, labels: NDArray[np.int64], classes: int) -> dict[str, Any]:
        """Return what else a row stores that leaves images out; `labels` are those of the images kept."""
        return {}

    def shown(self, results: Results, examples: NDArray[np.int64], seen: NDArray[np.bool_]) -> dict[str, Any]:
        """Return what a row stores of example images, at positions (n,), where they are `seen` (n,): not left out."""
        return {}

    def shown_map(self, stored: Any, size: Sequence[int]) -> NDArray[np.uint8]:
        """Return classes (h,w) of one of the texts in `shown` or `pictured`, of an image of a size (H,W).

        Raises:
            ValueError: it is damaged.
        """
        raise ValueError(f"the task {self.name} has no maps")

    # of a row

    def statistics(self, row: Row) -> Array:
        """Return (M,S), numbers of each image that add up; `score` is of their sums."""
        stored: dict[str, Any] = {**row}
        return np.asarray(stored["statistics"], np.float64)

    @abstractmethod
    def score(self, sums: Array, images: Array) -> Array:
        """Return scores (...) in [0,1], of which 1 is best, for sums (...,S) over numbers of images (...)."""

    def measures(self, row: Row) -> dict[str, float]:
        """Return what a summary tells of a row, by `measure_names`."""
        score = float(self.score(self.statistics(row).sum(0), np.asarray(row["images"], np.float64)))
        return {self.headline: score, "error": 1 - score}

    def check_row(self, row: Row) -> None:
        """Check that what a row stores fits together.

        Raises:
            ValueError: it does not.
        """
        if len(self.statistics(row)) != row["images"]:
            raise ValueError(
                f"in the row of {row['shift']} {row['severity']}: it is not over its {row['images']} images"
            )

    def restricted(self, row: Row, kept: NDArray[np.bool_]) -> dict[str, Any]:
        """Return what `statistics` needs of a row, of those of its images (M,) that are kept."""
        return {"statistics": self.statistics(row)[kept].tolist()}

    def per_class(self, draws: Sequence[Row], counts: Sequence[int] | None) -> dict[str, Any]:
        """Return what a summary tells of the clean images beside the measures; `draws` may be empty."""
        return {}

    def class_scores(self, draws: Sequence[Row]) -> Array | None:
        """Return (K,) scores of the classes in one condition, NaN of those absent, draws averaged; None of no such."""
        return None

    def doubt(self, row: Row, width: int) -> str | None:
        """Return what is strange about the clean images' row where logits have `width` classes, if anything is."""
        return None

    # how sure

    def interval(self, figure: Figure) -> tuple[float, float]:
        """Return a figure's 95 % interval."""
        (values,) = bootstrap([figure], self.statistics, self.score)
        return percentiles(values[1:], _images(figure))

    def condition_interval(self, draws: Sequence[Row]) -> tuple[float, float]:
        """Return the 95 % interval of the score of one condition, draws averaged."""
        return self.interval(score_of(draws))

    def difference(self, first: Figure, second: Figure) -> Difference:
        """Return two figures over the same images, and the 95 % interval for second less first."""
        before, after = bootstrap([first, second], self.statistics, self.score)
        bounds = percentiles((after - before)[1:], _images(first))
        return Difference(float(before[0]), float(after[0]), *bounds)

    def paired(self, pairs: Sequence[tuple[Row, Row]]) -> Paired:
        """Return what sets two runs apart in one condition, from a pair of rows for each draw."""
        first, second = (score_of(side) for side in zip(*pairs, strict=True))
        before, after = bootstrap([first, second], self.statistics, self.score)
        changes = after - before
        bounds = percentiles(changes[1:], _images(first))
        difference = Difference(float(before[0]), float(after[0]), *bounds)
        return Paired(difference, *self.alone(pairs), normal_test(float(changes[0]), changes[1:]))

    def alone(self, pairs: Sequence[tuple[Row, Row]]) -> tuple[int, int]:
        """Return of how many images the first row, and of how many the second, has the higher score."""
        sides = [[self.image_scores(row) for row in side] for side in zip(*pairs, strict=True)]
        first, second = (np.concatenate(side) for side in sides)
        return int((first > second).sum()), int((second > first).sum())

    def image_scores(self, row: Row) -> Array:
        """Return (M,), the score of each image alone."""
        statistics = self.statistics(row)
        return self.score(statistics, np.ones(len(statistics)))

    # training

    def targets(self, labels: Tensor, soft: Tensor | None = None, views: int = 1) -> Loss:
        """Return what to train towards: labels (B,...), or `soft` in their place, of so many views of each image.

        Raises:
            InputError: labels are mixed, which a task's own `losses` do not know.
        """
        if soft is not None:
            raise InputError(f"The task {self.name} does not train on mixed labels: give it `targets`, or no cutmix.")
        return LossByImage(labels, self.losses, views)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss (B,) of each image that a training lowers and an attack raises."""
        raise InputError(f"The task {self.name} has no loss to train by: give it `losses`.")

    def margins(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return (B,), by how much wrong answers exceed the right ones, which an attack on the margin raises."""
        raise InputError(f"The task {self.name} has no margin to attack by: give it `margins`.")

    def soft(self, labels: Tensor, width: int) -> Tensor:
        """Return labels (B,...) as shares (B,K) of classes, which cutmix mixes."""
        raise InputError(f"The task {self.name} has no labels that mix: choose another augmentation than cutmix.")


def _images(figure: Figure) -> int:
    row = figure.parts[0][0]
    return row["images"] + len(row.get("left_out", []))
