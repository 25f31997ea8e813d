"""Segmentation: a class for each pixel, logits (B,K,h,w); mIoU from one confusion matrix over all images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple
from warnings import warn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from statshift._core.errors import DataWarning, InputError
from statshift.data import ImageData, integers_hash
from statshift.data.checks import check_classes, checked_labels
from statshift.data.maps import IGNORE_INDEX
from statshift.metrics.segmentation import class_iou, mean_iou, pixel_accuracy
from statshift.tasks.packing import NO_PIXEL, packed, small_picture, unpacked_counts, unpacked_picture
from statshift.tasks.row import Array, Row
from statshift.tasks.targets import CONFIDENCE, LossByPixel, margin
from statshift.tasks.task import Results, Task


class PixelCounts(NamedTuple):
    """What is kept of each image: counted pixels by class, and a small picture of the prediction."""

    true_positives: Tensor
    """(B,K) int64: labelled and predicted so."""
    predicted: Tensor
    """(B,K) int64."""
    labelled: Tensor
    """(B,K) int64."""
    finite: Tensor
    """(B,) bool: no logit is NaN."""
    picture: Tensor
    """(B,S,S) uint8, S = `PICTURE`: the predicted class of every so many pixels, and `NO_PIXEL` beside the image."""


@dataclass(frozen=True)
class Segmentation(Task):
    """Label maps (H,W), a class for each pixel; logits of another size are resized to them (bilinear).

    A row stores for each image and class three sums of its confusion matrix, which is all that IoU is made of, so that
    sums over images have the IoU of the whole set's matrix. Pixels of one image are no independent evidence: intervals
    and differences resample images, and there is no McNemar's test.

    Attributes:
        ignore_index: label of pixels that do not count. Where the model has such a class, it is none here: it has no
            IoU, and a pixel that counts and is predicted so is missed.
    """

    ignore_index: int = IGNORE_INDEX

    name: ClassVar[str] = "segmentation"
    family: ClassVar[str] = "segmentation"
    headline: ClassVar[str] = "miou"
    meaning: ClassVar[str] = (
        "Intersection over union (IoU) averaged over the classes, from one confusion matrix of all pixels that count "
        "in the images"
    )
    class_score: ClassVar[str] = "IoU"
    shows_maps: ClassVar[bool] = True
    training_images: ClassVar[str] = "seg:TRAIN"
    picture_side: ClassVar[int] = 256

    @property
    def measure_names(self) -> tuple[str, ...]:
        """The mIoU and 1 less it, pixel accuracy, and the mean of each image's own mIoU."""
        return ("miou", "error", "pixel_accuracy", "per_image_miou")

    @property
    def ignored(self) -> int:
        """`ignore_index`."""
        return self.ignore_index

    # labels

    def fitted(self, data: ImageData) -> "Segmentation":
        """Return the task with the data's ignored label; a warning tells where it was given another."""
        if not data.has_maps or data.ignore_index == self.ignore_index:
            return self
        if self.ignore_index != IGNORE_INDEX:
            warn(
                f"The task leaves out pixels labelled {self.ignore_index}, but {data.spec} those labelled "
                f"{data.ignore_index}, which holds: give the data `ignore_index`.",
                DataWarning,
                stacklevel=3,
            )
        return replace(self, ignore_index=data.ignore_index)

    def labels_of(self, data: ImageData) -> NDArray[np.int64] | None:
        """Return a hash (N,) of each label map."""
        return data.map_hashes if data.has_maps else None

    def labels(self, data: ImageData, positions: NDArray[np.int64]) -> Tensor:
        """Return label maps (B,H,W) int64."""
        return data.label_maps(positions).long()

    def width(self, logits: Tensor) -> int:
        """Return K of logits (B,K,h,w)."""
        if logits.ndim != 4:
            raise InputError(f"Expected logits (B,K,h,w) for label maps, but got shape {tuple(logits.shape)}.")
        return logits.shape[1]

    def check_labels(self, data: ImageData, width: int | None) -> None:
        """Check that there are label maps, that some pixel counts, and that the model has its class."""
        if not data.has_maps:
            if data.labels is not None:
                raise InputError(f"Expected label maps for the task segmentation, but {data.spec} has none.")
            return
        counts = data.map_counts.copy()
        counts[:, self.ignore_index] = 0
        if not counts.any():
            raise InputError(f"Expected pixels that count, but all of {data.spec} are labelled {self.ignore_index}.")
        beyond = counts[:, width:] if width is not None else counts[:, :0]
        if beyond.any():
            assert width is not None
            image = int(np.flatnonzero(beyond.any(1))[0])
            label = width + int(np.flatnonzero(beyond[image])[0])
            name = data.source.name(int(data.indices[image]))
            raise InputError(
                f"Expected labels below the model's {width} classes, but {name} has pixels labelled {label}: "
                "leave them out with `ignore_index`, or map labels with `label_map`."
            )

    def doubt_labels(self, data: ImageData, width: int) -> str | None:
        """Return that the data have other classes than the model, where they have."""
        if data.classes in (None, width):
            return None
        return (
            f"{data.spec} has {data.classes} classes and the model {width}: labels are taken to be the model's first "
            f"{data.classes} classes; if they are others, map them with `label_map`."
        )

    def describe_labels(self, data: ImageData) -> dict[str, Any]:
        """Return a hash of the label maps, and the pixels of each label."""
        counts = data.map_counts.sum(0)
        return {
            "labels_hash": integers_hash(data.map_hashes),
            "classes": data.classes,
            "pixel_counts": {str(label): int(counts[label]) for label in np.flatnonzero(counts)},
        }

    def checked_labels(self, labels: Any, images: Tensor, width: int | None = None) -> Tensor:
        """Return label maps (B,H,W) as int64."""
        found = checked_labels(labels, images, maps=True)
        if width is not None:
            check_classes(found, width, ignored=self.ignore_index)
        return found

    def pictured(self, data: ImageData, positions: NDArray[np.int64]) -> dict[str, Any]:
        """Return small pictures of the label maps, as `shown` has them, and the images' sizes."""
        maps = [data.label_maps(np.array([position]))[0] for position in positions.tolist()]
        return {"labels": [packed(small_picture(one).numpy()) for one in maps], "sizes": data.sizes[positions].tolist()}

    # results

    def per_image(self, logits: Tensor, labels: Tensor) -> PixelCounts:
        """Count pixels of logits (B,K,h,w) by labels (B,H,W), image by image: full-sized logits take memory."""
        classes = self.width(logits)
        finite = ~logits.flatten(1).sum(1, dtype=torch.float32).isnan()  # a class may be masked by -inf
        matrices, pictures = [], []
        for image, truth in zip(logits, labels, strict=True):
            predicted = _resized(image[None], truth.shape)[0].max(0).indices  # argmax takes four times as long
            places = (truth * classes + predicted).masked_fill_(truth == self.ignore_index, classes * classes)
            counts = torch.bincount(places.flatten(), minlength=classes * classes + 1)[:-1]
            matrices.append(counts.view(classes, classes))
            pictures.append(small_picture(predicted.clamp(max=NO_PIXEL - 1)))
        matrix = torch.stack(matrices)
        sums = torch.stack([matrix.diagonal(dim1=1, dim2=2), matrix.sum(2), matrix.sum(1)])
        if self.ignore_index < classes:
            sums[..., self.ignore_index] = 0
        true_positives, labelled, predicted_so = sums
        return PixelCounts(true_positives, predicted_so, labelled, finite, torch.stack(pictures))

    def count(self, results: Results, labels: NDArray[np.int64], classes: int) -> dict[str, Any]:
        """Return the three counts of each image and class, packed; and what they add up to."""
        *counts, finite, _ = results
        if not finite.all():
            raise FloatingPointError(f"{(~finite).sum()} of {len(finite)}")
        images, classes = counts[0].shape
        return {"images": images, "classes": classes, "pixels": packed(np.concatenate(counts, axis=1))}

    def shown(self, results: Results, examples: NDArray[np.int64], seen: NDArray[np.bool_]) -> dict[str, Any]:
        """Return small pictures of the predictions of example images, (S,S) packed: None of those left out."""
        pictures = results[-1][examples]
        return {"predicted": [packed(one) if known else None for one, known in zip(pictures, seen, strict=True)]}

    def shown_map(self, stored: Any, size: Sequence[int]) -> NDArray[np.uint8]:
        """Return the part (h,w) of a small picture that is of the image."""
        return unpacked_picture(stored, size)

    # of a row

    def statistics(self, row: Row) -> Array:
        """Return (M,3K): true positives, predicted and labelled pixels of each class."""
        stored: dict[str, Any] = {**row}
        shape = (row["images"], 3 * stored["classes"])
        try:
            return unpacked_counts(stored["pixels"]).reshape(shape).astype(np.float64)
        except ValueError:
            raise InputError(
                f"A row is damaged: expected `pixels` of {shape[0]} images and {shape[1] // 3} classes."
            ) from None

    def score(self, sums: Array, images: Array) -> Array:
        """Return the mIoU."""
        return mean_iou(*np.split(sums, 3, axis=-1))

    def measures(self, row: Row) -> dict[str, float]:
        """Return the mIoU of all pixels together, their accuracy, and the mean over images that have pixels."""
        by_image = self.statistics(row)
        right, _, labelled = np.split(by_image.sum(0), 3)
        miou = float(self.score(by_image.sum(0), np.ones(())))
        counted = by_image[:, 2 * len(labelled) :].any(1)
        own = float(self.score(by_image[counted], np.ones(())).mean())
        return dict(zip(self.measure_names, (miou, 1 - miou, float(pixel_accuracy(right, labelled)), own), strict=True))

    def restricted(self, row: Row, kept: NDArray[np.bool_]) -> dict[str, Any]:
        """Return the counts of the images kept."""
        counts = self.statistics(row)[kept]
        return {"classes": counts.shape[1] // 3, "pixels": packed(counts)}

    def per_class(self, draws: Sequence[Row], counts: Sequence[int] | None) -> dict[str, Any]:
        """Return pixel accuracy, each class's IoU, None of one that does not occur, and which do not."""
        if not draws:
            return {"pixel_accuracy": None, "class_iou": None, "absent_classes": None}
        sums, iou = [np.split(self.statistics(row).sum(0), 3) for row in draws], self.class_scores(draws)
        absent = np.isnan(iou)
        return {
            "pixel_accuracy": float(np.mean([pixel_accuracy(one[0], one[2]) for one in sums])),
            "class_iou": [None if gone else float(value) for value, gone in zip(iou, absent, strict=True)],
            "absent_classes": np.flatnonzero(absent).tolist(),
        }

    def class_scores(self, draws: Sequence[Row]) -> Array:
        """Return each class's IoU."""
        sums = [np.split(self.statistics(row).sum(0), 3) for row in draws]
        return np.asarray(np.mean([class_iou(*one) for one in sums], axis=0))

    def doubt(self, row: Row, width: int) -> str | None:
        """Return that the commonest label for every pixel would be right as often, where it would."""
        right, _, labelled = np.split(self.statistics(row).sum(0), 3)
        accuracy, commonest = float(pixel_accuracy(right, labelled)), float(labelled.max() / labelled.sum())
        if accuracy > commonest:
            return None
        return (
            f"Clean pixel accuracy is {accuracy:.1%}, and class {labelled.argmax()} for every pixel has "
            f"{commonest:.1%}: are the weights trained ones (`weights`), do the labels mean the model's classes "
            "(`label_map`), are `mean` and `std` those of the training, or are the frames so unlike it?"
        )

    # training

    def targets(self, labels: Tensor, soft: Tensor | None = None, views: int = 1) -> LossByPixel:
        """Return the cross-entropy of label maps (B,H,W), of one view."""
        if soft is not None:
            raise InputError("Label maps do not mix: choose another augmentation than cutmix.")
        return LossByPixel(labels, self.losses, views, self.ignore_index)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return (B,), each image's mean cross-entropy over the pixels that count; 0 where none does.

        In float64 where the logits are, else in float32.
        """
        logits = _resized(logits if logits.dtype == torch.float64 else logits.float(), labels.shape[1:])
        lost = F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none").flatten(1).sum(1)
        counted: Tensor = (labels != self.ignore_index).flatten(1).sum(1)
        return lost / counted.clamp(min=1)

    def margins(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return (B,), each image's mean margin over the pixels that count, each at most `CONFIDENCE`; 0 without any.

        Differs:
            from Carlini & Wagner, whose image has one margin: capped by pixel, so that none of them stands for others.
        """
        counts = labels != self.ignore_index
        by_pixel = margin(_resized(logits, labels.shape[1:]), labels.where(counts, 0)).clamp_max(CONFIDENCE)
        return by_pixel.where(counts, 0).flatten(1).sum(1) / counts.flatten(1).sum(1).clamp(min=1)


def _resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Return logits (B,K,h,w) as (B,K,H,W)."""
    if logits.shape[2:] == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
