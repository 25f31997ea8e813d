"""Classification among the classes that a data set has: ImageNet-R's 200 of 1000 logits, say."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from statshift._core.errors import InputError
from statshift.data import ImageData
from statshift.tasks.classification import Classification
from statshift.tasks.statistics import ImageStatistics
from statshift.tasks.targets import Targets


@dataclass(frozen=True)
class ClassSubset(Classification):
    """Labels are of some of the model's classes, and the logits of the others do not count.

    Top-1, top-5, cross-entropy and confidence are among these classes alone, and so is the loss of a training.

    Attributes:
        classes: ascending, of the logits; by default those that the whole data set has a label of.

    Raises:
        InputError: fewer than two classes, or some below 0.

    Reference:
        Hendrycks et al., "The Many Faces of Robustness" (ICCV 2021): ImageNet-R is measured among its 200 classes.
    """

    name: ClassVar[str] = "subset"
    alexnets: ClassVar[tuple[str, ...]] = ()

    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes is None:
            return
        found = tuple(sorted({int(one) for one in self.classes}))
        if len(found) < 2 or found[0] < 0:
            raise InputError(f"Expected `classes` to be at least two, from 0 up, but got {list(self.classes)}.")
        object.__setattr__(self, "classes", found)

    def fitted(self, data: ImageData) -> "ClassSubset":
        """Return the task among the classes of the whole data set, of which `data` may be a part."""
        if self.classes is not None or data.source.labels is None:
            return self
        return replace(self, classes=tuple(np.unique(data.source.labels).tolist()))

    def check_labels(self, data: ImageData, width: int | None) -> None:
        """Check that the labels are of the classes, and these of the logits."""
        super().check_labels(data, width)
        if width is not None and max(self._known) >= width:
            raise InputError(f"Expected `classes` below the model's {width}, but got {max(self._known)}.")
        others = [] if data.labels is None else np.setdiff1d(data.labels, self._known).tolist()
        if others:
            raise InputError(f"Expected labels of the task's {len(self._known)} classes, but got {others[0]}.")

    def describe_labels(self, data: ImageData) -> dict[str, Any]:
        """Return what classification does, and the number of classes that the model chooses among."""
        return {**super().describe_labels(data), "classes": len(self._known)}

    def check_one_class(self, what: str) -> None:
        """Refuse: what asks sees all logits."""
        raise InputError(
            f"Expected all of the model's classes for {what}, but the task is {self.name}: attack by fgsm, pgd or cw, "
            "without a target."
        )

    def margins(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the margin among the classes."""
        return super().margins(logits.masked_fill(self._others(logits), -torch.inf), labels)

    def per_image(self, logits: Tensor, labels: Tensor) -> ImageStatistics:
        """Return `image_statistics` of the logits (B,K), those of other classes at minus infinity."""
        return super().per_image(logits.masked_fill(self._others(logits), -torch.inf), labels)

    def choices(self, width: int) -> int:
        """Return the number of classes."""
        return len(self._known)

    def targets(self, labels: Tensor, soft: Tensor | None = None, views: int = 1) -> Targets:
        """Return targets of the cross-entropy among the classes."""
        return Targets(labels, soft, views, self._known)

    @property
    def _known(self) -> tuple[int, ...]:
        if self.classes is None:
            raise InputError("Expected `classes`, which the task subset has of data: task.fitted(data).")
        return self.classes

    def _others(self, logits: Tensor) -> Tensor:
        others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        others[list(self._known)] = False
        return others
