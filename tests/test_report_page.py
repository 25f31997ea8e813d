"""The page: what is well formed, safe and readable in it, by parsing it and in a real browser."""

import base64
import dataclasses
import hashlib
import io
import math
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from statshift.report import charts
from statshift.report.content import (
    Cell,
    Chart,
    Column,
    Facts,
    Figure,
    Fold,
    Page,
    Panel,
    Picture,
    Pictures,
    Prediction,
    Section,
    Series,
    Table,
    Verdict,
)
from statshift.report.page import render

SHIFTS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
MODELS = ("resnet50 V1", "resnet50 AugMix", "resnet50 AdvBN")
SUBJECTS = tuple(f"{model} · {protocol}" for model in MODELS for protocol in ("source", "auto"))


def percent(value):
    return f"{100 * value:.1f}"


def sample_accuracies():
    """Six subjects x 15 shifts x 5 severities that fall with severity, and rise from model to model."""
    draws = np.random.default_rng(5)
    hard = draws.uniform(0.25, 1.0, 15)[:, None] * np.linspace(0.2, 1.0, 5)
    gain = np.linspace(0.0, 0.45, 6)[:, None, None] + draws.uniform(-0.08, 0.08, (6, 15, 1))
    return np.clip(0.76 - 0.72 * hard * (1 - gain) + draws.normal(0, 0.008, (6, 15, 5)), 0.01, 0.99)


def grid_table(name, title, values, folded=False):
    columns = (
        Column("corruption", numeric=False),
        *(Column(str(severity), shade="accuracy") for severity in range(1, 6)),
        Column("mean", shade="accuracy", note="over the five severities"),
        Column("CE", shade="error", note="error relative to AlexNet's, whose mean over corruptions is mCE"),
    )
    rows = []
    for shift, row in zip(SHIFTS, values, strict=True):
        cells = [Cell(percent(v), float(v), f"[{percent(v - 0.03)}, {percent(v + 0.03)}]") for v in row]
        ce = float((1 - row.mean()) / 0.72)
        rows.append((Cell(shift), *cells, Cell(percent(row.mean()), float(row.mean())), Cell(percent(ce), ce)))
    return Table(name, title, columns, tuple(rows), "Brackets: 95 % intervals over images.", folded)


def changes_table(model, before, after):
    columns = (
        Column("corruption", numeric=False),
        Column("severity"),
        Column("before", shade=""),
        Column("after"),
        Column("change", shade="difference", note="in percentage points; above 0 is a gain"),
        Column("95 % interval", numeric=False),
        Column("p", note="exact McNemar test, adjusted by Holm over the conditions of the table"),
    )
    rows = []
    for i, shift in enumerate(SHIFTS):
        for j in range(5):
            change = float(after[i, j] - before[i, j])
            p = math.exp(-abs(change) * 90)
            cells = (Cell(percent(before[i, j]), before[i, j]), Cell(percent(after[i, j]), after[i, j]))
            interval = f"[{100 * change - 2.1:+.1f}, {100 * change + 2.1:+.1f}]"
            ends = (
                Cell(f"{100 * change:+.1f}", change),
                Cell(interval),
                Cell(f"{p:.2g}" if p > 1e-4 else "< 0.0001", p),
            )
            rows.append((Cell(shift), Cell(str(j + 1), j + 1), *cells, *ends))
    rows.append((Cell("clean"), Cell("-"), Cell("76.1", 0.761), Cell("-"), Cell("-"), Cell("-"), Cell("-")))
    slug = re.sub(r"\W+", "-", model)
    return Table(
        f"changes-{slug}", f"{model}: what rectifying changed, by condition", columns, tuple(rows), folded=True
    )


def shift_chart(accuracies):
    panels = []
    for i, shift in enumerate(SHIFTS):
        series = []
        for label, values in zip(SUBJECTS, accuracies[:, i], strict=True):
            line = tuple(float(v) for v in values)
            if label == SUBJECTS[3] and shift == "snow":
                line = (line[0], None, line[2], line[3], None)
            series.append(Series(label, line, tuple(v and v - 0.03 for v in line), tuple(v and v + 0.03 for v in line)))
        panels.append(Panel(shift, tuple(series)))
    columns = (
        *(Column("corruption", numeric=False), Column("subject", numeric=False)),
        *(Column(str(severity)) for severity in range(1, 6)),
    )
    rows = tuple(
        (Cell(panel.title), Cell(one.label), *(Cell(charts.figure_text(v, True), v) for v in one.values))
        for panel in panels
        for one in panel.series
    )
    table = Table("accuracy-by-severity-table", "Accuracy by corruption, subject and severity", columns, rows)
    title = "Accuracy by severity: one panel per corruption, on 5,000 images"
    return Chart("accuracy-by-severity", title, "severity", "top-1 accuracy, %", tuple("12345"), tuple(panels), table)


def layer_chart(count):
    draws = np.random.default_rng(7)
    names = tuple(f"layer{1 + 4 * i // count}.{i % 6}.bn{1 + i % 3}" for i in range(count))
    noise = 0.08 + 0.02 * draws.random(count)
    lines = (
        Series("without a shift", tuple(noise)),
        Series("gaussian_noise 5", tuple(0.9 * np.exp(-np.arange(count) / 20) + noise)),
        Series("fog 5", tuple(0.3 + 0.1 * np.sin(np.arange(count) / 5) + noise)),
    )
    columns = (Column("layer", numeric=False), *(Column(line.label, shade="error") for line in lines))
    rows = tuple(
        (Cell(name), *(Cell(f"{line.values[i]:.3f}", line.values[i]) for line in lines)) for i, name in enumerate(names)
    )
    table = Table("layers-table", "Distance from the stored statistics by layer", columns, rows)
    title = "How far each layer's statistics lie from the stored ones (resnet50 V1, 32 images)"
    y_label = "distance, in standard deviations"
    panels = (Panel("", lines),)
    return Chart("layers", title, "norm layer, in execution order", y_label, names, panels, table, False, True)


def photograph(seed, side, kind="JPEG"):
    """A soft picture as a data: address."""
    draws = np.random.default_rng(seed)
    small = Image.fromarray(draws.integers(0, 255, (5, 5, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, kind, **({"quality": 85} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def pictures():
    truths = ("tabby cat", "golden retriever", "school bus", "goldfish", "teapot", "acoustic guitar")
    found = []
    for k, condition in enumerate(("clean", "gaussian_noise, severity 3", "fog, severity 3")):
        for i, truth in enumerate(truths):
            wrong = k and i % 3 != 0
            before = Prediction("source", "window screen" if wrong else truth, 0.31 + 0.1 * i, not wrong)
            after = Prediction("auto", truth, 0.62 + 0.05 * i, None if k == 2 and i == 5 else True)
            found.append(Picture(photograph(i + 10 * k, 128), condition, truth, (before, after)))
    return tuple(found)


def verdicts(accuracies):
    for i, subject in enumerate(SUBJECTS):
        mean = float(accuracies[i].mean())
        error, mce = 1 - mean, (1 - mean) / 0.72
        change = mean - float(accuracies[0].mean())
        figures = (
            Figure(
                "clean accuracy",
                f"{76.1 - 0.4 * i:.1f} %",
                f"{74.9 - 0.4 * i:.1f} to {77.3 - 0.4 * i:.1f}",
                "Top-1, on the same images without a shift.",
                0.761 - 0.004 * i,
                (0.749 - 0.004 * i, 0.773 - 0.004 * i),
                f"{-0.4 * i:+.1f}" if i else "",
            ),
            Figure(
                "mean error",
                f"{100 * error:.1f} %",
                f"{100 * error - 0.6:.1f} to {100 * error + 0.6:.1f}",
                "Share of images misclassified, averaged over the 75 conditions. Needs no other model.",
                error,
                (error - 0.006, error + 0.006),
                f"{-100 * change:+.1f}" if i else "",
            ),
            Figure(
                "mCE",
                f"{100 * mce:.1f}",
                f"{100 * mce - 0.9:.1f} to {100 * mce + 0.9:.1f}",
                "Error of each corruption relative to AlexNet's, averaged; 100 is AlexNet. Not a percentage of images.",
                mce,
                (mce - 0.009, mce + 0.009),
                f"{-100 * change / 0.72:+.1f}" if i else "",
            ),
        )
        sentence = (
            "Untouched: what the others are compared to."
            if i == 0
            else (f"{100 * change:+.1f} points on average over 75 conditions, surely better in {10 * i + 12}.")
        )
        yield Verdict(subject, figures, sentence, "" if i in (0, 2) else "bad" if i == 1 else "good")


def sample_page(layers=53):
    """A page of 3 models x 2 protocols x 75 conditions."""
    accuracies = sample_accuracies()
    record = {
        "model": {
            "spec": "torchvision:resnet50@IMAGENET1K_V1",
            "weights_hash": "ee203361979298d5" * 4,
            "made_by": None,
        },
        "data": {"spec": "folder:/data/imagenet/val", "images": 5000, "class_counts": list(range(60)), "skipped": []},
        "severities": [1, 2, 3, 4, 5],
        "protocols": {
            "source": {},
            "auto": {"kind": "layers", "samples": 32, "unbiased": False, "of": [{"a": 1}, "b"]},
        },
    }
    sections = (
        Section(
            "corruptions",
            "By corruption and severity",
            ("Top-1 accuracy in percent.",),
            (
                shift_chart(accuracies),
                *(
                    grid_table(
                        f"accuracy-{i}", f"{SUBJECTS[i]}: accuracy by corruption and severity, %", accuracies[i], i > 0
                    )
                    for i in (0, 2, 4)
                ),
            ),
        ),
        Section(
            "changes",
            "What rectifying changed",
            ("Paired over the same images.",),
            tuple(changes_table(MODELS[i], accuracies[2 * i], accuracies[2 * i + 1]) for i in range(3)),
        ),
        Section("layers-part", "Where the shift shows", (), (layer_chart(layers),)),
        Section(
            "images",
            "Images under shift",
            ("Predictions of resnet50 V1, before and after rectifying.",),
            (Pictures("examples", "Six images under three conditions", pictures()),),
        ),
        Section(
            "records",
            "Records",
            ("All that a run needs to be repeated.",),
            tuple(Facts(f"record-{i}", f"{MODELS[i]}: record", record) for i in range(3)),
        ),
    )
    return Page(
        "Three ResNet-50s under 75 corruptions",
        "5,000 images of ImageNet's validation set, 15 corruptions at 5 severities, made on the fly.",
        tuple(verdicts(accuracies)),
        (
            "Rectify resnet50 AdvBN where batches of 32 images of one condition can be had: it gains 3.1 points.",
            "Do not rectify resnet50 V1 on clean streams: it loses 0.4 points there.",
            "Measure on 50,000 images before you quote a difference below 1 point.",
        ),
        ("The corruptions were made on the fly, not read from ImageNet-C's JPEG files.",),
        sections,
        "statshift 0.2.0",
    )


HOSTILE = (
    "<script>window.hacked=1</script>\"'\n&"
    + "x" * 300
    + "نموذج"
    + "</style><img src=x onerror=window.hacked=1>{{ 7 * 7 }}"
)
SHOWN = " ".join(HOSTILE.replace("\n", "⏎").split())


def hostile(value, key=""):
    """The same page, with every text in it hostile: names of tables too, though the contract forbids that."""
    if dataclasses.is_dataclass(value):
        changed = {field.name: hostile(getattr(value, field.name), field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changed)
    if isinstance(value, dict):
        return {HOSTILE + text: hostile(inner) for text, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(hostile(inner, key) for inner in value)
    if isinstance(value, str) and key not in ("tone", "shade"):
        return HOSTILE
    return value


def small_page():
    """A page with one of everything."""
    column, number = (
        Column("name", numeric=False, note="what it is"),
        Column("value", shade="difference", note="how much"),
    )
    rows = tuple(
        (Cell(text), Cell(f"{value:+.1f}", value, "exactly"))
        for text, value in (("b", 9.0), ("a10", 10.0), ("a9", -100.0), ("c", 1e-3), ("d", 2.5))
    )
    rows += ((Cell("e"), Cell("-")),)
    table = Table("numbers", "Numbers", (column, number), rows, "A note.")
    line = Series("one", (0.2, None, 0.8, 0.5), (0.1, None, 0.7, 0.4), (0.3, None, 0.9, 0.6))
    same = dataclasses.replace(table, name="line-table")
    summed = (
        (Cell("b"), Cell("2.0", 2.0, interval="[1.5, 2.5]")),
        (Cell("a"), Cell("4.0", 4.0)),
        (Cell("sum"), Cell("6")),
    )
    fold = Fold(
        "more", "More", (Table("summed", "Summed", (Column("name", numeric=False), Column("n")), summed, footer=1),)
    )
    chart = Chart(
        "line", "A line", "severity", "accuracy", ("1", "2", "3", "4"), (Panel("fog", (line,)),), same, note="Left out."
    )
    said = (
        Prediction("before", "cat", 0.4, False),
        Prediction("after", "dog", None, True),
        Prediction("x", "y", 1, None),
    )
    shots = (Picture(photograph(0, 32, "PNG"), "fog", "dog", said), Picture(photograph(1, 96), "snow", "dog", said))
    record = {
        "path": "a/b",
        "many": list(range(30)),
        "deep": {"list": [{"key": "value"}, "text"]},
        "none": None,
        "empty": [],
    }
    blocks = (table, dataclasses.replace(table, name="folded", folded=True), chart, Pictures("shots", "Shots", shots))
    blocks += (Facts("record", "Record", record), fold)
    figures = (Figure("mean error", "25.0 %", "24 to 26", "no reference model", 0.25, (0.24, 0.26), "-2.0"),)
    subjects = (Verdict("first", figures, "The reference."), Verdict("second", figures, "Better.", "good", best=True))
    section = Section("part", "A part", ("A paragraph.",), blocks)
    return Page("Title", "Lead.", subjects, ("Do this.",), ("Beware.",), (section,), "statshift 1", "It fell.")


def empty_page():
    """A page whose parts hold nothing."""
    table = Table("table", "", (), ())
    bare = Chart("bare", "", "", "", (), (Panel("", ()), Panel("", (Series("one", ()),))), table)
    blocks = (
        table,
        bare,
        dataclasses.replace(bare, wide=True, percent=False),
        Pictures("none", "", ()),
        Facts("f", "", {}),
    )
    return Page("", "", (Verdict("", ()),), (), (), (Section("", "", (), blocks), Section("", "")))


VOID = {"meta", "link", "img", "input", "br", "hr"}


class Reader(HTMLParser):
    """Reads a page strictly: what opens must close, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.styles = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.styles if self.open and self.open[-1] in ("style", "script") else self.texts).append(data)

    def values(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def sample():
    return render(sample_page())


@pytest.mark.parametrize(
    "make",
    [sample_page, small_page, lambda: hostile(small_page()), empty_page],
    ids=["whole", "small", "hostile", "empty"],
)
def test_a_page_is_well_formed_and_refers_to_itself_alone(make):
    read = Reader(render(make()))
    ids = read.values("id")
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in ids)
    links = [link for link in read.values("href") if link != "data:,"]
    assert links
    assert {link[1:] for link in links} <= set(ids)
    assert all(link.startswith("#") for link in links)
    assert {label for labels in read.values("aria-labelledby") for label in labels.split()} <= set(ids)
    assert all(source.startswith("data:image/") for source in read.values("src"))
    assert not re.search(r"url\(|@import|https?:", "".join(read.styles))
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on") or name == "style"]
    assert Counter(tag for tag, _ in read.tags)["script"] == Counter(tag for tag, _ in read.tags)["style"] == 1
    headings = [int(tag[1]) for tag, _ in read.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(headings))


def test_the_policy_names_the_hashes_of_the_pages_own_style_and_script(sample):
    (policy,) = (
        attributes["content"]
        for tag, attributes in Reader(sample).tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    for kind in ("style", "script"):
        (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>", sample, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


def test_a_page_of_three_models_and_75_conditions_is_small_and_the_same_each_time(sample):
    assert len(sample.encode()) < 1_000_000
    assert render(sample_page()) == sample
    assert len(render(sample_page(160)).encode()) < 1_100_000


def test_every_text_of_a_page_is_shown_and_escaped():
    page = small_page()
    texts = Counter()

    def walk(value, key=""):
        """Give every text a mark of its own."""
        if dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
            return dataclasses.replace(value, **{name: walk(getattr(value, name), name) for name in names})
        if isinstance(value, dict):
            return {walk(text): walk(inner) for text, inner in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(walk(inner, key) for inner in value)
        if isinstance(value, str) and value and key not in ("tone", "shade", "name", "source", "label"):
            texts[f'<&{len(texts)}">'] += 1
            return f'<&{len(texts) - 1}">'
        return value

    read = Reader(render(walk(page)))
    everything = "\n".join(
        [*read.texts, *(text for _, attributes in read.tags for text in attributes.values() if text)]
    )
    assert len(texts) > 70
    assert [text for text in texts if text not in everything] == []


def test_control_characters_are_made_visible_and_broken_text_can_be_written():
    page = dataclasses.replace(small_page(), title="a\r\nb\tc\x00\x1b[1m\u2028d\udcffe")
    assert "<title>a⏎b⇥c\\x00\\x1b[1m⏎d���e</title>" in render(page).encode("utf-8").decode()


def test_only_pictures_are_loaded_from_a_pictures_address():
    for source in (
        "https://example.org/a.png",
        "javascript:alert(1)",
        "data:text/html;base64,PHA+",
        "data:image/svg+xml;base64,PHA+",
    ):
        shot = Picture(source, "fog", "dog", ())
        section = Section("part", "A part", (), (Pictures("shots", "Shots", (shot,)),))
        text = render(dataclasses.replace(small_page(), sections=(section,)))
        assert "<img" not in text
        assert "no picture" in text
        assert source not in text


def test_small_pictures_keep_their_pixels():
    images = [attributes for tag, attributes in Reader(render(small_page())).tags if tag == "img"]
    assert [(image["width"], image.get("class")) for image in images] == [("128", "pixels"), ("96", None)]


def test_a_panels_coordinates_are_those_of_its_values():
    chart = small_page().sections[0].blocks[2]
    drawn = charts.draw(chart, chart.panels[0], {"one": 0})
    left, right, top, bottom = 10 + 6 * 3 + 8, 190 - 6 - 8, 7, 132 - 19
    xs = np.linspace(left, right, 4)

    def points(values, places):
        return " ".join(
            f"{x:.1f},{bottom - (bottom - top) * y:.1f}".replace(".0,", ",").removesuffix(".0")
            for x, y in zip(xs[places], values, strict=True)
        )

    lines = re.findall(r'<polyline points="([^"]*)"', drawn)
    assert lines == [points((0.8, 0.5), [2, 3])]
    assert re.findall(r'<polygon points="([^"]*)"', drawn) == [points((0.7, 0.4, 0.6, 0.9), [2, 3, 3, 2])]
    assert re.findall(r'<polyline class="w" points="([^"]*)"', drawn) == [points((0.1, 0.3), [0, 0])]
    assert re.findall(r'<use href="#_m0" x="([^"]*)" y="([^"]*)"', drawn) == [
        tuple(points((y,), [i]).split(",")) for i, y in ((0, 0.2), (2, 0.8), (3, 0.5))
    ]
    assert re.findall(r"<title>([^<]*)</title>", drawn) == [
        "fog, 1\none: 20.0 % [10.0 %, 30.0 %]",
        "fog, 2\none: -",
        "fog, 3\none: 80.0 % [70.0 %, 90.0 %]",
        "fog, 4\none: 50.0 % [40.0 %, 60.0 %]",
    ]
    assert 'aria-label="A line; fog: one from 20.0 % to 50.0 %"' in drawn


@pytest.mark.parametrize(
    ("values", "percent", "ends", "ticks"),
    [
        ((0.2, 0.9), True, (0, 100), (0, 50, 100)),
        ((-0.1, 0.3), True, (-20, 40), (-20, 0, 20, 40)),
        ((0.0, 7.3), False, (0, 10), (0, 5, 10)),
        ((3.0, 0.021), False, (0, 4), (0, 2, 4)),
        ((0.0, 0.0), False, (0, 0.5), (0, 0.5)),
        ((None, math.inf), False, (0, 0.5), (0, 0.5)),
        ((-3e-7, -1e-7), False, (-4e-7, 2e-7), (-4e-7, -2e-7, 0, 2e-7)),
    ],
)
def test_axes_hold_zero_and_the_values_between_round_ticks(values, percent, ends, ticks):
    chart = small_page().sections[0].blocks[2]
    panel = Panel("", (Series("one", values),))
    axes = charts.frame(dataclasses.replace(chart, panels=(panel,), percent=percent, x=("1", "2")))
    assert (axes.low, axes.high) == pytest.approx(ends)
    assert axes.ticks == pytest.approx(ticks)


@pytest.mark.parametrize("count", [1, 5, 53, 160])
def test_labels_below_an_axis_do_not_touch(count):
    chart = layer_chart(count)
    drawn = charts.draw(chart, chart.panels[0], charts.styles(chart))
    labels = re.search('<g class="t">(.*?)</g>', drawn)[1]
    found = re.findall(r'<text x="([^"]*)" y="[^"]*"( text-anchor="[a-z]*")?>([^<]*)<', labels)
    spans = []
    for x, anchor, text in found:
        width = 6.2 * len(text)
        start = float(x) - (width * ("end" in anchor) if anchor else width / 2)
        spans.append((start, start + width))
    assert all(end <= start + 1e-6 for (_, end), (start, _) in pairwise(spans))
    assert spans[0][0] >= 0
    assert spans[-1][1] <= 960
    assert len(found) >= min(count, 4)


def test_shades_are_deep_for_losses_whatever_the_figure():
    shades = {"accuracy": (1.0, 0.0, 0.5), "error": (0.0, 1.0, 0.5), "difference": (0.0, -0.2, 0.1)}
    columns = tuple(Column(name, shade=name) for name in shades)
    rows = tuple(tuple(Cell("", value) for value in values) for values in zip(*shades.values(), strict=True))
    section = Section("part", "A part", (), (Table("one", "One", columns, rows),))
    text = render(dataclasses.replace(small_page(), sections=(section,)))
    found = re.findall(r"<t[dh](?: scope=row)?(?: class=([lg]\d+))? data-v=", text)
    assert found == ["", "", "", "l12", "l12", "l12", "l6", "l6", "g6"]


def test_a_subject_has_its_style_in_every_chart_and_series_differ_without_colour():
    chart = shift_chart(sample_accuracies())
    assert charts.styles(chart, SUBJECTS) == {subject: index for index, subject in enumerate(SUBJECTS)}
    one = dataclasses.replace(chart, panels=(Panel("", chart.panels[0].series[3:4]),))
    assert charts.styles(one, SUBJECTS) == {SUBJECTS[3]: 3}
    assert charts.styles(layer_chart(3), SUBJECTS) == {"without a shift": 0, "gaussian_noise 5": 1, "fog 5": 2}


def test_a_subject_is_called_better_worse_undecided_or_not_compared_in_words():
    def one(subject, tone="", compared=True):
        return Verdict(subject, (Figure("mean error", "20 %", "", "", 0.2),), "", tone, compared)

    def words(*verdicts):
        read = Reader(render(Page("", "", verdicts, ())))
        text = " ".join(" ".join(read.texts).split())
        return re.findall(r"(first|[a-d]) (?:([●▲▼≈]) )?(reference|better|worse|undecided|not compared[a-z ]*?) ", text)

    several = words(one("first"), one("a", "good"), one("b", "bad"), one("c"), one("d", compared=False))
    assert several == [
        ("first", "●", "reference"),
        ("a", "▲", "better"),
        ("b", "▼", "worse"),
        ("c", "≈", "undecided"),
        ("d", "", "not compared"),
    ]
    assert words(one("first")) == []


def test_a_subjects_interval_lies_where_its_numbers_do():
    drawn = [
        charts.strip_chart(value, bounds, (10.0, 20.0), 15.0)
        for value, bounds in ((10.0, None), (17.5, (15.0, 20.0)), (20.0, (math.nan, 20.0)))
    ]
    assert [re.search(r'cx="([^"]*)"', one)[1] for one in drawn] == ["4", "73", "96"]
    assert [re.findall(r'class="w" d="M(\S+) 7H(\S+)"', one) for one in drawn] == [[], [("50", "96")], []]
    assert all('class="r" d="M50 1V13"' in one for one in drawn)


def test_words_between_backticks_and_commands_are_code():
    advice = ("See `a < b`. Run: statshift run <x> --out y", "An odd ` stays.")
    text = render(dataclasses.replace(small_page(), advice=advice))
    assert "See <code>a &lt; b</code>.<code" in text
    assert (
        "<span>statshift</span> <span>run</span> <span>&lt;x&gt;</span> <span>--out</span> <span>y</span></code>"
        in text
    )
    assert "An odd ` stays." in text


# In a browser


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is absent")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium on the path")
    with api.sync_playwright() as started:
        running = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def show(browser, tmp_path):
    """Open a page as a file; at the end nothing may have been said in the console, and nothing asked of any network."""
    contexts, heard = [], []

    def show(text, scheme="light", width=1280, **options):
        path = tmp_path / "report.html"
        path.write_text(text, encoding="utf-8")
        defaults = {"reduced_motion": "reduce"}
        context = browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme, **defaults | options
        )
        contexts.append(context)
        context.set_default_timeout(5000)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: request.url.startswith("data:") or heard.append(request.url))
        page.goto(path.as_uri())
        assert heard == [path.as_uri()]
        heard.clear()
        return page

    yield show
    for context in contexts:
        context.close()
    assert heard == []


def open_all(page):
    page.evaluate("() => { for (const part of document.querySelectorAll('details')) part.open = true; }")


@pytest.mark.parametrize("make", [sample_page, lambda: hostile(small_page())], ids=["whole", "hostile"])
def test_a_page_never_scrolls_sideways(show, make):
    page = show(render(make()))
    open_all(page)
    for width in (1280, 700, 390, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]


def test_an_empty_page_is_shown_without_a_fault(show):
    page = show(render(empty_page()))
    assert page.locator("svg.plot").count() == 4
    assert show(render(Page("Nothing", "", (), ()))).title() == "Nothing"


def test_hostile_text_is_shown_and_not_run(show):
    page = show(render(hostile(small_page())))
    open_all(page)
    assert page.evaluate("window.hacked") is None
    assert page.title() == SHOWN
    text = " ".join(page.evaluate("document.body.innerText").split())
    assert text.count(SHOWN) > 60
    assert page.evaluate("document.images.length") == 0
    assert page.evaluate("document.scripts.length") == 1


def test_the_policy_stops_what_escaping_would_let_through(browser, sample):
    attack = "<script>window.hacked=1</script><img src='data:,' onerror='window.hacked=1'><b style='color:red'>x</b>"
    unsafe = sample.replace("</footer>", attack + "</footer>")
    assert unsafe != sample
    blocked = []
    other = browser.new_page()
    other.on("console", lambda message: blocked.append(message.text))
    other.set_content(unsafe)
    assert other.evaluate("window.hacked") is None
    assert other.get_by_text("x", exact=True).evaluate("part => getComputedStyle(part).color") != "rgb(255, 0, 0)"
    other.close()
    assert len([message for message in blocked if "Content Security Policy" in message]) >= 2


def test_tables_sort_by_number_and_by_text_and_back(show):
    page = show(render(small_page()))
    read = "() => Array.from(document.querySelectorAll('#numbers tbody tr'), row => row.cells[0].innerText)"
    head = page.locator("#numbers thead th")
    assert page.evaluate(read) == ["b", "a10", "a9", "c", "d", "e"]
    head.nth(1).get_by_role("button").click()
    assert page.evaluate(read) == ["a9", "c", "d", "b", "a10", "e"]
    assert head.nth(1).get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert page.evaluate(read) == ["a10", "b", "d", "c", "a9", "e"]
    assert head.nth(1).get_attribute("aria-sort") == "descending"
    page.keyboard.press("Space")
    assert page.evaluate(read) == ["b", "a10", "a9", "c", "d", "e"]
    head.nth(0).get_by_role("button").click()
    assert page.evaluate(read) == ["a9", "a10", "b", "c", "d", "e"]
    assert [head.nth(place).get_attribute("aria-sort") for place in (0, 1)] == ["ascending", "none"]


def test_rows_that_sum_up_stay_at_the_end_and_intervals_are_copied_apart(show):
    page = show(render(small_page()))
    page.evaluate("() => { location.hash = '#summed'; }")
    page.evaluate("() => { navigator.clipboard.writeText = async text => { window.copied = text; }; }")
    read = "() => Array.from(document.querySelectorAll('#summed tr'), row => row.cells[0].innerText.trim())"
    for expected in (["a", "b"], ["b", "a"]):
        page.locator("#summed thead th").nth(0).get_by_role("button").click()
        assert page.evaluate(read) == ["name", *expected, "sum"]
    page.locator("#summed").get_by_role("button", name="Copy as CSV").click()
    page.locator(".status").get_by_text("Copied as CSV").wait_for()
    assert page.evaluate("window.copied") == 'name,n,95 % interval\nb,2.0,"[1.5, 2.5]"\na,4.0,-\nsum,6,-\n'


def test_nine_subjects_fit_one_screen_and_the_best_is_said_in_words(show):
    shown = sample_page()
    many = tuple(
        dataclasses.replace(one, subject=f"{one.subject} {place}", best=place == 4)
        for place, one in enumerate((*shown.verdicts, *shown.verdicts[1:4]))
    )
    headline = "Shift takes the original from 76.1 % to 40.2 %; auto wins back 11.1 points [10.0, 12.3]."
    page = show(render(dataclasses.replace(shown, verdicts=many, headline=headline)))
    page.set_viewport_size({"width": 1280, "height": 900})
    boxes = [row.bounding_box() for row in page.locator(".verdicts tbody tr").all()]
    assert len(boxes) == 9
    assert all(box["height"] <= 57 for box in boxes)
    assert boxes[-1]["y"] + boxes[-1]["height"] < 900
    assert [row.locator(".best").count() for row in page.locator(".verdicts tbody tr").all()] == [0] * 4 + [1] + [0] * 4
    assert page.locator(".best").inner_text() == "★ best"
    assert " ".join(page.locator(".headline").inner_text().split()) == headline
    page.set_viewport_size({"width": 390, "height": 844})
    heights = [row.bounding_box()["height"] for row in page.locator(".verdicts tbody tr").all()]
    assert max(heights) <= 135
    texts = page.locator(".verdicts tbody tr").nth(1).inner_text()
    assert all(part in texts for part in ("75.7 %", "-0.4", "74.5 to 76.9"))


def test_figures_units_and_intervals_stay_on_one_line():
    page = dataclasses.replace(small_page(), headline="From 1.0 % to 2.0 points [-1.0, +3.0]; 7 more.")
    assert "From 1.0\u00a0% to 2.0\u00a0points [-1.0,\u00a0+3.0]; 7 more." in render(page)


def test_the_whole_pages_table_sorts_as_numpy_does(show, sample):
    page = show(sample)
    values = sample_accuracies()[0][:, 4]
    page.locator("#accuracy-0 thead th").nth(5).get_by_role("button").click()
    shown = page.evaluate(
        "() => Array.from(document.querySelectorAll('#accuracy-0 tbody tr'), r => r.cells[0].innerText)"
    )
    assert shown == [SHIFTS[index] for index in np.argsort(values, kind="stable")]


@pytest.mark.parametrize("clipboard", ["granted", "refused", "absent"])
def test_a_table_is_copied_as_csv(show, clipboard):
    page = show(
        render(small_page()), permissions=["clipboard-read", "clipboard-write"] if clipboard == "granted" else []
    )
    given = {
        "granted": "navigator.clipboard.writeText = async text => { window.copied = text; }",
        "refused": "navigator.clipboard.writeText = () => Promise.reject(new Error('no'))",
        "absent": "Object.defineProperty(navigator, 'clipboard', { value: undefined })",
    }[clipboard]
    page.evaluate(f"() => {{ {given} }}")
    page.evaluate("() => document.addEventListener('copy', () => { window.copied = document.activeElement.value; })")
    page.locator("#numbers").get_by_role("button", name="Copy as CSV").click()
    page.locator(".status").get_by_text("Copied as CSV").wait_for()
    lines = ["name,value", "b,+9.0", "a10,+10.0", "a9,-100.0", "c,+0.0", "d,+2.5", "e,-", ""]
    assert page.evaluate("window.copied") == "\n".join(lines)


def luminance(colour):
    """The relative luminance of WCAG 2, from what a browser computes."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", colour.replace("srgb", ""))]
    scale = 1 if colour.startswith("color(") else 255
    linear = [c / scale / 12.92 if c / scale <= 0.04045 else ((c / scale + 0.055) / 1.055) ** 2.4 for c in numbers[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_contrast_is_computed_as_published():
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(118, 118, 118)", "color(srgb 1 1 1)") == pytest.approx(4.54, abs=0.005)


COLOURS = """() => {
  const found = new Set();
  for (const part of document.querySelectorAll('body *')) {
    const own = Array.from(part.childNodes).some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !part.getClientRects().length || part.closest('script, style, .skip')) continue;
    let behind = part, colour;
    do { colour = getComputedStyle(behind).backgroundColor; behind = behind.parentElement; }
    while (behind && /^rgba\\(.*, 0\\)$/.test(colour));
    const style = getComputedStyle(part);
    const ink = part.closest('svg') ? style.fill : style.color;
    found.add([ink, colour, part.className.baseVal ?? part.className].join('|'));
  }
  return Array.from(found);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(show, sample, scheme):
    page = show(sample, scheme)
    open_all(page)
    found = [entry.split("|") for entry in page.evaluate(COLOURS)]
    assert len({shade for *_, names in found for shade in names.split() if re.fullmatch(r"[lg]\d+", shade)}) > 15
    low = [(colours, round(contrast(*colours), 2), name) for *colours, name in found if contrast(*colours) < 4.5]
    assert low == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(background) < 0.05) == (scheme == "dark")
    lines = page.evaluate(
        "() => Array.from(document.querySelectorAll('.legend svg'), line => getComputedStyle(line).color)"
    )
    assert min(contrast(line, background) for line in lines) >= 3


def test_the_readers_choice_of_light_or_dark_wins(show):
    page = show(render(small_page()), "dark")
    behind = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(behind)
    page.get_by_role("button", name="Show the page light").click()
    light = page.evaluate(behind)
    assert (luminance(light) > 0.9, luminance(dark) < 0.1) == (True, True)
    page.get_by_role("button", name="Show the page dark").click()
    assert page.evaluate(behind) == dark


def test_print_is_light_and_opens_what_is_folded(show):
    page = show(render(small_page()), "dark")
    cell = page.locator("#folded tbody td").first
    assert not cell.is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    assert cell.is_visible()
    assert not page.locator("nav").is_visible()
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) == pytest.approx(1)


def test_a_page_fits_the_width_of_a_sheet(show, sample):
    page = show(sample, width=680)
    page.emulate_media(media="print")
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [680, 680]
    assert page.locator("#changes-resnet50-V1 tbody td").first.is_visible()


def test_a_page_is_whole_without_its_script(show):
    page = show(render(small_page()), java_script_enabled=False)
    assert page.locator("#numbers tbody tr").count() == 6
    assert page.locator("button:visible").count() == 0
    page.locator("#folded summary").first.click()
    assert page.locator("#folded tbody td").first.is_visible()


def test_series_differ_by_dash_and_by_marker(show, sample):
    page = show(sample)
    read = "() => Array.from(document.querySelectorAll('#accuracy-by-severity .legend svg'), svg => "
    dashes = page.evaluate(read + "getComputedStyle(svg.querySelector('path')).strokeDasharray)")
    shapes = page.evaluate(read + "svg.querySelector('use').getAttribute('href'))")
    assert len(set(dashes)) == len(set(shapes)) == 6


def test_an_address_opens_what_it_names(show):
    page = show(render(small_page()))
    cell = page.locator("#line-table tbody td").first
    assert not cell.is_visible()
    page.evaluate("() => { location.hash = '#line-table'; }")
    cell.wait_for(state="visible")
    page.locator("#numbers tbody td").first.click()
    page.locator(".status").get_by_text("exactly").wait_for()
