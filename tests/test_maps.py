"""Label maps: what is read, how it is resized, batched, kept and counted, and what is refused."""

import hashlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from statshift._core.errors import DataWarning, InputError
from statshift._core.identity import differing
from statshift.adapting.drawing import draw_images
from statshift.data import load_data, loading_options
from statshift.data.maps import stored_indices

LEFT_OUT = pytest.mark.filterwarnings("ignore:1 file that cannot be used is left out")
CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"


def pixels(number, height=40, width=48):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def classes(number, height=40, width=48, most=5):
    return np.random.default_rng(100 + number).integers(0, most, (height, width)).astype(np.uint8)


def store(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if mode == "P":
        image.putpalette(list(range(255, 255 - 60, -1)))
    image.save(path)


@pytest.fixture
def frames(tmp_path):
    """Six images in two splits, one of them as JPEG, with maps."""
    for number in range(6):
        place = Path("day", "town") if number < 4 else Path("dusk")
        store(tmp_path / "images" / place / f"{number}.{'jpg' if number == 3 else 'png'}", pixels(number))
        store(tmp_path / "labels" / place / f"{number}.png", classes(number), "P" if number == 1 else None)
    return tmp_path


@pytest.fixture
def sizes(tmp_path):
    """Seven images of three sizes, in no order of size."""
    for number, (height, width) in enumerate([(40, 48), (32, 64), (40, 48), (64, 32), (32, 64), (40, 48), (64, 32)]):
        store(tmp_path / "images" / f"{number}.png", pixels(number, height, width))
        store(tmp_path / "labels" / f"{number}.png", classes(number, height, width))
    return tmp_path


def png(path, rows, bits, colour):
    """Write a PNG of a bit depth and colour type that Pillow does not write; rows are bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {0: 1, 2: 3}[colour]
    width = len(rows[0]) * 8 // (bits * channels)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def refused(*args, **options):
    with pytest.raises(InputError) as caught:
        load_data(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# what is read


def test_images_and_maps_are_read_as_they_are_stored(frames):
    data = load_data(f"seg:{frames}", cache_bytes=0)
    assert (len(data), data.shape, data.has_maps, data.labels, data.ignore_index) == (6, (3, 40, 48), True, None, 255)
    assert [data.source.label_of(index) for index in range(6)][3:5] == ["day/town/3.jpg", "dusk/4.png"]
    ((images, positions),) = data.batches(6)
    maps = data.label_maps(positions)
    assert (maps.dtype, tuple(maps.shape)) == (torch.uint8, (6, 40, 48))
    for number in range(6):
        assert np.array_equal(maps[number], classes(number))  # of the palette the index, not the colour
        if number != 3:
            assert np.array_equal(images[number].permute(1, 2, 0), pixels(number))


def test_a_split_is_a_sub_folder_of_both(frames):
    data = load_data(f"seg:{frames}", split="dusk")
    assert [data.source.label_of(index) for index in range(len(data))] == ["4.png", "5.png"]
    assert np.array_equal(data.label_maps([1])[0], classes(5))
    assert "dusk" in refused(f"seg:{frames}", split="dask")


def test_hashes_and_counts_are_of_each_map(sizes):
    data = load_data(f"seg:{sizes}", ignore_index=3)
    assert data.ignore_index == 3
    for number in range(7):
        labels = data.label_maps([number])[0].numpy()
        digest = hashlib.sha256(labels.tobytes()).digest()
        assert data.map_hashes[number] == np.frombuffer(digest[:8], "<i8")[0]
        assert data.map_counts[number].tolist() == [int((labels == value).sum()) for value in range(256)]
    assert data.map_counts[:, 3].min() > 0


@pytest.mark.parametrize(
    ("bits", "row", "expected"), [(1, [0x60], [0, 1, 1]), (2, [0x1B], [0, 1, 2]), (4, [0x2F], [2])]
)
def test_grey_values_of_few_bits_are_not_spread(tmp_path, bits, row, expected):
    png(tmp_path / "map.png", [bytes(row)] * 3, bits, 0)
    with Image.open(tmp_path / "map.png") as image:
        assert stored_indices(image)[1, : len(expected)].tolist() == expected


def test_sixteen_bits_are_read_where_they_are_labels(tmp_path):
    store(tmp_path / "images" / "a.png", pixels(0))
    store(tmp_path / "labels" / "a.png", classes(0).astype(np.uint16))
    assert np.array_equal(load_data(f"seg:{tmp_path}").label_maps([0])[0], classes(0))
    store(tmp_path / "labels" / "a.png", classes(0).astype(np.uint16) + 300)
    with pytest.raises(InputError, match=r"a\.png .*labels are up to 255, but one is 30\d"):
        load_data(f"seg:{tmp_path}").label_maps([0])


@pytest.mark.skipif(not CAMVID.is_dir(), reason="no CamVid")
def test_the_pixels_of_a_real_split_are_counted():
    data = load_data(f"seg:{CAMVID}", split="val-day", ignore_index=11, cache_bytes=0)
    expected = np.zeros(256, np.int64)
    for path in sorted((CAMVID / "labels" / "val-day").glob("*.png")):
        values, numbers = np.unique(np.array(Image.open(path)), return_counts=True)
        expected[values] += numbers
    assert np.array_equal(data.map_counts.sum(0), expected)
    assert (len(data), data.shape) == (101, (3, 360, 480))


# how images and maps are made ready


def test_nothing_is_resized_unless_asked_and_then_maps_by_the_nearest_pixel(tmp_path):
    store(tmp_path / "images" / "a.png", pixels(0, 260, 300))
    store(tmp_path / "labels" / "a.png", classes(0, 260, 300, 20))
    assert load_data(f"seg:{tmp_path}").shape == (3, 260, 300)
    data = load_data(f"seg:{tmp_path}", resize=130, crop=100)
    stored = Image.fromarray(classes(0, 260, 300, 20))
    expected = np.array(stored.resize((150, 130), Image.Resampling.NEAREST))[15:115, 25:125]
    assert np.array_equal(data.label_maps([0])[0], expected)
    assert data.shape == (3, 100, 100)
    assert loading_options(f"seg:{tmp_path}", {}, {"resize": 256, "crop": 224}) == {}


def test_a_crop_takes_the_same_part_of_both(tmp_path):
    """Where an image shows its labels, it still does."""
    labels = classes(0, 77, 90, 200)
    store(tmp_path / "images" / "a.png", np.repeat(labels[:, :, None], 3, 2))
    store(tmp_path / "labels" / "a.png", labels)
    data = load_data(f"seg:{tmp_path}", resize=41, crop=35, interpolation="nearest")
    ((images, positions),) = data.batches(1)
    assert torch.equal(images[0, 0], data.label_maps(positions)[0])


def test_a_limit_draws_a_seeded_subset(frames):
    chosen = [load_data(f"seg:{frames}", limit=3, seed=seed).indices.tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] == sorted(np.random.default_rng(0).permutation(6)[:3].tolist())
    data = load_data(f"seg:{frames}", limit=3)
    assert np.array_equal(data.label_maps([2])[0], classes(int(data.indices[2])))


# images of several sizes


def test_batches_are_of_one_size_each_and_hold_every_image_once(sizes):
    data = load_data(f"seg:{sizes}")
    assert data.sizes.tolist() == [[40, 48], [32, 64], [40, 48], [64, 32], [32, 64], [40, 48], [64, 32]]
    assert data.shape == (3, 40, 48)
    batches = [(tuple(images.shape[2:]), positions.tolist()) for images, positions in data.batches(2)]
    assert batches == [((32, 64), [1, 4]), ((40, 48), [0, 2]), ((40, 48), [5]), ((64, 32), [3, 6])]
    assert [positions.tolist() for _, positions in data.batches(2, which=[3, 1])] == [[3, 6], [0, 2]]
    with pytest.raises(InputError, match="one size together"):
        next(data.groups([np.array([0, 1])]))
    with pytest.raises(InputError, match="one size together"):
        data.label_maps([0, 1])
    assert load_data(f"seg:{sizes}", crop=32).sizes.tolist() == [[32, 32]] * 7


def test_images_of_several_sizes_are_adapted_on_by_their_centres(sizes):
    drawn = draw_images(load_data(f"seg:{sizes}"), 7)
    assert drawn.shape == (7, 3, 32, 32)  # the least height and the least width
    for number, (height, width) in enumerate([(40, 48), (32, 64), (40, 48), (64, 32), (32, 64), (40, 48), (64, 32)]):
        top, left = (height - 32) // 2, (width - 32) // 2
        expected = pixels(number, height, width)[top : top + 32, left : left + 32]
        assert np.array_equal((drawn[number] * 255).round().permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("kept", [0, 1, 3, 7])
def test_what_is_kept_in_memory_is_what_was_read(sizes, kept):
    """The bound is on images and maps together: 4 bytes a pixel, first those of the first batches."""
    bound = sum(4 * height * width for height, width in sorted([(40, 48)] * 3 + [(32, 64)] * 2 + [(64, 32)] * 2)[:kept])
    data = load_data(f"seg:{sizes}", cache_bytes=bound)
    memory = data._cache._memory.nbytes + data._map_cache._memory.nbytes
    assert memory == bound
    for _ in range(2):
        for images, positions in data.batches(2):
            for image, labels, position in zip(images, data.label_maps(positions), positions, strict=True):
                assert np.array_equal(image.permute(1, 2, 0), pixels(position, *image.shape[1:]))
                assert np.array_equal(labels, classes(position, *labels.shape))
    if kept == 7:
        for path in (sizes / "labels").iterdir():
            path.unlink()
        assert np.array_equal(data.label_maps([6])[0], classes(6, 64, 32))


def test_files_are_read_by_several_threads_as_by_one(frames):
    alone, several = (load_data(f"seg:{frames}", workers=workers) for workers in (0, 2))
    assert np.array_equal(several.map_hashes, alone.map_hashes)


# what is refused, or left out


@LEFT_OUT
def test_a_missing_map_is_named_or_skipped(frames):
    (frames / "labels" / "day" / "town" / "3.png").unlink()
    assert str(Path("labels", "day", "town", "3.png")) in refused(f"seg:{frames}")
    data = load_data(f"seg:{frames}", skip_bad=True)
    assert (len(data), data.skipped, data.counts["skipped"]) == (5, ["day/town/3.jpg"], 1)
    assert np.array_equal(data.label_maps([3])[0], classes(4))


@LEFT_OUT
def test_a_map_without_an_image_is_named_or_skipped(frames):
    (frames / "images" / "dusk" / "5.png").unlink()
    assert str(Path("labels", "dusk", "5.png")) in refused(f"seg:{frames}")
    assert load_data(f"seg:{frames}", skip_bad=True).skipped == [str(Path("labels", "dusk", "5.png"))]


@pytest.mark.parametrize(
    ("array", "said"),
    [(classes(0, 40, 47), "48x40 as its image, but it is 47x40"), (pixels(0), "indices or a palette, .*RGB")],
)
@LEFT_OUT
def test_a_map_of_another_size_or_kind_is_named_or_skipped(frames, array, said):
    store(frames / "labels" / "dusk" / "4.png", array)
    with pytest.raises(InputError, match=rf"4\.png .*{said}"):
        load_data(f"seg:{frames}")
    assert load_data(f"seg:{frames}", skip_bad=True).skipped == ["dusk/4.png"]


@LEFT_OUT
def test_a_damaged_map_is_named_or_skipped(frames):
    path = frames / "labels" / "dusk" / "4.png"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(InputError, match=r"4\.png \("):
        load_data(f"seg:{frames}").label_maps([4])
    assert load_data(f"seg:{frames}", skip_bad=True).skipped == ["dusk/4.png"]


@pytest.mark.parametrize("option", [{"ignore_index": 0}, {"label_map": "map.txt"}])
def test_data_without_maps_take_none_of_their_options(option):
    assert next(iter(option)) in refused("digits", **option)
    with pytest.raises(InputError, match="label maps, but digits has none"):
        load_data("digits", limit=2).label_maps([0])


def test_an_ignored_value_that_no_map_can_hold_is_refused(frames):
    assert "from 0 to 255, but got 256" in refused(f"seg:{frames}", ignore_index=256)


# other labels


@pytest.mark.parametrize("text", ['{"0": 7, "1": 7, "2": "ignore", "3": 0, "4": 4}', "0 7\n1 7\n\n2 255\n3 0\n4 4\n"])
def test_a_label_map_gives_other_labels(frames, text):
    (frames / "map").write_text(text)
    data = load_data(f"seg:{frames}", label_map=frames / "map")
    assert np.array_equal(data.label_maps([2])[0], np.array([7, 7, 255, 0, 4])[classes(2)])
    assert data.label_map_hash == load_data(f"seg:{frames}", label_map=frames / "map").label_map_hash is not None
    assert load_data(f"seg:{frames}").label_map_hash is None


def test_a_label_that_a_label_map_leaves_out_is_named(frames):
    (frames / "map").write_text("0 0\n1 1\n3 2\n4 3\n")
    with pytest.raises(InputError, match=r"0\.png in `label_map`, but 2 is not there"):
        load_data(f"seg:{frames}", label_map=frames / "map").label_maps([0])
    data = load_data(f"seg:{frames}", label_map=frames / "map", ignore_index=2)  # which stays as it is
    assert np.array_equal(data.label_maps([0])[0], np.array([0, 1, 2, 2, 3])[classes(0)])


@pytest.mark.parametrize("text", ["[1, 2]", "{", "0 1 2", "zero 1", "0 256", '{"0": true}', '{"0": 1.5}', "0 1\n0 2"])
def test_a_label_map_that_is_none_is_refused(frames, text):
    (frames / "map").write_text(text)
    assert str(frames / "map") in refused(f"seg:{frames}", label_map=frames / "map")


# torch data sets


class Scenes(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize(
    "kind", [torch.from_numpy, np.asarray, Image.fromarray, lambda map: torch.from_numpy(map).long()]
)
def test_a_data_set_may_give_label_maps(kind):
    items = [(Image.fromarray(pixels(number)), kind(classes(number))) for number in range(3)]
    data = load_data(Scenes(items))
    assert (data.has_maps, data.labels) == (True, None)
    assert np.array_equal(data.label_maps([2, 0]), np.stack([classes(2), classes(0)]))
    images, maps = data.tensors()
    assert torch.equal(maps, torch.from_numpy(np.stack([classes(number) for number in range(3)])).long())
    assert images.shape == (3, 3, 40, 48)


def test_labels_of_a_vector_are_no_map():
    data = load_data(Scenes([(Image.fromarray(pixels(number)), torch.tensor([number, 1])) for number in range(3)]))
    assert (data.has_maps, data.labels.tolist()) == (False, [[0, 1], [1, 1], [2, 1]])


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (torch.zeros(40, 47).long(), "48x40"),
        (torch.full((40, 48), -1), "from 0 to 255, but got -1"),
        (torch.zeros(40, 48), "integers"),
        (Image.fromarray(pixels(0)), "mode is RGB"),
    ],
)
def test_a_label_map_of_a_data_set_that_does_not_fit_is_named(label, said):
    items = [(Image.fromarray(pixels(number)), torch.zeros(40, 48).long()) for number in range(2)]
    message = refused(Scenes([*items, (Image.fromarray(pixels(2)), label)]))
    assert "label 2 of" in message
    assert said in message


def test_a_data_set_that_draws_its_images_has_no_fitting_maps():
    class Random(Scenes):
        def __getitem__(self, index):
            return Image.fromarray(pixels(np.random.default_rng().integers(1 << 30))), classes(index)

    assert "drawn at random" in refused(Random([0, 1]))


# published layouts


def test_cityscapes_has_the_19_classes_of_its_train_ids(tmp_path):
    ids = np.tile(np.arange(48, dtype=np.uint8), (40, 1))
    for split, city in (("val", "ulm"), ("val", "bonn"), ("train", "aachen")):
        stem = Path(split, city, f"{city}_000000_000019_")
        store(tmp_path / "leftImg8bit" / f"{stem}leftImg8bit.png", pixels(0))
        store(tmp_path / "gtFine" / f"{stem}gtFine_labelIds.png", ids)
    data = load_data(f"cityscapes:{tmp_path}")
    assert [data.source.label_of(index) for index in range(len(data))] == [
        "bonn/bonn_000000_000019_leftImg8bit.png",
        "ulm/ulm_000000_000019_leftImg8bit.png",
    ]
    from torchvision.datasets import Cityscapes

    expected = np.full(48, 255)
    for one in Cityscapes.classes[:-1]:  # the last has the id -1
        expected[one.id] = one.train_id
    assert data.label_maps([0])[0, 0].tolist() == expected.tolist()
    assert data.class_names == tuple(one.name for one in Cityscapes.classes if one.train_id in range(19))
    assert len(load_data(f"cityscapes:{tmp_path}", split="train")) == 1
    assert loading_options(f"cityscapes:{tmp_path}", {}, {}) == {"split": "train"}
    for path in tmp_path.rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    assert data.label_maps([0])[0, 0].tolist() == expected.tolist()  # from memory
    assert load_data(f"cityscapes:{tmp_path}").label_maps([0])[0, 0].tolist() == list(range(48))


def test_a_label_map_of_named_classes_keeps_the_names(tmp_path):
    store(tmp_path / "leftImg8bit/val/ulm/a_leftImg8bit.png", pixels(0))
    store(tmp_path / "gtFine/val/ulm/a_gtFine_labelIds.png", np.full((40, 48), 33, np.uint8))
    (tmp_path / "map").write_text("".join(f"{old} {int(old >= 11)}\n" for old in range(19)))
    data = load_data(f"cityscapes:{tmp_path}", label_map=tmp_path / "map")
    assert (data.class_names, data.classes) == (None, None)
    assert data.source.mapped_names[1] == "person or rider or car or truck or bus or train or motorcycle or bicycle"
    assert data.label_maps([0]).unique().tolist() == [1]


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_gta5_is_read_by_colour(tmp_path, mode):
    from torchvision.datasets import Cityscapes

    known = [one for one in Cityscapes.classes if one.train_id in range(19)]
    colours = np.array([*(one.color for one in known), (20, 20, 20), (0, 0, 143)], np.uint8)
    indices = np.random.default_rng(0).integers(0, len(colours), (40, 48))
    labels = Image.fromarray(colours[indices])
    if mode == "P":
        labels = Image.fromarray(indices.astype(np.uint8)[::1])
        labels.putpalette(colours.reshape(-1).tolist())
    for frame in ("00001", "00002", "00003"):
        store(tmp_path / "images" / f"{frame}.png", pixels(0))
        (tmp_path / "labels").mkdir(exist_ok=True)
        labels.save(tmp_path / "labels" / f"{frame}.png")
    data = load_data(f"gta5:{tmp_path}")
    assert np.array_equal(data.label_maps([0])[0], np.where(indices < 19, indices, 255))
    assert (len(data), data.class_names) == (3, tuple(one.name for one in known))
    assert "split.mat" in refused(f"gta5:{tmp_path}", split="val")
    from scipy.io import savemat

    savemat(tmp_path / "split.mat", {"valIds": np.array([[1], [3]]), "trainIds": np.array([[2]])})
    assert load_data(f"gta5:{tmp_path}", split="val").source.paths[1].stem == "00003"
    (tmp_path / "train.txt").write_text("00001.png\nimages/00002.png\n")
    assert len(load_data(f"gta5:{tmp_path}", split="train")) == 2


def test_voc_has_splits_and_images_of_several_sizes(tmp_path):
    place = tmp_path / "VOCdevkit" / "VOC2012"
    for number, height in enumerate([40, 48, 40]):
        store(place / "JPEGImages" / f"{number}.jpg", pixels(number, height))
        labels = classes(number, height)
        labels[0] = 255
        store(place / "SegmentationClass" / f"{number}.png", labels, "P")
    lists = place / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2\n1\n")
    (lists / "train.txt").write_text("0\n")
    data = load_data(f"voc:{tmp_path}")
    assert [path.stem for path in data.source.paths] == ["2", "1"]
    assert np.array_equal(data.label_maps([1])[0, 1:], classes(1, 48)[1:])
    assert data.map_counts[:, 255].tolist() == [48, 48]
    assert [positions.tolist() for _, positions in data.batches(8)] == [[0], [1]]
    assert (data.classes, data.class_names[15]) == (21, "person")
    assert len(load_data(f"voc:{place}", split="train")) == 1
    assert "train, val" in refused(f"voc:{tmp_path}", split="trainval")


def test_synthia_has_its_class_in_the_low_bytes_of_the_first_channel(tmp_path, monkeypatch):
    monkeypatch.setattr("statshift.data.scenes.TEST_FRAMES", 3)
    monkeypatch.setattr("statshift.data.scenes.TRAIN_FRAMES", 4)
    ids = np.random.default_rng(0).integers(0, 16, (40, 48))
    wide = np.stack([ids, np.full_like(ids, 513), np.zeros_like(ids)], 2).astype(">u2")
    place = tmp_path / "SYNTHIA-SEQS-02-FOG"
    for number in range(8):
        store(place / "RGB" / "Stereo_Left" / "Omni_F" / f"{number:06d}.png", pixels(number))
        png(place / f"GT/LABELS/Stereo_Left/Omni_F/{number:06d}.png", [row.tobytes() for row in wide], 16, 2)
    test, train = (load_data(f"synthia:{place}", split=split) for split in ("test", "train"))
    assert np.array_equal(test.label_maps([0])[0], np.array([255, *range(12), 255, 255, 12])[ids])
    assert (test.classes, test.class_names[12]) == (13, "traffic light")
    names = [{path.stem for path in data.source.paths} for data in (test, train)]
    assert [len(one) for one in names] == [3, 4]
    assert not names[0] & names[1]
    assert load_data(f"synthia:{tmp_path / 'new-york-fog'}").source.paths == test.source.paths
    monkeypatch.setattr("statshift.data.scenes.TRAIN_FRAMES", 6)
    with pytest.warns(DataWarning, match="5 are taken, not 6"):
        load_data(f"synthia:{place}", split="train")


# the record


def test_a_folder_that_is_spelt_otherwise_is_the_same_data():
    for scheme in ("seg", "cityscapes", "gta5", "synthia", "voc"):
        assert differing({"data.spec": f"{scheme}:scenes"}, {"data.spec": f"{scheme}:./scenes/"}) == []
    assert differing({"data.spec": "seg:scenes"}, {"data.spec": "voc:scenes"}) == ["data.spec"]


def test_a_record_says_how_maps_are_read(frames):
    from statshift.results.provenance import REPEATED, describe_data, describe_request

    (frames / "map").write_text(json.dumps({str(label): label for label in range(5)}))
    data = load_data(f"seg:{frames}", ignore_index=0, label_map=frames / "map")
    told = describe_data(data, None)
    assert told["maps"] == {"ignore_index": 0, "label_map": data.label_map_hash}
    assert "maps" not in describe_data(load_data("digits", limit=2), None)
    assert {"split", "ignore_index", "label_map"} <= set(REPEATED)
    assert describe_request({"ignore_index": 0, "skip_bad": False, "split": ""}) == {"ignore_index": 0}
