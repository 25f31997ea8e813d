"""Labels as a model numbers its classes."""

import warnings
from dataclasses import replace

import numpy as np

from statshift._core.errors import ClassesWarning
from statshift.data.classes import IMAGENET_CLASSES, imagenet_classes, imagenet_indices
from statshift.data.images import ImageData


def fit_maps(data: ImageData, num_classes: int) -> ImageData:
    """Return images with label maps; where bad ones are skipped, without labels beyond a model's classes.

    Where all have some, none is left out.
    """
    if not data.skip_bad:
        return data
    beyond = data.map_counts.copy()
    beyond[:, data.ignore_index] = 0
    bad = beyond[:, num_classes:].any(1)
    if not bad.any() or bad.all():
        return data
    skipped = [data.source.label_of(index) for index in data.indices[bad].tolist()]
    return replace(data.subset(np.flatnonzero(~bad)), skipped=data.skipped + skipped)


def fit_labels(data: ImageData, num_classes: int) -> ImageData:
    """Return the images with labels as a model of `num_classes` numbers its classes; itself where these are so already.

    For a model of 1,000 classes, class folders that are WordNet ids of some of ImageNet's have ImageNet's indices.
    """
    indices = imagenet_indices(data.class_names) if num_classes == IMAGENET_CLASSES else None
    if indices is None or data.labels is None:
        return data
    names = imagenet_classes()
    warnings.warn(
        f"The {len(indices)} class folders of {data.spec} are WordNet ids of ImageNet's 1,000 classes: their labels "
        f"are ImageNet's, from {indices.min()} for {names[indices.min()]}.",
        ClassesWarning,
        stacklevel=3,
    )
    assert data.source.labels is not None
    source = replace(data.source, labels=indices[data.source.labels])
    return replace(data, source=source, labels=indices[data.labels], class_names=names, class_order="imagenet")
