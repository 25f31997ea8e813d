"""Training: the same weights from the same seed, a learning rate that ends at nothing, settled statistics."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from statshift import load_data
from statshift.streams import Draws
from statshift.training import train


@pytest.fixture(scope="module")
def digits():
    data = load_data("digits:train", limit=600)
    images, _ = next(data.batches(len(data)))
    return images.float() / 255, torch.from_numpy(data.labels)


def small_network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 49, 10),
        )


def trained(images, labels, epochs=1, **options):
    network = small_network()
    train(network, images, labels, epochs=epochs, **options)
    return network


def weights(network):
    return torch.cat([value.double().flatten() for value in network.state_dict().values()])


@pytest.fixture
def steps(monkeypatch):
    """What the optimiser was set to at each step."""
    seen = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            seen.append({name: self.param_groups[0][name] for name in ("lr", "momentum", "weight_decay", "nesterov")})
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "SGD", Spy)
    return seen


def test_the_seed_decides(digits):
    images, labels = digits[0][:200], digits[1][:200]
    first = trained(images, labels)
    torch.rand(1)  # the global stream has no say
    assert torch.equal(weights(trained(images, labels)), weights(first))
    assert not torch.equal(weights(trained(images, labels, seed=1)), weights(first))


def test_nobodys_random_numbers_are_drawn_and_no_input_is_changed(digits):
    images, labels = digits[0][:130], digits[1][:130]
    before, state = (images.clone(), labels.clone()), torch.get_rng_state()
    trained(images, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


def test_each_image_is_seen_once_an_epoch_in_a_window_of_its_own(digits):
    """The batches are those of a plain loop over the addressed order and corners."""
    images, labels = digits[0][:100], digits[1][:100]
    seen = []

    class Spy(nn.Linear):
        def forward(self, batch):
            seen.append(batch.clone())
            return super().forward(batch.flatten(1))

    train(Spy(3072, 10), images, labels, epochs=2, batch_size=32, seed=5)
    assert [len(batch) for batch in seen] == [32] * 6
    for epoch in range(2):
        draws = Draws(5, torch.arange(100), f"training epoch {epoch}")
        order = draws.uniform("order").argsort(stable=True)
        corners = draws.integers("crop", 2, low=0, high=9).tolist()
        assert {value for corner in corners for value in corner} == set(range(9))
        for place, batch in enumerate(torch.cat(seen[3 * epoch : 3 * epoch + 3])):
            index = int(order[place])
            top, left = corners[index]
            expected = F.pad(images[index], (4, 4, 4, 4))[:, top : top + 32, left : left + 32]
            assert torch.equal(batch, expected)


def test_the_learning_rate_rises_for_a_fifth_and_ends_at_nothing(digits, steps):
    trained(*digits, epochs=4, learning_rate=0.2, weight_decay=0.001)
    rates = [step["lr"] for step in steps]
    assert len(rates) == 4 * (600 // 64)
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(0.2, rel=0.01)
    assert peak == pytest.approx(len(rates) / 5, abs=1)
    assert rates == sorted(rates[: peak + 1]) + sorted(rates[peak + 1 :], reverse=True)
    assert rates[-1] < 0.2 / 1000
    assert {step["weight_decay"] for step in steps} == {0.001}


def test_the_momentum_is_what_the_documentation_says(digits, steps):
    trained(*digits)
    assert {(step["momentum"], step["nesterov"]) for step in steps} == {(0.9, True)}


def test_the_running_statistics_have_settled(digits):
    """A network that lags behind its own weights would gain from the statistics of the batch."""
    images, labels = digits
    network = trained(images, labels, epochs=6)
    assert not any(module.training for module in network.modules())
    with torch.no_grad():
        evaluated = network(images)
        for norm in (network[1], network[4]):
            norm.momentum = 0.0
        by_batch = network.train()(images)
    accuracy, accuracy_by_batch = (
        float((logits.argmax(1) == labels).float().mean()) for logits in (evaluated, by_batch)
    )
    assert accuracy > 0.9
    assert accuracy == pytest.approx(accuracy_by_batch, abs=0.02)
    losses = [float(F.cross_entropy(logits, labels)) for logits in (evaluated, by_batch)]
    assert losses[0] == pytest.approx(losses[1], rel=0.25)


def test_progress_counts_steps(digits):
    seen = []
    trained(*digits, epochs=2, batch_size=100, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(step, 12) for step in range(1, 13)]
