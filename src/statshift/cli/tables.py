"""Tables in plain text: of a run, of a comparison, and of any rows of cells."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from statshift._core.tables import table

if TYPE_CHECKING:
    from statshift.measuring.compare import Comparison
    from statshift.tasks.figures import Difference


def summary_text(found: Mapping[str, Any]) -> str:
    """Return the tables of a run, one for each protocol, one by family, and one of the protocols beside the source."""
    from statshift.cli.families import families_text
    from statshift.results.worded import as_accuracy, reworded

    headline = found.get("headline", "accuracy")
    summary = as_accuracy(found, headline)
    protocols = summary["protocols"]
    texts = [_protocol_text(name, protocol, summary) for name, protocol in protocols.items()]
    more = [*families_text(protocols), *_gains(protocols), *_similarities(summary.get("ligs", {}))]
    text = "\n\n".join([*texts, *more])
    return reworded(text, headline)


def layers_text(names: list[str], most: int = 6) -> str:
    """Return how many layers these are, and the first and last of them."""
    shown = names if len(names) <= most else [*names[: most // 2], "...", *names[-most // 2 :]]
    return f"{len(names)} norm {'layer' if len(names) == 1 else 'layers'}: {', '.join(shown)}."


def _gains(protocols: dict[str, Any]) -> Iterator[str]:
    """Yield a table of what each protocol gains on the source, over the same images."""
    adapted = {name: one for name, one in protocols.items() if "paired_source" in one}
    if not adapted:
        return
    over = list(dict.fromkeys(name for one in adapted.values() if (name := _mean_and_gain(one)[2])))
    head = ["protocol", "images", "draws", "clean: source", "adapted", "gain"]
    rows = [[*head, "mean: source", "adapted", "gain", "95 % interval", "least gain"]]
    for name, one in adapted.items():
        source = one["paired_source"]
        mean, gain, _ = _mean_and_gain(one)
        value = gain and next(iter(gain.values()))
        clean = one["clean_accuracy"], source["clean_accuracy"]
        rows.append(
            [
                *(name, str(one["images"]), str(one["draws"])),
                *(_percent(clean[1]), _percent(clean[0])),
                _percent(None if None in clean else clean[0] - clean[1], "+"),
                *(_percent(None if mean is None else mean - value), _percent(mean), _percent(value, "+")),
                *(_signed(*gain["interval"]) if gain else "-", _least(one, source)),
            ]
        )
    means = f"; means: {' or '.join(over)}" if over else ""
    yield f"Accuracy in % of each protocol and of the source over the same images{means}\n\n{table(rows)}"


def _mean_and_gain(protocol: dict[str, Any]) -> tuple[Any, Any, str]:
    """Return a mean accuracy, its gain on the source and what it is over: all 75 conditions, or those measured."""
    if protocol["mean_accuracy"] is not None:
        return protocol["mean_accuracy"], protocol["gain"], "mean of 15 x 5"
    some = protocol["measured_mean"]
    return (some["accuracy"], some["gain"], some["over"]) if some else (None, None, "")


def _similarities(ligs: dict[str, Any]) -> Iterator[str]:
    """Yield the table of the source's LIGS under each perturbation."""
    if ligs:
        rows = [["perturbation", "scale", "LIGS", "95 % interval", "images", "left out"]]
        for name, one in ligs.items():
            low, high = one["interval"]
            counts = [str(one["images"]), str(one["left_out"])]
            rows.append([name, f"{one['scale']:g}", f"{one['mean']:.3f}", f"{low:.3f} to {high:.3f}", *counts])
        yield f"Local Input Gradient Similarity (LIGS) of the source on the clean images\n\n{table(rows)}"


def _least(protocol: dict[str, Any], source: dict[str, Any]) -> str:
    """Return what a protocol gains on the source in the condition where it gains least, and which that is."""
    gains = {
        f"{shift} {severity}" if len(found["by_severity"]) > 1 else shift: accuracy - before
        for shift, found in protocol["per_shift"].items()
        for severity, (accuracy, before) in enumerate(
            zip(found["by_severity"], source["per_shift"][shift]["by_severity"], strict=True), start=1
        )
        if accuracy is not None and before is not None
    }
    if protocol["clean_accuracy"] is not None:
        gains["clean"] = protocol["clean_accuracy"] - source["clean_accuracy"]
    least = min(gains, key=lambda name: gains[name])
    return f"{100 * gains[least]:+.1f} {least}"


def _protocol_text(name: str, protocol: dict[str, Any], summary: dict[str, Any]) -> str:
    images, draws = protocol.get("images", summary["images"]), protocol.get("draws", 1)
    title = f"Accuracy in % over {images:,} images, protocol {name}{f', {draws} draws' if draws > 1 else ''}"
    with_ce = any(shift["ce"] is not None for shift in protocol["per_shift"].values())
    head = ["shift", "1", "2", "3", "4", "5", "mean", *(["CE"] if with_ce else [])]
    rows = [head]
    for shift, found in protocol["per_shift"].items():
        levels = found["by_severity"]
        cells = [_percent(level) for level in levels] if len(levels) == 5 else [""] * 5
        rows.append([shift, *cells, _percent(found["accuracy"]), *([_percent(found["ce"])] if with_ce else [])])
    lines = [title]
    if protocol["clean_accuracy"] is not None:
        lines.append(f"clean {_with_interval(protocol, 'clean_accuracy', 'clean_interval')}")
    if protocol.get("pixel_accuracy") is not None:
        lines.append(f"clean pixel accuracy {_percent(protocol['pixel_accuracy'])} %")
    if len(rows) > 1:
        lines += ["", table(rows), ""]
    return "\n".join([*lines, *_means(protocol, summary)])


def _means(protocol: dict[str, Any], summary: dict[str, Any]) -> Iterator[str]:
    if protocol["mean_accuracy"] is None:
        some, over = protocol["measured_mean"], protocol["mean_over"]
        if some:
            yield f"{some['over']}  {_with_interval(some, 'accuracy', 'interval')}"
            yield (
                f"No mean accuracy or mCE: they need all {over['of']} conditions; {over['conditions']} "
                f"{'was' if over['conditions'] == 1 else 'were'} measured."
            )
        return
    yield f"mean accuracy  {_with_interval(protocol, 'mean_accuracy', 'mean_interval')}  over the 15 x 5"
    if protocol.get("mean_accuracy_deviation") is not None:
        yield f"               deviation between draws {_percent(protocol['mean_accuracy_deviation'])} %"
    yield f"mean error     {_percent(protocol['mean_error'])} %"
    if protocol["mce"] is not None:
        relative = protocol["relative_mce"]
        yield (
            f"mCE            {_with_interval(protocol, 'mce', 'mce_interval')}  (100 = {_reference(summary)}; this is "
            "not the mean error)"
        )
        if relative is not None:
            yield f"relative mCE   {_percent(relative)} %"


def _reference(summary: dict[str, Any]) -> str:
    kind, _, name = summary["relative_to"].partition(":")
    return f"AlexNet on {name}" if kind == "alexnet" else f"the baseline {summary['baseline']['spec']}"


def _percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def _with_interval(found: dict[str, Any], value: str, interval: str) -> str:
    low, high = found[interval]
    return f"{_percent(found[value])} % [{_percent(low)}, {_percent(high)}]"


def comparison_text(comparison: "Comparison") -> str:
    """Return the table of a comparison, second less first, and what it comes to."""
    alone = ["only first", "only second"] if comparison.counts_images else ["first higher", "second higher"]
    rows = [["condition", "first", "second", "difference", "95 % interval", *alone, "p (Holm)"]]
    for one in comparison.conditions:
        condition = f"{one.shift} {one.severity}" if one.severity else one.shift
        rows.append(
            [
                condition,
                *_difference_cells(one.accuracy),
                str(one.only_first),
                str(one.only_second),
                f"{one.adjusted_p_value:.2g}" + ("*" if one.verdict else ""),
            ]
        )
    draws = max(one.draws for one in comparison.conditions)
    repeated = f", each with its mean over {draws} draws" if draws > 1 else ""
    lines = [
        f"Accuracy in % over the same {comparison.images:,} images{repeated}; differences are second less first",
        table(rows),
    ]
    means = {"mean accuracy over the 15 x 5": comparison.mean_accuracy, "mCE": comparison.mce}
    if comparison.measured_mean:
        means[comparison.measured_over] = comparison.measured_mean
    for name, figure in means.items():
        if figure is not None:
            first, second, difference, interval = _difference_cells(figure)
            lines.append(f"{name}: {first} -> {second}, difference {difference} {interval}")
    from statshift.results.worded import reworded

    return reworded("\n".join([*lines, _verdict(comparison)]), comparison.headline)


def _verdict(comparison: "Comparison") -> str:
    """Return in a sentence whether the second is better: in the mean, and in how many conditions."""
    counts = {
        verdict: sum(one.verdict == verdict for one in comparison.conditions) for verdict in ("better", "worse", "")
    }
    told = f"significantly better in {counts['better']}, worse in {counts['worse']}, undecided in {counts['']}"
    of = f"of {len(comparison.conditions)} {'condition' if len(comparison.conditions) == 1 else 'conditions'}"
    mean = comparison.mean_accuracy or comparison.measured_mean
    if mean is None:
        return f"Verdict: the second is {told} {of}."
    name = "better" if mean.low > 0 else "worse" if mean.high < 0 else "not significantly different"
    return f"Verdict: the second is {name} in the mean; by condition {told} {of}."


def _difference_cells(figure: "Difference") -> list[str]:
    return [
        _percent(figure.first),
        _percent(figure.second),
        f"{100 * figure.difference:+.1f}",
        _signed(figure.low, figure.high),
    ]


def _signed(low: float, high: float) -> str:
    return f"[{100 * low:+.1f}, {100 * high:+.1f}]"


def fast_text(found: Mapping[str, Any]) -> str:
    """Return in one line what `fast` chose, and how far its answers are from those of float32."""
    how = [found["dtype"], "channels_last", *(["compiled"] if found["compiled"] else [])]
    how += ["CUDA graphs"] if found["compiled"] == "reduce-overhead" else []
    few = f"{found['differing']} of {found['predictions']:,} predictions on {found['tried']} clean images"
    scores = f"{found['headline']} {found['score']:.1%}, there {found['float32_score']:.1%}"
    return f"--fast: {', '.join(how)}, {found['batch_size']} images at once; {few} differ from float32 ({scores})."
