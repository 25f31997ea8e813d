"""Folders of Hugging Face's `datasets` as a source of images."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from statshift._core.errors import InputError
from statshift.data import load_data

COUNT = 10
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 40, 40, 3), np.uint8)
EXPECTED = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
NAMES = ["ant", "bee", "cow"]


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs datasets: pip install 'statshift\[datasets\]'"):
        load_data(f"hf-datasets:{tmp_path}")


def encoded(number):
    into = io.BytesIO()
    Image.fromarray(PIXELS[number]).save(into, "PNG")
    return {"bytes": into.getvalue(), "path": None}


def rows(**columns):
    """Return a data set with the images, and columns of a type and its values."""
    hf = pytest.importorskip("datasets")
    kinds = {name: hf.Value(kind) if isinstance(kind, str) else kind for name, (kind, _) in columns.items()}
    values = {name: of for name, (_, of) in columns.items()}
    features = hf.Features({"picture": hf.Image(), **kinds})
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table(
        {"picture": [encoded(number) for number in range(COUNT)], **values}, schema=features.arrow_schema
    )
    # a fingerprint of its own, since some versions of dill cannot make one
    return hf.Dataset(hf.table.InMemoryTable(table), info=hf.DatasetInfo(features=features), fingerprint="0")


def named_labels():
    hf = pytest.importorskip("datasets")
    return hf.ClassLabel(names=NAMES), [number % 3 for number in range(COUNT)]


def test_rows_are_read_in_order_with_their_labels_and_names(tmp_path):
    saved = rows(key=("int64", list(range(COUNT))), kind=named_labels())
    saved.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    data = load_data(f"hf-datasets:{tmp_path}/saved")
    assert data.labels.tolist() == [number % 3 for number in range(COUNT)]
    assert data.class_names == tuple(NAMES)
    images, _ = next(data.batches(COUNT))
    assert torch.equal(images, EXPECTED)
    again = load_data(f"hf-datasets:{tmp_path}/saved", workers=1, cache=tmp_path / "pixels")
    for _ in range(2):
        assert torch.equal(torch.cat([some for some, _ in again.batches(3)]), EXPECTED)
    assert again.file.has(np.arange(COUNT)).all()
    assert (again.content_hash(), again.bytes_hash) == (data.content_hash(), data.bytes_hash)


def test_splits_and_labels_of_integers_or_none(tmp_path):
    hf = pytest.importorskip("datasets")
    known, unknown = rows(y=("int32", [1] * COUNT)), rows(y=("int32", [-1] * COUNT))
    hf.DatasetDict({"train": known, "test": unknown}).save_to_disk(str(tmp_path))
    assert load_data(f"hf-datasets:{tmp_path}:train").labels.tolist() == [1] * COUNT
    assert load_data(f"hf-datasets:{tmp_path}", split="test").labels is None
    with pytest.raises(InputError, match=r"Expected one of the splits train, test of .*, but none is named"):
        load_data(f"hf-datasets:{tmp_path}")
    with pytest.raises(InputError, match="but got val"):
        load_data(f"hf-datasets:{tmp_path}:val")
    with pytest.raises(InputError, match=r"Expected one split of .*, but got train and test"):
        load_data(f"hf-datasets:{tmp_path}:train", split="test")


def test_faults_are_told(tmp_path):
    pytest.importorskip("datasets")
    with pytest.raises(InputError, match=r"Expected a folder, but '.*nothing' is not one"):
        load_data(f"hf-datasets:{tmp_path}/nothing")
    with pytest.raises(InputError, match=r"Cannot read .* as a folder that `save_to_disk` of datasets wrote"):
        load_data(f"hf-datasets:{tmp_path}")
    rows(a=("int64", [0] * COUNT), b=("int64", [0] * COUNT)).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(InputError, match=r"Expected one column of integers in .*, but got 2: a, b"):
        load_data(f"hf-datasets:{tmp_path}/two")
    rows(z=("string", ["a"] * COUNT)).remove_columns("picture").save_to_disk(str(tmp_path / "blind"))
    with pytest.raises(InputError, match=r"Expected one column of type Image in .*, but got none among z"):
        load_data(f"hf-datasets:{tmp_path}/blind")
