"""A report's figures as one table for other programs: a row for each run, protocol and condition, plain numbers."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from statshift.report.differences import Changes
from statshift.report.subjects import Group, Subject
from statshift.results.conditions import average_draws
from statshift.tasks.figures import Difference

TIDY_COLUMNS = (
    *("run", "model", "protocol", "shift", "severity", "images", "draws", "accuracy", "low", "high", "error"),
    *("difference_to_source", "difference_low", "difference_high", "mce", "mce_low", "mce_high"),
)
MEAN_OF_BENCHMARK = "mean of 15 x 5"
"""The shift of the row with a subject's mean over the benchmark."""

TidyRow = Mapping[str, str | int | float | None]


def tidy(groups: Sequence[Group], changes: Changes) -> str:
    """Return CSV with `TIDY_COLUMNS` as its head, draws averaged; of another task the accuracy has its score's name.

    Fractions are in [0,1] with six significant digits, and intervals 95 %; a cell is empty where there is no such
    figure. What has no severities has severity 0, as in rows.jsonl. Differences are to the same run's source, over the
    same images.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, TIDY_COLUMNS, lineterminator="\n")
    names = {subject.task.headline for group in groups for subject in group.subjects}
    word = names.pop() if len(names) == 1 else "score"
    writer.writerow({name: name.replace("accuracy", word) for name in TIDY_COLUMNS})
    for group in groups:
        for subject in group.subjects:
            for row in _rows(subject, group, changes):
                writer.writerow({name: _plain(value) for name, value in row.items()})
    return file.getvalue()


def _rows(subject: Subject, group: Group, changes: Changes) -> Iterator[TidyRow]:
    """Yield the rows of a subject: each condition, then the mean over the benchmark where it was measured."""
    run = {"run": str(subject.measured.run.path), "model": subject.model, "protocol": subject.protocol}
    source = next((one for one in group.sources if one.measured is subject.measured), None)
    change = changes.of(source, subject) if source else None
    found = {(one.shift, one.severity): one.accuracy for one in change.comparison.conditions} if change else {}
    for (shift, severity), draws in subject.conditions.items():
        task, images = subject.task, draws[0]["images"]
        score = average_draws(draws, task)[task.headline]
        yield {
            **run,
            **{"shift": shift, "severity": severity, "images": images, "draws": len(draws)},
            **_accuracy(score, task.condition_interval(draws)),
            **_difference(found.get((shift, severity))),
        }
    summary = subject.summary
    if summary["mean_accuracy"] is not None:
        ends = summary["mce_interval"] or (None, None)
        yield {
            **run,
            **{"shift": MEAN_OF_BENCHMARK, "images": subject.images, "draws": summary.get("draws", 1)},
            **_accuracy(summary["mean_accuracy"], summary["mean_interval"]),
            **_difference(change.comparison.mean_accuracy if change else None),
            **{"mce": summary["mce"], "mce_low": ends[0], "mce_high": ends[1]},
        }


def _accuracy(value: float, bounds: Sequence[float]) -> TidyRow:
    return {"accuracy": value, "low": bounds[0], "high": bounds[1], "error": 1 - value}


def _difference(found: Difference | None) -> TidyRow:
    if found is None:
        return {}
    return {"difference_to_source": found.difference, "difference_low": found.low, "difference_high": found.high}


def _plain(value: str | int | float | None) -> str | int | None:
    return f"{value:.6g}" if isinstance(value, float) else value
