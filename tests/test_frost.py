"""Where the frost photographs are looked for, what stands in for them, and how they are cropped."""

import hashlib
import math
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from statshift import InputError
from statshift._core.files import user_cache
from statshift._core.randomness import Draws
from statshift.shifts.corruptions import corrupt, frost_source
from statshift.shifts.corruptions.frost import FILES, _canvas, _warn_once, find_photographs, photographs

CPU = torch.device("cpu")
CHANCE = 1e-5  # at most this share of right implementations would fail each statistical test
SIZES = [(330, 420), (400, 315), (315, 315), (340, 500), (360, 380)]  # height, width of the photographs below


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No photographs anywhere, and nothing kept of other tests."""
    monkeypatch.delenv("STATSHIFT_FROST", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)  # as if it were not installed
    for kept in (_canvas, _warn_once):
        kept.cache_clear()
    yield
    _canvas.cache_clear()


def photograph(number, sizes=SIZES):
    """Red and green tell the row and the column (two of them above 256 px), blue the number."""
    height, width = sizes[number]
    rows, columns = np.mgrid[:height, :width]
    place = rows // (1 + height // 256), columns // (1 + width // 256), np.full((height, width), 50 * number)
    return np.stack(place, axis=-1).astype(np.uint8)


def store(folder, files=FILES, sizes=SIZES, rough=False):
    """Write photographs that are told apart by their blue, or of noise; lossless whatever the suffix says."""
    folder.mkdir(parents=True)
    for number, name in enumerate(FILES):
        if name in files:
            noise = np.random.default_rng(number).integers(0, 256, (*sizes[number], 3), dtype=np.uint8)
            Image.fromarray(noise if rough else photograph(number, sizes)).save(folder / name, "PNG")
    return folder


def install_package(folder, monkeypatch):
    """An `imagecorruptions` on the path whose import fails, as the real one's does."""
    package = folder / "imagecorruptions"
    store(package / "frost")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.delitem(sys.modules, "imagecorruptions")
    monkeypatch.syspath_prepend(str(folder))
    return package / "frost"


# --------------------------------------------------------------------------------------------- the search


def test_places_are_searched_in_order(tmp_path, monkeypatch):
    """Each place added goes before those added earlier."""
    assert find_photographs() is None
    packaged = install_package(tmp_path / "site", monkeypatch)
    assert find_photographs() == packaged
    assert "imagecorruptions" not in sys.modules
    cached = store(user_cache("frost"))
    assert cached == tmp_path / "cache/statshift/frost"
    assert find_photographs() == cached
    named = store(tmp_path / "named")
    monkeypatch.setenv("STATSHIFT_FROST", str(named))
    assert find_photographs() == named
    given = store(tmp_path / "given")
    assert find_photographs(given) == find_photographs(str(given)) == given


@pytest.mark.parametrize("by", ["argument", "environment"])
@pytest.mark.parametrize("files", [(), FILES[:1], FILES[1:]])
def test_a_named_folder_must_hold_all_five(tmp_path, monkeypatch, by, files):
    """What lacks is named, in one line, though other places hold everything."""
    store(user_cache("frost"))
    folder = store(tmp_path / "half", files)
    if by == "environment":
        monkeypatch.setenv("STATSHIFT_FROST", str(folder))
    with pytest.raises(InputError) as caught:
        find_photographs(folder if by == "argument" else None)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert [name in message for name in FILES] == [name not in files for name in FILES]


def test_incomplete_places_nobody_named_are_passed_over(tmp_path, monkeypatch):
    store(user_cache("frost"), FILES[:4])
    packaged = install_package(tmp_path / "site", monkeypatch)
    assert find_photographs() == packaged
    (packaged / FILES[2]).unlink()
    assert find_photographs() is None


def test_the_source_is_the_hash_of_the_five_files(tmp_path):
    assert frost_source() == "procedural"
    folder = store(tmp_path / "one")
    expected = hashlib.sha256(b"".join((folder / name).read_bytes() for name in FILES)).hexdigest()
    assert frost_source(folder) == f"photographs {expected[:16]}"
    (folder / "frost6.jpg").write_bytes(b"never drawn")
    assert frost_source(folder) == f"photographs {expected[:16]}"
    (folder / FILES[0]).write_bytes((folder / FILES[1]).read_bytes())
    assert frost_source(folder) != f"photographs {expected[:16]}"


# ------------------------------------------------------------------------------------- the texture instead


def test_without_photographs_one_warning_is_given():
    """However many images and sizes; it names the remedies."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = [corrupt(torch.rand(2, 3, side, side), "frost", 5) for side in (32, 40, 32, 64)]
    assert len(made) == 4
    assert [issubclass(each.category, UserWarning) for each in caught] == [True]
    assert "statshift data frost" in str(caught[0].message)
    assert "STATSHIFT_FROST" in str(caught[0].message)


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_the_texture_may_be_asked_for(by, monkeypatch):
    """Then nothing is warned of, and photographs in other places are left alone."""
    store(user_cache("frost"))
    if by == "environment":
        monkeypatch.setenv("STATSHIFT_FROST", "procedural")
    asked = "procedural" if by == "argument" else None
    assert find_photographs(asked) is None
    assert frost_source(asked) == "procedural"
    assert corrupt(torch.zeros(1, 3, 32, 32), "frost", 5, frost=asked).max() > 0


def test_the_texture_is_always_the_same_and_like_the_photographs():
    """Colours of the benchmark's five photographs, to a hundredth; smooth, with neither flat areas nor frames."""
    texture = photographs(None, (224, 224), False, CPU)
    _canvas.cache_clear()
    assert torch.equal(texture.canvas, photographs(None, (224, 224), False, CPU).canvas)
    assert len(texture.canvas) == 5
    assert min(texture.sides) > (224, 224)
    assert min(width for _, width in texture.sides) > 224
    means = [[0.305, 0.585, 0.650], [0.787, 0.805, 0.841], [0.787, 0.805, 0.841], [0.540, 0.599, 0.648],
             [0.441, 0.484, 0.528]]  # fmt: skip
    deviations = [[0.106, 0.065, 0.060], [0.084, 0.087, 0.089], [0.084, 0.087, 0.089], [0.112, 0.112, 0.117],
                  [0.174, 0.170, 0.163]]  # fmt: skip
    canvas = texture.canvas.double() / 255
    np.testing.assert_allclose(canvas.mean(dim=(2, 3)), means, atol=0.01)
    np.testing.assert_allclose(canvas.std(dim=(2, 3)), deviations, atol=0.01)
    standardised = (canvas - canvas.mean(dim=(2, 3), keepdim=True)) / canvas.std(dim=(2, 3), keepdim=True)
    neighbours = (standardised[..., 1:] * standardised[..., :-1]).mean(dim=(2, 3))
    far = (standardised[..., 100:] * standardised[..., :-100]).mean(dim=(2, 3))
    assert neighbours.min() > 0.8
    assert far.max() < 0.6
    between = standardised[1, 0] * standardised[2, 0]
    assert between.mean() < 0.8  # two photographs of one colour are still two


# ------------------------------------------------------------------------------------------------ crops


def crops(folder, count, size, seed=0, table="imagenet"):
    """What is added to black images, in levels (B, H, W, 3); and its blue, red and green in the corner: the place."""
    weight = {"imagenet": 0.4, "cifar": 0.2}[table]
    black = torch.zeros(count, 3, *size)
    added = corrupt(black, "frost", 1, seed=seed, frost=folder, table=table, quantise=False)
    levels = (added * 255 / weight).permute(0, 2, 3, 1).double().numpy()
    assert np.abs(levels - levels.round()).max() < 1e-3
    return levels.round(), *np.rint(levels[:, 0, 0, [2, 0, 1]]).T.astype(int)


def test_all_five_are_drawn_alike_and_the_sixth_never(tmp_path):
    """Chi-square over 5000 crops."""
    folder = store(tmp_path / "six")
    Image.new("RGB", (500, 500), (0, 0, 255)).save(folder / "frost6.jpg")
    _, blues, _, _ = crops(folder, 5000, (32, 32))
    values, counts = np.unique(blues, return_counts=True)
    assert values.tolist() == [0, 50, 100, 150, 200]
    assert stats.chisquare(counts).pvalue > CHANCE


def test_crops_lie_evenly_over_the_photograph(tmp_path):
    """Tops are uniform on 0 to height - side - 1, lefts likewise, as NumPy's randint draws them.

    Chi-square over 4000 crops of photographs little larger than the images; rooms from 4 to 30 pixels.
    """
    size, sizes = (96, 90), [(100, 110), (106, 99), (110, 110), (102, 120), (118, 100)]
    folder = store(tmp_path / "frost", sizes=sizes)
    drawn = [crops(folder, 400, size, seed)[1:] for seed in range(10)]
    blues, *corners = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    for number, photo_size in enumerate(sizes):
        here = blues == 50 * number
        for axis in (0, 1):
            counts = np.bincount(corners[axis][here])
            assert len(counts) == photo_size[axis] - size[axis]
            assert stats.chisquare(counts).pvalue > CHANCE
        correlation = np.corrcoef(corners[0][here], corners[1][here])[0, 1]
        assert abs(correlation) < 4.5 / np.sqrt(here.sum())


@pytest.mark.parametrize(("size", "table"), [((224, 224), "imagenet"), ((100, 180), "imagenet"), ((32, 32), "cifar")])
def test_a_crop_is_a_window_of_the_photograph(tmp_path, size, table):
    """Every pixel; for CIFAR's table of the photograph at every fifth pixel."""
    windows, blues, _, _ = crops(store(tmp_path / "frost"), 12, size, table=table)
    places = set()
    for window, blue in zip(windows, blues, strict=True):
        photo = photograph(blue // 50)
        if table == "cifar":
            photo = photo[2::5, 2::5]
        every = np.lib.stride_tricks.sliding_window_view(photo, size, axis=(0, 1))
        likely = np.argwhere((every[..., 0, 0] == window[0, 0]).all(axis=-1))
        found = [place for place in likely if (np.moveaxis(every[tuple(place)], 0, -1) == window).all()]
        assert found
        places.add((blue, *found[0]))
    assert len(places) > 8


def test_the_fifth_is_bilinear_without_antialiasing(tmp_path):
    """Beside torch's own interpolation."""
    folder = tmp_path / "random"
    folder.mkdir()
    photos = np.random.default_rng(0).integers(0, 256, (5, 320, 350, 3), dtype=np.uint8)
    for name, photo in zip(FILES, photos, strict=True):
        Image.fromarray(photo).save(folder / name, "PNG")
    whole = torch.from_numpy(photos).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(whole, scale_factor=0.2, mode="bilinear")
    assert torch.equal(photographs(folder, (32, 32), True, CPU).canvas, small.round().byte())


def grown(number, size, scaled):
    """The height and width of a photograph as it is cropped for images of a size."""
    height, width = SIZES[number]
    need = max(size[0] / height, size[1] / width)
    if scaled:
        factor = max(max(size) / 224, (size[0] + 1) / height, (size[1] + 1) / width, 1)
        return round(height * factor), round(width * factor)
    fits = size[0] < height and size[1] < width
    return (height, width) if fits else (math.ceil(1.1 * need * height), math.ceil(1.1 * need * width))


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("size", [(315, 315), (448, 448), (600, 331), (260, 900), (64, 500)])
def test_a_crop_is_a_window_of_the_photograph_that_pillow_enlarges(tmp_path, size, scaled):
    """By side / 224, or more where one would not cover the image; unscaled only those that do not cover it."""
    folder = store(tmp_path / "frost", rough=True)
    black = torch.zeros(8, 3, *size)
    added = corrupt(black, "frost", 1, frost=folder, quantise=False, scale_constants=scaled)
    windows = (added * 255 / 0.4).permute(0, 2, 3, 1).double().numpy()
    assert np.abs(windows - windows.round()).max() < 1e-3
    draws = Draws(0, torch.arange(8), "frost/1")
    chosen, corners = draws.integers("photograph", low=0, high=5), draws.uniform("corner", 2)
    assert len(set(chosen.tolist())) > 2
    for window, number, corner in zip(windows.round(), chosen.tolist(), corners.numpy(), strict=True):
        height, width = grown(number, size, scaled)
        whole = Image.open(folder / FILES[number]).resize((width, height), Image.Resampling.BILINEAR)
        top, left = (int(place) for place in corner * np.float32([height - size[0], width - size[1]]))
        np.testing.assert_array_equal(window, np.asarray(whole)[top : top + size[0], left : left + size[1]])


def test_what_is_kept_of_photographs_does_not_grow_with_the_images(tmp_path):
    folder = store(tmp_path / "frost")
    large, small = (photographs(folder, size, False, CPU) for size in [(1024, 2048), (224, 224)])
    assert large.canvas is small.canvas
    assert large.canvas.shape == (5, 3, 400, 500)
    assert large.enlarged[3] == (round(340 * 2048 / 224), round(500 * 2048 / 224))
    assert small.enlarged == small.sides == tuple(SIZES)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("side", [32, 224])
def test_frost_is_the_weighted_sum_of_image_and_crop(tmp_path, severity, side):
    """A black and a grey image at one address: the first gives the crop, the second the image's weight."""
    folder = store(tmp_path / "frost")
    image_weight, frost_weight = IMAGE_AND_FROST[side][severity - 1]
    black, grey = (
        corrupt(torch.full((1, 3, side, side), level), "frost", severity, frost=folder, quantise=False)
        for level in (0.0, 0.2)
    )
    crop = black / frost_weight * 255
    assert crop.max() > 10
    assert (crop - crop.round()).abs().max() < 1e-3
    torch.testing.assert_close(grey, black + 0.2 * image_weight)


IMAGE_AND_FROST = {
    224: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
}
