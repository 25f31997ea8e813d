"""Training on label maps: image and map move together, the loss counts pixels, every method learns, runs go on."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from statshift import load_data, measure
from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.data.pairs import augmented_pairs
from statshift.hardening.batch import Batch
from statshift.hardening.batches import Batches
from statshift.hardening.costs import step_costs
from statshift.hardening.harden import CHECKPOINT, harden
from statshift.hardening.methods.advbn import AdvBN, advbn_losses
from statshift.hardening.methods.adversarial import Adversarial
from statshift.hardening.methods.auxiliary import AdvProp, PixelAT
from statshift.hardening.methods.corrupted import Corrupted
from statshift.hardening.methods.cutmix import CutMix
from statshift.hardening.methods.ligs import LigsRegularised
from statshift.hardening.methods.moex import MoEx
from statshift.hardening.methods.standard import Standard
from statshift.hardening.options import HardenOptions
from statshift.hardening.pairs import PairAugmentation, augmentation_of
from statshift.hardening.training import TrainingOptions
from statshift.models import PixelModel, load_weights, read_made_by
from statshift.shifts.attacks import FeatureAttack, PixelAttack
from statshift.splitting.branches import Branches
from statshift.tasks.segmentation import Segmentation

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES, VOID = 6, 4
STEP = 40  # between the colours of classes
HEIGHT, WIDTH = 32, 48
TASK = Segmentation(VOID)
OPTIONS = TrainingOptions(epochs=2, batch_size=4, learning_rate=0.02, schedule="poly", window=(32, 40), seed=2)
HOW = {"resize": None, "crop": None, "interpolation": "nearest"}


class Dense(nn.Module):
    """Three norms, answers at a quarter of the size; to be cut after `act1`."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, images):
        features = F.relu(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(images))))))
        return {"out": self.head(F.relu(self.bn3(self.conv3(features))))}


def network():
    """Return it as a user's file does."""
    return Dense()


def build(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PixelModel(Dense(), num_classes=CLASSES).eval()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Twelve images whose first channel says the class of each pixel; of void 4."""
    root, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for number in range(12):
        labels = rng.integers(0, 5, (8, 12), np.uint8).repeat(4, 0).repeat(4, 1)
        pixels = np.stack([labels * STEP, *rng.integers(0, 256, (2, HEIGHT, WIDTH), np.uint8)], axis=2)
        for kind, values in (("images", pixels), ("labels", labels)):
            place = root / kind / "day"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(place / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def data(scenes):
    return load_data(f"seg:{scenes}", ignore_index=VOID)


def pairs_of(augmentation, count=40, seed=0):
    """Return noise, labels that its first channel codes, and what an augmentation makes of both."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (HEIGHT, WIDTH), np.uint8)
    pixels = np.stack([labels * STEP, *rng.integers(0, 256, (2, HEIGHT, WIDTH), np.uint8)], axis=2)
    image = Image.fromarray(pixels)
    return pixels, labels, [augmentation(image, labels, epoch, epoch + 1) for epoch in range(count)]


@pytest.mark.parametrize("name", ["none", "crop", "standard"])
@pytest.mark.parametrize("window", [(20, 28), (64, 40)])
def test_image_and_map_move_together(name, window):
    augmentation = PairAugmentation(name, window, HOW, (0, 0, 255), VOID, aspect=1.5)
    _, _, made = pairs_of(augmentation)
    for images, maps in made:
        assert images.dtype == maps.dtype == torch.uint8
        assert images.shape[1:] == (3, *maps.shape) == (3, *((HEIGHT, WIDTH) if name == "none" else window))
        counted = maps != VOID
        assert counted.any()
        assert (images[0, 0][counted] == maps[counted].int() * STEP).all()
        beside = images[0][:, ~counted]
        assert (beside == torch.tensor([[0], [0], [255]])).all()
    if name != "none":  # windows differ, and larger ones show what is beside
        assert len({maps.numpy().tobytes() for _, maps in made}) == len(made)
        assert any((maps == VOID).any() for _, maps in made)


def test_smooth_images_lie_where_their_maps_do():
    ramp = np.broadcast_to(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, WIDTH))
    image = Image.fromarray(np.repeat((4 * ramp)[..., None], 3, 2))
    how = {**HOW, "interpolation": "bilinear"}
    augmentation = PairAugmentation("standard", (24, 32), how, (0, 0, 0), 255, scale=(1.1, 2), aspect=1.3)
    for epoch in range(20):
        images, maps = augmentation(image, ramp.copy(), epoch, 3)
        inside = (maps > 0) & (maps < WIDTH - 1)
        apart = images[0, 0][inside].double() / 4 - maps[inside].double()
        assert apart.abs().max() <= 0.5 + 1 / 8  # half a pixel, and half a grey level
        assert abs(apart.mean()) < 0.2


def test_scale_and_flip_are_drawn_as_told():
    still = PairAugmentation("standard", (HEIGHT, WIDTH), HOW, scale=(1, 1))
    pixels, labels, made = pairs_of(still, 60)
    whole = torch.from_numpy(pixels).permute(2, 0, 1)
    flipped = [torch.equal(images[0], whole.flip(2)) for images, _ in made]
    assert all(mirror or torch.equal(images[0], whole) for (images, _), mirror in zip(made, flipped, strict=True))
    assert 15 <= sum(flipped) <= 45
    assert not any(
        torch.equal(maps, torch.from_numpy(labels).flip(1)) for _, maps in pairs_of(replace(still, name="crop"))[2]
    )
    _, _, made = pairs_of(replace(still, name="crop", scale=(0.5, 0.5), ignore_index=VOID))
    for _, maps in made:
        rows, columns = (maps != VOID).any(1).sum(), (maps != VOID).any(0).sum()
        assert (rows, columns) == (HEIGHT / 2, WIDTH / 2)


def test_only_the_image_has_other_colours():
    plain = PairAugmentation("standard", (24, 32), HOW, seed=5)
    for (images, maps), (coloured, same) in zip(
        pairs_of(plain)[2], pairs_of(replace(plain, colour=0.5))[2], strict=True
    ):
        assert torch.equal(maps, same)
        assert not torch.equal(images, coloured)


def test_pairs_are_a_function_of_seed_epoch_and_index(data):
    augmentation = augmentation_of(OPTIONS, data)

    def made(groups, workers=0, epoch=1):
        found = {}
        for images, maps, positions in augmented_pairs(data, groups, augmentation.at(epoch), workers):
            found |= {int(at): pair for at, *pair in zip(positions, images, maps, strict=True)}
        return found

    whole = made([np.arange(12)])
    for other in (made([np.array([7, 3]), np.array([5])]), made([np.array([2, 9])], workers=1)):
        for position, pair in other.items():
            assert all(torch.equal(*both) for both in zip(pair, whole[position], strict=True))
    assert not torch.equal(made([np.array([3])], epoch=2)[3][0], whole[3][0])


def test_images_of_several_sizes_give_windows_of_one(scenes, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for number, size in enumerate([(48, 32), (48, 32), (60, 40), (40, 64)]):
            with Image.open(scenes / kind / "day" / f"{number:02}.png") as image:
                image.resize(size, Image.Resampling.NEAREST).save(tmp_path / kind / f"{number}.png")
    data = load_data(f"seg:{tmp_path}", ignore_index=VOID)
    for augment in ("standard", "crop"):
        options = replace(OPTIONS, window=None, augment=augment)
        batches = Batches(data, augmentation_of(options, data), 4, 1, CLASSES, torch.device("cpu"), task=TASK)
        ((batch, positions),) = batches.epoch(0)
        assert batch.images.shape == (4, 3, HEIGHT, WIDTH)
        assert batch.targets.labels.shape == (4, HEIGHT, WIDTH)
        assert sorted(positions) == [0, 1, 2, 3]


def pixel_loop(logits, labels, void):
    """Return each image's mean cross-entropy and the batch's, pixel by pixel, in NumPy."""
    sums, counts = np.zeros(len(labels)), np.zeros(len(labels))
    for image, row, column in np.ndindex(*labels.shape):
        label = labels[image, row, column]
        if label != void:
            scores = logits[image, :, row, column]
            sums[image] += np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label]
            counts[image] += 1
    return sums / np.maximum(counts, 1), sums.sum() / counts.sum()


def test_the_loss_is_the_mean_over_all_pixels_that_count():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, CLASSES, 8, 10, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (3, 8, 10), generator=generator)
    labels[0, 2:] = VOID
    labels[2] = VOID
    targets = TASK.targets(labels)
    by_image, whole = pixel_loop(logits.numpy(), labels.numpy(), VOID)
    assert np.allclose(targets.losses(logits), by_image, rtol=1e-12)
    assert float(targets.loss(logits)) == pytest.approx(whole, rel=1e-12)
    assert float(targets.loss(logits)) == pytest.approx(float(F.cross_entropy(logits, labels, ignore_index=VOID)))
    small = F.interpolate(logits, scale_factor=0.5, mode="bilinear")
    large = F.interpolate(small, size=(8, 10), mode="bilinear", align_corners=False)
    assert float(targets.loss(small)) == pytest.approx(pixel_loop(large.numpy(), labels.numpy(), VOID)[1], rel=1e-12)
    nothing = TASK.targets(torch.full_like(labels, VOID))
    assert float(nothing.loss(logits)) == 0
    order = torch.tensor([1, 0, 2])
    assert torch.equal(targets.partners(order).losses(logits[order]), targets.losses(logits)[order])


def a_batch(data, size=4):
    batches = Batches(data, augmentation_of(OPTIONS, data), size, 1, CLASSES, torch.device("cpu"), task=TASK)
    batch, _ = next(batches.epoch(0))
    return replace(batch, images=batch.images.double())


def test_advbn_descends_as_a_step_by_hand(data):
    """The suffix alone is trained, once on the features, once on those of the worst factors, found by sign steps."""
    attack = FeatureAttack(steps=3, step_size=0.2, epsilon=0.5)
    batch = a_batch(data)
    branches = Branches(build().double(), "act1", batch.images[:2]).train()
    sum(AdvBN(attack)(branches, batch).values()).backward()

    hand = build().double()
    net, labels = hand.network, batch.targets.labels
    normalised = (batch.images - hand.mean) / hand.std
    features = net.act1(net.bn1(net.conv1(normalised))).detach()
    mean = features.mean((0, 2, 3), keepdim=True)

    def suffix(features):
        logits = net.head(F.relu(net.bn3(net.conv3(F.relu(net.bn2(net.conv2(features)))))))
        return F.cross_entropy(F.interpolate(logits, size=labels.shape[1:], mode="bilinear"), labels, ignore_index=VOID)

    def shifted(factors):
        return F.relu(factors[1] * (features - mean) + factors[0] * mean)

    factors = torch.ones(2, 1, 6, 1, 1, dtype=torch.float64)
    for _ in range(3):
        factors.requires_grad_()
        (gradient,) = torch.autograd.grad(suffix(shifted(factors)), factors)
        factors = (factors + 0.2 * gradient.sign()).clamp(0.5, 1.5).detach()
    weights = {name: weight for name, weight in net.named_parameters() if not name.startswith(("conv1", "bn1"))}
    hand.train()
    (suffix(features) + suffix(shifted(factors))).backward()
    ours = dict(branches.clean.network.named_parameters())
    twins = dict(branches.adv.network.named_parameters())
    for name, weight in weights.items():
        found = ours[name].grad + (twins[name].grad if "bn" in name else 0)
        assert torch.allclose(found, weight.grad, rtol=1e-9, atol=1e-12), name
    assert all(ours[name].grad is None for name in ("conv1.weight", "bn1.weight"))


def test_attacked_images_do_not_interact(data):
    """What an image's pixels become does not depend on the images beside it, though the loss counts pixels."""
    batch = a_batch(data, 4)
    model = build().double()
    attack = PixelAttack(epsilon=8 / 255, step_size=2 / 255, steps=3)

    def worst(chosen):
        part = Batch(
            batch.images[chosen],
            TASK.targets(batch.targets.labels[chosen]),
            Draws(0, batch.draws.indices[chosen], "attack"),
        )
        seen = []
        branches = Branches(model, "input", batch.images[:2], dual=False)
        handle = model.network.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
        Adversarial(attack)(branches, part)
        handle.remove()
        return seen[-1]

    assert torch.allclose(worst([0, 1, 2, 3])[1:2], worst([1]), atol=1e-12)


METHODS = {
    "standard": (Standard(), "input"),
    "advbn": (AdvBN(FeatureAttack(steps=2)), "act1"),
    "pixel-at": (PixelAT(), "act1"),
    "advprop": (AdvProp(PixelAttack(epsilon=4 / 255, step_size=2 / 255, steps=2)), "input"),
    "moex": (MoEx(), "act1"),
    "adversarial": (Adversarial(PixelAttack(epsilon=4 / 255, steps=2)), "input"),
    "corrupted": (Corrupted("gaussian_noise", 1), "input"),
    "ligs": (LigsRegularised(), "input"),
}


def test_validation_labels_beyond_the_models_classes_are_told_before_the_first_epoch(data, tmp_path):
    labels = np.full((HEIGHT, WIDTH), 7, np.uint8)
    for kind, values in (("images", np.zeros((HEIGHT, WIDTH, 3), np.uint8)), ("labels", labels)):
        (tmp_path / kind).mkdir()
        Image.fromarray(values).save(tmp_path / kind / "a.png")
    steps = []
    options = HardenOptions(Standard(), training=OPTIONS)
    with pytest.raises(InputError, match=r"below the model's 6 classes, but .*a.png has pixels labelled 7"):
        harden(build(), data, options, validation=f"seg:{tmp_path}", device="cpu", progress=steps.append)
    assert steps == []


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_from_label_maps(name, data):
    method, at = METHODS[name]
    training = replace(OPTIONS, epochs=6, learning_rate=0.05)
    done = harden(build(), data, HardenOptions(method, at=at, training=training), device="cpu", validation=data)
    history = done.record["history"]
    branch = "adv" if name == "adversarial" else "clean"
    assert history[-1]["losses"][branch] < history[0]["losses"][branch] - 0.05
    assert all(0 <= history[-1]["validation"][one]["clean"] <= 1 for one in done.branches.splits)
    assert done.record["validation"]["score"] == "miou"
    assert done.record["task"] == {"name": "segmentation", "options": {"ignore_index": VOID}}
    assert done.record["hardening"]["training"]["window"] == (32, 40)
    expected = [255 * value for value in (0.485, 0.456, 0.406)]
    told = done.record["hardening"]["augmentation"]
    assert (told["window"], told["scale"]) == ([32, 40], [0.5, 2.0])
    assert told["fill"] == [round(value) for value in expected]


def test_the_landscape_is_walked_on_label_maps(data):
    options = HardenOptions(Standard(), training=replace(OPTIONS, epochs=1))
    done = harden(build(), data, options, device="cpu", landscape=True)
    walked = done.record["history"][0]["validation"]["landscape"]
    assert walked["loss"] > 0
    assert walked["smoothness"] > 0


def test_an_interrupted_training_ends_with_the_same_weights(data, tmp_path):
    options = HardenOptions(AdvBN(FeatureAttack(steps=2)), at="act1", training=replace(OPTIONS, checkpoint_every=0))
    whole = harden(build(), data, options, out=tmp_path / "whole", device="cpu", validation=data)

    def stop(step):
        if step.step == 4:
            raise SystemExit

    with pytest.raises(SystemExit):
        harden(build(), data, options, out=tmp_path / "cut", device="cpu", validation=data, progress=stop)
    assert (tmp_path / "cut" / CHECKPOINT).exists()
    steps = []
    again = harden(
        build(),
        data,
        options,
        out=tmp_path / "cut",
        device="cpu",
        validation=data,
        progress=lambda at: steps.append(at.step),
    )
    assert steps == [4, 5, 6]
    assert again.record["weights_hash"] == whole.record["weights_hash"]
    assert json.dumps(again.record["history"]) == json.dumps(whole.record["history"])


def test_the_best_epoch_is_kept_beside_the_last(scenes, data, tmp_path):
    training = replace(OPTIONS, epochs=4, learning_rate=0.5, schedule="constant", checkpoint_every=0)
    options, out = HardenOptions(Standard(), training=training), tmp_path / "run"

    def stop(step):
        if step.step == 7:
            raise SystemExit

    with pytest.raises(SystemExit):
        harden(build(), data, options, out=out, device="cpu", validation=data, keep_best=True, progress=stop)
    done = harden(build(), data, options, out=out, device="cpu", validation=data, keep_best=True)
    scores = [epoch["validation"]["clean"]["clean"] for epoch in done.record["history"]]
    assert done.record["best"] == {"epoch": 1 + int(np.argmax(scores)), "score": max(scores), "branch": "clean"}
    model = build()
    load_weights(model.network, out / "best.safetensors")
    assert measure(model, data, shifts="clean", device="cpu").summary["protocols"]["source"]["clean_miou"] == max(
        scores
    )
    assert read_made_by(out / "best.safetensors")["verb"] == "harden"
    with pytest.raises(InputError, match="is of another training: it differs in keep_best"):  # of all epochs or none
        harden(build(), data, options, out=out, device="cpu", validation=data)
    with pytest.raises(InputError, match="Expected `validation` and `out`"):
        harden(build(), data, options, device="cpu", keep_best=True)


def test_a_loop_of_ones_own_has_the_same_losses(data):
    batch = a_batch(data)
    attack = FeatureAttack(steps=2)
    ours = AdvBN(attack)(Branches(build().double(), "act1", batch.images[:2]).train(), batch)
    branches = Branches(build().double(), "act1", batch.images[:2]).train()
    theirs = advbn_losses(branches, batch.images, batch.targets.labels, attack, task=TASK)
    assert {name: float(loss.detach()) for name, loss in theirs.items()} == {
        name: float(loss.detach()) for name, loss in ours.items()
    }


def test_the_commands_train_and_harden_on_label_maps(scenes, run, tmp_path):
    words = ["--model", f"py:{__file__}:network", "--data", f"seg:{scenes}", "--split", "day", "--ignore-index", VOID]
    words += ["--epochs", 1, "--batch-size", 4, "--window", "40x32", "--scale", "0.5,1", "--device", "cpu"]
    words += ["--validation", f"seg:{scenes}", "--validation-split", "day", "--keep-best", "--schedule", "poly"]
    start, hard = tmp_path / "start", tmp_path / "hard"
    done = run("train", *words, "--out", start)
    assert (done.code, done.err.count("error")) == (0, 0)
    assert "Measured: miou in %." in done.out
    assert "The best epoch is 1: best.safetensors." in done.out
    record = json.loads((start / "record.json").read_bytes())
    assert record["hardening"]["training"]["window"] == [32, 40]
    assert record["hardening"]["augmentation"]["scale"] == [0.5, 1.0]
    assert record["data"]["images"] == record["validation"]["data"]["images"] == 12
    words += ["--weights", start / "best.safetensors", "--at", "act1", "--steps", 2, "--out", hard]
    assert run("harden", *words).code == 0
    assert json.loads((hard / "record.json").read_bytes())["validation"]["score"] == "miou"
    for window in ("40", "x32", "0x32"):
        assert run("harden", *words, "--window", window).code == 2


def test_the_poly_rate_is_the_share_that_is_left_to_a_power():
    options = TrainingOptions(epochs=5, learning_rate=0.01, schedule="poly")
    for step in range(10):
        assert options.rate(step, 2) == pytest.approx(0.01 * (1 - step / 10) ** 0.9, rel=1e-12)


@pytest.mark.parametrize(
    ("method", "augment"), [(Standard(), "augmix"), (Standard(), "cutmix"), (CutMix(), "standard")]
)
def test_augmentations_that_label_maps_have_not(method, augment, data):
    with pytest.raises(InputError) as error:
        harden(build(), data, HardenOptions(method, training=replace(OPTIONS, augment=augment)), device="cpu")
    told = f"but got {'cutmix' if isinstance(method, CutMix) else augment}."
    assert str(error.value) == f"Expected an augmentation that label maps have (none, crop, standard), {told}"


def test_what_cannot_be_trained_on_unaugmented_is_told(scenes, tmp_path):
    with pytest.raises(InputError, match="Expected no `window` for images that are not augmented"):
        augmentation_of(replace(OPTIONS, augment="none"), load_data(f"seg:{scenes}"))
    for number, size in enumerate([(48, 32), (32, 48)]):
        for kind, mode in (("images", "RGB"), ("labels", "L")):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.new(mode, size).save(tmp_path / kind / f"{number}.png")
    with pytest.raises(InputError, match="Expected images of one size to train on unaugmented"):
        augmentation_of(TrainingOptions(augment="none"), load_data(f"seg:{tmp_path}"))


@pytest.mark.parametrize("name", ["window", "scale", "aspect", "colour"])
def test_windows_are_of_label_maps(name):
    training = TrainingOptions(**{name: {"window": (24, 32), "scale": (0.5, 1), "aspect": 2, "colour": 0.1}[name]})
    digits = load_data("digits:train", limit=32)
    model = SimpleNamespace(mean=None)
    with pytest.raises(InputError, match=f"Expected no `{name}` to train on digits:train"):
        augmentation_of(training, digits, model.mean)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window": (24,)}, "Expected `window` to be (height, width) in px, but got (24,)."),
        ({"window": (0, 32)}, "Expected `window` to be (height, width) in px, but got (0, 32)."),
        ({"scale": (2, 0.5)}, "Expected `scale` to be the least and the greatest factor above 0, but got (2, 0.5)."),
        ({"aspect": 0.5}, "Expected `aspect` to be at least 1, but got 0.5."),
        ({"colour": 1}, "Expected `colour` in [0,1), but got 1."),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(InputError) as error:
        TrainingOptions(**options)
    assert str(error.value) == told


def test_options_of_other_data_are_not_in_their_records():
    told = HardenOptions(Standard()).describe()["training"]
    assert not {"window", "scale", "aspect", "colour"} & set(told)


def test_costs_are_of_windows(data):
    options = {
        "standard": HardenOptions(Standard(), at="act1", training=OPTIONS),
        "advbn": HardenOptions(AdvBN(FeatureAttack(steps=2)), at="act1", training=OPTIONS),
    }
    costs = step_costs(build, data, options, repeats=1, device="cpu")
    assert costs["standard"]["ratio"] == 1
    assert costs["advbn"]["images"] == OPTIONS.batch_size
    assert math.isfinite(costs["advbn"]["ratio"])
