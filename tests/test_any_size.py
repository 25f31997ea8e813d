"""The corruptions on images of any height and width, with constants that scale with them or stay as they stand."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import reference_corruptions as reference
from drawn_fields import SAME_FIELDS, levels, natural, noisy, plasma_order, record, spatter_from, tensor
from statshift import CORRUPTIONS, CorruptionOptions, InputError, compare, load_data, measure
from statshift.results import read_run
from statshift.results.provenance import describe_corruption
from statshift.shifts.corruptions import corrupt, filters
from statshift.shifts.corruptions.constants import TABLES, constants

CPU = torch.device("cpu")
LYING, UPRIGHT = (48, 64), (64, 48)
ANY = [LYING, UPRIGHT, (35, 80)]
PIXELS_OF = ("defocus_blur", "glass_blur", "motion_blur", "snow", "elastic_transform", "gaussian_blur", "spatter")
CHANCE = 1e-5  # at most this share of right implementations would fail each statistical test


@pytest.fixture(autouse=True)
def without_photographs(monkeypatch):
    monkeypatch.setenv("STATSHIFT_FROST", "procedural")


@pytest.fixture
def fields(monkeypatch):
    return record(monkeypatch)


def unscaled(image, name, severity, **more):
    """One image (H, W, 3) under ImageNet's constants as they stand, in levels."""
    made = corrupt(tensor(image)[None], name, severity, table="imagenet", scale_constants=False, **more)
    return levels(made)[0]


# -------------------------------------------------------------------------------- constants as they stand


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_constants_stay_at_any_side_or_scale_with_it(name):
    for severity in (1, 3, 5):
        stand = TABLES["imagenet"][name][severity - 1]
        for side in (64, 224, 360, 1024):
            assert constants(name, severity, side, "imagenet", scaled=False) == stand
        for scaled in (True, False):
            assert constants(name, severity, 224, "imagenet", scaled) == stand
            assert constants(name, severity, 40, "cifar", scaled) == TABLES["cifar"][name][severity - 1]
        assert (constants(name, severity, 448, "imagenet") != stand) == (name in PIXELS_OF)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_at_the_benchmarks_sizes_there_is_nothing_to_scale(name):
    for size in ((224, 224), (32, 32)):
        images = tensor(natural(1, *size))
        made = [corrupt(images, name, 3, scale_constants=scaled) for scaled in (True, False)]
        assert torch.equal(*made)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_only_constants_in_pixels_tell_the_two_apart(name):
    images = tensor(natural(1, 96, 128))
    same = torch.equal(*(corrupt(images, name, 3, scale_constants=scaled) for scaled in (True, False)))
    assert same == (name not in PIXELS_OF)


# ------------------------------------------------------------------------ pixels beside the plain versions


@pytest.mark.parametrize("size", ANY)
@pytest.mark.parametrize("name", reference.DETERMINISTIC)
def test_deterministic_corruptions_are_within_one_level_of_the_reference(name, size):
    """JPEG and pixelate to the bit."""
    for severity in (1, 5):
        for image in (natural(1, *size)[0], noisy(1, *size)[0]):
            row = reference.IMAGENET[name][severity - 1]
            expected = reference.quantise(reference.DETERMINISTIC[name](image, row))
            most = 0 if name in ("pixelate", "jpeg_compression") else 1
            assert np.abs(unscaled(image, name, severity) - expected).max() <= most


@pytest.mark.parametrize("size", ANY)
@pytest.mark.parametrize("name", [*SAME_FIELDS, "spatter"])
def test_random_corruptions_are_within_one_level_of_the_reference(name, size, fields):
    """As at other sizes: all but one value in 1000, which a threshold may have moved, and those by 2 levels.

    Of spatter only mud, which has no edges to approximate.
    """
    image = natural(1, *size)[0]
    for severity in (4, 5) if name == "spatter" else (1, 5):
        ours = unscaled(image, name, severity, seed=severity)
        from_fields = spatter_from if name == "spatter" else SAME_FIELDS[name]
        expected = reference.quantise(from_fields(fields, image, reference.IMAGENET[name][severity - 1]))
        difference = np.abs(ours - expected)
        assert difference.max() <= 2
        assert (difference > 1).mean() < 1e-3


@pytest.mark.parametrize("size", [(96, 128), (128, 96)])
def test_water_is_near_the_reference(size, fields):
    image = natural(1, *size)[0]
    for severity in (1, 2, 3):
        ours = unscaled(image, "spatter", severity)
        expected = reference.quantise(spatter_from(fields, image, reference.IMAGENET["spatter"][severity - 1]))
        assert (np.abs(ours - expected) > 1).mean() < 0.05
        assert np.abs(expected - 255 * image).mean() > 2 * np.abs(ours - expected).mean()


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("name", sorted(set(reference.DETERMINISTIC) - {"jpeg_compression"}))
def test_height_and_width_change_places(name, scaled):
    """What knows no direction does to the transposed image what it does to the image, within a level of rounding.

    JPEG knows one: its steps differ along rows and columns.
    """
    images = tensor(noisy(2, 66, 90))
    for severity in (1, 4):
        how = {"table": "imagenet", "scale_constants": scaled}
        upright = corrupt(images.transpose(-1, -2).contiguous(), name, severity, **how).transpose(-1, -2)
        difference = np.abs(levels(upright) - levels(corrupt(images, name, severity, **how)))
        assert difference.max() <= 1


@pytest.mark.parametrize("size", [(40, 100), (100, 40)])
def test_the_cloud_is_the_corner_of_a_square_over_the_longer_side(size, fields):
    """On a white image fog is the cloud itself, of which rows are rows."""
    made = corrupt(torch.ones(1, 3, *size), "fog", 1, table="imagenet", quantise=False)[0, 0].double()
    assert fields["cloud"].shape == (128, 128)
    cloud = (made * 2.5 - 1) / 1.5
    order = plasma_order(fields["cloud"])
    whole = reference.plasma(128, 2, lambda shape: next(order))
    np.testing.assert_allclose(cloud.numpy(), whole[: size[0], : size[1]], atol=1e-5)


# --------------------------------------------------------------------------------------- driving scenes


@pytest.fixture(scope="module")
def frame(shared):
    """A frame of CamVid, (360, 480, 3) of whole levels / 255."""
    first = min((shared / "data/camvid/images/test-day").iterdir())
    return np.asarray(Image.open(first).convert("RGB")) / 255


@pytest.mark.parametrize("severity", [1, 3])
def test_contrast_of_a_driving_scene_is_the_published_formula(frame, severity):
    """As ../shared/reference/camvid_espnet.json says: mean of each channel over the frame, truncated to 8 bits."""
    factor = {1: 0.4, 3: 0.2}[severity]
    means = frame.mean(axis=(0, 1))
    exact = 255 * ((frame - means) * factor + means).clip(0, 1)
    ours = unscaled(frame, "contrast", severity)
    assert ((ours == np.floor(exact)) | (exact % 1 > 1 - 2e-3)).all()
    assert (ours == np.floor(exact)).mean() > 0.99


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.08), (3, 0.18)])
def test_noise_of_a_driving_scene_has_the_published_deviation(frame, severity, sigma):
    """Kolmogorov-Smirnov of what is added where nothing is clipped; each level is cut off at half on average."""
    made = corrupt(tensor(frame)[None], "gaussian_noise", severity, seed=4, quantise=False, scale_constants=False)
    added = made[0].permute(1, 2, 0).double().numpy() - frame
    middle = added[np.abs(frame - 0.5) < 0.02]  # 2.6 deviations at least from either end
    inside = np.abs(middle) < 0.45
    law = stats.truncnorm(-0.45 / sigma, 0.45 / sigma, scale=sigma)
    assert inside.sum() > 5000
    assert stats.kstest(middle[inside], law.cdf).pvalue > CHANCE


def test_real_frost_on_a_driving_scene_is_a_window_of_an_enlarged_photograph(frame, shared):
    folder = shared / "data/frost"
    black = corrupt(torch.zeros(1, 3, 360, 480), "frost", 1, seed=2, frost=folder, scale_constants=False)
    ours, crop = unscaled(frame, "frost", 1, seed=2, frost=folder), levels(black)[0]
    assert crop.std() > 5
    inside = ours < 255
    assert np.abs(ours - 255 * frame - crop)[inside].max() <= 1  # weights 1 and .4


# ----------------------------------------------------------------------------------- memory and addresses


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_gets_the_same_pixels_alone(name):
    images, indices = tensor(noisy(3, 66, 100)), torch.tensor([7, 2, 40])
    how = {"seed": 3, "scale_constants": False}
    together = corrupt(images, name, 5, indices=indices, **how)
    alone = [corrupt(images[i : i + 1], name, 5, indices=indices[i : i + 1], **how) for i in (2, 0, 1)]
    assert torch.equal(together[[2, 0, 1]], torch.cat(alone))
    assert (together != images).any()


@pytest.mark.parametrize("name", ["glass_blur", "elastic_transform", "frost"])
def test_half_a_megapixel_is_corrupted_chunk_by_chunk(name):
    """A corner far from the first: flat blocks keep their level, and both images their own draws."""
    images = torch.full((2, 3, 512, 1024), 0.6)
    made = corrupt(images, name, 3)
    if name == "frost":
        assert made[:, :, 500:, 1000:].std() > 0
        assert not torch.equal(made[0], made[1])
    else:
        assert (levels(made) == 153).all()


def test_matrices_are_kept_within_a_bound():
    built = []

    @filters.on_device
    def matrix(number: int):
        built.append(number)
        return np.full((2 << 20,), float(number))  # 8 MB as float32

    for number in [*range(10), 9, 2, 0]:
        assert matrix(CPU, number)[0] == number
    assert built == [*range(10), 0]


# ------------------------------------------------------------------------------------ records and commands


def test_a_record_says_so_where_constants_are_not_scaled():
    usual = describe_corruption(CorruptionOptions(), (3, 360, 480), "benchmark")
    assert usual.keys() == {"table", "quantise", "reencode", "frost", "at"}
    unscaled = describe_corruption(CorruptionOptions(scale_constants=False), (3, 360, 480), "benchmark")
    assert unscaled == usual | {"scale_constants": False}


@pytest.fixture
def runs(tmp_path):
    """Runs of one network over three images, as usual and with constants as they stand."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 10, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    for name, scaled in (("usual", True), ("stand", False)):
        measure(
            network,
            load_data("digits", limit=10),
            shifts="contrast",
            severities=[2],
            options=CorruptionOptions(scale_constants=scaled),
            out=tmp_path / name,
        )
    return tmp_path


def test_runs_whose_constants_scale_otherwise_are_told_apart(runs):
    with pytest.raises(InputError, match=r"`corruption\.scale_constants` is True in the first and False in the second"):
        compare(runs / "usual", runs / "stand")
    assert "scale_constants" not in read_run(runs / "usual").record["corruption"]


def test_a_baseline_is_corrupted_alike(runs):
    from statshift.measuring.baselines import read_baseline

    record = read_run(runs / "stand").record
    assert read_baseline(runs / "stand", record).record == record
    with pytest.raises(InputError, match=r"its corruption\.scale_constants is True, not False"):
        read_baseline(runs / "usual", record)


def test_the_command_asks_for_it_and_the_report_tells(run, tmp_path):
    model = tmp_path / "mine.py"
    model.write_text(
        "import torch\n\n\ndef build():\n    torch.manual_seed(0)\n    return torch.nn.Sequential("
        "torch.nn.Conv2d(3, 10, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())\n"
    )
    words = ["measure", "--model", f"py:{model}:build", "--data", "digits", "--limit", "10", "--shifts", "fog"]
    words += ["--severities", "2", "--examples", "0", "--out", tmp_path / "run", "--scale-constants"]
    assert run(*words, "no").code == 0
    assert read_run(tmp_path / "run").record["corruption"]["scale_constants"] is False
    told = run(*words, "yes")
    assert told.code == 2
    assert "`corruption.scale_constants`: False in the directory" in told.err
    told = run(*words, "perhaps")
    assert (told.code, "Expected --scale-constants to be yes or no, but got 'perhaps'." in told.err) == (2, True)
    assert run("report", tmp_path / "run", "--out", tmp_path / "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    assert "not scaled with the images, as Cityscapes-C is made" in page


def test_corrupted_images_are_written_with_constants_as_they_stand(run, tmp_path):
    words = ["corrupt", "--data", "digits", "--limit", "2", "--table", "imagenet", "--shifts", "gaussian_blur"]
    told = run(*words, "--scale-constants", "no", "--out", tmp_path / "c")
    assert told.code == 0
    assert "Constants are ImageNet's as they stand, not scaled with the images." in told.err
    written = np.load(tmp_path / "c" / "gaussian_blur.npy")
    digits = load_data("digits", limit=2)
    ((images, positions),) = digits.batches(2)
    for severity in (1, 5):
        expected = [
            reference.quantise(reference.gaussian_blur(image / 255, reference.IMAGENET["gaussian_blur"][severity - 1]))
            for image in images.permute(0, 2, 3, 1).double().numpy()
        ]
        made = written[2 * (severity - 1) : 2 * severity][np.argsort(positions)].astype(int)
        assert np.abs(made - np.stack(expected)[np.argsort(positions)]).max() <= 1


def test_a_large_image_is_reduced_on_a_contact_sheet(run, tmp_path):
    (tmp_path / "scenes" / "road").mkdir(parents=True)
    pixels = np.full((300, 1200, 3), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scenes" / "road" / "a.png")
    words = ["corrupt", "--data", f"folder:{tmp_path / 'scenes'}", "--shifts", "brightness", "--resize", "300"]
    assert run(*words, "--sheet", tmp_path / "sheet.png").code == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width < 6 * (512 + 4) + 200
        row = np.asarray(sheet)[sheet.height - 60, -6 * (512 + 4) :, 0]
    levels_there = {value for value in row.tolist() if value != 255}
    assert levels_there == {90, *(int(90 + 255 * added) for added in (0.1, 0.2, 0.3, 0.4, 0.5))}
