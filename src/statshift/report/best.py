"""Which subject is the one to take, which protocol is a model's best, and what happened in one sentence."""

import math
from collections.abc import Sequence

from statshift.comparison import compare
from statshift.report.differences import Change, Changes
from statshift.report.findings import partial_mean
from statshift.report.subjects import Group, Subject
from statshift.report.words import amount, percent, plural, short


def best(group: Group, changes: Changes) -> Change | None:
    """Return what sets the best subject apart from the reference; None where none is surely better."""
    found = preferred([change for one in group.subjects if (change := changes.to_reference(one))])
    return found if found and found.tone == "good" else None


def best_protocol(source: Subject, group: Group, changes: Changes) -> Change | None:
    """Return what the best of a run's protocols changes, surely or not; None where there is none with a mean."""
    return preferred([change for one in adaptations(source, group) if (change := changes.of(source, one))])


def adaptations(source: Subject, group: Group) -> list[Subject]:
    """Return a run's other subjects: the model adapted in some way."""
    return [one for one in group.subjects if one.adapted and one.measured is source.measured]


def preferred(found: Sequence[Change]) -> Change | None:
    """Return the change with the highest mean; of those that its interval holds, the one that surely loses least.

    Those over the whole benchmark come before others; None where none has a mean.
    """
    with_mean = [change for change in found if change.mean]
    candidates = [change for change in with_mean if change.whole] or with_mean
    if not candidates:
        return None
    highest = max(candidates, key=gain)
    low = highest.mean.low if highest.mean else -math.inf
    level = [one for one in candidates if gain(one) >= low]
    return min(level, key=lambda one: (len(one.lost), -gain(one)))


def gain(change: Change) -> float:
    """Return the difference of the means."""
    return change.mean.difference if change.mean else -math.inf


def surely_better(found: Change, other: Change) -> bool:
    """Return whether the mean over the benchmark, on the images that both subjects have, is surely higher."""
    after, before = found.after, other.after
    mean = compare(before.measured.run, after.measured.run, protocols=(before.protocol, after.protocol)).mean_accuracy
    return mean is not None and mean.low > 0


def telling(group: Group, changes: Changes, most: int) -> list[Subject]:
    """Return so many subjects: each model as it came, then each's best protocol, then the others."""
    protocols = [change.after for one in group.sources if (change := best_protocol(one, group, changes))]
    return list(dict.fromkeys([*group.sources, *protocols, *group.subjects]))[:most]


def pair(group: Group, changes: Changes, holder: Subject, most: int) -> list[Subject]:
    """Return so many subjects: one and its best protocol, the best other model and its best protocol, then others."""
    scores = {
        source: max(
            [gain(change) for one in (source, *adaptations(source, group)) if (change := changes.of(holder, one))]
        )
        for source in group.sources
        if source is not holder and changes.of(holder, source)
    }
    other = max(scores, key=lambda source: scores[source]) if scores else None
    chosen = [holder]
    for source in (holder, other):
        own = best_protocol(source, group, changes) if source else None
        chosen += [*([source] if source else []), *([own.after] if own else [])]
    return list(dict.fromkeys([*chosen, *group.subjects]))[:most]


def headline(group: Group, changes: Changes) -> str:
    """Return in one sentence what shift costs the reference, and what of it is won back."""
    source = group.reference
    name, clean = source.the_model, source.summary["clean_accuracy"]
    whole = source.summary["mean_accuracy"]
    partial = partial_mean(source) if whole is None else None
    mean, bounds = partial or (whole, source.summary["mean_interval"])
    over = f" ({_over(source)})" if partial else ""
    if mean is None:
        return f"{_begin(name)} gets {percent(clean)} of the clean images right; no shift was measured."
    if clean is None:
        fall = f"{_begin(name)} gets {percent(mean)} right under shift{over}"
    elif bounds[1] < clean:
        fall = f"Shift takes {name} from {percent(clean)} to {percent(mean)}{over}"
    else:
        fall = (
            f"Shift hardly costs {name} anything: {percent(clean)} on clean images, {percent(mean)} under shift{over}"
        )
    told = _won_back(group, changes, "wins back" if clean is not None and bounds[1] < clean else "gains")
    return f"{fall}; {told}." if told else f"{fall}."


def _won_back(group: Group, changes: Changes, verb: str) -> str:
    source = group.reference
    own, top = best_protocol(source, group, changes), best(group, changes)
    if own and own.tone != "good":
        own = None
    if own and own.mean and top and top.mean and top.after is not own.after:
        sure = "" if surely_better(top, own) else ", not surely more"
        most = amount(top.mean.low, top.mean.difference, top.mean.high).replace(" points", "")
        gained = amount(own.mean.low, own.mean.difference, own.mean.high)
        return f"{short(own.after.protocol, 40)} {verb} {gained}; {top.after.label}, the best here, {most}{sure}"
    found = own or top
    if found and found.mean:
        label = short(found.after.protocol, 40) if found is own else found.after.label
        return f"{label} {verb} {amount(found.mean.low, found.mean.difference, found.mean.high)}"
    compared = [change for one in group.subjects if (change := changes.to_reference(one)) and change.mean]
    if not compared:
        return ""
    label = compared[0].after.label
    return (
        f"{label} is not surely better"
        if len(compared) == 1
        else f"none of the {len(compared)} others is surely better"
    )


def _over(subject: Subject) -> str:
    return f"mean of {plural(len(subject.shifts), 'shift')}"


def _begin(text: str) -> str:
    return f"T{text[1:]}" if text.startswith("the ") else text
