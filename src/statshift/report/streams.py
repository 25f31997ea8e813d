"""The section along a stream: each protocol's accuracy by time, where it fell, and what is left on clean images."""

from collections.abc import Mapping, Sequence
from typing import Any

from statshift.metrics.uncertainty import wilson_interval
from statshift.report.content import Cell, Chart, Column, Panel, Section, Series, Table
from statshift.report.damage import damaged
from statshift.report.subjects import Group, Subject, condition_name
from statshift.report.words import (
    ABSENT,
    accuracy_cell,
    bounded_cell,
    count_cell,
    listed,
    percent,
    plural,
    points,
    points_cell,
    short,
)
from statshift.results.along import Fall, Sums, Trace, traces
from statshift.results.stream_words import batches_of_stream, stream_in_words
from statshift.shifts.shift import CLEAN

WIDE_FROM = 2
"""With fewer protocols than this the chart takes the page's width."""

MOST_CONDITIONS = 20
"""Conditions of a passage that are listed."""

Traces = Mapping[Subject, Trace]


def section(groups: Sequence[Group]) -> Section | None:
    """Return the section, or None where no run has a stream."""
    text, blocks = list[str](), list[Chart | Table]()
    number, several = 0, sum(one.stream is not None for group in groups for one in group.sources) > 1
    for group in groups:
        for source in group.sources:
            stream, found = source.stream, _traces(source, group)
            if stream is None or not found:
                continue
            number += 1
            told = (stream_in_words(source.record), _falls(found, stream), _left(found, stream))
            text += [f"{source.model}: {' '.join(filter(None, told))}"] if several else filter(None, told)
            of = f" of {source.model}" if several else ""
            blocks += [_chart(source, found, stream, number, of), _overview(found, stream, number, of)]
    return Section("streams", "Along the stream", tuple(text), tuple(blocks)) if blocks else None


def _traces(source: Subject, group: Group) -> dict[Subject, Trace]:
    stream, run = source.stream, source.measured.run
    if stream is None:
        return {}
    with damaged(run.path):
        found = traces(run.rows, stream, source.task)
    own = {one.protocol: one for one in group.subjects if one.measured is source.measured}
    return {own[name]: trace for name, trace in found.items()}


def _chart(source: Subject, found: Traces, stream: Mapping[str, Any], number: int, of: str) -> Chart:
    panels = tuple(
        Panel(
            short(subject.protocol, 40),
            (_series(subject, trace.total, 2, source.label), _series(subject, trace.total, 1, subject.label)),
        )
        for subject, trace in found.items()
    )
    bins = int(stream["bins"])
    x = tuple(f"{100 * place / bins:g}" for place in range(bins))
    wide = len(panels) < WIDE_FROM
    banded = ", with 95 % intervals" if source.task.counts_images else ""
    title = (
        f"Accuracy along the stream{of}, {batches_of_stream(stream)}, beside the source's over the same images{banded}"
    )
    table = _by_bin(source, found, stream, f"stream-{number}-bins", title)
    note, x_label = _order(stream), "share of the passage, %"
    return Chart(f"stream-{number}", title, x_label, "accuracy, %", x, panels, table, wide=wide, note=note)


def _order(stream: Mapping[str, Any]) -> str:
    """Return which conditions a passage goes through."""
    order = [(str(shift), int(level)) for shift, level in stream.get("order") or ()]
    if not order:
        return "All conditions together, each of which is a passage of its own."
    if stream["kind"] == "mixed":
        return f"{plural(len(order), 'condition')} in one passage."
    return f"In order: {listed([condition_name(one) for one in order], MOST_CONDITIONS)}."


def _series(subject: Subject, sums: Sums, column: int, label: str) -> Series:
    """Return the mean score by bin, of the protocol (1) or of the source (2), with intervals of what is counted."""
    draws = int(subject.summary.get("draws", 1))
    images, values = sums[:, 0] / draws, sums[:, column] / draws
    means = tuple(float(v / n) if n else None for v, n in zip(values, images, strict=True))
    if not subject.task.counts_images:
        return Series(label, means)
    ends = [
        tuple(map(float, wilson_interval(v, n))) if n else (None, None) for v, n in zip(values, images, strict=True)
    ]
    return Series(label, means, tuple(low for low, _ in ends), tuple(high for _, high in ends))


def _by_bin(source: Subject, found: Traces, stream: Mapping[str, Any], name: str, title: str) -> Table:
    bins = int(stream["bins"])
    first = next(iter(found.values()))
    columns = (
        Column("of the passage, %", numeric=False),
        Column("images", note="of the first protocol, all draws"),
        Column("conditions", numeric=False),
        Column(source.label, shade="accuracy", note="over the images of the first protocol"),
        *(Column(subject.label, shade="accuracy") for subject in found),
    )
    rows = []
    for place in range(bins):
        images, _, source_sum = first.total[place]
        there = [condition_name(one) for one, sums in first.sums.items() if sums[place, 0]]
        cells = [accuracy_cell(_mean(trace.total[place], 1)) for trace in found.values()]
        rows.append(
            (
                Cell(_span(place, bins)),
                count_cell(images),
                Cell(listed(there, 3) if stream["kind"] != "mixed" else f"{len(there)}"),
                accuracy_cell(source_sum / images if images else None),
                *cells,
            )
        )
    return Table(name, title, columns, tuple(rows), folded=True)


def _mean(sums: Sums, column: int) -> float | None:
    return float(sums[column] / sums[0]) if sums[0] else None


def _span(place: int, bins: int) -> str:
    return f"{100 * place / bins:g} to {100 * (place + 1) / bins:g}"


def _overview(found: Traces, stream: Mapping[str, Any], number: int, of: str) -> Table:
    bins = int(stream["bins"])
    quarter = max(1, bins // 4)
    clean = any(trace.left for trace in found.values())
    columns = (
        Column("protocol", numeric=False),
        Column("whole stream", shade="accuracy", note="every image counts alike, in %"),
        Column("source", shade="accuracy", note="over the same images, in %"),
        Column("first quarter", shade="difference", note="of the passage, against the source, in points"),
        Column("last quarter", shade="difference", note="of the passage, against the source, in points"),
        Column("where it fell", shade="difference", note="against the source, in points, where that is furthest "
               "beyond noise; in brackets where no place is significantly under it"),
        Column("there", numeric=False, note="condition, and share of the passage"),
        *([Column("clean afterwards", shade="accuracy", note="in %"), Column("forgotten", shade="difference",
           note="on clean images against the source, in points, with a 95 % interval")] if clean else []),
    )  # fmt: skip
    rows = []
    for subject, trace in found.items():
        total = trace.total.sum(0)
        rows.append(
            (
                Cell(short(subject.protocol, 40)),
                accuracy_cell(_mean(total, 1)),
                accuracy_cell(_mean(total, 2)),
                _gain(trace.gain(slice(quarter))),
                _gain(trace.gain(slice(bins - quarter, None))),
                *_place(trace.fall, bins),
                *(_clean(trace) if clean else ()),
            )
        )
    note = "" if clean else _not_known(stream)
    title = f"Along the stream{of}, {batches_of_stream(stream)}"
    return Table(f"stream-{number}-overall", title, columns, tuple(rows), note)


def _gain(value: float | None) -> Cell:
    return Cell(ABSENT) if value is None else Cell(points(value, ""), value)


def _place(fall: Fall | None, bins: int) -> tuple[Cell, Cell]:
    if fall is None:
        return Cell(ABSENT), Cell("nowhere")
    text = points(fall.difference, "")
    where = f"{condition_name(fall.condition)}, {_span(fall.bin, bins)} %"
    return Cell(text if fall.certain else f"({text})", fall.difference), Cell(where)


def _clean(trace: Trace) -> tuple[Cell, Cell]:
    if trace.left is None:
        return Cell(ABSENT), Cell(ABSENT)
    left = trace.left
    return bounded_cell(left.second, None), points_cell(left.difference, (left.low, left.high))


def _falls(found: Traces, stream: Mapping[str, Any]) -> str:
    """Return in words where each protocol fell under the source."""
    sure = [(one, trace.fall) for one, trace in found.items() if trace.fall and trace.fall.certain]
    rest = [short(one.protocol, 40) for one in found if one not in dict(sure)]
    sure.sort(key=lambda pair: pair[1].difference)
    parts = [fall_in_words(one, fall, int(stream["bins"])) for one, fall in sure]
    text = f"Furthest under the source: {'; '.join(parts)}. " if parts else ""
    if rest:
        text += f"No place is significantly under the source for {listed(rest, 12)}."
    return text.rstrip()


def fall_in_words(subject: Subject, fall: Fall, bins: int) -> str:
    """Return where a protocol fell: "tent by 12.0 points under fog 5, at 70 to 75 % of the passage (50 images)"."""
    lost = points(fall.difference).lstrip("+-")
    under = "on clean images" if fall.condition[0] == CLEAN else f"under {condition_name(fall.condition)}"
    images = plural(round(fall.images), "image")
    return f"{short(subject.protocol, 40)} by {lost} {under}, at {_span(fall.bin, bins)} % of the passage ({images})"


def _left(found: Traces, stream: Mapping[str, Any]) -> str:
    """Return in words what is left on clean images at the end."""
    known = [(one, trace.left) for one, trace in found.items() if trace.left]
    if not known:
        return _not_known(stream)
    parts = []
    for one, left in sorted(known, key=lambda pair: pair[1].difference):
        verdict = "" if left.high < 0 or left.low > 0 else ", undecided"
        parts.append(
            f"{short(one.protocol, 40)} {percent(left.second, '')} "
            f"({points(left.difference, '')} [{100 * left.low:+.1f}, {100 * left.high:+.1f}]{verdict})"
        )
    return (
        f"What is left on the clean images at the end, in %, where the source has {percent(known[0][1].first, '')}: "
        + (f"{'; '.join(parts)}.")
    )


def _not_known(stream: Mapping[str, Any]) -> str:
    if stream.get("order"):
        return "Clean images were not among the conditions: what is forgotten on them is not known."
    return "Each condition begins at the source, so nothing is forgotten from one to the next."
