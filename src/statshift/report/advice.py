"""What to do next, as far as the numbers carry it: each with its reason and a command."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from statshift.adapting.registry import WRITTEN_KINDS
from statshift.hardening.registry import METHODS
from statshift.report import commands
from statshift.report.best import adaptations, best, is_better, preferred, ranked
from statshift.report.cautions import drop_of, has_batch_norms, missing, near_chance, one_draw
from statshift.report.differences import Change, Changes, conditions_in_words
from statshift.report.findings import partial_mean
from statshift.report.layers import readouts
from statshift.report.subjects import Group, Subject
from statshift.report.words import amount, interval, listed, percent, points, short
from statshift.results.stream_words import batches_of_stream
from statshift.shifts.registry import KINDS
from statshift.tasks.figures import Difference

MOST_ADVICE = 5
WIDE = 0.01
"""Half an interval wider than this asks for more images."""

BROKEN_BELOW = 0.1
"""An attack that leaves less than this share right has broken a model."""

AGAINST_SHIFTS, PLAIN, AGAINST_ATTACKS = (METHODS[name] for name in ("advbn", "standard", "adversarial"))
"""The methods that it advises."""

DROP = 0.02
"""A fall of the accuracy under shift that is worth doing something about."""


def advice(groups: Sequence[Group], changes: Changes) -> tuple[str, ...]:
    """Return at most five pieces of advice on the runs of the first group, the most useful first."""
    group, found = groups[0], list[str]()
    for rule in ADVICE_RULES:
        found += rule(group, changes)
    return tuple(found[:MOST_ADVICE])


def _then(text: str, command: str) -> str:
    return f"{text} Run: {command}"


def _finish(group: Group, _: Changes) -> Iterator[str]:
    for source in group.sources:
        there, wanted = missing(source)
        if there < wanted:
            protocols = [name for name in source.record.get("protocols") or [] if name != "source"]
            words = commands.adapting(source.record, protocols)
            yield _then(
                f"Finish {source.the_model}: {there:,} of {wanted:,} rows are there, and what is finished is kept.",
                commands.measure(source, *words),
            )
            return


def _check_weights(group: Group, _: Changes) -> Iterator[str]:
    for source in group.sources:
        if near_chance(source):
            share, counted = percent(source.summary["clean_accuracy"]), source.task.counts_images
            near = f"{share} on clean images" if counted else f"{share} accuracy on clean images"
            yield _then(
                f"Check weights, labels and preprocessing of {source.the_model} before anything else: with {near} it "
                "is near chance, or these images are shifted already.",
                commands.measure(source, "--shifts", "clean", out=commands.beside(source, "check")),
            )
            return


def _take_the_best(group: Group, changes: Changes) -> Iterator[str]:
    """Of several models, the best: the reference's own best protocol where no other is significantly better."""
    found = best(group, changes)
    if len(group.sources) < 2 or found is None or found.mean is None:
        return
    mean, cost = found.mean, found.clean.accuracy if found.clean else None
    price = f", but on clean images it costs {_cost(cost)}" if cost and cost.high < 0 else ""
    over = "over the 15 x 5" if found.whole else f"({found.name})"
    gained = amount(mean.low, mean.difference, mean.high)
    yield (
        f"Best choice: {found.after.label}, {percent(mean.second)} mean accuracy {over}, {gained} above "
        f"{group.reference.the_model}{price}.{_level(found, group, changes)}"
    )


def _level(found: Change, group: Group, changes: Changes) -> str:
    """Return which of the three next are statistically tied with the best, and by how much one is higher."""
    others = [one for one in ranked(group, changes) if one is not found][:3]
    level = [one for one in others if not is_better(found, one, changes)]
    text = ""
    direct = changes.of(found.after, level[0].after) if level else None
    if direct and direct.mean and direct.mean.difference > 0:
        mean, lost = direct.mean, level[0].lost
        but = "not significantly" if mean.low <= 0 else f"but is significantly worse under {conditions_in_words(lost)}"
        text = f" {level.pop(0).after.label} is higher by {amount(mean.low, mean.difference, mean.high)}, {but}."
    return f"{text} Statistically tied: {listed([one.after.label for one in level])}." if level else text


def _cost(found: Difference) -> str:
    return amount(-found.high, -found.difference, -found.low)


def _rectify(group: Group, changes: Changes) -> Iterator[str]:
    """What measured protocols tell; one that was not measured, where the layers or the accuracies tell of a shift."""
    source = group.reference
    own = adaptations(source, group)
    told = [change for one in own if (change := changes.of(source, one)) and change.mean]
    taken = preferred(told)
    if taken and source.stream:
        yield _along(taken, source)
        yield from _forgetful(told, source)
    elif taken:
        yield _protocol(taken, source)
        yield from _harmful(told)
    elif not own and has_batch_norms(source) and not near_chance(source):
        yield from _try_rectifying(source)


def _protocol(found: Change, source: Subject) -> str:
    mean, name = found.mean, short(found.after.protocol, 40)
    assert mean is not None
    if found.tone == "bad":
        return (
            f"Do not rectify {source.the_model}: the best protocol measured, {name}, costs {_cost(mean)} in the mean."
        )
    gained = amount(mean.low, mean.difference, mean.high)
    if found.tone == "":
        return f"Rectifying {source.the_model} is not worth it so far: {name} changes the mean by {gained}."
    text = (
        f"Rectify {source.the_model} by {name} only while a shift lasts: it gains {gained} in the mean, but is "
        f"significantly worse under {conditions_in_words(found.lost)}."
        if found.lost
        else f"Rectify {source.the_model} by {name}: it gains {gained} in the mean, and {_nowhere_worse(found)}."
    )
    protocols = source.record.get("protocols")
    described = protocols.get(found.after.protocol, {}) if isinstance(protocols, Mapping) else {}
    if described.get("kind", "layers") not in WRITTEN_KINDS:
        return text  # nothing that could be written as weights
    protocol = commands.OWN if "function" in described else found.after.protocol
    data = ["--data", commands.TARGET, *commands.loading(source.record, labelled=False)]
    words = [*data, "--protocol", protocol, "--out", "rectified.safetensors"]
    return _then(text, commands.join("rectify", *commands.model(source.record), *words))


def _along(found: Change, source: Subject) -> str:
    """Whether to adapt on such a stream; no weights are written of it."""
    mean, name = found.mean, short(found.after.protocol, 40)
    assert mean is not None
    such = f"on such a stream in {batches_of_stream(source.stream or {})}"
    if found.tone == "bad":
        return f"Do not adapt {source.the_model} {such}: the best protocol measured, {name}, costs {_cost(mean)}."
    gained = amount(mean.low, mean.difference, mean.high)
    if found.tone == "":
        return f"Adapting {source.the_model} {such} is not worth it so far: {name} changes the mean by {gained}."
    also = (
        f"but is significantly worse under {conditions_in_words(found.lost)}"
        if found.lost
        else f"and {_nowhere_worse(found)}"
    )
    return f"Adapt {source.the_model} by {name} {such}: it gains {gained} in the mean, {also}."


def _forgetful(told: Sequence[Change], source: Subject) -> Iterator[str]:
    """The protocol that is worst on the clean images after a stream, or without a shift where each is its own."""
    lost = [change for change in told if change.clean and change.clean.accuracy.high < 0]
    worst = min(lost, key=lambda one: one.clean.accuracy.difference if one.clean else 0.0, default=None)
    if worst is None or worst.clean is None:
        return
    name, cost = short(worst.after.protocol, 40), _cost(worst.clean.accuracy)
    if source.stream and source.stream["clean_last"]:
        yield f"Begin {name} at the source again after such a stream: on the clean images at its end it costs {cost}."
    else:
        yield f"Keep {name} away from unshifted images: on clean ones it costs {cost}."


def _nowhere_worse(found: Change) -> str:
    conditions = found.comparison.conditions
    if not found.gained:
        return f"each of the {len(conditions)} conditions alone is undecided"
    lowest = min(conditions, key=lambda one: one.accuracy.difference)
    least = f"; the least is {conditions_in_words([lowest])}" if lowest.accuracy.difference < 0 else ""
    return f"no condition is significantly worse{least}"


def _harmful(told: Sequence[Change]) -> Iterator[str]:
    """A protocol that hurts clean images."""
    for change in told:
        clean = change.clean.accuracy if change.clean else None
        if clean and clean.high < 0:
            others = [
                one.after.protocol for one in told if one is not change and one.clean and one.clean.accuracy.high >= 0
            ]
            instead = f"; {short(others[0], 40)} does not, significantly" if others else ""
            yield (
                f"Keep {short(change.after.protocol, 40)} away from unshifted images: on clean ones it costs "
                f"{_cost(clean)}{instead}."
            )
            return


def _try_rectifying(source: Subject) -> Iterator[str]:
    reached = [name for name, one in readouts(source.measured).items() if one["persisting"] > 0]
    command = commands.measure(source, "--rectify", "auto")
    if reached:
        largest = readouts(source.measured)[reached[0]]["number"]
        text = (
            f"Try rectifying {source.the_model}: under {listed(list(map(short, reached)), 3)} a shift reaches the last "
            f"layers (up to {largest:.1f} x sampling noise), and no protocol was measured."
        )
        yield _then(text, command)
        return
    drop = drop_of(source)
    if not source.measured.run.layers and drop is not None and drop > DROP:
        yield _then(
            f"Try rectifying {source.the_model}: accuracy falls by {points(drop).lstrip('+')} from clean to shifted "
            "images, and no protocol was measured.",
            command,
        )


def _harden(group: Group, _: Changes) -> Iterator[str]:
    """The family of corruptions that is worst, of a model that was not hardened."""
    source = group.reference
    drop = drop_of(source)
    hardened = any((one.record["model"].get("made_by") or {}).get("verb") == "harden" for one in group.sources)
    if hardened or drop is None or drop <= DROP or near_chance(source):
        return
    means = {}
    for name, members in KINDS.items():
        found = [source.summary["per_shift"][one]["accuracy"] for one in source.shifts if one in members]
        if found:
            means[name] = sum(found) / len(found)
    if not means:
        return
    worst = min(means, key=lambda name: means[name])
    model = commands.model(source.record, "--weights-branch")
    text = f"Harden {source.the_model}: it does worst under {worst} ({percent(means[worst])}, clean "
    text += f"{percent(source.summary['clean_accuracy'])}). "
    if has_batch_norms(source):
        words = [*_training(source), "--method", AGAINST_SHIFTS.name, "--at", "LAYER", "--out", "hardened"]
        text += f"{AGAINST_SHIFTS.title} trains it against worst-case feature statistics; "
        text += "`statshift layers` lists where it can be cut."
    else:
        words = [*_training(source), "--method", PLAIN.name, "--augment", "augmix", "--out", "hardened"]
        text += "It has no batch norm to rectify: what is left is to train it on with augmentation, such as AugMix."
    yield _then(text, commands.join("harden", *model, *words))


def _attacked(group: Group, _: Changes) -> Iterator[str]:
    source = group.reference
    for name in source.attacks:
        found = source.summary["per_shift"][name]
        if found["intervals"][0][1] < BROKEN_BELOW:
            model = commands.model(source.record, "--weights-branch")
            words = [*_training(source), "--method", AGAINST_ATTACKS.name, "--out", "robust"]
            rest = "of the images right" if source.task.counts_images else "accuracy"
            yield _then(
                f"If attackers matter, train {source.the_model} adversarially: {short(name)} leaves "
                f"{percent(found['accuracy'])} {interval(found['intervals'][0])} {rest}.",
                commands.join("harden", *model, *words),
            )
            return


def _more_images(group: Group, _: Changes) -> Iterator[str]:
    source = group.reference
    whole = source.summary["mean_accuracy"] is not None
    partial = partial_mean(source, group.shared)
    bounds = source.summary["mean_interval"] if whole else partial[1] if partial else source.summary["clean_interval"]
    if not bounds:
        return
    half = (bounds[1] - bounds[0]) / 2
    if half > WIDE:
        needed = images_for(half, source.images)
        what = "mean accuracy" if whole or partial else "clean accuracy"
        text = (
            f"Measure on more images: the {what} is known to ± {100 * half:.1f} points from {source.images:,}; about "
            f"{needed:,} would make it ± {100 * WIDE:.0f}"
        )
        available = (source.record.get("asked") or {}).get("available")
        if available is None:
            text += ", if there are so many."
        elif available <= source.images:
            yield f"{text}, but these are all there are: add some."
            return
        else:
            text += f"; there are {available:,}." if available < needed else "."
        limit = min(needed, available or needed)
        yield _then(text, commands.measure(source, out=commands.beside(source, "more"), limit=limit))


def images_for(half: float, images: int, wanted: float = WIDE) -> int:
    """Return how many images make half an interval's width `wanted`, to two figures, rounded up."""
    needed = images * (half / wanted) ** 2
    unit = 10.0 ** max(0, math.floor(math.log10(needed)) - 1)
    return int(math.ceil(needed / unit) * unit)


def _more_draws(group: Group, changes: Changes) -> Iterator[str]:
    source = group.reference
    protocols = source.record.get("protocols")
    if not isinstance(protocols, dict):
        return
    own = adaptations(source, group)
    single = [one for one in own if one_draw(one, protocols) and (change := changes.of(source, one)) and change.tone]
    if single:
        words = commands.adapting(source.record, [one.protocol for one in single], draws=5)
        other = "in other orders" if source.stream else "with other images to adapt on"
        yield _then(
            f"Repeat {listed([short(one.protocol, 40) for one in single])} {other}: one draw does not tell how much "
            "the difference depends on them.",
            commands.measure(source, *words),
        )


def _training(source: Subject) -> list[object]:
    """Return the words of a command that trains a subject's model on images like its own."""
    return ["--data", source.task.training_images, *commands.loading(source.record)]


ADVICE_RULES: tuple[Callable[[Group, Changes], Iterator[str]], ...] = (
    _check_weights,
    _finish,
    _take_the_best,
    _rectify,
    _harden,
    _attacked,
    _more_draws,
    _more_images,
)
