"""A report's figures, by an independent road from the bits."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from report_runs import (
    BENCHMARK,
    COMMON,
    IMAGES,
    adapted_run,
    better,
    blocks_of,
    column,
    draw,
    record_of,
    rows_of,
    worse,
    write_run,
)
from statshift._core.errors import InputError
from statshift.measuring.compare import compare
from statshift.metrics.alexnet import ALEXNET
from statshift.metrics.uncertainty import wilson_interval
from statshift.report import build_report, write_report
from statshift.report.content import Fold
from statshift.report.differences import Changes
from statshift.report.reading import read
from statshift.report.subjects import group
from statshift.report.words import amount, interval, listed, percent, points, short

LEFT_OUT = list(range(0, 64, 2))


@pytest.fixture(scope="module")
def bits():
    source = draw(BENCHMARK, lambda shift, severity: 0.9 - 0.08 * severity, seed=3)
    return {
        "source": source,
        "auto": better(source, 0.5),
        "replace": worse(better(source, 0.3), 0.2),
        "other": worse(source, 0.1, seed=7),
    }


@pytest.fixture(scope="module")
def paths(bits, tmp_path_factory):
    """Two runs over the same images, the first with two protocols."""
    folder = tmp_path_factory.mktemp("runs")
    first = adapted_run(folder / "first", bits["source"], {name: bits[name] for name in ("auto", "replace")})
    made = {"verb": "harden", "method": "advbn", "branch": "adv", "at": "layer1.0", "from": "aaaa"}
    record = record_of(model={"weights_hash": "bbbb", "made_by": made})
    second = adapted_run(folder / "second", bits["other"], {"auto": better(bits["other"], 0.4)}, record=record)
    return first, second


@pytest.fixture(scope="module")
def page(paths):
    return build_report(paths)


def kept(right):
    return np.delete(right, LEFT_OUT)


def mean_over(bits, cut=lambda right: right):
    return np.mean([[cut(bits[shift, level]).mean() for level in range(1, 6)] for shift in COMMON])


def mce_of(bits, cut=lambda right: right):
    table = ALEXNET["cifar10"]
    return np.mean([np.mean([1 - cut(bits[c, s]).mean() for s in range(1, 6)]) / table[c] for c in COMMON])


def test_subjects_are_named_by_model_maker_and_protocol(page):
    hardened = "AdvBN, adversarial branch"
    names = ["original", "original + auto", "original + replace", hardened, f"{hardened} + auto"]
    assert [one.subject for one in page.verdicts] == names
    assert page.title == "Accuracy under shift: cifar:resnet20"
    assert page.lead == (
        f"cifar:resnet20 (original and {hardened}), each as it came and rectified by auto and replace, on 160 images "
        "of npz:test.npz, clean and under all 15 common corruptions."
    )


def test_a_page_of_one_run_tells_its_subjects_by_their_protocols(paths):
    page = build_report(paths[0])
    assert [one.subject for one in page.verdicts] == ["source", "auto", "replace"]
    assert page.lead.startswith("cifar:resnet20 as it came and rectified by auto and replace, on 160 images of")


def made_by(*methods, verb="harden", **more):
    return [one and {"verb": verb, "method": one, "branch": "clean"} | more for one in methods]


@pytest.mark.parametrize(
    ("specs", "made", "names"),
    [
        (
            ["cifar:a"] * 5,
            made_by(None, "standard", "advprop", "adversarial", "ligs"),
            ["original", "fine-tuned", "AdvProp", "adversarially trained", "LIGS-regularised"],
        ),
        (["cifar:a"] * 2, made_by("moex", "unheard"), ["MoEx", "hardened (unheard)"]),
        (["cifar:a"] * 2, [None, {"verb": "rectify", "protocol": "auto"}], ["original", "rectified (auto)"]),
        (["cifar:a"] * 2, made_by("standard", "cutmix", verb="train"), ["trained", "CutMix"]),
        (["cifar:a", "cifar:b", "cifar:b"], made_by(None, None, "advbn"), ["a", "b", "b (AdvBN)"]),
        (["timm:a", "torchvision:a"], [None, None], ["timm:a", "torchvision:a"]),
        (["timm:a@1", "timm:a@2"], [None, {"verb": "rectify", "protocol": "auto"}], ["a@1", "a@2, rectified (auto)"]),
        (["py:/x/a.py:f", "py:/y/b.py:f"], [None, None], ["py:a.py:f", "py:b.py:f"]),
        (["py:/x/a.py:f"], [None], ["source"]),
        (["cifar:a"] * 3, made_by("advbn", None, "advbn"), ["AdvBN (0)", "original", "AdvBN (2)"]),
        (["cifar:a"] * 2, [None, None], ["0", "1"]),
    ],
)
def test_a_models_name_is_what_tells_it_from_the_others(tmp_path, specs, made, names):
    clean = {("clean", 0): np.arange(IMAGES) < 120}
    for place, (spec, how) in enumerate(zip(specs, made, strict=True)):
        record = record_of(model={"spec": spec, "made_by": how, "weights_hash": str(place)})
        write_run(tmp_path / str(place), record, rows_of(clean))
    assert [one.subject for one in build_report(tmp_path).verdicts] == names


def test_the_headline_says_what_shift_costs_and_what_is_won_back(page, paths, bits):
    clean, mean = bits["source"]["clean", 0].mean(), mean_over(bits["source"])
    start = f"Shift takes the original from {100 * clean:.1f} % to {100 * mean:.1f} %; "
    found = compare(paths[0], paths[0], protocols=("source", "auto")).mean_accuracy
    gained = f"{100 * found.difference:.1f} points [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    assert page.headline == f"{start}auto recovers {gained}."
    assert [one.subject for one in page.verdicts if one.best] == ["original + auto"]


def hardened_run(path, bits, auto):
    made = {"verb": "harden", "method": "advbn", "branch": "adv"}
    record = record_of(model={"weights_hash": "bbbb", "made_by": made})
    return adapted_run(path, bits["other"], {"auto": auto}, record=record)


def in_words(difference, sign=""):
    low, value, high = (f"{100 * end:{sign}.1f}" for end in (difference.low, difference.difference, difference.high))
    return f"{value} points [{low}, {high}]"


@pytest.fixture(scope="module")
def few_bits(bits):
    """The same bits under fewer shifts."""
    return {name: {one: of[one] for one in of if one[0] in ("clean", "fog", "snow")} for name, of in bits.items()}


@pytest.mark.parametrize("whole", [True, False])
def test_the_best_is_the_originals_own_where_none_is_better(tmp_path, bits, few_bits, whole):
    used = bits if whole else few_bits
    near = worse(better(used["auto"], 0.2, seed=5), 0.04, seed=8)
    first = adapted_run(tmp_path / "first", used["source"], {name: used[name] for name in ("auto", "replace")})
    second = hardened_run(tmp_path / "second", used, near)
    page = build_report([first, second])
    assert [one.subject for one in page.verdicts if one.best] == ["original + auto"]
    values = {one.subject: one.figures[1].value for one in page.verdicts}
    highest = "AdvBN, adversarial branch + auto"
    assert max(values, key=values.get) == highest
    (text,) = [one for one in page.advice if one.startswith("Best choice: ")]
    assert text.startswith("Best choice: original + auto, ")
    assert f"{highest} is higher by +{100 * (values[highest] - values['original + auto']):.1f} points [-" in text
    assert text.split("], not significantly.")[1] in ("", " Statistically tied: AdvBN, adversarial branch.")
    if whole:
        direct = compare(first, second, protocols=("auto", "auto")).mean_accuracy
        assert direct.low < 0 < direct.difference
        assert f"is higher by {in_words(direct, '+')}, not significantly." in text
        gained = compare(first, first, protocols=("source", "auto")).mean_accuracy
        assert page.headline.endswith(f"; auto recovers {in_words(gained)}; nothing else is significantly better.")
    assert page.headline.endswith("]; nothing else is significantly better.")
    assert "original + auto" in [one.label for one in blocks_of(page)["chart-1-1"].panels[0].series]


def test_the_best_is_another_model_that_is_better_image_by_image(tmp_path, bits):
    """Its interval to the reference holds that of the original's own; the paired difference tells them apart."""
    first = adapted_run(tmp_path / "first", bits["source"], {name: bits[name] for name in ("auto", "replace")})
    second = hardened_run(tmp_path / "second", bits, better(bits["auto"], 0.035, seed=5))
    found = [compare(first, path, protocols=("source", "auto")).mean_accuracy for path in (first, second)]
    assert found[1].low < found[0].difference < found[1].difference < found[0].high
    page = build_report([first, second])
    assert [one.subject for one in page.verdicts if one.best] == ["AdvBN, adversarial branch + auto"]
    assert page.advice[0].startswith("Best choice: AdvBN, adversarial branch + auto, ")
    assert "not significantly" not in page.headline
    own, top = (in_words(one) for one in found)
    assert page.headline.endswith(
        f"auto recovers {own}; AdvBN, adversarial branch + auto, the best here, {top.replace(' points', '')}."
    )


def test_two_protocols_are_compared_draw_by_draw_over_the_images_of_both(tmp_path, few_bits):
    first = adapted_run(tmp_path / "a", few_bits["source"], {"auto": few_bits["auto"]}, draws=2)
    places, record = tuple(range(1, 41)), record_of(model={"weights_hash": "b"})
    second = adapted_run(tmp_path / "b", few_bits["other"], {"auto": few_bits["replace"]}, places, 2, record)
    groups = group(read([first, second]).measured)
    subjects = groups[0].subjects
    assert [one.protocol for one in subjects] == ["source", "auto"] * 2
    change = Changes(groups).of(subjects[1], subjects[3])
    parts = []
    for number in (0, 1):
        out = sorted({one + number for one in (*LEFT_OUT, *places)})
        parts.append(
            [
                np.delete(few_bits["replace"][one], out).mean() - np.delete(few_bits["auto"][one], out).mean()
                for one in few_bits["auto"]
                if one[0] != "clean"
            ]
        )
    assert change.comparison.mean_accuracy is None
    assert change.mean.low < change.mean.difference < change.mean.high
    assert change.mean.difference == pytest.approx(np.mean(parts), abs=0.002)


@pytest.mark.parametrize(
    ("protocols", "said"),
    [((), ""), (("other",), "; other is not significantly better"), (("other", "same"), "none of the 2")],
)
def test_the_headline_is_honest_where_nothing_helps(tmp_path, bits, protocols, said):
    own = {"other": bits["other"], "same": bits["source"]}
    run = adapted_run(tmp_path / "run", bits["source"], {name: own[name] for name in protocols})
    page = build_report(run)
    assert said in page.headline
    assert "recovers" not in page.headline
    assert page.headline.endswith(" %." if not protocols else "significantly better.")
    assert not any(one.best for one in page.verdicts)


def test_the_headline_of_fewer_shifts_or_none_says_so(tmp_path):
    right = {
        ("clean", 0): np.arange(IMAGES) < 120,
        ("fog", 3): np.arange(IMAGES) < 60,
        ("snow", 3): np.zeros(IMAGES) > 0,
    }
    levelled = {("clean", 0): right["clean", 0], ("fog", 3): right["clean", 0]}
    record = record_of(shifts=["clean", "fog", "snow"], severities=[3])
    told = {
        name: build_report(write_run(tmp_path / name, record, rows_of(bits))).headline
        for name, bits in (("few", right), ("clean", {("clean", 0): right["clean", 0]}), ("level", levelled))
    }
    assert told == {
        "few": "Shift takes resnet20 from 75.0 % to 18.8 % (mean of snow, fog at severity 3).",
        "clean": "resnet20 gets 75.0 % of the clean images right; no shift was measured.",
        "level": "Shift hardly costs resnet20 anything: 75.0 % on clean images, 75.0 % under shift (mean of fog at "
        "severity 3).",
    }


def test_the_summary_tells_each_figure_by_its_name(page, bits):
    labels = ["clean accuracy", "mean accuracy, 15 x 5", "mCE"]
    for verdict, name in zip(page.verdicts, ("source", "auto", "replace"), strict=False):
        cut = kept if name != "source" else lambda right: right
        mean, mce = mean_over(bits[name], cut), mce_of(bits[name], cut)
        clean = cut(bits[name]["clean", 0]).mean()
        assert [figure.label for figure in verdict.figures] == labels
        assert [figure.value for figure in verdict.figures] == pytest.approx([clean, mean, mce])
        assert [figure.text for figure in verdict.figures] == [f"{100 * v:.1f} %" for v in (clean, mean, mce)]
        low, high = wilson_interval(clean * len(cut(np.ones(IMAGES))), len(cut(np.ones(IMAGES))))
        assert verdict.figures[0].interval == f"[{100 * low:.1f}, {100 * high:.1f}]"
        for figure in verdict.figures[1:]:
            assert figure.bounds[0] < figure.value < figure.bounds[1]
    notes = {figure.label: figure.note for figure in page.verdicts[0].figures}
    assert "AlexNet on cifar10" in notes["mCE"]
    assert "not 100 less the mean accuracy" in notes["mCE"]


def test_differences_are_those_of_compare(page, paths, bits):
    first, second = paths
    pairs = {1: (first, "auto"), 2: (first, "replace"), 3: (second, "source"), 4: (second, "auto")}
    for place, (path, protocol) in pairs.items():
        found = compare(first, path, protocols=("source", protocol), table="cifar10")
        verdict, mean = page.verdicts[place], found.mean_accuracy
        bounds = f"[{100 * mean.low:+.1f}, {100 * mean.high:+.1f}]"
        assert verdict.sentence.startswith(f"{100 * mean.difference:+.1f} points {bounds} on the same images")
        assert verdict.tone == ("good" if mean.low > 0 else "bad" if mean.high < 0 else "")
        values = [found.conditions[0].accuracy.difference, mean.difference, found.mce.difference]
        assert [figure.difference for figure in verdict.figures] == [points(value, "") for value in values]
    assert page.verdicts[1].tone == "good"
    assert page.verdicts[3].tone == "bad"
    mean = mean_over(bits["auto"], kept) - mean_over(bits["source"], kept)
    assert page.verdicts[1].sentence.startswith(f"{100 * mean:+.1f} points")


def test_conditions_and_their_significance_are_those_of_compare(page, paths):
    blocks, first = blocks_of(page), paths[0]
    found = compare(first, first, protocols=("source", "replace")).conditions
    table = blocks["change-2-conditions"]
    assert table.title == "original + replace against original, by condition"
    assert table.folded
    assert [cell.value for cell in column(table, "p")] == [one.adjusted_p_value for one in found]
    assert [cell.value for cell in column(table, "difference, points")] == [one.accuracy.difference for one in found]
    assert [cell.text for cell in column(table, "right after only")] == [str(one.only_second) for one in found]
    sure = [one.adjusted_p_value < 0.05 for one in found]
    wanted = [s * ("better" if o.accuracy.difference > 0 else "worse") for s, o in zip(sure, found, strict=True)]
    assert [cell.text for cell in column(table, "verdict")] == wanted
    assert 0 < sum(sure) < 76
    overall = blocks["changes"]
    assert column(overall, "better")[1].value + column(overall, "worse")[1].value == sum(sure)
    assert [cell.value for cell in column(overall, "undecided")][1] == 76 - sum(sure)
    worst = min((one for one in found if one.adjusted_p_value < 0.05), key=lambda one: one.accuracy.difference)
    named = f"{worst.shift} {worst.severity}".removesuffix(" 0") + f" ({100 * worst.accuracy.difference:+.1f})"
    assert worst.accuracy.difference > 0 or column(overall, "worse")[1].note.startswith(named)
    (section,) = [one for one in page.sections if one.name == "changes"]
    assert section.blocks[0] is overall
    assert [block.name for block in section.blocks if not getattr(block, "folded", isinstance(block, Fold))] == [
        *("changes", "change-1", "change-2")
    ]
    assert (
        blocks["change-4-tables"].title
        == "AdvBN, adversarial branch + auto against AdvBN, adversarial branch, by corruption"
    )


def test_differences_by_corruption_are_means_over_severities(page, bits):
    table = blocks_of(page)["change-1"]
    names = [cell.text for cell in column(table, "corruption")]
    assert names == ["clean", *COMMON]
    for shift, difference in zip(names, column(table, "difference, points"), strict=True):
        levels = [0] if shift == "clean" else range(1, 6)
        by_image = np.mean(
            [kept(bits["auto"][shift, s]) * 1.0 - kept(bits["source"][shift, s]) for s in levels], axis=0
        )
        assert difference.value == pytest.approx(by_image.mean())
        half = 1.96 * by_image.std() / np.sqrt(len(by_image))  # the normal's, which the bootstrap's is close to
        low, high = (float(end) / 100 for end in difference.interval.strip("[]").split(", "))
        assert (high - low) / 2 == pytest.approx(half, rel=0.2, abs=0.002)


def test_the_table_of_a_subject_ends_in_means_and_mce(page, bits):
    table = blocks_of(page)["severities-1"]
    labels = [one.label for one in table.columns]
    assert labels == ["corruption", "family", *"12345", "mean accuracy", "CE"]
    assert [row[0].text for row in table.rows] == [*COMMON, "mean of the 15", "mCE"]
    assert table.footer == 2
    families = [cell.text for cell in column(table, "family")][:15]
    assert families == ["noise"] * 3 + ["blur"] * 4 + ["weather"] * 4 + ["digital"] * 4
    for row in table.rows[:15]:
        shift = row[0].text
        values = [bits["source"][shift, level].mean() for level in range(1, 6)]
        error = 1 - np.mean(values)
        expected = [*values, 1 - error, error / ALEXNET["cifar10"][shift]]
        assert [cell.value for cell in row[2:]] == pytest.approx(expected)
    means, mce = table.rows[15:]
    assert means[7].text == f"{100 * mean_over(bits['source']):.1f}"
    assert [cell.text for cell in means[8:]] == [""]
    by_level = [np.mean([bits["source"][shift, level].mean() for shift in COMMON]) for level in range(1, 6)]
    assert [cell.value for cell in means[2:8]] == pytest.approx([*by_level, mean_over(bits["source"])])
    assert [cell.value for cell in mce] == [None] * 9
    assert [cell.text for cell in mce[1:]] == [""] * 7 + [f"{100 * mce_of(bits['source']):.1f}"]


def test_charts_have_a_panel_for_each_corruption_and_the_same_figures_as_a_table(page, bits):
    chart = blocks_of(page)["chart-1-1"]
    assert [panel.title for panel in chart.panels] == list(COMMON)
    assert chart.x == ("1", "2", "3", "4", "5")
    names = [verdict.subject for verdict in page.verdicts]
    fog = chart.panels[COMMON.index("fog")]
    assert [series.label for series in fog.series] == names
    values = [kept(bits["replace"]["fog", level]).mean() for level in range(1, 6)]
    assert fog.series[2].values == pytest.approx(values)
    low, high = wilson_interval(np.array(values) * 128, 128)
    assert (fog.series[2].low, fog.series[2].high) == (pytest.approx(low), pytest.approx(high))
    rows = [row for row in chart.table.rows if row[0].text == "fog"]
    assert [row[4].value for row in rows] == pytest.approx(values)
    assert len(chart.table.rows) == 75
    assert chart.note == ""


def test_of_many_subjects_a_chart_draws_each_model_and_the_best_protocols(tmp_path, bits):
    first = {one: right[:100] for one, right in bits["source"].items() if one[0] in ("clean", "fog")}
    protocols = {"a": worse(first, 0.3), "b": better(first, 0.6), "c": better(first, 0.3), "d": first}
    left_out = tuple(range(32))
    record = record_of(100, shifts=["clean", "fog"])
    adapted_run(tmp_path / "1", first, protocols, left_out, record=record)
    record = record_of(100, shifts=["clean", "fog"], model={"made_by": {"verb": "harden", "method": "moex"}})
    adapted_run(tmp_path / "2", first, {"e": first, "f": better(first, 0.4)}, left_out, record=record)
    page = build_report(tmp_path)
    chart = blocks_of(page)["chart-1-1"]
    drawn = ["original", "original + a", "original + b", "MoEx", "MoEx + f"]
    assert [series.label for series in chart.panels[0].series] == drawn
    held_out = [first, *({one: right[32:] for one, right in protocols[name].items()} for name in "ab"), first]
    for series, of in zip(chart.panels[0].series[:4], held_out, strict=True):
        assert series.values == pytest.approx([of["fog", level].mean() for level in range(1, 6)])
    assert chart.note.endswith(": original + c, original + d and MoEx + e.")


def test_the_means_of_all_subjects_end_the_table_by_corruption(page, bits):
    table = blocks_of(page)["by-corruption-1"]
    assert table.footer == 2
    means, mce = (row[2:] for row in table.rows[15:])
    cuts = [lambda right: right, kept, kept]
    wanted = [(bits[name], cut) for name, cut in zip(("source", "auto", "replace"), cuts, strict=True)]
    assert [cell.value for cell in means[:3]] == pytest.approx([mean_over(one, cut) for one, cut in wanted])
    assert [cell.text for cell in mce[:3]] == [f"{100 * mce_of(one, cut):.1f}" for one, cut in wanted]


def test_draws_are_averaged(tmp_path):
    source = draw(BENCHMARK, 0.7, seed=1)
    two = better(source, 0.5)
    run = adapted_run(tmp_path / "run", source, {"auto": two}, draws=2)
    (_, verdict) = build_report(run).verdicts
    cuts = [lambda right, n=n: np.delete(right, [one + n for one in LEFT_OUT]) for n in (0, 1)]
    assert verdict.figures[1].value == pytest.approx(np.mean([mean_over(two, cut) for cut in cuts]))
    gain = np.mean([mean_over(two, cut) - mean_over(source, cut) for cut in cuts])
    assert verdict.figures[1].difference == f"{100 * gain:+.1f}"


def test_fewer_conditions_are_never_called_mean_error_or_mce(tmp_path, bits):
    few = {one: right for one, right in bits["source"].items() if one[0] in ("clean", "fog", "snow") and one[1] != 2}
    record = record_of(shifts=["clean", "fog", "snow"], severities=[1, 3, 4, 5])
    page = build_report(write_run(tmp_path / "few", record, rows_of(few)))
    figures = {figure.label: figure for figure in page.verdicts[0].figures}
    name = "mean of snow, fog at severities 1, 3, 4 and 5"
    assert list(figures) == ["clean accuracy", name]
    expected = np.mean([right.mean() for (shift, _), right in few.items() if shift != "clean"])
    assert figures[name].value == pytest.approx(expected)
    table = blocks_of(page)["severities-1"]
    assert {row[0].text for row in table.rows} == {"fog", "snow"}
    assert [column.label for column in table.columns] == ["corruption", "family", *"12345", "mean accuracy"]


def test_where_there_is_no_alexnet_there_is_a_mean_and_no_mce(tmp_path, bits):
    page = build_report(write_run(tmp_path / "run", record_of(alexnet=None), rows_of(bits["source"])))
    figures = {figure.label: figure for figure in page.verdicts[0].figures}
    assert figures["mean accuracy, 15 x 5"].value == pytest.approx(mean_over(bits["source"]))
    assert "mCE" not in figures
    assert "There is no mCE: no AlexNet baseline for this data." in page.warnings


def test_a_baseline_of_ones_own_divides_here_too(tmp_path, bits):
    run = write_run(tmp_path / "run", record_of(), rows_of(bits["source"]))
    errors = {c: 1 - np.mean([bits["other"][c, s].mean() for s in range(1, 6)]) for c in COMMON}
    own = {c: 1 - np.mean([bits["source"][c, s].mean() for s in range(1, 6)]) for c in COMMON}
    shifts = {c: {"error": own[c], "ce": own[c] / errors[c]} for c in COMMON}
    summary = {
        "relative_to": "baseline",
        "baseline": {"spec": "timm:old"},
        "protocols": {"source": {"per_shift": shifts}},
    }
    (run / "summary.json").write_text(json.dumps(summary))
    figure = build_report(run).verdicts[0].figures[-1]
    assert figure.value == pytest.approx(np.mean([own[c] / errors[c] for c in COMMON]))
    assert "relative to the baseline timm:old" in figure.note


def test_runs_over_other_images_are_not_compared(tmp_path, paths, bits):
    fewer = {one: right[:100] for one, right in bits["source"].items()}
    third = write_run(tmp_path / "third", record_of(100), rows_of(fewer))
    page = build_report([*paths, third])
    assert [one.compared for one in page.verdicts] == [True] * 5 + [False]
    assert all(not figure.difference for figure in page.verdicts[-1].figures)
    assert "data images (100, not 160)" in page.verdicts[-1].sentence
    assert "data images (100, not 160); data indices and data labels" in page.warnings[0]
    blocks = blocks_of(page)
    assert all("third" not in cell.text for row in blocks["changes"].rows for cell in row[:2])
    assert not any("third" in one.label for one in blocks["by-corruption-1"].columns)
    labels = [series.label for series in blocks["chart-2-1"].panels[0].series]
    assert labels == [page.verdicts[-1].subject]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path, bits):
    few = {one: bits["source"][one] for one in BENCHMARK[:3]}
    records = {name: record_of(model={"weights_hash": name}) for name in ("a/run", "b/run", "c")}
    paths = [write_run(tmp_path / name, record, rows_of(few)) for name, record in records.items()]
    labels = [one.subject for one in build_report(paths).verdicts]
    assert labels == ["a/run", "b/run", "c"]
    assert len(build_report(tmp_path).verdicts) == 3
    assert [one.subject for one in build_report([paths[1], tmp_path]).verdicts] == ["b/run", "a/run", "c"]


def test_the_same_run_is_shown_once_and_what_was_left_out_is_told(tmp_path, bits):
    rows = rows_of({one: bits["source"][one] for one in BENCHMARK[:3]})
    first = write_run(tmp_path / "a", record_of(), rows)
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    other = write_run(tmp_path / "other", record_of(), [*rows[:2], rows_of(bits["auto"])[2]])
    with pytest.warns(UserWarning, match="Left out") as told:
        page = build_report(tmp_path)
    assert [one.subject for one in page.verdicts] == ["a", "other"]
    note = f"Left out {short(str(copy), 80)}: it has the record and the rows of {short(str(first), 80)}, the same run."
    assert [str(one.message) for one in told] == [note]
    assert page.warnings[0] == note
    with pytest.warns(UserWarning, match="given several times and is shown once"):
        page = build_report([other, first, other])
    assert [one.subject for one in page.verdicts] == ["other", "a"]
    assert sum(str(other)[-20:] in text for text in page.warnings) == 1


DAMAGES = {
    "record": lambda run: (run / "record.json").write_text("{"),
    "rows": lambda run: replace_in(run / "rows.jsonl", '"draw": 0', '"draw": "x"'),
    "layers": lambda run: (run / "layers.json").write_text('{"conditions": {"fog 1": 3}, "layers": []}'),
    "ligs": lambda run: (run / "ligs.json").write_text('{"gaussian": {}}'),
    "training": lambda run: (run / "rows.jsonl").unlink() or (run / "record.json").write_text("{"),
    "losses": lambda run: (
        (run / "rows.jsonl").unlink() or (run / "record.json").write_text('{"history": [3], "hardening": {}}')
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_below_a_folder_is_left_out_and_told(tmp_path, bits, damage):
    few = {one: bits["source"][one] for one in BENCHMARK[:4]}
    runs = [
        write_run(tmp_path / "runs" / name, record_of(model={"weights_hash": name}), rows_of(few))
        for name in ("a", "bad", "z")
    ]
    DAMAGES[damage](runs[1])
    with pytest.warns(UserWarning, match="Left out") as told:
        page = build_report(tmp_path / "runs")
    assert [one.subject for one in page.verdicts] == ["a", "z"]
    assert [str(one.message) for one in told] == [page.warnings[0]]
    assert page.warnings[0].startswith(f"Left out {short(str(runs[1]), 80)}: ")
    assert "damaged" in page.warnings[0]
    assert len([one for one in page.warnings if "damaged" in one]) == 1
    with pytest.raises(InputError, match=r"damaged|there is none in these paths"):
        build_report(runs[1])
    for paths in ([tmp_path / "runs", runs[1]], [runs[1], tmp_path / "runs"]):
        with pytest.raises(InputError, match="damaged"):
            build_report(paths)
    shutil.rmtree(runs[0])
    shutil.rmtree(runs[2])
    with pytest.raises(InputError, match=r"damaged|there is none in these paths"):
        build_report(tmp_path / "runs")


def test_attacks_and_ligs_have_a_section(tmp_path, bits):
    right = {("clean", 0): bits["source"]["clean", 0], ("pgd-linf:1/255", 0): np.arange(IMAGES) < 12}
    record = record_of(shifts=["clean", "pgd-linf:1/255"], attacks={"pgd-linf:1/255": {"steps": 20}})
    ligs = {"gaussian": {"mean": 0.5125, "interval": [0.45, 0.575], "images": 158, "left_out": 2, "scale": 0.01}}
    page = build_report(write_run(tmp_path / "run", record, rows_of(right), ligs=ligs))
    blocks = blocks_of(page)
    (row,) = blocks["attacks"].rows
    low, high = wilson_interval(12, IMAGES)
    assert [cell.text for cell in row] == ["source", "160", f"{100 * right['clean', 0].mean():.1f}", "7.5"]
    assert row[3].interval == f"[{100 * low:.1f}, {100 * high:.1f}]"
    assert [(one.label, one.note) for one in blocks["attacks"].columns[3:]] == [("pgd-linf:1/255", "20 steps")]
    assert [cell.text for cell in blocks["ligs"].rows[0]][1:] == ["gaussian", "0.01", "0.512", "158", "2"]
    assert blocks["ligs"].rows[0][3].interval == "[0.450, 0.575]"
    (section,) = [one for one in page.sections if one.name == "attacks"]
    assert "upper bound" in section.text[0]
    assert [figure.label for figure in page.verdicts[0].figures] == ["clean accuracy"]  # no mean over attacks


def test_layers_are_told_in_units_of_noise(tmp_path, bits):
    few = {one: bits["source"][one] for one in [("clean", 0), ("fog", 5), ("snow", 5)]}
    conditions = {
        name: {"shift": shift, "noise": [0.1, 0.2], "number": number, "persisting": share, "sentence": f"So {name}."}
        for name, shift, number, share in (
            *(("clean", [0.1, 0.2], 0.5, 0.0), ("fog 5", [0.3, 0.8], 4.0, 0.5)),
            *((f"own {n}", [0.2, 0.2 + n / 10], 1 + n / 10, 0.1) for n in range(1, 6)),
        )
    }
    layers = {"images": 32, "layers": ["bn1", "bn2"], "noise": [0.1, 0.2], "conditions": conditions}
    page = build_report(write_run(tmp_path / "run", record_of(), rows_of(few), layers=layers))
    chart = blocks_of(page)["layers-1"]
    (panel,) = chart.panels
    assert [series.label for series in panel.series] == ["clean", "fog 5", "own 5", "own 4", "own 3"]
    assert panel.series[1].values == pytest.approx((3.0, 4.0))
    assert not chart.percent
    assert [cell.text for cell in column(chart.table, "fog 5")] == ["3.0", "4.0"]
    told = [cell.text for cell in column(blocks_of(page)["readout-1"], "rectifying")]
    assert told == ["likely helps", *["may help a little"] * 5, "no shift beyond noise"]


def test_the_layers_of_other_models_are_folded(tmp_path, bits):
    few = {one: bits["source"][one] for one in [("clean", 0), ("fog", 5)]}
    one = {"shift": [0.3], "noise": [0.1], "number": 3.0, "persisting": 0.4, "sentence": "So."}
    layers = {"images": 32, "layers": ["bn"], "noise": [0.1], "conditions": {"fog 5": one}}
    for name in ("a", "b"):
        write_run(tmp_path / name, record_of(model={"weights_hash": name}), rows_of(few), layers=layers)
    (section,) = [one for one in build_report(tmp_path).sections if one.name == "layers"]
    assert [block.name for block in section.blocks] == ["layers-1", "readout-1", "layers-of-2"]
    assert [block.name for block in section.blocks[2].blocks] == ["layers-2", "readout-2"]


def test_a_training_is_linked_to_the_subjects_that_have_its_weights(tmp_path, paths):
    history = [{"epoch": n, "learning_rate": 0.1 / n, "losses": {"clean": 1 / n, "adv": 2 / n}} for n in (1, 2, 3)]
    record = {
        "model": {"weights_hash": "aaaa"},
        "hardening": {"method": "advbn", "at": "layer1.0"},
        "history": history,
        "weights_hash": {"clean": "cccc", "adv": "bbbb"},
    }
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps(record))
    page = build_report([*paths, folder])
    (section,) = [one for one in page.sections if one.name == "training"]
    assert (
        "begun with weights aaaa; made clean cccc; adv bbbb, measured here as AdvBN, adversarial branch"
        in (section.text[1])
    )
    chart, facts = section.blocks
    assert chart.panels[0].series[1].values == (2.0, 1.0, 2 / 3)
    assert facts.values["hardening"]["at"] == "layer1.0"
    assert "history" not in facts.values


def test_records_are_shown_whole_with_what_differs(page, paths):
    blocks = blocks_of(page)
    assert blocks["record-1"].values["record"] == json.loads((paths[0] / "record.json").read_text())
    assert blocks["record-1"].values["rows"] == 3 * 76
    assert blocks["record-1"].values["seconds"] == 3 * 76 / 2
    fields = [cell.text for cell in column(blocks["record-differences"], "field")]
    assert "model.weights_hash" in fields
    assert "data.images" not in fields


def test_the_same_runs_make_the_same_page(page, paths, tmp_path):
    assert build_report(paths) == page
    pages = [write_report(paths[0], tmp_path / name).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_names_of_blocks_are_unique_and_rows_as_long_as_the_head(page):
    names = [block.name for section in page.sections for block in section.blocks]
    assert len(names) == len(set(names))
    for block in blocks_of(page).values():
        table = getattr(block, "table", block)
        if hasattr(table, "rows"):
            assert {len(row) for row in table.rows} <= {len(table.columns)}


def replace_in(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "record.json").write_text("{"), "damaged"),
        (lambda run: (run / "record.json").write_text("[]"), "damaged"),
        (lambda run: (run / "record.json").write_text(json.dumps({"model": 3})), "damaged"),
        (lambda run: (run / "rows.jsonl").write_text("{}\n{}\n"), "damaged"),
        (
            lambda run: (run / "rows.jsonl").write_text(
                '{"protocol":"source","shift":"fog","severity":1,"draw":0}\n' * 2
            ),
            "",
        ),
        (
            lambda run: (run / "rows.jsonl").write_text(
                (run / "rows.jsonl").read_text().replace('"correct": 1', '"correct": 2')
            ),
            "count",
        ),
        (
            lambda run: (run / "layers.json").write_text('{"conditions": {"fog 1": 3}, "layers": []}'),
            "layers.json is damaged",
        ),
        (lambda run: (run / "layers.json").write_text("no"), "layers.json"),
        (lambda run: (run / "ligs.json").write_text('{"gaussian": {}}'), "ligs.json is damaged"),
        *(
            (lambda run, old=old, new=new: replace_in(run / "rows.jsonl", old, new), "damaged")
            for old, new in (
                ('"shift": "clean"', '"shift": null'),
                ('"severity": 1', '"severity": 1.5'),
                ('"protocol": "source"', '"protocol": []'),
                ('"draw": 0', '"draw": "x"'),
                ('"draw": 0', '"draw": 0, "left_out": ["x"]'),
            )
        ),
        *(
            (lambda run, old=old, new=new: replace_in(run / "record.json", old, new), "damaged")
            for old, new in (('"shifts": ["clean"', '"shifts": [3'), ('"images": 160', '"images": "x"'))
        ),
        (lambda run: (run / "rows.jsonl").write_text(""), "finished condition"),
        (lambda run: (run / "rows.jsonl").unlink(), "holds no run"),
    ],
)
def test_damage_is_told_in_one_line_that_names_the_path(tmp_path, bits, damage, said):
    run = write_run(tmp_path / "run", record_of(), rows_of({one: bits["source"][one] for one in BENCHMARK[:4]}))
    build_report(run)
    damage(run)
    with pytest.raises(InputError) as error:
        build_report(run)
    assert said in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_there_and_cannot_be_written_is_told(tmp_path, bits):
    paths = [write_run(tmp_path / "run", record_of(), rows_of({one: bits["source"][one] for one in BENCHMARK[:2]}))]
    with pytest.raises(InputError, match="nowhere is not there"):
        build_report(tmp_path / "nowhere")
    with pytest.raises(InputError, match="at least one run"):
        build_report([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no run"):
        build_report([*paths, tmp_path / "empty"])
    with pytest.raises(InputError, match=r"Cannot write to .*it is a folder"):
        write_report(paths, tmp_path)
    with pytest.raises(InputError, match=r"Cannot write to .*No such file"):
        write_report(paths, tmp_path / "no" / "report.html")


def test_a_run_without_rows_is_left_out_beside_others(tmp_path, paths):
    empty = write_run(tmp_path / "empty", record_of(), [])
    page = build_report([empty, paths[0]])
    assert [one.subject for one in page.verdicts] == ["source", "auto", "replace"]
    assert any("No condition is finished" in text and "empty" in text for text in page.warnings)
    assert blocks_of(page)["record-1"].values["rows"] == 0


def test_records_of_old_are_reported_too(tmp_path, bits):
    record = record_of() | {"protocols": ["source"]}
    del record["model"]["norms"], record["model"]["made_by"], record["environment"]
    run = write_run(tmp_path / "run", record, rows_of(bits["source"]))
    assert build_report(run).verdicts[0].figures[1].value == pytest.approx(mean_over(bits["source"]))


def test_numbers_as_they_are_shown():
    assert (percent(0.68754), percent(None), percent(-0.0001)) == ("68.8 %", "-", "0.0 %")
    assert (points(0.0812), points(-0.0004), points(-0.2, "")) == ("+8.1 points", "0.0 points", "-20.0")
    assert (interval((0.672, 0.704)), interval(None), interval((-0.01, 0.02), "+")) == (
        *("[67.2, 70.4]", "", "[-1.0, +2.0]"),
    )
    assert (listed(["a"]), listed(["a", "b", "c"]), listed(["a, x", "b", "c"])) == ("a", "a, b and c", "a, x; b and c")
    assert (amount(0.07, 0.081, 0.092), amount(-0.01, 0.02, 0.05)) == (
        *("8.1 points [7.0, 9.2]", "+2.0 points [-1.0, +5.0]"),
    )
    assert listed(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"
    assert short("a\nb\x1b[31m\u202ec\t d") == "a b [31m c d"
    assert short("模型 نموذج") == "模型 نموذج"
    assert len(short("x" * 300)) == 60


def test_dataclasses_of_a_page_hold_nothing_but_plain_data(page):
    json.dumps(dataclasses.asdict(page))
