"""Streams by name."""

from difflib import get_close_matches
from math import isfinite

from statshift._core.errors import InputError
from statshift.adapting.registry import listed
from statshift.measuring.streams.choices import STREAMS
from statshift.measuring.streams.course import Course
from statshift.measuring.streams.orders import Continual, Dirichlet, Gradual, Independent, Mixed, Sorted
from statshift.measuring.streams.video import Video

_PLAIN: dict[str, type[Course]] = {kind.name: kind for kind in (Independent, Sorted, Mixed, Continual, Gradual, Video)}


def find_course(spec: str) -> Course:
    """Return the course of a stream: "iid", "dirichlet:0.1", "video:16".

    Raises:
        InputError: there is no such stream; the nearest is told.
    """
    name, colon, text = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if name in _PLAIN and not colon:
        return _PLAIN[name]()
    if name == Dirichlet.name and (delta := _number(text)) > 0 and isfinite(delta):
        return Dirichlet(delta)
    if name == Video.name and text.isdecimal() and int(text) >= 2:
        return Video(int(text))
    near = get_close_matches(name.lower(), STREAMS, n=1, cutoff=0.5)
    hint = f" Did you mean {STREAMS[near[0]]}?" if near else ""
    raise InputError(f"Expected `stream` to be {listed(tuple(STREAMS.values()))}, but got {spec!r}.{hint}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
