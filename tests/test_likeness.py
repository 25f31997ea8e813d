"""As how many images they count: copies, clusters, different images; and what `auto` then does, on real images."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from statshift import load_model
from statshift._core.errors import FewImagesWarning
from statshift.adapting.online import RectifiedStream
from statshift.adapting.rectify import rectified, rectify
from statshift.norms.layers import batch_norms
from statshift.norms.likeness import class_agreement, effective_images, know_neighbours, likeness, without_noise

pytestmark = pytest.mark.usefixtures("one_thread")


def counted(scenes, frames, jitter=0.0):
    """Return as how many images so many frames of so many scenes count, over two layers of 64 channels."""
    generator = torch.Generator().manual_seed(0)
    means, apart = [], []
    for _ in range(2):
        own = torch.randn(scenes, 64, generator=generator).mul(0.3).repeat_interleave(frames, 0)
        own += jitter * torch.randn(own.shape, generator=generator)
        means.append(own / 8)
        apart.append(torch.tensor(0.05))
    return effective_images(likeness(means, apart)).item()


@pytest.mark.parametrize(("jitter", "tolerance"), [(0, 1e-5), (0.03, 0.1)])
@pytest.mark.parametrize(("scenes", "frames"), [(1, 2), (1, 32), (2, 16), (4, 8), (8, 4), (32, 1)])
def test_frames_of_a_scene_count_as_one_and_different_images_each(scenes, frames, jitter, tolerance):
    assert counted(scenes, frames, jitter) == pytest.approx(scenes, rel=tolerance)


def fields(images, side=32):
    """Return pictures (n,3,side,side) of smooth random fields with a little noise."""
    generator = torch.Generator().manual_seed(images)
    coarse = torch.rand(images, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
    return (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


def noise(images, side=32):
    return torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(images))


def test_pictures_are_told_from_noise_by_what_neighbours_know_of_each_other():
    images = torch.cat([fields(3), noise(3), torch.full((1, 3, 32, 32), 0.5)])
    deviations = []
    for image in images.numpy().astype(float):
        apart = image - image.mean((1, 2), keepdims=True)
        pairs = [apart[c, y, x] * apart[c, y, x + 1] for c in range(3) for y in range(32) for x in range(31)]
        pairs += [apart[c, y, x] * apart[c, y + 1, x] for c in range(3) for y in range(31) for x in range(32)]
        deviations.append(np.sum(pairs) / np.sqrt(len(pairs)) / max(np.mean(apart**2), 1e-30))
    assert know_neighbours(images).tolist() == [one > 3 for one in deviations] == [True] * 3 + [False] * 4


def test_in_the_place_of_noise_others_are_looked_at():
    images = torch.cat([noise(2), fields(2), torch.zeros(1, 3, 32, 32), fields(3)[2:]])
    seen, replaced = without_noise(images)
    assert torch.equal(seen[[2, 3, 5]], images[[2, 3, 5]])
    assert torch.equal(seen[[0, 1, 4]], images[[3, 5, 2]])
    assert replaced
    for alike in (fields(4), noise(4), torch.cat([noise(3), fields(2)])):  # most of what stays may be what is meant
        seen, replaced = without_noise(alike)
        assert torch.equal(seen, alike)
        assert not replaced


def test_noise_among_pictures_does_not_move_auto_and_is_answered_as_itself():
    model = load_model("cifar:resnet20", model_args={"width": 0.25}).eval()
    broken, whole = torch.cat([fields(4), noise(4)]), fields(4).repeat(2, 1, 1, 1)[[0, 1, 2, 3, 5, 6, 7, 4]]
    found, expected = (batch_norms(rectify(model, images)) for images in (broken, whole))
    assert all(torch.equal(found[name].running_mean, expected[name].running_mean) for name in found)
    stream = RectifiedStream(model, window=8, every=8)
    answers = stream(broken)
    assert torch.equal(answers, stream.model(broken))
    assert not torch.allclose(answers[4:], answers[[1, 2, 3, 0]])


def test_likeness_falls_to_nothing_at_half_of_what_quarters_differ():
    apart = [torch.tensor(0.5)]  # so the squared distance of two quarters is 1
    for squared, alike in ((0.0, 1), (0.125, 0.75), (0.25, 0.5), (0.5, 0), (0.7, 0)):
        found = likeness([torch.tensor([[0.0], [squared**0.5]])], apart)
        np.testing.assert_allclose(found, [[1, alike], [alike, 1]], atol=1e-6)
        assert effective_images(found).item() == pytest.approx(4 / (2 + 2 * alike))


def surely(classes, of=10):
    """Return logits that are sure of these classes."""
    return 100.0 * torch.nn.functional.one_hot(torch.tensor(classes), of)


@pytest.mark.parametrize(
    ("classes", "agreement"),
    [
        ([3] * 20, 20 * 19 / 21**2),  # one class: all but each with itself
        ([3, 7] * 10, 20 * (9 - 10 / 9) / 21**2),  # 9 of the 19 others agree, and 10 do less than chance
        (list(range(10)) * 2, 0),  # balanced: 1 of 19 others, under the chance of 1/10
        ([0, 1], 0),
    ],
)
def test_classes_agree_by_how_much_more_often_than_chance(classes, agreement):
    different = torch.eye(len(classes), dtype=torch.float64)
    assert class_agreement(different, surely(classes)).item() == pytest.approx(agreement, abs=1e-12)


def test_soft_predictions_agree_as_draws_from_them_do():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + torch.arange(4)
    shares = logits.exp() / logits.exp().sum(1, keepdim=True)
    drawn = torch.multinomial(shares, 40000, replacement=True, generator=torch.Generator().manual_seed(1))  # (6,draws)
    pairs = [(drawn[i] == drawn[j]).double().mean() for i in range(6) for j in range(6) if i != j]
    expected = (sum(pairs) / 30 - 1 / 4) / (1 - 1 / 4) * 30 / 49
    assert class_agreement(torch.eye(6, dtype=torch.float64), logits).item() == pytest.approx(expected.item(), rel=0.03)


def test_independent_images_of_balanced_classes_do_not_agree_on_average():
    generator = np.random.default_rng(0)
    draws = [generator.integers(10, size=256) for _ in range(20)]
    found = [class_agreement(torch.eye(256), surely(draw.tolist())).item() for draw in draws]
    assert np.mean(found) < 1 / 256  # less than what sampling adds


def test_classes_without_anything_in_common_agree_as_without_a_linear_layer():
    model = torch.nn.Linear(10, 10).requires_grad_(False).double()
    model.weight.copy_(torch.eye(10) + 0.3)  # what all rows share does not count
    logits = torch.randn(12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + torch.arange(10)
    alike = torch.eye(12, dtype=torch.float64)
    expected = class_agreement(alike, logits).item()
    assert expected > 0.1
    assert class_agreement(alike, logits, model).item() == pytest.approx(expected, rel=1e-9)


def test_like_classes_agree_by_the_cosine_of_their_directions():
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(2, 4)).requires_grad_(False).double()
    angle = np.deg2rad([0, 60, 180, 240])
    model[1].weight.copy_(5 * torch.tensor(np.stack([np.cos(angle), np.sin(angle)], 1)))
    pair = torch.eye(2, dtype=torch.float64)
    for classes, cosine in (([0, 1], 0.5), ([0, 2], -1), ([0, 3], -0.5), ([1, 1], 1)):
        found = class_agreement(pair, surely(classes, of=4), model).item()
        assert found == pytest.approx(max(0, cosine * 2 / 9), abs=1e-9)  # two pairs of different images, of 9
    assert class_agreement(pair, surely([0, 1], of=3), model).item() == 0  # no layer has three classes


def test_near_copies_agree_no_further():
    alike = torch.block_diag(*[torch.ones(8, 8)] * 4)
    assert class_agreement(alike, surely([c for c in (0, 1, 2, 3) for _ in range(8)])).item() == 0
    assert class_agreement(torch.ones(8, 8), surely([5] * 8)).item() == 0
    two_of_one_class = class_agreement(alike, surely([c for c in (0, 0, 1, 2) for _ in range(8)])).item()
    assert two_of_one_class == pytest.approx((2 - 10 / 9) * 8**2 / 33**2, abs=1e-6)


@pytest.mark.parametrize("output", [None, torch.zeros(4, 1), torch.zeros(4, 3, 2, 2), torch.zeros(2, 3), {"out": 1}])
def test_nothing_is_told_by_what_are_no_logits_of_classes(output):
    assert class_agreement(torch.eye(4), output).item() == 0


def test_a_protocol_of_ones_own_is_offered_what_it_names():
    model, images = load_model("cifar:resnet20"), torch.full((4, 3, 32, 32), 0.5)
    seen = []

    def own(stored, observed, images, *, effective, eps):
        seen.append((effective.item(), eps))
        return stored

    with pytest.warns(
        FewImagesWarning,
        match="copies, frames of one or two scenes, pictures of nothing, or images in which the model sees one",
    ):
        rectify(model, images, own)
    assert seen == [(pytest.approx(1), 1e-5)] * 19
    rectify(model, images[:1], own)  # of one image there is nothing to warn of


@pytest.fixture(scope="module")
def trained(shared):
    """A trained network, clean images of CIFAR-10's test set, their labels, and the network's accuracy on them."""
    data = shared / "data"
    with np.load(data / "cifar10_test_1000.npz") as file:
        images, labels = file["images"], file["labels"]
    model = load_model("cifar:resnet20", weights=data / "cifar10_resnet20.th")
    images, labels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)
    return model, images, labels, accuracy(model, images, labels)


@torch.no_grad()
def accuracy(model, images, labels):
    return 100 * (model(images[:500]).argmax(1) == labels[:500]).float().mean().item()


CASES = {  # scenes, frames of each, and deviation of the sensor's noise
    "copies": ([0], 32, 0),
    "two equal images": ([5], 2, 0),
    "a still scene": ([0], 32, 0.01),
    "two scenes": ([1, 2], 16, 0.01),
    "four scenes": ([0, 5, 9, 12], 8, 0.01),
}


def frames_of(images, scenes, frames, noise):
    taken = images[scenes].repeat_interleave(frames, 0)
    return (taken + noise * torch.randn(taken.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


@pytest.mark.parametrize("case", CASES)
def test_auto_costs_clean_images_at_most_a_point_where_images_are_alike(trained, case):
    model, images, labels, before = trained
    scenes, frames, noise = CASES[case]
    alike = pytest.warns(FewImagesWarning) if len(scenes) <= 2 else nullcontext()
    with alike, rectified(model, frames_of(images, scenes, frames, noise)):
        adapted = accuracy(model, images, labels)
    assert adapted >= before - 1


def test_a_stream_of_a_still_scene_costs_at_most_a_point(trained):
    model, images, labels, before = trained
    stream = RectifiedStream(model, window=32, every=32)
    with pytest.warns(FewImagesWarning):
        list(map(stream, frames_of(images, [0], 32, 0.01).split(8)))
    assert accuracy(stream.model, images, labels) >= before - 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_flat_pictures_are_warned_of_and_cost_at_most_a_point(trained, value):
    model, images, labels, before = trained
    with pytest.warns(FewImagesWarning), rectified(model, torch.full((32, 3, 32, 32), value)):
        adapted = accuracy(model, images, labels)
    assert adapted >= before - 1
