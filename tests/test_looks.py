"""Example images: their predictions beside a loop of one's own, their strips beside the pixels that `corrupt` makes."""

import json
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import statshift
from statshift import AdaptationOptions, attack_images, corrupt, load_data, load_model, read_run, rectified
from statshift._core import storage as files
from statshift._core.errors import InputError
from statshift.adapting.drawing import adaptation_positions
from statshift.making.corrupted import write_corrupted
from statshift.measuring.examples import draw_examples, encode, file_name, middle_conditions, strip
from statshift.shifts.conditions import Condition

SHIFTS = ["clean", "gaussian_noise", "fog"]

measure = partial(statshift.measure, device="cpu", shifts=SHIFTS, severities=[1, 3, 5])

pytestmark = pytest.mark.filterwarnings("ignore:Clean accuracy is", "ignore:No frost photographs")


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(392, 10)
        )


@pytest.fixture(scope="module")
def model():
    return load_model(network().eval())


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=60)


@pytest.fixture
def folder(model, digits, tmp_path):
    measure(model, digits, out=tmp_path / "run")
    return tmp_path / "run" / "examples"


def pixels_of(data):
    return torch.cat([images for images, _ in data.batches(50)]).float() / 255


def shown(folder):
    return json.loads((folder / "examples.json").read_text())


def tiles(path, count):
    """Return a strip's images, uint8 (n,H,W,3)."""
    return np.stack(np.split(np.asarray(Image.open(path)), count, axis=1))


def bytes_of(images):
    return (images.numpy() * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


def softmax_of(model, images):
    with torch.no_grad():
        logits = model(images).double().numpy()
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


# Which images


def test_examples_are_balanced_and_the_same_for_every_model(digits, tmp_path):
    found = []
    for seed in range(2):
        measure(network(seed).eval(), digits, shifts="clean", out=tmp_path / str(seed))
        found.append(shown(tmp_path / str(seed) / "examples"))
    assert found[0] == found[1]
    assert found[0]["positions"] == sorted(set(found[0]["positions"]))
    assert len(set(found[0]["labels"])) == 6
    assert found[0]["labels"] == [int(digits.labels[position]) for position in found[0]["positions"]]
    assert found[0]["indices"] == [int(digits.indices[position]) for position in found[0]["positions"]]
    assert (found[0]["class_names"], found[0]["side"]) == ([str(digit) for digit in range(10)], 32)


@pytest.mark.parametrize(("count", "of_a_class"), [(0, [0]), (1, [0, 1]), (20, [2]), (25, [2, 3]), (600, [6])])
def test_so_many_are_drawn(digits, count, of_a_class):
    drawn = draw_examples(digits, count)
    assert len(drawn) == min(count, 60)
    assert set(np.bincount(digits.labels[drawn], minlength=10)) == set(of_a_class)


@pytest.mark.parametrize("count", [-1, 65])
def test_too_many_are_refused(model, digits, count):
    with pytest.raises(InputError, match=f"Expected `examples` from 0 to 64, but got {count}"):
        measure(model, digits, examples=count)


# Predictions in rows


def test_rows_say_what_every_protocol_predicts(model, digits):
    options = AdaptationOptions(samples=8, draws=2)
    rows = measure(model, digits, rectify="replace", adaptation=options, examples=20).rows
    clean, indices = pixels_of(digits), torch.from_numpy(digits.indices)
    positions, left_out = draw_examples(digits, 20), 0
    assert len(rows) == 7 * 3
    for row in rows:
        images = clean
        if row["severity"]:
            images = corrupt(clean, row["shift"], row["severity"], indices=indices)
        few = np.empty(0, int)
        if row["protocol"] != "source":
            few = adaptation_positions(digits.indices, 8, 0, row["draw"])
        with rectified(model, images[few], "replace") if len(few) else nullcontext(model) as adapted:
            probabilities = softmax_of(adapted, images[positions])
        expected = [None if one in few else int(p.argmax()) for one, p in zip(positions, probabilities, strict=True)]
        assert row["examples"]["predicted"] == expected
        confidence = [None if one in few else p.max() for one, p in zip(positions, probabilities, strict=True)]
        for found, wanted in zip(row["examples"]["confidence"], confidence, strict=True):
            assert found == (None if wanted is None else pytest.approx(wanted, abs=1e-4))
        left_out += expected.count(None)
        assert "examples" not in row.get("paired_source", {})
    assert left_out > 3
    assert len({str(row["examples"]["predicted"]) for row in rows}) > 4


@pytest.mark.parametrize("batch_size", [1, 17, 60])
def test_the_batch_size_changes_no_prediction(model, digits, batch_size):
    first, second = (measure(model, digits, batch_size=size).rows for size in (128, batch_size))
    assert [row["examples"] for row in first] == [row["examples"] for row in second]


def test_without_examples_there_is_no_trace_of_them(model, digits, tmp_path):
    found = measure(model, digits, out=tmp_path, examples=0)
    assert not any("examples" in row for row in found.rows)
    assert not (tmp_path / "examples").exists()
    assert read_run(tmp_path).examples is None


# Strips


def test_strips_hold_the_pixels_that_the_model_saw(folder, digits):
    found = shown(folder)
    assert found["strips"] == {
        "clean": "clean.png",
        "gaussian_noise 3": "gaussian_noise-3.png",
        "fog 3": "fog-3.png",
    }
    assert {path.name for path in folder.iterdir()} == {"examples.json", *found["strips"].values()}
    positions = found["positions"]
    clean, indices = pixels_of(digits)[positions], torch.from_numpy(digits.indices[positions])
    np.testing.assert_array_equal(tiles(folder / "clean.png", 6), bytes_of(clean))
    for name in ("gaussian_noise", "fog"):
        expected = bytes_of(corrupt(clean, name, 3, indices=indices))
        np.testing.assert_array_equal(tiles(folder / f"{name}-3.png", 6), expected)
    assert read_run(folder.parent).examples == found


def test_an_attacks_strip_is_of_images_against_the_source(model, digits, tmp_path):
    name = "pgd-linf:8/255:3"
    measure(model, digits, shifts=[name], rectify="replace", adaptation=AdaptationOptions(8), out=tmp_path)
    found = shown(tmp_path / "examples")
    positions = found["positions"]
    clean, labels = pixels_of(digits)[positions], torch.from_numpy(digits.labels[positions])
    indices = torch.from_numpy(digits.indices[positions])
    made = attack_images(model, clean, labels, statshift.PixelAttack(8 / 255, steps=3), indices=indices)
    drawn = tiles(tmp_path / "examples" / found["strips"][name], 6)
    difference = np.abs(drawn.astype(int) - bytes_of(made))
    assert (difference > 1).mean() < 0.001  # a gradient near zero may have another sign
    assert np.abs(drawn.astype(int) - bytes_of(clean)).max() == 8
    assert set(found["strips"]) == {"clean", name}


def test_stored_shifts_have_the_strips_of_made_ones(folder, model, digits, tmp_path):
    stored = tmp_path / "stored"
    wanted = [Condition(name, severity) for name in ("gaussian_noise", "fog") for severity in range(1, 6)]
    options = statshift.CorruptionOptions()
    write_corrupted(digits, wanted, stored, layout="arrays", options=options, device=torch.device("cpu"))
    shifts = ["gaussian_noise", "fog"]
    measure(model, f"cifar-c:{stored}", shifts=shifts, out=tmp_path / "read")
    found = shown(tmp_path / "read" / "examples")
    assert set(found["strips"]) == {"gaussian_noise 3", "fog 3"}
    assert found["positions"] == shown(folder)["positions"]
    for name in found["strips"].values():
        assert (tmp_path / "read" / "examples" / name).read_bytes() == (folder / name).read_bytes()


def test_photographs_are_shown_small_and_as_jpeg(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(3):
        picture = Image.fromarray(generator.integers(0, 256, (5, 5, 3), np.uint8)).resize((224, 224))
        (tmp_path / "data" / f"{number}").mkdir(parents=True)
        picture.save(tmp_path / "data" / f"{number}" / "one.png")
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)).eval()
    measure(pooled, f"folder:{tmp_path / 'data'}", shifts="clean", examples=3, out=tmp_path / "run")
    found = shown(tmp_path / "run" / "examples")
    assert (found["side"], found["strips"]) == (128, {"clean": "clean.jpg"})
    drawn = tiles(tmp_path / "run" / "examples" / "clean.jpg", 3)
    for number in range(3):
        picture = Image.open(tmp_path / "data" / str(number) / "one.png")
        expected = np.asarray(picture.resize((128, 128), Image.Resampling.BILINEAR), int)
        assert np.abs(drawn[number] - expected).mean() < 3


@pytest.mark.parametrize("size", [(32, 32), (40, 32), (32, 40), (128, 96), (129, 96), (500, 200), (224, 224)])
def test_a_strip_shows_the_whole_image_in_a_square(size):
    """Black images in the grey square: as wide and high as they were, or reduced to 128 px."""
    drawn = strip(torch.zeros(2, 3, *size))
    side = min(128, max(size))
    assert drawn.shape == (side, 2 * side, 3)
    scale = min(1, 128 / max(size))
    for tile in np.split(drawn, 2, axis=1):
        assert set(np.unique(tile)) <= {0, 128}
        black = (tile == 0).all(2)
        assert black.any(1).sum() == pytest.approx(size[0] * scale, abs=0.51)
        assert black.any(0).sum() == pytest.approx(size[1] * scale, abs=0.51)
        assert black.sum() == black.any(1).sum() * black.any(0).sum()


def test_small_images_lose_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    content, kind = encode(pixels, small=True)
    assert kind == "png"
    assert content.startswith(b"\x89PNG")
    assert encode(pixels, small=False)[0].startswith(b"\xff\xd8\xff")


# Files


def test_the_middle_severity_is_shown():
    wanted = [Condition("fog", 1), Condition("fog", 3), Condition("fog", 5), Condition("snow", 5), Condition("snow", 2)]
    assert middle_conditions([*wanted, Condition("mine", 0)])[0] == Condition("clean", 0)
    assert set(middle_conditions([*wanted, Condition("mine", 0)])) == {
        Condition("clean", 0),
        Condition("fog", 3),
        Condition("snow", 5),
        Condition("mine", 0),
    }


HOSTILE = [
    "../../x",
    "a/b",
    "a\\b",
    "<script>",
    'a"b',
    "a\nb",
    "x" * 300,
    "ы",
    "..",
    ".hidden",
    "Fog",
    "fog-3",
    "CON",
    "",
]


def test_names_of_files_are_safe_and_differ():
    conditions = [Condition(name, severity) for name in [*HOSTILE, "fog", "fog_3"] for severity in range(6)]
    names = [file_name(condition) for condition in conditions]
    assert len({name.lower() for name in names}) == len(conditions)
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert all(set(name) <= allowed and 0 < len(name) < 80 for name in names)
    assert file_name(Condition("fog", 3)) == "fog-3"


def test_hostile_names_of_ones_own_shifts_stay_in_the_folder(model, digits, tmp_path):
    functions = {name: lambda images: 1 - images for name in HOSTILE if name}
    measure(model, digits, shifts=functions, out=tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    found = shown(tmp_path / "run" / "examples")
    assert set(found["strips"]) == {"clean", *functions}
    files = {path.name for path in (tmp_path / "run" / "examples").iterdir()}
    assert files == {"examples.json", *found["strips"].values()}


# Resumption


def test_a_strip_that_is_gone_is_made_again_without_a_pass(folder, model, digits):
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    rows = (folder.parent / "rows.jsonl").read_bytes()
    (folder / "fog-3.png").unlink()
    told = []
    measure(model, digits, out=folder.parent, progress=told.append)
    assert told == []
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert {name: content for name, (content, _) in after.items()} == {name: one for name, (one, _) in before.items()}
    kept = before.keys() - {"fog-3.png", "examples.json"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert (folder.parent / "rows.jsonl").read_bytes() == rows


@pytest.mark.parametrize("survived", range(10))
def test_killed_on_the_way_a_run_ends_with_the_same_files(folder, model, digits, tmp_path, monkeypatch, survived):
    """At each write of a whole file a sitting ends; the next goes on."""
    wanted = {path.name: path.read_bytes() for path in folder.iterdir()}
    rows, own, writes = (folder.parent / "rows.jsonl").read_bytes(), files.replacing, 0

    def killed(path):
        nonlocal writes
        writes += 1
        if writes > survived:
            raise KeyboardInterrupt
        return own(path)

    out = tmp_path / "again"
    monkeypatch.setattr(files, "replacing", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(model, digits, out=out)
    monkeypatch.setattr(files, "replacing", own)
    assert not (out / "summary.json").exists()
    measure(model, digits, out=out)
    assert {path.name: path.read_bytes() for path in (out / "examples").iterdir()} == wanted
    assert (out / "rows.jsonl").read_bytes() == rows
    assert (out / "layers.json").read_bytes() == (folder.parent / "layers.json").read_bytes()


@pytest.mark.parametrize(("before", "after"), [(6, 4), (4, 6), (0, 6), (6, 0)])
def test_another_number_of_examples_is_no_other_run(model, digits, tmp_path, before, after):
    """A directory goes on with the examples that it has."""
    first = measure(model, digits, shifts=["clean"], examples=before, out=tmp_path)
    rows = measure(model, digits, shifts=["clean", "fog"], examples=after, out=tmp_path).rows
    assert rows[0] == first.rows[0]
    counts = [len(row["examples"]["predicted"]) if "examples" in row else 0 for row in rows]
    own = 0 if not after else before or after
    assert counts == [before, *[own] * 3]
    positions = shown(tmp_path / "examples")["positions"]
    assert positions == draw_examples(digits, before or after).tolist()


def test_what_an_earlier_record_left_is_not_taken_over(model, digits, tmp_path):
    """Killed before its first row, a run leaves images behind that another run is not about."""
    measure(model, digits, out=tmp_path)
    (tmp_path / "rows.jsonl").unlink()
    other = load_data("digits", limit=50)
    measure(model, other, out=tmp_path)
    positions = shown(tmp_path / "examples")["positions"]
    assert positions == draw_examples(other, 6).tolist()
    clean = pixels_of(other)[positions]
    np.testing.assert_array_equal(tiles(tmp_path / "examples" / "clean.png", 6), bytes_of(clean))


def test_a_damaged_description_is_told(folder, model, digits):
    (folder / "examples.json").write_text("[]")
    for use in (lambda: read_run(folder.parent), lambda: measure(model, digits, out=folder.parent)):
        with pytest.raises(InputError, match=r"examples.json is damaged: it is not a JSON object. Remove it"):
            use()
    (folder / "examples.json").unlink()
    measure(model, digits, out=folder.parent)
    assert len(shown(folder)["strips"]) == 3
