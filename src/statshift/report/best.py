"""Which subject is the one to take, which protocol is a model's best, and what happened in one sentence."""

import math
from collections.abc import Sequence

from statshift.report.differences import Change, Changes
from statshift.report.findings import partial_mean
from statshift.report.subjects import Group, Subject
from statshift.report.words import amount, percent, plural, short
from statshift.results.means import mean_name


def best(group: Group, changes: Changes) -> Change | None:
    """Return what sets the best subject apart from the reference; None where none is significantly better.

    That is the reference's own best protocol, which needs no training, unless another model is significantly better.
    """
    found = ranked(group, changes)
    own = best_protocol(group.reference, group, changes)
    if own in found and own.tone == "good":
        own_run = group.reference.measured
        above = [one for one in found if gain(one) > gain(own) and one.after.measured is not own_run]
        return preferred([one for one in above if one.tone == "good" and is_better(one, own, changes)]) or own
    top = preferred(found)
    return top if top and top.tone == "good" else None


def ranked(group: Group, changes: Changes) -> list[Change]:
    """Return what sets subjects apart from the reference, the highest mean first, as far as the means are alike."""
    found = [change for one in group.subjects if (change := changes.to_reference(one))]
    return sorted(_alike(found), key=gain, reverse=True)


def best_protocol(source: Subject, group: Group, changes: Changes) -> Change | None:
    """Return what the best of a run's protocols changes, significantly or not; None where there is none with a mean."""
    return preferred([change for one in adaptations(source, group) if (change := changes.of(source, one))])


def adaptations(source: Subject, group: Group) -> list[Subject]:
    """Return a run's other subjects: the model adapted in some way."""
    return [one for one in group.subjects if one.adapted and one.measured is source.measured]


def preferred(found: Sequence[Change]) -> Change | None:
    """Return the change with the highest mean; of those its interval holds, the one worse in the fewest conditions.

    Those over the whole benchmark come before others; None where none has a mean.
    """
    candidates = _alike(found)
    if not candidates:
        return None
    highest = max(candidates, key=gain)
    low = highest.mean.low if highest.mean else -math.inf
    level = [one for one in candidates if gain(one) >= low]
    return min(level, key=lambda one: (len(one.lost), -gain(one)))


def _alike(found: Sequence[Change]) -> list[Change]:
    """Return those whose mean is over the whole benchmark; where there is none, all that have a mean."""
    with_mean = [change for change in found if change.mean]
    return [change for change in with_mean if change.whole] or with_mean


def gain(change: Change) -> float:
    """Return the difference of the means."""
    return change.mean.difference if change.mean else -math.inf


def is_better(found: Change, other: Change, changes: Changes) -> bool:
    """Return whether the mean, on the images and shifts that both subjects have, is significantly higher."""
    direct = changes.of(other.after, found.after)
    return direct is not None and direct.mean is not None and direct.mean.low > 0


def telling(group: Group, changes: Changes, most: int) -> list[Subject]:
    """Return so many subjects, in the page's order.

    These are the reference and the best, then each model as it came, then each's best protocol, then the others.
    """
    protocols = [change.after for one in group.sources if (change := best_protocol(one, group, changes))]
    top = best(group, changes)
    first = [group.reference, *([top.after] if top else [])]
    chosen = list(dict.fromkeys([*first, *group.sources, *protocols, *group.subjects]))[:most]
    return [one for one in group.subjects if one in chosen]


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
    counted = source.task.counts_images
    name, clean = source.the_model, source.summary["clean_accuracy"]
    gets, right, of = (
        ("gets", "of the clean images right", "") if counted else ("has", "accuracy on clean images", " accuracy")
    )
    whole = source.summary["mean_accuracy"]
    partial = partial_mean(source, group.shared) if whole is None else None
    mean, bounds = partial or (whole, source.summary["mean_interval"])
    over = f" ({mean_name(group.shared)})" if partial else ""
    if mean is None and source.shifts:
        found = [source.summary["per_shift"][one]["accuracy"] for one in source.shifts]
        return (
            f"{_begin(name)} {gets} {percent(clean)} {right}, and from {percent(min(found), '')} to "
            f"{percent(max(found))} under {plural(len(found), 'shift')}, which no mean can be over."
        )
    if mean is None:
        return f"{_begin(name)} {gets} {percent(clean)} {right}; no shift was measured."
    if clean is None:
        fall = f"{_begin(name)} {gets} {percent(mean)}{of or ' right'} under shift{over}"
    elif bounds[1] < clean:
        fall = f"Shift takes {name} from {percent(clean)} to {percent(mean)}{of}{over}"
    else:
        fall = f"Shift hardly costs {name} anything: {percent(clean)}{of} on clean images, "
        fall += f"{percent(mean)} under shift{over}"
    told = _won_back(group, changes, "recovers" if clean is not None and bounds[1] < clean else "gains")
    return f"{fall}; {told}." if told else f"{fall}."


def _won_back(group: Group, changes: Changes, verb: str) -> str:
    source = group.reference
    own, top = best_protocol(source, group, changes), best(group, changes)
    if own and own.tone != "good":
        own = None
    if own and own.mean and top and top.mean and top.after is not own.after:
        doubt = "" if is_better(top, own, changes) else ", not significantly more"
        most = amount(top.mean.low, top.mean.difference, top.mean.high).replace(" points", "")
        gained = amount(own.mean.low, own.mean.difference, own.mean.high)
        return f"{short(own.after.protocol, 40)} {verb} {gained}; {top.after.label}, the best here, {most}{doubt}"
    found = own or top
    if found and found.mean:
        label = short(found.after.protocol, 40) if found is own else found.after.label
        higher = [one for one in ranked(group, changes) if top and gain(one) > gain(top)]
        sure = any(is_better(one, found, changes) for one in higher)
        rest = "; nothing else is significantly better" if higher and not sure else ""
        return f"{label} {verb} {amount(found.mean.low, found.mean.difference, found.mean.high)}{rest}"
    compared = [change for one in group.subjects if (change := changes.to_reference(one)) and change.mean]
    if not compared:
        return ""
    label = compared[0].after.label
    return (
        f"{label} is not significantly better"
        if len(compared) == 1
        else f"none of the {len(compared)} others is significantly better"
    )


def _begin(text: str) -> str:
    return f"T{text[1:]}" if text.startswith("the ") else text
