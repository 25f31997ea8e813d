"""Small multiples as inline SVG: coordinates and text alone; colours, dashes and fonts are the style sheet's."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from statshift.report.content import Chart, Panel, Series
from statshift.report.marks import classes, decimal, figure_text, marker, visible


@dataclass(frozen=True)
class Frame:
    """Where a panel's values lie: the box of its axes in the drawing's units, and the range of y."""

    width: float
    height: float
    low: float
    high: float
    ticks: tuple[float, ...]
    count: int
    left: float = 28
    right: float = 6
    top: float = 7
    bottom: float = 19
    pad: float = 8

    def x(self, index: int) -> float:
        """Return where the value at an index stands, from left to right."""
        start, end = self.left + self.pad, self.width - self.right - self.pad
        return (start + end) / 2 if self.count < 2 else start + (end - start) * index / (self.count - 1)

    def y(self, value: float) -> float:
        """Return where a value stands, from the top."""
        inner = self.height - self.top - self.bottom
        return self.top + inner * (self.high - value) / (self.high - self.low)


def styles(chart: Chart, subjects: Sequence[str] = ()) -> dict[str, int]:
    """Return the style of each series label: a page's subject has the same one everywhere."""
    labels = list(dict.fromkeys(series.label for panel in chart.panels for series in panel.series))
    if all(label in subjects for label in labels):
        return {label: subjects.index(label) for label in labels}
    return {label: index for index, label in enumerate(labels)}


def legend(label_styles: Mapping[str, int]) -> Markup:
    """Return a list of the series' labels, each beside a piece of its line."""
    items = (
        f'<li><svg class="{classes(style)}" width="34" height="12" viewBox="0 0 34 12" aria-hidden="true">'
        f'<path d="M0 6H34"/>{marker(style, 17, 6)}</svg><bdi>{_text(label)}</bdi></li>'
        for label, style in label_styles.items()
    )
    return Markup(f'<ul class="legend">{"".join(items)}</ul>')


def frame(chart: Chart) -> Frame:
    """Return the axes that a chart's panels share."""
    low, high, ticks = _range(chart)
    width, height = (960.0, 280.0) if chart.wide else (190.0, 132.0)
    left = 10 + 6 * max(len(_tick(tick)) for tick in ticks)
    return Frame(width, height, low, high, ticks, len(chart.x), left=left, pad=10 if chart.wide else 8)


def draw(chart: Chart, panel: Panel, label_styles: Mapping[str, int]) -> Markup:
    """Return one panel as an SVG element.

    A line breaks at a value that is None or not finite. Bounds are a band, or a whisker where a point has no neighbour.
    """
    axes = frame(chart)
    scale = 100 if chart.percent else 1
    parts = [_grid(axes), _x_ticks(chart, axes)]
    drawn = [(series, label_styles[series.label]) for series in panel.series]
    for series, style in drawn:
        parts.append(f'<g class="{classes(style)}">{_bands(series, axes, scale)}</g>')
    for series, style in reversed(drawn):  # The first, to which others are compared, lies on top.
        parts.append(f'<g class="{classes(style)}">{_line(series, axes, scale, style)}</g>')
    parts.extend(_hovers(chart, panel, axes))
    label = f"{chart.title}; {panel.title}: " + "; ".join(_in_words(series, chart.percent) for series in panel.series)
    size = f'viewBox="0 0 {decimal(axes.width)} {decimal(axes.height)}"'
    return Markup(f'<svg class="plot" role="img" {size} aria-label="{_text(label)}">{"".join(parts)}</svg>')


def strip_chart(
    value: float, bounds: tuple[float, float] | None, span: tuple[float, float], reference: float | None
) -> Markup:
    """Return a value and its interval on a line from `span[0]` to `span[1]`, beside a mark at the reference, if any."""
    low, high = span

    def x(place: float) -> str:
        return decimal(4 + 92 * (place - low) / (high - low) if high > low else 50)

    mark = "" if reference is None else f'<path class="r" d="M{x(reference)} 1V13"/>'
    whisker = f'<path class="w" d="M{x(bounds[0])} 7H{x(bounds[1])}"/>' if bounds and _finite(*bounds) else ""
    return Markup(
        '<svg class="strip" width="100" height="14" viewBox="0 0 100 14" aria-hidden="true"><path d="M0 7H100"/>'
        f'{mark}{whisker}<circle cx="{x(value)}" cy="7" r="3"/></svg>'
    )


def _range(chart: Chart) -> tuple[float, float, tuple[float, ...]]:
    """Return the least and greatest y, in percent where the chart is, and the ticks: 0 is always among them."""
    found = [
        number
        for panel in chart.panels
        for series in panel.series
        for number in (*series.values, *series.low, *series.high)
        if number is not None and math.isfinite(number)
    ]
    scale = 100 if chart.percent else 1
    low, high = scale * min([0.0, *found]), scale * max([0.0, *found])
    if chart.percent and low >= 0 and high <= 100:
        return 0.0, 100.0, (0.0, 25.0, 50.0, 75.0, 100.0) if chart.wide else (0.0, 50.0, 100.0)
    step = _step((high - low) or 1.0, 4 if chart.wide else 2)
    first, last = math.floor(low / step), max(math.ceil(high / step), 1)
    return first * step, last * step, tuple(step * index for index in range(first, last + 1))


def _step(span: float, pieces: int) -> float:
    """Return the least of 1, 2, 2.5 and 5 times a power of ten that cuts a span into so many pieces at most."""
    power = 10.0 ** math.floor(math.log10(span / pieces))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * pieces >= span * (1 - 1e-9))


def _grid(axes: Frame) -> str:
    lines = "".join(
        f"M{decimal(axes.left)} {decimal(axes.y(tick))}H{decimal(axes.width - axes.right)}"
        for tick in axes.ticks
        if tick
    )
    zero = f"M{decimal(axes.left)} {decimal(axes.y(0))}H{decimal(axes.width - axes.right)}"
    labels = "".join(
        f'<text x="{decimal(axes.left - 5)}" y="{decimal(axes.y(tick) + 3.5)}">{_tick(tick)}</text>'
        for tick in axes.ticks
    )
    return f'<path class="grid" d="{lines}"/><path class="zero" d="{zero}"/><g class="y">{labels}</g>'


def _x_ticks(chart: Chart, axes: Frame) -> str:
    """Return the labels below, thinned so that none touches the next and shortened where one alone is too long."""
    names = [_shorten(str(visible(name)), 22 if chart.wide else 9) for name in chart.x]
    room = (axes.width - axes.left - axes.right) / max(len(names), 1)
    every = max(1, math.ceil((6.2 * max(map(len, names), default=1) + 6) / room))
    every = next(nice for nice in (1, 2, 3, 4, 5, 10, 20, 50, 100, 1000) if nice >= every or nice == 1000)
    base = axes.height - axes.bottom
    kept = range(0, len(names), every)
    marks = "".join(f"M{decimal(axes.x(index))} {decimal(base)}v3" for index in kept)
    texts = "".join(
        f'<text x="{decimal(axes.x(index))}" y="{decimal(base + 14)}"{_anchor(index, len(names), names[index], axes)}>'
        f"{escape(names[index])}</text>"
        for index in kept
    )
    return f'<path class="zero" d="{marks}"/><g class="t">{texts}</g>'


def _anchor(index: int, count: int, name: str, axes: Frame) -> str:
    """Keep the first and last labels inside of the drawing."""
    half = 3.1 * len(name)
    if index == 0 and half > axes.x(0):
        return ' text-anchor="start"'
    return ' text-anchor="end"' if index == count - 1 and axes.x(index) + half > axes.width else ""


def _runs(values: Sequence[float | None], *others: Sequence[float | None]) -> Iterator[list[int]]:
    """Yield the indices of each stretch over which all are finite."""
    run: list[int] = []
    for index in range(len(values)):
        if all(index < len(numbers) and _finite(numbers[index]) for numbers in (values, *others)):
            run.append(index)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _points(indices: Iterable[int], values: Sequence[float | None], axes: Frame, scale: float) -> str:
    return " ".join(f"{decimal(axes.x(i))},{decimal(axes.y(scale * (values[i] or 0.0)))}" for i in indices)


def _bands(series: Series, axes: Frame, scale: float) -> str:
    parts = []
    for run in _runs(series.values, series.low, series.high):
        if len(run) > 1:
            there, back = (_points(run, series.low, axes, scale), _points(reversed(run), series.high, axes, scale))
            parts.append(f'<polygon points="{there} {back}"/>')
        else:
            ends = _points(run * 2, series.low, axes, scale).split()[0], _points(run, series.high, axes, scale)
            parts.append(f'<polyline class="w" points="{ends[0]} {ends[1]}"/>')
    return "".join(parts)


def _line(series: Series, axes: Frame, scale: float, style: int) -> str:
    parts = []
    every = max(1, math.ceil(axes.count / 24))
    for run in _runs(series.values):
        if len(run) > 1:
            parts.append(f'<polyline points="{_points(run, series.values, axes, scale)}"/>')
        for index in run:
            if index % every == 0 or len(run) == 1:
                parts.append(marker(style, axes.x(index), axes.y(scale * (series.values[index] or 0.0))))
    return "".join(parts)


def _hovers(chart: Chart, panel: Panel, axes: Frame) -> Iterator[str]:
    """Yield for each x a transparent column that says its values."""
    width = (axes.width - axes.left - axes.right) / max(len(chart.x), 1)
    if len(chart.x) > 1:
        width = axes.x(1) - axes.x(0)
    for index, name in enumerate(chart.x):
        lines = [f"{visible(panel.title)}, {visible(name)}"]
        for series in panel.series:
            value = series.values[index] if index < len(series.values) else None
            bounds = ""
            if index < min(len(series.low), len(series.high)) and _finite(series.low[index], series.high[index]):
                low, high = (figure_text(of[index], chart.percent) for of in (series.low, series.high))
                bounds = f" [{low}, {high}]"
            lines.append(f"{visible(series.label)}: {figure_text(value, chart.percent)}{bounds}")
        yield (
            f'<rect x="{decimal(axes.x(index) - width / 2)}" y="0" width="{decimal(width)}" '
            f'height="{decimal(axes.height - axes.bottom)}"><title>{escape(chr(10).join(lines))}</title></rect>'
        )


def _in_words(series: Series, percent: bool) -> str:
    known = [value for value in series.values if _finite(value)]
    if not known:
        return f"{series.label} without values"
    if len(known) == 1:
        return f"{series.label} {figure_text(known[0], percent)}"
    return f"{series.label} from {figure_text(known[0], percent)} to {figure_text(known[-1], percent)}"


def _finite(*numbers: float | None) -> bool:
    return all(number is not None and math.isfinite(number) for number in numbers)


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"


def _tick(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")  # noqa: RUF001


def _text(text: str) -> Markup:
    return escape(visible(text))
