"""Attacks and LIGS of label maps, and of tasks of one's own, against loops over single images."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from statshift import (
    AdaptationOptions,
    AutoAttack,
    Branches,
    LigsOptions,
    PixelAttack,
    advbn_losses,
    attack_images,
    ligs,
    load_data,
    load_model,
    measure,
    write_adversarial,
)
from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.measuring.ligs import losses_and_cosines
from statshift.shifts.attacks import attack_named, parse_attack
from statshift.tasks.choice import resolve_task
from statshift.tasks.segmentation import Segmentation
from statshift.tasks.subset import ClassSubset

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Clean accuracy", "ignore:Clean pixel accuracy"),  # of drawn weights
]

CLASSES, SIZE = 4, (8, 10)
IGNORED = 7
TASK = Segmentation(IGNORED)
TOY = re.search(
    r'^```python title="parity.py"\n(.*?)^```$',
    (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(),
    re.S | re.M,
)[1]


class Dense(nn.Module):
    """A network whose logits are smaller than the image, or of one pixel each."""

    def __init__(self, kernel=3, stride=2):
        super().__init__()
        self.first = nn.Conv2d(3, 6, kernel, stride, kernel // 2)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, CLASSES, 1)

    def forward(self, images):
        return {"out": 9 * self.head(self.second(self.norm(self.first(images)).tanh()))}


def dense(**options):
    torch.manual_seed(0)
    model = Dense(**options).double().eval()
    model.norm.running_mean.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(5, 3, *SIZE, generator=generator, dtype=torch.float64)
    maps = torch.randint(CLASSES, (5, *SIZE), generator=generator)
    maps[torch.rand(maps.shape, generator=generator) < 0.3] = IGNORED
    maps[3] = IGNORED  # nothing of this image counts
    return images, maps


def pixel_loss(logits, label, name):
    """Return what is raised of one pixel's logits (K,)."""
    if name == "cross-entropy":
        return logits.logsumexp(0) - logits[label]
    others = torch.cat([logits[:label], logits[label + 1 :]])
    return (others.max() - logits[label]).clamp(max=50)


def gradient_by_hand(model, image, labels, name="cross-entropy"):
    """Return the gradient (3,H,W) of an image's mean loss over the pixels that count, pixel by pixel."""
    point = image.clone().requires_grad_()
    (logits,) = F.interpolate(model(point[None])["out"], labels.shape, mode="bilinear", align_corners=False)
    losses = [
        pixel_loss(logits[:, y, x], int(labels[y, x]), name)
        for y in range(labels.shape[0])
        for x in range(labels.shape[1])
        if labels[y, x] != IGNORED
    ]
    return torch.autograd.grad(sum(losses) / len(losses), point)[0] if losses else torch.zeros_like(image)


def attacked_by_hand(model, image, labels, attack):
    """Return an image (3,H,W) after projected ascent, without a random start."""
    found = image.clone()
    for _ in range(attack.steps):
        gradient = gradient_by_hand(model, found, labels, attack.loss)
        length = gradient.norm()
        step = gradient.sign() if attack.norm == "linf" else gradient / length if length else 0
        offset = found + attack.length * step - image
        if attack.norm == "linf":
            offset = offset.clamp(-attack.epsilon, attack.epsilon)
        else:
            offset = offset * min(1, attack.epsilon / max(float(offset.norm()), 1e-300))
        found = (image + offset).clamp(0, 1)
    return found


# Label maps


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["cross-entropy", "cw"])
def test_ascent_raises_each_image_s_mean_over_counted_pixels(batch, norm, loss):
    images, maps = batch
    attack = PixelAttack(0.05 if norm == "linf" else 0.4, steps=3, norm=norm, loss=loss, random_start=False)
    model = dense()
    found = attack_images(model, images, maps, attack, task=TASK)
    for image, labels, ours in zip(images, maps, found, strict=True):
        torch.testing.assert_close(ours, attacked_by_hand(model, image, labels, attack), rtol=0, atol=1e-10)
    assert torch.equal(found[3], images[3])
    assert (found != images).flatten(1).any(1).tolist() == [True, True, True, False, True]
    with torch.no_grad():
        before, after = (TASK.losses(model(pixels)["out"], maps) for pixels in (images, found))
    assert (after > before)[[0, 1, 2, 4]].all()


def test_fgsm_is_one_sign_step(batch):
    images, maps = batch
    model = dense()
    found = attack_images(model, images, maps, attack_named("fgsm")(0.02), task=TASK)
    for image, labels, ours in zip(images, maps, found, strict=True):
        expected = (image + 0.02 * gradient_by_hand(model, image, labels).sign()).clamp(0, 1)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


def test_a_sure_pixel_of_a_float32_network_is_driven_from_its_label(batch):
    """The label's logit rises twice as fast as the other: in float32 1 - p rounds to zero, and it has no part."""
    images = batch[0].float() / 2 + 0.2
    model = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([2.0, 1.0]).view(2, 1, 1, 1).expand_as(model.weight))
        model.bias.copy_(torch.tensor([30.0, 0.0]))
    found = attack_images(model, images, torch.zeros(5, *SIZE, dtype=torch.long), attack_named("fgsm")(0.125))
    torch.testing.assert_close(found, images - 0.125)


@pytest.mark.parametrize("loss", ["cross-entropy", "cw"])
def test_pixels_that_do_not_count_move_nothing(batch, loss):
    images, maps = batch
    model, attack = dense(kernel=1, stride=1), PixelAttack(0.05, steps=3, random_start=False, loss=loss)
    found = attack_images(model, images, maps, attack, task=TASK)
    moved = (found != images).any(1)
    assert not moved[maps == IGNORED].any()
    assert moved[maps != IGNORED].float().mean() > (0.99 if loss == "cross-entropy" else 0.5)
    other = attack_images(model, images, maps.masked_fill(maps == IGNORED, 255), attack)  # as label maps have it
    assert torch.equal(found, other)


def test_capped_margins_of_an_image_are_averaged_over_what_counts():
    logits = torch.tensor([[0.0, 200.0, 3.0], [1.0, 0.0, 9.0]]).T.reshape(1, 3, 1, 2)
    labels = torch.tensor([[[0, 2]]])
    assert TASK.margins(logits, labels).tolist() == [(50 + (1 - 9)) / 2]
    assert TASK.margins(logits, torch.tensor([[[0, IGNORED]]])).tolist() == [50]
    assert TASK.margins(logits, torch.full((1, 1, 2), IGNORED)).tolist() == [0]


@pytest.mark.parametrize("perturbation", ["fgsm", "gaussian"])
def test_ligs_is_the_cosine_of_single_images_gradients(batch, perturbation):
    images, maps = batch
    model, options = dense(), LigsOptions(perturbation, 0.03)
    indices = torch.tensor([3, 9, 4, 1, 0])
    found = ligs(model, images, maps, options, seed=5, indices=indices, batch_size=2, task=TASK)
    for place, (image, labels) in enumerate(zip(images, maps, strict=True)):
        here = gradient_by_hand(model, image, labels)
        noise = Draws(5, indices[place : place + 1], "ligs").normal("noise", 3, *SIZE)[0]
        there = gradient_by_hand(model, image + 0.03 * (here.sign() if perturbation == "fgsm" else noise), labels)
        expected = float((here * there).sum() / (here.norm() * there.norm()))
        assert float(found.values[place]) == pytest.approx(expected, abs=1e-10, nan_ok=True)
    assert found.values.isnan().tolist() == [False, False, False, True, False]
    assert found.left_out == 1


def test_ligs_of_label_maps_is_a_regularizer(batch):
    images, maps = batch
    model, options, draws = dense(), LigsOptions("fgsm", 0.03), Draws(0, torch.arange(5), "ligs")
    targets = TASK.targets(maps)
    losses, cosines = losses_and_cosines(lambda x: targets.losses(model(x)["out"].double()), images, options, draws)
    values = ligs(model, images, maps, options, task=TASK).values
    torch.testing.assert_close(cosines.detach(), values.nan_to_num(1.0), rtol=0, atol=1e-10)
    torch.testing.assert_close(losses, TASK.losses(model(images)["out"], maps), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(cosines.sum(), model.head.weight)
    with torch.no_grad():
        step = 1e-6 * gradient / gradient.norm()
        ends = []
        for side in (1, -1):
            model.head.weight.add_(side * step)
            ends.append(ligs(model, images, maps, options, task=TASK).values.nansum())
            model.head.weight.sub_(side * step)
    assert float(ends[0] - ends[1]) / 2e-6 == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_advbn_losses_take_label_maps(batch):
    images, maps = batch
    model = dense().float()
    images = images.float()
    branches = Branches(model, "norm", images)
    branches.train()
    found = advbn_losses(branches, images, maps, task=TASK)
    model.train().norm.eval()  # before the cut nothing is trained
    expected = TASK.targets(maps).loss(model(images)["out"])
    torch.testing.assert_close(found["clean"], expected)
    assert found["adv"] > found["clean"]


class Scenes(torch.utils.data.Dataset):
    """Eight noisy images with label maps."""

    def __init__(self, *, several=False):
        generator = torch.Generator().manual_seed(2)
        self.images = torch.randint(256, (8, 3, 36, 40), generator=generator).byte()
        self.maps = torch.randint(CLASSES, (8, 36, 40), generator=generator).byte()
        self.maps[:, :3] = IGNORED
        self.several = several

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        end = 32 if self.several and index % 3 == 0 else 36
        return self.images[index, :, :end] / 255, self.maps[index, :end]


@pytest.fixture(scope="module")
def pixel_model():
    return load_model(dense().float(), mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize("several", [False, True])
def test_attacks_and_ligs_are_measured_on_label_maps(pixel_model, several):
    data = load_data(Scenes(several=several), ignore_index=IGNORED)
    specs = ["clean", "pgd-linf:2/255:3", "cw-l2:0.2:2"]
    found = measure(
        pixel_model,
        data,
        shifts=specs,
        ligs=("fgsm",),
        rectify="replace",
        adaptation=AdaptationOptions(samples=4),
        device="cpu",
    )
    groups = data.batch_positions(8)
    values = torch.full((8,), torch.nan, dtype=torch.float64)
    for positions in groups:
        images = next(data.groups([positions]))[0].float() / 255
        maps, indices = data.label_maps(positions).long(), torch.from_numpy(positions)
        values[indices] = ligs(pixel_model, images, maps, LigsOptions("fgsm"), indices=indices, task=TASK).values
        for spec in specs[1:]:
            worst = attack_images(pixel_model, images, maps, parse_attack(spec), indices=indices, task=TASK)
            with torch.no_grad():
                counts = TASK.per_image(pixel_model(worst), maps)
            row = next(row for row in found.rows if row["protocol"] == "source" and row["shift"] == spec)
            np.testing.assert_array_equal(TASK.statistics(row)[positions], torch.cat(counts[:3], 1).numpy())
    assert found.summary["ligs"]["fgsm"]["mean"] == pytest.approx(float(values.mean()), abs=1e-6)
    source = found.summary["protocols"]["source"]
    assert source["per_shift"][specs[1]]["miou"] < source["clean_miou"]
    adapted = next(row for row in found.rows if row["protocol"] == "replace" and row["shift"] == specs[1])
    assert adapted["images"] == 4  # against the rectified model, over the images that it has not seen


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (AutoAttack(0.1), "one class an image for AutoAttack, but the task is segmentation: attack by fgsm, pgd-linf"),
        (PixelAttack(target="next"), "one class an image for the target 'next', but the task is segmentation"),
        (PixelAttack(target="random", loss="cw"), "one class an image for the target 'random'"),
    ],
    ids=str,
)
def test_attacks_that_need_one_class_an_image_are_refused(batch, attack, words):
    with pytest.raises(InputError, match=words) as error:
        attack_images(dense(), *batch, attack, task=TASK)
    assert "\n" not in str(error.value)


def test_label_maps_that_do_not_fit_are_told(batch):
    images, maps = batch
    for take in (
        lambda given: attack_images(dense(), images, given, PixelAttack()),
        lambda x: ligs(dense(), images, x),
    ):
        with pytest.raises(InputError, match=f"labels from 0 to {CLASSES - 1}, the model's classes, but got {IGNORED}"):
            take(maps)
        with pytest.raises(InputError, match=r"images \(B,3,H,W\) and label maps \(B,H,W\), but got .* \(5, 8, 9\)"):
            take(maps[..., 1:])
        with pytest.raises(InputError, match=r"label maps \(B,H,W\) as integers, but got torch\.float64"):
            take(maps.double())
        with pytest.raises(InputError, match=r"logits \(B,K\).*as of segmentation"):
            take(maps[:, 0, 0].clamp(max=3))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE[0] * SIZE[1], CLASSES)).double()
    with pytest.raises(InputError, match=r"logits \(B,K,h,w\) for label maps, but got shape"):
        attack_images(flat, images, maps, PixelAttack(), task=TASK)


def test_adversarial_images_of_label_maps_are_not_written(pixel_model, tmp_path):
    data = load_data(Scenes(), ignore_index=IGNORED)
    with pytest.raises(InputError, match="has label maps: attack them in `measure`, by `shifts`"):
        write_adversarial(pixel_model, data, "fgsm:0.1", out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


# Other tasks


def test_a_task_of_one_s_own_is_attacked_by_its_losses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("parity.py").write_text(TOY)
    torch.manual_seed(0)
    model = load_model("py:parity.py:build", mean=(0, 0, 0), std=(1, 1, 1))
    task = resolve_task("py:parity.py:DigitAndParity")
    images, digits = load_data("digits", limit=12).tensors()
    labels = torch.stack([digits, digits % 2], 1)
    attack = PixelAttack(0.04, steps=3, random_start=False)
    found = attack_images(model, images, labels, attack, task=task)
    gradients = []
    for image, (digit, parity), ours in zip(images, labels.tolist(), found, strict=True):
        point = image[None].clone()
        for _ in range(3):
            point.requires_grad_()
            (logits,) = model.eval()(point).double()
            loss = logits[:10].logsumexp(0) - logits[digit] + logits[10:].logsumexp(0) - logits[10 + parity]
            (gradient,) = torch.autograd.grad(loss, point)
            gradients.append(gradient)
            stepped = point.detach() + attack.length * gradient.sign()
            point = stepped.clamp(image - 0.04, image + 0.04).clamp(0, 1)
        torch.testing.assert_close(ours, point[0], rtol=0, atol=1e-6)
    np.savez("pairs.npz", images=(images * 255).round().byte().permute(0, 2, 3, 1), labels=labels)
    shifts = ["clean", "pgd-linf:0.04:3"]
    run = measure(model, "npz:pairs.npz", task=task, shifts=shifts, ligs=("fgsm",), device="cpu")
    worst = attack_images(model, images, labels, PixelAttack(0.04, steps=3), task=task)
    with torch.no_grad():
        right = task.per_image(model.eval()(worst), labels).both
    assert task.image_values(run.rows[1]).tolist() == right.float().tolist()
    similar = ligs(model, images, labels, LigsOptions("fgsm"), task=task)
    assert run.summary["ligs"]["fgsm"]["mean"] == pytest.approx(similar.mean, abs=1e-6)


@pytest.mark.parametrize("loss", ["cross-entropy", "cw"])
def test_a_subset_is_attacked_among_its_classes(loss):
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Flatten(), nn.Linear(48, 6)).double()
    whole[1].bias.data[2] += 9
    few = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).double()
    few.load_state_dict({name: value[[1, 3, 4]] for name, value in whole.state_dict().items()})
    images, labels = torch.rand(4, 3, 4, 4, dtype=torch.float64), torch.tensor([0, 2, 1, 1])
    attack, own = PixelAttack(0.1, steps=4, loss=loss), torch.tensor([1, 3, 4])[labels]
    found = attack_images(whole, images, own, attack, task=ClassSubset((1, 3, 4)))
    torch.testing.assert_close(found, attack_images(few, images, labels, attack), rtol=0, atol=1e-12)
    assert not torch.equal(found, attack_images(whole, images, own, attack))
