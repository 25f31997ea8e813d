"""What `statshift measure --dry-run` prints."""

from typing import TYPE_CHECKING

from statshift._core.tables import table
from statshift.cli.progress import duration

if TYPE_CHECKING:
    from statshift.measuring.planning import Forecast


def forecast_text(told: "Forecast") -> str:
    """Return a table of the passes, and lines of seconds, memory and disk."""
    from statshift.measuring.profile import shares_text

    before = f"; {told.finished_before} rows are there already" if told.finished_before else ""
    if not told.passes:
        return f"Nothing to measure{before}."
    rows = [["protocol", "passes", "images", "forwards", "backwards"]]
    for name, one in told.protocols.items():
        numbers = (one.passes, one.images, one.forwards, one.backwards)
        rows.append([name, *(f"{number:,.0f}" for number in numbers)])
    held = {"memory": told.memory, "GPU memory": told.device_memory, "disk": told.disk}
    sizes = ", ".join(f"{size_text(size)} of {what}" for what, size in held.items() if size is not None)
    at_once = f" in {told.processes} processes" if told.processes > 1 else ""
    return "\n".join(
        [
            table(rows),
            "",
            f"About {duration(told.seconds)} on {told.device}{at_once}{before}.",
            f"{shares_text(told.parts)}; {told.images / told.seconds:,.0f} images/s.",
            f"{sizes}.",
            f"Told by a trial of {duration(told.trial)}; nothing was measured or written.",
        ]
    )


def size_text(size: int) -> str:
    """Return bytes for people: "3.1 MB", "12 GB"."""
    value, unit = float(size), "bytes"
    for bigger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, bigger
    return f"{value:.3g} {unit}"
