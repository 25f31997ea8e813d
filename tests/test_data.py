"""Data by spec: every scheme's pixels and labels, subsets, fixed batches, preprocessing, and refusals."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from statshift._core.errors import DataWarning, InputError
from statshift.data import (
    integers_hash,
    load_data,
    resolve_preprocessing,
    stored_shifts,
)
from statshift.data.preprocessing import preprocess
from statshift.data.sampling import balanced_subset
from statshift.models import load_model
from statshift.tasks.classification import check_labels

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (10, 32, 40, 3), np.uint8)
LABELS = np.arange(10) % 3


def everything(data, **options):
    return torch.cat([images for images, _ in data.batches(4, **options)])


def channels_first(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def accuracy(model, data):
    with torch.inference_mode():
        right = sum(
            int((model(images.float() / 255).argmax(1).numpy() == data.labels[positions]).sum())
            for images, positions in data.batches(100)
        )
    return right / len(data)


@pytest.fixture
def tree(tmp_path):
    """Class folders with the images of PIXELS; an empty one keeps its place among the classes."""
    root = tmp_path / "tree"
    for name in ("ant", "bee", "cow", "elk"):
        (root / name).mkdir(parents=True)
    (root / "notes.txt").touch()
    (root / ".hidden").mkdir()
    for index, image in enumerate(PIXELS):
        name = ("ant", "cow", "elk")[LABELS[index]]
        Image.fromarray(image).save(root / name / f"{index}.PNG")
    return root


ORDER = np.argsort(LABELS, kind="stable")


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, images=PIXELS, labels=LABELS)
    return f"npz:{path}"


# Schemes


def test_cifar_images_give_the_resnet_its_accuracy(shared):
    data = load_data(f"npz:{shared / 'data/cifar10_test_1000.npz'}")
    assert (len(data), data.shape) == (1000, (3, 32, 32))
    assert data.preprocessing == {"resize": None, "crop": None, "interpolation": "bilinear"}
    model = load_model("cifar:resnet20", weights=shared / "data/cifar10_resnet20.th")
    assert accuracy(model, data) == 0.915


def test_photographs_give_the_mobilenet_its_accuracy(shared):
    data = load_data(f"npz:{shared / 'data/imagenet_sample_500.npz'}")
    assert (len(data), data.shape) == (500, (3, 224, 224))
    model = load_model(
        f"py:{shared / 'data/mobilenet_v1_025.py'}:mobilenet_v1_025",
        weights=shared / "data/imagenet_mobilenet_v1_025.tar",
    )
    assert accuracy(model, data) == pytest.approx(0.530, abs=0.004)


def test_digits_are_enlarged_and_split():
    from sklearn.datasets import load_digits

    test, train = load_data("digits"), load_data("digits", split="train")
    assert (len(test), len(train)) == (597, 1200)
    assert (test.classes, test.shape) == (10, (3, 32, 32))
    assert set(np.bincount(test.labels)) == {59, 60}
    small, target = load_digits(return_X_y=True)
    chosen = balanced_subset(target, 597)
    assert np.array_equal(test.labels, target[chosen])
    grey = Image.fromarray(np.rint(small[chosen[5]].reshape(8, 8) * 255 / 16).astype(np.uint8))
    expected = np.asarray(grey.resize((32, 32), Image.Resampling.BILINEAR), np.int64)
    enlarged = everything(test)[5].long()
    assert np.abs(enlarged.numpy() - expected).max() <= 1
    assert torch.equal(enlarged[0], enlarged[2])
    both = {image.tobytes() for data in (test, train) for image in everything(data)[:, 0].numpy()}
    assert len(both) == 1797


def test_folder_of_classes(tree):
    data = load_data(f"folder:{tree}")
    assert data.class_names == ("ant", "bee", "cow", "elk")
    assert data.classes == 4
    assert data.labels.tolist() == [0] * 4 + [2] * 3 + [3] * 3
    assert data.indices.tolist() == list(range(10))
    assert torch.equal(everything(data), channels_first(PIXELS[ORDER]))


def test_files_that_are_no_images_are_counted_and_many_are_told(tree):
    assert load_data(f"folder:{tree}").counts["ignored"] == 1  # notes.txt
    (tree / "ant" / "photograph.heic").touch()
    with pytest.warns(UserWarning, match="2 files in .* are ignored"):
        assert load_data(f"folder:{tree}").counts["ignored"] == 2


def test_flat_folder_has_no_labels(tree):
    data = load_data(f"folder:{tree / 'cow'}")
    assert data.labels is None
    assert data.classes is None
    assert torch.equal(everything(data), channels_first(PIXELS[LABELS == 1]))


@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_class_map(tree, tmp_path, suffix):
    table = {"elk": 7, "ant": 900, "cow": 5, "bee": 1}
    path = tmp_path / f"map{suffix}"
    lines = "\n".join(f"{name} {index}" for name, index in table.items())
    path.write_text(json.dumps(table) if suffix == ".json" else f"{lines}\n\n")
    data = load_data(f"folder:{tree}", class_map=path)
    assert data.labels.tolist() == [900] * 4 + [5] * 3 + [7] * 3
    assert data.classes is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ant 0\nbee 1\ncow 2\n", "'elk' is not in it"),
        ("ant zero\n", "to map folders to class indices"),
        ("ant", "to map"),
    ],
)
def test_class_map_that_does_not_fit(tree, tmp_path, text, told):
    (tmp_path / "map.txt").write_text(text)
    with pytest.raises(InputError, match=told):
        load_data(f"folder:{tree}", class_map=tmp_path / "map.txt")


def test_arrays_in_either_order_and_as_floats(tmp_path, packed):
    expected = channels_first(PIXELS)
    assert torch.equal(everything(load_data(packed)), expected)
    np.savez(tmp_path / "first.npz", images=PIXELS.transpose(0, 3, 1, 2))
    first = load_data(f"npz:{tmp_path / 'first.npz'}")
    assert first.labels is None
    assert torch.equal(everything(first), expected)
    np.savez(tmp_path / "floats.npz", images=PIXELS.astype(np.float32) / 255)
    assert torch.equal(everything(load_data(f"npz:{tmp_path / 'floats.npz'}")), expected)


def test_encoded_arrays(tmp_path, tree):
    files = [path.read_bytes() for path in sorted((tree / "ant").iterdir())]
    encoded = np.frombuffer(b"".join(files), np.uint8)
    np.savez(tmp_path / "e.npz", jpeg=encoded, offsets=np.cumsum([0, *map(len, files)]), labels=[0, 1, 2, 3])
    data = load_data(f"npz:{tmp_path / 'e.npz'}")
    assert data.labels.tolist() == [0, 1, 2, 3]
    assert torch.equal(everything(data), channels_first(PIXELS[LABELS == 0]))


@pytest.mark.parametrize(("spec", "kind"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100"), ("svhn", "SVHN")])
def test_downloaded_sets(spec, kind, monkeypatch, tmp_path):
    asked = {}

    def stand_in(root, *, download, **which):
        asked.update(root=str(root), download=download, **which)
        if spec == "svhn":
            return SimpleNamespace(data=PIXELS.transpose(0, 3, 1, 2), labels=LABELS)
        return SimpleNamespace(data=PIXELS, targets=LABELS.tolist(), classes=["a", "b", "c"])

    monkeypatch.setattr(f"torchvision.datasets.{kind}", stand_in)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = load_data(spec)
    which = {"split": "test"} if spec == "svhn" else {"train": False}
    assert asked == {"root": str(tmp_path / "statshift" / spec), "download": True, **which}
    assert torch.equal(everything(data), channels_first(PIXELS))
    assert data.labels.tolist() == LABELS.tolist()
    load_data(f"{spec}:{tmp_path}", split="train")
    assert asked["root"] == str(tmp_path)
    assert asked.get("train", asked.get("split")) in (True, "train")


@pytest.mark.parametrize(
    ("spec", "url"),
    [
        ("cifar10", "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"),
        ("svhn", "http://ufldl.stanford.edu/housenumbers/test_32x32.mat"),
    ],
)
def test_failed_download_says_what_to_get_by_hand(spec, url, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)
    monkeypatch.setattr("torchvision.datasets.svhn.download_url", fail)
    with pytest.raises(InputError, match=f"get {url} by hand, put it into a folder DIR and name it as {spec}:DIR"):
        load_data(f"{spec}:{tmp_path}")


def test_cifar_c_layout(tmp_path):
    stored = RNG.integers(0, 256, (15, 32, 32, 3), np.uint8)
    np.save(tmp_path / "fog.npy", stored)
    np.save(tmp_path / "labels.npy", np.tile([4, 5, 6], 5))
    spec = f"cifar-c:{tmp_path}"
    assert stored_shifts(spec) == {"fog": [1, 2, 3, 4, 5]}
    for severity in (1, 5):
        data = load_data(spec, shift=("fog", severity))
        assert torch.equal(everything(data), channels_first(stored[3 * severity - 3 : 3 * severity]))
        assert data.labels.tolist() == [4, 5, 6]
        assert data.indices.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="it stores only shifts"):
        load_data(spec)
    np.save(tmp_path / "clean.npy", stored[:3])
    assert torch.equal(everything(load_data(spec)), channels_first(stored[:3]))
    assert list(stored_shifts(spec)) == ["fog"]
    with pytest.raises(InputError, match=r"'frog'\. Did you mean 'fog'"):
        load_data(spec, shift=("frog", 1))
    with pytest.raises(InputError, match=r"`severity` of fog .* one of \[1, 2, 3, 4, 5\], but got 6"):
        load_data(spec, shift=("fog", 6))
    np.save(tmp_path / "fog.npy", stored[:14])
    with pytest.raises(InputError, match="five severities, but got 14 images"):
        load_data(spec, shift=("fog", 1))


@pytest.mark.parametrize("group", ["", "weather"])
def test_imagenet_c_layout(tmp_path, tree, group):
    root = tmp_path / "c"
    for severity in (2, 4):
        for place in sorted(tree.glob("[a-z]*/")):
            folder = root / group / "fog" / str(severity) / place.name
            folder.mkdir(parents=True)
            for path in place.glob("*.PNG"):
                Image.fromarray(np.asarray(Image.open(path)) // severity).save(folder / path.name)
    spec = f"imagenet-c:{root}"
    assert stored_shifts(spec) == {"fog": [2, 4]}
    data = load_data(spec, shift=("fog", 4))
    assert torch.equal(everything(data), channels_first(PIXELS[ORDER] // 4))
    assert data.labels.tolist() == [0] * 4 + [2] * 3 + [3] * 3
    with pytest.raises(InputError, match=r"one of \[2, 4\], but got 3"):
        load_data(spec, shift=("fog", 3))
    with pytest.raises(InputError, match="it stores only shifts"):
        load_data(spec)
    tree.rename(root / "clean")
    assert torch.equal(everything(load_data(spec)), channels_first(PIXELS[ORDER]))
    assert stored_shifts(spec) == {"fog": [2, 4]}


def test_shifts_that_are_made_are_not_stored(tmp_path, packed):
    assert stored_shifts(packed) == {}
    assert stored_shifts(TensorDataset()) == {}
    with pytest.raises(InputError, match="Expected shifts of the cifar-c layout"):
        stored_shifts(f"cifar-c:{tmp_path}")


class Pictures(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_torch_data_sets():
    expected = channels_first(PIXELS)
    labelled = load_data(
        Pictures([(Image.fromarray(image), label) for image, label in zip(PIXELS, LABELS, strict=True)])
    )
    assert labelled.labels.tolist() == LABELS.tolist()
    assert labelled.spec.endswith("test_data.Pictures")
    assert torch.equal(everything(labelled), expected)
    tensors = load_data(TensorDataset(expected, torch.from_numpy(LABELS)))
    assert tensors.labels.tolist() == LABELS.tolist()
    assert torch.equal(everything(tensors), expected)
    floats = load_data(Pictures(list(expected.float() / 255)))
    assert floats.labels is None
    assert torch.equal(everything(floats), expected)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        (Stream(), "with a length"),
        (Pictures([]), "it is empty"),
        (Pictures([(torch.full((3, 32, 32), float("nan")), 0)]), r"image 0 of .* \[0, 1\], but got NaN"),
        (Pictures([torch.full((3, 32, 32), 2.0)]), r"lie in \[0, 1\], but got values from 2 to 2"),
        (Pictures([torch.full((3, 32, 32), -0.5)]), "values from -0.5 to -0.5"),
        (Pictures([torch.zeros(1, 32, 32)]), r"shape \(3,H,W\), but got \(1, 32, 32\)"),
        (Pictures([torch.zeros(3, 32, 32).long()]), r"uint8 or float in \[0, 1\], but got int64"),
        (Pictures([{"image": 0}]), "PIL image or a tensor, but got dict"),
        (Pictures([torch.zeros(3, 32, 32), (torch.zeros(3, 32, 32), 1)]), "but 1 have none"),
        (Pictures([(torch.zeros(3, 32, 32), -1)]), "labels from 0 up"),
        (Pictures([torch.zeros(3, 31, 32)]), "at least 32 px, but image 0 of .* is 32x31"),
    ],
)
def test_data_sets_that_cannot_be_used(dataset, told):
    with pytest.raises(InputError, match=told):
        load_data(dataset)


# Subsets


def test_subset_is_balanced_nested_and_reproducible():
    labels = RNG.integers(0, 10, 1000)
    previous = set()
    for limit in (1, 9, 10, 55, 400):
        chosen = balanced_subset(labels, limit, seed=3)
        assert chosen.tolist() == sorted(set(chosen.tolist()))
        counts = np.bincount(labels[chosen], minlength=10)
        assert counts.sum() == limit
        assert counts.max() - counts.min() <= 1
        assert previous <= set(chosen.tolist())
        assert np.array_equal(chosen, balanced_subset(labels, limit, seed=3))
        previous = set(chosen.tolist())
    assert not np.array_equal(chosen, balanced_subset(labels, 400, seed=4))
    assert balanced_subset(labels, 5000).tolist() == list(range(1000))


def test_small_class_gives_all_it_has():
    labels = np.array([0] * 3 + [1] * 50)
    assert np.bincount(labels[balanced_subset(labels, 20)]).tolist() == [3, 17]


def test_limit_keeps_the_original_indices(packed):
    data = load_data(packed, limit=6, seed=1)
    assert np.array_equal(data.indices, balanced_subset(LABELS, 6, seed=1))
    assert np.array_equal(data.labels, LABELS[data.indices])
    assert torch.equal(everything(data), channels_first(PIXELS[data.indices]))
    expected = hashlib.sha256(data.indices.astype("<i8").tobytes()).hexdigest()[:16]
    assert integers_hash(data.indices) == expected != integers_hash(load_data(packed).indices)
    with pytest.raises(InputError, match="`limit` to be at least 1, but got 0"):
        load_data(packed, limit=0)


def test_a_limit_above_what_is_there_takes_all_and_warns(packed):
    with pytest.warns(UserWarning, match=rf"`limit` is 5,700 images, but {packed} has {len(LABELS)}: all are taken\."):
        data = load_data(packed, limit=5700)
    assert data.indices.tolist() == list(range(len(LABELS)))
    assert len(load_data(packed, limit=len(LABELS))) == len(LABELS)  # and no warning


def test_labels_beyond_the_models_classes(packed, tree):
    data = load_data(packed)
    check_labels(data, 3)
    check_labels(data, None)
    check_labels(load_data(f"folder:{tree / 'ant'}"), 1)
    with pytest.raises(InputError, match=r"the model's 2 classes, but the largest label .* is 2; .*`class_map`"):
        check_labels(data, 2)


# Batches


@pytest.mark.parametrize("cache_bytes", [0, 4 << 30])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_batches_are_fixed_whoever_asks(tree, cache_bytes, workers):
    data = load_data(f"folder:{tree}", cache_bytes=cache_bytes, workers=workers)
    expected = channels_first(PIXELS[ORDER])
    state = torch.random.get_rng_state()
    for which in ([2, 0], None, [1, 1]):
        numbers = [0, 1, 2] if which is None else which
        batches = list(data.batches(4, which=which))
        assert [positions.tolist() for _, positions in batches] == [list(range(10))[4 * k : 4 * k + 4] for k in numbers]
        for images, positions in batches:
            assert images.dtype == torch.uint8
            assert images.is_contiguous()
            assert torch.equal(images, expected[positions])
    assert torch.equal(state, torch.random.get_rng_state())


def test_images_are_decoded_once_where_they_fit(tree, monkeypatch):
    kept = load_data(f"folder:{tree}")
    streamed = load_data(f"folder:{tree}", cache_bytes=10 * 32 * 40 * 3 - 1, cache="none")
    opened = []
    open_file = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or open_file(path))
    first = everything(kept)
    first.zero_()  # what a caller does with a batch is the caller's
    assert torch.equal(everything(kept), channels_first(PIXELS[ORDER]))
    assert len(opened) == 10
    everything(streamed)
    everything(streamed)  # nine images fit
    assert len(opened) == 10 + 10 + 1


def test_batch_size_is_checked(packed):
    with pytest.raises(InputError, match="`batch_size` to be at least 1, but got 0"):
        next(load_data(packed).batches(0))


# Preprocessing


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((500, 375), {}, (256, 224)),
        ((224, 300), {}, (256, 224)),
        ((224, 224), {}, (None, None)),
        ((223, 900), {}, (None, None)),
        ((500, 375), {"resize": 300}, (300, None)),
        ((500, 375), {"crop": 299}, (None, 299)),
        ((48, 48), {"resize": 40, "crop": 32}, (40, 32)),
    ],
)
def test_preprocessing_that_is_applied(size, options, expected):
    found = resolve_preprocessing([size], **options)
    assert found == {"resize": expected[0], "crop": expected[1], "interpolation": "bilinear"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"crop": 0}, "`crop` to be at least 32 px, but got 0"),
        ({"resize": 31}, "`resize` to be at least 32 px, but got 31"),
        ({"interpolation": "bicubik"}, "Did you mean 'bicubic'"),
    ],
)
def test_preprocessing_that_cannot_be(options, told):
    with pytest.raises(InputError, match=told):
        resolve_preprocessing([(64, 64)], **options)


@pytest.mark.parametrize("size", [(333, 257), (257, 401), (100, 75), (64, 64)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_pixels_equal_torchvisions(size, interpolation):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

    width, height = size
    image = Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8))
    reference = Compose([Resize(64, InterpolationMode(interpolation)), CenterCrop(49), PILToTensor()])
    found = preprocess(image, resize=64, crop=49, interpolation=interpolation)
    assert torch.equal(found, reference(image))


@pytest.mark.parametrize(
    ("mode", "value", "suffix", "expected"),
    [
        ("RGB", (10, 20, 30), "png", (10, 20, 30)),
        ("L", 77, "png", (77, 77, 77)),
        ("LA", (77, 12), "png", (77, 77, 77)),
        ("RGBA", (10, 20, 30, 0), "png", (10, 20, 30)),
        ("1", 1, "png", (255, 255, 255)),
        ("I;16", 65535, "png", (255, 255, 255)),
        ("I;16", 257 * 100 + 128, "png", (100, 100, 100)),
        ("I;16", 257 * 100 + 129, "tif", (101, 101, 101)),
        ("CMYK", (255, 0, 0, 0), "tif", (0, 255, 255)),
        ("P", 1, "png", (1, 1, 1)),
    ],
)
def test_any_colour_mode_becomes_rgb(mode, value, suffix, expected, tmp_path):
    image = Image.new(mode, (32, 32), value)
    if mode == "P":
        image.putpalette([v for level in range(256) for v in (level, level, level)])
        image.info["transparency"] = bytes(range(256))
    image.save(tmp_path / f"image.{suffix}")
    data = load_data(f"folder:{tmp_path}")
    assert everything(data)[0, :, 5, 5].tolist() == list(expected)
    assert data.counts == {"converted_to_rgb": int(mode != "RGB"), "skipped": 0, "ignored": 0}


def test_orientation_tag_is_left_alone(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.new("RGB", (40, 32)).save(tmp_path / "image.jpg", exif=exif)
    assert load_data(f"folder:{tmp_path}").shape == (3, 32, 40)


def test_sizes_that_differ(tmp_path):
    for name, size in (("a", (40, 48)), ("b", (64, 80))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    with pytest.raises(InputError, match=r"a.png is 40x48 and \S*b.png is 64x80; .* `resize` and `crop`"):
        load_data(f"folder:{tmp_path}")
    assert load_data(f"folder:{tmp_path}", resize=40, crop=32).shape == (3, 32, 32)
    with pytest.raises(InputError, match=r"at least 50 px, but \S*a.png is 40x48; enlarge with `resize`"):
        load_data(f"folder:{tmp_path}", crop=50)
    assert load_data(f"folder:{tmp_path}", resize=60, crop=50).shape == (3, 50, 50)


# Damage


@pytest.fixture
def damaged(tree):
    """Two damaged files: one shows at its head, one only further on."""
    (tree / "bee" / "0.jpg").write_bytes(b"no image")
    whole = (tree / "cow" / "1.PNG").read_bytes()
    (tree / "cow" / "1.PNG").write_bytes(whole[: len(whole) // 2])
    return tree


def test_damaged_file_is_named(damaged):
    with pytest.raises(InputError, match=r"Cannot read \S*0.jpg .*`skip_bad`") as caught:
        load_data(f"folder:{damaged}")
    assert "\n" not in str(caught.value)
    (damaged / "bee" / "0.jpg").unlink()
    data = load_data(f"folder:{damaged}")
    with pytest.raises(InputError, match=r"Cannot read \S*1.PNG .*`skip_bad`"):
        everything(data)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_files_are_skipped_and_counted(damaged, workers):
    with pytest.warns(DataWarning, match=r"^2 files that cannot be used are left out of .*: bee/0\.jpg, cow/1\.PNG\.$"):
        data = load_data(f"folder:{damaged}", skip_bad=True, workers=workers)
    assert data.counts == {"converted_to_rgb": 0, "skipped": 2, "ignored": 1}
    assert data.skipped == ["bee/0.jpg", "cow/1.PNG"]
    assert data.indices.tolist() == [0, 1, 2, 3, 6, 7, 8, 9, 10]
    assert data.labels.tolist() == [0] * 4 + [2] * 2 + [3] * 3
    assert torch.equal(everything(data), channels_first(PIXELS[[i for i in ORDER if i != 1]]))


def test_pixels_of_unknown_range_count_as_damage(tree):
    Image.new("F", (40, 32)).save(tree / "bee" / "0.tif")
    with pytest.raises(InputError, match=r"0\.tif \(its pixels are floats of unknown range\)"):
        everything(load_data(f"folder:{tree}"))
    with pytest.warns(DataWarning, match=r"^1 file that cannot be used is left out of .*: bee/0\.tif\.$"):
        assert load_data(f"folder:{tree}", skip_bad=True).counts["skipped"] == 1


def test_nothing_but_damage(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(InputError, match=r"Cannot read \S*a\.jpg"):
        load_data(f"folder:{tmp_path}", skip_bad=True)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("digts", "Unknown data scheme 'digts'. Did you mean 'digits'"),
        (r"C:\data", "Unknown data scheme 'C'"),
        (r"folder:C:\data", r"Expected a folder, but 'C:\data' is not one"),
        ("folder:", "Expected a folder, but '' is not one"),
        ("npz:absent.npz", "Expected a file, but 'absent.npz' is not one"),
        ("digits:validation", "Unknown split 'validation'"),
        ("imagenet-c:absent", "Expected a folder, but 'absent'"),
    ],
)
def test_specs_that_name_nothing(spec, told):
    with pytest.raises(InputError) as caught:
        load_data(spec)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"shift": ("fog", 3)}, r"Expected no `shift` for npz:.*, but got \('fog', 3\)"),
        ({"split": "train"}, "Expected no `split`"),
        ({"class_map": "map.json"}, "Expected no `class_map`"),
    ],
)
def test_options_that_a_scheme_does_not_take(packed, option, told):
    with pytest.raises(InputError, match=told):
        load_data(packed, **option)


def test_empty_folder_and_mixed_folder(tmp_path, tree):
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(InputError, match="or in its class folders, but found none"):
        load_data(f"folder:{tmp_path / 'empty'}")
    Image.new("RGB", (32, 32)).save(tree / "stray.png")
    with pytest.raises(InputError, match="it holds both"):
        load_data(f"folder:{tree}")


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"pictures": PIXELS}, "to hold `images`, or `jpeg` and `offsets`, but got: pictures"),
        ({"images": PIXELS[..., :1]}, r"but got shape \(10, 32, 40, 1\)"),
        ({"images": PIXELS.astype(np.float32)}, r"lie in \[0, 1\], but got values from 0 to 255"),
        ({"images": PIXELS, "labels": LABELS[:9]}, r"Expected 10 integer labels .* of shape \(9,\)"),
        ({"images": PIXELS, "labels": LABELS / 2}, "Expected 10 integer labels .* float64"),
        ({"images": PIXELS, "labels": LABELS - 1}, "labels from 0 up .*, but got -1"),
        ({"images": PIXELS[:, :31]}, "at least 32 px, but image 0 of .* is 40x31"),
        ({"images": PIXELS[:0]}, "it is empty"),
        ({"images": PIXELS, "labels": np.array([None] * 10)}, "Cannot read"),
        ({"jpeg": PIXELS.reshape(-1), "offsets": np.arange(3) * 50}, "Cannot read image 0 of"),
        ({"jpeg": PIXELS.reshape(-1), "offsets": np.arange(3) / 2}, "a list of integers"),
    ],
)
def test_arrays_that_cannot_be_used(arrays, told, tmp_path):
    np.savez(tmp_path / "arrays.npz", **arrays)
    with pytest.raises(InputError, match=told):
        load_data(f"npz:{tmp_path / 'arrays.npz'}")


def test_truncated_arrays(tmp_path, packed):
    whole = (tmp_path / "images.npz").read_bytes()
    (tmp_path / "images.npz").write_bytes(whole[:1000])
    with pytest.raises(InputError, match=r"Cannot read \S*images\.npz: truncated"):
        load_data(packed)
