"""Runs of streams in a report and in a terminal: the numbers beside loops over rows, and what is said of them."""

import json
import re
import shlex

import numpy as np
import pytest
from scipy import stats
from typer.main import get_command

from report_runs import COMMON, blocks_of, column, draw, record_of, rows_of, stream_of_bits, stream_run, write_run
from statshift import compare, read_run
from statshift._core.errors import InputError
from statshift.cli import app
from statshift.cli.along import stream_text
from statshift.report import build_report
from statshift.results.along import traces
from statshift.results.stream_words import stream_in_words
from statshift.tasks.classification import CLASSIFICATION
from synthetic_runs import paired_by_hand

PARSER = get_command(app)
IMAGES = 200
SHIFTS = [("clean", 0), ("gaussian_noise", 5), ("fog", 5), ("contrast", 5), ("snow", 5)]


def record(**changes):
    return record_of(IMAGES, shifts=[shift for shift, _ in SHIFTS], severities=[5], **changes)


@pytest.fixture(scope="module")
def bits():
    return draw(SHIFTS, lambda shift, _: 0.9 if shift == "clean" else 0.6, IMAGES)


@pytest.fixture(scope="module")
def fallen(bits):
    """A protocol that is right wherever the source is and in a few places more, but falls in one bin of fog."""
    places = stream_of_bits(SHIFTS, IMAGES)
    own = {one: right.copy() for one, right in bits.items()}
    for one in SHIFTS[1:]:
        own[one][:20] = True
    hit = np.flatnonzero(places["fog", 5] == 7)
    own["fog", 5][hit] = False
    own["clean", 0][:30] = False
    return own, len(hit)


@pytest.fixture
def written(tmp_path, bits, fallen):
    return stream_run(tmp_path / "run", bits, {"tent": fallen[0], "auto": bits}, record=record())


def rows_in(path):
    return [json.loads(line) for line in (path / "rows.jsonl").read_text().splitlines()]


def section_of(page):
    return next(one for one in page.sections if one.name == "streams")


def by_bin(rows, protocol, bins=20):
    """Return (images, right, right of the source) of each bin, by a loop."""
    sums = [[0, 0, 0] for _ in range(bins)]
    for row in rows:
        if row["protocol"] == protocol:
            for place, *values in row["along"]:
                sums[place] = [a + b for a, b in zip(sums[place], values, strict=True)]
    return sums


# Numbers


@pytest.mark.parametrize("kind", ["continual", "mixed", "iid"])
@pytest.mark.parametrize("draws", [1, 3])
def test_what_is_drawn_are_the_sums_of_the_rows(tmp_path, bits, fallen, kind, draws):
    path = stream_run(tmp_path / "run", bits, {"tent": fallen[0], "auto": bits}, kind, draws, record())
    rows, blocks = rows_in(path), blocks_of(build_report(path))
    chart, table = blocks["stream-1"], blocks["stream-1"].table
    assert [panel.title for panel in chart.panels] == ["tent", "auto"]
    assert chart.x[:3] == ("0", "5", "10")
    for panel in chart.panels:
        sums = by_bin(rows, panel.title)
        assert sum(images for images, _, _ in sums) == draws * IMAGES * len(SHIFTS)
        source, own = panel.series
        assert (source.label, own.label) == ("source", panel.title)
        assert own.values == pytest.approx([right / images for images, right, _ in sums])
        assert source.values == pytest.approx([before / images for images, _, before in sums])
        low, high = zip(*(wilson(right / draws, images / draws) for images, right, _ in sums), strict=True)
        np.testing.assert_allclose([own.low, own.high], [low, high])
        assert [cell.value for cell in column(table, panel.title)] == pytest.approx(list(own.values))
    assert [cell.value for cell in column(table, "images")] == [images for images, _, _ in by_bin(rows, "tent")]
    if kind == "continual":
        assert column(table, "conditions")[0].text == "gaussian_noise 5"
        assert column(table, "conditions")[-1].text == "clean"
        assert chart.note == "In order: gaussian_noise 5, fog 5, contrast 5, snow 5 and clean."


def wilson(right, images):
    z = stats.norm.ppf(0.975)
    middle, half = (right + z**2 / 2), z * np.sqrt(right * (images - right) / images + z**2 / 4)
    return (middle - half) / (images + z**2), (middle + half) / (images + z**2)


def test_the_place_where_a_protocol_falls_is_found(written, bits, fallen):
    own, hit = fallen
    rows = [row for row in read_run(written).rows if row["protocol"] != "source"]
    found = traces(rows, read_run(written).record["stream"], CLASSIFICATION)
    fall = found["tent"].fall
    assert (fall.condition, fall.bin, fall.images) == (("fog", 5), 7, hit)
    places = stream_of_bits(SHIFTS, IMAGES)["fog", 5]
    lost = int(bits["fog", 5][places == 7].sum())
    assert fall.difference == pytest.approx(-lost / hit)
    differing = np.mean(own["fog", 5] != bits["fog", 5])
    filled = sum(len(np.unique(one)) for one in stream_of_bits(SHIFTS, IMAGES).values())
    p_value = 2 * stats.norm.sf(lost / np.sqrt(hit * differing + 2)) * filled
    assert fall.p_value == pytest.approx(p_value)
    assert fall.certain
    assert found["auto"].fall is None


def test_one_image_that_is_lost_is_no_fall(tmp_path, bits):
    own = {one: right.copy() for one, right in bits.items()}
    own["snow", 5][int(np.flatnonzero(bits["snow", 5])[0])] = False
    path = stream_run(tmp_path / "run", bits, {"eta": own}, record=record())
    fall = traces(read_run(path).rows, read_run(path).record["stream"], CLASSIFICATION)["eta"].fall
    assert fall.condition == ("snow", 5)
    assert not fall.certain
    page = build_report(path)
    assert "No place is significantly under the source for eta." in section_of(page).text
    assert re.fullmatch(r"\(-\d\.\d\)", column(blocks_of(page)["stream-1-overall"], "where it fell")[0].text)


def test_what_is_left_on_clean_images_is_paired_with_the_source(written, bits, fallen):
    page = build_report(written)
    table = blocks_of(page)["stream-1-overall"]
    clean, before = fallen[0]["clean", 0], bits["clean", 0]
    low, high, _ = paired_by_hand(clean.astype(int) - before.astype(int))
    forgotten = column(table, "forgotten")[0]
    assert forgotten.value == pytest.approx(clean.mean() - before.mean())
    assert forgotten.interval == f"[{100 * low:+.1f}, {100 * high:+.1f}]"
    assert column(table, "clean afterwards")[0].value == pytest.approx(clean.mean())
    assert column(table, "forgotten")[1].value == 0
    (told,) = [text for text in section_of(page).text if text.startswith("What is left on the clean images")]
    assert f"where the source has {100 * before.mean():.1f}: tent {100 * clean.mean():.1f} (" in told
    assert "auto" in told.partition("; ")[2]
    assert "undecided" in told.partition("; ")[2]


def test_quarters_are_those_of_the_passage(written):
    table = blocks_of(build_report(written))["stream-1-overall"]
    sums = np.array(by_bin(rows_in(written), "tent"))
    for label, part in (("first quarter", sums[:5]), ("last quarter", sums[15:])):
        images, own, source = part.sum(0)
        assert column(table, label)[0].value == pytest.approx((own - source) / images)
    images, own, source = sums.sum(0)
    assert column(table, "whole stream")[0].value == pytest.approx(own / images)
    assert column(table, "source")[0].value == pytest.approx(source / images)


# Words


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("continual", {}, "A continual stream in batches of 16 images: all conditions one after another, clean images "
         "last; no reset is made within it."),
        ("mixed", {"asked": {"reset_every": 5}}, "A mixed stream in batches of 16 images: the images of all conditions "
         "shuffled into one stream, clean images last; protocols begin at the source again after every 5 batches."),
        ("iid", {}, "An iid stream in batches of 16 images: each condition is a stream of its own, its images "
         "shuffled; protocols begin at the source again at each condition."),
        ("sorted", {"asked": {"reset_every": 1}}, "A sorted stream in batches of 16 images: each condition is a stream "
         "of its own, one class after another; protocols begin at the source again at each condition, and after every "
         "1 batch."),
    ],
)  # fmt: skip
def test_a_page_says_which_stream_it_is_of(tmp_path, bits, kind, changes, said):
    path = stream_run(tmp_path / "run", bits, {"auto": bits}, kind, record=record(**changes))
    page = build_report(path)
    assert stream_in_words(read_run(path).record) == said
    assert page.title == f"Accuracy along {'an iid' if kind == 'iid' else f'a {kind}'} stream: cifar:resnet20"
    assert (
        f"images of npz:test.npz as {'an iid' if kind == 'iid' else f'a {kind}'} stream in batches of 16" in page.lead
    )
    (warning,) = [text for text in page.warnings if text.startswith(said)]
    assert "none is held out" in warning
    assert section_of(page).text[0] == said
    if kind in ("iid", "sorted"):
        assert "nothing is forgotten" in section_of(page).text[-1]
        assert "clean afterwards" not in [one.label for one in blocks_of(page)["stream-1-overall"].columns]


def test_a_page_says_where_it_fell(written, fallen):
    text = "\n".join(section_of(build_report(written)).text)
    images = fallen[1]
    assert re.search(rf"Furthest under the source: tent by \d+\.\d points under fog 5, at 35 to 40 % of the passage "
                     rf"\({images} images\)\. No place is significantly under the source for auto\.", text)  # fmt: skip


def test_near_copies_and_small_batches_are_warned_of(tmp_path, bits):
    path = stream_run(tmp_path / "run", bits, {"auto": bits}, "video", record=record(), copies=8, batch=4)
    texts = build_report(path).warnings
    assert any("Each scene comes in 8 near-copies, which are no further evidence" in text for text in texts)
    assert any(text.startswith("Batches of 4 images are small") for text in texts)


def test_nothing_is_said_that_is_of_images_held_out(tmp_path, bits, fallen):
    """Weights are not to be written of a stream, and what is repeated is its order."""
    better = {one: right | (np.arange(IMAGES) % 3 == 0) for one, right in bits.items()}
    described = {"kind": "layers", "samples": 16, "evaluated_on": "all images, those adapted on among them"}
    path = stream_run(tmp_path / "run", bits, {"auto": better, "tent": fallen[0]}, record=record())
    changed = json.loads((path / "record.json").read_text())
    changed["protocols"]["auto"] = described
    (path / "record.json").write_text(json.dumps(changed))
    page = build_report(path)
    told = "\n".join([*page.advice, *page.warnings])
    for wrong in (
        "statshift rectify",
        "Rectify",
        "images to adapt on",
        "Adapted on",
        "Evaluated on the images adapted",
    ):
        assert wrong not in told
    advice = "\n".join(page.advice)
    assert re.search(
        r"Adapt resnet20 by auto on such a stream in batches of 16 images: it gains \d+\.\d points", advice
    )
    assert "Begin tent at the source again after such a stream: on the clean images at its end it costs" in advice
    (again,) = [text for text in page.advice if text.startswith("Repeat auto in other orders")]
    words = shlex.split(again.partition("Run: statshift ")[2])
    assert "--stream continual --samples 16 --rectify auto --draws 5" in " ".join(words)
    name, command, rest = PARSER.resolve_command(PARSER.make_context("statshift", ["layers"]), words)
    assert command.make_context(name, list(rest)).params["stream"] == "continual"
    assert "answered in one order: how much the results depend on it is not known" in told


def test_a_protocol_that_loses_is_not_advised(tmp_path, bits):
    worse = {one: right & (np.arange(IMAGES) % 3 > 0) for one, right in bits.items()}
    path = stream_run(tmp_path / "run", bits, {"tent": worse}, record=record())
    assert any(
        text.startswith(
            "Do not adapt resnet20 on such a stream in batches of 16 images: the best protocol measured, tent"
        )
        for text in build_report(path).advice
    )


def test_a_run_without_a_stream_has_no_such_section(tmp_path, bits):
    path = write_run(tmp_path / "run", record(), rows_of(bits))
    page = build_report(path)
    assert "streams" not in [one.name for one in page.sections]
    assert page.title == "Accuracy under shift: cifar:resnet20"
    assert "stream" not in page.lead


def test_a_damaged_row_is_told_in_one_line(written):
    rows = rows_in(written)
    rows[-1]["along"] = [[99, 1, 1, 1]]
    (written / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(InputError, match=r"run is damaged: IndexError"):
        build_report(written)


# Several runs


def test_runs_in_other_orders_are_not_compared(tmp_path, bits, fallen):
    one, two, three = (
        stream_run(tmp_path / kind, bits, {"tent": fallen[0]}, kind, record=record())
        for kind in ("continual", "iid", "mixed")
    )
    plain = write_run(tmp_path / "plain", record(), rows_of(bits))
    for other, said in ((two, "'continual' in the first and 'iid'"), (plain, "'continual' in the first and None")):
        with pytest.raises(InputError, match=rf"`stream\.spec` is {said}"):
            compare(one, other)
    assert compare(one, one, protocols=("source", "tent")).images == IMAGES
    page = build_report([one, two, three])
    assert [verdict.subject for verdict in page.verdicts[::2]] == [
        f"resnet20 ({kind} stream)" for kind in ("continual", "iid", "mixed")
    ]
    assert "stream spec (iid, not continual)" in page.verdicts[2].sentence
    assert page.title == "Accuracy along 3 streams: cifar:resnet20"
    assert [text.partition(": ")[0] for text in section_of(page).text] == [
        f"resnet20 ({kind} stream)" for kind in ("continual", "iid", "mixed")
    ]


def test_a_stream_through_other_conditions_is_another(tmp_path, bits, fallen):
    one = stream_run(tmp_path / "one", bits, {"tent": fallen[0]}, record=record())
    some = {condition: bits[condition] for condition in SHIFTS[:3]}
    other = stream_run(tmp_path / "other", some, {"tent": some}, record=record())
    with pytest.raises(InputError, match="their streams pass through other conditions, or in another order"):
        compare(one, other)
    assert "order of the stream" in build_report([one, other]).verdicts[2].sentence
    batches = stream_run(tmp_path / "batches", bits, {"tent": fallen[0]}, record=record(), batch=64)
    assert compare(one, batches, protocols=("tent", "tent")).images == IMAGES


# The terminal


def test_the_terminal_has_the_same_figures(written, bits, fallen):
    run = read_run(written)
    text = stream_text(run.rows, run.record)
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    assert lines[0] == [stream_in_words(run.record)]
    table = blocks_of(build_report(written))["stream-1-overall"]
    labels = ("whole stream", "source", "first quarter", "last quarter", "where it fell")
    for name, place in (("tent", 0), ("auto", 1)):
        (found,) = [line for line in lines if line[0] == name]
        assert [cell.replace("+0.0", "0.0") for cell in found[1:6]] == [
            column(table, label)[place].text for label in labels
        ]
        assert found[6] == ("fog 5, 35 to 40 %" if name == "tent" else "nowhere")
        assert found[7] == column(table, "clean afterwards")[place].text
        assert found[8] == f"{100 * bits['clean', 0].mean():.1f}"
        assert f"[{found[9].replace(' to ', ', ')}]" == column(table, "forgotten")[place].interval


def test_without_clean_images_the_terminal_says_nothing_of_them(tmp_path, bits):
    some = {one: bits[one] for one in SHIFTS[1:]}
    path = stream_run(tmp_path / "run", some, {"auto": some}, record=record())
    text = stream_text(read_run(path).rows, read_run(path).record)
    assert "clean" not in text
    assert "what is forgotten on them is not known" in section_of(build_report(path)).text[-1]


def test_fifteen_corruptions_are_listed_in_their_order(tmp_path):
    own = draw([(name, 5) for name in COMMON], 0.6, 40)
    path = stream_run(tmp_path / "run", own, {"auto": own}, record=record_of(40))
    chart = blocks_of(build_report(path))["stream-1"]
    assert chart.note == f"In order: {', '.join(f'{name} 5' for name in COMMON[:-1])} and {COMMON[-1]} 5."
    assert chart.wide
