"""What a task says of labels: how they are read, checked, described and pictured."""

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statshift._core.errors import InputError
from statshift.data import ImageData, integers_hash

T = TypeVar("T", bound="Labelled")


class Labelled:
    """The first half of a task: its labels. By default they are the data's own, (N,...)."""

    @property
    def ignored(self) -> int | None:
        """The value of label maps that marks pixels which do not count, if there is one."""
        return None

    def fitted(self: T, data: ImageData) -> T:
        """Return the task as it is for a data set; itself, unless it has something to learn from the labels."""
        return self

    def labels_of(self, data: ImageData) -> NDArray[np.int64] | None:
        """Return (N,...) by which rows and records know the labels, or None where there are none."""
        return data.labels

    def width(self, logits: Tensor) -> int:
        """Return K, the second size of logits (B,K,...).

        Raises:
            InputError: they have another shape than the task's.
        """
        return logits.shape[1]

    def labels(self, data: ImageData, positions: NDArray[np.int64]) -> Tensor:
        """Return labels (B,...) of the images at positions (B,), on the CPU, fit for `per_image` and `targets`."""
        assert data.labels is not None
        return torch.from_numpy(data.labels[positions])

    def check_labels(self, data: ImageData, width: int | None) -> None:
        """Check that the labels are what the logits are of; unknown ones pass.

        Args:
            data: with labels or without.
            width: K, the second size of the logits, where it is known.

        Raises:
            InputError: they are not.
        """

    def doubt_labels(self, data: ImageData, width: int) -> str | None:
        """Return what is strange about labels of logits so wide, if anything is."""
        return None

    def describe_labels(self, data: ImageData) -> dict[str, Any]:
        """Return what a record says of labels (N,...)."""
        assert data.labels is not None
        return {"labels_hash": integers_hash(data.labels)}

    def checked_labels(self, labels: Any, images: Tensor, width: int | None = None) -> Tensor:
        """Return a caller's labels (B,...) of a batch, fit for `per_image` and `targets`.

        Args:
            labels: what the caller gave.
            images: (B,3,H,W).
            width: K, the second size of the logits, where it is known.

        Raises:
            InputError: they do not fit.
        """
        if not isinstance(labels, Tensor) or labels.shape[:1] != images.shape[:1]:
            found = tuple(labels.shape) if isinstance(labels, Tensor) else f"an object of type {type(labels).__name__}"
            raise InputError(f"Expected labels (B,...) of {len(images)} images, but got {found}.")
        return labels

    def strata(self, data: ImageData) -> NDArray[np.int64]:
        """Return (N,...): example images are as many of those with one value as of those with any other."""
        return np.zeros(len(data), np.int64) if data.labels is None else data.labels

    def pictured(self, data: ImageData, positions: NDArray[np.int64]) -> dict[str, Any]:
        """Return what is stored, in JSON types, of the truth of example images at positions (n,): their `labels`."""
        return {"labels": None if data.labels is None else data.labels[positions].tolist()}
