"""Fast AutoAugment: the published policies, operations against torchvision's on tensors, draws, and a training."""

import math
import random
from collections import Counter
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as V

from statshift import load_data
from statshift.hardening import fast_autoaugment as module
from statshift.hardening.augmentation import Augmentation
from statshift.hardening.fast_autoaugment import RANGES, SIGNED, fast_autoaugment, operated, policy_of
from statshift.hardening.from_scratch import train_from_scratch
from statshift.hardening.options import HardenOptions
from statshift.hardening.training import TrainingOptions

CHANCE = 1e-5
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
IMAGE = Image.fromarray(PIXELS)
TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1)


class Signs(Random):
    """Draws 0 (turned the other way) or 1, and places as told."""

    def __init__(self, value, place=0.5):
        super().__init__(0)
        self.value, self.place = value, place

    def random(self):
        return self.value

    def uniform(self, low, high):
        return low + self.place * (high - low)


def made(name, level, **draws):
    image = operated(IMAGE, name, level, Signs(**({"value": 0.9} | draws)))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


# The policies


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        (
            "cifar10",
            493,
            (
                ("Contrast", 0.8320659688593578, 0.49884310562180767),
                ("TranslateX", 0.41849883971249136, 0.394023086494538),
            ),
            (("Cutout", 0.7550520024859294, 0.08982367300605598), ("ShearX", 0.5844942417320858, 0.36051195083380105)),
        ),
        (
            "imagenet",
            498,
            (("ShearY", 0.14143816458479197, 0.513124791615952), ("Sharpness", 0.9290316227291179, 0.9788406212603302)),
            (
                ("AutoContrast", 0.5404508567155423, 0.7472387762067986),
                ("Equalize", 0.05649876539221024, 0.5628180219887216),
            ),
        ),
    ],
)
def test_policies_are_those_published(name, count, first, last):
    pairs = policy_of(name)
    assert len(pairs) == len(set(pairs)) == count
    for ours, theirs in ((pairs[0], first), (pairs[-1], last)):
        for (operation, *numbers), (expected, *printed) in zip(ours, theirs, strict=True):
            assert operation == expected
            assert numbers == pytest.approx(printed, abs=5.1e-5)
    assert {operation for pair in pairs for operation, _, _ in pair} == set(RANGES)
    assert all(0 <= number <= 1 for pair in pairs for _, *numbers in pair for number in numbers)


# The operations


@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 0.81, 1.0])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AutoContrast", lambda image, _: V.autocontrast(image)),
        ("Invert", lambda image, _: V.invert(image)),
        ("Equalize", lambda image, _: V.equalize(image)),
        ("Solarize", lambda image, level: torch.where(image < 256 * level, image, 255 - image)),
        ("Posterize", lambda image, level: V.posterize(image, int(4 + 4 * level))),
        ("Contrast", lambda image, level: V.adjust_contrast(image, 0.1 + 1.8 * level)),
        ("Color", lambda image, level: V.adjust_saturation(image, 0.1 + 1.8 * level)),
        ("Brightness", lambda image, level: V.adjust_brightness(image, 0.1 + 1.8 * level)),
        ("Sharpness", lambda image, level: V.adjust_sharpness(image, 0.1 + 1.8 * level)),
    ],
)
def test_what_draws_nothing_is_torchvisions_on_tensors(name, expected, level):
    assert name not in SIGNED
    difference = (made(name, level).int() - expected(TENSOR, level).int()).abs()
    assert int(difference.max()) <= 2  # Pillow rounds grey, and what is mixed with it
    assert float(difference.float().mean()) < 0.6


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("level", [0.0, 0.25, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_what_moves_is_a_numpy_loop(name, level, turned):
    (low, high), (height, width, _) = RANGES[name], PIXELS.shape
    value = (low + level * (high - low)) * (-1 if turned else 1)
    expected = np.zeros_like(PIXELS)
    for y in range(height):
        for x in range(width):
            across = {"ShearX": value * (y + 0.5), "TranslateX": value * width}.get(name, 0)
            down = {"ShearY": value * (x + 0.5), "TranslateY": value * height}.get(name, 0)
            source_x, source_y = math.floor(x + 0.5 + across), math.floor(y + 0.5 + down)
            if 0 <= source_x < width and 0 <= source_y < height:
                expected[y, x] = PIXELS[source_y, source_x]
    found = made(name, level, value=0.1 if turned else 0.9).permute(1, 2, 0).numpy()
    assert (found != expected).any(axis=2).mean() < 0.01  # Pillow's places are of 16 bits


@pytest.mark.parametrize("turned", [False, True])
def test_rotation_is_torchvisions(turned):
    angle = (-30 + 60 * 0.7) * (-1 if turned else 1)
    difference = made("Rotate", 0.7, value=0.1 if turned else 0.9) != V.rotate(TENSOR, angle)
    assert float(difference.float().mean()) < 0.03  # at ties between neighbours


@pytest.mark.parametrize(
    ("level", "place", "box"), [(1.0, 0.5, (16, 11, 24, 19)), (0.5, 0.0, (0, 0, 4, 4)), (1.0, 1.0, (36, 26, 40, 30))]
)
def test_a_cutout_is_a_grey_square_cut_at_the_border(level, place, box):
    left, top, right, bottom = box  # a fifth of the width at most, its last row and column drawn too
    expected = PIXELS.copy()
    expected[top : bottom + 1, left : right + 1] = (125, 123, 114)
    assert np.array_equal(made("Cutout", level, value=0.9, place=place).permute(1, 2, 0).numpy(), expected)
    assert operated(IMAGE, "Cutout", 0.0, Random(0)) is IMAGE


# The draws


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_each_operation_comes_as_often_as_the_policy_says(name, monkeypatch):
    met, pairs, rounds = Counter(), policy_of(name), 40_000

    def count(image, operation, level, rng):
        met[operation, level] += 1
        return image

    monkeypatch.setattr(module, "operated", count)
    rng = Random(5)
    for _ in range(rounds):
        fast_autoaugment(IMAGE, name, rng)
    share = dict.fromkeys(RANGES, 0.0)
    for pair in pairs:
        for operation, probability, _ in pair:
            share[operation] += probability / len(pairs)
    for operation, expected in share.items():
        found = sum(count for (one, _), count in met.items() if one == operation)
        # An operation may come twice in a pair: its count has at most twice a binomial's variance.
        assert abs(found - rounds * expected) < 5 * math.sqrt(2 * rounds * expected)
    assert len(met) > 950  # all levels are met


@pytest.mark.parametrize(("photographs", "policy"), [(False, "cifar10"), (True, "imagenet")])
def test_the_policy_goes_before_the_crop(photographs, policy):
    shape = (3, 64, 64) if photographs else (3, 32, 32)
    how = {"resize": 72, "crop": 64, "interpolation": "bilinear"} if photographs else {"interpolation": "bilinear"}
    how = {"resize": None, "crop": None} | how
    image = Image.fromarray(
        np.random.default_rng(1).integers(0, 256, (90, 70, 3) if photographs else (32, 32, 3), np.uint8)
    )
    changed = 0
    for index in range(20):
        augment, standard = (Augmentation(name, shape, how, 3) for name in ("fast-autoaugment", "standard"))
        before = fast_autoaugment(image, policy, random.Random(augment._seeds(1, index)[1]))
        assert torch.equal(augment(image, 1, index), standard(before, 1, index))
        changed += not torch.equal(augment(image, 1, index), standard(image, 1, index))
    assert changed > 12


# A training


def test_a_network_trains_by_it(tmp_path):
    data = load_data("digits:train", limit=40)
    training = TrainingOptions(epochs=1, batch_size=20, learning_rate=0.01, augment="fast-autoaugment")
    arguments = {"model_args": {"width": 0.1}, "device": "cpu"}
    first, second = (
        train_from_scratch("cifar:resnet20", data, HardenOptions("standard", training=one), **arguments)
        for one in (training, TrainingOptions(epochs=1, batch_size=20, learning_rate=0.01))
    )
    assert first.record["hardening"]["training"]["augment"] == "fast-autoaugment"
    assert not torch.equal(first.model.network.linear.weight, second.model.network.linear.weight)
