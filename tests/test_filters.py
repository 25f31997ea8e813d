"""Photo filters: pixels against pilgram, pilgram2 and loops over pixels, and accuracies on filtered photographs."""

import colorsys
import json
import math

import numpy as np
import pilgram
import pilgram2
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

import training_jobs
from statshift import InputError, Shift, load_data, load_model, measure
from statshift.models import PixelModel
from statshift.shifts.conditions import Condition, conditions, resolve
from statshift.shifts.filters import levels, steps
from statshift.shifts.filters.filter import Filter
from statshift.shifts.registry import FILTERS, INSTAGRAM, SHIFTS, averaged, family_of
from statshift.shifts.shift import under

SIZES = [(41, 64), (70, 32), (48, 48)]
"""Height and width: the packages draw gradients otherwise where an image is square."""
PHOTOGRAPHS = load_sample_images().images
BY_COMMANDS = tuple(name for name in FILTERS if name.endswith("-im"))


def pictures(height, width):
    """Return (3,H,W,3) 8-bit: random pixels, and two photographs."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    photographs = (np.asarray(Image.fromarray(one).resize((width, height))) for one in PHOTOGRAPHS)
    return np.stack([noise, *photographs])


def tensors(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 255


def filtered(name, images):
    """Return 8-bit images (B,H,W,3), as integers, under a filter."""
    done = under(SHIFTS[name].load(), tensors(images), 0, seed=0, indices=torch.arange(len(images)))
    found = done * 255
    assert torch.allclose(found, found.round(), atol=1e-4)
    return found.round().int().permute(0, 2, 3, 1).numpy()


def attribute(name):
    return "_1977" if name == "1977" else name.removesuffix("-pilgram2")


def packages():
    """Return each filter beside what a package has for it."""
    for package in (pilgram, pilgram2):
        for name in FILTERS:
            own = name != "aden" if package is pilgram2 else not name.endswith("-pilgram2")
            if own and hasattr(package, attribute(name)):
                yield pytest.param(name, getattr(package, attribute(name)), id=f"{package.__name__}-{name}")


def test_every_filter_of_both_packages_is_there():
    for package, count in ((pilgram, 26), (pilgram2, 40)):
        names = {name.lstrip("_") for name in package.__all__ if name != "__version__"}
        assert len(names) == count
        assert names <= set(FILTERS)
    assert len(FILTERS) == 26 + 14 + 1 + 5
    assert BY_COMMANDS == ("gotham-im", "kelvin-im", "lomo-im", "nashville-im", "toaster-im")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "reference"), [*packages()])
def test_filters_are_those_of_the_packages(name, reference, size):
    images = pictures(*size)
    expected = np.stack([np.asarray(reference(Image.fromarray(image)), dtype=int) for image in images])
    assert np.abs(filtered(name, images) - expected).max() <= 1
    assert np.abs(expected - images).mean() > 2  # the filter does something


def test_where_the_packages_part_both_are_there():
    first, second = (filtered(name, pictures(41, 64)) for name in ("aden", "aden-pilgram2"))
    assert np.abs(first - second).max() > 30


# ImageMagick's commands, by loops over pixels


def modulated(pixel, lightness, saturation):
    hue, light, saturated = colorsys.rgb_to_hls(*pixel)
    light, saturated = light * lightness, saturated * saturation
    chroma = (1 - abs(2 * light - 1)) * saturated  # colorsys itself expects them in [0,1]
    turns = ((hue * 6 + offset) % 6 for offset in (0, 4, 2))
    shares = (min(max(abs(turn - 3) - 1, 0), 1) for turn in turns)
    return clip(light + chroma * (share - 0.5) for share in shares)


def contrasted(pixel):
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    value += 0.5 * (0.5 * (math.sin(math.pi * (value - 0.5)) + 1) - value)
    return colorsys.hsv_to_rgb(hue, saturation, value)


def clip(pixel):
    return tuple(min(max(value, 0.0), 1.0) for value in pixel)


def power(pixel, exponent):
    return tuple(value**exponent for value in pixel)


def toned(pixel, colour, negate):
    grey = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]
    grey = 1 - grey if negate else grey
    return tuple((1 - grey) * value + grey * paint / 255 for value, paint in zip(pixel, colour, strict=True))


def tinted(pixel, colour, alpha):
    return tuple(value * (1 - alpha + alpha * paint / 255) for value, paint in zip(pixel, colour, strict=True))


def auto_gamma(pixels):
    return math.log(0.5) / math.log(sum(map(sum, pixels)) / (3 * len(pixels)))


def distances(height, width):
    """Return how far out each pixel lies, on the vignette from whose centre the image's part is cut."""
    tall, wide = int(1.5 * height), int(1.5 * width)
    for row in range(height):
        for column in range(width):
            across, down = column + (wide - width) // 2 - wide / 2, row + (tall - height) // 2 - tall / 2
            yield min(math.sqrt(across**2 + down**2) / (max(tall, wide) / 2), 1)


def stored(pixels):
    return [tuple(round(255 * value) / 255 for value in clip(pixel)) for pixel in pixels]


def by_commands(name, image):
    """Return an 8-bit image (H,W,3) after the published commands of a filter."""
    pixels = [tuple(pixel) for pixel in (image.reshape(-1, 3) / 255).tolist()]
    out = list(distances(*image.shape[:2]))
    navy, sand, maroon = (34, 43, 109), (247, 218, 174), (51, 0, 0)
    if name == "gotham-im":
        pixels = [modulated(pixel, 1.2, 0.1) for pixel in pixels]
        pixels = [
            tuple(0.8 * value + 0.2 * paint / 255 for value, paint in zip(pixel, navy, strict=True)) for pixel in pixels
        ]
        pixels = [contrasted(contrasted(power(pixel, 2))) for pixel in pixels]
    elif name == "kelvin-im":
        gamma = auto_gamma(pixels)
        pixels = [tinted(modulated(power(pixel, gamma), 1.2, 0.5), (255, 153, 0), 0.5) for pixel in pixels]
    elif name == "lomo-im":
        pixels = stored(((red - 0.33) / 0.34, (green - 0.33) / 0.34, blue) for red, green, blue in pixels)
        pixels = [tinted(pixel, (0, 0, 0), far) for pixel, far in zip(pixels, out, strict=True)]
    elif name == "nashville-im":
        pixels = stored(toned(pixel, navy, True) for pixel in pixels)
        pixels = stored(toned(pixel, sand, False) for pixel in pixels)
        pixels = [modulated(contrasted(pixel), 1, 1.5) for pixel in pixels]
        gamma = auto_gamma(pixels)
        pixels = [power(pixel, gamma) for pixel in pixels]
    elif name == "toaster-im":
        pixels = stored(toned(pixel, maroon, True) for pixel in pixels)
        pixels = (power(modulated(pixel, 1.5, 0.8), 1 / 1.2) for pixel in pixels)
        pixels = stored(contrasted(contrasted(pixel)) for pixel in pixels)
        pixels = stored(tinted(pixel, (205, 193, 197), far) for pixel, far in zip(pixels, out, strict=True))
        pixels = [tinted(pixel, (255, 153, 102), 1 - far) for pixel, far in zip(pixels, out, strict=True)]
    return (np.array(stored(pixels)) * 255).round().reshape(image.shape)


@pytest.mark.parametrize("name", BY_COMMANDS)
def test_filters_by_commands_are_their_published_steps(name):
    images = pictures(23, 32)
    images[0, :2] = [[[0]], [[255]]]  # rows of black and white
    expected = np.stack([by_commands(name, image) for image in images])
    assert np.abs(filtered(name, images) - expected).max() <= 1
    assert np.abs(expected - images).mean() > 10
    if (css := name.removesuffix("-im")) in FILTERS:
        assert np.abs(filtered(css, images) - expected).mean() > 10


# The shift


@pytest.mark.parametrize("name", FILTERS)
def test_pixels_depend_on_the_image_alone(name):
    """Not on the batch, the order, the layout in memory or the precision of the images; these are left as they are."""
    shift = SHIFTS[name].load()
    images = tensors(pictures(30, 40)).repeat(50, 1, 1, 1)
    kept = images.clone()
    together = under(shift, images, 0, seed=0, indices=torch.arange(150))
    assert torch.equal(images, kept)
    for place in (0, 149):
        alone = under(shift, images[place : place + 1], 0, seed=5, indices=torch.tensor([7]))
        assert torch.equal(alone[0], together[place])
    layout = under(shift, images.to(memory_format=torch.channels_last), 0, seed=0, indices=torch.arange(150))
    assert torch.equal(layout, together)
    double = under(shift, images[:3].double(), 0, seed=0, indices=torch.arange(3))
    assert double.dtype == torch.float64
    assert torch.equal((double * 255).round(), (together[:3] * 255).round().double())


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("value", [0, 255])
def test_a_pixel_a_black_and_a_white_image_are_images_too(name, value):
    for size in ((1, 1), (1, 5), (5, 1)):
        found = filtered(name, np.full((1, *size, 3), value, dtype=np.uint8))
        assert found.min() >= 0
        assert found.max() <= 255


def test_tables_that_follow_one_another_are_one():
    shade, bright = steps.fill(levels.overlay, 10, 200, 90, 0.3), steps.brightened(0.9)
    made = (shade, steps.contrasted(1.3), bright, steps.saturated(1.4), steps.contrasted(0.8), bright)
    merged = Filter("merged", made).steps
    assert len(merged) == 3
    images = torch.arange(256.0).view(1, 1, 16, 16).expand(-1, 3, -1, -1)
    assert torch.equal(steps.stepped(merged, images), steps.stepped(made, images))


def test_names_groups_and_families():
    assert len(INSTAGRAM) == 21
    assert set(INSTAGRAM) < set(FILTERS)
    assert [shift.name for shift in resolve(["instagram", "1977"])] == [*INSTAGRAM]
    found = resolve("filters")
    assert [shift.name for shift in found] == [*FILTERS]
    assert all(isinstance(shift, Shift) and shift.family == "filter" for shift in found)
    assert conditions(found[:2], (3, 5)) == [Condition("1977", 0), Condition("aden", 0)]
    assert averaged({"1977": family_of("1977"), "fog": family_of("fog")}) == ["fog"]


@pytest.mark.filterwarnings("ignore::statshift._core.errors.StatshiftWarning")  # of a network that knows nothing
def test_measured_beside_corruptions():
    digits = load_data("digits", limit=40)
    model = PixelModel(training_jobs.build(), num_classes=10)
    run = measure(model, digits, shifts=["clean", "fog", "1977", "gotham-im"], severities=[3], device="cpu")
    found = {(row["shift"], row["severity"]): row["correct"] for row in run.rows}
    assert list(found) == [("clean", 0), ("fog", 3), ("1977", 0), ("gotham-im", 0)]
    images = next(iter(digits.batches(40)))[0] / 255
    for name in ("1977", "gotham-im"):
        logits = model(under(SHIFTS[name].load(), images, 0, seed=0, indices=torch.arange(40)))
        assert found[name, 0] == (logits.argmax(1).numpy() == digits.labels).sum()


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.zeros(1, 1, 8, 8), r"Expected images \(B,3,H,W\), RGB, but got shape \(1, 1, 8, 8\)"),
        (torch.full((1, 3, 8, 8), 1.5), r"\[0,1\]"),
    ],
)
def test_images_that_cannot_be_filtered_are_refused(images, told):
    with pytest.raises(InputError, match=told):
        under(SHIFTS["1977"].load(), images, 0, seed=0, indices=torch.arange(1))


@pytest.mark.slow
def test_accuracies_on_filtered_photographs(shared):
    """Within 0.6 points of a network's accuracies on photographs that pilgram filtered."""
    expected = json.loads((shared / "reference/filters_mobilenet.json").read_text())["accuracy"]
    data = load_data(f"npz:{shared / 'data/imagenet_sample_500.npz'}")
    model = load_model(
        f"py:{shared / 'data/mobilenet_v1_025.py'}:mobilenet_v1_025",
        weights=shared / "data/imagenet_mobilenet_v1_025.tar",
    )
    names = [name.lstrip("_") for name in expected]
    found = {row["shift"]: row["correct"] / 500 for row in measure(model, data, shifts=names).rows}
    assert found == {
        name: pytest.approx(accuracy, abs=0.006) for name, accuracy in zip(names, expected.values(), strict=False)
    }
