"""The section of worst cases: images whose feature statistics an adversary chose, by its strength."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from statshift._core.errors import InputError
from statshift.report.content import Block, Cell, Column, Section, Table
from statshift.report.damage import damaged
from statshift.report.pictures import PICTURE_QUALITY
from statshift.report.subjects import Group, Subject
from statshift.report.tiles import Scenes, Tile
from statshift.report.words import class_name, percent
from statshift.results.worst import WORST_CASES, WORST_FILE, read_worst_cases

LARGEST_TILE = 160
"""px; larger images are shown reduced to it."""

LOSS_WORDS = {
    "rest": "of the rest of the network on the changed features",
    "decoded": "of the network on the decoded image",
}
"""Whose loss the attack lets rise, in words; else another network's on the decoded image."""


def section(groups: Sequence[Group]) -> Section | None:
    """Return the section, or None where no run has such images."""
    blocks: list[Block] = []
    for place, subject in enumerate((one for group in groups for one in group.sources), start=1):
        folder = subject.measured.run.path / WORST_CASES
        with damaged(folder / WORST_FILE):
            found = read_worst_cases(subject.measured.run.path)
            if found is not None:
                blocks += _blocks(subject, found, folder, place)
    if not blocks:
        return None
    text = (
        "An adversary changes the mean and deviation of each channel of the features, of a whole batch, so that the "
        "loss rises the most; a decoder makes images of them. m is its number of steps, and at m = 0 the features are "
        "decoded as they are: what the model loses there is the decoder's doing, not the adversary's."
    )
    return Section("worst-cases", "Worst cases", (text,), tuple(blocks))


def _blocks(subject: Subject, found: Mapping[str, Any], folder: Path, place: int) -> list[Block]:
    columns, names, labels = found["columns"], found["class_names"], found["labels"]
    attack = found["record"]["attack"]
    loss = LOSS_WORDS.get(
        attack["loss"] if isinstance(attack["loss"], str) else "", "of another network on decoded images"
    )
    rows = tuple(
        (
            Cell(str(one["name"])),
            Cell("-") if one["accuracy"] is None else Cell(percent(one["accuracy"]), float(one["accuracy"])),
            Cell("-") if one["psnr"] is None else Cell(f"{one['psnr']:.1f}", float(one["psnr"])),
        )
        for one in columns
    )
    batch = int(found["record"]["batch"])
    table = Table(
        f"worst-cases-{place}",
        f"{subject.model}: the batch of {batch} images by strength of the attack",
        (Column("images", numeric=False), Column("accuracy, %", shade="accuracy"), Column("PSNR, dB")),
        rows,
        note=f"The loss is that {loss}; steps of {attack['step_size']:g}. An image depends on its batch.",
    )
    scenes = []
    for number, index in enumerate(found["indices"]):
        truth = "" if labels is None else f": {class_name(labels[number], names)}"
        tiles = tuple(_tile(one, number, folder, names, None if labels is None else labels[number]) for one in columns)
        scenes.append((f"image {index}{truth}", tiles))
    title = f"{subject.model}: the images, and what it says of each"
    return [table, Scenes(f"worst-cases-of-{place}", title, (), tuple(scenes))]


def _tile(column: Mapping[str, Any], number: int, folder: Path, names: Any, label: int | None) -> Tile:
    predicted = column["predicted"][number]
    mark = "" if label is None else " ✓" if predicted == label else " ✗"
    text = f"{class_name(predicted, names)} {100 * float(column['score'][number]):.0f} %{mark}"
    path = folder / Path(str(column["files"][number])).name  # of this folder, whatever the file says
    return Tile(_reduced(path) if path.is_file() else "", str(column["name"]), text, f"{column['name']}: {text}")


def _reduced(path: Path) -> str:
    """Return the data: address of an image, made smaller where it is large.

    Raises:
        InputError: it is no image.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is damaged: it is no image.") from error
    small = max(image.size) <= LARGEST_TILE
    file = io.BytesIO()
    if small:
        image.save(file, "PNG", optimize=True)
    else:
        image.thumbnail((LARGEST_TILE, LARGEST_TILE))
        image.save(file, "JPEG", quality=PICTURE_QUALITY)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
