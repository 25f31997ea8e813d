"""Example images of label maps: each under a condition, its true classes, and those that subjects see."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from statshift._core.errors import InputError
from statshift.report import palette
from statshift.report.classes import names_of
from statshift.report.strips import crop, strips_of, tile
from statshift.report.subjects import Subject, condition_name
from statshift.report.tiles import Scenes, Tile
from statshift.report.words import class_name, listed, percent, plural
from statshift.results.conditions import Condition
from statshift.tasks.row import Row, kept_positions

MOST_SCENES = {"gained": 4, "lost": 1, "alike": 1}
"""Scenes of each kind: where another subject's score of the image is higher than the first's, lower, or neither."""

APART = 0.05
"""Scores of an image are higher by at least this."""

LabelMap = NDArray[np.uint8]


@dataclass(frozen=True)
class MapSeen:
    """What a subject sees: classes (h,w), and its score of the image; both None of one that it adapted on."""

    subject: Subject
    classes: LabelMap | None
    score: float | None


@dataclass(frozen=True)
class ShownMap:
    """An example image under a condition."""

    condition: Condition
    place: int
    seen: tuple[MapSeen, ...]

    @property
    def gain(self) -> float | None:
        """By how much the best other's score is above the first's; None where one of the two is not known."""
        first, *others = [one.score for one in self.seen]
        known = [one for one in others if one is not None]
        return None if first is None or not known else max(known) - first

    @property
    def kind(self) -> str:
        """One of the keys of `MOST_SCENES`."""
        gain = self.gain or 0.0
        return "gained" if gain >= APART else "lost" if gain <= -APART else "alike"


def scenes(holder: Subject, subjects: Sequence[Subject], name: str, title: str) -> tuple[Scenes | None, str]:
    """Return the most telling scenes, and in words how they were chosen; None where there are none."""
    candidates = list(_candidates(holder, subjects))
    chosen = choose_maps(candidates)
    painted = [made for one in chosen if (made := _scene(holder, one))]
    if not painted:
        return None, ""
    occur = sorted({label for _, _, labels in painted for label in labels})
    names, (classes, ignored) = names_of(holder), _classes(holder)
    legend = [
        Tile(palette.swatch(label, classes, ignored), class_name(label, names))
        for label in occur
        if label < classes and label != ignored
    ]
    if any(label >= classes or label == ignored for label in occur):
        told = "left out" if ignored is None else f"left out (labelled {ignored})"
        legend.append(Tile(palette.swatch(255, classes, ignored), told))
    shown = tuple((heading, tiles) for heading, tiles, _ in painted)
    return Scenes(name, title, tuple(legend), shown), _choice(subjects, candidates, len(shown))


def choose_maps(candidates: Sequence[ShownMap]) -> list[ShownMap]:
    """Return those with the largest differences of each kind, each image and each condition in turn; clean ones first.

    One at least is clean where there is one: of an image that is shown under a shift too, if it can be.
    """
    chosen: list[ShownMap] = []
    for kind, most in MOST_SCENES.items():
        waiting = sorted((one for one in candidates if one.kind == kind), key=lambda one: -abs(one.gain or 0))
        while waiting and sum(one.kind == kind for one in chosen) < most:
            best = min(
                waiting,
                key=lambda one: (
                    sum(one.condition == other.condition for other in chosen),
                    sum(one.place == other.place for other in chosen),
                ),
            )
            waiting.remove(best)
            chosen.append(best)
    unshifted = [one for one in candidates if one.condition[0] == "clean"]
    if unshifted and not any(one in unshifted for one in chosen):
        places = [one.place for one in chosen]
        chosen.append(min(unshifted, key=lambda one: places.index(one.place) if one.place in places else len(places)))
    return sorted(chosen, key=lambda one: one not in unshifted)


def _candidates(holder: Subject, subjects: Sequence[Subject]) -> Iterator[ShownMap]:
    examples = holder.measured.run.examples or {}
    strips = strips_of(holder)
    for condition in holder.conditions:
        if _name(condition) not in strips:
            continue
        for place, position in enumerate(examples["positions"]):
            found = [_see(one, condition, position, examples["sizes"][place]) for one in subjects]
            seen = tuple(one for one in found if one is not None)
            if seen and seen[0].subject is holder:
                yield ShownMap(condition, place, seen)


def _name(condition: Condition) -> str:
    shift, severity = condition
    return f"{shift} {severity}" if severity else shift


def _see(subject: Subject, condition: Condition, position: int, size: Sequence[int]) -> MapSeen | None:
    """Return what a subject sees of the image at a position; None where it was not asked."""
    examples, draws = subject.measured.run.examples, subject.conditions.get(condition)
    row: Row | None = min(draws, key=lambda one: one["draw"]) if draws else None
    if not examples or row is None or "examples" not in row or position not in examples["positions"]:
        return None
    stored: Any = row["examples"]["predicted"][examples["positions"].index(position)]
    if stored is None:
        return MapSeen(subject, None, None)
    place = int(np.flatnonzero(kept_positions(row) == position)[0])
    return MapSeen(subject, subject.task.shown_map(stored, size), float(subject.task.image_scores(row)[place]))


def _scene(holder: Subject, one: ShownMap) -> tuple[str, tuple[Tile, ...], set[int]] | None:
    """Return a scene's title, its pictures and which labels are in them; None where there is no picture."""
    examples, folder = holder.measured.run.examples or {}, holder.measured.run.path / "examples"
    path = folder / Path(str(strips_of(holder)[_name(one.condition)])).name
    if not path.is_file():
        return None
    size, side = examples["sizes"][one.place], int(examples["side"])
    try:
        pixels = crop(tile(path.read_bytes(), one.place, len(examples["positions"]), side), size)
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}.") from error
    truth = holder.task.shown_map(examples["labels"][one.place], size)
    image = Tile(_jpeg(pixels), "image", words=f"example image {one.place + 1}, {condition_name(one.condition)}")
    tiles, found = [image, _painted(holder, truth, "truth", "")], set(np.unique(truth).tolist())
    for seen in one.seen:
        if seen.classes is None:
            tiles.append(Tile("", seen.subject.label, "adapted on"))
            continue
        tiles.append(_painted(holder, seen.classes, seen.subject.label, f"{percent(seen.score)} accuracy"))
        found |= set(np.unique(seen.classes).tolist())
    return f"{condition_name(one.condition)}, image {one.place + 1}", tuple(tiles), found


def _painted(holder: Subject, labels: LabelMap, title: str, text: str) -> Tile:
    classes, ignored = _classes(holder)
    names, (values, counts) = names_of(holder), np.unique(labels, return_counts=True)
    order = [int(values[place]) for place in np.argsort(-counts, kind="stable") if values[place] != ignored]
    words = listed([class_name(label, names) for label in order], 4)
    return Tile(palette.png(palette.paint(labels, classes, ignored)), title, text, f"{title}: {words}")


def _classes(subject: Subject) -> tuple[int, int | None]:
    """Return how many classes there are, and which label is none."""
    scores = subject.task.class_scores(next(iter(subject.conditions.values())))
    return 0 if scores is None else len(scores), subject.task.ignored


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _choice(subjects: Sequence[Subject], candidates: Sequence[ShownMap], shown: int) -> str:
    """Return how the scenes were chosen, and how often what they show happens among the examples."""
    of = f"{shown} of {plural(len(candidates), 'example image')} (each under each condition counted)"
    pixels = "Maps are reduced to every few pixels; scores below them are of the whole image alone."
    if len(subjects) < 2:
        return f"A choice, not a sample: {of}. {pixels}"
    gained, lost = (sum(one.kind == kind for one in candidates) for kind in ("gained", "lost"))
    first, *others = (one.label for one in subjects)
    return (
        f"A choice, not a sample: {of}, mostly those on which the accuracy of {listed(others, conjunction='or')} is at "
        f"least {100 * APART:.0f} points above that of {first}, which are {gained} of them; all are at least as far "
        f"below in {lost}. {pixels}"
    )
