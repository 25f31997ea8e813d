"""What a page holds, as plain data: sections of tables, charts, pictures and facts, before any HTML.

Texts are as they came, from users too: who renders them escapes them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from statshift.report.tiles import Scenes


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        text: what is shown.
        value: what it is sorted and shaded by.
        note: an explanation.
        interval: shown small beside the text, and a column of its own where the table is written as a file.
    """

    text: str
    value: float | None = None
    note: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Column:
    """A table's column.

    Attributes:
        label: its head.
        numeric: aligned right, and sorted by the cells' values.
        shade: "" for none, "accuracy" for values in [0,1] of which 1 is best, "error" for values from 0 of which 0 is
            best, or "difference" for values around 0 of which those above are gains.
        note: an explanation of the head.
    """

    label: str
    numeric: bool = True
    shade: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: unique on a page; letters, digits and hyphens. A file's name where the table is written as one.
        title: what it shows, over what and in which unit.
        columns: from left to right.
        rows: each as long as `columns`.
        note: beneath it.
        folded: shown when it is asked for.
        footer: how many of the last rows sum up the others: they stay where they are when a reader sorts.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    folded: bool = False
    footer: int = 0


@dataclass(frozen=True)
class Series:
    """A line of a chart: y over the chart's x; None is a gap. `low` and `high` bound it where they are known."""

    label: str
    values: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Panel:
    """One of a chart's small multiples."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Chart:
    """Small multiples over the same axes; the same label is the same subject in each panel.

    Attributes:
        name: unique on a page; letters, digits and hyphens.
        title: what it shows, over what.
        x_label: label of the horizontal axis.
        y_label: label of the vertical axis, with the unit.
        x: where the values are, in order, as text.
        panels: at least one.
        table: the same figures as a table.
        percent: values are fractions, shown in percent from 0 to 100.
        wide: one panel takes the page's width.
        note: beneath it.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    x: tuple[str, ...]
    panels: tuple[Panel, ...]
    table: Table
    percent: bool = True
    wide: bool = False
    note: str = ""


@dataclass(frozen=True)
class Prediction:
    """What one subject says of a picture; `right` is None where that is not known, as of images adapted on."""

    subject: str
    text: str
    confidence: float | None
    right: bool | None


@dataclass(frozen=True)
class Picture:
    """An image under a shift: a data: address, what it shows, and what each subject says of it."""

    source: str
    title: str
    truth: str
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side, which `title` explains."""

    name: str
    title: str
    pictures: tuple[Picture, ...]
    folded: bool = False


@dataclass(frozen=True)
class Facts:
    """A nested mapping of JSON types, shown whole: the record of a run."""

    name: str
    title: str
    values: Mapping[str, Any]
    folded: bool = True


@dataclass(frozen=True)
class ByRow:
    """A chart of a row for each of `labels`, on which each series has a mark; drawn in percent from 0 to 100.

    Attributes:
        name: unique on a page; letters, digits and hyphens.
        title: what it shows, over what.
        x_label: label of the axis, with the unit.
        labels: one for each row.
        series: values by row; None where there is none.
        table: the same figures as a table.
        note: beneath it.
    """

    name: str
    title: str
    x_label: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]
    table: Table
    note: str = ""


Block = Table | Chart | ByRow | Pictures | Scenes | Facts


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown together when they are asked for."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Section:
    """A part of the page: an anchor, a heading, paragraphs of plain text, and blocks."""

    name: str
    title: str
    text: tuple[str, ...] = ()
    blocks: tuple[Block | Fold, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A number of the summary: its name, its value with unit, its interval or "", and an explanation.

    Attributes:
        label: its name.
        text: its value with unit.
        interval: as text, or "".
        note: an explanation.
        value: the same as a number, drawn on an axis that a page's subjects share; None for no drawing.
        bounds: ends of the interval, drawn with `value`.
        difference: to the first subject, signed, in points, or "".
    """

    label: str
    text: str
    interval: str = ""
    note: str = ""
    value: float | None = None
    bounds: tuple[float, float] | None = None
    difference: str = ""


@dataclass(frozen=True)
class Verdict:
    """One subject in the summary.

    Attributes:
        subject: model and protocol.
        figures: the same ones, in the same order, for every subject of a page; absent ones say "-".
        sentence: what sets it apart, in words.
        tone: "good" where it is significantly better than the first subject, "bad" where it is worse, else "".
        compared: whether it could be compared with the first subject, or is that.
        best: whether it is the one to take, of a page's subjects.
        choice: what the one to take is called, where that is not "best".
    """

    subject: str
    figures: tuple[Figure, ...]
    sentence: str = ""
    tone: str = ""
    compared: bool = True
    best: bool = False
    choice: str = ""


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: title of the page.
        lead: what was measured, on what, in a sentence or two.
        verdicts: the summary, read in ten seconds.
        advice: what to do next, each with its reason.
        warnings: what to know before the numbers are quoted.
        sections: the rest.
        made_by: name and version of the software.
        headline: what happened, in one sentence.
    """

    title: str
    lead: str
    verdicts: tuple[Verdict, ...]
    advice: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    sections: tuple[Section, ...] = field(default=())
    made_by: str = ""
    headline: str = ""


def blocks_of(page: Page) -> Iterator[Block]:
    """Yield the blocks of a page in order, those in folds among them."""
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, Fold):
                yield from block.blocks
            else:
                yield block
