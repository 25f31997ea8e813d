"""Colours of the classes of label maps, which hold without colour vision, and pictures painted with them."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FEW_COLOURS = "69a5fffff02df0004bb4f0b4f0780f69002dd21eb45a3c004b5af00fe1ff003c6969ff78"
MANY_COLOURS = (
    "4bd2ffff87003c00963c2d2d3cff96786900fff02df01e6900fff0691e005a96f0c30fb4"
    "0069ff0f693ce1875a961e69c387c396d2a5a5e15a1e2d78"
)

LEFT_OUT = (0x96, 0x96, 0x96)
"""Pixels that do not count: this grey, hatched."""

SCALE = 2
"""Pixels of a picture for each of a map, so that patterns are fine."""

_HATCH = 3
_PATTERNS = 5


def palette(classes: int) -> NDArray[np.uint8]:
    """Return (P,3), the colours of so many classes; of more than P, later ones have the same with a pattern.

    With deuteranopia or protanopia any two of `FEW_COLOURS` are at least 25 apart in CIELAB, and of `MANY_COLOURS` at
    least 19; without either 46 and 35. They were found by exchanging one colour at a time for the one farthest from all
    others, and are in such an order that the first ones are farthest apart.

    Reference: Machado et al. (IEEE TVCG 2009) and Viénot et al. (Color Research & Application 1999), whose simulations
        of both were taken.
    """
    chosen = FEW_COLOURS if 6 * classes <= len(FEW_COLOURS) else MANY_COLOURS
    return np.frombuffer(bytes.fromhex(chosen), np.uint8).reshape(-1, 3)


def paint(labels: NDArray[np.uint8], classes: int, ignored: int | None) -> NDArray[np.uint8]:
    """Return a map (h,w) of classes as pixels (h*`SCALE`,w*`SCALE`,3); what is no class is hatched.

    Args:
        labels: below `classes`, or `ignored`.
        classes: how many there are.
        ignored: what is no class either.
    """
    colours = palette(classes)
    large = labels.repeat(SCALE, 0).repeat(SCALE, 1).astype(np.int64)
    rows, columns = np.indices(large.shape)
    marks = np.stack(
        [
            np.zeros(large.shape, bool),
            rows % 4 == 0,
            columns % 4 == 0,
            (rows % 4 < 2) & (columns % 4 < 2),
            (rows - columns) % 6 == 0,
        ]
    )
    pixels = colours[large % len(colours)].astype(np.int64)
    pattern = np.take_along_axis(marks, (large // len(colours) % _PATTERNS)[None], 0)[0]
    dark = pixels.sum(2) < 3 * 128
    pixels[pattern] = np.where(dark[pattern][:, None], 255, 0)
    none = large >= classes
    if ignored is not None:
        none |= large == ignored
    pixels[none] = LEFT_OUT
    pixels[none & ((rows + columns) % (2 * _HATCH) < _HATCH - 1)] = 255
    return pixels.astype(np.uint8)


def swatch(label: int, classes: int, ignored: int | None) -> str:
    """Return the data: address of a small picture of one class."""
    return png(paint(np.full((7, 11), label, np.uint8), classes, ignored))


def png(pixels: NDArray[np.uint8]) -> str:
    """Return pixels (H,W,3) of at most 256 colours as the data: address of a PNG."""
    colours, places = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    image = Image.fromarray(places.reshape(pixels.shape[:2]).astype(np.uint8), "P")
    image.putpalette(colours.astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
