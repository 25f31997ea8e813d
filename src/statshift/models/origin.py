"""Where weights come from: what statshift wrote of them into their file's header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METADATA = "statshift"
"""The name under which a file's header holds the record, as JSON."""

LONGEST_ORIGIN = 120
"""Characters kept of a value: a file's header is anybody's text."""


def read_made_by(path: str | Path) -> dict[str, str] | None:
    """Return how statshift made the weights in a file; None for a file that it did not write, or that cannot be read.

    Returns:
        As `made_by`.
    """
    return made_by(read_header(path))


def read_header(path: str | Path) -> Any:
    """Return the record that statshift wrote into a file's header; None where there is none, or no such file."""
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get(METADATA, "null"))
    except (SafetensorError, OSError, ValueError, RecursionError):
        return None


def made_by(record: Any) -> dict[str, str] | None:
    """Return in short what a record of hardened, trained or rectified weights says; None for anything else.

    Args:
        record: as `harden` and `write_rectified` write it beside weights.

    Returns:
        `verb` ("harden", "train" or "rectify"), `from` (hash of the weights that it began with), and as they apply
        `method`, `at` and `branch`, or `protocol`.
    """
    hardening, protocol = _part(record, "hardening"), _part(record, "protocol")
    begun = _part(record, "model").get("weights_hash")
    if hardening:
        verb = "train" if record.get("verb") == "train" else "harden"
        found = {
            "verb": verb,
            "method": hardening.get("method"),
            "branch": record.get("branch"),
            "at": hardening.get("at"),
        }
    elif protocol:
        found = {"verb": "rectify", "protocol": protocol.get("name")}
    else:
        return None
    texts = {name: value for name, value in (found | {"from": begun}).items() if isinstance(value, str)}
    return {name: "".join(filter(str.isprintable, value[:LONGEST_ORIGIN])) for name, value in texts.items()}


def _part(record: Any, name: str) -> Mapping[str, Any]:
    part = record.get(name) if isinstance(record, Mapping) else None
    return part if isinstance(part, Mapping) else {}
