"""What a measurement and a comparison look like where they are printed, and rows as a data frame."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from statshift._core.errors import InputError
from statshift._core.tables import percent, short_table, table
from statshift.results import Row
from statshift.results.family_rows import family_rows, is_telling
from statshift.results.worded import as_accuracy, spelt


def measurement_text(record: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Return a line of what was measured, and tables of each protocol's accuracies in %: the means, and by family."""
    headline = summary.get("headline", "accuracy")
    summary = as_accuracy(summary, headline)
    rows = [["protocol", "images", "clean", "shifted", "mean over"]]
    for name, one in summary["protocols"].items():
        mean, over = one["mean_accuracy"], "15 x 5"
        if mean is None and (some := one["measured_mean"]):
            mean, over = some["accuracy"], some["over"]
        count = one.get("images", summary["images"])
        rows.append([name, str(count), *map(percent, (one["clean_accuracy"], mean)), "-" if mean is None else over])
    model, data = record["model"]["spec"], record["data"]["spec"]
    text = f"Measurement of {model} on {data}: {spelt(headline)} in %\n{short_table(rows)}"
    families = family_rows([*summary["protocols"].values()])
    if not is_telling(families):
        return text
    lines = [["family", "shifts", "severities", *summary["protocols"]]]
    for row in families:
        lines.append(
            [row.label, row.count, row.levels, *(percent(one["accuracy"] if one else None) for one in row.found)]
        )
    return f"{text}\n\n{table(lines)}"


def difference_text(
    images: int, protocols: Sequence[str], differences: Mapping[str, Any], headline: str = "accuracy"
) -> str:
    """Return a line of what is compared, and a table of `Difference`s in %, by name, second less first."""
    rows = [["condition", "first", "second", "difference", "95 % interval"]]
    for name, one in differences.items():
        interval = f"{percent(one.low, '+')} to {percent(one.high, '+')}"
        rows.append([name, percent(one.first), percent(one.second), percent(one.difference, "+"), interval])
    score = "" if headline == "accuracy" else f"{spelt(headline)} "
    return f"Comparison of {' and '.join(protocols)} over {images} images, {score}in %\n{short_table(rows)}"


def data_frame(rows: Sequence[Row]) -> Any:
    """Return a `pandas.DataFrame` with a line for each row: what it is of, its counts, and `accuracy` where counted.

    Raises:
        InputError: pandas is not installed.
    """
    try:
        pandas: Any = import_module("pandas")
    except ImportError:
        raise InputError("The package pandas is needed here: pip install pandas.") from None
    return pandas.DataFrame([_flat(row) for row in rows])


def _flat(row: Row) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        name: value for name, value in row.items() if isinstance(value, str | int | float) and name != "bits"
    }
    return numbers | ({"accuracy": numbers["correct"] / row["images"]} if "correct" in numbers else {})
