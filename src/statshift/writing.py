"""Corrupted data on disk, in the layouts of CIFAR-C and ImageNet-C, and a contact sheet to look at."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from statshift.corruptions import REENCODE_QUALITY, SEVERITIES
from statshift.data import ImageData
from statshift.errors import InputError
from statshift.shifts import CLEAN, Condition, CorruptionOptions, apply

BATCH = 64
LAYOUTS = ("arrays", "jpeg")


def write_corrupted(
    data: ImageData,
    wanted: Sequence[Condition],
    out: str | Path,
    *,
    layout: str,
    options: CorruptionOptions,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write every condition of `wanted`; what an earlier call finished is kept.

    Args:
        data: the clean images.
        wanted: shifts and severities; "arrays" needs all five severities of a shift.
        out: folder, made if need be.
        layout: "arrays" (CIFAR-C: NAME.npy, uint8 (5 N,H,W,3), severity by severity, and labels.npy) or "jpeg"
            (ImageNet-C: NAME/SEVERITY/CLASS/*.JPEG of quality 85). Clean images go to clean.npy or clean/.
        options: how corruptions are made.
        device: where they are made.
        progress: called with (images done, images in all) after each batch.

    Raises:
        InputError: missing labels or severities, or a folder that cannot be written.
    """
    if layout not in LAYOUTS:
        raise InputError(f"Expected `layout` to be one of {', '.join(LAYOUTS)}, but got {layout!r}.")
    if data.labels is None:
        raise InputError(f"Expected labelled images, but {data.spec} has no labels.")
    out, count = Path(out), 0

    def corrupted(condition: Condition) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        nonlocal count
        for images, positions in data.batches(BATCH):
            pixels = images.to(device).float() / 255
            indices = torch.from_numpy(data.indices[positions]).to(device)
            yield to_bytes(apply(pixels, condition, indices, options, {})), positions
            count += len(images)
            if progress:
                progress(count, len(wanted) * len(data))

    try:
        out.mkdir(parents=True, exist_ok=True)
        _WRITERS[layout](data, wanted, out, corrupted)
    except OSError as error:
        raise InputError(
            f"Cannot write to {out}: {error.strerror}. Finished shifts are kept: make room, then run it again."
        ) from error


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Return (B,3,H,W) images in [0,1], multiples of 1/255, as uint8 (B,H,W,3)."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


Corrupted = Callable[[Condition], Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]]


def _write_arrays(data: ImageData, wanted: Sequence[Condition], out: Path, corrupted: Corrupted) -> None:
    severities: dict[str, list[int]] = {}
    for condition in wanted:
        severities.setdefault(condition.shift, []).append(condition.severity)
    for name, levels in severities.items():
        if name != CLEAN and tuple(levels) != SEVERITIES:
            raise InputError(f"The layout of CIFAR-C holds all five severities, but {name} was asked for at {levels}.")
    assert data.labels is not None
    repeats = 1 if set(severities) == {CLEAN} else len(SEVERITIES)
    _save(out / "labels.npy", np.tile(data.labels, repeats))
    _, height, width = data.shape
    for name, levels in severities.items():
        path = out / f"{name}.npy"
        if path.exists():
            continue
        with _partial(path) as partial:
            shape = (len(levels) * len(data), height, width, 3)
            array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
            for number, level in enumerate(levels):
                for images, positions in corrupted(Condition(name, level)):
                    array[number * len(data) + positions] = images
            array.flush()
            del array


def _write_jpegs(data: ImageData, wanted: Sequence[Condition], out: Path, corrupted: Corrupted) -> None:
    assert data.labels is not None
    digits = len(str(int(data.labels.max())))
    names = data.class_names or [f"{label:0{digits}d}" for label in range(int(data.labels.max()) + 1)]
    for condition in wanted:
        path = out / condition.shift / str(condition.severity) if condition.severity else out / condition.shift
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial(path) as partial:
            for label in np.unique(data.labels):
                (partial / names[label]).mkdir(parents=True)
            for images, positions in corrupted(condition):
                for image, position in zip(images, positions, strict=True):
                    name = f"{data.indices[position]:08d}.JPEG"
                    file = partial / names[data.labels[position]] / name
                    Image.fromarray(image).save(file, "JPEG", quality=REENCODE_QUALITY)


_WRITERS = {"arrays": _write_arrays, "jpeg": _write_jpegs}


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` that becomes `path` on success and is removed on failure."""
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        _remove(partial)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _save(path: Path, array: NDArray[np.int64]) -> None:
    with _partial(path) as partial, partial.open("wb") as file:
        np.save(file, array)


def contact_sheet(
    data: ImageData, position: int, names: Sequence[str], options: CorruptionOptions, path: str | Path
) -> None:
    """Write a PNG of one image: a row for each corruption, the clean image and severities 1 to 5 across.

    Raises:
        InputError: there is no such image, or the file cannot be written.
    """
    if not 0 <= position < len(data):
        raise InputError(f"Expected an image from 0 to {len(data) - 1}, but got {position}.")
    (images, positions), *_ = data.batches(1, which=[position])
    clean, indices = images.float() / 255, torch.from_numpy(data.indices[positions])
    height, width = data.shape[1:]
    scale = max(1, 96 // min(height, width))
    cell, label = (width * scale + 4, height * scale + 4), 130
    sheet = Image.new("RGB", (label + 6 * cell[0], 18 + len(names) * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(["clean", *map(str, SEVERITIES)]):
        draw.text((label + column * cell[0] + 4, 3), title, fill="black")
    for row, name in enumerate(names):
        draw.text((4, 18 + row * cell[1] + cell[1] // 2 - 6), name, fill="black")
        for column, severity in enumerate((0, *SEVERITIES)):
            condition = Condition(name, severity) if severity else Condition(CLEAN, 0)
            picture = Image.fromarray(to_bytes(apply(clean, condition, indices, options, {}))[0])
            picture = picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(picture, (label + column * cell[0], 18 + row * cell[1]))
    try:
        sheet.save(path, "PNG")
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot write the contact sheet {path}: {error}.") from error
