"""Augmentation: addressed pixels against NumPy loops and torchvision, distributions, and what is left alone."""

import pickle
import random
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomResizedCrop, v2

from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.data import load_data
from statshift.hardening.augmentation import AUGMENTATIONS, Augmentation, _box, augmentation_for, cutmix, windowed

CHANCE = 1e-5  # at most this share of right implementations would fail each statistical test
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 32, 40, 3), np.uint8)
SMALL = {"resize": None, "crop": None, "interpolation": "bilinear"}
PHOTOGRAPHS = {"resize": 72, "crop": 64, "interpolation": "bicubic"}

# Pixels that say where they come from, in a 32 px image: row + 1, column + 1; zeros are padding.
PLACES = np.stack([*(np.mgrid[:32, :32] + 1), np.full((32, 32), 255)], axis=2).astype(np.uint8)

forks = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def photograph(width=90, height=70):
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([rows * 3, columns * 2, (rows * columns) % 256], axis=2).astype(np.uint8))


def make(name, *, photographs=False, seed=0):
    shape, how = ((3, 64, 64), PHOTOGRAPHS) if photographs else ((3, 32, 32), SMALL)
    return Augmentation(name, shape, how, seed)


def image_of(photographs):
    return photograph() if photographs else Image.fromarray(PLACES)


def to_pil(view):
    return Image.fromarray(view.permute(1, 2, 0).numpy())


def channels_first(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.fixture
def folder(tmp_path):
    """Two class folders with the images of PIXELS; image i of the data set is PIXELS[i]."""
    for index, image in enumerate(PIXELS):
        path = tmp_path / "tree" / "ab"[index // 6] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "tree"


@pytest.fixture
def packed(tmp_path):
    np.savez(tmp_path / "images.npz", images=PIXELS, labels=np.arange(12) % 3)
    return f"npz:{tmp_path / 'images.npz'}"


# Geometry


@pytest.mark.parametrize("how", [{}, {"resize": 48}, {"resize": 48, "crop": 36}])
def test_none_is_the_evaluation_preprocessing(packed, how):
    data = load_data(packed, **how)
    groups = [np.array([3, 1]), np.arange(12)]
    plain = augmentation_for("none", data).at(7)
    for (made, positions), (expected, _) in zip(data.augmented(groups, plain), data.groups(groups), strict=True):
        assert made.shape == (len(positions), 1, *data.shape)
        assert torch.equal(made[:, 0], expected)


def window_of(made):
    """Return (top, left, flipped) of a window of PLACES padded by 4 px, after comparing every pixel."""
    made = made[0].permute(1, 2, 0).numpy()
    flipped = bool(made[16, 16, 1] < made[16, 15, 1])
    upright = made[:, ::-1] if flipped else made
    top, left = 4 + int(upright[16, 16, 0]) - 17, 4 + int(upright[16, 16, 1]) - 17
    padded = np.pad(PLACES, ((4, 4), (4, 4), (0, 0)))
    assert np.array_equal(upright, padded[top : top + 32, left : left + 32])
    return top, left, flipped


@pytest.mark.parametrize("name", ["crop", "standard", "cutmix"])
def test_small_images_are_windows_at_uniform_places(name):
    augment, image = make(name), Image.fromarray(PLACES)
    windows = [window_of(augment(image, epoch, index)) for epoch in range(4) for index in range(500)]
    counts = np.zeros((9, 9))
    for top, left, _ in windows:
        counts[top, left] += 1
    assert stats.chisquare(counts.ravel()).pvalue > CHANCE
    flips = sum(flipped for *_, flipped in windows)
    if name == "crop":
        assert flips == 0
    else:
        assert stats.binomtest(flips, len(windows)).pvalue > CHANCE
        sides = [left for _, left, flipped in windows if flipped]  # no matter where the window lies
        assert stats.ttest_1samp(sides, 4).pvalue > CHANCE


@pytest.mark.parametrize("seed", [0, 7])
def test_windows_are_uniform_and_independent(seed):
    """Over 100,000 indices: every place and side alike; no epoch, seed or neighbour tells of another."""
    indices = torch.arange(100_000)
    windows = make("standard", seed=seed).windows(0, indices)
    assert (windows.shape, windows.dtype) == ((3, len(indices)), torch.int64)

    def cells(found):
        return ((found[0] * 9 + found[1]) * 2 + found[2]).numpy()

    assert stats.chisquare(np.bincount(cells(windows), minlength=162)).pvalue > CHANCE
    others = (make("standard", seed=seed).windows(1, indices), make("standard", seed=seed + 1).windows(0, indices))
    for other in (*others, windows.roll(1, 1)):
        for row in range(3):
            table = np.zeros((9, 9)) if row < 2 else np.zeros((2, 2))
            np.add.at(table, (windows[row].numpy(), other[row].numpy()), 1)
            assert stats.chi2_contingency(table, correction=False).pvalue > CHANCE


def test_windows_of_a_batch_are_those_of_single_images():
    augment, indices = make("standard", seed=2), torch.tensor([5, 2, 10**6, 5])
    together = augment.windows(3, indices)
    assert torch.equal(together, torch.cat([augment.windows(3, index[None]) for index in indices], dim=1))
    assert torch.equal(make("cutmix", seed=2).windows(3, indices), together)
    crop = make("crop", seed=2).windows(3, indices)
    assert torch.equal(crop[:2], together[:2])
    assert crop[2].tolist() == [0] * 4
    assert together[2].any()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 42), (40, 7)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_windowed_is_a_numpy_loop(height, width, dtype):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (30, 3, height, width), np.uint8)).to(dtype)
    down, right = height // 8, width // 8
    extremes = torch.tensor([[0, 0, 2 * down, 2 * down], [0, 2 * right, 0, 2 * right], [0, 1, 1, 0]])
    drawn = Augmentation("standard", (3, height, width), SMALL).windows(0, torch.arange(26))
    windows, before = torch.cat([extremes, drawn], dim=1), images.clone()
    found = windowed(images, windows)
    assert (found.shape, found.dtype) == (images.shape, dtype)
    for image, made, (top, left, flipped) in zip(images.numpy(), found.numpy(), windows.T.tolist(), strict=True):
        padded = np.pad(image, ((0, 0), (down, down), (right, right)))
        expected = padded[:, top : top + height, left : left + width]
        assert np.array_equal(made, expected[:, :, ::-1] if flipped else expected)
    found.zero_()
    assert torch.equal(images, before)


def test_small_images_are_windows_though_their_preprocessing_crops():
    """A model of 32 px asks for this crop; a box of 8 % of such an image would be 9 px wide."""
    cropped = {"resize": 32, "crop": 32, "interpolation": "bilinear"}
    image = Image.fromarray(PLACES)
    for index in range(20):
        expected = Augmentation("standard", (3, 32, 32), SMALL)(image, 1, index)
        assert torch.equal(Augmentation("standard", (3, 32, 32), cropped)(image, 1, index), expected)


def test_padding_is_an_eighth_of_the_side():
    white = Image.new("RGB", (40, 32), (255, 255, 255))
    augment = Augmentation("crop", (3, 48, 60), SMALL | {"resize": 48})
    zeros = [(augment(white, 0, index)[0, 0] == 0) for index in range(300)]
    assert max(int(zero.all(dim=1).sum()) for zero in zeros) == 6
    assert max(int(zero.all(dim=0).sum()) for zero in zeros) == 7


@pytest.mark.parametrize("size", [(1000, 1000), (1200, 800)])
def test_boxes_are_distributed_as_torchvisions(size):
    rng, image = random.Random(0), Image.new("RGB", size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(8000)])
    left, top, right, bottom = np.array([_box(size, rng) for _ in range(8000)]).T
    ours = np.stack([top, left, bottom - top, right - left], axis=1)
    for measure in (
        *(lambda boxes, k=k: boxes[:, k] for k in range(4)),
        lambda boxes: boxes[:, 2] * boxes[:, 3],
        lambda boxes: boxes[:, 3] / boxes[:, 2],
    ):
        assert stats.ks_2samp(measure(ours), measure(theirs), method="asymp").pvalue > CHANCE
    for extreme in (np.min, np.max):  # of the area
        assert extreme(ours[:, 2] * ours[:, 3]) == pytest.approx(extreme(theirs[:, 2] * theirs[:, 3]), rel=0.03)


def test_boxes_reach_every_place():
    rng = random.Random(0)
    boxes = {_box((9, 8), rng) for _ in range(5000)}
    assert {left for left, _, right, _ in boxes if right - left == 4} == set(range(6))
    assert {top for _, top, _, bottom in boxes if bottom - top == 4} == set(range(5))


@pytest.mark.parametrize("size", [(1000, 40), (40, 1000)])
def test_box_of_a_strip_is_torchvisions(size):
    top, left, height, width = RandomResizedCrop.get_params(Image.new("RGB", size), [0.08, 1], [3 / 4, 4 / 3])
    assert _box(size, random.Random(0)) == (left, top, left + width, top + height)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_photographs_are_boxes_resized_as_torchvision_does(interpolation):
    image, flips = photograph(), 0
    how = {"resize": 72, "crop": 64, "interpolation": interpolation}
    for index in range(60):
        rng = random.Random(Augmentation("crop", (3, 64, 64), how, 5)._seeds(2, index)[0])
        flip = rng.random() < 0.5
        left, top, right, bottom = _box(image.size, rng)
        expected = channels_first(
            v2.functional.resized_crop(
                image, top, left, bottom - top, right - left, [64, 64], v2.InterpolationMode(interpolation)
            )
        )
        assert torch.equal(Augmentation("crop", (3, 64, 64), how, 5)(image, 2, index)[0], expected)
        made = Augmentation("standard", (3, 64, 64), how, 5)(image, 2, index)
        assert made.shape == (1, 3, 64, 64)
        assert made.dtype == torch.uint8
        assert torch.equal(made[0], expected.flip(2) if flip else expected)
        flips += flip
    assert stats.binomtest(flips, 60).pvalue > CHANCE


# Policies


@pytest.mark.parametrize("photographs", [False, True])
def test_autoaugment_is_torchvisions_under_the_addressed_seed(photographs):
    policy = v2.AutoAugmentPolicy.IMAGENET if photographs else v2.AutoAugmentPolicy.CIFAR10
    image, changed = image_of(photographs), 0
    for index in range(20):
        standard = make("standard", photographs=photographs)(image, 3, index)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(make("augmix")._seeds(3, index)[1])
            expected = channels_first(v2.AutoAugment(policy)(to_pil(standard[0])))
        made = make("autoaugment", photographs=photographs)(image, 3, index)
        assert torch.equal(made[0], expected)
        changed += not torch.equal(made, standard)
    assert changed > 5


@pytest.mark.parametrize("photographs", [False, True])
def test_augmix_is_the_clean_view_and_two_of_torchvisions(photographs):
    image, different = image_of(photographs), 0
    for index in range(20):
        made = make("augmix", photographs=photographs)(image, 3, index)
        assert torch.equal(made[:1], make("standard", photographs=photographs)(image, 3, index))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(make("augmix")._seeds(3, index)[1])
            mix = v2.AugMix(severity=3, mixture_width=3, chain_depth=-1, alpha=1.0, all_ops=False)
            expected = [channels_first(mix(to_pil(made[0]))) for _ in range(2)]
        assert torch.equal(made[1:], torch.stack(expected))
        different += not torch.equal(made[1], made[2])
    assert different > 15


# Addresses


@pytest.mark.parametrize("photographs", [False, True])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_pixels_are_a_function_of_seed_epoch_and_index(name, photographs):
    image, augment = image_of(photographs), make(name, photographs=photographs)
    before = image.tobytes()
    states = torch.get_rng_state(), random.getstate(), pickle.dumps(np.random.get_state())
    made = [augment(image, 1, index) for index in range(8)]
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), pickle.dumps(np.random.get_state()))
    assert image.tobytes() == before
    assert {view.shape for view in made} == {(augment.views, *augment.shape)}
    assert augment.views == (3 if name == "augmix" else 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        again = [pickle.loads(pickle.dumps(augment.at(1)))(image, index) for index in reversed(range(8))]
    assert all(torch.equal(a, b) for a, b in zip(made, reversed(again), strict=True))
    if name != "none":
        for other in (
            [augment(image, 2, index) for index in range(8)],
            [augment(image, 1, index + 8) for index in range(8)],
            [make(name, photographs=photographs, seed=1)(image, 1, index) for index in range(8)],
        ):
            assert not any(torch.equal(a, b) for a, b in zip(made, other, strict=True))


@forks
@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("source", ["folder", "packed"])
def test_pixels_are_the_same_whatever_the_batch_worker_or_order(source, name, request):
    place = request.getfixturevalue(source)
    data = load_data(place if source == "packed" else f"folder:{place}", resize=48, crop=36)
    augment = augmentation_for(name, data, seed=4)
    expected = torch.stack([augment(Image.fromarray(PIXELS[i]), 2, i) for i in range(12)])
    orders = [[np.arange(12)], [np.array([7, 2, 7]), np.array([11])]]
    state = torch.get_rng_state()
    for groups in orders:
        for workers in (0, 2) if source == "folder" else (0,):
            met = list(data.augmented(groups, augment.at(2), workers))
            assert [positions.tolist() for _, positions in met] == [group.tolist() for group in groups]
            for images, positions in met:
                assert images.dtype == torch.uint8
                assert torch.equal(images, expected[positions])
    assert torch.equal(state, torch.get_rng_state())


def test_a_subset_keeps_the_addresses_of_the_whole(packed):
    whole, part = load_data(packed), load_data(packed, limit=5)
    assert part.indices.tolist() != list(range(5))
    augment = augmentation_for("standard", whole).at(0)
    ((everything, _),) = whole.augmented([np.arange(12)], augment)
    ((some, _),) = part.augmented([np.arange(5)], augment)
    assert torch.equal(some, everything[part.indices])


def test_grey_images_are_augmented_as_rgb(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(PLACES[:, :, 0]).save(tmp_path / "a" / "grey.png")
    data = load_data(f"folder:{tmp_path}")
    ((made, _),) = data.augmented([np.array([0])], augmentation_for("standard", data).at(0))
    direct = augmentation_for("standard", data)(Image.fromarray(PLACES[:, :, 0]), 0, 0)
    assert torch.equal(made[0], direct)
    assert torch.equal(made[0, 0, 0], made[0, 0, 1])


# Faults


@forks
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named(folder, workers):
    whole = (folder / "a" / "01.png").read_bytes()
    (folder / "a" / "01.png").write_bytes(whole[: len(whole) // 2])
    data = load_data(f"folder:{folder}", workers=workers)
    with pytest.raises(InputError, match=r"Cannot read \S*01.png .*`skip_bad`"):
        list(data.augmented([np.arange(4)], augmentation_for("crop", data).at(0)))


def fail(image, index):
    raise ValueError(f"not the file's fault: {index} {image.mode}")


def test_a_fault_of_the_augmentation_is_no_damage(folder):
    data = load_data(f"folder:{folder}")
    with pytest.raises(ValueError, match="not the file's fault: 3 RGB") as caught:
        list(data.augmented([np.array([3])], fail))
    assert not isinstance(caught.value, InputError)


def test_unknown_name():
    told = (
        r"Unknown augmentation 'augmixx'\. Did you mean 'augmix'\? "
        r"Choose from: none, crop, standard, autoaugment, fast-autoaugment, augmix, cutmix\."
    )
    with pytest.raises(InputError, match=told):
        make("augmixx")


# CutMix

BATCH = 8
NUMBERED = torch.arange(BATCH).float()[:, None, None, None].expand(BATCH, 3, 24, 32)  # image i is i everywhere
cut = partial(cutmix, NUMBERED, torch.eye(BATCH))


def draws_of(seed, first=0):
    return Draws(seed, torch.arange(first, first + BATCH), "cutmix epoch 0")


def test_cutmix_takes_one_box_from_a_partner_and_mixes_targets_by_its_area():
    for seed in range(50):
        mixed, targets = cut(draws_of(seed))
        partners, boxes = [], []
        for i in range(BATCH):
            values, counts = mixed[i, 0].unique(return_counts=True)
            assert torch.equal(mixed[i], mixed[i, :1].expand(3, -1, -1))
            expected = torch.zeros(BATCH)
            expected[values.long()] = counts / (24 * 32)
            assert targets[i].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
            assert float(targets[i].sum()) == pytest.approx(1, abs=1e-6)
            partners.append(next((int(value) for value in values if value != i), i))
            if len(values) == 2:
                boxes.append(mixed[i, 0] != i)
        assert sorted(partners) == list(range(BATCH))
        for box in boxes:
            assert torch.equal(box, boxes[0])
            assert torch.equal(box, box.any(1, keepdim=True) & box.any(0, keepdim=True))


def rand_bbox(rng, alpha, height, width):
    """The area that the authors' `rand_bbox` cuts, as a share."""
    cut_rat = np.sqrt(1.0 - rng.beta(alpha, alpha))
    shares = []
    for side in (width, height):
        length, centre = int(side * cut_rat), rng.integers(side)
        low, high = np.clip(centre - length // 2, 0, side), np.clip(centre + length // 2, 0, side)
        shares.append((high - low) / side)
    return shares[0] * shares[1]


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_cutmix_areas_are_distributed_as_the_authors(alpha):
    rng = np.random.default_rng(0)
    theirs = [rand_bbox(rng, alpha, 24, 32) for _ in range(2000)]
    ours, places = [], []
    for seed in range(2000):
        mixed, _ = cut(draws_of(seed), alpha=alpha)
        changed = (mixed != NUMBERED).any(0).any(0)
        ours.append(float(changed.float().mean()))
        if changed.any():
            places.append(changed.nonzero().float().mean(0).tolist())
    assert stats.ks_2samp(ours, theirs, method="asymp").pvalue > CHANCE
    top, left = np.transpose(places)
    # An even side leaves the box one pixel nearer the start than the end: its middle lies half a pixel early.
    assert abs(top.mean() - 11.5) < 1
    assert abs(left.mean() - 15.5) < 1


def test_cutmix_partners_are_a_uniform_permutation():
    counts = np.zeros((BATCH, BATCH))
    for seed in range(1000):
        _, targets = cut(draws_of(seed), alpha=200.0)  # nearly half each
        for i, row in enumerate(targets):
            others = [j for j in row.nonzero().flatten().tolist() if j != i]
            counts[i, others[0] if others else i] += 1
    # Rows and columns of permutation matrices sum to one: the statistic times (n - 1) / n has (n - 1)^2 degrees.
    statistic = stats.chisquare(counts.ravel()).statistic * (BATCH - 1) / BATCH
    assert stats.chi2.sf(statistic, (BATCH - 1) ** 2) > CHANCE


def test_cutmix_is_addressed_and_leaves_its_input():
    images, targets = torch.rand(BATCH, 3, 24, 32, dtype=torch.float64), torch.rand(BATCH, 5)
    before, state = images.clone(), torch.get_rng_state()
    first, again, other = (cutmix(images, targets, draws_of(*address)) for address in ((0,), (0,), (0, 8)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert (first[0].dtype, first[1].dtype) == (torch.float64, torch.float32)
    assert torch.equal(images, before)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_cutmix_alpha(alpha):
    with pytest.raises(InputError, match=f"Expected `alpha` to be above 0, but got {alpha}"):
        cut(draws_of(0), alpha=alpha)


@pytest.mark.gpu
def test_cutmix_is_the_same_on_a_gpu():
    here = cut(draws_of(0))
    for draws in (draws_of(0), Draws(0, torch.arange(BATCH).cuda(), "cutmix epoch 0")):
        there = cutmix(NUMBERED.cuda(), torch.eye(BATCH).cuda(), draws)
        assert torch.equal(here[0], there[0].cpu())
        assert torch.allclose(here[1], there[1].cpu(), atol=1e-6)
