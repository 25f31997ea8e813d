"""Classes of published label maps, and how their files say which is which."""

from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from statshift.data.maps import IGNORE_INDEX, LABEL_VALUES, stored_indices

CITYSCAPES: dict[str, tuple[int, tuple[int, int, int]]] = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
"""The 19 classes that are trained and scored, in the order of the train ids, with the id in label files and the colour.

Reference: cityscapesScripts, helpers/labels.py.
"""

SYNTHIA = {
    **{"sky": 1, "building": 2, "road": 3, "sidewalk": 4, "fence": 5, "vegetation": 6, "pole": 7, "car": 8},
    **{"traffic sign": 9, "pedestrian": 10, "bicycle": 11, "lanemarking": 12, "traffic light": 15},
}
"""The 13 classes of the video sequences, with the id in label files; void (0) and the reserved ids are left out.

Reference: the readme of SYNTHIA-SEQS (Ros, 2016).
"""

VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Reference: the PASCAL VOC 2012 development kit; its maps have 255 at the borders of objects."""

COLOUR_MODES = ("P", "RGB", "RGBA")
CHANNEL_MODES = ("RGB", "RGBA", "L", "P", "I;16", "I;16B", "I")


def table_of(ids: list[int]) -> NDArray[np.uint8]:
    """Return (256,) the place of each value among `ids`, the ignored value for all others."""
    table = np.full(LABEL_VALUES, IGNORE_INDEX, np.uint8)
    table[ids] = np.arange(len(ids))
    return table


def by_table(table: NDArray[np.uint8], image: Image.Image) -> NDArray[np.uint8]:
    """Return the labels (H,W) of an image of indices, translated by a table (256,)."""
    labels: NDArray[np.uint8] = table[stored_indices(image)]
    return labels


def by_colour(colours: NDArray[np.int64], image: Image.Image) -> NDArray[np.uint8]:
    """Return the labels (H,W) of an image: the place of each colour among `colours` (K,3), else the ignored value."""
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB") or [], np.int64).reshape(-1, 3)
        table = np.full(LABEL_VALUES, IGNORE_INDEX, np.uint8)
        table[: len(palette)] = _places(palette, colours)
        labels: NDArray[np.uint8] = table[np.asarray(image)]
        return labels
    return _places(np.asarray(image.convert("RGB")), colours)


def _places(pixels: NDArray[np.integer], colours: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return for colours (...,3) their places among those of the classes."""
    weights = np.array([1 << 16, 1 << 8, 1], np.int64)
    codes, known = pixels.astype(np.int64) @ weights, colours @ weights
    order = np.argsort(known)
    nearest = order[np.searchsorted(known[order], codes).clip(max=len(known) - 1)]
    return np.where(known[nearest] == codes, nearest, IGNORE_INDEX).astype(np.uint8)


def first_channel(table: NDArray[np.uint8], image: Image.Image) -> NDArray[np.uint8]:
    """Return the labels (H,W) of an image whose first channel holds ids, 8 or 16 bits wide, translated by a table."""
    if image.mode not in ("RGB", "RGBA"):
        return by_table(table, image)
    for tile in getattr(image, "tile", [])[:1]:
        if tile[3] == f"{image.mode};16B":  # of 16 bits Pillow keeps the high byte, and ids are in the low one
            image.tile = [(*tile[:3], f"{image.mode};16L")]  # type: ignore[attr-defined]
    labels: NDArray[np.uint8] = table[np.asarray(image)[:, :, 0]]
    return labels


cityscapes_ids = partial(by_table, table_of([label for label, _ in CITYSCAPES.values()]))
cityscapes_colours = partial(by_colour, np.array([colour for _, colour in CITYSCAPES.values()], np.int64))
synthia_ids = partial(first_channel, table_of(list(SYNTHIA.values())))
