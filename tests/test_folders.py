"""Folders as users have them: which files are images, which folder is which class, and what is passed by."""

import codecs
import json
import os
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from statshift import measure
from statshift._core.errors import InputError
from statshift.data import fit_labels, load_data, stored_shifts
from statshift.data.classes import imagenet_classes, read_class_map
from statshift.data.folders import order_classes
from statshift.measuring.loading import load
from statshift.models import PixelModel, Preprocessing
from statshift.results.provenance import describe_data
from statshift.tasks.classification import check_labels


def save(path, level=0):
    """Save a small grey image, whose level tells which it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), (level, level, level)).save(path)
    return path


def class_folders(root, names):
    """Save one image a class; its level is the place of its name among `names`."""
    for level, name in enumerate(names):
        save(root / name / "a.png", level)
    return f"folder:{root}"


def levels(data):
    return [int(images[0, 0, 0, 0]) for images, _ in data.batches(1)]


def loaded(spec, **options):
    """Return data and what was told of them."""
    with pytest.warns(UserWarning, match=".") as told:
        data = load_data(spec, **options)
    return data, [str(one.message) for one in told]


# Integers


def test_integers_are_sorted_as_integers_and_it_is_told(tmp_path):
    names = [str(number) for number in range(12)]
    data, told = loaded(class_folders(tmp_path, names))
    assert data.class_names == tuple(names)
    assert data.labels.tolist() == levels(data) == list(range(12))
    assert len(told) == 1
    assert told[0].endswith("are sorted as integers: 0 is class 0, 11 is class 11.")
    assert describe_data(data, data.labels)["class_order"] == "integers"


@pytest.mark.parametrize(
    ("names", "expected", "differs"),
    [
        (["10", "2", "1"], ["1", "2", "10"], True),
        (["30", "-1", "4"], ["-1", "4", "30"], True),
        (["010", "002"], ["002", "010"], False),
        (["10", "9", "x"], ["10", "9", "x"], False),
        (["10", "²"], ["10", "²"], False),
    ],
)
def test_the_order_of_classes(names, expected, differs):
    assert order_classes(names) == (expected, differs)


def test_integers_in_the_order_of_text_are_no_cause_to_tell(tmp_path):
    data = load_data(class_folders(tmp_path, ["0", "1", "2"]))
    assert data.labels.tolist() == levels(data) == [0, 1, 2]
    assert data.class_order is None


def test_a_stored_shift_of_integers_is_sorted_likewise(tmp_path):
    class_folders(tmp_path / "fog" / "1", ["0", "2", "10"])
    with pytest.warns(UserWarning, match="sorted as integers"):
        assert load_data(f"imagenet-c:{tmp_path}", shift=("fog", 1)).class_names == ("0", "2", "10")


# What is passed by

FOLDERS = (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".Trash-1000", "lost+found", "$RECYCLE.BIN", "#recycle")


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("place", ["", "ant"])
def test_hidden_and_system_folders_are_no_classes_and_no_data(tmp_path, name, place):
    spec = class_folders(tmp_path, ["ant", "bee"])
    save(tmp_path / place / name / "deep" / "copy.png", 99)
    data, told = loaded(spec)
    assert (data.class_names, levels(data), data.labels.tolist()) == (("ant", "bee"), [0, 1], [0, 1])
    assert data.passed_by == 1
    assert [one.rpartition(" as ")[2] for one in told] == [f"{Path(place, name)}."]
    assert data.counts["ignored"] == 0


def test_hidden_and_system_files_are_no_images(tmp_path):
    spec = class_folders(tmp_path, ["ant", "bee"])
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "ant/.DS_Store"):
        (tmp_path / name).touch()
    quiet = load_data(spec)  # no image is passed by: nothing to tell
    assert (quiet.passed_by, quiet.counts["ignored"], levels(quiet)) == (4, 0, [0, 1])
    (tmp_path / "ant" / "._a.png").write_bytes(b"\0\5\26\7")
    (tmp_path / "._bee.png").touch()  # beside class folders, as if the folder held both
    data, told = loaded(spec)
    assert (data.passed_by, levels(data)) == (6, [0, 1])
    assert len(told) == 1
    assert told[0].startswith("2 hidden, system or run files or folders with images in ")


@pytest.mark.parametrize("flat", [True, False])
def test_a_runs_own_pictures_are_no_data(tmp_path, flat):
    spec = f"folder:{tmp_path}" if flat else class_folders(tmp_path, ["ant"])
    if flat:
        save(tmp_path / "a.png")
    save(tmp_path / "run" / "examples" / "fog-3.png", 99)
    (tmp_path / "run" / "record.json").write_text("{}")
    data, told = loaded(spec)
    assert levels(data) == [0]
    assert (data.labels is None) == flat
    assert "such as run." in told[0]


def test_a_class_may_be_called_trash(tmp_path):
    assert load_data(class_folders(tmp_path, ["metal", "trash"])).class_names == ("metal", "trash")


def test_only_hidden_images_are_none(tmp_path):
    save(tmp_path / ".cache" / "a.png")
    with pytest.warns(UserWarning, match="passed by"), pytest.raises(InputError, match="but found none"):
        load_data(f"folder:{tmp_path}")


def test_hidden_things_are_no_stored_shifts(tmp_path):
    for name in ("fog.npy", "labels.npy"):
        np.save(tmp_path / name, np.zeros((5, 32, 32, 3), np.uint8))
        (tmp_path / f"._{name}").write_bytes(b"\0\5\26\7")
    class_folders(tmp_path / ".Trashes" / "1", ["ant"])
    class_folders(tmp_path / "snow" / "1", ["ant"])
    assert list(stored_shifts(f"cifar-c:{tmp_path}")) == ["fog"]
    assert list(stored_shifts(f"imagenet-c:{tmp_path}")) == ["snow"]


# What is not looked at


def test_a_limit_opens_only_what_it_takes(tmp_path, monkeypatch):
    content = save(tmp_path / "ant" / "0.png").read_bytes()
    for number in range(300):
        for name in ("ant", "bee", "cow"):
            path = tmp_path / name / "deeper" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    calls = {"stat": 0, "scandir": 0, "open": 0}

    def counted(name, function):
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "stat", counted("stat", os.stat))
    monkeypatch.setattr(os, "scandir", counted("scandir", os.scandir))
    monkeypatch.setattr(Image, "open", counted("open", Image.open))
    data = load_data(f"folder:{tmp_path}", limit=6)
    assert np.bincount(data.labels).tolist() == [2, 2, 2]
    assert calls["open"] == 6
    assert calls["scandir"] == 7  # the root, three classes, and a folder in each
    assert calls["stat"] <= 20  # of 901 files


def test_files_are_in_the_order_of_their_parts(tmp_path):
    for name in ("b/c.png", "b-a.png", "b/a/z.png", "a.png"):
        save(tmp_path / "ant" / name)
    paths = load_data(f"folder:{tmp_path}").source.paths
    assert paths == sorted(paths)
    assert [path.relative_to(tmp_path / "ant").as_posix() for path in paths] == [
        *("a.png", "b/a/z.png", "b/c.png", "b-a.png")
    ]


# Names and maps


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode("café".encode("latin-1"))
    spec = class_folders(tmp_path / "tree", ["ant", name])
    save(tmp_path / "tree" / "ant" / f"{name}.png", 7)
    data = load_data(spec)
    assert (levels(data), data.labels.tolist()) == ([0, 7, 1], [0, 0, 1])
    assert len(data.content_hash()) == 16
    assert json.loads(json.dumps(describe_data(data, data.labels)))["classes"] == 2
    (tmp_path / "map.txt").write_bytes("ant 4\ncafé 3\n".encode("latin-1"))
    assert load_data(spec, class_map=tmp_path / "map.txt").labels.tolist() == [4, 4, 3]


FOLDER_NAMES = ["ant", "bee hive", "café"]
PAIRS = "café 5\nant 7\nbee hive 0\n"
EXPECTED = [7, 0, 5]


@pytest.mark.parametrize(
    "content",
    [
        PAIRS.encode(),
        PAIRS.encode("latin-1"),
        PAIRS.encode("utf-8-sig"),
        PAIRS.encode("utf-16"),
        codecs.BOM_UTF16_BE + PAIRS.encode("utf-16-be"),
        PAIRS.encode("utf-16-le"),
        PAIRS.encode("utf-16-be"),
        PAIRS.encode("utf-32"),
        PAIRS.replace("\n", "\r\n").replace(" 5", "\t5").encode(),
        unicodedata.normalize("NFD", PAIRS).encode(),
    ],
)
def test_a_map_in_any_usual_encoding(tmp_path, content):
    (tmp_path / "map.txt").write_bytes(content)
    assert read_class_map(tmp_path / "map.txt", FOLDER_NAMES).tolist() == EXPECTED


TABLE = {"café": 5, "ant": 7, "bee hive": 0}


@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        {name: str(index) for name, index in TABLE.items()},
        {"0": "bee hive", "5": "café", "7": "ant"},
        {"0": ["bee hive", "home"], "5": ["n02000000", "café"], "7": ["ant", "emmet"]},
        ["bee hive", "a", "b", "c", "d", "café", "e", "ant"],
        {"id2label": {index: name for name, index in TABLE.items()}, "label2id": TABLE, "hidden_size": 8},
        {"id2label": {index: name for name, index in TABLE.items()}},
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_the_known_forms_of_json(tmp_path, content, suffix):
    path = tmp_path / f"map{suffix}"
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    assert read_class_map(path, FOLDER_NAMES).tolist() == EXPECTED


def test_one_name_a_line_and_names_that_end_in_a_number(tmp_path):
    (tmp_path / "map.txt").write_text("bee hive\nBoeing 747\nBoeing 767\n\nant\n")
    assert read_class_map(tmp_path / "map.txt", ["Boeing 767", "ant", "bee hive"]).tolist() == [2, 4, 0]
    (tmp_path / "map.txt").write_text("Boeing 747 1\nBoeing 767 0\n")
    assert read_class_map(tmp_path / "map.txt", ["Boeing 747", "Boeing 767"]).tolist() == [1, 0]


def test_folders_that_are_integers_are_mapped_by_name(tmp_path):
    (tmp_path / "map.json").write_text('{"0": 2, "1": 0, "10": 1}')
    assert read_class_map(tmp_path / "map.json", ["0", "1", "10"]).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"ant": true, "bee": 1}', "the class index of ant in .* to be an integer, but got true"),
        ('{"ant": 0, "bee": "cat"}', 'the class index of bee in .* to be an integer, but got "cat"'),
        ('{"ant": 0.0, "bee": 1}', r"of ant in .* to be an integer, but got 0\.0"),
        ('{"ant": null, "bee": 1}', "of ant in .* to be an integer, but got null"),
        ('{"ant": -1, "bee": 1}', "of ant in .* to be from 0 up, but got -1"),
        ('{"ant": 4e99, "bee": 1}', "of ant in .* to be an integer"),
        ('{"ant": 99999999999999999999, "bee": 1}', "of ant in .* to be an integer"),
        ('{"ant": 0', "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ("[1, 2]", r"map folders to class indices \(JSON .*it is JSON of \[1, 2\]"),
        ("ant 0\nbee\n", "a line is 'bee'"),
        ("ant 0\nbee one\n", 'class index of bee in .* to be an integer, but got "one"'),
        ("ant 0\nbee 1\nant 2\n", "one class index for ant in .*, but got 0 and 2"),
        ("wasp\nbee\n", r"folders to class indices \(JSON .*one folder a line\), but 'ant' is not in it"),
        ("", "'ant' is not in it"),
        ("\0\1\2\3", "'ant' is not in it"),
    ],
)
def test_a_map_that_cannot_be_used(tmp_path, content, told):
    (tmp_path / "map").write_text(content)
    with pytest.raises(InputError, match=told) as caught:
        read_class_map(tmp_path / "map", ["ant", "bee"])
    assert "\n" not in str(caught.value)


# ImageNet's own numbering

SOME = ("n01440764", "n02102040", "n03888257")
INDICES = [0, 217, 701]  # tench, English springer, parachute


class Levels(nn.Module):
    """Answer as an image's level says: the class of that number in a list."""

    def __init__(self, answers, classes):
        super().__init__()
        self.register_buffer("answers", torch.tensor(answers))
        self.classes = classes

    def forward(self, images):
        places = (images[:, 0, 0, 0] * 255).round().long().clamp(max=len(self.answers) - 1)
        return 2.0 * nn.functional.one_hot(self.answers[places], self.classes)


def answering(answers, classes):
    return PixelModel(Levels(answers, classes), Preprocessing((0, 0, 0), (1, 1, 1)))


def accuracy(model, data):
    found = measure(model, data, shifts=["clean"], examples=0, alexnet="none")
    return found.rows[0]["correct"] / found.rows[0]["images"]


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.filterwarnings("ignore:Clean accuracy is")
def test_a_subset_of_imagenet_has_imagenets_indices(tmp_path, kept):
    spec = class_folders(tmp_path, SOME)
    data = load_data(spec) if kept else spec
    with pytest.warns(UserWarning, match=r"3 class folders .* labels are ImageNet's, from 0 for n01440764\."):
        assert accuracy(answering(INDICES, 1000), data) == 1.0  # 0.0 where labels are 0, 1, 2 but for the first
    assert accuracy(answering([0, 1, 2], 3), data) == 1.0  # a model of these three classes, sorted
    if kept:
        assert (data.labels.tolist(), data.class_names) == ([0, 1, 2], SOME)  # as it was


@pytest.mark.filterwarnings("ignore:The 3 class folders")
def test_a_subset_of_imagenet_is_measured_among_its_classes(tmp_path):
    found = measure(answering(INDICES, 1000), class_folders(tmp_path, SOME), shifts="clean", task="subset")
    assert found.rows[0]["correct"] == 3
    assert list(found.record["task"]["options"]["classes"]) == INDICES


def test_a_stored_subset_of_imagenet_has_imagenets_indices(tmp_path):
    class_folders(tmp_path / "fog" / "3", SOME)
    with pytest.warns(UserWarning, match="labels are ImageNet's"):
        found = measure(answering(INDICES, 1000), f"imagenet-c:{tmp_path}", shifts=["fog"], severities=[3], examples=0)
    assert found.rows[0]["correct"] == 3


def test_what_is_recorded_of_a_subset(tmp_path):
    with pytest.warns(UserWarning, match="labels are ImageNet's"):
        _, data = load(answering(INDICES, 1000), class_folders(tmp_path, SOME), torch.device("cpu"), None)
    assert data.labels.tolist() == INDICES
    assert data.class_names == imagenet_classes()
    described = describe_data(data, data.labels)
    assert (described["classes"], described["class_order"]) == (1000, "imagenet")
    assert np.flatnonzero(described["class_counts"]).tolist() == INDICES
    assert fit_labels(data, 1000) is data
    check_labels(data, 1000)


def test_a_missing_class_shifts_no_other(tmp_path):
    names = [name for name in imagenet_classes() if name != "n01443537"]  # class 1
    for name in names:
        (tmp_path / name).mkdir()
    save(tmp_path / names[0] / "a.png", 0)
    save(tmp_path / names[-1] / "a.png", 1)
    data = load_data(f"folder:{tmp_path}")
    assert data.labels.tolist() == [0, 998]
    with pytest.warns(UserWarning, match="The 999 class folders"):
        assert fit_labels(data, 1000).labels.tolist() == [0, 999]
    (tmp_path / "n01443537").mkdir()
    whole = load_data(f"folder:{tmp_path}")
    assert fit_labels(whole, 1000) is whole
    assert whole.labels.tolist() == [0, 999]


@pytest.mark.parametrize("names", [("n01440764", "n99999999"), ("ant", "n01440764"), ("n01440764", "n0144076")])
def test_other_folders_are_left_as_they_are(tmp_path, names):
    data = load_data(class_folders(tmp_path, names))
    assert fit_labels(data, 1000) is data


def test_a_map_comes_before_imagenets_numbering(tmp_path):
    (tmp_path / "map.txt").write_text("n01440764 3\nn02102040 2\nn03888257 1\n")
    data = load_data(class_folders(tmp_path / "tree", SOME), class_map=tmp_path / "map.txt")
    assert fit_labels(data, 1000).labels.tolist() == [3, 2, 1]
