"""ImageNet's other test sets: readers of the published layouts, masks, and what stands beside a figure."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import statshift
from statshift import InputError, load_data, read_run
from statshift._core.errors import ClassesWarning, DataWarning
from statshift.data.classes import imagenet_classes, read_synsets
from statshift.shifts.conditions import resolve
from statshift.shifts.stored import SetShift

IDS = imagenet_classes()
R, A = (read_synsets(f"imagenet_{letter}_synsets.txt") for letter in "ra")
LIKED = IDS.index("n01440764")
"""A class that neither R nor A has."""

IN_R = {IDS.index(name) for name in R}


def picture(index, side=32):
    """Return an image that says its class: red tells 50ths, green the rest."""
    return np.full((side, side, 3), [index // 50 * 10, index % 50 * 5, 77], np.uint8)


def put(root, folders, name="0.png", side=32):
    """Write an image into each class folder, of a mapping from folder to class."""
    for folder, index in folders.items():
        (root / folder).mkdir(parents=True)
        Image.fromarray(picture(index, side)).save(root / folder / name, compress_level=1)
    return root


def by_id(names):
    return {name: IDS.index(name) for name in names}


class Reader(nn.Module):
    """Answer the class that an image says, but where that is one of `confused`, above all a class of no set's."""

    def __init__(self, confused=(), classes=1000):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.confused, self.classes = torch.tensor(sorted(confused)), classes

    def forward(self, images):
        red, green = (images[:, k].mean((1, 2)) * torch.tensor(255.0) for k in (0, 1))
        said = (red / 10).round() * 50 + (green / 5).round()
        logits = -(torch.arange(1000.0) - said[:, None]).abs()
        logits[torch.isin(said.long(), self.confused), LIKED] = 5
        return logits[:, : self.classes] + self.bias


def network(confused=(), classes=1000):
    return statshift.load_model(Reader(confused, classes), mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """All of ImageNet's classes by id and by number, and the two sets of 200."""
    root = tmp_path_factory.mktemp("sets")
    put(root / "val", by_id(IDS))
    put(root / "v2", {str(index): index for index in range(1000)})
    np.savez(root / "clean.npz", images=np.stack([*map(picture, range(1000))]), labels=np.arange(1000))
    put(root / "r", by_id(R))
    put(root / "a", by_id(A))
    return root


def measured(shifts, data, model=None, **more):
    return statshift.measure(model or network(), data, shifts=shifts, device="cpu", examples=0, **more)


def accuracies(run):
    return {row["shift"]: row["correct"] / row["images"] for row in run.rows}


# Readers


@pytest.mark.parametrize(
    ("scheme", "tree", "classes"),
    [
        ("imagenet", "val", range(1000)),
        ("imagenet-sketch", "val", range(1000)),
        ("stylized-imagenet", "val", range(1000)),
        ("imagenet-v2", "v2", range(1000)),
        ("imagenet-v2", "val", range(1000)),
        ("imagenet-r", "r", sorted(map(IDS.index, R))),
        ("imagenet-a", "a", sorted(map(IDS.index, A))),
    ],
)
def test_labels_are_imagenet_s_whatever_the_folders_order(trees, scheme, tree, classes):
    data = load_data(f"{scheme}:{trees / tree}")
    assert sorted(data.labels.tolist()) == list(classes)
    images, labels = data.tensors()
    assert torch.equal(Reader()(images).argmax(1), labels)
    assert data.class_names == IDS


def test_v2_as_a_plain_tree_in_the_order_of_text_would_be_wrong(trees):
    """ "10" stands before "2" in a list of text: the trap that the scheme is for."""
    names = sorted(map(str, range(1000)))
    assert sum(int(name) == place for place, name in enumerate(names)) == 12
    assert measured("clean", f"imagenet-v2:{trees / 'v2'}").rows[0]["correct"] == 1000


@pytest.mark.parametrize("scheme", ["imagenet-sketch", "imagenet-r", "imagenet-a"])
def test_a_missing_class_folder_is_named(tmp_path, scheme):
    names = {"imagenet-r": R, "imagenet-a": A}.get(scheme, IDS)
    put(tmp_path / "set", by_id(name for name in names if name != names[5]))
    (tmp_path / "set" / names[5]).mkdir()  # there, but empty
    with pytest.raises(InputError, match=rf"1 have no images, the first {names[5]} \(class {IDS.index(names[5])}\)"):
        load_data(f"{scheme}:{tmp_path / 'set'}")


def test_a_tree_of_some_classes_keeps_imagenet_s_labels(tmp_path):
    put(tmp_path / "some", by_id(IDS[500:503]))
    with pytest.warns(
        ClassesWarning, match=r"has 3 of ImageNet's 1,000 classes; the first that is missing is n01440764"
    ):
        data = load_data(f"imagenet:{tmp_path / 'some'}")
    assert data.labels.tolist() == [500, 501, 502]


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (
            {"tench": 0, "goldfish": 1},
            "to be named WordNet ids such as n01440764, but got 'goldfish': give `class_map`",
        ),
        ({"n00000001": 0, "n01440764": 0}, "n00000001 is none of them: give `class_map`"),
        ({"n01440764": 0}, "n01440764 is none of them: is it another set"),
    ],
)
def test_folders_of_other_names_are_refused(tmp_path, folders, told):
    put(tmp_path / "set", folders)
    with pytest.raises(InputError, match=told):
        load_data(f"imagenet-r:{tmp_path / 'set'}")


def test_the_classes_of_another_set_are_refused(trees):
    with pytest.raises(InputError, match=r"Expected the 200 classes of ImageNet-A in .*is none of them"):
        load_data(f"imagenet-a:{trees / 'r'}")


def test_numbers_of_v2_that_are_none_are_refused(tmp_path):
    put(tmp_path / "set", {"1000": 0, "1": 1})
    with pytest.raises(InputError, match="to be named 0 to 999, but got '1000'"):
        load_data(f"imagenet-v2:{tmp_path / 'set'}")


def test_a_class_map_is_the_way_out_of_names(tmp_path):
    put(tmp_path / "set", {"goldfish": 1, "tench": 0})
    (tmp_path / "map.json").write_text(json.dumps({"tench": 0, "goldfish": 1}))
    data = load_data(f"imagenet-r:{tmp_path / 'set'}", class_map=tmp_path / "map.json")
    assert data.labels.tolist() == [1, 0]


@pytest.mark.parametrize("scheme", ["imagenet-r", "objectnet", "imagenet-instagram", "imagenet-c-bar"])
def test_a_missing_folder_is_told(tmp_path, scheme):
    with pytest.raises(InputError, match=r"Expected a folder, but '.*none' is not one"):
        resolve_and_read(f"{scheme}:{tmp_path / 'none'}")


def resolve_and_read(spec):
    (shift,) = resolve(spec)
    shift.data(0, load_data)


def test_an_unknown_set_and_a_set_without_a_folder_are_refused():
    with pytest.raises(InputError, match=r"Unknown shift 'imagenet-x:DIR'\. Did you mean 'imagenet-[ar]"):
        resolve("imagenet-x:DIR")
    with pytest.raises(InputError, match="Expected the folder of imagenet-r, as imagenet-r:DIR, but got 'imagenet-r'"):
        resolve("imagenet-r")


# Masks, and what stands beside


def test_r_is_scored_among_its_classes_beside_the_clean_images_of_these(trees, tmp_path):
    """A network that likes a class which R lacks is right among R's classes, and wrong among all."""
    shifts = ["clean", f"imagenet-r:{trees / 'r'}"]
    run = measured(shifts, f"npz:{trees / 'clean.npz'}", network(IN_R), out=tmp_path / "run")
    assert accuracies(run) == {"clean": 0.8, "imagenet-r": 1, "clean of imagenet-r": 1}
    assert [row["images"] for row in run.rows] == [1000, 200, 200]
    sets = read_run(tmp_path / "run").record["sets"]
    assert {name: (told["classes"], told["masked"], told.get("beside")) for name, told in sets.items()} == {
        "imagenet-r": (200, True, "clean of imagenet-r"),
        "clean of imagenet-r": (200, True, None),
    }
    assert run.record["families"] == {"clean": "clean", "imagenet-r": "natural", "clean of imagenet-r": "natural"}
    assert run.record["titles"] == {
        "imagenet-r": "ImageNet-R (among its 200 classes)",
        "clean of imagenet-r": "clean, the 200 classes of imagenet-r",
    }

    full = measured(shifts, f"npz:{trees / 'clean.npz'}", network(IN_R), full_argmax=True)
    assert accuracies(full) == {"clean": 0.8, "imagenet-r": 0, "clean of imagenet-r": 0}
    assert not full.record["sets"]["imagenet-r"]["masked"]
    assert full.record["asked"]["full_argmax"] is True


def test_a_mask_goes_with_part_of_the_images(trees):
    run = measured(
        ["clean", f"imagenet-a:{trees / 'a'}"],
        f"npz:{trees / 'clean.npz'}",
        network(map(IDS.index, A)),
        data_options={"limit": 150},
    )
    rows = {row["shift"]: row for row in run.rows}
    assert (rows["imagenet-a"]["images"], rows["imagenet-a"]["correct"]) == (150, 150)
    there = rows["clean of imagenet-a"]
    assert 0 < there["correct"] == there["images"] < 150


def test_whole_sets_have_no_mask_and_nothing_beside(trees):
    run = measured(["clean", f"imagenet-v2:{trees / 'v2'}"], f"npz:{trees / 'clean.npz'}", network(IN_R))
    assert accuracies(run) == {"clean": 0.8, "imagenet-v2": 0.8}
    told = run.record["sets"]["imagenet-v2"]
    assert (told["classes"], told["masked"], "beside" in told) == (1000, False, False)


def test_a_row_without_sets_is_as_it_was(trees):
    """The rows of the run's own images do not know whether sets stand beside them."""
    alone = measured("clean", f"npz:{trees / 'clean.npz'}")
    beside = measured(["clean", f"imagenet-r:{trees / 'r'}"], f"npz:{trees / 'clean.npz'}")
    assert alone.rows == beside.rows[:1]
    gone = {"shifts", "families", "asked", "environment", "sets", "titles", "own_severities"}
    one, other = ({k: v for k, v in run.record.items() if k not in gone} for run in (alone, beside))
    assert one == other
    assert not {"sets", "titles", "own_severities", "full_argmax"} & (
        alone.record.keys() | alone.record["asked"].keys()
    )


def test_two_of_one_set_need_names(trees):
    spec = f"imagenet-v2:{trees / 'v2'}"
    with pytest.raises(
        InputError, match=r"Expected one set called imagenet-v2, .*: give one a name, as NAME=imagenet-v2:"
    ):
        resolve([spec, f"imagenet-v2:{trees / 'val'}"])
    assert [one.name for one in resolve([f"matched={spec}", f"top=imagenet-v2:{trees / 'val'}", spec])] == [
        "matched",
        "top",
        "imagenet-v2",
    ]
    assert accuracies(measured([f"matched={spec}"], f"npz:{trees / 'clean.npz'}")) == {"matched": 1}


def test_a_class_that_the_model_lacks_is_told(trees):
    with pytest.raises(InputError, match=r"labels|classes"):
        measured(["clean", f"imagenet-r:{trees / 'r'}"], f"npz:{trees / 'clean.npz'}", network(classes=900))


def test_a_set_of_one_class_is_refused(trees, tmp_path):
    put(tmp_path / "one", by_id(IDS[7:8]))
    with (
        pytest.warns(ClassesWarning),
        pytest.raises(InputError, match=r"at least two classes in .*, but it has .* one: 7"),
    ):
        measured(["clean", f"imagenet:{tmp_path / 'one'}"], f"npz:{trees / 'clean.npz'}")


def test_clean_images_of_none_of_the_classes_are_refused(trees, tmp_path):
    put(tmp_path / "others", by_id([name for name in IDS if name not in R][:3]))
    with (
        pytest.warns(ClassesWarning),
        pytest.raises(InputError, match="Expected clean images of the classes of imagenet-r"),
    ):
        measured(["clean", f"imagenet-r:{trees / 'r'}"], f"imagenet:{tmp_path / 'others'}")


def test_a_set_of_one_s_own_is_scored_as_before(trees):
    own = SetShift("own", f"imagenet-r:{trees / 'r'}")
    assert accuracies(measured(["clean", own], f"npz:{trees / 'clean.npz'}", network(IN_R)))["own"] == 0


@pytest.fixture(scope="module")
def stored(trees):
    """ImageNet-C's layout: clean images as they are, and fog that says other classes than those of its folders."""
    root = trees / "imagenet-c"
    (root / "fog").mkdir(parents=True)
    (root / "clean").symlink_to(trees / "val", target_is_directory=True)
    shutil.copytree(trees / "val", root / "fog" / "1")
    for name in IDS:
        shutil.copy(trees / "val" / IDS[0] / "0.png", root / "fog" / "1" / name)
    return root


@pytest.mark.parametrize("shifts", [["clean", "fog"], ["fog", "clean"], ["fog"], []])
def test_beside_a_set_stand_clean_images_where_the_data_store_shifts(trees, stored, shifts):
    """Never those of the shift that stands first, which are all of class 0 here."""
    run = measured([*shifts, f"imagenet-r:{trees / 'r'}"], f"imagenet-c:{stored}", severities=[1])
    expected = {"clean": 1, "fog": 0.001, "imagenet-r": 1, "clean of imagenet-r": 1}
    assert accuracies(run) == {name: expected[name] for name in [*shifts, "imagenet-r", "clean of imagenet-r"]}


def test_a_set_beside_data_without_clean_images_is_refused(trees, stored, tmp_path):
    (tmp_path / "fog").symlink_to(stored / "fog", target_is_directory=True)
    with pytest.raises(InputError, match=r"clean images to set beside imagenet-r, .*: add a folder `clean`, or leave"):
        measured(["fog", f"imagenet-r:{trees / 'r'}"], f"imagenet-c:{tmp_path}", severities=[1])
    whole = measured(["fog", f"imagenet-v2:{trees / 'v2'}"], f"imagenet-c:{tmp_path}", severities=[1])
    assert accuracies(whole) == {"fog": 0.001, "imagenet-v2": 1}


def test_r_as_data_is_scored_among_its_classes(trees):
    """A network that is wrong among all on a quarter of R is right among R's classes."""
    data, some = f"imagenet-r:{trees / 'r'}", sorted(IN_R)[:50]
    run = measured(["clean", f"imagenet-v2:{trees / 'v2'}"], data, network(some))
    assert accuracies(run) == {"clean": 1, "imagenet-v2": 0.95}  # V2 among its 1,000
    assert run.record["task"]["name"] == "subset"
    assert accuracies(measured("clean", data, network(some), full_argmax=True)) == {"clean": 0.75}
    assert accuracies(measured("clean", data, network(some), task="classification")) == {"clean": 0.75}


def test_the_set_that_is_too_small_to_adapt_on_is_named(trees):
    with pytest.raises(InputError, match=r"Of clean of imagenet-r, npz:.*: Expected at most \d+ samples of the \d+ im"):
        measured(
            ["clean", f"imagenet-r:{trees / 'r'}"],
            f"npz:{trees / 'clean.npz'}",
            nn.Sequential(nn.BatchNorm2d(3), Reader()),
            data_options={"limit": 100},
            rectify="replace",
        )


def test_runs_of_two_conventions_are_not_compared(trees):
    asked = ["clean", f"imagenet-r:{trees / 'r'}"], f"npz:{trees / 'clean.npz'}"
    masked, full = (
        measured(*asked, out=trees / f"run-{convention}", full_argmax=convention) for convention in (False, True)
    )
    with pytest.raises(InputError, match=r"`asked\.full_argmax` is False in the first and True in the second"):
        statshift.compare(masked.path, full.path)


# ObjectNet, Instagram, C-bar

OBJECTS = {
    "alarm_clock": "Alarm clock",
    "banana": "Banana",
    "bath_towel": "Bath towel",
    "air_freshener": "Air freshener",
}
SHARED = {"Alarm clock": "analog clock; digital clock", "Banana": "banana", "Bath towel": "bath towel"}
ANALOG, DIGITAL, BANANA, TOWEL = CLOCKS = 409, 530, 954, 434


@pytest.fixture
def objects(tmp_path):
    """Four folders, of which one is none of ImageNet's; images with a red border."""
    root = tmp_path / "objectnet-1.0"
    for folder, said in {"alarm_clock": DIGITAL, "banana": BANANA, "bath_towel": TOWEL, "air_freshener": 3}.items():
        (root / "images" / folder).mkdir(parents=True)
        framed = np.zeros((34, 34, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
        framed[1:-1, 1:-1] = picture(said)
        Image.fromarray(framed).save(root / "images" / folder / "0.png")
    (root / "mappings").mkdir()
    (root / "mappings" / "folder_to_objectnet_label.json").write_text(json.dumps(OBJECTS))
    (root / "mappings" / "objectnet_to_imagenet_1k.json").write_text(json.dumps(SHARED))
    return root


def test_objectnet_is_its_shared_classes_within_the_border(objects):
    data = load_data(f"objectnet:{objects}")
    images, labels = data.tensors()
    assert labels.tolist() == [ANALOG, BANANA, TOWEL]
    assert torch.equal((images * 255).byte()[1].permute(1, 2, 0), torch.from_numpy(picture(BANANA)))
    assert data.source.groups == ((ANALOG, DIGITAL), (TOWEL,), (BANANA,))


def test_any_of_an_object_s_classes_is_right(trees, objects):
    """The clock says "digital", whose object's label is the analog one; among all, another takes them."""
    shifts = ["clean", f"objectnet:{objects}"]
    run = measured(shifts, f"npz:{trees / 'clean.npz'}", network(CLOCKS))
    assert accuracies(run) == {"clean": 0.996, "objectnet": 1, "clean of objectnet": 1}
    assert [row["images"] for row in run.rows] == [1000, 3, 4]  # clean: both clocks
    assert run.record["sets"]["objectnet"]["classes"] == 3
    full = measured(shifts, f"npz:{trees / 'clean.npz'}", full_argmax=True)
    assert accuracies(full) == {"clean": 1, "objectnet": 1, "clean of objectnet": 1}
    liked = measured(shifts, f"npz:{trees / 'clean.npz'}", network(CLOCKS), full_argmax=True)
    assert accuracies(liked)["objectnet"] == 0


def test_objectnet_as_data_says_that_it_is_a_shift(objects):
    with pytest.warns(ClassesWarning, match="of which the first alone counts as right: measure it as a shift"):
        measured("clean", f"objectnet:{objects}")


def test_a_class_of_objectnet_without_images_is_named(objects):
    shutil.rmtree(objects / "images" / "banana")
    with pytest.raises(InputError, match=r"Expected the 3 classes .*, but banana is empty"):
        load_data(f"objectnet:{objects}")
    (objects / "mappings" / "objectnet_to_imagenet_1k.json").write_text(json.dumps(SHARED | {"Banana": "bananna"}))
    with pytest.raises(InputError, match=r"but .* has 'bananna'"):
        load_data(f"objectnet:{objects}")


def test_objectnet_s_own_folder_is_asked_for(objects):
    with pytest.raises(InputError, match=r"there is no `mappings`: name the folder that its archive unpacks to"):
        load_data(f"objectnet:{objects / 'images'}")


def test_each_filter_of_instagram_is_a_condition(trees, tmp_path):
    root = tmp_path / "instagram"
    root.mkdir()
    for name in ("1977", "Toaster"):  # each with all classes
        (root / name).symlink_to(trees / "val", target_is_directory=True)
    with pytest.warns(DataWarning, match="holds 2 folders of filters, where ImageNet-Instagram has 20"):
        run = measured(["clean", f"imagenet-instagram:{root}"], f"npz:{trees / 'clean.npz'}")
    assert accuracies(run) == {"clean": 1, "instagram/1977": 1, "instagram/Toaster": 1}
    assert run.record["families"]["instagram/1977"] == "filter"
    assert not run.record["sets"]["instagram/1977"]["masked"]
    with pytest.warns(DataWarning):
        assert len(load_data(f"imagenet-instagram:{root}")) == 2000
    assert len(load_data(f"imagenet-instagram:{root / 'Toaster'}")) == 1000


def test_c_bar_is_read_in_the_layout_of_imagenet_c(trees, tmp_path):
    root = tmp_path / "c-bar"
    for severity in (1, 3):
        (root / "sparkles").mkdir(parents=True, exist_ok=True)
        (root / "sparkles" / str(severity)).symlink_to(trees / "val", target_is_directory=True)
    data = load_data(f"imagenet-c-bar:{root}", shift=("sparkles", 3))
    assert data.labels.tolist() == list(range(1000))
    run = measured(["clean", f"imagenet-c-bar:{root}"], f"npz:{trees / 'clean.npz'}", severities=[3])
    assert [(row["shift"], row["severity"], row["correct"]) for row in run.rows] == [
        ("clean", 0, 1000),
        ("imagenet-c-bar/sparkles", 3, 1000),
    ]
    assert run.record["families"]["imagenet-c-bar/sparkles"] == "c-bar"


def test_all_that_data_store_is_measured_where_none_of_it_is_of_the_15(trees, tmp_path):
    (tmp_path / "sparkles").mkdir()
    (tmp_path / "sparkles" / "2").symlink_to(trees / "val", target_is_directory=True)
    run = measured(None, f"imagenet-c-bar:{tmp_path}", severities=[2])
    assert accuracies(run) == {"sparkles": 1}
    (tmp_path / "clean").symlink_to(trees / "val", target_is_directory=True)
    assert accuracies(measured(None, f"imagenet-c-bar:{tmp_path}", severities=[2])) == {"clean": 1, "sparkles": 1}


# By the command


def test_the_command_measures_sets_and_its_report_asks_for_them_again(run, trees, tmp_path):
    (tmp_path / "own.py").write_text(
        "from test_natural import Reader\n\n\ndef build():\n    return Reader(range(50, 1000))\n"
    )
    out = tmp_path / "run"
    shifts = f"clean,imagenet-r:{trees / 'r'},matched=imagenet-v2:{trees / 'v2'}"
    words = ["--model", f"py:{tmp_path / 'own.py'}:build", "--mean", "0,0,0", "--std", "1,1,1", "--device", "cpu"]
    done = run(
        "measure", *words, "--data", f"npz:{trees / 'clean.npz'}", "--shifts", shifts, "--full-argmax", "--out", out
    )
    assert done.code == 0, done.err
    found = read_run(out)
    assert [row["shift"] for row in found.rows] == ["clean", "imagenet-r", "clean of imagenet-r", "matched"]
    assert found.rows[1]["correct"] == sum(IDS.index(name) < 50 for name in R)
    done = run("report", out, "--format", "markdown")
    assert done.code == 0, done.err
    assert "ImageNet-R (200 classes among all)" in done.out
    assert "clean, the 200 classes of imagenet-r" in done.out

    from statshift.report.commands import _shifts

    assert _shifts(found.record) == ["--shifts", shifts]
