"""The corruptions beside plain NumPy versions, given the same random fields, and what they promise of addresses."""

import io
import math
import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, stats

import reference_corruptions as reference
from drawn_fields import SAME_FIELDS, levels, natural, noisy, plasma_order, record, spatter_from, tensor
from statshift import COMMON, CORRUPTIONS, HOLDOUT, InputError
from statshift._core.randomness import Draws
from statshift.shifts import corruptions
from statshift.shifts.corruptions import blur, corrupt, corruption, digital, filters, jpeg, noise, weather
from statshift.shifts.corruptions.constants import constants
from statshift.shifts.corruptions.spatter import canny

CPU = torch.device("cpu")
SIZES = [(32, 32), (97, 97), (224, 224), (33, 47), (120, 90)]
SEVERITIES = (1, 2, 3, 4, 5)
CHANCE = 1e-5  # at most this share of right implementations would fail each statistical test


@pytest.fixture(autouse=True)
def frost_folder(tmp_path_factory, monkeypatch):
    """Five small photographs, so that no test depends on what the machine holds."""
    folder = tmp_path_factory.getbasetemp() / "photographs"
    if not folder.is_dir():
        folder.mkdir()
        for number, suffix in enumerate(("png", "png", "png", "jpg", "jpg"), start=1):
            photograph = np.rint(255 * natural(1, 320, 400, number)[0]).astype(np.uint8)
            Image.fromarray(photograph).save(folder / f"frost{number}.{suffix}")
    monkeypatch.setenv("STATSHIFT_FROST", str(folder))
    return folder


def cases(size):
    """A smooth and a noisy image and every severity; less of both where the reference's loops are slow."""
    if size == (224, 224):
        return natural(1, *size), (1, 3, 5)
    return np.concatenate([natural(1, *size), noisy(1, *size)]), SEVERITIES


def row(name, severity, size, table=None):
    """The constants in the order of the reference's rows; one constant stands alone there."""
    side = min(size)
    values = tuple(constants(name, severity, side, table or corruptions.table_for(side)).values())
    return values if len(values) > 1 else values[0]


# ------------------------------------------------------------------------------------ names and constants


def test_names_stand_in_the_order_of_the_paper():
    assert (
        *("gaussian_noise", "shot_noise", "impulse_noise"),
        *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
        *("snow", "frost", "fog", "brightness"),
        *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    ) == COMMON
    assert HOLDOUT == ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    assert CORRUPTIONS == COMMON + HOLDOUT


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_both_tables_hold_the_constants_of_the_benchmark(name):
    for table, side in (("imagenet", 224), ("cifar", 32), ("cifar", 500)):
        rows = [row(name, severity, (side, side), table) for severity in SEVERITIES]
        np.testing.assert_allclose(rows, reference.TABLES[table][name], rtol=1e-12)


def test_constants_in_pixels_scale_with_the_shorter_side():
    assert constants("motion_blur", 5, 112, "imagenet") == {"radius": 10, "sigma": 7.5}
    assert constants("defocus_blur", 1, 448, "imagenet") == {"radius": 6, "alias_sigma": 0.1}
    assert constants("glass_blur", 4, 112, "imagenet") == {"sigma": 0.55, "delta": 2, "iterations": 2}  # 1.5 to even
    assert constants("glass_blur", 1, 96, "imagenet")["delta"] == 1  # never less
    assert constants("gaussian_blur", 5, 336, "imagenet") == {"sigma": 9}
    assert constants("elastic_transform", 3, 112, "imagenet") == pytest.approx(
        {"alpha": 6.1, "sigma": 1.22, "affine": 2.44}
    )
    snow = constants("snow", 5, 448, "imagenet")
    assert snow == {
        "loc": 0.55, "scale": 0.3, "zoom": 2.5, "threshold": 0.85, "radius": 24, "sigma": 24, "keep": 0.55,
    }  # fmt: skip
    assert constants("spatter", 1, 112, "imagenet")["sigma"] == 2
    assert constants("pixelate", 1, 448, "imagenet") == {"scale": 0.6}
    assert constants("gaussian_noise", 1, 448, "imagenet") == {"sigma": 0.08}


@pytest.mark.parametrize(("size", "table"), [((63, 200), "cifar"), ((64, 64), "imagenet"), ((300, 64), "imagenet")])
def test_the_shorter_side_chooses_the_table(size, table):
    other = {"cifar": "imagenet", "imagenet": "cifar"}[table]
    images = tensor(natural(1, *size))
    chosen = corrupt(images, "contrast", 2)
    assert torch.equal(chosen, corrupt(images, "contrast", 2, table=table))
    assert not torch.equal(chosen, corrupt(images, "contrast", 2, table=other))


# -------------------------------------------------------------------- pixels: the deterministic corruptions


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", sorted(set(reference.DETERMINISTIC) - {"jpeg_compression"}))
def test_deterministic_corruptions_are_within_one_level_of_the_reference(name, size):
    """Most values are equal; a rounding error may truncate some the other way."""
    images, severities = cases(size)
    for severity in severities:
        ours = levels(corrupt(tensor(images), name, severity))
        for image, corrupted in zip(images, ours, strict=True):
            expected = reference.quantise(reference.DETERMINISTIC[name](image, row(name, severity, size)))
            assert np.abs(corrupted - expected).max() <= (0 if name == "pixelate" else 1), severity


def test_pixelate_equals_pillow_where_pixel_edges_coincide():
    """Odd sides at half size and the like, where a box filter's edge falls on a pixel's centre."""
    for side in (34, 35, 37, 38, 41, 43, 107, 161):
        images = noisy(1, side, side + 2, side)
        for severity in SEVERITIES:
            for table in ("imagenet", "cifar"):
                expected = reference.pixelate(images[0], reference.TABLES[table]["pixelate"][severity - 1])
                ours = levels(corrupt(tensor(images), "pixelate", severity, table=table))[0]
                np.testing.assert_array_equal(ours, reference.quantise(expected))


JPEG_SIZES = [(32, 32), (48, 64), (34, 32), (32, 34), (40, 46), (33, 47), (50, 35), (97, 97), (224, 224)]


@pytest.mark.parametrize("size", JPEG_SIZES)
def test_jpeg_equals_pillow(size):
    """To the last level, at qualities low to high: libjpeg's own whole numbers."""
    for quality in (7, 10, 15, 18, 25, 40, 50, 65, 80, 85, 95):
        for image in (*natural(1, *size, seed=quality), *noisy(1, *size, seed=quality)):
            ours = levels(jpeg.compress(tensor(image)[None], quality))[0]
            np.testing.assert_array_equal(ours, np.rint(255 * reference.jpeg_compression(image, quality)))


@pytest.mark.parametrize("level", [0, 1, 127, 128, 254, 255])
def test_jpeg_of_a_flat_image_equals_pillow(level):
    image = np.full((40, 40, 3), level / 255)
    for quality in (7, 25, 50, 95):
        ours = levels(jpeg.compress(tensor(image)[None], quality))[0]
        np.testing.assert_array_equal(ours, np.rint(255 * reference.jpeg_compression(image, quality)))


@pytest.mark.parametrize("size", [(32, 32), (40, 46), (224, 224)])
def test_reencode_is_pillows_jpeg_of_quality_85(size):
    images = natural(2, *size)
    plain = corrupt(tensor(images), "gaussian_noise", 2)
    again = levels(corrupt(tensor(images), "gaussian_noise", 2, reencode=True))
    for stored, read in zip(levels(plain), again, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(stored.astype(np.uint8)).save(buffer, "JPEG", quality=85)
        np.testing.assert_array_equal(read, np.asarray(Image.open(buffer)))


# ---------------------------------------------------- pixels: the random corruptions, given the same fields


@pytest.fixture
def fields(monkeypatch):
    return record(monkeypatch)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SAME_FIELDS)
def test_random_corruptions_are_within_one_level_of_the_reference(name, size, fields):
    """All but one value in 1000, which a threshold may have moved, and those no further than 2 levels."""
    images, severities = cases(size)
    for image in images:
        for severity in severities:
            ours = levels(corrupt(tensor(image)[None], name, severity, seed=severity))[0]
            expected = reference.quantise(SAME_FIELDS[name](fields, image, row(name, severity, size)))
            difference = np.abs(ours - expected)
            assert difference.max() <= 2, severity
            assert (difference > 1).mean() < 1e-3, severity


@pytest.mark.parametrize("size", SIZES)
def test_mud_is_within_one_level_and_water_near_the_reference(size, fields):
    """Water's sheen rests on Canny edges and distances that are approximated: 95 % of the values stay."""
    image = natural(1, *size)[0]
    for severity in SEVERITIES:
        ours = levels(corrupt(tensor(image)[None], "spatter", severity))[0]
        expected = reference.quantise(spatter_from(fields, image, row("spatter", severity, size)))
        difference = np.abs(ours - expected)
        if severity > 3:
            assert difference.max() <= 1
        else:
            assert (difference > 1).mean() < 0.05
            assert difference.mean() < 0.5
            assert np.abs(expected - 255 * image).mean() > 2 * difference.mean()


@pytest.mark.parametrize("size", [(32, 32), (41, 64), (100, 33)])
@pytest.mark.parametrize("delta", [1, 2, 3, 4])
def test_glass_sources_equal_the_copying_loop(size, delta):
    """Every pixel's origin, through three passes; the reference moves the pixels' own numbers, as uint8 triples."""
    generator = torch.Generator().manual_seed(delta)
    offsets = torch.randint(-delta, delta, (3, 2, 2, *size), generator=generator)
    origin = np.arange(math.prod(size))
    numbers = np.stack([origin % 256, origin // 256, 0 * origin], axis=-1).reshape(*size, 3).astype(np.uint8)
    passes = [blur.copy_sources(right, down, delta) for right, down in offsets]
    for image in (0, 1):
        sources = torch.arange(math.prod(size))
        for step in passes:
            sources = sources[step[image]]
        moved = reference.glass_copy(numbers, *offsets[:, :, image].transpose(0, 1).numpy(), delta).astype(int)
        np.testing.assert_array_equal(sources.numpy().reshape(size), moved[..., 0] + 256 * moved[..., 1])


@pytest.mark.parametrize("angle", [-45.0, -30.0, -7.5, 0.0, 7.5, 26.6, 45.0])
@pytest.mark.parametrize(("radius", "sigma"), [(6, 1), (9, 2.5), (20, 15)])
def test_motion_blur_at_given_angles(radius, sigma, angle):
    """A point becomes the line kernel, turned round; a photograph becomes the reference's."""
    point = np.zeros((96, 96, 3))
    point[48, 60] = 1
    images = np.concatenate([point[None], natural(1, 96, 96)])
    angles = torch.deg2rad(torch.tensor([angle, angle], dtype=torch.float64))
    blurred = filters.motion_blur(tensor(images), radius, sigma, angles, "right")
    for image, ours in zip(images, blurred, strict=True):
        expected = reference.motion_blur(image, angle, radius, sigma)
        difference = ours.permute(1, 2, 0).double().numpy() - expected
        assert difference.min() > -1e-5  # the reference is cut down to whole levels
        assert difference.max() < 1 / 255 + 1e-5
    assert blurred[0].sum().item() == pytest.approx(3, abs=1e-4)


@pytest.mark.parametrize("decay", [3, 1.75, 1.4])
@pytest.mark.parametrize("side", [32, 64, 256])
def test_plasma_equals_the_reference(side, decay):
    field = Draws(0, torch.arange(2), "test").uniform("cloud", side, side, low=-1.0)
    for ours, drawn in zip(weather.plasma(field, decay), field, strict=True):
        order = plasma_order(drawn.double().numpy())
        expected = reference.plasma(side, decay, lambda shape, order=order: next(order))
        np.testing.assert_allclose(ours.numpy(), expected, atol=2e-6)
        assert (ours.min(), ours.max()) == (0, 1)


def test_canny_equals_the_reference_where_hysteresis_is_short():
    """Edges found, on layers like spatter's; weak edges far from any strong one may be left out, none is added."""
    rng = np.random.default_rng(0)
    plane = ndimage.gaussian_filter(rng.normal(size=(4, 96, 80)), (0, 2, 2))
    plane = np.rint(255 * (plane > 0.03) * plane.clip(0, 0.3) / 0.3)
    ours = canny(torch.from_numpy(plane)[:, None].float())[:, 0].numpy()
    expected = np.stack([reference.canny(layer.astype(np.uint8), 50, 150) for layer in plane])
    assert expected.mean() > 0.05
    assert not (ours & ~expected).any()
    assert (expected & ~ours).sum() <= 0.005 * expected.sum()


def test_affine_warp_and_displacement_are_exact_for_whole_pixels():
    """Three points moved alike shift the image; borders mirror without the edge, then with it."""
    image = natural(1, 40, 50)[0]
    moved = torch.tensor([[[3.0, -2.0]] * 3])
    inverse, shift = digital._inverse_affine(moved, (40, 50))
    assert inverse[0].tolist() == [[1, 0], [0, 1]]
    assert shift[0].tolist() == [-3, 2]
    rows, columns = torch.arange(40.0)[:, None], torch.arange(50.0)
    for repeated, mode in ((False, "reflect"), (True, "symmetric")):
        padded = np.pad(image, ((5, 5), (5, 5), (0, 0)), mode=mode)
        for down, right in ((5, -4), (-3, 5)):
            read = filters.sample(
                tensor(image)[None],
                (rows + down).expand(1, 40, 50),
                (columns + right).expand(1, 40, 50),
                edge_repeated=repeated,
            )
            expected = padded[5 + down : 45 + down, 5 + right : 55 + right]
            np.testing.assert_allclose(read[0].permute(1, 2, 0).numpy(), expected, atol=2e-5)


# --------------------------------------------------------------------------------------- distributions


QUARTER = math.pi / 2
AFFINE = 32 * 0.05  # of CIFAR's table at severity 4


@pytest.mark.parametrize(
    ("name", "purpose", "law"),
    [
        ("gaussian_noise", "noise", stats.norm()),
        ("speckle_noise", "noise", stats.norm()),
        ("impulse_noise", "noise", stats.uniform()),
        ("motion_blur", "angle", stats.uniform(-QUARTER / 2, QUARTER)),
        ("snow", "angle", stats.uniform(-1.5 * QUARTER, QUARTER)),
        ("snow", "flakes", stats.norm()),
        ("fog", "cloud", stats.uniform(-1, 2)),
        ("elastic_transform", "affine", stats.uniform(-AFFINE, 2 * AFFINE)),
        ("elastic_transform", "fields", stats.uniform(-1, 2)),
        ("spatter", "liquid", stats.norm()),
        ("glass_blur", "offsets 0", stats.randint(-1, 1)),
        ("glass_blur", "offsets 1", stats.randint(-1, 1)),
    ],
)
def test_fields_follow_their_laws(name, purpose, law, fields, monkeypatch):
    """Kolmogorov-Smirnov over the fields of 2000 images, or of 60, at severity 4; chi-square for whole numbers."""
    count = 2000 if purpose in ("angle", "affine") else 60
    monkeypatch.setattr(corruption, "_CACHE", 1 << 30)
    corrupt(torch.full((1, 3, 32, 32), 0.5).expand(count, -1, -1, -1), name, 4, seed=1)
    drawn = fields.batches[purpose]
    assert len(drawn) == count
    if name == "glass_blur":
        values, counts = np.unique(drawn, return_counts=True)
        assert values.tolist() == list(range(int(law.support()[0]), int(law.support()[1]) + 1))
        assert stats.chisquare(counts).pvalue > CHANCE
    else:
        assert stats.kstest(drawn.ravel(), law.cdf).pvalue > CHANCE


@pytest.mark.parametrize("photons", [60, 25, 12, 5, 3, 500, 250, 100, 75, 50])
def test_shot_noise_draws_from_poissons_law(photons):
    """The law of the tables, without sampling: every probability, and mean and variance, of all 256 levels.

    A column's share has 19 bits, so a probability is off by at most the sum of half steps that end in its count.
    """
    entries = noise._poisson_aliases(CPU, photons).view(256, -1).long().numpy()
    columns = entries.shape[1]
    share, alias = (entries >> 11) / 2**19, entries & 2047
    counts = np.arange(columns)
    law = share / columns
    for level in range(256):
        np.add.at(law[level], alias[level], (1 - share[level]) / columns)
    rates = np.arange(256) / 255 * photons
    np.testing.assert_allclose(law, stats.poisson.pmf(counts, rates[:, None]), atol=2e-6)
    mean = law @ counts
    np.testing.assert_allclose(mean, rates, atol=1e-4 * math.sqrt(photons))
    np.testing.assert_allclose(law @ counts**2 - mean**2, rates, rtol=1e-3)


@pytest.mark.parametrize(("table", "severity"), [(t, s) for t in ("imagenet", "cifar") for s in SEVERITIES])
def test_shot_noise_by_level(table, severity):
    """Chi-square of drawn counts against scipy's law, for levels from dark to white, 27,648 values each."""
    photons = reference.TABLES[table]["shot_noise"][severity - 1]
    grey = torch.tensor([0, 1, 20, 64, 128, 200, 254, 255]).view(-1, 1, 1, 1) / 255
    images = grey.expand(-1, 3, 96, 96)
    drawn = noise.shot_noise(images, Draws(severity, torch.arange(8), table), photons=photons) * photons
    assert (drawn[0] == 0).all()
    for level, field in zip(grey.flatten().tolist()[1:], drawn[1:], strict=True):
        counts = np.bincount(field.flatten().round().int().numpy())
        assert torch.allclose(field, field.round(), atol=1e-3)
        expected = field.numel() * stats.poisson.pmf(np.arange(len(counts)), level * photons)
        low, high = np.nonzero(expected >= 5)[0][[0, -1]]  # the tails make one class each
        bins = [counts[:low].sum(), *counts[low : high + 1], counts[high + 1 :].sum()]
        shares = [expected[:low].sum(), *expected[low : high + 1]]
        shares.append(field.numel() - sum(shares))
        kept = np.array(shares) > 0.5
        observed, wanted = np.array(bins)[kept], np.array(shares)[kept]
        assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > CHANCE


def test_shot_noise_between_two_levels_takes_the_nearest():
    levels_met = torch.tensor([100.0, 100.4, 100.6, 101.0]).view(4, 1, 1, 1).expand(-1, 3, 32, 32) / 255
    drawn = corrupt(levels_met, "shot_noise", 5, indices=[0] * 4)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[2], drawn[3])
    assert not torch.equal(drawn[0], drawn[3])


@pytest.mark.parametrize("size", [(32, 32), (224, 224)])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_replaces_its_share(severity, size):
    """Counts of black, white and unchanged values among 600,000 on a grey image: chi-square."""
    count = 600_000 // (3 * size[0] * size[1]) + 1
    noised = corrupt(torch.full((count, 3, *size), 0.5), "impulse_noise", severity, quantise=False)
    amount = row("impulse_noise", severity, size)
    counts = [(noised == value).sum().item() for value in (0, 1, 0.5)]
    assert sum(counts) == noised.numel()
    expected = noised.numel() * np.array([amount / 2, amount / 2, 1 - amount])
    assert stats.chisquare(counts, expected).pvalue > CHANCE


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", [*reference.RANDOM, "frost"])
def test_random_corruptions_change_images_as_much_as_the_reference(name, severity, frost_folder):
    """Per image: mean, mean magnitude and mean square of the change; the mean paired difference over 80 images.

    It must lie within 4.5 standard errors, taken from the 80 differences, of 0; 0.01 levels are allowed for
    rounding. Water's sheen is approximated: it may besides be off by a twentieth of the change.
    """
    images = natural(80, 32, 32)
    frost = [np.asarray(Image.open(path)) for path in sorted(frost_folder.iterdir())]
    rng = np.random.default_rng(severity)
    theirs = np.stack([reference.reference(name, image, severity, rng, "cifar", frost=frost) for image in images])
    ours = levels(corrupt(tensor(images), name, severity))
    summaries = []
    for changed in (ours, theirs):
        change = changed - 255 * images
        summaries.append([statistic.mean(axis=(1, 2, 3)) for statistic in (change, np.abs(change), change**2)])
    for one, other in zip(*summaries, strict=True):
        difference = one - other
        allowed = 4.5 * difference.std(ddof=1) / math.sqrt(len(images)) + 0.01
        assert abs(difference.mean()) < allowed + (np.abs(other).mean() / 20 if name == "spatter" else 0)


GROWING = {  # mean squared change grows with every severity, whatever is drawn; between table and table alike
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    *("defocus_blur", "zoom_blur", "gaussian_blur"),
    *("brightness", "contrast", "pixelate", "jpeg_compression"),
}
ENDING_HIGHER = {"motion_blur", "snow", "frost", "fog"}  # as far as the means of a few draws tell


@pytest.mark.parametrize(("table", "count", "side"), [("imagenet", 6, 112), ("cifar", 24, 32)])
@pytest.mark.parametrize("name", sorted(GROWING | ENDING_HIGHER))
def test_change_grows_with_severity(name, table, count, side):
    """The others' constants go up and down: glass, elastic, spatter, saturate."""
    images = tensor(natural(count, side, side))
    changes = [(corrupt(images, name, severity) - images).square().mean().item() for severity in SEVERITIES]
    assert 0 < changes[0] < changes[4]
    if name in GROWING:
        assert changes == sorted(changes)


# -------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(
    ("side", "count", "alone", "severity"), [(32, 128, 4, 3), (97, 3, 2, 1), (97, 3, 1, 5), (224, 3, 1, 3)]
)
def test_an_image_gets_the_same_pixels_in_any_company(name, side, count, alone, severity, monkeypatch):
    """Batches of 1 and all, any order, 1 and 2 threads, other chunks and memory layouts: equal to the bit."""
    threads = torch.get_num_threads()
    generator = torch.Generator().manual_seed(side)
    brightest = torch.randint(60, 256, (count, 1, 1, 1), generator=generator)  # fog heeds each image's own
    images = torch.randint(0, 256, (count, 3, side, side), generator=generator).minimum(brightest) / 255
    indices = torch.randint(0, 10**6, (count,), generator=generator)
    order = torch.randperm(count, generator=generator)
    try:
        torch.set_num_threads(2)
        together = corrupt(images, name, severity, seed=3, indices=indices)
        torch.set_num_threads(1)
        singles = [corrupt(images[i : i + 1], name, severity, seed=3, indices=indices[i : i + 1]) for i in range(alone)]
        assert torch.equal(torch.cat(singles), together[:alone])
        monkeypatch.setattr(corruption, "_CACHE", 7 * images[0].numel())
        permuted = corrupt(images[order], name, severity, seed=3, indices=indices[order])
        assert torch.equal(permuted, together[order])
        few = slice(count - 2, count)
        strided = torch.stack([images[few], images[few]], dim=-1)[..., 0]
        for layout in (strided, images[few].contiguous(memory_format=torch.channels_last)):
            assert not layout.is_contiguous()
            assert torch.equal(corrupt(layout, name, severity, seed=3, indices=indices[few]), together[few])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [32, 97, 224])
def test_a_filter_rounds_alike_at_every_place_of_a_batch(side, channels):
    """Before anything is truncated to 8 bits, which hides most of what differs; on 1 and 2 threads."""
    images = torch.rand(5, channels, side, side, generator=torch.Generator().manual_seed(0))
    angles, threads = torch.linspace(-2, -1, 5), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = filters.motion_blur(images, 10, 4, angles, "up")
        torch.set_num_threads(1)
        singles = [filters.motion_blur(images[i : i + 1], 10, 4, angles[i : i + 1], "up") for i in range(5)]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.cat(singles), together)


def test_indices_count_from_zero_by_default():
    images = tensor(natural(3, 32, 32))
    expected = corrupt(images, "fog", 3, indices=[0, 1, 2])
    assert torch.equal(corrupt(images, "fog", 3), expected)
    assert torch.equal(corrupt(images, "fog", 3, indices=np.arange(3)), expected)


@pytest.mark.parametrize("name", [*reference.RANDOM, "frost"])
def test_index_seed_and_severity_each_change_the_draw(name, fields):
    """Every field drawn differs, not only the pixels."""
    if name == "shot_noise":
        image = torch.full((1, 3, 32, 32), 0.5)
        drawn = [corrupt(image, name, 1, seed=seed, indices=[i]) for seed, i in ((0, 0), (1, 0), (0, 1))]
        assert all(not torch.equal(one, drawn[0]) for one in drawn[1:])
        return
    seen = {}
    for severity, seed, index in ((5, 0, 0), (5, 1, 0), (5, 0, 1), (4, 0, 0)):
        corrupt(tensor(natural(1, 32, 32)), name, severity, seed=seed, indices=[index])
        for purpose, field in fields.items():
            if purpose != "photograph":  # one of five: may well agree
                seen.setdefault((purpose, field.shape), []).append(field)
    assert seen
    for drawn in seen.values():
        assert all((one != other).any() for i, one in enumerate(drawn) for other in drawn[:i])


@pytest.mark.parametrize("name", sorted(set(reference.DETERMINISTIC)))
def test_deterministic_corruptions_do_not_heed_seed_or_index(name):
    images = tensor(natural(2, 32, 32))
    assert torch.equal(corrupt(images, name, 3), corrupt(images, name, 3, seed=8, indices=[7, 9]))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_world_is_left_as_found(name):
    """Images, and the global generators of torch, NumPy and Python."""
    images = tensor(natural(2, 32, 32))
    before, copy = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()), images.clone()
    corrupt(images, name, 4, quantise=False)
    assert torch.equal(images, copy)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_ambient_settings_change_no_pixel(name):
    """Autocast, inference mode, the default type, precision of products, a gradient asked for."""
    images = tensor(natural(1, 48, 48))
    expected = corrupt(images, name, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(corrupt(images, name, 3), expected)
    with torch.inference_mode():
        assert torch.equal(corrupt(images, name, 3), expected)
    assert torch.equal(corrupt(images.clone().requires_grad_(), name, 3), expected)
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(corrupt(images, name, 3), expected)
        assert torch.get_float32_matmul_precision() == "medium"
        torch.set_default_dtype(torch.float64)
        assert torch.equal(corrupt(images, name, 3), expected)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")


@pytest.mark.gpu
@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("side", "count"), [(32, 64), (224, 4)])
def test_a_gpu_makes_the_same_images(name, severity, side, count):
    """All but one value in 100,000 within one level of the CPU's."""
    images = tensor(natural(count, side, side))
    here = corrupt(images, name, severity)
    there = corrupt(images.cuda(), name, severity)
    assert there.is_cuda
    assert ((there.cpu() - here).abs() > 1.001 / 255).sum() <= max(1, here.numel() // 100_000)


# ------------------------------------------------------------------------------------ types and shapes


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_come_back_as_they_went(name, dtype):
    """The result is the float32 result of the same pixels, rounded to the type."""
    images = tensor(natural(2, 32, 32)).to(dtype)
    corrupted = corrupt(images, name, 3)
    assert corrupted.dtype == dtype
    assert torch.equal(corrupted, corrupt(images.float(), name, 3).to(dtype))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_empty_batch_stays_empty(name):
    assert corrupt(torch.rand(0, 3, 40, 50), name, 3, reencode=True).shape == (0, 3, 40, 50)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_quantising_truncates_what_it_is_given(name):
    """Without it the values lie up to a level higher, never lower."""
    images = tensor(natural(2, 32, 32))
    exact, quantised = corrupt(images, name, 2, quantise=False), corrupt(images, name, 2)
    difference = (exact - quantised) * 255
    assert difference.min() > -2e-3
    assert difference.max() < 1 + 1e-4
    levels(quantised)
    if name in ("gaussian_noise", "contrast", "fog", "elastic_transform", "speckle_noise"):
        inside = difference[(exact > 0) & (exact < 1)]
        assert inside.mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("colour", [(0, 0, 0), (1, 1, 1), (1e-7, 0, 0), (0.5, 0.5, 0.5), (0, 0, 1)])
@pytest.mark.parametrize("table", ["imagenet", "cifar"])
def test_flat_images_stay_finite_and_in_range(colour, table):
    for side in (32, 65):
        images = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, side, side).float()
        for name in CORRUPTIONS:
            for severity in (1, 5):
                corrupted = corrupt(images, name, severity, table=table, quantise=False)
                assert 0 <= corrupted.min() <= corrupted.max() <= 1, (name, severity)  # NaN fails


@pytest.mark.parametrize(
    "name", ["defocus_blur", "gaussian_blur", "zoom_blur", "motion_blur", "glass_blur", "contrast"]
)
def test_flat_images_keep_their_level_under_blur(name):
    for level in (1, 100, 254):
        images = torch.full((1, 3, 64, 64), level / 255)
        assert torch.equal(corrupt(images, name, 5), images)


@pytest.mark.parametrize("value", [0.0, 1e-7, 1e-5, 0.3])
def test_brightness_of_the_darkest_pixels(value):
    images = torch.full((1, 3, 32, 32), value)
    brighter = corrupt(images, "brightness", 1, quantise=False)
    torch.testing.assert_close(brighter, images + 0.05)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    name=st.sampled_from(CORRUPTIONS),
    severity=st.sampled_from(SEVERITIES),
    size=st.tuples(st.integers(32, 140), st.integers(32, 140)),
    seed=st.integers(-(2**70), 2**70),
    index=st.integers(-(2**63), 2**63 - 1),
    table=st.sampled_from(["imagenet", "cifar", None]),
)
def test_any_size_seed_and_index(name, severity, size, seed, index, table):
    """Shape, range, whole levels, and the same image beside another."""
    images = tensor(noisy(2, *size))
    address = {"seed": seed, "table": table}
    pair = corrupt(images, name, severity, indices=[17, index], **address)
    assert pair.shape == images.shape
    assert 0 <= pair.min() <= pair.max() <= 1
    levels(pair)
    assert torch.equal(corrupt(images[1:], name, severity, indices=[index], **address), pair[1:])


# -------------------------------------------------------------------------------------------- bad input


GOOD = torch.full((2, 3, 32, 32), 0.5)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": "gaussian_nois"}, ["'gaussian_nois'", "Did you mean 'gaussian_noise'?"]),
        ({"name": "Fog"}, ["'Fog'", "Did you mean 'fog'?"]),
        ({"name": "xyzzy"}, ["'xyzzy'", *CORRUPTIONS]),
        ({"severity": 0}, ["1 to 5", "got 0."]),
        ({"severity": 6}, ["1 to 5", "got 6."]),
        ({"severity": -1}, ["1 to 5", "got -1."]),
        ({"severity": True}, ["1 to 5", "got True."]),
        ({"severity": "3"}, ["1 to 5", "got '3'."]),
        ({"severity": 2.5}, ["1 to 5", "got 2.5."]),
        ({"images": torch.rand(1, 3, 31, 40)}, ["32 px", "31 x 40"]),
        ({"images": GOOD.clone().fill_(math.nan)}, ["[0,1]", "NaN"]),
        ({"images": GOOD + 0.75}, ["[0,1]", "1.25"]),
        ({"images": GOOD - 0.75}, ["[0,1]", "-0.25"]),
        ({"images": GOOD / 0}, ["[0,1]", "inf"]),
        ({"images": GOOD[:, :1]}, ["(B,3,H,W)", "(2, 1, 32, 32)"]),
        ({"images": GOOD[0]}, ["(B,3,H,W)", "(3, 32, 32)"]),
        ({"images": GOOD.permute(0, 2, 3, 1)}, ["(B,3,H,W)", "(2, 32, 32, 3)"]),
        ({"images": (GOOD * 255).byte()}, ["uint8", "255"]),
        ({"images": GOOD.numpy()}, ["a NumPy array"]),
        ({"indices": torch.arange(3)}, ["(2,)", "(3,)"]),
        ({"indices": torch.arange(2)[None]}, ["(2,)", "(1, 2)"]),
        ({"indices": [0.5, 1.5]}, ["indices", "float"]),
        ({"table": "imagnet"}, ["'imagnet'", "imagenet"]),
        ({"name": "frost", "frost": "/no/such/folder"}, ["/no/such/folder", "frost1.png", "frost5.jpg"]),
    ],
    ids=lambda value: re.sub(r"tensor\(.*\)", "tensor", str(value), flags=re.DOTALL),
)
def test_bad_input_is_told_in_one_line(arguments, told):
    call = {"images": GOOD, "name": "fog", "severity": 3} | arguments
    with pytest.raises(InputError) as caught:
        corrupt(**call)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in told), message


def test_one_bad_value_among_many_is_found():
    images = GOOD.clone()
    images[1, 2, 30, 31] = math.nan
    with pytest.raises(InputError, match="NaN"):
        corrupt(images, "fog", 1)
