"""Images and labels as callers give them are checked alike wherever a model takes some."""

import numpy as np
import pytest
import torch
from torch import nn

import statshift
from statshift import InputError, PixelAttack, RectifiedStream, attack_images, ligs, load_model, sweep
from statshift.adapting.rectify import rewrite
from statshift.hardening.landscape import landscape
from statshift.norms.divergence import divergence

pytestmark = pytest.mark.filterwarnings("ignore::statshift._core.errors.FewImagesWarning")  # images of noise are alike

LABELS = torch.arange(4) % 3
LEVELS = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
IMAGES = LEVELS / 255


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()


def within(model, images):
    with statshift.rectified(model, images):
        pass


TAKERS = {
    "rectify": statshift.rectify,
    "rectified": within,
    "rewrite": lambda model, images: rewrite(model, images, "replace"),
    "stream": lambda model, images: RectifiedStream(model)(images),
    "sweep": lambda model, images: sweep(model, lambda: [images]),
    "diagnose": statshift.diagnose,
    "divergence": lambda model, images: divergence(model, [images], [images]),
    "landscape": lambda model, images: landscape(model, images, LABELS, step_sizes=[0.1]),
    "ligs": lambda model, images: ligs(model, images, LABELS),
    "attack": lambda model, images: attack_images(model, images, LABELS, PixelAttack()),
    "frozen": lambda model, images: statshift.frozen(model)(images),
    "corrupt": lambda model, images: statshift.corrupt(images, "contrast", 1),
}
BARE = ("rectify", "rectified", "rewrite", "stream", "sweep", "diagnose", "divergence", "landscape")


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (LEVELS, r"torch\.uint8: divide 8-bit values by 255"),
        (LEVELS.float(), "values from 0 to 255: divide 8-bit values by 255"),
        (IMAGES * 2 - 1, "values from -1 to 1: normalization belongs into the model"),
        (IMAGES + torch.nan, "NaN"),
    ],
    ids=["uint8", "levels", "normalised", "nan"],
)
@pytest.mark.parametrize("take", TAKERS.values(), ids=list(TAKERS))
def test_a_model_in_pixel_space_refuses_other_pixels_and_is_left_as_found(take, images, got):
    if got == "NaN" and take is TAKERS["stream"]:
        pytest.skip("skipped and counted: tests/test_online.py")
    model = load_model(network())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=rf"^Expected pixels in \[0,1\], but got {got}"):
        take(model, images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    take(model, IMAGES)


@pytest.mark.parametrize("take", [TAKERS[name] for name in BARE], ids=BARE)
def test_a_bare_module_takes_images_as_they_are(take):
    take(network(), IMAGES * 4 - 2)


def test_the_range_of_a_compiled_or_parallel_model_is_that_of_the_model():
    for wrapped in (nn.DataParallel(load_model(network())), torch.compile(load_model(network()))):
        with pytest.raises(InputError, match="divide 8-bit values by 255"):
            statshift.rectify(wrapped, LEVELS.float())


def test_a_model_in_pixel_space_never_divides_integers_by_itself():
    with pytest.raises(InputError, match=r"but got torch\.uint8: divide 8-bit values by 255"):
        load_model(network())(LEVELS)


@pytest.mark.parametrize("take", TAKERS.values(), ids=list(TAKERS))
def test_numpy_images_are_told_of_in_one_line(take):
    with pytest.raises(InputError, match=r"^Expected images \(B,3,H,W\), but got a NumPy array of shape \(4, 3, 32"):
        take(load_model(network()), IMAGES.numpy())


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int16])
def test_labels_of_any_integers_are_the_same_labels(kind):
    model = load_model(network())
    for answer in (
        lambda labels: attack_images(model, IMAGES, labels, PixelAttack(8 / 255, steps=2)),
        lambda labels: ligs(model, IMAGES, labels).values,
    ):
        assert torch.equal(answer(LABELS.to(kind)), answer(LABELS))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS + 1, "Expected labels from 0 to 2, the model's classes, but got 3"),
        (LABELS - 1, "Expected labels from 0 to 2, the model's classes, but got -1"),
        (LABELS / 2, r"Expected labels \(B,\) as integers, but got torch\.float32"),
        (np.arange(4), r"Expected labels \(B,\) as a tensor, but got a NumPy array"),
        (LABELS[:3], r"Expected images \(B,3,H,W\) and labels \(B,\), but got \(4, 3, 32, 32\) and \(3,\)"),
    ],
)
@pytest.mark.parametrize("target", ["none", "next"])
def test_labels_that_do_not_fit_are_refused(labels, message, target):
    model = load_model(network())
    with pytest.raises(InputError, match=message):
        attack_images(model, IMAGES, labels, PixelAttack(target=target))
    with pytest.raises(InputError, match=message):
        ligs(model, IMAGES, labels)
