"""What an analysis is: a value with what it needs, its run, and the table of what it finds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from statshift.recipes.description import NOT_PRINTED, Rows, counted, in_percent, name_of
from statshift.recipes.sources import Figures

Published = Mapping[str, Figures | None]


def line_for_each_figure(published: Published, found: Mapping[str, Any]) -> Rows:
    """Return a row for each figure, and a column for each model."""
    ours = {label: one["analysis"]["figures"] for label, one in found.items()}
    rows = [["", *ours, *(["published"] if published else [])]]
    for name in dict.fromkeys(name for figures in ours.values() for name in figures):
        cells = [f"{figures[name]:.3g}" if name in figures else "-" for figures in ours.values()]
        rows.append([name_of(name), *cells, *([NOT_PRINTED] if published else [])])
    return rows


def line_for_each_label(published: Published, found: Mapping[str, Any]) -> Rows:
    """Return a row for each model, whose columns are models too, ours and theirs in %."""
    ours = {label: one["analysis"]["figures"] for label, one in found.items()}
    names = list(dict.fromkeys(name for figures in ours.values() for name in figures))
    rows = [["features of", *names, *(f"their {name}" for name in names)]]
    for label, figures in ours.items():
        rows.append([label, *(in_percent(figures.get(name)) for name in names), *theirs(published, label, names)])
    return rows


def theirs(published: Published, label: str, columns: Sequence[str]) -> list[str]:
    """Return the published figures of a label, in %; "-" is where there is none."""
    figures = published.get(label, {})
    if figures is None:
        return [NOT_PRINTED] * max(1, len(columns))
    return [in_percent(figures.get(column)) for column in columns] or ["-"]


def over_images(summary: str, found: Mapping[str, Any]) -> str:
    """Return the sentence on what was looked at, and on how many images."""
    images = ", ".join(f"{count:,}" for count in sorted({one["analysis"]["images"] for one in found.values()}))
    return f"{summary.capitalize()}; over {images} images."


def one_look(count: int) -> str:
    """Return what it costs to look at some models."""
    return f"{counted(count, 'models')}, one look each at 1,000 images"


@dataclass(frozen=True)
class Analysis:
    """An analysis, as `ANALYSES` names it.

    Attributes:
        run: given the recipe and what it is run with, returns what it finds by label.
        requires: what it must have, by the arguments of `run_recipe`; none: it needs nothing, labels neither.
        takes: what may be given besides.
        cost: given the number of labels, says how much is done.
        expected: what the authors say, where it is no figure.
        data_spec: how its data are named, where that is not as the data set is.
        rows: given the published figures and what it found, returns the table.
        over: given the registry's summary and what it found, says what was looked at.
    """

    run: Callable[[Any, Any], dict[str, Any]]
    requires: tuple[str, ...] = ("data", "out")
    takes: tuple[str, ...] = ()
    cost: Callable[[int], str] = one_look
    expected: str = ""
    data_spec: str = ""
    rows: Callable[[Published, Mapping[str, Any]], Rows] = line_for_each_figure
    over: Callable[[str, Mapping[str, Any]], str] = over_images
