"""Batches: the pixels of one image at a time, whichever way they are made, however they are shared out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from statshift._core import processes
from statshift._core.errors import InputError
from statshift.data import ImageData, load_data
from statshift.hardening.augmentation import AUGMENTATIONS, augmentation_for, sent
from statshift.hardening.batches import Batches

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
COUNT = 50
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 33, 42, 3), np.uint8)
TENSORS = ("none", "crop", "standard", "cutmix")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "images.npz"
    np.savez(path, images=PIXELS, labels=np.arange(COUNT) % 7)
    return f"npz:{path}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tree = tmp_path_factory.mktemp("folder")
    for index, image in enumerate(PIXELS):
        (tree / str(index // 25)).mkdir(exist_ok=True)
        Image.fromarray(image).save(tree / str(index // 25) / f"{index:02}.png")
    return f"folder:{tree}"


def batches_of(data, name="standard", size=12, parts=1, seed=3, **more):
    return Batches(data, augmentation_for(name, data, seed), size, parts, 7, more.pop("device", CPU), **more)


def unheld(data):
    """Return the data without memory for decoded images."""
    return replace(data, cache_bytes=0)


def pixels_by_index(batches, data, epochs=(0, 1)):
    """Return the images of each epoch by their place in the whole data set."""
    seen = {}
    for epoch in epochs:
        for batch, positions in batches.epoch(epoch):
            for index, image in zip(data.indices[positions].tolist(), batch.images, strict=True):
                assert (epoch, index) not in seen
                seen[epoch, index] = image
    return seen


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


# Both ways


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("how", [{}, {"resize": 48, "crop": 40}], ids=["as they are", "resized"])
@pytest.mark.parametrize("source", ["packed", "folder"])
def test_tensors_and_single_images_are_equal_to_the_bit(source, name, how, request):
    data = load_data(request.getfixturevalue(source), limit=40, **how)
    held, one_by_one = (batches_of(found, name, parts=2) for found in (data, unheld(data)))
    assert held.holds
    assert not one_by_one.holds
    for epoch in range(2):
        met = list(zip(held.epoch(epoch), one_by_one.epoch(epoch), strict=True))
        assert len(met) == 6
        for (batch, positions), (expected, places) in met:
            assert positions.tolist() == places.tolist()
            assert torch.equal(batch.images, expected.images)
            if name != "cutmix":
                stored = next(data.augmented([positions], augmentation_for(name, data, 3).at(epoch)))[0][:, 0]
                assert torch.equal((batch.images * 255).round().byte(), stored)
            assert batch.targets.labels.tolist() == data.labels[positions].tolist()
            assert torch.equal(batch.targets.labels, expected.targets.labels)
            assert torch.equal(batch.draws.indices, expected.draws.indices)
            if name == "cutmix":
                assert torch.equal(batch.targets.soft, expected.targets.soft)


@pytest.mark.parametrize("name", TENSORS[:3])
def test_pixels_are_a_numpy_loop(packed, name):
    """Each image is a window of the padded original: 4 rows at 33 px, 5 columns at 42 px."""
    data, epoch = load_data(packed), 4
    make = augmentation_for(name, data, 3)
    for batch, positions in batches_of(data, name).epoch(epoch):
        top, left, flipped = make.windows(epoch, torch.from_numpy(positions)).tolist()
        for i, position in enumerate(positions):
            expected = PIXELS[position]
            if name != "none":
                expected = np.pad(expected, ((4, 4), (5, 5), (0, 0)))[top[i] : top[i] + 33, left[i] : left[i] + 42]
                expected = expected[:, ::-1] if flipped[i] else expected
            found = (batch.images[i] * 255).round().byte().permute(1, 2, 0).numpy()
            assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        *((name, {}, name in TENSORS) for name in AUGMENTATIONS),
        ("standard", {"resize": 64, "crop": 64}, False),
        ("none", {"resize": 64, "crop": 64}, True),
        ("standard", {"resize": 64, "crop": 63}, True),
    ],
)
def test_which_images_are_held(packed, name, more, expected):
    data = load_data(packed, **more)
    size = COUNT * int(np.prod(data.shape))
    assert batches_of(data, name).holds == expected
    assert batches_of(replace(data, cache_bytes=size), name).holds == expected
    assert not batches_of(replace(data, cache_bytes=size - 1), name).holds


def test_held_images_are_read_once_and_not_before_they_are_wanted(folder, monkeypatch):
    read = []
    groups = ImageData.groups
    monkeypatch.setattr(ImageData, "groups", lambda *given: read.append(sum(map(len, given[1]))) or groups(*given))
    monkeypatch.setattr(ImageData, "augmented", pytest.fail)
    batches = batches_of(load_data(folder))
    assert list(batches.epoch(0, first=4)) == []
    assert read == []
    assert [len(list(batches.epoch(epoch))) for epoch in range(3)] == [4, 4, 4]
    assert read == [COUNT]


def test_a_damaged_image_is_named(folder, tmp_path):
    (tmp_path / "0").mkdir()
    for index in range(12):
        Image.fromarray(PIXELS[index]).save(tmp_path / "0" / f"{index:02}.png")
    whole = (tmp_path / "0" / "07.png").read_bytes()
    (tmp_path / "0" / "07.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"Cannot read \S*07.png"):
        next(batches_of(load_data(f"folder:{tmp_path}")).epoch(0))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("hold", [True, False])
def test_images_lie_as_asked_and_are_their_own(packed, hold, channels_last):
    data = load_data(packed) if hold else unheld(load_data(packed))
    batches = batches_of(data, "none", channels_last=channels_last)
    first, _ = next(batches.epoch(0))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert first.images.is_contiguous(memory_format=layout)
    assert first.images.dtype == torch.float32
    before = first.images.clone()
    first.images.zero_()
    assert torch.equal(next(batches.epoch(0))[0].images, before)


# Addresses


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("size", [2, 5, 25])
def test_pixels_are_the_same_whatever_the_batch(packed, size, hold):
    data = load_data(packed) if hold else unheld(load_data(packed))
    expected = pixels_by_index(batches_of(data, size=50), data)
    assert len(expected) == 2 * COUNT
    assert same(pixels_by_index(batches_of(data, size=size), data), expected)
    assert not same(pixels_by_index(batches_of(data, size=size, seed=4), data), expected)
    differing = [not torch.equal(expected[0, i], expected[1, i]) for i in range(COUNT)]
    assert sum(differing) >= COUNT - 5  # of 198 windows, all alike in one epoch and the next would be rare


@pytest.mark.parametrize("first", [1, 3])
def test_an_epoch_may_begin_anywhere(packed, first):
    batches = batches_of(load_data(packed), "cutmix", parts=2)
    whole = list(batches.epoch(2))
    for (batch, positions), (expected, places) in zip(batches.epoch(2, first), whole[2 * first :], strict=True):
        assert positions.tolist() == places.tolist()
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.targets.soft, expected.targets.soft)


def test_a_subset_keeps_the_addresses_of_the_whole(packed):
    whole, part = load_data(packed), load_data(packed, limit=20)
    assert part.indices.tolist() != list(range(20))
    everything = pixels_by_index(batches_of(whole, size=50), whole)
    some = pixels_by_index(batches_of(part, size=10), part)
    assert len(some) == 40
    assert same(some, {key: everything[key] for key in some})


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("hold", [True, False])
def test_processes_share_each_batch(packed, hold, parts, monkeypatch):
    """Part by part, what one process has in one batch is what all have between them, in the order of their ranks."""
    data = load_data(packed) if hold else unheld(load_data(packed))
    alone = list(batches_of(data, parts=parts).epoch(1))
    shares = []
    for rank in range(3):
        monkeypatch.setattr(processes, "join", lambda rank=rank: (rank, 3))
        shares.append(list(batches_of(data, parts=parts).epoch(1)))
    for (batch, positions), *theirs in zip(alone, *shares, strict=True):
        assert [len(places) for _, places in theirs] == [12 // parts // 3] * 3
        assert np.concatenate([places for _, places in theirs]).tolist() == positions.tolist()
        assert torch.equal(torch.cat([one.images for one, _ in theirs]), batch.images)
        assert torch.equal(torch.cat([one.targets.labels for one, _ in theirs]), batch.targets.labels)
        assert torch.equal(torch.cat([one.draws.indices for one, _ in theirs]), batch.draws.indices)


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", TENSORS)
def test_a_gpu_is_not_waited_for_and_has_the_same_pixels(packed, name):
    here, there = (batches_of(load_data(packed), name, device=torch.device(device)) for device in ("cpu", "cuda"))
    list(there.epoch(0))  # decodes
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = list(there.epoch(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (batch, _), (expected, _) in zip(found, here.epoch(1), strict=True):
        assert batch.images.is_cuda
        torch.testing.assert_close(batch.images.cpu(), expected.images, rtol=0, atol=1e-7)
        assert torch.equal((batch.images.cpu() * 255).round(), (expected.images * 255).round())
        assert torch.equal(batch.targets.labels.cpu(), expected.targets.labels)


def test_what_is_sent_arrives():
    values = torch.arange(6).view(2, 3).T
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        found = sent(values, torch.device(device))
        assert found.device.type == device
        assert torch.equal(found.cpu(), values)
