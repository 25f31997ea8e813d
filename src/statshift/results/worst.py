"""The folder of worst-case images beside a run, which `visualise` writes and a report shows."""

from pathlib import Path
from typing import Any

from statshift._core.storage import read_json

WORST_CASES, WORST_FILE, SHEET = "worst-cases", "worst-cases.json", "sheet.png"


def read_worst_cases(run: Path) -> dict[str, Any] | None:
    """Return what is said of the worst-case images of a run; None where it has none.

    Raises:
        InputError: the file is damaged.
    """
    return read_json(run / WORST_CASES / WORST_FILE)
