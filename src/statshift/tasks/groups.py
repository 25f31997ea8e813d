"""Classification among classes some of which are several of the model's, as ObjectNet's are of ImageNet's."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statshift.data import ImageData
from statshift.tasks.classification import Classification
from statshift.tasks.statistics import ImageStatistics
from statshift.tasks.subset import ClassSubset


@dataclass(frozen=True)
class ClassGroups(ClassSubset):
    """Labels are the first of each group of the model's classes; the group's logit is the largest of its classes'.

    Attributes:
        groups: the model's classes of each group, the label first.
        masked: whether the classes of no group do not count.

    Reference:
        Barbu et al., "ObjectNet" (NeurIPS 2019): an answer is right if it is any of the object's classes.
    """

    name: ClassVar[str] = "groups"

    groups: tuple[tuple[int, ...], ...] = ()
    masked: bool = True

    def doubt_labels(self, data: ImageData, width: int) -> str | None:
        """Return nothing: the groups say what the labels are of."""
        return None

    def first_labels(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return labels (N,) of the model's classes as those of their groups."""
        first = {index: group[0] for group in self.groups for index in group}
        return np.array([first.get(label, label) for label in labels.tolist()], np.int64)

    def per_image(self, logits: Tensor, labels: Tensor) -> ImageStatistics:
        """Return `image_statistics` of the logits (B,K), those of each group at its first class."""
        merged = logits.clone()
        for first, *others in self.groups:
            if others:
                merged[:, first] = logits[:, [first, *others]].amax(1)
                merged[:, others] = -torch.inf
        if self.masked:
            return super().per_image(merged, labels)
        return Classification.per_image(self, merged, labels)
