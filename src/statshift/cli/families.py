"""The table by family, in plain text."""

from collections.abc import Iterator, Mapping
from typing import Any

from statshift._core.tables import percent, table
from statshift.results.family_rows import family_rows, is_telling


def families_text(protocols: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the table of the protocols' means by family, where there is more than that of the common corruptions.

    Args:
        protocols: of a summary, in which scores are called accuracies.
    """
    rows = family_rows([*protocols.values()])
    if not is_telling(rows):
        return
    head = ["family", "shifts", "severities"]
    for name, one in protocols.items():
        head += [name, *(["gain"] if "paired_source" in one else [])]
    lines = [[*head, f"hardest ({next(iter(protocols))})"]]
    for row in rows:
        cells = [row.label, row.count, row.levels]
        for one, found in zip(protocols.values(), row.found, strict=True):
            cells.append(_bounded(found))
            if "paired_source" in one:
                cells.append(_bounded(found and found.get("gain"), "+"))
        hardest = row.hardest
        lines.append([*cells, f"{hardest['shift']} {percent(hardest['accuracy'])}" if hardest else "-"])
    yield (
        "Accuracy in % by family, with 95 % intervals: each family has a mean of its own, each set of images stands "
        f"alone, gains are over the same images\n\n{table(lines)}"
    )


def _bounded(found: Mapping[str, Any] | None, sign: str = "") -> str:
    if not found:
        return "-"
    bounds = found["interval"]
    shown = f" [{percent(bounds[0], sign)}, {percent(bounds[1], sign)}]" if bounds else ""
    return f"{percent(found['accuracy'], sign)}{shown}"
