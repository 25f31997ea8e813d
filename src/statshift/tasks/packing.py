"""How a row holds counts of pixels and small pictures of label maps: deflated, as base64."""

import base64
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

PICTURE = 128  # px; maps of example images are shown reduced to it
NO_PIXEL = 255
_COUNTS = np.dtype("<u4")


def packed(values: NDArray[Any]) -> str:
    """Return the bytes of a picture, or counts as 32-bit integers, as text."""
    content = np.ascontiguousarray(values if values.dtype == np.uint8 else values.astype(_COUNTS)).tobytes()
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


def unpacked_counts(text: Any) -> NDArray[Any]:
    """Return the flat counts of a text; none of a damaged one."""
    content = _content(text)
    return np.frombuffer(content if len(content) % _COUNTS.itemsize == 0 else b"", _COUNTS)


def small_picture(labels: Tensor) -> Tensor:
    """Return every so many pixels of a map (H,W) as uint8 (S,S), S = `PICTURE`, and `NO_PIXEL` beside them."""
    step = _step(labels.shape)
    small = labels[::step, ::step].to(torch.uint8)
    height, width = small.shape
    return F.pad(small, (0, PICTURE - width, 0, PICTURE - height), value=NO_PIXEL)


def unpacked_picture(text: Any, size: Sequence[int]) -> NDArray[np.uint8]:
    """Return the part (h,w) of a packed small picture that is of its map, of a size (H,W).

    Raises:
        ValueError: it is damaged.
    """
    values = np.frombuffer(_content(text), np.uint8)
    if len(values) != PICTURE**2:
        raise ValueError(f"a map of example images is not {PICTURE} x {PICTURE}")
    step = _step(size)
    return values.reshape(PICTURE, PICTURE)[: -(-size[0] // step), : -(-size[1] // step)]


def _step(size: Sequence[int]) -> int:
    return -(-max(size) // PICTURE)


def _content(text: Any) -> bytes:
    if isinstance(text, str):
        with suppress(ValueError, zlib.error):
            return zlib.decompress(base64.b64decode(text, validate=True))
    return b""
