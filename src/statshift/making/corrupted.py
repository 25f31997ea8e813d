"""Corrupted data on disk, in the layouts of CIFAR-C and ImageNet-C, and a contact sheet to look at."""

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from statshift._core.errors import InputError, unknown
from statshift._core.files import replacing
from statshift.data import ImageData
from statshift.results import alone, settle_record, write_json_atomically
from statshift.results.provenance import describe_corruption, describe_data, describe_own
from statshift.shifts.conditions import Condition, resolve
from statshift.shifts.corruptions import REENCODE_QUALITY, SEVERITIES
from statshift.shifts.shift import CLEAN, CorruptionOptions, Shift, under

BATCH = 64
LAYOUTS = ("arrays", "jpeg")
LARGEST_SHOWN = 512  # px of the longer side on a contact sheet

CorruptedImages = Callable[[Condition], Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]]


def write_corrupted(
    data: ImageData,
    wanted: Sequence[Condition],
    out: str | Path,
    *,
    layout: str,
    options: CorruptionOptions,
    device: torch.device,
    shifts: Sequence[Shift] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write every condition of `wanted`, and `record.json`; what an earlier call of the same finished is kept.

    Args:
        data: the clean images.
        wanted: shifts and severities; "arrays" needs all five severities of a shift.
        out: folder, made if need be.
        layout: "arrays" (CIFAR-C: NAME.npy, uint8 (5 N,H,W,3), severity by severity, and labels.npy) or "jpeg"
            (ImageNet-C: NAME/SEVERITY/CLASS/*.JPEG of quality 85). Clean images go to clean.npy or clean/. Of images
            in files, names.json holds the source's path by the image's number, in the order of the arrays.
        options: how corruptions are made.
        device: where they are made.
        shifts: shifts of the conditions, where there are others than those that ship.
        progress: called with (images done, images in all) after each batch.

    Raises:
        InputError: missing labels or severities, a folder that holds other data, or one that cannot be written.
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if data.labels is None:
        lacking = "label maps, which these layouts do not hold" if data.has_maps else "no labels"
        raise InputError(f"Expected labelled images, but {data.spec} has {lacking}.")
    levels: dict[str, list[int]] = {}
    for condition in wanted:
        levels.setdefault(condition.shift, []).append(condition.severity)
    for name, found in levels.items():
        if layout == "arrays" and name != CLEAN and tuple(found) != SEVERITIES:
            raise InputError(f"The layout of CIFAR-C holds five severities, but {name} would have {found}; use jpeg.")
    out, count = Path(out), 0
    made = {one.name: one for one in (resolve([*levels], options) if shifts is None else shifts)}
    for shift in made.values():
        _check_writable(shift)

    def corrupted(condition: Condition) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        nonlocal count
        for images, positions in data.batches(_batch(data)):
            pixels = images.to(device).float() / 255
            indices = torch.from_numpy(data.indices[positions]).to(device)
            assert data.labels is not None
            labels = torch.from_numpy(data.labels[positions]).to(device)
            how = {"seed": options.seed, "indices": indices, "labels": labels}
            shifted = under(made[condition.shift], pixels, condition.severity, **how)
            yield to_bytes(shifted), positions
            count += len(images)
            if progress:
                progress(count, len(wanted) * len(data))

    record = {
        "data": describe_data(data, data.labels),
        "corruption": describe_corruption(options, data.shape, "benchmark"),
        "layout": layout,
        "shifts": list(levels),
        "functions": describe_own([*made.values()]),
        "seed": options.seed,
    }
    try:
        with alone(out):
            settle_record(out, record)
            write_names(data, out)
            {"arrays": _write_arrays, "jpeg": _write_jpegs}[layout](data, levels, out, corrupted)
    except OSError as error:
        raise InputError(
            f"Cannot write to {out}: {error.strerror}. Finished shifts are kept: make room, then run it again."
        ) from error


def _batch(data: ImageData) -> int:
    """Return how many images are corrupted at once: of large ones as few as hold the values of `BATCH` photographs."""
    return max(1, min(BATCH, BATCH * 224**2 // (data.shape[1] * data.shape[2])))


def graded(shifts: Sequence[Shift]) -> list[Shift]:
    """Return those that have five severities and are made of clean images alone, as a contact sheet shows them."""
    return [one for one in shifts if one.severities == SEVERITIES and not one.needs_model and not one.reads]


def _check_writable(shift: Shift) -> None:
    if shift.needs_model or shift.reads:
        raise InputError(f"Expected shifts that are made of clean images alone, but got {shift.name}.")


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Return (B,3,H,W) images in [0,1], multiples of 1/255, as uint8 (B,H,W,3)."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def write_names(data: ImageData, out: Path) -> None:
    """Write of images in files which is which: the source's path by the number that the image has here."""
    paths = getattr(data.source, "paths", None)
    if paths is not None:
        write_json_atomically(
            out / "names.json", {f"{index:08d}": str(paths[index]) for index in data.indices.tolist()}
        )


def _write_arrays(data: ImageData, levels: Mapping[str, Sequence[int]], out: Path, corrupted: CorruptedImages) -> None:
    assert data.labels is not None
    labels = np.tile(data.labels, len(SEVERITIES))
    with replacing(out / "labels.npy") as partial, partial.open("wb") as file:
        _write_header(file, labels.shape, labels.dtype)
        file.write(labels.data)
    _, height, width = data.shape
    for name, severities in levels.items():
        path = out / f"{name}.npy"
        if path.exists():
            continue
        with replacing(path) as partial, partial.open("wb") as file:
            _write_header(file, (len(severities) * len(data), height, width, 3), np.dtype(np.uint8))
            for severity in severities:
                for images, _ in corrupted(Condition(name, severity)):
                    file.write(np.ascontiguousarray(images).data)


def _write_header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Begin a .npy file; what follows are the array's bytes (NumPy's own writer does not notice a full disk)."""
    description = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": description, "fortran_order": False, "shape": shape})


def _write_jpegs(data: ImageData, levels: Mapping[str, Sequence[int]], out: Path, corrupted: CorruptedImages) -> None:
    assert data.labels is not None
    names = class_folders(data)
    for condition in [Condition(name, severity) for name, severities in levels.items() for severity in severities]:
        path = out / condition.shift / str(condition.severity) if condition.severity else out / condition.shift
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            for name in names:  # empty ones too: the sorted folders are the labels
                (partial / name).mkdir(parents=True)
            for images, positions in corrupted(condition):
                for image, position in zip(images, positions, strict=True):
                    file = partial / names[data.labels[position]] / f"{data.indices[position]:08d}.JPEG"
                    encoded = io.BytesIO()  # Pillow's own writer does not notice a full disk
                    Image.fromarray(image).save(encoded, "JPEG", quality=REENCODE_QUALITY)
                    file.write_bytes(encoded.getvalue())


def class_folders(data: ImageData) -> Sequence[str]:
    """Return the names of the classes' folders by label: sorted they are in the labels' order."""
    assert data.labels is not None
    largest = int(data.labels.max())
    return data.class_names or [f"{label:0{len(str(largest))}d}" for label in range(largest + 1)]


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Return the width and height that an image has on a contact sheet: small ones grow, large ones shrink."""
    if max(height, width) > LARGEST_SHOWN:
        scale = LARGEST_SHOWN / max(height, width)
        return round(width * scale), round(height * scale)
    enlarged = max(1, 96 // min(height, width))
    return width * enlarged, height * enlarged


def contact_sheet(
    data: ImageData, position: int, shifts: Sequence[str | Shift], options: CorruptionOptions, path: str | Path
) -> None:
    """Write a PNG of one image: a row for each shift, the clean image and severities 1 to 5 across.

    Raises:
        InputError: there is no such image, or the file cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"Expected the contact sheet to be a .png file, but got {path}.")
    if not 0 <= position < len(data):
        raise InputError(f"Expected an image from 0 to {len(data) - 1}, but got {position}.")
    (images, positions), *_ = data.batches(1, which=[position])
    clean, indices = images.float() / 255, torch.from_numpy(data.indices[positions])
    made = resolve(shifts, options)
    tile = shown_size(*clean.shape[-2:])
    cell = (tile[0] + 4, tile[1] + 4)
    size = max(16, cell[1] // 8)  # px; letters that are read beside the pictures
    font = ImageFont.load_default(size)
    label, top = 8 + math.ceil(max(font.getlength(shift.name) for shift in made)), size + 8
    sheet = Image.new("RGB", (label + 6 * cell[0], top + len(made) * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(["clean", *map(str, SEVERITIES)]):
        draw.text((label + column * cell[0] + 4, 3), title, fill="black", font=font)
    for row, shift in enumerate(made):
        draw.text((4, top + row * cell[1] + (cell[1] - size) // 2), shift.name, fill="black", font=font)
        for column, severity in enumerate((0, *SEVERITIES)):
            shown = under(shift, clean, severity, seed=options.seed, indices=indices) if severity else clean
            picture = Image.fromarray(to_bytes(shown)[0])
            picture = picture.resize(tile, Image.Resampling.NEAREST)
            sheet.paste(picture, (label + column * cell[0], top + row * cell[1]))
    try:
        sheet.save(path, "PNG")
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot write the contact sheet {path}: {error}.") from error
