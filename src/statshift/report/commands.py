"""Commands that a reader may run next, quoted for a shell."""

import ast
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from statshift.adapting.registry import FEW_KINDS
from statshift.metrics.classification import SEVERITIES
from statshift.models.pixel import IMAGENET_MEAN, IMAGENET_STD
from statshift.report.subjects import Subject
from statshift.shifts.corruptions.frost import PROCEDURAL
from statshift.shifts.registry import GROUPS
from statshift.shifts.stored import read_shifted

WEIGHTS = "WEIGHTS"
TARGET = "folder:TARGET"
OWN = "py:FILE:FUNCTION"
BY_AUTHORS = ((None, None), (256, 224))
"""Resizing and cropping that need no option."""

USUAL_BATCH = 32
"""Images of a stream's batch that need no option."""

Words = list[object]


def measure(subject: Subject, *words: object, out: str = "", limit: int | None = None) -> str:
    """Return the command that goes on with a subject's run, with further words; or a like one into `out`."""
    record = subject.record
    corruption, preprocessing = record["corruption"], record["data"].get("preprocessing") or {}
    parts: Words = ["measure", *model(record), "--data", record["data"]["spec"]]
    asked = record.get("asked") or {}
    wanted = int(record["data"]["images"] if limit is None else limit)
    parts += ["--limit", wanted] if wanted < asked.get("available", math.inf) else []
    if "--shifts" not in words and not read_shifted(corruption):
        parts += _shifts(record)
    severities = sorted(record.get("severities") or [])
    parts += ["--severities", ",".join(map(str, severities))] if severities not in ([], [1, 2, 3, 4, 5]) else []
    if corruption.get("at") == "model":
        parts += ["--corrupt-at", "model"]
    elif not asked and (preprocessing.get("resize"), preprocessing.get("crop")) not in BY_AUTHORS:
        parts += _given(preprocessing, "resize", "crop")
    parts += [*loading(record), *_given(asked, "split", "groups", "task", "table", "baseline", "alexnet", "ligs")]
    parts += ["--frost", PROCEDURAL] if corruption.get("frost") == PROCEDURAL else _given(asked, "frost")
    parts += _given(asked, "decoder", "styles", "encoder", "alpha", "style_size")
    parts += ["--full-argmax"] if asked.get("full_argmax") else []
    parts += ["--reencode"] if corruption.get("reencode") else []
    parts += ["--no-quantise"] if corruption.get("quantise") is False else []
    parts += ["--scale-constants", "no"] if corruption.get("scale_constants") is False else []
    parts += ["--dtype", record["dtype"]] if record.get("dtype", "float32") != "float32" else []
    parts += ["--seed", record["seed"]] if record.get("seed") else []
    parts += [] if out else _stream(record)
    return join(*parts, *words, "--out", out or subject.measured.run.path)


def loading(record: Mapping[str, Any], *, labelled: bool = True) -> Words:
    """Return the options that load images as a record's were; those without labels need no map of them.

    Images with label maps keep their own size; without, a folder's are loaded at it.
    """
    asked = {**(record.get("asked") or {})}
    data = record.get("data") or {}
    if data.get("maps") and not labelled:
        asked.setdefault("resize", min(data["shape"][1:]))
    names = ("class_map", "ignore_index", "label_map") if labelled else ()
    parts = _given(asked, "resize", "crop", "interpolation", *names)
    return parts + (["--skip-bad"] if asked.get("skip_bad") else [])


def _stream(record: Mapping[str, Any]) -> Words:
    """Return the options for a record's stream and its batches, which go on with it alone."""
    stream = record.get("stream")
    if not stream:
        return []
    return ["--stream", stream["spec"], *(["--samples", stream["batch"]] if stream["batch"] != USUAL_BATCH else [])]


def _given(values: Mapping[str, Any], *names: str) -> Words:
    """Return options with their values, of those names that have one."""
    return [
        word
        for name in names
        if values.get(name) not in (None, "")
        for word in (f"--{name.replace('_', '-')}", values[name])
    ]


def beside(subject: Subject, word: str) -> str:
    """Return the path of another run beside a subject's, by its name and a word: "runs/r50-more"."""
    path = subject.measured.run.path
    path = path.resolve() if path.name in ("", "..") else path
    return str(path.with_name(f"{path.name}-{word}"))


def adapting(record: Mapping[str, Any], protocols: Sequence[str], draws: int = 0) -> Words:
    """Return the options that adapt as a record says: `--rectify`, and the numbers that are not the defaults.

    Args:
        record: a run's.
        protocols: names.
        draws: in place of the record's.
    """
    asked = record.get("asked") or {}
    known = record.get("protocols")
    described = {name: known.get(name) or {} if isinstance(known, Mapping) else {} for name in protocols}
    if not described:
        return []
    parts: Words = ["--rectify", ",".join(OWN if "function" in one else name for name, one in described.items())]
    first = dict(next(iter(described.values())))
    if record.get("stream"):
        first.pop("samples", None)  # that is its batch, which `measure` names
    for name, default in (("samples", 32), ("statistics", "both"), ("where", "all")):
        parts += [f"--{name}", first[name]] if first.get(name, default) != default else []
    parts += ["--unbiased"] if first.get("unbiased") else []
    draws = draws or asked.get("draws", 1)
    parts += [*(["--draws", draws] if draws > 1 else []), *_given(asked, "reset_every", "clean_data")]
    held_out = [one for one in described.values() if one.get("kind") in FEW_KINDS]
    seen = held_out and not record.get("stream") and str(held_out[0].get("evaluated_on", "")).startswith("all")
    return parts + (["--include-adaptation"] if seen else [])


def model(record: Mapping[str, Any], branch: str = "--branch") -> Words:
    """Return the options that name a record's model; weights of which no file is known are WEIGHTS.

    Args:
        record: of a run.
        branch: what the verb calls the option for the branch of a checkpoint.
    """
    described, asked = record["model"], record.get("asked")
    spec = str(described["spec"])
    parts: Words = ["--model", spec]
    zoo = spec.startswith(("timm:", "torchvision:"))
    if asked:
        parts += [*_given(asked, "weights"), *([branch, asked["branch"]] if asked.get("branch") else [])]
    elif not zoo or described.get("made_by"):
        parts += ["--weights", WEIGHTS]
    for name, value in (described.get("arguments") or {}).items():
        parts += ["--model-args", f"{name}={_literal(str(value))}"]
    preprocessing = described.get("preprocessing") or {}
    for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        value = preprocessing.get(name)
        if value and tuple(value) != default and (asked or not zoo):
            parts += [f"--{name}", ",".join(map(str, value))]
    return parts + _given(preprocessing, "size_multiple")


def join(*words: object) -> str:
    """Return a command of statshift, each word quoted as a POSIX shell needs it."""
    return " ".join(["statshift", *(shlex.quote(str(word)) for word in words)])


def _shifts(record: Mapping[str, Any]) -> Words:
    """Return the option for the shifts of a record; a user's own of which no file is known is left out."""
    shifts, sets = record.get("shifts") or [], record.get("sets") or {}
    own = {*(record.get("functions") or {})} | {
        name for name in shifts if sets.keys() & {name, *(f"{name} {level}" for level in SEVERITIES)}
    }
    places = (record.get("asked") or {}).get("functions") or {}
    asked = (str(places.get(name, name)) for name in shifts if name not in own or name in places)
    names = list(dict.fromkeys(asked))
    if shifts and not names:
        return ["--shifts", OWN]  # without the option others would be measured
    there, spelled = {*names}, set[str]()
    for group, members in GROUPS.items():
        if {*members} <= there and not {*members} <= spelled:  # two groups may share a shift
            place = next(names.index(name) for name in members if name in names)
            names = [name for name in names if name not in members]
            names.insert(min(place, len(names)), group)
            spelled |= {*members}
    return [] if names in ([], ["clean", "common"]) else ["--shifts", ",".join(map(str, names))]


def _literal(text: str) -> str:
    """Return what an argument's representation stands for: text without its quotes, else the representation."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, str) else text
