"""The table along a stream, in plain text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from statshift._core.tables import table

if TYPE_CHECKING:
    from statshift.results.along import Fall, Trace
    from statshift.tasks.row import Row
    from statshift.tasks.task import Task


def stream_text(rows: "Sequence[Row]", record: Mapping[str, Any], task: "str | Task | None" = None) -> str:
    """Return what stream a run answers, and of each protocol where it fell and what is left on clean images.

    Args:
        rows: the run's.
        record: the run's, with a stream.
        task: for runs of a task of your own, the task itself or py:FILE:NAME.
    """
    from statshift.results.along import traces
    from statshift.results.stream_words import stream_in_words
    from statshift.results.worded import reworded
    from statshift.tasks.choice import task_of

    stream, own = record["stream"], task_of(record, task)
    head = ["protocol", "all", "source", "first quarter", "last quarter", "furthest under", "at"]
    lines = [[*head, "clean afterwards", "source", "difference, 95 %"]]
    lines += [_row(name, trace, stream) for name, trace in traces(rows, stream, own).items()]
    lines = lines if stream["clean_last"] else [line[: len(head)] for line in lines]
    over = "Accuracy in %; quarters of the stream and the furthest in points against the source, over the same images"
    told = "A place in brackets is not significantly under the source."
    return reworded(f"{stream_in_words(record)}\n{over}\n\n{table(lines)}\n\n{told}", own.headline)


def _row(name: str, trace: "Trace", stream: Mapping[str, Any]) -> list[str]:
    images, own, source = trace.total.sum(0)
    quarter = max(1, stream["bins"] // 4)
    gains = trace.gain(slice(quarter)), trace.gain(slice(stream["bins"] - quarter, None))
    left = trace.left
    clean = ["-", "-", "-"]
    if left:
        clean = [
            f"{100 * left.second:.1f}",
            f"{100 * left.first:.1f}",
            f"{100 * left.low:+.1f} to {100 * left.high:+.1f}",
        ]
    return [
        *(name, f"{100 * own / images:.1f}", f"{100 * source / images:.1f}"),
        *("-" if gain is None else f"{100 * gain:+.1f}" for gain in gains),
        *_place(trace.fall, stream["bins"]),
        *clean,
    ]


def _place(fall: "Fall | None", bins: int) -> list[str]:
    if fall is None:
        return ["-", "nowhere"]
    shift, severity = fall.condition
    value = f"{100 * fall.difference:+.1f}"
    span = f"{100 * fall.bin / bins:g} to {100 * (fall.bin + 1) / bins:g} %"
    where = f"{shift} {severity or ''}".strip()
    return [value if fall.certain else f"({value})", f"{where}, {span}"]
