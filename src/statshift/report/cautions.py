"""What to know before a report's numbers are quoted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from statshift.adapting.registry import DRAWN_KINDS, FEW_KINDS
from statshift.metrics.uncertainty import wilson_interval
from statshift.report.findings import no_mce
from statshift.report.reading import Measured
from statshift.report.subjects import Group, Subject
from statshift.report.words import listed, percent, plural, short
from statshift.results.stream_words import stream_in_words
from statshift.shifts.corruptions import REENCODE_QUALITY
from statshift.shifts.corruptions.frost import PROCEDURAL
from statshift.shifts.registry import family_of
from statshift.shifts.stored import read_shifted

FEWER_THAN_A_RUN = 1000
"""Fewer images than these make wide intervals."""

SMALL_BATCH = 16
"""Batches of fewer images than this are warned of."""

BENCHMARKS = {
    "imagenet": ("ImageNet-C", 50_000),
    "cifar10": ("CIFAR-10-C", 10_000),
    "cifar100": ("CIFAR-100-C", 10_000),
}
"""By AlexNet's table, the benchmark that published figures are of, and its number of images."""


OF_CORRUPTION = (
    (
        "stored",
        True,
        "The shifted images were read as they are stored; ImageNet-C's are JPEGs, from which images made on the fly "
        "differ.",
    ),
    (
        "at",
        "model",
        "Images were corrupted at the model's own input size, not at 224 px: another test than the benchmark's.",
    ),
    (
        "reencode",
        True,
        f"Corrupted images were made JPEGs of quality {REENCODE_QUALITY} and read again, as ImageNet-C's files.",
    ),
    ("quantise", False, "Corrupted pixels were not rounded to 8 bits, as the benchmark's are."),
    (
        "scale_constants",
        False,
        "The corruptions' constants are ImageNet's as they stand, not scaled with the images, as Cityscapes-C is made: "
        "the larger an image, the milder a blur of so many pixels.",
    ),
)
"""What is to be known where a record's corruption has a value in a field."""


def warnings(measured: Sequence[Measured], groups: Sequence[Group]) -> tuple[str, ...]:
    """Return the warnings of a report; what holds of several runs is said once."""
    found: dict[str, list[str]] = {}
    for rule in CAUTION_RULES:
        for group in groups:
            for source in group.sources:
                for text in rule(source, group):
                    found.setdefault(text, []).append(source.model)
    count = sum(len(group.sources) for group in groups)
    texts = [f"{text} ({listed(models, 3)})" if len(models) < count else text for text, models in found.items()]
    empty = [str(one.run.path) for one in measured if not one.run.rows]
    if empty:
        texts.insert(0, f"No condition is finished in {listed(empty)}: left out.")
    return (*_incomparable(groups), *texts, *_differing(groups))


def missing(subject: Subject) -> tuple[int, int]:
    """Return how many of the rows that a run's record asks for are there, and how many these are."""
    record, rows = subject.record, subject.measured.run.rows
    severities = record.get("severities") or [0]
    wanted = 0
    for shift in record.get("shifts") or []:
        graded = family_of(shift) in ("corruption", "c-bar", "own")
        own = (record.get("own_severities") or {}).get(shift, severities)
        single = not graded or not own or any(row["shift"] == shift and not row["severity"] for row in rows)
        wanted += 1 if single else sum(level in own for level in severities)
    if read_shifted(record["corruption"]):  # data may store fewer severities than were asked for
        wanted = len({(row["shift"], row["severity"]) for row in rows if row["protocol"] == "source"})
    passes = sum(
        max([row["draw"] + 1 for row in rows if row["protocol"] == protocol], default=1)
        for protocol in record.get("protocols") or ["source"]
    )
    return len(rows), max(wanted * passes, len(rows))


def near_chance(subject: Subject) -> bool:
    """Return whether the clean accuracy is hardly above that of guessing, or the task doubts it."""
    if not subject.task.counts_images:
        return _doubt(subject) is not None
    data, value = subject.record["data"], subject.summary["clean_accuracy"]
    if value is None or not data.get("classes"):
        return False
    low, _ = wilson_interval(value * subject.images, subject.images)
    chance = 1 / int(data["classes"])
    return float(low) < chance + 0.05 * (1 - chance)


def _incomparable(groups: Sequence[Group]) -> Iterator[str]:
    for group in groups[1:]:
        models = listed([one.model for one in group.sources])
        yield (
            f"Not comparable with {groups[0].reference.model}, and not compared: {models}. What differs: "
            f"{listed(group.differing, 4)}."
        )


def _incomplete(subject: Subject, _: Group) -> Iterator[str]:
    there, wanted = missing(subject)
    if there < wanted:
        yield f"The run is not finished: {there:,} of {wanted:,} rows are there. The same command goes on with it."


def _chance(subject: Subject, _: Group) -> Iterator[str]:
    if not subject.task.counts_images:
        doubt = _doubt(subject)
        if doubt:
            yield doubt
    elif near_chance(subject):
        clean = percent(subject.summary["clean_accuracy"])
        yield (
            f"Clean accuracy is {clean} with {subject.record['data']['classes']} classes, near chance: are the weights "
            "trained ones, do the labels mean the model's classes, is the preprocessing that of the training, or are "
            "these images shifted already?"
        )


def _doubt(subject: Subject) -> str | None:
    draws = subject.conditions.get(("clean", 0))
    return subject.task.doubt(draws[0], 0) if draws else None


def _few_images(subject: Subject, _: Group) -> Iterator[str]:
    images = subject.measured.summary["images"]
    if images < FEWER_THAN_A_RUN:
        low, high = wilson_interval(images / 2, images)
        widest = float(high - low) if subject.task.counts_images else _widest(subject)
        yield (f"{images:,} images are few: the 95 % interval of one condition is up to ± {50 * widest:.1f} points.")


def _widest(subject: Subject) -> float:
    """Return the width of the widest interval of a condition."""
    found = [subject.task.condition_interval(draws) for draws in subject.conditions.values()]
    return max(high - low for low, high in found)


def _subset(subject: Subject, _: Group) -> Iterator[str]:
    images = subject.measured.summary["images"]
    name, whole = BENCHMARKS.get(str(subject.record.get("alexnet")), ("", 0))
    if images < whole:
        yield (
            f"Published figures are over the {whole:,} images of {name}; these are over {images:,} images of "
            f"{short(str(subject.record['data']['spec']))}."
        )


def _no_mce(subject: Subject, _: Group) -> Iterator[str]:
    if subject.summary["mce"] is None and subject.shifts:
        yield _without_mce(subject)


def _without_mce(subject: Subject) -> str:
    count = subject.summary["mean_over"]
    if count["conditions"] < count["of"]:
        return f"No mean accuracy or mCE: they need all {count['of']} conditions; {count['conditions']} were measured."
    return f"There is no mCE: {no_mce(subject)}."


def _frost(subject: Subject, _: Group) -> Iterator[str]:
    if subject.record["corruption"].get("frost") == PROCEDURAL and "frost" in subject.summary["per_shift"]:
        yield (
            "Frost is a procedural texture, not the benchmark's photographs, so frost and the means are not comparable "
            "with published ones."
        )


def _corruption(subject: Subject, _: Group) -> Iterator[str]:
    made = subject.record["corruption"]
    yield from (text for name, value, text in OF_CORRUPTION if made.get(name) == value)


def _stylised(subject: Subject, _: Group) -> Iterator[str]:
    if names := list(subject.record.get("stylised") or {}):
        yield (
            f"Images under {listed(names)} were made here, of other styles and by another decoder: they are not "
            "Stylized-ImageNet, and figures of published columns of that name do not stand beside these."
        )


def _dtype(subject: Subject, _: Group) -> Iterator[str]:
    dtype = subject.record.get("dtype", "float32")
    if dtype != "float32":
        yield f"The model ran in {short(str(dtype))}: single predictions may differ from those in float32."


def _skipped(subject: Subject, _: Group) -> Iterator[str]:
    skipped = (subject.record["data"].get("counts") or {}).get("skipped")
    if skipped:
        yield f"{plural(skipped, 'image file')} could not be read and {'was' if skipped == 1 else 'were'} left out."


def _stream(subject: Subject, _: Group) -> Iterator[str]:
    stream = subject.stream
    if stream is None:
        return
    yield (
        f"{stream_in_words(subject.record)} Every image is answered when it comes, and none is held out. In another "
        "order or by other batches the figures of what adapts are others."
    )
    if stream["batch"] < SMALL_BATCH:
        yield f"Batches of {plural(stream['batch'], 'image')} are small: statistics of so few are noisy."
    if "copies" in stream:
        yield (
            f"Each scene comes in {stream['copies']} near-copies, which are no further evidence: intervals and tests "
            "take them for images of their own, and are too sure."
        )


def _adaptation(subject: Subject, group: Group) -> Iterator[str]:
    if subject.stream is not None:
        yield from _one_order(subject, group)
        return
    own = [one for one in group.subjects if one.adapted and one.measured is subject.measured]
    protocols = subject.record.get("protocols")
    described: Mapping[str, Any] = protocols if isinstance(protocols, Mapping) else {}
    single = [one.protocol for one in own if one_draw(one, described)]
    if single:
        yield (
            f"Adapted on one draw of images only ({listed([short(name, 40) for name in single])}): how much the result "
            "depends on which images these are is not known."
        )
    few = {described[one.protocol]["samples"] for one in own if _samples(described.get(one.protocol)) in range(1, 16)}
    if few:
        counts = listed([str(count) for count in sorted(few)])
        yield f"Adapted on few images ({counts}): results vary with the draw."
    seen = [
        one.protocol
        for one in own
        if str(described.get(one.protocol, {}).get("evaluated_on", "")).startswith("all")
        and described[one.protocol].get("kind") in FEW_KINDS
    ]
    if seen:
        yield f"Evaluated on the images adapted on, too: {listed([short(name, 40) for name in seen])}."


def _one_order(subject: Subject, group: Group) -> Iterator[str]:
    own = [one for one in group.subjects if one.adapted and one.measured is subject.measured]
    if own and all(one.summary.get("draws", 1) == 1 for one in own):
        yield "The stream was answered in one order: how much the results depend on it is not known."


def one_draw(subject: Subject, described: Mapping[str, Any]) -> bool:
    """Return whether a protocol adapted on a few images, chosen once."""
    kind = described.get(subject.protocol, {}).get("kind", "")
    return kind in DRAWN_KINDS and subject.summary.get("draws", 1) == 1


def _samples(described: Any) -> int:
    value = described.get("samples") if isinstance(described, Mapping) else None
    return value if isinstance(value, int) else 0


def _differing(groups: Sequence[Group]) -> Iterator[str]:
    for group in groups:
        for name, read in COMPARED.items():
            values = {source.model: read(source.record) for source in group.sources}
            if len(set(values.values())) > 1:
                told = [f"{short(value)} ({model})" for model, value in values.items()]
                yield f"Runs that are compared differ in their {name}: {listed(told)}."
        hashes: dict[str, list[str]] = {}
        for source in group.sources:
            hashes.setdefault(str(source.record["model"].get("weights_hash")), []).append(source.model)
        for models in hashes.values():
            if len(models) > 1 and hashes.keys() != {"None"}:
                yield f"The same weights were measured several times: {listed(models)}."


def _version_of(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda record: str(((record.get("environment") or {}).get("versions") or {}).get(name))


COMPARED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "dtype": lambda record: str(record.get("dtype")),
    "device": lambda record: str((record.get("environment") or {}).get("device")),
    "version of statshift": _version_of("statshift"),
    "version of torch": _version_of("torch"),
}

CAUTION_RULES: tuple[Callable[[Subject, Group], Iterator[str]], ...] = (
    _incomplete,
    _chance,
    _few_images,
    _subset,
    _no_mce,
    _frost,
    _corruption,
    _stylised,
    _dtype,
    _skipped,
    _stream,
    _adaptation,
)


def has_batch_norms(subject: Subject) -> bool:
    """Return whether the model has batch norms; a record of old does not tell and is taken to say so."""
    norms = subject.record["model"].get("norms")
    return norms is None or any("BatchNorm" in str(name) for name in norms)


def drop_of(subject: Subject) -> float | None:
    """Return by how much the accuracy falls from clean to shifted images, in the mean."""
    clean, shifts = subject.summary["clean_accuracy"], subject.averaged
    if clean is None or not shifts:
        return None
    return float(clean) - fmean(subject.summary["per_shift"][name]["accuracy"] for name in shifts)
