"""The section of images under shift, with what each subject says of them."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statshift._core.errors import InputError
from statshift.report.best import pair
from statshift.report.content import Block, Cell, Column, Picture, Pictures, Prediction, Section, Table
from statshift.report.damage import damaged
from statshift.report.differences import Changes
from statshift.report.scenes import scenes
from statshift.report.strips import strips_of, tile
from statshift.report.subjects import Group, Subject, condition_name
from statshift.report.words import class_name, count_cell, listed, plural
from statshift.results import Row
from statshift.results.conditions import Condition

MOST_OF_KIND = {"mended": 7, "broken": 2, "missed": 2, "others": 1}
"""Pictures of each kind: the reference wrong and another right; the reverse; all wrong; the rest."""

ALONE = {"missed": 9, "others": 3}
"""The same where there is one subject."""

PICTURE_QUALITY = 85
MOST_SUBJECTS = 4
"""Subjects beside a picture."""


@dataclass(frozen=True)
class Candidate:
    """An example image under a condition: its place among the examples, and what the subjects say of it."""

    condition: Condition
    place: int
    predictions: tuple[Prediction, ...]

    @property
    def kind(self) -> str:
        """One of the keys of `MOST_OF_KIND`; "" for the image that nobody was asked about."""
        known = [one.right for one in self.predictions if one.right is not None]
        if len(known) < len(self.predictions[:1]) or self.predictions[0].right is None:
            return ""
        first, *rest = known
        if not first:
            return "mended" if any(rest) else "missed"
        return "others" if all(rest) else "broken"


def section(groups: Sequence[Group], changes: Changes) -> Section | None:
    """Return the section, or None where no run has example images."""
    blocks: list[Block] = []
    text = []
    for group in groups:
        holder = next((one for one in group.sources if strips_of(one)), None)
        if holder is None:
            continue
        with damaged(holder.measured.run.path / "examples"):
            subjects = pair(group, changes, holder, MOST_SUBJECTS)
            if holder.task.shows_maps:
                title = f"Images under shift{f', of {group.data}' if len(groups) > 1 else ''}, truth and predictions"
                block, chosen_so = scenes(holder, subjects, f"images-{group.number + 1}", title)
                blocks += [*([block] if block else []), *_how_often(group, holder, changes)]
                text += [chosen_so] if block else []
                continue
            candidates = _candidates(subjects, holder)
            chosen = choose(candidates, MOST_OF_KIND if len(group.subjects) > 1 else ALONE)
            pictures = _cut(holder, chosen)
        if pictures:
            over = f", of {group.data}" if len(groups) > 1 else ""
            title = f"Images under shift{over}, and the predictions"
            blocks.append(Pictures(f"images-{group.number + 1}", title, tuple(pictures)))
            blocks += _how_often(group, holder, changes)
            text.append(_choice(group, subjects, candidates, len(pictures)))
    return Section("images", "Images", tuple(text), tuple(blocks)) if blocks else None


def choose(candidates: Sequence[Candidate], quotas: Mapping[str, int] = MOST_OF_KIND) -> list[Candidate]:
    """Return the most telling candidates, kind by kind and each in its order: so many, from conditions in turn."""
    chosen: list[Candidate] = []
    for kind, most in quotas.items():
        waiting = [one for one in candidates if one.kind == kind]
        taken: dict[Condition, int] = {}
        seen: dict[int, int] = {}
        while waiting and sum(one.kind == kind for one in chosen) < most:
            best = min(
                range(len(waiting)),
                key=lambda i: (taken.get(waiting[i].condition, 0), seen.get(waiting[i].place, 0), i),
            )
            one = waiting.pop(best)
            taken[one.condition] = taken.get(one.condition, 0) + 1
            seen[one.place] = seen.get(one.place, 0) + 1
            chosen.append(one)
    order = {id(one): place for place, one in enumerate(candidates)}
    return sorted(chosen, key=lambda one: (list(quotas).index(one.kind), order[id(one)]))


def cut(content: bytes, place: int, count: int, side: int) -> str:
    """Return the data: address of one image of a strip of `count`, each `side` px wide.

    Raises:
        ValueError: the content is no image of that size.
    """
    found = tile(content, place, count, side)
    kind = "PNG" if found.format == "PNG" else "JPEG"
    file = io.BytesIO()
    found.save(file, kind, **({"optimize": True} if kind == "PNG" else {"quality": PICTURE_QUALITY}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _candidates(subjects: Sequence[Subject], holder: Subject) -> list[Candidate]:
    """Return every example image under every condition with a strip; the holder's own prediction is the first."""
    examples = holder.measured.run.examples or {}
    strips, labels, names = strips_of(holder), examples["labels"], examples["class_names"]
    found = []
    for condition in holder.conditions:
        if _name(condition) not in strips:
            continue
        for place, position in enumerate(examples["positions"]):
            said = [_predict(one, condition, position, labels[place], names) for one in subjects]
            found.append(Candidate(condition, place, tuple(one for one in said if one is not None)))
    return [one for one in found if one.predictions and one.predictions[0].subject == holder.label]


def _name(condition: Condition) -> str:
    """Return the name of a condition as examples.json has it."""
    shift, severity = condition
    return f"{shift} {severity}" if severity else shift


def _predict(subject: Subject, condition: Condition, position: int, label: int, names: Any) -> Prediction | None:
    """Return what a subject says of the image at a position; None where it was not asked."""
    examples = subject.measured.run.examples
    row = _first_draw(subject, condition)
    if not examples or row is None or "examples" not in row or position not in examples["positions"]:
        return None
    place = examples["positions"].index(position)
    predicted, confidence = row["examples"]["predicted"][place], row["examples"]["confidence"][place]
    if predicted is None:
        return Prediction(subject.label, "adapted on", None, None)
    sure = None if confidence is None else float(confidence)
    return Prediction(subject.label, class_name(predicted, names), sure, predicted == label)


def _first_draw(subject: Subject, condition: Condition) -> Row | None:
    draws = subject.conditions.get(condition)
    return min(draws, key=lambda row: row["draw"]) if draws else None


def _cut(holder: Subject, chosen: Sequence[Candidate]) -> list[Picture]:
    examples, folder = holder.measured.run.examples or {}, holder.measured.run.path / "examples"
    files: dict[str, bytes | None] = {}
    pictures = []
    for one in chosen:
        name = str(examples["strips"][_name(one.condition)])
        path = folder / Path(name).name  # of this folder, whatever the file says
        if name not in files:
            files[name] = path.read_bytes() if path.is_file() else None
        content = files[name]
        if content is None:
            continue
        try:
            source = cut(content, one.place, len(examples["positions"]), int(examples["side"]))
        except ValueError as error:
            raise InputError(f"{path} is damaged: {error}.") from error
        truth = class_name(examples["labels"][one.place], examples["class_names"])
        pictures.append(Picture(source, condition_name(one.condition), truth, one.predictions))
    return pictures


def _choice(group: Group, subjects: Sequence[Subject], candidates: Sequence[Candidate], shown: int) -> str:
    """Return how the pictures were chosen, and how often what they show happens among the examples."""
    of = f"{shown} of {plural(len(candidates), 'example image')} (each under each condition counted)"
    if len(group.subjects) < 2:
        return f"A choice, not a sample: {of}, first those that it gets wrong."
    mended, broken = (sum(one.kind == kind for one in candidates) for kind in ("mended", "broken"))
    first, *others = (one.label for one in subjects)
    left_out = " Other subjects are left out." if len(subjects) < len(group.subjects) else ""
    return (
        f"A choice, not a sample: {of}, first those that {first} gets wrong and {listed(others, conjunction='or')} "
        f"right, which are {mended} of them; the reverse happens {plural(broken, 'time')}.{left_out}"
    )


def _how_often(group: Group, holder: Subject, changes: Changes) -> list[Table]:
    """Return how often each subject alone is right, over all images and conditions, not the examples only."""
    alone = "alone is right" if holder.task.counts_images else "has the higher accuracy"
    columns = (
        Column("subject", numeric=False),
        Column("against", numeric=False),
        Column(f"it {alone}", note="images, over all conditions and draws"),
        Column(f"the other {alone}", note="images, over all conditions and draws"),
    )
    rows = []
    for change in (changes.of(holder, subject) for subject in group.subjects):
        if change:
            conditions = change.comparison.conditions
            counts = sum(one.only_second for one in conditions), sum(one.only_first for one in conditions)
            rows.append((Cell(change.after.label), Cell(holder.label), *map(count_cell, counts)))
    title = f"How often one {alone}, over all images and conditions"
    return [Table(f"alone-right-{group.number + 1}", title, columns, tuple(rows), folded=True)] if rows else []
