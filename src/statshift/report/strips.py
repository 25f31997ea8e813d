"""Strips of example images: which there are, and the images cut from them."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from statshift.report.damage import damaged
from statshift.report.subjects import Subject


def strips_of(subject: Subject) -> dict[str, str]:
    """Return the names of the files by condition."""
    examples = subject.measured.run.examples
    with damaged(subject.measured.run.path / "examples" / "examples.json"):
        return dict(examples["strips"]) if examples else {}


def tile(content: bytes, place: int, count: int, side: int) -> Image.Image:
    """Return one image of a strip of `count`, each `side` px wide, as RGB in the strip's format.

    Raises:
        ValueError: the content is no image of that size.
    """
    try:
        with Image.open(io.BytesIO(content)) as strip:
            kind = strip.format
            if strip.size != (count * side, side):
                raise ValueError(f"its size is {strip.size}, not {(count * side, side)}")
            found: Image.Image = strip.convert("RGB").crop((place * side, 0, (place + 1) * side, side))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError("it is no image") from error
    found.format = kind
    return found


def crop(image: Image.Image, size: Sequence[int]) -> NDArray[np.uint8]:
    """Return the pixels (h,w,3) of a square tile without the margins that an image of a size (H,W) has in it."""
    side = image.width
    scale = min(1.0, side / max(size))
    height, width = (max(1, round(length * scale)) for length in size)
    top, left = (side - height) // 2, (side - width) // 2
    return np.asarray(image)[top : top + height, left : left + width]
