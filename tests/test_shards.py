"""Tar shards as a source of images."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from statshift._core.errors import InputError
from statshift.data import load_data

COUNT = 10
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 40, 40, 3), np.uint8)


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def encoded(number, kind):
    into = io.BytesIO()
    Image.fromarray(PIXELS[number]).save(into, kind)
    return into.getvalue()


@pytest.fixture
def shards(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"val-{shard:03}.tar", "w") as tar:
            for number in range(shard * 5, shard * 5 + 5):
                add(tar, f"./a.b/{number:02}.cls", str(number % 3).encode())
                add(tar, f"./a.b/{number:02}.PNG", encoded(number, "PNG"))
                add(tar, f"./a.b/{number:02}.json", b"{}")
    return tmp_path


def test_shards_are_read_in_order_with_their_labels(shards):
    data = load_data(f"webdataset:{shards}/val-{{000..001}}.tar")
    assert data.labels.tolist() == [number % 3 for number in range(COUNT)]
    expected = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    images, _ = next(data.batches(COUNT))
    assert torch.equal(images, expected)
    assert data.source.label_of(7) == "val-001.tar/./a.b/07.PNG"
    assert data.counts["ignored"] == COUNT
    again = load_data(f"webdataset:{shards}/*.tar", cache=shards / "pixels")
    for _ in range(2):
        assert torch.equal(torch.cat([some for some, _ in again.batches(3)]), expected)
    assert again.content_hash() == data.content_hash()
    assert again.bytes_hash == data.bytes_hash
    assert again.file.has(np.arange(COUNT)).all()


def test_faults_are_told(shards):
    with pytest.raises(InputError, match=r"Expected a file, but '.*val-002\.tar' is not one"):
        load_data(f"webdataset:{shards}/val-{{000..002}}.tar")
    with pytest.raises(InputError, match="Expected tar files, but there are none at"):
        load_data(f"webdataset:{shards}/train-*.tar")
    (shards / "bad.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(InputError, match=r"Cannot read .*bad\.tar as an uncompressed tar file"):
        load_data(f"webdataset:{shards}/bad.tar")
    with tarfile.open(shards / "some.tar", "w") as tar:
        add(tar, "a.png", encoded(0, "PNG"))
        add(tar, "a.cls", b"1")
        add(tar, "b.png", encoded(1, "PNG"))
    with pytest.raises(InputError, match=r"Expected a `cls` for every image of .*, but b\.png has none"):
        load_data(f"webdataset:{shards}/some.tar")
