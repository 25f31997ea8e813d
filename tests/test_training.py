"""Training: the weights of a plain loop, decided by the seed, the same after any stop, and faults told in time."""

import errno
import math
import os
import signal
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import training_jobs
import warm
from statshift import load_data
from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.hardening.augmentation import augmentation_for, cutmix
from statshift.hardening.methods.advbn import AdvBN
from statshift.hardening.methods.standard import Standard
from statshift.hardening.optimisation import OPTIMIZERS, SCHEDULES
from statshift.hardening.options import HardenOptions
from statshift.hardening.trainer import train
from statshift.hardening.training import TrainingOptions
from statshift.models import PixelModel
from statshift.shifts.attacks import FeatureAttack
from statshift.splitting.branches import export
from training_jobs import ADVBN, OPTIONS, branches_of

pytestmark = pytest.mark.usefixtures("one_thread")

NORMS = ("bn1", "bn2", "bn3")
STANDARD = Standard()


@pytest.fixture(scope="module")
def digits():
    return load_data("digits:train", limit=72)


def weights(branches):
    return {f"{branch}.{name}": value for branch in branches.splits for name, value in export(branches, branch).items()}


def same(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in found)


def trained(data, method=STANDARD, dual=False, options=OPTIONS, network=None, **more):
    """Return the weights after a training, and its history."""
    branches = branches_of(dual=dual, **network or {})
    history = train(branches, data, method, options, **more)
    return weights(branches), history


# Against a plain loop


def momentum(p, gradient, rate, memory):
    """SGD with a momentum of 0.9."""
    memory["v"] = 0.9 * memory.get("v", 0) + gradient
    p.sub_(rate * memory["v"])


def adam(p, gradient, rate, memory):
    """Kingma and Ba, ICLR 2015, algorithm 1."""
    t = memory["t"] = memory.get("t", 0) + 1
    memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * gradient
    memory["v"] = 0.999 * memory.get("v", 0) + 0.001 * gradient**2
    p.sub_(rate * memory["m"] / (1 - 0.9**t) / ((memory["v"] / (1 - 0.999**t)).sqrt() + 1e-8))


def adagrad(p, gradient, rate, memory):
    """Duchi et al., JMLR 2011, figure 1, diagonal."""
    memory["sum"] = memory.get("sum", 0) + gradient**2
    p.sub_(rate * gradient / (memory["sum"].sqrt() + 1e-10))


UPDATES = {"sgd": momentum, "adam": adam, "adagrad": adagrad}


def plain_loop(data, options, *, adversarial, attack_steps=6, rate_of, update=momentum):
    """Return the weights that descent written out finds: a copy with norms of its own, every other weight tied."""
    clean = PixelModel(training_jobs.build()).double()
    adv = deepcopy(clean)
    for name in ("conv1", "conv2", "conv3", "fc"):
        setattr(adv.network, name, getattr(clean.network, name))
    models = (clean, adv) if adversarial else (clean,)
    named = {id(p): p for model in models for p in model.network.parameters()}
    frozen = {id(p) for model in models for part in ("conv1", "bn1") for p in getattr(model.network, part).parameters()}
    parameters = [p for key, p in named.items() if key not in frozen]
    memories = [{} for _ in parameters]
    pixels = torch.cat([images for images, _ in data.batches(len(data))]).float() / 255
    labels, per_epoch = torch.from_numpy(data.labels), len(data) // options.batch_size
    for step in range(options.epochs * per_epoch):
        epoch, place = divmod(step, per_epoch)
        draws = Draws(options.seed, torch.from_numpy(data.indices), f"training epoch {epoch}")
        order = draws.uniform("order").argsort(stable=True)
        batch = order[place * options.batch_size : (place + 1) * options.batch_size]
        gradients = [torch.zeros_like(p) for p in parameters]
        for part in batch.chunk(options.accumulate):
            with torch.no_grad():
                features = clean.eval().network.prefix(clean.normalise(pixels[part]))
            losses = []
            if adversarial:
                mean = features.mean((0, 2, 3)).view(1, -1, 1, 1)
                mu, sigma = torch.ones_like(mean), torch.ones_like(mean)
                for _ in range(attack_steps):
                    mu, sigma = mu.detach().requires_grad_(), sigma.detach().requires_grad_()
                    worst = (sigma * (features - mean) + mu * mean).relu()
                    loss = F.cross_entropy(adv.eval().network.suffix(worst), labels[part])
                    up = torch.autograd.grad(loss, (mu, sigma))
                    epsilon = attack_steps * 0.2 - 0.1
                    mu, sigma = (
                        (factor + 0.2 * found.sign()).clamp(1 - epsilon, 1 + epsilon)
                        for factor, found in zip((mu, sigma), up, strict=True)
                    )
                worst = (sigma * (features - mean) + mu * mean).relu().detach()
                logits = adv.train().network.suffix(worst)
                losses.append(options.gamma * F.cross_entropy(logits, labels[part]))
            losses.append(F.cross_entropy(clean.train().network.suffix(features), labels[part]))
            found = torch.autograd.grad(sum(losses) / options.accumulate, parameters)
            gradients = [total + new for total, new in zip(gradients, found, strict=True)]
        with torch.no_grad():
            for p, memory, gradient in zip(parameters, memories, gradients, strict=True):
                update(p, gradient + options.weight_decay * p, rate_of(step), memory)
    states = dict(zip(("clean", "adv"), models, strict=False))
    return {f"{b}.{name}": value for b, model in states.items() for name, value in model.network.state_dict().items()}


@pytest.mark.parametrize("trace", [True, False], ids=["fx", "replay"])
@pytest.mark.parametrize(("gamma", "accumulate"), [(1.0, 1), (0.3, 1), (1.0, 2)])
def test_advbn_is_a_plain_loop(digits, gamma, accumulate, trace):
    options = replace(OPTIONS, gamma=gamma, accumulate=accumulate, batch_size=24)
    start = weights(branches_of())
    found, _ = trained(digits, ADVBN, True, options, {"trace": trace})
    expected = plain_loop(digits, options, adversarial=True, rate_of=lambda step: 0.05 if step < 3 else 0.005)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)
        if "conv1" in name or "bn1" in name:
            assert torch.equal(found[name], start[name]), name
        else:
            assert not torch.equal(found[name], start[name]), name


def bytes_for_backward(branches):
    """Return the bytes that the losses of both branches keep, beside features and weights."""
    features, held = branches.train().prefix(torch.rand(8, 3, 32, 32)), {}

    def keep(one):
        held[one.data_ptr()] = one
        return one

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        loss = sum(branches.suffix(features, branch).square().mean() for branch in ("clean", "adv"))
    own = {one.data_ptr() for one in (features, *branches.parameters(), *branches.buffers())}
    loss.backward()
    return sum(one.nbytes for place, one in held.items() if place not in own)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_that_are_made_anew_change_no_weights_and_are_not_kept(digits, dtype):
    options = replace(OPTIONS, epochs=1, dtype=dtype)
    networks = [{"dtype": torch.float32, "recompute": recompute} for recompute in (False, True)]
    kept, anew = (trained(digits, ADVBN, True, options, network)[0] for network in networks)
    assert same(kept, anew)
    all_of_it, rest = (bytes_for_backward(branches_of(**network)) for network in networks)
    assert rest < all_of_it / 20


@pytest.mark.parametrize("accumulate", [1, 3])
def test_standard_is_a_plain_loop(digits, accumulate):
    options = replace(OPTIONS, accumulate=accumulate, batch_size=24, epochs=1, seed=4)
    found, _ = trained(digits, options=options)
    expected = plain_loop(digits, options, adversarial=False, rate_of=lambda step: 0.05 if step < 2 else 0.005)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


class Whole(nn.Module):
    """What training asks of `Branches`, for a network without norms and a cut."""

    def __init__(self, network):
        super().__init__()
        self.clean = PixelModel(network, num_classes=10)

    def prefix(self, images):
        return images

    def suffix(self, features, branch):
        return {"clean": self.clean}[branch](features)


def test_a_network_without_norms_is_trained_by_torchs_own_loop(digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 5, stride=3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10)
    found = Whole(nn.Sequential(*layers)).double()
    expected = deepcopy(found).train()
    history = train(found, digits, STANDARD, replace(OPTIONS, optimizer="adam", schedule="constant"))
    optimiser = torch.optim.Adam(expected.parameters(), lr=0.05, weight_decay=1e-4)
    pixels = torch.cat([images for images, _ in digits.batches(len(digits))]).float() / 255
    for epoch in range(2):
        draws = Draws(0, torch.from_numpy(digits.indices), f"training epoch {epoch}")
        order, losses = draws.uniform("order").argsort(stable=True), []
        for chosen in order[:64].chunk(4):
            optimiser.zero_grad()
            losses.append(F.cross_entropy(expected.clean(pixels[chosen]), torch.from_numpy(digits.labels)[chosen]))
            losses[-1].backward()
            optimiser.step()
        assert history[epoch]["losses"]["clean"] == pytest.approx(float(torch.stack(losses).detach().mean()), rel=1e-9)
    for ours, theirs in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_with_no_weight_on_the_adversarial_branch_the_clean_one_is_standard_trainings(digits):
    found, _ = trained(digits, ADVBN, True, replace(OPTIONS, gamma=0.0), {"dropout": 0.3})
    expected, _ = trained(digits, network={"dropout": 0.3})
    assert same({name: found[name] for name in expected}, expected)


def test_both_losses_begin_equal_where_nothing_is_perturbed(digits):
    seen = []
    method = AdvBN(FeatureAttack(epsilon=0.0))
    trained(digits, method, True, replace(OPTIONS, epochs=1), progress=lambda step: seen.append(step.losses))
    assert seen[0]["clean"] == seen[0]["adv"]


# Optimisers and schedules


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_the_other_optimisers_are_plain_loops(digits, optimizer):
    options = replace(OPTIONS, optimizer=optimizer, learning_rate=0.01, weight_decay=1e-3, batch_size=24)
    found, _ = trained(digits, options=options)
    expected = plain_loop(
        digits, options, adversarial=False, rate_of=lambda step: 0.01 if step < 3 else 0.001, update=UPDATES[optimizer]
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-8, msg=name)


def sgd(options):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=options.learning_rate)


def rates_of(schedule, optimiser, steps):
    """Return the rates that one of torch's schedulers sets."""
    rates = []
    for step in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if step + 1 < steps:
            schedule.step()
    return rates


@pytest.mark.parametrize("steps", [10, 37, 400])
def test_one_cycle_is_torchs(steps):
    options = TrainingOptions(epochs=1, learning_rate=0.3, schedule="one-cycle")
    optimiser = sgd(options)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=0.3, total_steps=steps, pct_start=0.2, cycle_momentum=False
    )
    expected = rates_of(theirs, optimiser, steps)
    assert [options.rate(step, steps) for step in range(steps)] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("epochs", [1, 7])
def test_cosine_is_torchs(epochs):
    options = TrainingOptions(epochs=epochs, learning_rate=0.3, schedule="cosine")
    optimiser = sgd(options)
    expected = rates_of(torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * 5), optimiser, epochs * 5)
    assert [options.rate(step, 5) for step in range(epochs * 5)] == pytest.approx(expected, rel=1e-9)
    assert expected[0] == 0.3
    assert 0 < expected[-1] < 0.3 / epochs


@pytest.mark.parametrize(
    ("epochs", "decays", "rate", "factor"),
    [(300, (200,), 0.01, 0.1), (350, (150, 250), 0.1, 0.1), (150, (100,), 0.1, 0.1), (150, (50, 100), 0.1, 0.2)],
)
def test_steps_after_epochs_are_torchs(epochs, decays, rate, factor):
    options = TrainingOptions(epochs=epochs, learning_rate=rate, decay_epochs=decays, decay_factor=factor)
    optimiser = sgd(options)
    theirs = rates_of(torch.optim.lr_scheduler.MultiStepLR(optimiser, decays, factor), optimiser, epochs)
    for per_epoch in (1, 3):
        ours = [options.rate(step, per_epoch) for step in range(epochs * per_epoch)]
        assert ours == pytest.approx([one for one in theirs for _ in range(per_epoch)], rel=1e-9)


def test_decay_epochs_may_be_a_list_and_the_options_stay_hashable():
    options = TrainingOptions(decay_epochs=[2, 5])
    assert options == TrainingOptions(decay_epochs=(2, 5))
    assert hash(options) == hash(TrainingOptions(decay_epochs=(2, 5)))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6])
def test_one_cycle_of_a_few_steps_is_within_its_bounds(steps):
    options = TrainingOptions(epochs=1, learning_rate=0.3, schedule="one-cycle")
    rates = [options.rate(step, steps) for step in range(steps)]
    assert all(0.3 / 25e4 * 0.999 <= rate <= 0.3 for rate in rates)


def test_the_rate_is_divided_by_ten_half_way():
    assert [TrainingOptions(epochs=1).rate(step, 5) for step in range(5)] == [1e-3] * 3 + [1e-4] * 2
    assert [TrainingOptions(epochs=3).rate(step, 2) for step in range(6)] == [1e-3] * 3 + [1e-4] * 3
    halved = TrainingOptions(epochs=2, decay_factor=0.5)
    assert [halved.rate(step, 2) for step in range(4)] == [1e-3] * 2 + [5e-4] * 2


def test_a_constant_rate():
    options = TrainingOptions(epochs=2, schedule="constant")
    assert {options.rate(step, 7) for step in range(14)} == {1e-3}


def spied(monkeypatch, name):
    """Let an optimiser write down its group before each step; return the list."""
    seen = []

    class Spy(OPTIMIZERS[name]):
        def step(self, closure=None):
            seen.append({key: value for key, value in self.param_groups[0].items() if key != "params"})
            return super().step(closure)

    monkeypatch.setitem(OPTIMIZERS, name, Spy)
    return seen


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_optimiser_is_set_to_what_the_options_say(digits, schedule, monkeypatch):
    seen = spied(monkeypatch, "sgd")
    options = replace(OPTIONS, schedule=schedule, momentum=0.8, nesterov=True, weight_decay=0.01)
    _, history = trained(digits, options=options)
    assert [step["lr"] for step in seen] == [options.rate(step, 4) for step in range(8)]
    for step in seen:
        assert (step["momentum"], step["weight_decay"], step["nesterov"]) == (0.8, 0.01, True)
    assert [entry["learning_rate"] for entry in history] == [options.rate(3, 4), options.rate(7, 4)]


def test_the_rate_falls_at_the_first_step_after_an_epoch(digits, monkeypatch):
    seen = spied(monkeypatch, "adam")
    options = replace(OPTIONS, epochs=3, optimizer="adam", decay_epochs=(1, 2), weight_decay=0.02)
    trained(digits, options=options)
    expected = [0.05] * 4 + [0.005] * 4 + [0.0005] * 4
    assert [step["lr"] for step in seen] == pytest.approx(expected, rel=1e-12)
    assert {step["weight_decay"] for step in seen} == {0.02}


# Order, augmentation, randomness


def batches_seen(data, options, **more):
    """Return the images and targets that a method is given."""
    seen = []

    def spy(branches, batch):
        seen.append(batch)
        return STANDARD(branches, batch)

    trained(data, spy, options=options, **more)
    return seen


def test_the_dtypes_reach_every_batch(digits):
    batches = batches_seen(digits, replace(OPTIONS, epochs=1, dtype="float32", attack_dtype="bfloat16"))
    assert {(one.dtype, one.attacked_in, one.loss_scale) for one in batches} == {(torch.float32, torch.bfloat16, 1)}


@pytest.mark.parametrize(("augment", "views"), [("none", 1), ("standard", 1), ("augmix", 3), ("cutmix", 1)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_each_image_is_seen_once_an_epoch_as_its_augmentation_makes_it(digits, augment, views, channels_last):
    """The batches are those of a plain loop over the addressed order."""
    options = replace(OPTIONS, batch_size=20, seed=5, augment=augment, channels_last=channels_last)
    seen = batches_seen(digits, options)
    assert [len(batch.images) for batch in seen] == [20 * views] * 6
    make = augmentation_for(augment, digits, 5)
    for step, batch in enumerate(seen):
        epoch, place = divmod(step, 3)
        order = Draws(5, torch.from_numpy(digits.indices), f"training epoch {epoch}").uniform("order")
        positions = order.argsort(stable=True)[20 * place : 20 * place + 20].numpy()
        stacked = next(digits.augmented([positions], make.at(epoch)))[0].transpose(0, 1).flatten(0, 1)
        images, soft = stacked.float() / 255, None
        if augment == "cutmix":
            draws = Draws(5, torch.from_numpy(digits.indices[positions]), f"training epoch {epoch}")
            images, soft = cutmix(images, F.one_hot(torch.from_numpy(digits.labels[positions]), 10).float(), draws)
            assert torch.equal(batch.targets.soft, soft)
        assert torch.equal(batch.images, images)
        assert batch.images.is_contiguous(memory_format=torch.channels_last) or not channels_last
        assert batch.targets.labels.tolist() == digits.labels[positions].tolist()
        assert batch.targets.views == views
        assert len(batch.draws.indices.unique()) == 20 * views
        assert (batch.targets.soft is None) == (augment != "cutmix")


def test_cutmixs_soft_targets_are_trained_on(digits):
    hard, _ = trained(digits, options=replace(OPTIONS, augment="standard"))
    mixed, _ = trained(digits, options=replace(OPTIONS, augment="cutmix"))
    assert not same(mixed, hard)


def test_the_seed_decides(digits):
    network = {"dropout": 0.3}
    first, history = trained(digits, network=network)
    torch.rand(1)  # the global stream has no say
    again, same_history = trained(digits, network=network)
    assert same(again, first)
    assert same_history == history
    assert not same(trained(digits, network=network, options=replace(OPTIONS, seed=1))[0], first)


def test_nobodys_random_numbers_are_drawn_and_no_handler_stays(digits):
    branches = branches_of(dropout=0.3)
    state, handlers = torch.get_rng_state(), [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(branches, digits, ADVBN, replace(OPTIONS, augment="augmix", epochs=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_progress_history_and_validation_tell_how_far_it_is(digits):
    seen, validated = [], []

    def validate(epoch):
        assert not any(module.training for module in branches.modules())
        validated.append(epoch)
        return {"accuracy": epoch / 10}

    branches = branches_of()
    history = train(branches, digits, ADVBN, OPTIONS, progress=seen.append, validate=validate)
    assert [(step.step, step.steps, step.epoch, step.epochs) for step in seen] == [
        (step, 8, 1 + (step > 4), 2) for step in range(1, 9)
    ]
    assert validated == [1, 2]
    assert not any(module.training for module in branches.modules())
    for epoch, entry in enumerate(history):
        assert entry["epoch"] == epoch + 1
        assert entry["losses"] == seen[4 * epoch + 3].losses
        assert entry["losses"].keys() == {"clean", "adv"}
        assert entry["validation"] == {"accuracy": (epoch + 1) / 10}


def test_the_running_statistics_have_settled():
    """A network that lags behind its own weights would gain from the statistics of the batch."""
    data = load_data("digits:train", limit=400)
    options = TrainingOptions(
        epochs=20, batch_size=32, learning_rate=0.2, schedule="one-cycle", nesterov=True, augment="none"
    )
    branches = branches_of("input", dual=False, dtype=torch.float32)
    train(branches, data, STANDARD, options)
    images, labels = next(data.batches(400))[0].float() / 255, torch.from_numpy(data.labels)
    model = branches.clean
    with torch.no_grad():
        logits = model(images)
        for name in NORMS:
            getattr(model.network, name).momentum = 0.0
        by_batch = model.train()(images)
    accuracy, by_batch_accuracy = (float((found.argmax(1) == labels).float().mean()) for found in (logits, by_batch))
    assert accuracy > 0.85
    assert accuracy == pytest.approx(by_batch_accuracy, abs=0.02)
    losses = [float(F.cross_entropy(found, labels)) for found in (logits, by_batch)]
    assert losses[0] == pytest.approx(losses[1], rel=0.25)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_trains_every_weight_behind_the_cut(digits, dtype):
    branches = branches_of(dtype=torch.float32)
    before = weights(branches)
    history = train(branches, digits, ADVBN, replace(OPTIONS, dtype=dtype, epochs=4))
    after = weights(branches)
    for name, value in after.items():
        assert torch.equal(value, before[name]) == ("conv1" in name or "bn1" in name), name
        assert value.dtype == before[name].dtype
    assert history[-1]["losses"]["clean"] < history[0]["losses"]["clean"]
    full = branches_of(dtype=torch.float32)
    train(full, digits, ADVBN, replace(OPTIONS, epochs=4))
    for name, value in weights(full).items():
        torch.testing.assert_close(after[name].float(), value.float(), rtol=0.1, atol=0.1, msg=name)


# Stopped, and going on


class Stop(Exception):  # noqa: N818
    pass


@pytest.fixture(scope="module")
def uninterrupted(digits):
    options = replace(OPTIONS, augment="standard", checkpoint_every=0)
    return options, *trained(digits, ADVBN, True, options, {"dropout": 0.3}, validate=lambda epoch: {"at": epoch})


@pytest.mark.parametrize("at", [1, 2, 4, 5, 8])
def test_a_training_that_dies_goes_on_to_the_same_weights(digits, uninterrupted, tmp_path, at):
    """Within an epoch, at its end, and at the last step."""
    options, expected, history = uninterrupted
    how = {"network": {"dropout": 0.3}, "checkpoint": tmp_path / "new" / "state.pt", "identity": {"a": {"b": 1}}}
    how["validate"] = lambda epoch: {"at": epoch}

    def die(step):
        if step.step == at:
            raise Stop

    with pytest.raises(Stop):
        trained(digits, ADVBN, True, options, progress=die, **how)
    seen = []
    found, again = trained(digits, ADVBN, True, options, progress=seen.append, **how)
    assert [step.step for step in seen] == list(range(at, 9))  # the checkpoint was of the step before
    assert same(found, expected)
    assert again == history


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_every_optimiser_goes_on_to_the_same_weights(digits, tmp_path, optimizer):
    options = replace(OPTIONS, optimizer=optimizer, augment="cutmix", checkpoint_every=0, decay_epochs=(1,))
    expected, history = trained(digits, options=options)

    for at in (3, 6):

        def die(step, at=at):
            if step.step == at:
                raise Stop

        with pytest.raises(Stop):
            trained(digits, options=options, progress=die, checkpoint=tmp_path / "state.pt")
    found, again = trained(digits, options=options, checkpoint=tmp_path / "state.pt")
    assert same(found, expected)
    assert again == history


def test_a_training_that_dies_in_validation_validates_again(digits, uninterrupted, tmp_path):
    options, expected, history = uninterrupted
    how = {"network": {"dropout": 0.3}, "checkpoint": tmp_path / "state.pt"}

    deaths = [1, 2]

    def die(epoch):
        if epoch in deaths:
            deaths.remove(epoch)
            raise Stop
        return {"at": epoch}

    seen = []
    for _ in range(2):
        with pytest.raises(Stop):
            trained(digits, ADVBN, True, options, validate=die, progress=seen.append, **how)
    found, again = trained(digits, ADVBN, True, options, validate=die, progress=seen.append, **how)
    assert [step.step for step in seen] == list(range(1, 9))
    assert same(found, expected)
    assert again == history
    once_more, _ = trained(digits, ADVBN, True, options, validate=die, progress=seen.append, **how)
    assert len(seen) == 8
    assert same(once_more, expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [2, 4])
def test_an_interrupt_waits_for_the_checkpoint_of_that_step(digits, uninterrupted, tmp_path, number, at):
    options, expected, history = uninterrupted
    options = replace(options, checkpoint_every=math.inf)
    how = {"network": {"dropout": 0.3}, "checkpoint": tmp_path / "state.pt", "validate": lambda epoch: {"at": epoch}}

    def interrupt(step):
        if step.step == at:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        trained(digits, ADVBN, True, options, progress=interrupt, **how)
    seen = []
    found, again = trained(digits, ADVBN, True, options, progress=seen.append, **how)
    assert [step.step for step in seen] == list(range(at + 1, 9))
    assert same(found, expected)
    assert again == history


def test_a_second_interrupt_does_not_wait(digits, tmp_path):
    def interrupt(step):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it waited")

    with pytest.raises(KeyboardInterrupt):
        trained(digits, progress=interrupt)


def test_within_an_epoch_checkpoints_are_as_rare_as_asked_for(digits, tmp_path, monkeypatch):
    written = []
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: written.append(path) or write(path, data))
    options = replace(OPTIONS, checkpoint_every=1e6)
    trained(digits, checkpoint=tmp_path / "one.pt", options=options)
    assert len(written) == 1 + 2
    trained(digits, checkpoint=tmp_path / "two.pt", options=options, validate=lambda epoch: {})
    assert len(written) == 3 + 1 + 2 * 2  # before what may take long, and after it


# Faults


def faulty(data, told, **more):
    with pytest.raises(InputError, match=told) as raised:
        trained(data, **more)
    assert "\n" not in str(raised.value)


def failing_at(step, value=math.nan):
    steps = iter(range(1, 100))

    def method(branches, batch):
        losses = STANDARD(branches, batch)
        return {"clean": losses["clean"] * (value if next(steps) == step else 1.0)}

    return method


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_names_step_and_images_and_keeps_the_last_good_state(
    digits, tmp_path, value, accumulate
):
    path = tmp_path / "state.pt"
    options = replace(OPTIONS, checkpoint_every=0, accumulate=accumulate)
    order = Draws(0, torch.from_numpy(digits.indices), "training epoch 0").uniform("order").argsort(stable=True)
    images = ", ".join(map(str, digits.indices[order[32:40].numpy()].tolist()))
    told = rf"loss of step 3 is not finite \(clean {value}\).* images {images}\. .*state\.pt"
    method = failing_at(2 * accumulate + 1, value)
    faulty(digits, told, method=method, options=options, checkpoint=path)
    kept = torch.load(path, weights_only=True)
    assert kept["state"]["step"] == 2
    assert all(value.isfinite().all() for value in kept["parts"]["branches"].values())
    found, _ = trained(digits, options=options, checkpoint=path)
    assert same(found, trained(digits, options=options)[0])


def test_weights_that_are_not_finite_are_never_kept(digits, tmp_path):
    def method(branches, batch):
        """Return a loss that is finite and whose gradient is not."""
        losses, bias = STANDARD(branches, batch), branches.clean.network.fc.bias
        return {"clean": losses["clean"] + (bias - bias.detach()).abs().sqrt().sum()}

    options = replace(OPTIONS, checkpoint_every=0)
    path = tmp_path / "state.pt"
    faulty(digits, "weights are not finite after step 1.*state.pt", method=method, options=options, checkpoint=path)
    assert torch.load(path, weights_only=True)["state"]["step"] == 0
    faulty(digits, "weights are not finite|loss of step 2 is not", method=method)


def test_labels_beyond_the_classes(digits):
    labels = digits.labels.copy()
    labels[7] = 10
    faulty(replace(digits, labels=labels), "largest label in digits:train is 10")
    faulty(replace(digits, labels=None), "labels to train on, but digits:train has none")


@pytest.mark.parametrize(
    ("size", "accumulate", "told"),
    [
        (
            16,
            3,
            "batch of 16 images to be shared out evenly, but processes are 1 and the parts of each 3.* multiple of 3",
        ),
        (100, 7, "batch of 72 images"),
        (4, 4, "at least two images to normalise together, but got 1"),
    ],
)
def test_batches_that_cannot_be_shared_out(digits, size, accumulate, told):
    faulty(digits, told, options=replace(OPTIONS, batch_size=size, accumulate=accumulate))


def test_a_single_image():
    faulty(load_data("digits:train", limit=1), "at least two images to normalise together, but got 1")


def test_a_last_batch_that_is_smaller_is_left_out_and_small_data_are_one_batch(digits):
    assert [len(batch.images) for batch in batches_seen(digits, replace(OPTIONS, epochs=1, batch_size=30))] == [30, 30]
    assert [len(batch.images) for batch in batches_seen(digits, replace(OPTIONS, epochs=1, batch_size=90))] == [72]


def test_all_faults_of_the_options_are_told_together():
    with pytest.raises(InputError) as raised:
        TrainingOptions(
            epochs=0,
            batch_size=1,
            accumulate=1.5,
            learning_rate=math.nan,
            momentum=-1,
            weight_decay=math.inf,
            gamma=-0.1,
            checkpoint_every=-1,
            schedule="stepp",
            optimizer="adamm",
            decay_epochs=(3, 2),
            decay_factor=1,
            augment="flip",
            dtype="float8",
        )
    message = str(raised.value)
    for told in (
        "`epochs` to be an integer of at least 1, but got 0",
        "`batch_size` to be an integer of at least 2, but got 1",
        "`accumulate` to be an integer of at least 1, but got 1.5",
        "`learning_rate` above 0, but got nan",
        "`momentum` to be at least 0, but got -1",
        "`weight_decay` to be at least 0, but got inf",
        "`gamma` to be at least 0, but got -0.1",
        "`checkpoint_every` to be at least 0, but got -1",
        "Did you mean 'step'?",
        "Unknown optimizer 'adamm'. Did you mean 'adam'? Choose from: sgd, adam, adagrad.",
        "`decay_epochs` to ascend from 1 to below the 0 epochs, but got (3, 2)",
        "`decay_factor` above 0 and below 1, but got 1",
        "Unknown augment 'flip'",
        "Unknown dtype 'float8'",
    ):
        assert told in message
    assert TrainingOptions(dtype=torch.bfloat16) == TrainingOptions(dtype="bfloat16")
    with pytest.raises(InputError, match="Unknown dtype 'float64'"):
        TrainingOptions(dtype=torch.float64)
    with pytest.raises(InputError, match="`momentum` above 0 for Nesterov's"):
        TrainingOptions(momentum=0, nesterov=True)
    with pytest.raises(InputError, match="`attack_dtype` only with the dtype float32, but got bfloat16"):
        TrainingOptions(dtype="bfloat16", attack_dtype="float16")


def test_a_record_tells_the_dtype_of_the_attack_where_one_is_given():
    described = [
        HardenOptions("advbn", at="act1", training=TrainingOptions(attack_dtype=one)) for one in (None, "bfloat16")
    ]
    without, given = (one.describe()["training"] for one in described)
    assert given == without | {"attack_dtype": "bfloat16"}
    assert "attack_dtype" not in without  # as in records that knew of none


@pytest.mark.parametrize("epochs", [(), (2, 2), (5, 3), (0, 3), (5, 10), (2.5,), 5, "5"])
def test_decay_epochs_that_cannot_be(epochs):
    with pytest.raises(InputError, match="`decay_epochs` to ascend from 1 to below the 10 epochs"):
        TrainingOptions(epochs=10, decay_epochs=epochs)


@pytest.mark.parametrize("schedule", ["one-cycle", "constant", "cosine"])
def test_decays_are_of_the_schedule_step_alone(schedule):
    told = rf"no `decay_epochs` for the schedule {schedule}, but got \(5,\)\. .*no `decay_factor` .*, but got 0\.2\."
    with pytest.raises(InputError, match=told):
        TrainingOptions(epochs=10, schedule=schedule, decay_epochs=(5,), decay_factor=0.2)


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_momentum_is_sgds(optimizer):
    told = rf"no `momentum` for the optimizer {optimizer}, but got 0\.5\. .*no `nesterov` .*, but got True\."
    with pytest.raises(InputError, match=told):
        TrainingOptions(optimizer=optimizer, momentum=0.5, nesterov=True)
    assert TrainingOptions(optimizer=optimizer).momentum == TrainingOptions().momentum


@pytest.mark.parametrize("nth", [1, 3])
def test_a_full_disk_leaves_the_earlier_checkpoint(digits, uninterrupted, tmp_path, monkeypatch, nth):
    options, expected, _ = uninterrupted
    write, calls = Path.write_bytes, []

    def fill(path, data):
        calls.append(path)
        if len(calls) == nth:
            write(path, bytes(data)[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    how = {"method": ADVBN, "dual": True, "options": options, "network": {"dropout": 0.3}}
    path = tmp_path / "state.pt"
    monkeypatch.setattr(Path, "write_bytes", fill)
    kept = r"; the state of an earlier step is kept in .*state\.pt\." if nth > 1 else r"\.$"
    faulty(digits, rf"Cannot write .*state\.pt: No space left on device{kept}", checkpoint=path, **how)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == (["state.pt"] if nth > 1 else [])
    seen = []
    found, _ = trained(digits, checkpoint=path, progress=seen.append, **how)
    assert len(seen) == (7 if nth > 1 else 8)
    assert same(found, expected)


def test_a_folder_that_cannot_be_written_is_told_before_the_first_step(digits, tmp_path):
    (tmp_path / "file").touch()
    faulty(digits, "Cannot write .*file/state.pt", checkpoint=tmp_path / "file" / "state.pt", progress=pytest.fail)


def test_a_checkpoint_of_another_training_is_refused(digits, tmp_path):
    path = tmp_path / "state.pt"
    identity = {"model": {"hash": "a"}, "training": {"epochs": 2, "seed": 0}}
    trained(digits, checkpoint=path, identity=identity, options=replace(OPTIONS, epochs=1))
    before = path.read_bytes()
    other = {"model": {"hash": "a"}, "training": {"epochs": 3, "seed": 0, "new": None, "rate": 0.1}}
    faulty(digits, r"differs in training\.epochs, training\.rate\.", checkpoint=path, identity=other)
    faulty(
        digits,
        r"of another training: it differs in training\.rate\.",
        checkpoint=path,
        identity={**identity, "training": {"epochs": 2, "seed": 0, "rate": 1}},
    )
    faulty(digits, "of another training", checkpoint=path, identity=identity, method=ADVBN, dual=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "tensor", "weights", "code"])
def test_a_damaged_checkpoint_is_refused_and_left(digits, tmp_path, damage):
    path = tmp_path / "state.pt"
    trained(digits, checkpoint=path, options=replace(OPTIONS, epochs=1))
    whole = path.read_bytes()
    if damage in ("cut", "empty", "text"):
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not a checkpoint"}[damage])
    else:
        torch.save({"tensor": torch.ones(2), "weights": {"fc.weight": torch.ones(2)}, "code": Stop()}[damage], path)
    before = path.read_bytes()
    faulty(digits, r"Cannot read .*state\.pt: it is damaged, or no checkpoint.* Remove it", checkpoint=path)
    assert path.read_bytes() == before


# Processes


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    ended = warm.run("together", folder, file=training_jobs.__file__, count=2)
    assert ended.returncode == 0, ended.stderr
    found = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    assert [one["world"] for one in found] == [2, 2]
    return training_jobs.train_all(), *found


@pytest.mark.slow
@pytest.mark.parametrize("name", training_jobs.TOGETHER)
def test_two_processes_train_as_one_does(together, name):
    alone, *both = (found[name] for found in together)
    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
    first, second = both
    assert first["history"] == second["history"]
    assert all(same(first["weights"][branch], second["weights"][branch]) for branch in first["weights"])
    if name == "local":
        with pytest.raises(AssertionError):
            close(first["factors"][0], alone["factors"][0])
        return
    for found in both:
        close(found["factors"], alone["factors"])
        for branch, state in alone["weights"].items():
            close(found["weights"][branch], state)
        for entry, expected in zip(found["history"], alone["history"], strict=True):
            close(entry["losses"], expected["losses"])
    assert len(alone["factors"]) == (0 if name == "pixels" else 6 * (2 if name == "accumulated" else 1))


@pytest.mark.slow
def test_a_batch_that_two_processes_cannot_share(tmp_path):
    ended = warm.run("uneven", file=training_jobs.__file__, count=2)
    assert ended.returncode != 0
    assert "batch of 15 images to be shared out evenly, but processes are 2" in ended.stderr
