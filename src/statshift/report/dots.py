"""Charts of a row for each class as inline SVG: each subject a mark, joined by a line."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from statshift.report.content import ByRow
from statshift.report.marks import classes, decimal, figure_text, marker, visible

WIDTH, ROW = 360.0, 20.0
_LEFT, _RIGHT = 4.0, 10.0


def row_styles(chart: ByRow, subjects: Sequence[str] = ()) -> dict[str, int]:
    """Return the style of each series label: a page's subject has the same one everywhere."""
    labels = [series.label for series in chart.series]
    return {
        label: subjects.index(label) if label in subjects else place
        for place, label in enumerate(dict.fromkeys(labels))
    }


def draw_row(chart: ByRow, place: int, label_styles: Mapping[str, int]) -> Markup:
    """Return one row's marks as an SVG element; what lies at no value is left out."""
    known = [(one.label, value) for one in chart.series if (value := one.values[place]) is not None]
    lines = [f"{visible(label)}: {figure_text(value, True)}" for label, value in known]
    told = escape("\n".join([f"{visible(chart.labels[place])}", *lines]))
    ends = sorted(_x(value) for _, value in known)
    span = f'<path class="span" d="M{decimal(ends[0])} 10H{decimal(ends[-1])}"/>' if len(ends) > 1 else ""
    marks = "".join(
        f'<g class="{classes(label_styles[label])}">{marker(label_styles[label], _x(value), 10)}</g>'
        for label, value in reversed(known)
    )
    grid = "".join(f"M{decimal(_x(tick / 100))} 0V20" for tick in (0, 25, 50, 75, 100))
    return Markup(
        f'<svg class="plot dots" role="img" viewBox="0 0 {decimal(WIDTH)} {decimal(ROW)}" aria-label="{told}">'
        f'<title>{told}</title><path class="grid" d="{grid}"/>{span}{marks}</svg>'
    )


def axis() -> Markup:
    """Return the axis below the rows."""
    texts = "".join(f'<text x="{decimal(_x(tick / 100))}" y="12">{tick}</text>' for tick in (0, 25, 50, 75, 100))
    return Markup(
        f'<svg class="plot dots" viewBox="0 0 {decimal(WIDTH)} 16" aria-hidden="true"><g class="t">{texts}</g></svg>'
    )


def _x(value: float) -> float:
    return _LEFT + 6 + (WIDTH - _LEFT - _RIGHT - 12) * value
