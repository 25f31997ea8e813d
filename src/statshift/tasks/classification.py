"""Classification: one class an image, logits (B,K); top-1 and top-5 accuracy, cross-entropy, calibration."""

import base64
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F

from statshift._core.errors import InputError
from statshift.data import ImageData
from statshift.data.checks import check_classes, checked_labels
from statshift.metrics.alexnet import ALEXNET
from statshift.metrics.classification import calibration_bins, calibration_error
from statshift.metrics.uncertainty import mcnemar, wilson_interval
from statshift.models import class_logits
from statshift.tasks.figures import Paired
from statshift.tasks.mean import MeanTask
from statshift.tasks.row import Row
from statshift.tasks.statistics import ImageStatistics, image_statistics
from statshift.tasks.targets import Targets, margin
from statshift.tasks.task import Results


@dataclass(frozen=True)
class Classification(MeanTask):
    """Labels (N,) int64 from 0, each a class of the logits."""

    name: ClassVar[str] = "classification"
    family: ClassVar[str] = "classification"
    headline: ClassVar[str] = "accuracy"
    counts_images: ClassVar[bool] = True
    meaning: ClassVar[str] = "Share classified rightly of the images"
    test: ClassVar[str] = "McNemar's exact one"
    alexnets: ClassVar[tuple[str, ...]] = tuple(ALEXNET)

    @property
    def measure_names(self) -> tuple[str, ...]:
        """What is averaged over draws, severities and shifts alike."""
        return ("accuracy", "error", "top5_accuracy", "cross_entropy", "calibration_error")

    def width(self, logits: Tensor) -> int:
        """Return K of logits (B,K)."""
        return class_logits(logits).shape[1]

    def check_labels(self, data: ImageData, width: int | None) -> None:
        """Check that the labels are one an image and among the model's classes."""
        check_labels(data, width)

    def doubt_labels(self, data: ImageData, width: int) -> str | None:
        """Return that the data have other classes than the model, where they have."""
        if data.source.groups:
            return (
                f"Classes of {data.spec} stand for several of the model's, of which the first alone counts as right: "
                "measure it as a shift."
            )
        if data.classes in (None, width):
            return None
        return (
            f"{data.spec} has {data.classes} classes and the model {width}: labels are taken to be the model's first "
            f"{data.classes} classes; if they are others, map them with `class_map`."
        )

    def describe_labels(self, data: ImageData) -> dict[str, Any]:
        """Return a hash of the labels, the number of classes, and the images of each."""
        assert data.labels is not None
        return {
            **super().describe_labels(data),
            "classes": data.classes or int(data.labels.max()) + 1,
            "class_counts": np.bincount(data.labels, minlength=data.classes or 0).tolist(),
        }

    def checked_labels(self, labels: Any, images: Tensor, width: int | None = None) -> Tensor:
        """Return labels (B,) as int64."""
        found = checked_labels(labels, images)
        if width is not None:
            check_classes(found, width)
        return found

    def check_one_class(self, what: str) -> None:
        """Every image has one."""

    def per_image(self, logits: Tensor, labels: Tensor) -> ImageStatistics:
        """Return `image_statistics`."""
        return image_statistics(logits, labels)

    def count(self, results: Results, labels: npt.NDArray[np.int64], classes: int) -> dict[str, Any]:
        """Return counts, sums, bins of confidence, and a bit per image."""
        correct, correct_top5, cross_entropy, confidence, _ = results
        images = len(labels)
        broken = images - int(np.isfinite(cross_entropy).sum())
        if broken:
            raise FloatingPointError(f"{broken} of {images}")
        bin_counts, bin_correct, confidence_sums = calibration_bins(confidence, correct)
        return {
            "images": images,
            "correct": int(correct.sum()),
            "correct_top5": int(correct_top5.sum()),
            "cross_entropy_sum": math.fsum(cross_entropy),
            "class_correct": np.bincount(labels[correct], minlength=classes).tolist(),
            "calibration": {
                "counts": bin_counts.tolist(),
                "correct": bin_correct.tolist(),
                "confidence_sums": confidence_sums.tolist(),
            },
            "bits": _packed(correct),
        }

    def left(self, labels: npt.NDArray[np.int64], classes: int) -> dict[str, Any]:
        """Return how many images of each class are left."""
        return {"class_images": np.bincount(labels, minlength=classes).tolist()}

    def shown(self, results: Results, examples: npt.NDArray[np.int64], seen: npt.NDArray[np.bool_]) -> dict[str, Any]:
        """Return predicted class and confidence of example images, None of those left out.

        Confidence is rounded: its last digits depend on the batch.
        """
        *_, confidence, predicted = (field[examples] for field in results)
        return {
            "predicted": [int(label) if known else None for label, known in zip(predicted, seen, strict=True)],
            "confidence": [round(float(p), 4) if known else None for p, known in zip(confidence, seen, strict=True)],
        }

    def statistics(self, row: Row) -> npt.NDArray[np.float64]:
        """Return (M,1): whether each image was right."""
        return self.image_values(row)[:, None].astype(np.float64)

    def image_values(self, row: Row) -> npt.NDArray[np.bool_]:
        """Return whether each image was right, bool (M,)."""
        return bits(row)

    def measures(self, row: Row) -> dict[str, float]:
        """Return the measures from the row's counts."""
        stored: dict[str, Any] = {**row}
        images, bins = row["images"], stored["calibration"]
        values = (
            stored["correct"] / images,
            (images - stored["correct"]) / images,
            stored["correct_top5"] / images,
            stored["cross_entropy_sum"] / images,
            calibration_error(bins["counts"], bins["correct"], bins["confidence_sums"]),
        )
        return dict(zip(self.measure_names, values, strict=True))

    def restricted(self, row: Row, kept: npt.NDArray[np.bool_]) -> dict[str, Any]:
        """Return the bits of the images kept."""
        return {"bits": _packed(bits(row)[kept])}

    def check_row(self, row: Row) -> None:
        """Check that the bits are what is counted."""
        if int(bits(row).sum()) != _stored(row)["correct"]:
            raise ValueError(f"in the row of {row['shift']} {row['severity']}: its bits are not its count")

    def per_class(self, draws: Sequence[Row], counts: Sequence[int] | None) -> dict[str, Any]:
        """Return the accuracy of each class, None of one without an image."""
        accuracies = None
        if draws and counts:
            correct = np.sum([_stored(row)["class_correct"] for row in draws], axis=0).tolist()
            images = np.sum([row.get("class_images", counts) for row in draws], axis=0).tolist()
            accuracies = [n / count if count else None for n, count in zip(correct, images, strict=True)]
        return {"per_class_accuracy": accuracies}

    def choices(self, width: int) -> int:
        """Return among how many classes the model chooses, of logits so wide."""
        return width

    def doubt(self, row: Row, width: int) -> str | None:
        """Return that the accuracy is hardly above that of guessing, where it is."""
        classes, correct = self.choices(width), _stored(row)["correct"]
        low, _ = wilson_interval(correct, row["images"])
        if float(low) >= 1 / classes + 0.05 * (1 - 1 / classes):
            return None
        return (
            f"Clean accuracy is {correct / row['images']:.1%} with {classes} classes, near chance: are the "
            "weights trained ones (`weights`), do the labels mean the model's classes (`class_map`), and are `mean` "
            "and `std` those of the training?"
        )

    def condition_interval(self, draws: Sequence[Row]) -> tuple[float, float]:
        """Return Wilson's interval; draws share their images and are no further evidence."""
        low, high = wilson_interval(fmean(_stored(row)["correct"] for row in draws), draws[0]["images"])
        return float(low), float(high)

    def paired(self, pairs: Sequence[tuple[Row, Row]]) -> Paired:
        """Return what sets two runs apart; of one draw the test is McNemar's."""
        found = super().paired(pairs)
        if len(pairs) > 1:
            return found
        return Paired(found.difference, *mcnemar(*map(bits, pairs[0])))

    def targets(self, labels: Tensor, soft: Tensor | None = None, views: int = 1) -> Targets:
        """Return the cross-entropy's targets."""
        return Targets(labels, soft, views)

    def margins(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return `margin`, as far as it may be."""
        return margin(logits, labels)

    def soft(self, labels: Tensor, width: int) -> Tensor:
        """Return one-hot labels (B,K)."""
        return F.one_hot(labels, width)


CLASSIFICATION = Classification()
"""The default task."""


def check_labels(data: ImageData, num_classes: int | None) -> None:
    """Check that the labels are one an image and among the model's classes; unknown labels or classes pass.

    Raises:
        InputError: they are not integers (N,), one is `num_classes` or more, or there is one class.
    """
    if data.labels is None:
        return
    if data.labels.ndim != 1:
        raise InputError(
            f"Expected one label for each image of {data.spec}, but got labels of shape {data.labels.shape}: name the "
            "task that they are of."
        )
    if num_classes == 1:
        raise InputError(
            "Expected logits (B,K) of two classes or more, but the model has one logit: give two, such as "
            "torch.cat([torch.zeros_like(z), z], 1) of the one logit z (B,1)."
        )
    largest = int(data.labels.max())
    if num_classes is not None and largest >= num_classes:
        raise InputError(
            f"Expected labels below the model's {num_classes} classes, but the largest label in {data.spec} is "
            f"{largest}; map class folders to the model's classes with `class_map`."
        )


def bits(row: Row) -> npt.NDArray[np.bool_]:
    """Return for each image of `row`, in order and without those left out, whether it was right: bool (M,).

    Raises:
        InputError: the bits are not of so many images.
    """
    text, images = _stored(row)["bits"], row["images"]
    packed = b""
    if isinstance(text, str) and isinstance(images, int) and len(text) == 4 * math.ceil(math.ceil(images / 8) / 3):
        with suppress(ValueError):
            packed = base64.b64decode(text, validate=True)
    if not packed or len(packed) != math.ceil(images / 8):
        raise InputError(f"A row is damaged: expected its `bits` to be base64 of a bit for each of {images} images.")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=images).astype(bool)


def _packed(right: npt.NDArray[np.bool_]) -> str:
    """Return base64 of one bit per image, the first image highest."""
    return base64.b64encode(np.packbits(right).tobytes()).decode("ascii")


def _stored(row: Row) -> dict[str, Any]:
    return {**row}
