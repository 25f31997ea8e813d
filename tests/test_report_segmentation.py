"""The report of label maps: figures against loops, pictures against the palette, words, and the page in a browser."""

import base64
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from report_runs import BENCHMARK, blocks_of, record_of, write_run
from statshift import AdaptationOptions, PixelModel, compare, load_data, measure
from statshift.cli.tables import comparison_text, summary_text
from statshift.models import Preprocessing
from statshift.report import as_markdown, build_report, tables, tidy_csv
from statshift.report.page import render
from statshift.report.palette import LEFT_OUT, SCALE, paint, palette
from statshift.results import make_row, summarise
from statshift.results.worded import reworded
from statshift.tasks.packing import unpacked_picture
from statshift.tasks.segmentation import PixelCounts, Segmentation

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean pixel accuracy", "ignore:The images to rectify to are alike"),
]

CLASSES, IGNORED = 5, 4  # the network has an output for what is left out, and class 3 is never seen
SIZES = [(40, 56)] * 5 + [(48, 40)]


class Paths:
    def __init__(self, folder):
        self.data, self.run = folder / "data", folder / "run"


@pytest.fixture(scope="module")
def network():
    """Of the brightness in three steps: classes 0, 1 and 2."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, CLASSES, 1))
    with torch.no_grad():
        layers[3].bias[3] = -100.0
    return PixelModel(layers.eval(), Preprocessing((0.5,) * 3, (0.25,) * 3)).eval()


@pytest.fixture(scope="module")
def paths(network, tmp_path_factory):
    """A folder of images and maps, and a run over it."""
    paths = Paths(tmp_path_factory.mktemp("maps"))
    generator = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (paths.data / kind).mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        blocks = generator.choice([0, 1, 2, IGNORED], (-(-height // 8), -(-width // 8)))
        labels = blocks.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)
        noise = generator.integers(0, 80, (height, width, 3))
        pixels = (labels[..., None] * np.array([50, 20, 0]) + noise).astype(np.uint8)
        Image.fromarray(pixels).save(paths.data / "images" / f"{number}.png")
        Image.fromarray(labels).save(paths.data / "labels" / f"{number}.png")
    data = load_data(f"seg:{paths.data}", ignore_index=IGNORED)
    options = {"shifts": ("clean", "contrast"), "severities": (3,), "rectify": "replace", "out": paths.run}
    measure(network, data, adaptation=AdaptationOptions(samples=2), examples=4, device="cpu", **options)
    return paths


def image_and_map(paths, number):
    read = [np.asarray(Image.open(paths.data / kind / f"{number}.png")) for kind in ("images", "labels")]
    return read[0], read[1]


def predicted(network, pixels):
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return network(images)[0].argmax(0).numpy()


def iou_of(network, paths, images):
    """Return IoU by class, by a loop over pixels; classes that no pixel has are absent."""
    matrix = np.zeros((CLASSES, CLASSES), int)
    for number in images:
        pixels, labels = image_and_map(paths, number)
        for truth, said in zip(labels.flatten(), predicted(network, pixels).flatten(), strict=True):
            if truth != IGNORED:
                matrix[truth, said] += 1
    unions = {k: matrix[k].sum() + matrix[:, k].sum() - matrix[k, k] for k in range(CLASSES) if k != IGNORED}
    return {k: matrix[k, k] / union for k, union in unions.items() if union}, np.trace(matrix) / matrix.sum()


def said(run):
    return json.loads((run / "examples" / "examples.json").read_text())


def decoded(source):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"))


# What a run keeps


def test_examples_hold_the_truth_of_images_of_several_sizes(paths):
    kept = said(paths.run)
    assert (len(set(kept["positions"])), kept["side"]) == (4, max(max(SIZES[one]) for one in kept["positions"]))
    assert kept["sizes"] == [list(SIZES[one]) for one in kept["positions"]]
    strip = np.asarray(Image.open(paths.run / "examples" / kept["strips"]["clean"]))
    for place, position in enumerate(kept["positions"]):
        pixels, labels = image_and_map(paths, position)
        height, width = labels.shape
        np.testing.assert_array_equal(unpacked_picture(kept["labels"][place], (height, width)), labels)
        side = kept["side"]
        tile = strip[:, place * side : (place + 1) * side]
        top, left = (side - height) // 2, (side - width) // 2
        np.testing.assert_array_equal(tile[top : top + height, left : left + width], pixels)


def test_large_maps_are_reduced_to_every_so_many_pixels():
    task = Segmentation()
    labels = torch.randint(0, 9, (1, 300, 200), generator=torch.Generator().manual_seed(0))
    logits = nn.functional.one_hot(labels, 9).permute(0, 3, 1, 2).float()
    row = make_row(
        task.per_image(logits, labels),
        np.zeros(1),
        0,
        shift="clean",
        severity=0,
        task=task,
        examples=np.array([0]),
    )
    found = task.shown_map(row["examples"]["predicted"][0], (300, 200))
    np.testing.assert_array_equal(found, labels[0, ::3, ::3])
    with pytest.raises(ValueError, match="not 128 x 128"):
        task.shown_map("", (300, 200))


# Figures


def test_scores_by_class_and_their_mean_are_those_of_loops(network, paths):
    page = build_report(paths.run)
    blocks = blocks_of(page)
    iou, accuracy = iou_of(network, paths, range(len(SIZES)))
    assert sorted(iou) == [0, 1, 2]
    chart = blocks["classes-1-1"]
    assert chart.title == "IoU by class, clean"
    assert chart.labels == ("class 0", "class 1", "class 2")
    assert chart.series[0].label == "source"
    assert chart.series[0].values == pytest.approx([iou[0], iou[1], iou[2]], abs=1e-12)
    *_, mean = chart.table.rows
    assert (mean[0].text, mean[2].value) == ("mean of 3 classes", pytest.approx(np.mean(list(iou.values()))))
    measured = blocks["measures-1"]
    assert [column.label for column in measured.columns] == [
        "subject",
        "images",
        "mIoU %",
        "pixel accuracy %",
        "mIoU by image %",
    ]
    row = [cell.value for cell in measured.rows[0]]
    alone = [np.mean(list(iou_of(network, paths, [one])[0].values())) for one in range(len(SIZES))]
    assert row[1:] == pytest.approx([6, np.mean(list(iou.values())), accuracy, np.mean(alone)], abs=1e-12)
    assert page.verdicts[0].figures[0].value == row[2]
    (section,) = [one for one in page.sections if one.name == "classes"]
    assert "Pixels labelled 4 do not count. In no pixel of these images and answers: class 3." in section.text[0]


def test_a_summary_of_rows_made_by_hand_is_that_of_loops():
    task, generator = Segmentation(), np.random.default_rng(0)
    rows, expected = [], {}
    for shift, severity in BENCHMARK:
        right, more, less = generator.integers(1, 50, (3, 4, 3))
        right[:, 2] = more[:, 2] = less[:, 2] = 0  # class 2 is absent
        fields = [torch.from_numpy(one) for one in (right, right + more, right + less)]
        results = PixelCounts(*fields, torch.ones(4, dtype=torch.bool), torch.zeros(4, 1, 1, dtype=torch.uint8))
        rows.append(make_row(results, np.zeros(4), 0, shift=shift, severity=severity, task=task))
        iou = [sum(right[:, k]) / sum((right + more + less)[:, k]) for k in (0, 1)]
        expected[shift, severity] = sum(iou) / 2, right.sum() / (right + less).sum(), iou
    summary = summarise(rows, task=task)
    source = summary["protocols"]["source"]
    assert (summary["headline"], "clean" in source["per_shift"]) == ("miou", False)
    assert source["clean_miou"] == pytest.approx(expected["clean", 0][0])
    assert source["pixel_accuracy"] == source["clean_pixel_accuracy"] == pytest.approx(expected["clean", 0][1])
    assert source["class_iou"] == [*map(pytest.approx, expected["clean", 0][2]), None]
    assert source["absent_classes"] == [2]
    assert source["mean_miou"] == pytest.approx(
        np.mean([one for (name, _), (one, *_) in expected.items() if name != "clean"])
    )
    for name, found in source["per_shift"].items():
        scores = [expected[name, severity][0] for severity in range(1, 6)]
        assert found["miou_by_severity"] == found["by_severity"] == pytest.approx(scores)
        assert found["miou"] == pytest.approx(np.mean(scores))
    fewer = summarise(rows[:3], task=task)["protocols"]["source"]
    assert fewer["mean_miou"] is None
    assert fewer["per_shift"]["gaussian_noise"]["miou_by_severity"][2:] == [None] * 3


# Pictures


def check_picture(source, labels):
    """A map's classes are the palette's colours; what is left out is grey with white hatches."""
    pixels, colours = decoded(source), palette(CLASSES)
    assert pixels.shape == (SCALE * labels.shape[0], SCALE * labels.shape[1], 3)
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            label = labels[y // SCALE, x // SCALE]
            allowed = [LEFT_OUT, (255, 255, 255)] if label == IGNORED else [tuple(colours[label].tolist())]
            assert tuple(pixels[y, x].tolist()) in allowed
    assert {tuple(one) for one in pixels.reshape(-1, 3).tolist()} >= {
        LEFT_OUT,
        (255, 255, 255),
    } or IGNORED not in labels


def test_pictures_are_the_truth_and_the_predictions_in_the_palette_s_colours(network, paths):
    block = blocks_of(build_report(paths.run))["images-1"]
    positions = said(paths.run)["positions"]
    assert block.scenes[0][0].startswith("clean")
    assert {title.split(",")[0] for title, _ in block.scenes} == {"clean", "contrast 3"}
    for title, tiles in block.scenes:
        assert [one.title for one in tiles] == ["image", "truth", "source", "replace"]
        number = positions[int(title.split()[-1]) - 1]
        pixels, labels = image_and_map(paths, number)
        check_picture(tiles[1].source, labels)
        assert decoded(tiles[0].source).shape == pixels.shape
        if title.startswith("clean"):
            check_picture(tiles[2].source, predicted(network, pixels))
            own = np.mean(list(iou_of(network, paths, [number])[0].values()))
            assert tiles[2].text == f"{100 * own:.1f} % mIoU"
    shown = [one.title for one in block.legend]
    assert shown[0] == "class 0"
    assert shown[-1] == "left out (labelled 4)"


def simulated(colours, kind):
    """Return L*a*b* of sRGB colours (N,3) as seen without some cones, by Machado et al. (2009), Table 1; D65."""
    machado = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "normal": np.eye(3),
    }[kind]
    values = np.asarray(colours) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(machado).T, 0, 1)
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    x, y, z = ((seen @ np.array(matrix).T) / [0.95047, 1, 1.08883]).T
    fx, fy, fz = (np.where(one > 0.008856, np.cbrt(one), 7.787 * one + 16 / 116) for one in (x, y, z))
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], 1)


@pytest.mark.parametrize(("classes", "least"), [(11, (46, 25)), (12, (46, 25)), (19, (34, 19)), (20, (34, 19))])
def test_any_two_colours_are_apart_with_and_without_colour_vision(classes, least):
    colours = palette(classes)[:classes]
    assert len(np.unique(colours, axis=0)) == classes
    for kind, wanted in {"normal": least[0], "protan": least[1], "deutan": least[1]}.items():
        lab = simulated(colours, kind)
        apart = [math.dist(lab[i], lab[j]) for i in range(classes) for j in range(i)]
        assert min(apart) >= wanted


def test_more_classes_than_colours_have_patterns():
    classes = 90
    pictures = [paint(np.full((6, 6), label, np.uint8), classes, None).tobytes() for label in range(classes)]
    assert len(set(pictures)) == classes
    (unknown,) = {paint(np.full((6, 6), label, np.uint8), 5, 2).tobytes() for label in (2, 7, 255)}
    assert unknown not in pictures


# Words


def test_a_page_says_miou_and_nothing_of_images_that_are_right(paths):
    page = build_report(paths.run)
    text = re.sub(r"<(style|script).*?</\1>", "", render(page), flags=re.S)
    assert re.findall(r"(?i)(?<!pixel )accuracy", text) == []
    assert page.title.startswith("mIoU under shift")
    assert re.search(r"% mIoU", page.headline)
    assert not re.search(r"images right|classified rightly|McNemar|Wilson|right (before|after)", text)
    clean = page.verdicts[0].figures[0]
    assert clean.label == "clean mIoU"
    assert clean.note.startswith("Intersection over union (IoU) averaged over the classes")
    head = as_markdown(tables(page))
    assert "| clean mIoU % |" in head
    assert tidy_csv(paths.run).partition("\n")[0].split(",")[7] == "miou"


@pytest.mark.parametrize(
    ("text", "headline", "expected"),
    [
        ("Accuracy in %", "miou", "mIoU in %"),
        ("Mean accuracy, pixel accuracy", "miou", "Mean mIoU, pixel accuracy"),
        ("Accuracy", "both_right", "Both right"),
    ],
)
def test_a_score_is_spelt_as_readers_know_it(text, headline, expected):
    assert reworded(text, headline) == expected


def test_what_is_printed_names_the_score(paths):
    summary = json.loads((paths.run / "summary.json").read_text())
    printed = summary_text(summary)
    assert printed.startswith("mIoU in % over 6 images, protocol source\nclean ")
    assert f"clean pixel accuracy {100 * summary['protocols']['source']['pixel_accuracy']:.1f} %" in printed
    found = compare(paths.run, paths.run, protocols=("source", "replace"))
    told = comparison_text(found)
    assert told.startswith("mIoU in % over the same 4 images")
    assert "first higher  second higher" in told
    assert repr(found).startswith("Comparison of source and replace over 4 images, mIoU in %")


def test_a_run_without_a_shift_and_without_examples_is_reported(tmp_path):
    task, labels = Segmentation(), torch.tensor([[[0, 1], [1, 1]]] * 3)
    logits = nn.functional.one_hot(torch.tensor([[[0, 1], [1, 0]]] * 3), 2).permute(0, 3, 1, 2).float()
    row = make_row(task.per_image(logits, labels), np.zeros(3), 0, shift="clean", severity=0, task=task)
    record = record_of(3, shifts=["clean"], severities=[], alexnet=None, task=task.describe())
    page = build_report(write_run(tmp_path / "run", record, [row]))
    assert page.headline.endswith(" has 58.3 % mIoU on clean images; no shift was measured.")
    assert [column.label for column in blocks_of(page)["classes-1-1"].table.columns] == ["class", "pixels %", "source"]


# In a browser


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_the_page_opens_and_never_scrolls_sideways(paths, tmp_path, width, scheme):
    api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is absent")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium on the path")
    page = build_report(paths.run)
    (tmp_path / "report.html").write_text(render(page), encoding="utf-8")
    heard = []
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        opened.on("console", lambda message: heard.append(message.text))
        opened.on("pageerror", lambda error: heard.append(str(error)))
        opened.goto((tmp_path / "report.html").as_uri())
        opened.evaluate("() => { for (const part of document.querySelectorAll('details')) part.open = true; }")
        assert opened.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
        block = blocks_of(page)["images-1"]
        assert opened.locator(".tiles img").count() == sum(
            bool(one.source) for _, tiles in block.scenes for one in tiles
        )
        assert opened.evaluate("Array.from(document.images).every(one => one.complete && one.naturalWidth > 0)")
        assert opened.locator(".dots[role=img]").count() == 2 * 3
        browser.close()
    assert heard == []
