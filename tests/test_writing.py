"""Corrupted data on disk: both layouts, going on after a stop, refusals, and the contact sheet."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from statshift import corrupt, load_data
from statshift._core.errors import InputError
from statshift.data import stored_shifts
from statshift.making.corrupted import contact_sheet, write_corrupted
from statshift.shifts.conditions import Condition, CorruptionOptions, conditions, resolve
from statshift.shifts.corruptions import COMMON

ALL = (1, 2, 3, 4, 5)
SHIFTS = ["clean", "gaussian_noise", "pixelate"]
OPTIONS = CorruptionOptions(seed=6)

pytestmark = pytest.mark.filterwarnings("ignore:No frost photographs")


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=20)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """Images of 32x40 px with labels 3, 12, 3 and 7, and no names for the classes."""
    path = tmp_path_factory.mktemp("sparse") / "sparse.npz"
    generator = np.random.default_rng(0)
    np.savez(path, images=generator.integers(0, 256, (4, 32, 40, 3), np.uint8), labels=[3, 12, 3, 7])
    return load_data(f"npz:{path}")


def write(data, out, shifts=SHIFTS, severities=ALL, *, layout="arrays", options=OPTIONS, **rest):
    wanted = conditions(resolve(shifts), severities)
    write_corrupted(data, wanted, out, layout=layout, options=options, device=torch.device("cpu"), **rest)


def expected(data, shift, severity, options=OPTIONS):
    """Return the corrupted images, uint8 (N,H,W,3)."""
    images = pixels_of(data) / 255
    if shift != "clean":
        images = corrupt(images, shift, severity, seed=options.seed, indices=torch.from_numpy(data.indices))
    return (images * 255).round().byte().permute(0, 2, 3, 1).numpy()


def pixels_of(data):
    return torch.cat([images for images, _ in data.batches(64)]).float()


def files_of(folder):
    """Return the contents of all files but the record, by path."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "record.json"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


# The two layouts


def test_arrays_hold_five_severities_one_after_the_other(digits, tmp_path):
    write(digits, tmp_path / "new" / "digits-c")
    folder = tmp_path / "new" / "digits-c"
    assert {path.stem for path in folder.glob("*.npy")} == {"clean", "gaussian_noise", "labels", "pixelate"}
    assert np.array_equal(np.load(folder / "labels.npy"), np.tile(digits.labels, 5))
    assert np.array_equal(np.load(folder / "clean.npy"), expected(digits, "clean", 0))
    for name in SHIFTS[1:]:
        images = np.load(folder / f"{name}.npy")
        assert (images.dtype, images.shape) == (np.uint8, (100, 32, 32, 3))
        assert np.array_equal(images, np.concatenate([expected(digits, name, severity) for severity in ALL]))


def test_arrays_are_read_back(digits, tmp_path):
    write(digits, tmp_path)
    spec = f"cifar-c:{tmp_path}"
    assert stored_shifts(spec) == {"gaussian_noise": [*ALL], "pixelate": [*ALL]}
    for shift in (None, ("gaussian_noise", 1), ("pixelate", 4)):
        data = load_data(spec, shift=shift)
        assert np.array_equal(data.labels, digits.labels)
        images = pixels_of(data).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(images, expected(digits, *(shift or ("clean", 0))))


def test_clean_images_alone_are_read_back(digits, tmp_path):
    write(digits, tmp_path, ["clean"])
    assert np.array_equal(load_data(f"cifar-c:{tmp_path}").labels, digits.labels)


def test_the_tree_holds_jpegs_by_severity_and_class(digits, tmp_path):
    write(digits, tmp_path / "tree", severities=(2, 5), layout="jpeg")
    names = {path.relative_to(tmp_path / "tree") for path in (tmp_path / "tree").rglob("*.JPEG")}
    assert names == {
        Path(place, digits.class_names[label], f"{index:08d}.JPEG")
        for place in ("clean", "gaussian_noise/2", "gaussian_noise/5", "pixelate/2", "pixelate/5")
        for index, label in zip(digits.indices, digits.labels, strict=True)
    }
    for place, condition in (("clean", ("clean", 0)), ("gaussian_noise/5", ("gaussian_noise", 5))):
        for index, label, image in zip(digits.indices, digits.labels, expected(digits, *condition), strict=True):
            Image.fromarray(image).save(tmp_path / "one.JPEG", quality=85)
            file = tmp_path / "tree" / place / digits.class_names[label] / f"{index:08d}.JPEG"
            with Image.open(file) as written, Image.open(tmp_path / "one.JPEG") as own:
                assert np.array_equal(np.array(written), np.array(own))


@pytest.mark.parametrize("limit", [20, 7])
def test_the_tree_is_read_back(tmp_path, limit):
    """In the order of classes, with the same labels, also where a class has no image."""
    data = load_data("digits", limit=limit)
    write(data, tmp_path, severities=(3,), layout="jpeg")
    assert stored_shifts(f"imagenet-c:{tmp_path}") == {"gaussian_noise": [3], "pixelate": [3]}
    order = np.argsort(data.labels, kind="stable")
    for shift in (None, ("pixelate", 3)):
        read = load_data(f"imagenet-c:{tmp_path}", shift=shift)
        assert read.labels.tolist() == data.labels[order].tolist()
        clean = expected(data, "clean", 0)[order].astype(int)
        assert np.abs(pixels_of(read).permute(0, 2, 3, 1).numpy() - clean).mean() < 12


def test_labels_without_names_survive(sparse, tmp_path):
    write(sparse, tmp_path, ["contrast"], (1,), layout="jpeg")
    assert load_data(f"imagenet-c:{tmp_path}", shift=("contrast", 1)).labels.tolist() == [3, 3, 7, 12]
    assert load_data(f"imagenet-c:{tmp_path}", shift=("contrast", 1)).shape == (3, 32, 40)


def test_options_reach_the_corruption(digits, tmp_path):
    write(digits, tmp_path / "a", ["shot_noise"], options=CorruptionOptions(seed=1))
    write(digits, tmp_path / "b", ["shot_noise"], options=CorruptionOptions(seed=1, table="imagenet"))
    images = [np.load(tmp_path / name / "shot_noise.npy") for name in "ab"]
    assert np.array_equal(images[0][:20], expected(digits, "shot_noise", 1, CorruptionOptions(seed=1)))
    assert not np.array_equal(*images)


@pytest.mark.parametrize("layout", ["arrays", "jpeg"])
def test_progress_counts_images(digits, tmp_path, layout):
    seen = []
    write(digits, tmp_path, layout=layout, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(20 * (number + 1), 220) for number in range(11)]


# Going on


class StoppedError(Exception):
    pass


def stop_at(limit):
    def progress(done, total):
        if done >= limit:
            raise StoppedError

    return progress


@pytest.mark.parametrize("layout", ["arrays", "jpeg"])
def test_what_was_finished_is_not_made_again(digits, tmp_path, layout):
    write(digits, tmp_path / "whole", layout=layout)
    with pytest.raises(StoppedError):
        write(digits, tmp_path / "parts", layout=layout, progress=stop_at(160))
    kept = files_of(tmp_path / "parts")
    assert not [path for path in (tmp_path / "parts").rglob("*") if "partial" in path.name]
    assert 0 < len(kept) < len(files_of(tmp_path / "whole"))
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").rglob("*noise*") if path.is_file()}
    seen = []
    write(digits, tmp_path / "parts", layout=layout, progress=lambda done, total: seen.append(done))
    assert len(seen) < 11
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    seen.clear()
    write(digits, tmp_path / "parts", layout=layout, progress=lambda done, total: seen.append(done))
    assert not seen


@pytest.mark.parametrize(
    ("layout", "leftover"), [("arrays", ".pixelate.npy.partial"), ("jpeg", "pixelate/.2.partial/5/1.JPEG")]
)
def test_a_partial_of_a_killed_process_is_replaced(digits, tmp_path, layout, leftover):
    write(digits, tmp_path / "whole", layout=layout)
    write(digits, tmp_path / "killed", ["clean"], layout=layout)
    (tmp_path / "killed" / leftover).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "killed" / leftover).write_bytes(b"half of it")
    write(digits, tmp_path / "killed", layout=layout)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("layout", ["arrays", "jpeg"])
@pytest.mark.parametrize("other", ["seed", "data"])
def test_a_folder_never_mixes_two_data_sets(digits, sparse, tmp_path, layout, other):
    """Whatever is done about it, what was finished keeps its labels, and nothing passes for what it is not."""
    write(digits, tmp_path, ["gaussian_noise"], layout=layout)
    before = files_of(tmp_path)
    if other == "seed":
        again = partial(write, digits, options=CorruptionOptions(seed=7))
    else:
        again = partial(write, load_data("digits", limit=15))
    with pytest.raises(InputError, match=f"{tmp_path}"):
        again(tmp_path, ["gaussian_noise", "pixelate"], layout=layout)
    assert files_of(tmp_path) == before


# Refusals


@pytest.mark.parametrize("severities", [(1, 2), (5,)])
def test_arrays_need_all_severities(digits, tmp_path, severities):
    with pytest.raises(InputError, match="five severities, but gaussian_noise"):
        write(digits, tmp_path / "new", severities=severities)
    assert not files_of(tmp_path)


def test_labels_are_needed(tmp_path):
    np.savez(tmp_path / "bare.npz", images=np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"bare.npz has no labels"):
        write(load_data(f"npz:{tmp_path / 'bare.npz'}"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_there_are_two_layouts(digits, tmp_path):
    with pytest.raises(InputError, match=r"layout 'png'.*arrays, jpeg"):
        write(digits, tmp_path / "new", layout="png")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("layout", ["arrays", "jpeg"])
@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_written(digits, tmp_path, layout, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=f"{tmp_path / place}"):
        write(digits, tmp_path / place, layout=layout)
    assert (tmp_path / "file").read_text() == "mine"


# The contact sheet


@pytest.mark.parametrize("position", [0, 3])
def test_every_cell_of_the_sheet_is_a_corrupted_image(sparse, tmp_path, position):
    names = ["fog", "gaussian_noise", "zoom_blur"]
    contact_sheet(sparse, position, names, OPTIONS, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as file:
        assert (file.format, file.mode) == ("PNG", "RGB")
        sheet = np.array(file)
    for name in names:
        for severity in (0, *ALL):
            image = expected(sparse, name if severity else "clean", severity)[position]
            assert len(found(sheet, image.repeat(3, axis=0).repeat(3, axis=1))) >= 1
    places = [found(sheet, expected(sparse, name, 5)[position].repeat(3, 0).repeat(3, 1)) for name in names]
    rows, columns = np.concatenate(places).T
    assert (np.diff(rows) > 96).all()
    assert len(set(columns)) == 1
    clean = found(sheet, expected(sparse, "clean", 0)[position].repeat(3, 0).repeat(3, 1))
    assert clean[:, 0].tolist() == rows.tolist()
    assert (clean[:, 1] < columns).all()


def found(sheet, image):
    """Return the (row, column) of the corners at which the sheet shows the image."""
    height, width = image.shape[:2]
    corners = np.argwhere((sheet[: 1 - height, : 1 - width] == image[0, 0]).all(-1))
    return np.array([c for c in corners if np.array_equal(sheet[c[0] : c[0] + height, c[1] : c[1] + width], image)])


def test_the_sheet_has_room_for_all(digits, tmp_path):
    contact_sheet(digits, 1, COMMON, OPTIONS, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as file:
        sheet = np.array(file)
    last = expected(digits, "jpeg_compression", 5)[1].repeat(3, 0).repeat(3, 1)
    assert len(found(sheet, last)) == 1
    assert sheet.shape[0] > 15 * 96


@pytest.mark.parametrize("position", [-1, 20])
def test_the_image_is_one_of_them(digits, tmp_path, position):
    with pytest.raises(InputError, match=f"an image from 0 to 19, but got {position}"):
        contact_sheet(digits, position, ["fog"], OPTIONS, tmp_path / "sheet.png")
    assert not files_of(tmp_path)


def test_a_sheet_that_cannot_be_written(digits, tmp_path):
    with pytest.raises(InputError, match=r"Cannot write the contact sheet .*nowhere"):
        contact_sheet(digits, 0, ["contrast"], OPTIONS, tmp_path / "nowhere" / "sheet.png")


def test_conditions_name_themselves():
    assert [str(Condition("fog", 3)), str(Condition("clean", 0))] == ["fog 3", "clean"]
