"""A report's pictures: the right pixels, the most telling first, each with what is said of it."""

import base64
import io
import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from report_runs import adapted_run, better, blocks_of, draw, record_of, rows_of, write_run
from statshift import load_model, measure
from statshift._core.errors import InputError
from statshift.report import build_report
from statshift.report.content import Prediction
from statshift.report.pictures import Candidate, choose
from statshift.results import bits

SHIFTS = ("fog", "snow", "contrast")
CONDITIONS = [("clean", 0), *((shift, 3) for shift in SHIFTS)]
POSITIONS = [1, 33, 70, 111]
LABELS = [1, 3, 0, 1]
SIDE = 32


def pixels_of(place, number):
    """Return an image that no other place in no other strip has."""
    return np.random.default_rng([place, number]).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def examples_of(path, names=None, kind="png"):
    """Write strips and return examples.json."""
    folder = path / "examples"
    folder.mkdir()
    strips = {}
    for number, (shift, severity) in enumerate(CONDITIONS):
        key = f"{shift} {severity}" if severity else shift
        strips[key] = f"{shift}.{kind}"
        strip = np.concatenate([pixels_of(place, number) for place in range(len(POSITIONS))], axis=1)
        Image.fromarray(strip).save(folder / strips[key])
    content = {"positions": POSITIONS, "indices": POSITIONS, "labels": LABELS, "class_names": names, "side": SIDE}
    (folder / "examples.json").write_text(json.dumps(content | {"strips": strips}))
    return folder


def add_examples(rows, said):
    """Say of each row's example images what `said(row, place)` returns, class and confidence."""
    for row in rows:
        pairs = [said(row, place) for place in range(len(POSITIONS))]
        predicted, confidence = zip(*pairs, strict=True)
        row["examples"] = {"predicted": list(predicted), "confidence": list(confidence)}
    return rows


def wrong_under_shift(row, place):
    """The source errs under all shifts on the first two images; the protocol on the third one in fog."""
    if row["protocol"] == "source":
        return (9, 0.6) if row["shift"] != "clean" and place < 2 else (LABELS[place], 0.75)
    if place == 3:
        return None, None
    return (5, 0.5) if place == 2 and row["shift"] == "fog" else (LABELS[place], 0.875)


@pytest.fixture
def run(tmp_path):
    right = draw(CONDITIONS, 0.7)
    left_out = list(range(0, 64, 2))
    rows = rows_of(right) + rows_of(better(right, 0.5), "auto", 0, left_out, right)
    record = record_of(shifts=["clean", *SHIFTS], severities=[3], protocols={"source": {}, "auto": {"kind": "layers"}})
    path = write_run(tmp_path / "run", record, add_examples(rows, wrong_under_shift))
    examples_of(path)
    return path


def decoded(source):
    head, _, content = source.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert head == f"data:image/{image.format.lower()};base64"
    return np.asarray(image)


def test_each_picture_is_cut_from_its_strip(run):
    pictures = blocks_of(build_report(run))["images-1"].pictures
    numbers = {f"{shift} {severity}" if severity else shift: n for n, (shift, severity) in enumerate(CONDITIONS)}
    places = []
    for picture in pictures:
        pixels = decoded(picture.source)
        (place,) = [one for one in range(4) if np.array_equal(pixels, pixels_of(one, numbers[picture.title]))]
        assert picture.truth == f"class {LABELS[place]}"
        places.append((picture.title, place))
    assert len(set(places)) == len(places)
    assert len({picture.source for picture in pictures}) == len(pictures)


def test_what_each_subject_says_is_beside_the_picture(run):
    pictures = blocks_of(build_report(run))["images-1"].pictures
    for picture in pictures:
        assert [one.subject for one in picture.predictions] == ["source", "auto"]
        source, auto = picture.predictions
        assert (source.text == picture.truth) == source.right
        assert source.confidence == (0.75 if source.right else 0.6)
        if auto.right is None:
            assert (auto.text, auto.confidence) == ("adapted on", None)
        else:
            assert (auto.text == picture.truth) == auto.right


def test_the_pictures_that_a_protocol_mends_come_first_and_the_reverse_is_told(run):
    page = build_report(run)
    pictures = blocks_of(page)["images-1"].pictures
    first = [(one.predictions[0].right, one.predictions[1].right) for one in pictures]
    assert first[:7] == [(False, True)] * 6 + [(True, False)]
    assert [pair[0] for pair in first[7:]] == [True]
    (section,) = [one for one in page.sections if one.name == "images"]
    assert section.text[0].startswith("A choice, not a sample: 8 of 16 example images")
    assert (
        "first those that source gets wrong and auto right, which are 6 of them; the reverse happens 1 time."
        in section.text[0]
    )
    (row,) = blocks_of(page)["alone-right-1"].rows
    rows = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    alone = np.zeros(2, int)
    for source, auto in zip(rows[:4], rows[4:], strict=True):
        sides = [np.unpackbits(np.frombuffer(base64.b64decode(row["bits"]), np.uint8)) for row in (source, auto)]
        before, after = np.delete(sides[0][:160], auto["left_out"]), sides[1][:128]
        alone += ((after > before).sum(), (before > after).sum())
    assert [cell.value for cell in row[2:]] == alone.tolist()


def test_another_run_over_the_same_images_answers_by_position(run, tmp_path):
    rows = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()][:4]
    for row in rows:  # asked about the last two of the images, in the other order
        row["examples"] = {"predicted": [7, 8], "confidence": [0.1, 0.2]}
    record = json.loads((run / "record.json").read_text()) | {"protocols": {"source": {}}}
    record["model"]["weights_hash"] = "other"
    second = write_run(tmp_path / "second", record, rows)
    (second / "examples").mkdir()
    content = {"positions": [111, 70], "indices": [], "labels": [1, 0], "class_names": None, "side": 32, "strips": {}}
    (second / "examples" / "examples.json").write_text(json.dumps(content))
    pictures = blocks_of(build_report([run, second]))["images-1"].pictures
    said = {picture.truth: picture.predictions[2].text for picture in pictures if len(picture.predictions) == 3}
    assert said == {"class 0": "class 8", "class 1": "class 7"}


def test_of_each_kind_so_many_are_chosen_from_conditions_in_turn():
    def candidate(condition, place, first, second):
        said = tuple(Prediction(name, "x", 0.5, right) for name, right in (("a", first), ("b", second)))
        return Candidate(condition, place, said)

    mended = [candidate((shift, 3), place, False, True) for shift in ("fog", "snow", "frost") for place in range(10)]
    broken = [candidate(("fog", 3), 20 + place, True, False) for place in range(5)]
    both = [candidate(("fog", 3), 30 + place, True, True) for place in range(5)]
    unknown = [candidate(("fog", 3), 40, None, True)]
    missed = [candidate(("snow", 3), 50 + place, False, False) for place in range(5)]
    chosen = choose([*unknown, *both, *mended, *broken, *missed])
    assert Counter(one.kind for one in chosen) == {"mended": 7, "broken": 2, "missed": 2, "others": 1}
    assert Counter(one.condition[0] for one in chosen if one.kind == "mended") == {"fog": 3, "snow": 2, "frost": 2}
    assert len({one.place for one in chosen if one.kind == "mended"}) == 7
    assert [one.place for one in chosen[7:]] == [20, 21, 50, 51, 30]
    assert choose(unknown) == []


def test_classes_go_by_their_names(run):
    path = run / "examples" / "examples.json"
    content = json.loads(path.read_text()) | {"class_names": ["zero", "<b>one</b>\n", "two", "three"]}
    path.write_text(json.dumps(content))
    pictures = blocks_of(build_report(run))["images-1"].pictures
    assert {picture.truth for picture in pictures} == {"zero", "<b>one</b>", "three"}
    assert "class 9" in {one.text for picture in pictures for one in picture.predictions}


def test_a_photograph_stays_a_jpeg(run):
    for file in (run / "examples").glob("*.png"):
        file.unlink()
    (run / "examples" / "examples.json").unlink()
    (run / "examples").rmdir()
    examples_of(run, kind="jpg")
    pictures = blocks_of(build_report(run))["images-1"].pictures
    assert all(picture.source.startswith("data:image/jpeg;base64,") for picture in pictures)
    assert decoded(pictures[0].source).shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("damage", ["no image", "another size", "no strips", "no labels"])
def test_damaged_examples_are_told(run, damage):
    strip, index = run / "examples" / "fog.png", run / "examples" / "examples.json"
    content = json.loads(index.read_text())
    if damage == "no image":
        strip.write_bytes(b"GIF89a")
    elif damage == "another size":
        Image.new("RGB", (64, 32)).save(strip)
    else:
        del content[damage.split()[1]]
        index.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"run/examples.* is damaged") as error:
        build_report(run)
    assert "\n" not in str(error.value)


def test_a_strip_outside_the_folder_is_not_read(run):
    secret = run.parent / "secret.png"
    strip = np.concatenate([pixels_of(9, 9)] * 4, axis=1)
    Image.fromarray(strip).save(secret)
    path = run / "examples" / "examples.json"
    content = json.loads(path.read_text())
    content["strips"] = {"fog 3": "../../secret.png", "snow 3": str(secret), "clean": "missing.png"}
    path.write_text(json.dumps(content))
    assert "images-1" not in blocks_of(build_report(run))


def test_without_examples_there_is_no_section(tmp_path):
    right = draw(CONDITIONS, 0.7)
    record = record_of(shifts=["clean", *SHIFTS], severities=[3])
    page = build_report(adapted_run(tmp_path / "run", right, {"auto": better(right, 0.5)}, record=record))
    assert "images" not in [section.name for section in page.sections]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:Clean accuracy:UserWarning", "ignore:.*frost:UserWarning")
@pytest.mark.filterwarnings("ignore::statshift._core.errors.FewImagesWarning")  # digits are alike to drawn weights
def test_a_run_that_measure_made_is_shown_as_its_rows_say(tmp_path):
    torch.manual_seed(0)
    network = load_model("cifar:resnet20")
    found = measure(
        *(network, "digits"),
        shifts=("clean", "fog"),
        severities=(1, 3, 5),
        rectify=("auto",),
        out=tmp_path / "run",
        data_options={"limit": 60},
        examples=5,
    )
    page = build_report(tmp_path / "run")
    examples = json.loads((tmp_path / "run" / "examples" / "examples.json").read_text())
    rows = {(row["protocol"], row["shift"], row["severity"]): row for row in found.rows}

    def named(label):
        return examples["class_names"][label] if examples["class_names"] else f"class {label}"

    pictures = blocks_of(page)["images-1"].pictures
    assert {picture.title for picture in pictures} <= {"clean", "fog 3"}
    told = Counter()
    for picture in pictures:
        shift, _, severity = picture.title.partition(" ")
        source = picture.predictions[0]
        row = rows["source", shift, int(severity or 0)]
        wanted = {
            (named(label), named(predicted), bool(bits(row)[position]))
            for position, label, predicted in zip(
                examples["positions"], examples["labels"], row["examples"]["predicted"], strict=True
            )
        }
        assert (picture.truth, source.text, source.right) in wanted
        told[source.right] += 1
        assert decoded(picture.source).shape == (32, 32, 3)
    assert sum(told.values()) == len(pictures) >= 3
    assert page.verdicts[0].figures[1].label == "mean of fog at severities 1, 3 and 5"
    expected = np.mean([rows["source", "fog", level]["correct"] / 60 for level in (1, 3, 5)])
    assert page.verdicts[0].figures[1].value == pytest.approx(expected)
    layers = json.loads((tmp_path / "run" / "layers.json").read_text())
    chart = blocks_of(page)["layers-1"]
    ratios = np.array(layers["conditions"]["fog 5"]["shift"]) / layers["conditions"]["fog 5"]["noise"]
    assert chart.panels[0].series[1].values == pytest.approx(tuple(ratios))
    assert any("near chance" in text for text in page.warnings)
