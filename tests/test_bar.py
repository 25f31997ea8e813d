"""C-bar beside its NumPy writing, given the same draws, and both beside the statistics of the authors' code."""

import csv
import io
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import reference_bar as reference
from drawn_fields import levels, natural, record, tensor
from statshift import CORRUPTIONS, InputError, corrupt
from statshift.report.cautions import missing
from statshift.shifts.bar.constants import BAR_LEVELS, bar_constants
from statshift.shifts.bar.covers import _line_pixels
from statshift.shifts.conditions import resolve
from statshift.shifts.corruptions import corruption
from statshift.shifts.registry import C_BAR, GROUPS, SHIFTS, averaged

SIZES = [(32, 32), (97, 97), (33, 47), (64, 50)]
SHARED_NAMES = ("blue_noise_sample", "checkerboard_cutout", "brownish_noise", "inverse_sparkles", "sparkles")
SETS = {"imagenet": "imagenet", "cifar10": "cifar"}


@pytest.fixture
def fields(monkeypatch):
    return record(monkeypatch)


@pytest.fixture(scope="module")
def photographs(shared):
    """The images that the statistics are of, uint8: 4 centre crops of 224 px, and 24 of CIFAR-10."""
    with np.load(shared / "data/imagenet_sample_500.npz") as stored:
        ends = stored["offsets"]
        files = [stored["jpeg"][ends[place] : ends[place + 1]].tobytes() for place in (0, 125, 250, 375)]
    crops = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))[16:240, 16:240] for file in files]
    small = np.load(shared / "data/cifar10_test_1000.npz")["images"][:24]
    return {"imagenet": np.stack(crops), "cifar10": small}


@pytest.fixture(scope="module")
def figures(shared):
    """By set, name and severity: mean change, mean absolute change, deviation of the change."""
    lines = [line for line in (shared / "reference/cbar.csv").read_text().splitlines() if not line.startswith("#")]
    columns = ("mean_change", "mean_absolute_change", "deviation_of_change")
    return {
        (row["set"], row["corruption"], int(row["severity"])): np.array([float(row[column]) for column in columns])
        for row in csv.DictReader(lines)
    }


CASES = [
    pytest.param(name, kind, severity, marks=[] if severity == 3 else pytest.mark.slow)
    for name, kind in [(name, kind) for kind, table in SETS.items() for name in BAR_LEVELS[table]]
    for severity in (1, 3, 5)
]


# ------------------------------------------------------------------------------------------------ statistics


@pytest.mark.parametrize(("name", "kind", "severity"), CASES)
def test_the_numpy_writing_is_the_authors(name, kind, severity, photographs, figures):
    """By the same legacy generator it changes the same images by the same figures, to their last place."""
    level, rng = BAR_LEVELS[SETS[kind]][name][severity - 1], np.random.RandomState(0)
    images = photographs[kind]
    corrupted = np.stack([reference.as_authors(name, image, level, rng) for image in images])
    change = corrupted / 255 - images / 255
    found = [change.mean(), np.abs(change).mean(), change.std()]
    np.testing.assert_allclose(found, figures[kind, name, severity], atol=1e-4)


@pytest.mark.parametrize(("name", "kind", "severity"), CASES)
def test_the_authors_figures_lie_among_those_of_twenty_seeds(name, kind, severity, photographs, figures):
    images = tensor(photographs[kind] / 255)
    seeds = range(1 if name == "circular_motion_blur" else 20)
    changes = [(corrupt(images, name, severity, seed=seed) - images).double() for seed in seeds]
    found = np.array([[change.abs().mean(), change.std(correction=0)] for change in changes])
    expected = figures[kind, name, severity][1:]
    if len(seeds) == 1:
        np.testing.assert_allclose(found[0], expected, rtol=0.005)
    assert (0.9 * found.min(0) <= expected).all()
    assert (expected <= 1.1 * found.max(0)).all()


@pytest.mark.parametrize("name", [name for name in C_BAR if name != "circular_motion_blur"])
def test_what_is_drawn_follows_the_authors_laws(name):
    """Mean change, mean absolute change and mean square over 80 images: paired, within 4.5 standard errors of 0."""
    images, rng = natural(80, 32, 32), np.random.RandomState(1)
    level = bar_constants(name, 3, 32, "cifar")["level"]
    theirs = np.stack([reference.as_authors(name, np.rint(255 * image), level, rng) for image in images])
    ours = levels(corrupt(tensor(images), name, 3))
    changes = [changed - 255 * images for changed in (ours, theirs)]
    for statistic in (np.asarray, np.abs, np.square):
        difference = np.subtract(*(statistic(change).mean(axis=(1, 2, 3)) for change in changes))
        assert abs(difference.mean()) < 4.5 * difference.std(ddof=1) / math.sqrt(len(images)) + 0.01


# ---------------------------------------------------------------------------- pixels, from the very fields drawn


def phases_of(fields, size):
    """The plane of phases from the half that is drawn: the other half mirrors it about the centre."""
    half = fields["phases"]
    centre = np.zeros((len(half), size[0] * size[1] % 2))
    return {"phases": np.concatenate([half, centre, half[:, ::-1]], axis=1).reshape(-1, *size)}


def frequencies_of(fields, size):
    larger, smaller = fields["larger"], fields["smaller"] * abs(fields["larger"])
    across, down = (smaller, larger) if fields["order"] < 0.5 else (larger, smaller)
    return {"across": across, "down": down, "phase": fields["phase"]}


def gradients_of(fields, size):
    gradients = np.moveaxis(fields["gradients"], 0, -1)
    gradients = gradients / np.linalg.norm(gradients, axis=-1, keepdims=True)
    return {"gradient": lambda row, column: gradients[row, column]}


def points_of(fields, size, level):
    radius = 0.01 * level * min(size)
    counts = fields["rays"].astype(int)
    lengths = [radius * (1 + normal[:count] / 4) for normal, count in zip(fields["lengths"], counts, strict=True)]
    return {"centres": fields["centres"] * size, "lengths": lengths}


def point_of(fields, size):
    lengths = min(size) / 4 * (1 + fields["lengths"][: int(fields["rays"])] / 4)
    return {"centre": fields["centre"] * size, "lengths": lengths}


def board_of(fields, size, level):
    chosen, reach = fields["squares"] < level / 10, len(fields["squares"]) // 2
    return {
        "angle": fields["angle"],
        "scale": fields["scale"] * min(size),
        "chosen": lambda down, across: chosen[down + reach, across + reach],
    }


def lines_of(fields, size):
    angles = fields["angle"] + 2 * math.pi * fields["spread"] * (fields["turns"] - 0.5)
    return {"middles": fields["middles"] * size, "angles": angles}


def factors_of(fields, size, level):
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    factors = np.empty(3)
    factors[[*orders[int(fields["order"])]]] = 1 + 0.025 * level * np.arange(3)
    return {"factors": factors}


def numbers(name, fields, size, level):
    """What the NumPy writing of a corruption takes, of what the library drew."""
    side, same = min(size), {key: fields[key] for key in fields}
    if name in ("blue_noise_sample", "brownish_noise"):
        return phases_of(fields, size)
    if name == "caustic_refraction":
        return {"time": same["time"], "size": same["size"] * side}
    if name == "plasma_noise":
        return same | {"scale": same["scale"] * side, "iterations": int(same["iterations"])}
    if name == "ripple":
        return {"wavelengths": same["wavelengths"] * side, "phases": same["phases"]}
    if name == "pinch_and_twirl":
        return {"ways": np.where(same["ways"] < 0.5, -1, 1)}
    if name in ("sparkles", "checkerboard_cutout", "transverse_chromatic_abberation"):
        return {
            "sparkles": points_of,
            "checkerboard_cutout": board_of,
            "transverse_chromatic_abberation": factors_of,
        }[name](fields, size, level)
    of = {
        "single_frequency_greyscale": frequencies_of,
        "perlin_noise": gradients_of,
        "inverse_sparkles": point_of,
        "lines": lines_of,
    }
    return of[name](fields, size) if name in of else same


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", C_BAR)
def test_pixels_are_within_one_level_of_the_numpy_writing(name, size, fields):
    """All but one value in 1000: where a pixel lies on an edge, or on a threshold, rounding decides."""
    image = natural(1, *size, seed=3)[0]
    for severity, index in ((1, 0), (3, 1), (5, 2)):
        level = bar_constants(name, severity, min(size), "cifar" if min(size) < 64 else "imagenet")["level"]
        ours = levels(corrupt(tensor(image)[None], name, severity, indices=[index]))[0]
        drawn = numbers(name, fields, size, level)
        theirs = reference.stored(getattr(reference, name)(np.rint(255 * image), level, **drawn)).astype(float)
        assert np.mean(np.abs(ours - theirs) > 1) < 1e-3, severity
        assert np.abs(ours - theirs).mean() < 0.02, severity


@pytest.mark.parametrize("seed", range(3))
def test_lines_meet_the_very_pixels_of_the_walk(seed):
    """60 lines, longer and shorter than the image, upright and level, partly outside."""
    height, width = 24, 40
    rng = np.random.default_rng(seed)
    ends = torch.from_numpy(rng.integers(-30, 60, (1, 60, 4)))
    ends = ends[:, (ends[..., :2] != ends[..., 2:]).any(-1)[0]]
    places, strengths = _line_pixels(ends[..., :2], ends[..., 2:], (height, width), 90)
    for line, (place, strength) in zip(ends[0].tolist(), zip(places[0], strengths[0], strict=True), strict=True):
        walked = {}
        for row, column, expected in reference.line_pixels(*line):
            if 0 <= row < height and 0 <= column < width:
                walked[row * width + column] = pytest.approx(expected, abs=1e-5)
        inside = place < height * width
        assert dict(zip(place[inside].tolist(), strength[inside].tolist(), strict=True)) == walked


# ----------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize("name", C_BAR)
@pytest.mark.parametrize(("side", "count"), [(32, 5), (97, 4)])
def test_an_image_gets_the_same_pixels_in_any_company(name, side, count, monkeypatch):
    """Alone or not, in any order, on 1 and 2 threads, in other chunks: equal to the bit."""
    threads = torch.get_num_threads()
    generator = torch.Generator().manual_seed(side)
    images = torch.randint(0, 256, (count, 3, side, side), generator=generator) / 255
    indices = torch.randint(0, 10**6, (count,), generator=generator)
    order = torch.randperm(count, generator=generator)
    try:
        torch.set_num_threads(2)
        together = corrupt(images, name, 4, seed=3, indices=indices)
        assert torch.equal(corrupt(images[order], name, 4, seed=3, indices=indices[order]), together[order])
        torch.set_num_threads(1)
        assert torch.equal(corrupt(images[:1], name, 4, seed=3, indices=indices[:1]), together[:1])
        monkeypatch.setattr(corruption, "_CACHE", 3 * images[0].numel())
        assert torch.equal(corrupt(images, name, 4, seed=3, indices=indices), together)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [name for name in C_BAR if name != "circular_motion_blur"])
def test_index_seed_and_severity_each_change_what_is_drawn(name, fields):
    seen = {}
    for severity, seed, index in ((5, 0, 0), (5, 1, 0), (5, 0, 1), (4, 0, 0)):
        corrupt(tensor(natural(1, 32, 32)), name, severity, seed=seed, indices=[index])
        for purpose, field in fields.items():
            if purpose not in ("order", "iterations", "ways"):  # of few values, which may well agree
                seen.setdefault((purpose, field.shape), []).append(field)
    for drawn in seen.values():
        assert all((one != other).any() for place, one in enumerate(drawn) for other in drawn[:place])


@pytest.mark.parametrize("name", C_BAR)
def test_types_sizes_and_the_images_given_are_kept(name):
    images = tensor(natural(2, 40, 33))
    expected, copy = corrupt(images, name, 3), images.clone()
    assert torch.equal(images, copy)
    assert torch.equal(corrupt(images.double(), name, 3).float(), expected)
    assert corrupt(images.half(), name, 3).dtype == torch.float16
    assert corrupt(images[:0], name, 3).shape == (0, 3, 40, 33)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(corrupt(images, name, 3), expected)


@pytest.mark.parametrize("name", C_BAR)
def test_flat_images_stay_finite_and_in_range(name):
    for value in (0.0, 0.5, 1.0):
        for severity in (1, 5):
            corrupted = corrupt(torch.full((1, 3, 32, 65), value), name, severity, quantise=False)
            assert 0 <= corrupted.min() <= corrupted.max() <= 1  # NaN fails


@pytest.mark.gpu
@pytest.mark.parametrize("name", C_BAR)
@pytest.mark.parametrize(("side", "count"), [(32, 64), (224, 4)])
def test_a_gpu_makes_the_same_images(name, side, count):
    """All but one value in 10,000 within one level of the CPU's: a threshold may fall either way."""
    images = tensor(natural(count, side, side))
    here, there = corrupt(images, name, 3), corrupt(images.cuda(), name, 3)
    assert ((there.cpu() - here).abs() > 1.001 / 255).sum() <= here.numel() // 10_000


# ------------------------------------------------------------------------------------- names and constants


def test_levels_are_the_published_ones(shared):
    text = (shared / "reference/cbar.md").read_text()
    for table, title in (("imagenet", "ImageNet-C-bar"), ("cifar", "CIFAR-10-C-bar")):
        block = text.partition(f"\n## {title}\n```\n")[2].partition("```")[0]
        rows = [line.split(",") for line in block.split()]
        assert BAR_LEVELS[table] == {name: tuple(map(float, values)) for name, *values in rows}


def test_the_page_tells_the_levels_of_every_severity():
    text = (Path(__file__).parents[1] / "docs/c-bar.md").read_text()
    for table, title in (("imagenet", "\nImageNet-C-bar, for"), ("cifar", "\nCIFAR-10-C-bar, below")):
        rows = re.findall(r"^\| `(\w+)` \|([\d. |]+)\|$", text.partition(title)[2].split("\n\n")[1], flags=re.MULTILINE)
        assert {name: tuple(map(float, cells.split("|"))) for name, cells in rows} == BAR_LEVELS[table]


def test_each_list_is_a_group_of_a_family_of_its_own():
    assert set(GROUPS["imagenet-c-bar"]) == set(BAR_LEVELS["imagenet"])
    assert set(GROUPS["cifar-c-bar"]) == set(BAR_LEVELS["cifar"])
    assert {*GROUPS["imagenet-c-bar"]} & {*GROUPS["cifar-c-bar"]} == {*SHARED_NAMES}
    assert {SHIFTS[name].family for name in C_BAR} == {"c-bar"}
    assert not {*C_BAR} & {*CORRUPTIONS}
    assert averaged({"fog": "corruption", "ripple": "c-bar"}) == ["fog"]
    assert averaged({"lines": "c-bar", "ripple": "c-bar"}) == ["lines", "ripple"]
    chosen = resolve("cifar-c-bar")
    assert tuple(shift.name for shift in chosen) == GROUPS["cifar-c-bar"]
    assert {shift.family for shift in chosen} == {"c-bar"}


def test_lengths_grow_with_the_shorter_side_and_a_list_of_one_benchmark_serves_all_sizes():
    assert bar_constants("sparkles", 2, 448, "imagenet") == {"level": 2.0, "side": 448.0}
    assert bar_constants("sparkles", 2, 448, "imagenet", scaled=False) == {"level": 2.0, "side": 224.0}
    assert bar_constants("sparkles", 2, 48, "cifar") == {"level": 3.5, "side": 48.0}
    assert bar_constants("ripple", 1, 224, "imagenet") == {"level": 5.5, "side": 224.0}
    assert bar_constants("ripple", 1, 224, "imagenet", scaled=False) == {"level": 5.5, "side": 32.0}
    assert bar_constants("plasma_noise", 5, 32, "cifar") == {"level": 10.0, "side": 32.0}


@pytest.mark.parametrize("name", ["brownish_noise", "sparkles", "caustic_refraction"])
def test_an_image_of_twice_the_size_changes_as_the_smaller_does(name):
    """Smooth images change alike where lengths grow; the mean absolute change of 12 images, within a tenth."""
    small = tensor(natural(12, 96, 96))
    large = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
    found = [(corrupt(one, name, 3, table="imagenet") - one).abs().mean().item() for one in (small, large)]
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_a_run_of_it_wants_a_row_for_each_severity():
    record = {"shifts": ["clean", "ripple", "fog"], "severities": [1, 3], "corruption": {}}
    run = SimpleNamespace(rows=[{"shift": "clean", "severity": 0, "protocol": "source", "draw": 0}])
    assert missing(SimpleNamespace(record=record, measured=SimpleNamespace(run=run))) == (1, 5)


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'brownish_noise'") as caught:
        corrupt(torch.rand(1, 3, 32, 32), "brownish_nois", 3)
    assert not re.search(r"\n", str(caught.value))
