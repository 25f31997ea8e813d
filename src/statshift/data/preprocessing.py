"""From an image file to pixels: RGB conversion, resize, centre crop."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from statshift._core.errors import InputError, unknown

IMAGENET_RESIZE, IMAGENET_CROP = 256, 224
SMALLEST_INPUT = 32
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


def resolve_preprocessing(
    sizes: Sequence[tuple[int, int]],
    resize: int | None = None,
    crop: int | None = None,
    interpolation: str = "bilinear",
    *,
    labelled: bool = False,
) -> dict[str, Any]:
    """Return what is applied to images of these sizes, as a dict for `preprocess` and for the record.

    Where the caller asks for neither `resize` nor `crop`, photographs (a median shorter side of at least
    224 px, unless all are 224x224 already) get ImageNet's 256 and 224, and smaller images stay as they are.

    Args:
        sizes: (width, height) in px.
        resize: length of the shorter side, px.
        crop: side of the central square, px.
        interpolation: one of `INTERPOLATIONS`.
        labelled: the images have label maps; none of them is resized or cropped unless it is asked for.

    Raises:
        InputError: a value that cannot be.
    """
    if interpolation not in INTERPOLATIONS:
        raise unknown("interpolation", interpolation, INTERPOLATIONS)
    for name, value in (("resize", resize), ("crop", crop)):
        if value is not None and value < SMALLEST_INPUT:
            raise InputError(f"Expected `{name}` to be at least {SMALLEST_INPUT} px, but got {value}.")
    photographs = not labelled and median(min(size) for size in sizes) >= IMAGENET_CROP
    if resize is None and crop is None and photographs and set(sizes) != {(IMAGENET_CROP, IMAGENET_CROP)}:
        resize, crop = IMAGENET_RESIZE, IMAGENET_CROP
    return {"resize": resize, "crop": crop, "interpolation": interpolation}


def resized(size: tuple[int, int], resize: int | None) -> tuple[int, int]:
    """Return (width, height) once the shorter side is `resize` px, the longer rounded down."""
    if resize is None:
        return size
    width, height = size
    return (resize, resize * height // width) if width <= height else (resize * width // height, resize)


def check_sizes(
    names: Sequence[str], sizes: Sequence[tuple[int, int]], how: dict[str, Any], *, equal: bool = True
) -> NDArray[np.int64]:
    """Return (N,2), the height and width that each image has after preprocessing.

    Args:
        names: what errors call the images.
        sizes: (width, height) in px.
        how: `resize` and `crop`.
        equal: refuse sizes that differ.

    Raises:
        InputError: they differ, are smaller than the crop, or under 32 px.
    """
    results = [resized(size, how["resize"]) for size in sizes]
    least = how["crop"] or SMALLEST_INPUT
    for name, size, result in zip(names, sizes, results, strict=True):
        if min(result) < least:
            raise InputError(
                f"Expected images of at least {least} px, but {name} is {size[0]}x{size[1]}; enlarge with `resize`."
            )
        if equal and how["crop"] is None and result != results[0]:
            raise InputError(
                f"Expected images of one size, but {names[0]} is {sizes[0][0]}x{sizes[0][1]} and {name} is "
                f"{size[0]}x{size[1]}; make them equal with `resize` and `crop`."
            )
    if how["crop"]:
        return np.full((len(sizes), 2), how["crop"], np.int64)
    return np.array([(height, width) for width, height in results], np.int64)


def preprocess(image: Image.Image, *, resize: int | None, crop: int | None, interpolation: str) -> Tensor:
    """Return an image as uint8 RGB (3,H,W): the shorter side resized, the central square cut out.

    Any colour mode becomes RGB, an alpha channel is dropped as torchvision's loaders do, 16-bit grey is scaled
    to 8 bits, and a camera's orientation tag is left alone as in the benchmark.
    """
    image = to_rgb(image)
    size = resized(image.size, resize)
    if size != image.size:
        image = image.resize(size, Image.Resampling[interpolation.upper()])
    if crop is not None:
        image = image.crop(central(size, crop))
    channels = bytearray(b"".join(image.tobytes("raw", channel) for channel in "RGB"))
    return torch.frombuffer(channels, dtype=torch.uint8).view(3, image.height, image.width)


def central(size: tuple[int, int], crop: int) -> tuple[int, int, int, int]:
    """Return left, upper, right and lower edge of the central square of `crop` px in an image of (width, height)."""
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    return left, top, left + crop, top + crop


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image in mode RGB."""
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range")
    if image.mode.startswith("I"):  # 16 bits; Pillow clips where it should scale
        grey = np.rint(np.asarray(image).clip(0, 65535) / 257).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns of the direct way
        image = image.convert("RGBA")
    return image.convert("RGB")


def quantise(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Return floats in [0,1] as uint8, rounded to the nearest of 256 levels; uint8 stays.

    Raises:
        InputError: another dtype, NaN, or values outside [0,1]; `name` says whose.
    """
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"Expected {name} to be uint8 or float in [0, 1], but got {values.dtype}.")
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if not (low >= 0 and high <= 1):  # NaN fails both
        found = "NaN" if np.isnan(low) else f"values from {low:.4g} to {high:.4g}"
        raise InputError(f"Expected the pixels of {name} to lie in [0, 1], but got {found}.")
    levels: NDArray[np.uint8] = np.rint(values * 255).astype(np.uint8)
    return levels
