"""Images and their label maps, augmented together."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from statshift._core.errors import InputError
from statshift.data.images import ImageData
from statshift.data.reading import read_pairs


def augmented_pairs(
    data: ImageData,
    groups: Sequence[NDArray[np.int64]],
    augment: Callable[[Image.Image, NDArray[np.uint8], int], tuple[Tensor, Tensor]],
    workers: int | None = None,
) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
    """Yield (images uint8 (B,V,3,h,w), label maps uint8 (B,h,w), positions (B,)) for each group of positions.

    Every image and label map is decoded anew, as nothing augmented is kept.

    Args:
        data: with label maps.
        groups: positions (B,) each, in any order, of images of any size.
        augment: takes an RGB image and its label map (H,W), both before preprocessing, and the image's place in the
            whole data set, and returns V views (V,3,h,w) and the label map (h,w) of all of them, uint8 and of the same
            size whichever the image is; worker processes may need to pickle it.
        workers: processes that decode and augment; default as loaded.

    Raises:
        InputError: there are no label maps, or an image or a label map is damaged.
    """
    if data.source.maps is None:
        raise InputError(f"Expected label maps, but {data.spec} has none.")
    indices = [data.indices[group].tolist() for group in groups]
    made = read_pairs(data.source, indices, augment, data.workers if workers is None else workers)
    return ((images, maps, group) for (images, maps), group in zip(made, groups, strict=True))
