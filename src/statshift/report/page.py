"""A report's page: one HTML file that needs no other, from a `Page`."""

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from statshift.report import charts, dots, marks
from statshift.report.content import (
    ByRow,
    Chart,
    Column,
    Facts,
    Fold,
    Page,
    Pictures,
    Table,
    Verdict,
    blocks_of,
)
from statshift.report.tiles import Scenes

LEVELS = 12
"""Steps of a table's shading, towards losses and towards gains."""

_SMALL = 64
FEW_VERDICTS = 3
"""Subjects whose rows in the summary have room; more have one line each."""


def render(page: Page) -> str:
    """Return the whole HTML of a page: deterministic, with everything inside it.

    Text is escaped, and its line breaks and control characters are made visible. Beyond that, the policy in the page's
    head lets only the page's own style and script be used: by their hashes, so that a fault here would run nothing.
    """
    style, script = Markup(_asset("page.css") + _shades()), Markup(_asset("page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    anchor = _anchors("main", "summary", "next", "warnings")
    subjects = [verdict.subject for verdict in page.verdicts]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            policy=policy,
            style=style,
            script=script,
            sections=[(anchor(section.name), section) for section in page.sections],
            anchor=anchor,
            markers=marks.markers() if _all_blocks(page, Chart | ByRow) else "",
            strips=_strips(page.verdicts),
            tones=[_tone(verdict, page.verdicts) for verdict in page.verdicts],
            notes=_notes(page.verdicts),
            dense=len(page.verdicts) > FEW_VERDICTS,
            shading=_shading(page),
            draw=charts.draw,
            legend=charts.legend,
            styles=lambda chart: (
                dots.row_styles(chart, subjects) if isinstance(chart, ByRow) else charts.styles(chart, subjects)
            ),
            row=dots.draw_row,
            axis=dots.axis,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("statshift.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=marks.visible,
    )
    environment.tests |= {
        "table": lambda block: isinstance(block, Table),
        "chart": lambda block: isinstance(block, Chart),
        "dots": lambda block: isinstance(block, ByRow),
        "scenes": lambda block: isinstance(block, Scenes),
        "pictures": lambda block: isinstance(block, Pictures),
        "fold": lambda block: isinstance(block, Fold),
        "facts": lambda block: isinstance(block, Facts),
        "container": lambda value: isinstance(value, Mapping | list | tuple),
        "image": lambda source: bool(re.fullmatch(r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/=]*", source)),
    }
    environment.filters |= {
        "number": lambda value: f"{value:.5g}",
        "json": lambda value: value if isinstance(value, str) else json.dumps(value, default=str),
        "coded": _coded,
        "side": _side,
        "tight": _tight,
    }
    return environment


def _asset(name: str) -> str:
    return resources.files("statshift.report").joinpath(name).read_text("utf-8")


def _source(text: str) -> str:
    """Return how a content security policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shades() -> str:
    """Return the rules of the shades: classes, since the policy allows no style attributes."""
    return "".join(
        f".{name}{level}{{background:color-mix(in srgb,var(--{colour}) {100 * level / LEVELS:.0f}%,var(--paper))}}\n"
        for name, colour in (("l", "loss"), ("g", "gain"))
        for level in range(1, LEVELS + 1)
    )


def _anchors(*taken: str) -> Callable[[str], str]:
    """Return a function from names to ids that are valid and unique on the page."""
    used = set(taken)

    def anchor(name: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9-]+", "-", name)[:80].strip("-") or "part"
        found, count = stem, 1
        while found in used:
            count += 1
            found = f"{stem}-{count}"
        used.add(found)
        return found

    return anchor


def _all_blocks(page: Page, kind: Any) -> list[Any]:
    return [block for block in blocks_of(page) if isinstance(block, kind)]


def _tone(verdict: Verdict, verdicts: Sequence[Verdict]) -> tuple[str, str]:
    """Return a sign and words for how a subject compares to the first."""
    if verdict.tone == "good":
        return "▲", "better"
    if verdict.tone == "bad":
        return "▼", "worse"
    if len(verdicts) < 2:
        return "", ""
    if verdict is verdicts[0]:
        return "●", "reference"
    return ("≈", "undecided") if verdict.compared else ("", "not compared with the reference")


def _notes(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Return the figures' explanations by label, each once."""
    return {figure.label: figure.note for verdict in reversed(verdicts) for figure in verdict.figures if figure.note}


def _strips(verdicts: Sequence[Verdict]) -> list[list[Markup | str]]:
    """Return a drawing of each subject's figures over the range of all subjects; "" where it has no number."""
    drawn: list[list[Markup | str]] = [["" for _ in verdict.figures] for verdict in verdicts]
    for place in range(max((len(verdict.figures) for verdict in verdicts), default=0)):
        column = [verdict.figures[place] if place < len(verdict.figures) else None for verdict in verdicts]
        known = [figure for figure in column if figure and figure.value is not None and math.isfinite(figure.value)]
        if len(known) < 2:
            continue
        ends = [number for figure in known for number in (figure.value, *(figure.bounds or ()))]
        finite = [number for number in ends if number is not None and math.isfinite(number)]
        first = known[0].value
        for row, figure in enumerate(column):
            if figure in known and figure and figure.value is not None and first is not None:
                span = (min(finite), max(finite))
                drawn[row][place] = charts.strip_chart(
                    figure.value, figure.bounds, span, first if verdicts[row].compared else None
                )
    return drawn


def _shading(page: Page) -> Callable[[Column, float | None], str]:
    """Return a function from a column and a value to the class of its shade.

    Deep shades are losses: low accuracy, high error, differences below 0. Differences above 0 have another hue. A shade
    means the same in all of a page's tables: errors above 1 share a scale, and so do all differences.
    """
    tables = [*_all_blocks(page, Table), *(chart.table for chart in _all_blocks(page, Chart | ByRow))]
    values: dict[str, list[float]] = {"accuracy": [], "error": [], "difference": []}
    small: set[int] = set()
    for table in tables:
        for place, column in enumerate(table.columns):
            if column.shade in values:
                found = [row[place].value for row in table.rows if place < len(row)]
                finite = [value for value in found if value is not None and math.isfinite(value)]
                if column.shade == "error" and max(finite, default=0.0) <= 1:
                    small.add(id(column))
                else:
                    values[column.shade] += finite
    most = max(values["error"], default=1.0)
    extent = max(map(abs, values["difference"]), default=0.0) or 1.0

    def shade(column: Column, value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return ""
        loss = {
            "accuracy": 1 - value,
            "error": value if id(column) in small else value / most,
            "difference": -value / extent,
        }.get(column.shade, 0.0)
        level = min(round(LEVELS * abs(loss)), LEVELS)
        return f"{'l' if loss > 0 else 'g'}{level}" if level and (loss > 0 or column.shade == "difference") else ""

    return shade


def _coded(text: str) -> Markup:
    """Return a sentence whose words between backticks are code."""
    parts = [escape(marks.visible(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:
        return escape(marks.visible(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else part for index, part in enumerate(parts)
    )


def _tight(text: str) -> str:
    """Return a sentence whose figures, units and intervals no line break parts."""
    return re.sub(r"(?<=\d) (?=%|points)|(?<=\d,) (?=[+-]?\d+\.\d+\])", "\u00a0", text)


def _side(source: str) -> int:
    """Return how wide an image of a data: address is shown; negative where its pixels are to be seen."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            width = image.width
    except (UnidentifiedImageError, ValueError, OSError):
        return 128
    return -_SMALL * 2 if width < _SMALL else min(width, 128)
