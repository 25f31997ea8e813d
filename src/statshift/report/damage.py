"""What is not as it should be in the files of a run: told in one line that names the path."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

from statshift._core.errors import InputError
from statshift.metrics.classification import SEVERITIES
from statshift.results import Row


class DamagedError(InputError):
    """Files of a run or a training that are not as they should be.

    Args:
        message: one line that names the path and the reason.
        path: path of what is damaged.
    """

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Tell of what lies at `path` and is not as it should be in one line.

    Raises:
        DamagedError: in place of what such content raises.
    """
    try:
        yield
    except DamagedError:
        raise
    except InputError as error:
        text = str(error) if str(path) in str(error) else f"{path} cannot be reported: {error}"
        raise DamagedError(text, path) from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, MemoryError) as error:
        raise DamagedError(f"{path} is damaged: {type(error).__name__} {error}.", path) from error


def check_images_of(row: Row, record: Mapping[str, Any]) -> None:
    """Check that a row is over as many images as its condition has: the run's, or those of a set of its own.

    Raises:
        ValueError: it is not.
    """
    name = f"{row['shift']} {row['severity']}" if row["severity"] else row["shift"]
    data = record["sets"][name] if "set" in row else record["data"]
    over = row["images"] + len(row.get("left_out", []))
    if over != data["images"]:
        raise ValueError(
            f"in the row of {row['shift']} {row['severity']}: it is over {over} images, "
            f"the record over {data['images']}"
        )


COUNTED_AS: dict[str, tuple[type, ...]] = {
    "model": (dict,),
    "model.spec": (str,),
    "model.arguments": (dict, NoneType),
    "model.made_by": (dict, NoneType),
    "model.norms": (dict, NoneType),
    "model.preprocessing": (dict, NoneType),
    "data": (dict,),
    "data.spec": (str,),
    "data.images": (int,),
    "data.classes": (int, NoneType),
    "model.preprocessing.mean": (list, NoneType),
    "model.preprocessing.std": (list, NoneType),
    "model.preprocessing.size_multiple": (int, NoneType),
    "data.counts": (dict, NoneType),
    "data.maps": (dict, NoneType),
    "data.pixel_counts": (dict, NoneType),
    "task": (dict, NoneType),
    "task.name": (str, NoneType),
    "task.options": (dict, NoneType),
    "data.counts.skipped": (int, NoneType),
    "data.preprocessing": (dict, NoneType),
    "corruption": (dict,),
    "shifts": (list, NoneType),
    "families": (dict, NoneType),
    "groups": (dict, NoneType),
    "sets": (dict, NoneType),
    "functions": (dict, NoneType),
    "attacks": (dict, NoneType),
    "severities": (list, NoneType),
    "protocols": (dict, list, NoneType),
    "seed": (int, NoneType),
    "environment": (dict, NoneType),
    "environment.versions": (dict, NoneType),
}
"""What a report takes the fields of a record to be."""


def check_record(record: dict[str, Any]) -> None:
    """Check the fields of a record that a report reads.

    Raises:
        TypeError: one is of another type.
    """
    for name, kinds in COUNTED_AS.items():
        value: Any = record
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, kinds):
            raise TypeError(f"in record.json, of `{name}`")
    names = [*(record.get("shifts") or []), *(record.get("protocols") or [])]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("in record.json, of a name in `shifts` or `protocols`")
    levels = [*(record.get("severities") or [])]
    if not all(isinstance(level, int) for level in levels):
        raise TypeError("in record.json, of a number in `severities`")
    for parts in (record.get("protocols"), record.get("attacks")):
        if isinstance(parts, dict) and not all(isinstance(one, dict) for one in parts.values()):
            raise TypeError("in record.json, in `protocols` or `attacks`")


def check_row(row: Row) -> None:
    """Check what a row is the result of.

    Raises:
        ValueError: it cannot be.
    """
    left_out = row.get("left_out", [])
    sound = (
        all(isinstance(row[name], str) for name in ("protocol", "shift"))
        and row["severity"] in (0, *SEVERITIES)
        and isinstance(row["draw"], int)
        and all(isinstance(one, int) and 0 <= one < row["images"] + len(left_out) for one in left_out)
    )
    if not sound:
        raise ValueError(f"in a row of {row['shift']!r}: its condition, draw or images left out")
