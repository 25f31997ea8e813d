"""Pictures of a visualisation: one sheet to look at, and a folder whose images a report shows."""

import math
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from statshift._core.errors import InputError
from statshift.making.corrupted import shown_size, to_bytes
from statshift.making.visualise import ByStrength, Visualisation
from statshift.results import write_json_atomically
from statshift.results.worst import SHEET, WORST_CASES, WORST_FILE

RIGHT_COLOUR, WRONG_COLOUR, PLAIN_COLOUR = "#1a7f37", "#b3261e", "#444444"
"""Colours of an answer: the true class, another, and one that nobody can judge."""

MARGIN = 4  # px


def write_visualisation(found: Visualisation, out: str | Path, shown: int) -> Path:
    """Write one picture to a .png file, or a folder with it, each image and `worst-cases.json`; return its path.

    Args:
        found: what is shown.
        out: the file or folder; in the folder of a run its folder `worst-cases`.
        shown: images in the picture and in the folder, the first ones.

    Raises:
        InputError: another kind of file, or it cannot be written.
    """
    path = Path(out)
    picture = sheet(found, shown)
    try:
        if path.suffix.lower() == ".png" and not path.is_dir():
            picture.save(path, "PNG")
            return path
        if path.suffix and not path.is_dir():
            raise InputError(f"Expected `out` to be a .png file or a folder, but got {path}.")
        if (path / "rows.jsonl").is_file():
            path = path / WORST_CASES
        path.mkdir(parents=True, exist_ok=True)
        picture.save(path / SHEET, "PNG")
        columns = [_write_column(path, found, column, shown) for column in found.columns]
    except OSError as error:
        raise InputError(f"Cannot write to {out}: {error.strerror or error}. Choose another `out`.") from error
    write_json_atomically(path / WORST_FILE, _described(found, columns, shown))
    return path


def _write_column(folder: Path, found: Visualisation, column: ByStrength, shown: int) -> dict[str, Any]:
    """Write the images of a column, and return what is said of them."""
    kind = column.name.replace(" ", "").replace("=", "")
    files = []
    for index, pixels in zip(found.indices, to_bytes(column.images[:shown]), strict=False):
        files.append(f"{index:08d}-{kind}.png")
        Image.fromarray(pixels).save(folder / files[-1], "PNG")
    return {
        "files": files,
        "predicted": column.predicted[:shown].tolist(),
        "score": [round(float(score), 6) for score in column.score[:shown]],
    }


def _described(found: Visualisation, columns: list[dict[str, Any]], shown: int) -> dict[str, Any]:
    return {
        "record": found.record,
        "indices": list(found.indices[:shown]),
        "labels": None if found.labels is None else found.labels[:shown].tolist(),
        "class_names": found.class_names,
        "columns": [{**row, **column} for row, column in zip(found.table(), columns, strict=True)],
    }


def sheet(found: Visualisation, shown: int) -> Image.Image:
    """Return one picture: a row an image, its original and each strength across, the model's answer beneath each.

    Above each column are its name, and the accuracy and the PSNR over the whole batch.
    """
    first = found.columns[0].images
    rows, (width, height) = min(shown, len(first)), shown_size(*first.shape[-2:])
    size = max(12, min(20, width // 12))  # px of letters
    font = ImageFont.load_default(size)
    cell, line = (width + MARGIN, height + size + 3 * MARGIN), size + MARGIN
    top = 2 * line + MARGIN
    picture = Image.new("RGB", (len(found.columns) * cell[0] + MARGIN, top + rows * cell[1]), "white")
    draw = ImageDraw.Draw(picture)
    for place, (column, row) in enumerate(zip(found.columns, found.table(), strict=True)):
        left = place * cell[0] + MARGIN
        draw.text((left, MARGIN), column.name, fill="black", font=font)
        draw.text((left, MARGIN + line), _fitting(_figures(row), width, font), fill=PLAIN_COLOUR, font=font)
        for number, pixels in enumerate(to_bytes(column.images[:rows])):
            upper = top + number * cell[1]
            tile = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
            picture.paste(tile, (left, upper))
            answer, colour = _answer(found, column, number)
            draw.text((left, upper + height + 1), _fitting(answer, width, font), fill=colour, font=font)
    return picture


def _figures(row: dict[str, Any]) -> str:
    accuracy = [] if row["accuracy"] is None else [f"{100 * row['accuracy']:.0f} % right"]
    return ", ".join([*accuracy, *([] if row["psnr"] is None else [f"{row['psnr']:.1f} dB"])])


def _answer(found: Visualisation, column: ByStrength, number: int) -> tuple[str, str]:
    """Return what the model says of an image, and its colour."""
    predicted = int(column.predicted[number])
    text = f"{100 * float(column.score[number]):.0f} % {name_of_class(found.class_names, predicted)}"
    if found.labels is None:
        return text, PLAIN_COLOUR
    return text, RIGHT_COLOUR if predicted == int(found.labels[number]) else WRONG_COLOUR


def name_of_class(class_names: Any, label: int) -> str:
    """Return the name of a class, or its number where it has none."""
    if isinstance(class_names, dict):
        return str(class_names.get(str(label), label))
    return str(class_names[label]) if class_names and label < len(class_names) else str(label)


def _fitting(text: str, width: int, font: Any) -> str:
    """Return as much of a text as a width in px holds."""
    if font.getlength(text) <= width:
        return text
    kept = math.floor(len(text) * width / font.getlength(text))
    while kept and font.getlength(text[:kept] + "…") > width:
        kept -= 1
    return text[:kept] + "…"
