"""From pixel counts to IoU, mIoU and pixel accuracy."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def class_iou(true_positives: Array, predicted: Array, labelled: Array) -> Array:
    """Return the intersection over union of each class; NaN of one that no pixel has, in labels or predictions.

    Args:
        true_positives: (...,K) counted pixels of a class that are predicted so: the confusion matrix's diagonal.
        predicted: (...,K) counted pixels predicted so: its columns' sums.
        labelled: (...,K) counted pixels labelled so: its rows' sums.

    Reference: Everingham et al. (IJCV 2010), section 4.2.
    """
    union = predicted + labelled - true_positives
    return np.asarray(true_positives / np.where(union > 0, union, np.nan))


def mean_iou(true_positives: Array, predicted: Array, labelled: Array) -> Array:
    """Return (...), the mean of `class_iou` over the classes that occur; 0 where none does."""
    iou = class_iou(true_positives, predicted, labelled)
    occurs = ~np.isnan(iou)
    return np.asarray(np.where(occurs, iou, 0).sum(-1) / np.maximum(occurs.sum(-1), 1))


def pixel_accuracy(true_positives: Array, labelled: Array) -> Array:
    """Return (...), the share of counted pixels that are predicted as labelled; 0 where none counts."""
    return np.asarray(true_positives.sum(-1) / np.maximum(labelled.sum(-1), 1))
