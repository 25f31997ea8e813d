"""A run's stream in words: what it is, in which batches it comes, and where protocols begin at the source again."""

from collections.abc import Mapping
from typing import Any

KINDS_OF_STREAM = {
    "iid": "each condition is a stream of its own, its images shuffled",
    "sorted": "each condition is a stream of its own, one class after another",
    "dirichlet": "each condition is a stream of its own, its classes in runs",
    "video": "each condition is a stream of its own, of few scenes in many near-copies",
    "continual": "all conditions one after another",
    "gradual": "all conditions one after another, the severity of each rising and falling",
    "mixed": "the images of all conditions shuffled into one stream",
}


def name_of_stream(stream: Mapping[str, Any]) -> str:
    """Return what a stream is called in a sentence: "a dirichlet:0.1 stream"."""
    spec = str(stream["spec"])
    return f"{'an' if spec[:1] in 'aeiou' else 'a'} {spec} stream"


def batches_of_stream(stream: Mapping[str, Any]) -> str:
    """Return in which batches a stream comes."""
    return f"batches of {_plural(int(stream['batch']), 'image')}"


def stream_in_words(record: Mapping[str, Any]) -> str:
    """Return in a sentence what stream the record of a run with one tells of."""
    stream = record["stream"]
    what = KINDS_OF_STREAM.get(str(stream["kind"]), "an order of its own")
    last = ", clean images last" if stream["clean_last"] else ""
    name = name_of_stream(stream)
    return f"{name[:1].upper()}{name[1:]} in {batches_of_stream(stream)}: {what}{last}; {resets(record)}."


def resets(record: Mapping[str, Any]) -> str:
    """Return when protocols begin at the source again, but for those that reset themselves."""
    every = (record.get("asked") or {}).get("reset_every")
    after = f"after every {_plural(int(every), 'batch', 'batches')}" if every else ""
    if record["stream"].get("order"):
        return f"protocols begin at the source again {after}" if after else "no reset is made within it"
    return f"protocols begin at the source again at each condition{f', and {after}' if after else ''}"


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
