"""What the methods minimise, each against its formula written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch.nn import functional as F

from statshift._core.randomness import Draws
from statshift.hardening.batch import Batch
from statshift.hardening.methods import advbn, auxiliary
from statshift.hardening.methods.advbn import AdvBN
from statshift.hardening.methods.auxiliary import PixelAT
from statshift.hardening.methods.moex import MoEx, exchange_moments
from statshift.hardening.methods.standard import Standard
from statshift.hardening.passes import attacked
from statshift.shifts.attacks import (
    HALF_SCALE,
    FeatureAttack,
    PixelAttack,
    attack_features,
    batch_moments,
    perturb,
)
from statshift.tasks.targets import Targets
from training_jobs import branches_of

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 8
LABELS = torch.arange(COUNT) % 10
METHODS = {
    "standard": Standard(),
    "advbn": AdvBN(),
    "pixels": PixelAT(PixelAttack()),
    "moex": MoEx(),
}


def batch_of(views=1, soft=None, seed=0, dtype=torch.float32):
    images = torch.rand(views * COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch(images, Targets(LABELS, soft, views), Draws(seed, torch.arange(views * COUNT), "test"), dtype)


def mixed_labels():
    return torch.rand(COUNT, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64).softmax(1)


def cross_entropy(logits, target):
    """Return -log p of integer labels, or the mean of -log p over soft ones."""
    logs = log_softmax(np.asarray(logits.detach(), np.float64), axis=1)
    target = np.eye(logits.shape[1])[np.asarray(target)] if target.ndim == 1 else np.asarray(target)
    return float(-(target * logs).sum(1).mean())


def consistency(logits, views):
    """Return AugMix's Jensen-Shannon divergence, KL by KL."""
    p = np.exp(log_softmax(np.asarray(logits, np.float64), axis=1)).reshape(views, -1, logits.shape[1])
    total = 0.0
    for image in range(p.shape[1]):
        mean = p[:, image].mean(0)
        total += sum((q * np.log(q / mean)).sum() for q in p[:, image]) / views
    return total / p.shape[1]


def statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name or "num" in name}


# Targets


@pytest.mark.parametrize("views", [2, 3])
def test_several_views_shall_agree(views):
    logits = 3 * torch.randn(views * COUNT, 10, generator=torch.Generator().manual_seed(0))
    expected = cross_entropy(logits[:COUNT], LABELS) + 12 * consistency(logits, views)
    assert float(Targets(LABELS, views=views).loss(logits)) == pytest.approx(expected, rel=1e-6)


def test_views_that_agree_cost_nothing_more():
    one = torch.randn(COUNT, 10, generator=torch.Generator().manual_seed(0))
    assert float(Targets(LABELS, views=3).loss(one.repeat(3, 1))) == pytest.approx(cross_entropy(one, LABELS), rel=1e-6)


def test_consistency_of_certain_and_opposite_views_is_finite():
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    loss = Targets(torch.tensor([0]), views=2).loss(logits)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(12 * np.log(2), rel=1e-6)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_soft_targets_are_what_is_aimed_at(dtype):
    logits = torch.randn(COUNT, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    soft = mixed_labels().float()
    loss = Targets(LABELS, soft).loss(logits)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(loss) == pytest.approx(cross_entropy(logits.double(), soft), rel=1e-6)


def test_partners_bring_their_targets():
    order = torch.tensor([2, 0, 1, 3, 4, 5, 7, 6])
    both = Targets(LABELS, mixed_labels(), 1).partners(order)
    assert torch.equal(both.labels, LABELS[order])
    assert torch.equal(both.soft, mixed_labels()[order])
    assert Targets(LABELS).partners(order).soft is None


# Methods


def test_standard_is_cross_entropy():
    branches, batch = branches_of(dual=False).train(), batch_of()
    losses = Standard()(branches, batch)
    assert losses.keys() == {"clean"}
    logits = branches.clean(batch.images)  # whose prefix is in evaluation mode
    assert losses["clean"].item() == pytest.approx(cross_entropy(logits, LABELS), rel=1e-12)


def test_cutmix_is_standard_on_soft_targets():
    branches = branches_of(dual=False).eval()
    batch = batch_of(soft=mixed_labels())
    found = Standard()(branches, batch)["clean"].item()
    assert found == pytest.approx(cross_entropy(branches.clean(batch.images), mixed_labels()), rel=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_views_and_soft_targets(name):
    branches = branches_of("input" if name == "pixels" else "act1").train()
    for batch in (batch_of(views=3), batch_of(soft=mixed_labels())):
        losses = METHODS[name](branches, batch)
        assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())


def test_without_a_perturbation_both_branches_begin_alike():
    branches = branches_of().train()
    losses = AdvBN(FeatureAttack(epsilon=0.0))(branches, batch_of())
    assert torch.equal(losses["clean"], losses["adv"])


@pytest.mark.parametrize("attack", [FeatureAttack(), FeatureAttack(form="additive", epsilon=0.2, clamp=False)])
def test_advbn_raises_the_loss_of_the_model_as_it_is(attack):
    """In evaluation mode, in which the attack is made; batch norm in training mode undoes much of it."""
    branches, batch = branches_of().train(False), batch_of()
    losses = AdvBN(attack)(branches, batch)
    assert losses["clean"].item() == pytest.approx(cross_entropy(branches.clean(batch.images), LABELS), rel=1e-12)
    assert losses["adv"] > losses["clean"] + 0.002


@pytest.mark.parametrize("name", ["advbn", "pixels"])
def test_each_branch_has_its_own_statistics_and_the_attack_leaves_none(name, monkeypatch):
    """The clean norms meet the clean features once a step, whatever the attack is."""
    at = "input" if name == "pixels" else "act1"
    branches, alone, batch = branches_of(at).train(), branches_of(at, dual=False).train(), batch_of()
    before = statistics(branches.adv)
    METHODS[name](branches, batch)
    Standard()(alone, batch)
    for norm, value in statistics(alone.clean).items():
        assert torch.equal(statistics(branches.clean)[norm], value)
    for norm, value in statistics(branches.adv).items():
        if at == "act1" and ".bn1." in norm:
            assert torch.equal(value, before[norm])
        elif "num_batches" in norm:
            assert int(value) == int(before[norm]) + 1
        else:
            assert not torch.equal(value, statistics(branches.clean)[norm])


@pytest.mark.parametrize("at", ["input", "act1"])
def test_attacked_pixels_stay_in_the_ball_and_raise_the_loss(at, monkeypatch):
    seen = []
    attack_pixels = auxiliary.attack_pixels
    monkeypatch.setattr(
        auxiliary, "attack_pixels", lambda *args, **more: seen.append(attack_pixels(*args, **more)) or seen[-1]
    )
    branches, batch = branches_of(at).train(), batch_of()
    losses = PixelAT(PixelAttack(epsilon=8 / 255, step_size=2 / 255, steps=5))(branches, batch)
    (worst,) = seen
    assert 4 / 255 < float((worst - batch.images).abs().max()) <= 8 / 255 + 1e-7
    assert worst.min() >= 0
    assert worst.max() <= 1
    branches.eval()
    with torch.no_grad():
        clean, attacked = (cross_entropy(branches.adv(images), LABELS) for images in (batch.images, worst))
    assert attacked > clean + 0.01
    assert losses["adv"] > losses["clean"]
    assert losses["adv"].requires_grad
    assert losses["clean"].requires_grad


@pytest.mark.parametrize("trace", [True, False])
def test_an_attack_in_bfloat16_leaves_the_rest_in_float32(trace):
    """The factors are those of a training in bfloat16, the losses those of one in float32 on what they make."""
    branches, attack, seen = branches_of(trace=trace, dtype=torch.float32), FeatureAttack(steps=2), []

    class Seeing(Targets):
        def loss(self, logits):
            seen.append(logits.dtype)
            return super().loss(logits)

    batch = replace(batch_of(), attack_dtype=torch.bfloat16, targets=Seeing(LABELS))
    found = AdvBN(attack)(branches, batch)
    assert seen == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    features = branches.prefix(batch.images)
    with attacked(branches, batch_of(dtype=torch.bfloat16)) as suffix:
        factors = attack_features(features, lambda worst: F.cross_entropy(suffix(worst), LABELS), attack, relu=True)
    worst = perturb(features, factors, batch_moments(features, attack), attack, relu=True)
    expected = {"clean": branches.suffix(features, "clean"), "adv": branches.suffix(worst, "adv")}
    for branch, loss in found.items():
        assert torch.equal(loss, F.cross_entropy(expected[branch], LABELS))


def test_moments_are_exchanged_at_each_position():
    features = torch.randn(3, 5, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1
    order = torch.tensor([2, 0, 1])
    found = exchange_moments(features, order, eps=1e-5).numpy()
    for image in range(3):
        for row in range(2):
            for column in range(4):
                own, other = (features.numpy()[which, :, row, column] for which in (image, int(order[image])))
                spread = [np.sqrt(((x - x.mean()) ** 2).mean() + 1e-5) for x in (own, other)]
                expected = (own - own.mean()) / spread[0] * spread[1] + other.mean()
                np.testing.assert_allclose(found[image, :, row, column], expected, rtol=1e-12)


@pytest.mark.parametrize(("views", "soft"), [(1, False), (1, True), (3, False)])
def test_moex_mixes_both_images_labels(views, soft):
    branches, batch = branches_of(dual=False).train(False), batch_of(views, mixed_labels() if soft else None)
    order = batch.draws.uniform("exchange partner")[:COUNT].argsort(stable=True)
    assert sorted(order.tolist()) == list(range(COUNT))
    everyone = torch.cat([order + view * COUNT for view in range(views)])
    features = branches.prefix(batch.images)
    logits = branches.suffix(exchange_moments(features, everyone), "clean").detach()
    target = mixed_labels() if soft else F.one_hot(LABELS, 10).double()
    shares = 0.9 * target + 0.1 * target[order]
    expected = cross_entropy(logits[:COUNT], shares) + (12 * consistency(logits, views) if views > 1 else 0)
    assert MoEx(probability=1.0)(branches, batch)["clean"].item() == pytest.approx(expected, rel=1e-10)
    assert MoEx(probability=0.0)(branches, batch)["clean"].item() == Standard()(branches, batch)["clean"].item()


def test_moex_exchanges_as_often_as_its_probability_says():
    branches = branches_of(dual=False).train(False)
    exchanged = [
        MoEx(probability=0.5)(branches, batch_of(seed=seed))["clean"].item()
        != Standard()(branches, batch_of(seed=seed))["clean"].item()
        for seed in range(60)
    ]
    assert 20 < sum(exchanged) < 40


# Half precision


@pytest.mark.parametrize("trace", [True, False], ids=["fx", "replay"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", METHODS)
def test_every_trained_weight_gets_its_gradient_under_autocast(name, dtype, trace):
    """Autocast keeps casts of weights; those that an attack made lack a gradient and must not be met again."""
    at = "input" if name == "pixels" else "act1"
    dual = name in ("advbn", "pixels")
    wide, half = (branches_of(at, dual, trace, torch.float32).train() for _ in range(2))
    losses = METHODS[name](wide, batch_of())
    sum(losses.values()).backward()
    with torch.autocast("cpu", dtype):
        losses = METHODS[name](half, batch_of(dtype=dtype))
    sum(losses.values()).backward()
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    for (label, ours), theirs in zip(half.named_parameters(), wide.parameters(), strict=True):
        assert ours.requires_grad == theirs.requires_grad
        assert (ours.grad is None) == (not ours.requires_grad), label
        if ours.requires_grad and theirs.grad.norm() > 1e-4:
            assert F.cosine_similarity(ours.grad.flatten(), theirs.grad.flatten(), dim=0) > 0.8, label


@pytest.mark.parametrize("name", ["attack_features", "attack_pixels"])
def test_under_float16_the_attacks_loss_is_scaled_where_overflow_is_handled(name, monkeypatch):
    seen = []
    module = advbn if name == "attack_features" else auxiliary
    attack = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **more: seen.append(more["loss_scale"]) or attack(*args, **more))
    method, at = (METHODS["advbn"], "act1") if name == "attack_features" else (METHODS["pixels"], "input")
    for dtype in (torch.float32, torch.float16):
        with torch.autocast("cpu", dtype, enabled=dtype == torch.float16):
            method(branches_of(at, dtype=torch.float32).train(), batch_of(dtype=dtype))
    assert seen == [1.0, HALF_SCALE]
