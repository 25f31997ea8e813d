"""A run over label maps, of several sizes: its figures against a loop, and the same rows however it went."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from statshift import AdaptationOptions, compare, load_data, measure
from statshift._core.errors import InputError
from statshift.models import PixelModel, Preprocessing

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:Clean pixel accuracy")]

SIZES = [(48, 40), (40, 48), (48, 40), (40, 48), (48, 40), (33, 57)]  # height, width
HOW = {"shifts": ["clean", "contrast"], "severities": [2, 4], "batch_size": 2}


class Stride(nn.Module):
    """Half the pixels a side, for heights and widths that are multiples of 8."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, images):
        if images.shape[2] % 8 or images.shape[3] % 8:
            raise RuntimeError("sizes must match")
        return {"out": self.head(self.features(images))}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return PixelModel(Stride().eval(), Preprocessing((0.5,) * 3, (0.25,) * 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("streets")
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (place / name).mkdir()
    for number, size in enumerate(SIZES):
        colours = rng.integers(0, 256, (*size, 3), np.uint8)
        labels = (colours[..., 0] // 64).astype(np.uint8)
        labels[:3] = 9
        Image.fromarray(colours).save(place / f"images/{number}.png")
        Image.fromarray(labels).save(place / f"labels/{number}.png")
    return place


def streets(folder, **options):
    return load_data(f"seg:{folder}", **{"ignore_index": 9, **options})


def matrix(model, data):
    """Count pixels by label and prediction, image by image, each padded by hand."""
    found = np.zeros((4, 4), np.int64)
    for position in range(len(data)):
        ((image, _),) = data.groups([np.array([position])])
        height, width = image.shape[2:]
        normal = (image.float() / 255 - 0.5) / 0.25
        padded = nn.functional.pad(normal, (0, -width % 8, 0, -height % 8), mode="replicate")
        with torch.no_grad():
            logits = model.network(padded)["out"]
        large = nn.functional.interpolate(logits, padded.shape[2:], mode="bilinear", align_corners=False)
        predicted = large[0, :, :height, :width].argmax(0).numpy()
        labels = data.label_maps(np.array([position]))[0].numpy()
        np.add.at(found, (labels[labels != 9], predicted[labels != 9]), 1)
    return found


def test_figures_are_those_of_a_loop_over_images_padded_by_hand(model, folder):
    data = streets(folder)
    found = measure(model, data, **HOW)
    counts = matrix(model, data)
    right = counts.diagonal()
    iou = right / (counts.sum(0) + counts.sum(1) - right)
    source = found.summary["protocols"]["source"]
    assert source["clean_miou"] == pytest.approx(iou.mean(), abs=1e-12)
    assert source["class_iou"] == pytest.approx(iou.tolist(), abs=1e-12)
    assert source["pixel_accuracy"] == pytest.approx(right.sum() / counts.sum(), abs=1e-12)
    assert source["mean_miou"] is None
    assert list(source["per_shift"]) == ["contrast"]
    by_severity = source["per_shift"]["contrast"]["miou_by_severity"]
    assert [one is None for one in by_severity] == [True, False, True, False, True]
    assert source["per_shift"]["contrast"]["miou"] == pytest.approx((by_severity[1] + by_severity[3]) / 2)
    assert found.record["model"]["preprocessing"]["size_multiple"] == 8
    assert found.record["task"] == {"name": "segmentation", "options": {"ignore_index": 9}}


def test_rows_are_the_same_after_a_stop_and_of_other_batches(model, folder, tmp_path):
    protocols = {"rectify": ["replace"], "adaptation": AdaptationOptions(samples=3)}
    whole = measure(model, streets(folder), **HOW, **protocols, out=tmp_path / "whole")

    def stop(at):
        if at.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(model, streets(folder), **HOW, **protocols, out=tmp_path / "stopped", progress=stop)
    assert 0 < len((tmp_path / "stopped/rows.jsonl").read_text().splitlines()) < len(whole.rows)
    measure(model, streets(folder), **HOW, **protocols, out=tmp_path / "stopped")
    assert (tmp_path / "stopped/rows.jsonl").read_bytes() == (tmp_path / "whole/rows.jsonl").read_bytes()
    others = measure(model, streets(folder), **{**HOW, "batch_size": 1}, **protocols)
    assert json.dumps(others.rows) == json.dumps(whole.rows)


def test_another_ignored_label_is_another_run(model, folder, tmp_path):
    measure(model, streets(folder), **HOW, out=tmp_path / "run")
    with pytest.raises(InputError, match="labelled 9"):
        measure(model, streets(folder, ignore_index=255), **HOW, out=tmp_path / "run")
    other = tmp_path / "map.txt"
    other.write_text("0 0\n1 1\n2 2\n3 9\n9 9\n")
    with pytest.raises(InputError, match="labels"):
        measure(model, streets(folder, label_map=other), **HOW, out=tmp_path / "run")
    measure(model, streets(folder, label_map=other), **HOW, out=tmp_path / "other")
    with pytest.raises(InputError, match="labels"):
        compare(tmp_path / "run", tmp_path / "other")


def test_maps_with_labels_beyond_the_models_classes_are_named_or_skipped(model, folder, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        for file in (folder / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    beyond = np.zeros(SIZES[1], np.uint8)
    beyond[4, 7] = 5
    Image.fromarray(beyond).save(tmp_path / "labels/1.png")
    with pytest.raises(InputError, match=r"the model's 4 classes, but .*1\.png has pixels labelled 5"):
        measure(model, streets(tmp_path), **HOW)
    found = measure(model, streets(tmp_path, skip_bad=True), **HOW)
    assert found.record["data"]["skipped"] == ["1.png"]
    data = streets(folder)
    counts = matrix(model, data.subset(np.array([0, 2, 3, 4, 5])))
    assert found.summary["protocols"]["source"]["pixel_accuracy"] == pytest.approx(counts.trace() / counts.sum())


def test_streams_want_one_size(model, folder):
    with pytest.raises(InputError, match="Expected images of one size for batch: give `resize` and `crop`"):
        measure(model, streets(folder), **HOW, rectify=["batch"])
