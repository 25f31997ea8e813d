"""Images by the strength of the adversary: what is shown, what the model says, the picture, the folder, the report."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from report_runs import draw, record_of, rows_of, write_run
from statshift import InputError
from statshift.making.visualise import visualise
from statshift.making.worst import Adversary
from statshift.report.building import build_report, write_report
from statshift.report.content import Table
from statshift.report.tiles import Scenes
from statshift.results.worst import read_worst_cases
from statshift.shifts.attacks import FeatureAttack
from tiny_codecs import COUNT, decoder_file, digits, small_codec, small_model

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = (0, 2, 5)
SCRIPT = Path(__file__).with_name("tiny_codecs.py")


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def codec(model):
    return small_codec(model)


@pytest.fixture(scope="module")
def found(model, codec):
    return visualise(model, codec, digits(), steps=STEPS, batch_size=8, device="cpu")


@pytest.fixture(scope="module")
def clean():
    images, positions = next(digits().batches(8))
    return images.float() / 255, torch.from_numpy(digits().labels[positions])


@torch.no_grad()
def rounded(images):
    return (images.clamp(0, 1) * 255).round() / 255


def test_columns_are_the_original_the_decoded_and_worst_cases_by_strength(found, model, codec, clean):
    images, labels = clean
    assert [one.name for one in found.columns] == ["original", "m = 0", "m = 2", "m = 5"]
    assert torch.equal(found.columns[0].images, images)
    assert found.labels.tolist() == labels.tolist()
    with torch.no_grad():
        features = codec.split.prefix(images)
        assert torch.equal(found.columns[1].images, rounded(codec.decode(features, (32, 32))))
    adversary = Adversary(codec)
    for column, steps in zip(found.columns[2:], (2, 5), strict=True):
        attack = FeatureAttack(steps, 0.2, steps * 0.2 - 0.1, perturbation="local")
        with adversary.ready(), torch.no_grad():
            factors = adversary.factors(adversary.features(images), labels, attack, (32, 32))
            assert factors.sub(1).abs().max() == pytest.approx(attack.bound)
            expected = adversary.images(adversary.features(images), factors, attack, (32, 32))
        assert torch.equal(column.images, rounded(expected))


@torch.no_grad()
def test_answers_are_the_models_and_the_table_their_means(found, model, clean):
    images, labels = clean
    for column, row in zip(found.columns, found.table(), strict=True):
        shares = model(column.images).softmax(1)
        assert column.predicted.tolist() == shares.argmax(1).tolist()
        assert column.score.tolist() == pytest.approx(shares.max(1).values.tolist(), abs=1e-5)
        assert row["accuracy"] == float(np.mean(shares.argmax(1).numpy() == labels.numpy()))
        if column.steps is None:
            assert row["psnr"] is None
        else:
            errors = ((column.images - images).double() ** 2).mean((1, 2, 3))
            assert row["psnr"] == pytest.approx(float((-10 * errors.log10()).mean()), abs=1e-3)


@pytest.mark.parametrize("loss", ["rest", "decoded", "another"])
def test_the_loss_of_the_attack_is_the_one_asked_for(model, codec, clean, loss):
    other = small_model(3)
    found = visualise(
        model, codec, digits(), steps=(0, 5), loss=other if loss == "another" else loss, batch_size=8, device="cpu"
    )
    told = found.record["attack"]["loss"]
    assert (told if isinstance(told, str) else "another") == loss
    if loss != "rest":
        judge = other if loss == "another" else model
        before, after = (F.cross_entropy(judge(one.images), clean[1]) for one in (found.columns[1], found.columns[2]))
        assert after > before + 0.01


def test_without_labels_it_drives_away_from_what_the_model_says(model, codec):
    data = digits()
    data.labels = None
    found = visualise(model, codec, data, steps=(0, 5), batch_size=8, device="cpu")
    assert found.labels is None
    assert [row["accuracy"] for row in found.table()] == [None] * 3
    said = found.columns[0].predicted
    changed = [int((one.predicted != said).sum()) for one in found.columns[1:]]
    assert changed[1] >= changed[0]


def test_the_picture_has_a_tile_for_each(tmp_path, model, codec):
    path = tmp_path / "worst.png"
    found = visualise(model, codec, digits(), steps=STEPS, batch_size=8, shown=3, out=path, device="cpu")
    picture = np.asarray(Image.open(path).convert("RGB"))
    side = 96  # px: images of 32 are shown three times as large
    lefts = [4 + column * (side + 4) for column in range(4)]
    assert picture.shape[1] == 4 + 4 * (side + 4)
    tops = [row for row in range(picture.shape[0] - side) if _is_tile(picture, row, lefts[0], found, 0)]
    assert len(tops) == 3
    below = (picture.shape[0] - tops[0]) // 3
    for number in range(3):
        for column, left in zip(found.columns, lefts, strict=True):
            top = tops[0] + number * below
            tile = picture[top : top + side : 3, left : left + side : 3]
            assert np.array_equal(tile, (column.images[number].permute(1, 2, 0) * 255).round().byte().numpy())


def _is_tile(picture, top, left, found, number):
    expected = (found.columns[0].images[number].permute(1, 2, 0) * 255).round().byte().numpy()
    return np.array_equal(picture[top : top + 96 : 3, left : left + 96 : 3], expected)


def test_the_folder_has_each_image_and_what_is_said_of_it(tmp_path, model, codec, found):
    visualise(model, codec, digits(), steps=STEPS, batch_size=8, shown=2, out=tmp_path / "out", device="cpu")
    told = json.loads((tmp_path / "out" / "worst-cases.json").read_text())
    assert told["indices"] == list(found.indices[:2])
    assert [one["name"] for one in told["columns"]] == ["original", "m = 0", "m = 2", "m = 5"]
    for column, one in zip(found.columns, told["columns"], strict=True):
        assert one["predicted"] == column.predicted[:2].tolist()
        assert one["score"] == pytest.approx(column.score[:2].tolist(), abs=1e-6)
        for name, image in zip(one["files"], column.images, strict=False):
            pixels = np.asarray(Image.open(tmp_path / "out" / name))
            assert np.array_equal(pixels, (image.permute(1, 2, 0) * 255).round().byte().numpy())
    assert (tmp_path / "out" / "sheet.png").is_file()


# In a report


@pytest.fixture
def run_with(tmp_path, model, codec):
    """A run whose folder was given as `out`."""
    path = write_run(tmp_path / "run", record_of(), rows_of(draw([("clean", 0), ("fog", 3)], 0.7)))
    visualise(model, codec, digits(), steps=STEPS, batch_size=8, shown=2, out=path, device="cpu")
    return path


def test_a_runs_report_shows_them(run_with, found, tmp_path):
    assert read_worst_cases(run_with)["indices"] == list(found.indices[:2])
    section = next(one for one in build_report(run_with).sections if one.name == "worst-cases")
    table, scenes = section.blocks
    assert isinstance(table, Table)
    assert [row[0].text for row in table.rows] == ["original", "m = 0", "m = 2", "m = 5"]
    assert [row[1].value for row in table.rows] == [row["accuracy"] for row in found.table()]
    assert isinstance(scenes, Scenes)
    assert len(scenes.scenes) == 2
    title, tiles = scenes.scenes[1]
    assert title == f"image {found.indices[1]}: {_class(found.labels[1])}"
    for tile, column in zip(tiles, found.columns, strict=True):
        right = column.predicted[1] == found.labels[1]
        mark = "✓" if right else "✗"
        assert tile.text == f"{_class(column.predicted[1])} {100 * float(column.score[1]):.0f} % {mark}"
        assert tile.source.startswith("data:image/png;base64,")
    page = write_report(run_with, tmp_path / "report.html").read_text()
    assert len(re.findall("m = 5", page)) >= 3


def _class(label):
    return str(int(label))


def test_damaged_ones_are_told(run_with, tmp_path):
    place = run_with / "worst-cases"
    (place / "worst-cases.json").write_text("{}")
    with pytest.raises(InputError, match=r"worst-cases\.json is damaged"):
        build_report(run_with)
    (place / "worst-cases.json").unlink()
    assert all(one.name != "worst-cases" for one in build_report(run_with).sections)


# Bad input


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": ()}, "Expected `steps` as different integers from 0 up"),
        ({"steps": (0, -2)}, "Expected `steps` as different integers from 0 up"),
        ({"steps": (2, 2)}, "Expected `steps` as different integers from 0 up"),
        ({"shown": 0}, "Expected `shown` to be at least 1"),
        ({"batch_size": 0}, "Expected `batch_size` to be at least 1"),
        ({"loss": "image"}, "Expected `loss` to be rest, decoded or a model's spec"),
        ({"step_size": 0.0}, "Expected `step_size` above 0"),
    ],
)
def test_what_cannot_be_is_told(model, codec, changes, told):
    with pytest.raises(InputError, match=told):
        visualise(model, codec, digits(), **{"device": "cpu", **changes})


def test_a_file_of_another_kind_is_refused(model, codec, tmp_path):
    with pytest.raises(InputError, match=r"Expected `out` to be a \.png file or a folder"):
        visualise(model, codec, digits(), batch_size=4, steps=(0,), out=tmp_path / "worst.jpg", device="cpu")


def test_an_encoder_without_a_rest_takes_the_loss_of_decoded_images(model, codec, found):
    alone = replace(codec, split=None)
    with pytest.raises(InputError, match="Expected `loss` decoded or another model"):
        visualise(model, alone, digits(), batch_size=8, device="cpu")
    seen = visualise(model, alone, digits(), steps=STEPS, loss="decoded", batch_size=8, device="cpu")
    assert torch.equal(seen.columns[1].images, found.columns[1].images)


def test_the_command_shows_the_same(run, found, tmp_path):
    decoder = decoder_file(tmp_path / "decoder.safetensors", small_model())
    words = ["visualise", "--model", f"py:{SCRIPT}:small_network", "--decoder", decoder, "--images", "digits"]
    words += ["--limit", COUNT, "--seed", 1, "--batch-size", 8, "--device", "cpu", "--out", tmp_path / "worst.png"]
    done = run(*words, "--steps", "0,2,5")
    assert done.code == 0, done.err
    for row in found.table():
        accuracy = f"{100 * row['accuracy']:.1f} % right"
        (line,) = [one for one in done.out.splitlines() if one.strip().startswith(row["name"])]
        assert accuracy in line
        assert row["psnr"] is None or f"{row['psnr']:.1f} dB" in line
    told = json.loads(run(*words, "--steps", "0,2,5", "--json").out)
    assert [one["psnr"] for one in told["columns"]] == pytest.approx([row["psnr"] for row in found.table()])
    wrong = run(*words, "--steps", "0,two")
    assert "Expected --steps as numbers from 0 up with commas, but got '0,two'." in wrong.err
