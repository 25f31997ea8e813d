"""A report's figures, by an independent road from the bits."""

import dataclasses
import json

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
from statshift.comparison import compare
from statshift.errors import InputError
from statshift.metrics import ALEXNET
from statshift.report import build, write_report
from statshift.report.words import interval, listed, percent, points, short
from statshift.uncertainty import wilson_interval

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
    return build(paths)


def kept(right):
    return np.delete(right, LEFT_OUT)


def mean_over(bits, cut=lambda right: right):
    return np.mean([[cut(bits[shift, level]).mean() for level in range(1, 6)] for shift in COMMON])


def mce_of(bits, cut=lambda right: right):
    table = ALEXNET["cifar10"]
    return np.mean([np.mean([1 - cut(bits[c, s]).mean() for s in range(1, 6)]) / table[c] for c in COMMON])


def test_subjects_are_named_by_model_maker_and_protocol(page):
    hardened = "cifar:resnet20, hardened by advbn, adversarial branch"
    models = ["cifar:resnet20"] * 3 + [hardened] * 2
    protocols = ["source", "auto", "replace", "source", "auto"]
    assert [one.subject for one in page.verdicts] == [
        f"{model} · {protocol}" for model, protocol in zip(models, protocols, strict=True)
    ]
    assert page.title == "Accuracy under shift: cifar:resnet20"
    assert "160 images of npz:test.npz, under all 15 common corruptions" in page.lead


def test_the_summary_tells_each_figure_by_its_name(page, bits):
    labels = ["clean accuracy", "mean accuracy, 15 x 5", "mean error, 15 x 5", "mCE"]
    for verdict, name in zip(page.verdicts, ("source", "auto", "replace"), strict=False):
        cut = kept if name != "source" else lambda right: right
        mean, mce = mean_over(bits[name], cut), mce_of(bits[name], cut)
        clean = cut(bits[name]["clean", 0]).mean()
        assert [figure.label for figure in verdict.figures] == labels
        assert [figure.value for figure in verdict.figures] == pytest.approx([clean, mean, 1 - mean, mce])
        assert [figure.text for figure in verdict.figures] == [f"{100 * v:.1f} %" for v in (clean, mean, 1 - mean, mce)]
        low, high = wilson_interval(clean * len(cut(np.ones(IMAGES))), len(cut(np.ones(IMAGES))))
        assert verdict.figures[0].interval == f"[{100 * low:.1f}, {100 * high:.1f}]"
        for figure in verdict.figures[1:]:
            assert figure.bounds[0] < figure.value < figure.bounds[1]
    notes = {figure.label: figure.note for figure in page.verdicts[0].figures}
    assert "AlexNet on cifar10" in notes["mCE"]
    assert "not the mean error" in notes["mCE"]
    assert "not the mCE" in notes["mean error, 15 x 5"]


def test_differences_are_those_of_compare(page, paths, bits):
    first, second = paths
    pairs = {1: (first, "auto"), 2: (first, "replace"), 3: (second, "source"), 4: (second, "auto")}
    for place, (path, protocol) in pairs.items():
        found = compare(first, path, protocols=("source", protocol), table="cifar10")
        verdict, mean = page.verdicts[place], found.mean_accuracy
        bounds = f"[{100 * mean.low:+.1f}, {100 * mean.high:+.1f}]"
        assert verdict.sentence.startswith(f"{100 * mean.difference:+.1f} points {bounds} on the same images")
        assert verdict.tone == ("good" if mean.low > 0 else "bad" if mean.high < 0 else "")
        values = [found.conditions[0].accuracy.difference, mean.difference, -mean.difference, found.mce.difference]
        assert [figure.difference for figure in verdict.figures] == [points(value, " pp") for value in values]
    assert page.verdicts[1].tone == "good"
    assert page.verdicts[3].tone == "bad"
    mean = mean_over(bits["auto"], kept) - mean_over(bits["source"], kept)
    assert page.verdicts[1].sentence.startswith(f"{100 * mean:+.1f} points")


def test_conditions_and_their_significance_are_those_of_compare(page, paths):
    blocks, first = blocks_of(page), paths[0]
    found = compare(first, first, protocols=("source", "replace")).conditions
    table = blocks["change-2-conditions"]
    assert "replace against" in table.title
    assert [cell.value for cell in column(table, "p")] == [one.adjusted_p_value for one in found]
    assert [cell.value for cell in column(table, "difference, points")] == [one.accuracy.difference for one in found]
    assert [cell.text for cell in column(table, "right after only")] == [str(one.only_second) for one in found]
    sure = [one.adjusted_p_value < 0.05 for one in found]
    wanted = [s * ("better" if o.accuracy.difference > 0 else "worse") for s, o in zip(sure, found, strict=True)]
    assert [cell.text for cell in column(table, "sure")] == wanted
    assert 0 < sum(sure) < 76
    overall = blocks["changes"]
    assert column(overall, "surely better")[1].value + column(overall, "surely worse")[1].value == sum(sure)
    text = next(text for section in page.sections if section.name == "changes" for text in section.text[1:])
    assert "Of 76 conditions" in text


def test_differences_by_corruption_are_means_over_severities(page, bits):
    table = blocks_of(page)["change-1"]
    names = [cell.text for cell in column(table, "corruption")]
    assert names == ["clean", *COMMON]
    for shift, difference, bounds in zip(
        names, column(table, "difference, points"), column(table, "95 % interval"), strict=True
    ):
        levels = [0] if shift == "clean" else range(1, 6)
        by_image = np.mean(
            [kept(bits["auto"][shift, s]) * 1.0 - kept(bits["source"][shift, s]) for s in levels], axis=0
        )
        assert difference.value == pytest.approx(by_image.mean())
        half = 1.96 * by_image.std() / np.sqrt(len(by_image))  # the normal's, which the bootstrap's is close to
        low, high = (float(end) / 100 for end in bounds.text.strip("[]").split(", "))
        assert (high - low) / 2 == pytest.approx(half, rel=0.2, abs=0.002)


def test_the_table_of_a_subject_keeps_mean_error_and_mce_apart(page, bits):
    table = blocks_of(page)["severities-1"]
    labels = [one.label for one in table.columns]
    assert labels == ["corruption", "family", *"12345", "mean accuracy", "mean error", "CE"]
    assert [row[0].text for row in table.rows] == [*COMMON, "mean of the 15", "mCE"]
    families = [cell.text for cell in column(table, "family")][:15]
    assert families == ["noise"] * 3 + ["blur"] * 4 + ["weather"] * 4 + ["digital"] * 4
    for row in table.rows[:15]:
        shift = row[0].text
        values = [bits["source"][shift, level].mean() for level in range(1, 6)]
        error = 1 - np.mean(values)
        expected = [*values, 1 - error, error, error / ALEXNET["cifar10"][shift]]
        assert [cell.value for cell in row[2:]] == pytest.approx(expected)
    means, mce = table.rows[15:]
    assert means[7].text == f"{100 * mean_over(bits['source']):.1f}"
    assert means[8].text == f"{100 - 100 * mean_over(bits['source']):.1f}"
    assert [cell.text for cell in means[9:]] == [""]
    assert [cell.text for cell in mce[1:]] == [""] * 8 + [f"{100 * mce_of(bits['source']):.1f}"]


def test_charts_have_a_panel_for_each_corruption_and_the_same_figures_as_a_table(page, bits):
    chart = blocks_of(page)["chart-1-1"]
    assert [panel.title for panel in chart.panels] == list(COMMON)
    assert chart.x == ("1", "2", "3", "4", "5")
    labels = [verdict.subject for verdict in page.verdicts]
    fog = chart.panels[COMMON.index("fog")]
    assert [series.label for series in fog.series] == labels
    values = [kept(bits["replace"]["fog", level]).mean() for level in range(1, 6)]
    assert fog.series[2].values == pytest.approx(values)
    low, high = wilson_interval(np.array(values) * 128, 128)
    assert (fog.series[2].low, fog.series[2].high) == (pytest.approx(low), pytest.approx(high))
    rows = [row for row in chart.table.rows if row[0].text == "fog"]
    assert [row[4].value for row in rows] == pytest.approx(values)
    assert len(chart.table.rows) == 75


def test_draws_are_averaged(tmp_path):
    source = draw(BENCHMARK, 0.7, seed=1)
    two = better(source, 0.5)
    run = adapted_run(tmp_path / "run", source, {"auto": two}, draws=2)
    (_, verdict) = build(run).verdicts
    cuts = [lambda right, n=n: np.delete(right, [one + n for one in LEFT_OUT]) for n in (0, 1)]
    assert verdict.figures[1].value == pytest.approx(np.mean([mean_over(two, cut) for cut in cuts]))
    gain = np.mean([mean_over(two, cut) - mean_over(source, cut) for cut in cuts])
    assert verdict.figures[1].difference == f"{100 * gain:+.1f} pp"


def test_fewer_conditions_are_never_called_mean_error_or_mce(tmp_path, bits):
    few = {one: right for one, right in bits["source"].items() if one[0] in ("clean", "fog", "snow") and one[1] != 2}
    record = record_of(shifts=["clean", "fog", "snow"], severities=[1, 3, 4, 5])
    page = build(write_run(tmp_path / "few", record, rows_of(few)))
    figures = {figure.label: figure for figure in page.verdicts[0].figures}
    assert list(figures) == ["clean accuracy", "mean of 2 shifts", "mCE"]
    expected = np.mean([right.mean() for (shift, _), right in few.items() if shift != "clean"])
    assert figures["mean of 2 shifts"].value == pytest.approx(expected)
    assert figures["mCE"].text == "-"
    assert figures["mCE"].note == "There is no mCE: 8 of its 75 conditions measured."
    table = blocks_of(page)["severities-1"]
    assert {row[0].text for row in table.rows} == {"fog", "snow"}
    assert not any("CE" in column.label for column in table.columns)


def test_where_there_is_no_alexnet_there_is_a_mean_error_and_no_mce(tmp_path, bits):
    page = build(write_run(tmp_path / "run", record_of(alexnet=None), rows_of(bits["source"])))
    figures = {figure.label: figure for figure in page.verdicts[0].figures}
    assert figures["mean error, 15 x 5"].value == pytest.approx(1 - mean_over(bits["source"]))
    assert figures["mCE"].note == "There is no mCE: no AlexNet baseline for this data."


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
    figure = build(run).verdicts[0].figures[-1]
    assert figure.value == pytest.approx(np.mean([own[c] / errors[c] for c in COMMON]))
    assert "relative to the baseline timm:old" in figure.note


def test_runs_over_other_images_are_not_compared(tmp_path, paths, bits):
    fewer = {one: right[:100] for one, right in bits["source"].items()}
    third = write_run(tmp_path / "third", record_of(100), rows_of(fewer))
    page = build([*paths, third])
    assert [one.compared for one in page.verdicts] == [True] * 5 + [False]
    assert all(not figure.difference for figure in page.verdicts[-1].figures)
    assert "data.images (100, not 160)" in page.verdicts[-1].sentence
    assert "data.images (100, not 160); data.indices_hash and data.labels_hash" in page.warnings[0]
    blocks = blocks_of(page)
    assert all("third" not in cell.text for row in blocks["changes"].rows for cell in row[:2])
    assert not any("third" in one.label for one in blocks["by-corruption-1"].columns)
    labels = [series.label for series in blocks["chart-2-1"].panels[0].series]
    assert labels == [page.verdicts[-1].subject]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path, bits):
    few = {one: bits["source"][one] for one in BENCHMARK[:3]}
    paths = [write_run(tmp_path / name, record_of(), rows_of(few)) for name in ("a/run", "b/run", "c")]
    labels = [one.subject for one in build(paths).verdicts]
    assert labels == [
        f"cifar:resnet20 ({name}) · source" for name in ("a/run", "b/run", f"{tmp_path.name}/c")
    ] or labels == [f"cifar:resnet20 ({name}) · source" for name in ("a/run", "b/run", "c")]
    assert [one.subject for one in build([paths[0], paths[0]]).verdicts] == ["cifar:resnet20 · source"]
    assert len(build(tmp_path).verdicts) == 3


def test_attacks_and_ligs_have_a_section(tmp_path, bits):
    right = {("clean", 0): bits["source"]["clean", 0], ("pgd-linf:1/255", 0): np.arange(IMAGES) < 12}
    record = record_of(shifts=["clean", "pgd-linf:1/255"], attacks={"pgd-linf:1/255": {"steps": 20}})
    ligs = {"gaussian": {"mean": 0.5125, "interval": [0.45, 0.575], "images": 158, "left_out": 2, "scale": 0.01}}
    page = build(write_run(tmp_path / "run", record, rows_of(right), ligs=ligs))
    blocks = blocks_of(page)
    (row,) = blocks["attacks"].rows
    low, high = wilson_interval(12, IMAGES)
    texts = ["pgd-linf:1/255", "20", "7.5", f"[{100 * low:.1f}, {100 * high:.1f}]"]
    assert [cell.text for cell in row[1:5]] == texts
    assert [cell.text for cell in blocks["ligs"].rows[0]][1:] == [
        *("gaussian", "0.01", "0.512", "[0.450, 0.575]", "158", "2")
    ]
    (section,) = [one for one in page.sections if one.name == "attacks"]
    assert "upper bound" in section.text[0]
    assert [figure.label for figure in page.verdicts[0].figures] == ["clean accuracy", "mCE"]  # no mean over attacks


def test_layers_are_told_in_units_of_noise(tmp_path, bits):
    few = {one: bits["source"][one] for one in [("clean", 0), ("fog", 5), ("snow", 5)]}
    conditions = {
        name: {"shift": shift, "noise": [0.1, 0.2], "number": number, "persisting": share, "sentence": f"So {name}."}
        for name, shift, number, share in (
            *(("clean", [0.1, 0.2], 1.0, 0.0), ("fog 5", [0.3, 0.8], 4.0, 0.5)),
            *((f"own {n}", [0.2, 0.2 + n / 10], 1 + n / 10, 0.1) for n in range(1, 6)),
        )
    }
    layers = {"images": 32, "layers": ["bn1", "bn2"], "noise": [0.1, 0.2], "conditions": conditions}
    page = build(write_run(tmp_path / "run", record_of(), rows_of(few), layers=layers))
    chart = blocks_of(page)["layers-1"]
    (panel,) = chart.panels
    assert [series.label for series in panel.series] == ["clean", "fog 5", "own 5", "own 4", "own 3"]
    assert panel.series[1].values == pytest.approx((3.0, 4.0))
    assert not chart.percent
    assert [cell.text for cell in column(chart.table, "fog 5")] == ["3.0", "4.0"]
    sentences = column(blocks_of(page)["readout-1"], "in words")
    assert [cell.text for cell in sentences][:2] == ["So fog 5.", "So own 5."]
    assert len(sentences) == 7


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
    page = build([*paths, folder])
    (section,) = [one for one in page.sections if one.name == "training"]
    assert (
        "begun with weights aaaa; made clean cccc; adv bbbb, measured here as cifar:resnet20, hardened by advbn"
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
    assert build(paths) == page
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
    build(run)
    damage(run)
    with pytest.raises(InputError) as error:
        build(run)
    assert said in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_there_and_cannot_be_written_is_told(tmp_path, bits):
    paths = [write_run(tmp_path / "run", record_of(), rows_of({one: bits["source"][one] for one in BENCHMARK[:2]}))]
    with pytest.raises(InputError, match="nowhere is not there"):
        build(tmp_path / "nowhere")
    with pytest.raises(InputError, match="at least one run"):
        build([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no run"):
        build([*paths, tmp_path / "empty"])
    with pytest.raises(InputError, match=r"Cannot write to .*it is a folder"):
        write_report(paths, tmp_path)
    with pytest.raises(InputError, match=r"Cannot write to .*No such file"):
        write_report(paths, tmp_path / "no" / "report.html")


def test_a_run_without_rows_is_left_out_beside_others(tmp_path, paths):
    empty = write_run(tmp_path / "empty", record_of(), [])
    page = build([empty, paths[0]])
    assert [one.subject for one in page.verdicts] == [
        f"cifar:resnet20 · {name}" for name in ("source", "auto", "replace")
    ]
    assert any("No condition is finished" in text and "empty" in text for text in page.warnings)
    assert blocks_of(page)["record-1"].values["rows"] == 0


def test_records_of_old_are_reported_too(tmp_path, bits):
    record = record_of() | {"protocols": ["source"]}
    del record["model"]["norms"], record["model"]["made_by"], record["environment"]
    run = write_run(tmp_path / "run", record, rows_of(bits["source"]))
    assert build(run).verdicts[0].figures[1].value == pytest.approx(mean_over(bits["source"]))


def test_numbers_as_they_are_shown():
    assert (percent(0.68754), percent(None), percent(-0.0001)) == ("68.8 %", "-", "0.0 %")
    assert (points(0.0812), points(-0.0004), points(-0.2, "")) == ("+8.1 points", "0.0 points", "-20.0")
    assert (interval((0.672, 0.704)), interval(None), interval((-0.01, 0.02), "+")) == (
        *("[67.2, 70.4]", "", "[-1.0, +2.0]"),
    )
    assert (listed(["a"]), listed(["a", "b", "c"]), listed(["a, x", "b", "c"])) == ("a", "a, b and c", "a, x; b and c")
    assert listed(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"
    assert short("a\nb\x1b[31m\u202ec\t d") == "a b [31m c d"
    assert short("模型 نموذج") == "模型 نموذج"
    assert len(short("x" * 300)) == 60


def test_dataclasses_of_a_page_hold_nothing_but_plain_data(page):
    json.dumps(dataclasses.asdict(page))
