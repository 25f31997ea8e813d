"""Methods that take gradients on a stream, against their equations written anew in float64.

The references normalise by formula, differentiate with `torch.autograd.grad` and step by hand.
"""

import copy
import io
import math
import warnings

import pytest
import timm
import torch
from timm.layers import LayerNorm2d
from torch import nn
from torch.nn import functional as F

import statshift
from statshift import load_data, load_model
from statshift._core.errors import InputError
from statshift.adapting.affine import affine_terms, norm_layers, on_batch_statistics
from statshift.adapting.choosing import find
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocols.eta import Eta
from statshift.adapting.protocols.tent import Tent

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, CHANNELS, EPS = 5, 6, 1e-5
KINDS = {
    "batch": lambda: nn.BatchNorm2d(CHANNELS),
    "group": lambda: nn.GroupNorm(2, CHANNELS),
    "layer": lambda: LayerNorm2d(CHANNELS, eps=EPS),
}


def build(kind="batch", norms=2):
    """Return a tiny network in float64, its norms' terms and statistics not the usual ones."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        parts = []
        for place in range(norms):
            parts += [nn.Conv2d(CHANNELS if place else 3, CHANNELS, 3), KINDS[kind](), nn.ReLU()]
        network = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES))
        with torch.no_grad():
            for norm in network[1 : 3 * norms : 3]:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(-0.5, 0.5)
            network[-1].weight.mul_(4)
            if kind == "batch":
                network.train()(torch.rand(16, 3, 12, 12))
    return network.double().eval()


def batches(count=3, size=8):
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(size, 3, 12, 12, dtype=torch.double, generator=generator) for _ in range(count)]


def normalised(kind, features):
    if kind == "group":
        grouped = features.unflatten(1, (2, CHANNELS // 2))
        mean, var = (f(grouped, (2, 3, 4)) for f in (mean_of, var_of))
        return ((grouped - mean) / (var + EPS).sqrt()).flatten(1, 2)
    over = (0, 2, 3) if kind == "batch" else (1,)
    return (features - mean_of(features, over)) / (var_of(features, over) + EPS).sqrt()


def mean_of(features, over):
    return features.mean(over, keepdim=True)


def var_of(features, over):
    return ((features - mean_of(features, over)) ** 2).mean(over, keepdim=True)


def forward(network, terms, images, kind="batch"):
    """Return logits by formula: every norm on the batch's own statistics, with these weights and biases."""
    features = images
    for place, (weight, bias) in enumerate(zip(terms[::2], terms[1::2], strict=True)):
        convolution = network[3 * place]
        features = F.conv2d(features, convolution.weight.detach(), convolution.bias.detach())
        features = normalised(kind, features) * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)
        features = features.clamp(min=0)
    head = network[-1]
    return features.mean((2, 3)) @ head.weight.detach().T + head.bias.detach()


def start(network):
    """Return the weights and biases of the norms, to differentiate by."""
    return [term.detach().clone().requires_grad_() for norm in norms_of(network) for term in (norm.weight, norm.bias)]


def norms_of(network):
    return [one for one in network if isinstance(one, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm)]


def entropies_of(logits):
    chances = logits.exp() / logits.exp().sum(1, keepdim=True)
    return -(chances * chances.log()).sum(1)


class HandSGD:
    def __init__(self, rate):
        self.rate, self.speed = rate, None

    def __call__(self, terms, gradients):
        self.speed = gradients if self.speed is None else [0.9 * v + g for v, g in zip(self.speed, gradients)]
        return [(term - self.rate * v).detach().requires_grad_() for term, v in zip(terms, self.speed)]


class HandAdam:
    def __init__(self, rate):
        self.rate, self.steps, self.first, self.second = rate, 0, 0.0, 0.0

    def __call__(self, terms, gradients):
        self.steps += 1
        flat = torch.cat([g.flatten() for g in gradients])
        self.first = 0.9 * self.first + 0.1 * flat
        self.second = 0.999 * self.second + 0.001 * flat**2
        first = self.first / (1 - 0.9**self.steps)
        second = self.second / (1 - 0.999**self.steps)
        moves = (self.rate * first / (second.sqrt() + 1e-8)).split([term.numel() for term in terms])
        return [(term - move.view_as(term)).detach().requires_grad_() for term, move in zip(terms, moves, strict=True)]


HAND = {"sgd": HandSGD, "adam": HandAdam}


def tent_by_hand(network, images, rate, optimiser, kind="batch"):
    """Yield logits, and the terms after the step."""
    terms, step = start(network), HAND[optimiser](rate)
    for batch in images:
        logits = forward(network, terms, batch, kind)
        terms = step(terms, torch.autograd.grad(entropies_of(logits).mean(), terms))
        yield logits, terms


def eta_by_hand(network, images, rate, margin, similarity, kind="batch", fisher=None, beta=0.0):
    """Yield logits, the terms after the step, and which images were chosen."""
    terms, step, average = start(network), HandSGD(rate), None
    source = [term.detach() for term in terms]
    for batch in images:
        logits = forward(network, terms, batch, kind)
        found = entropies_of(logits)
        chances = logits.softmax(1).detach()
        chosen = [i for i in range(len(batch)) if found[i] < margin]
        if average is not None:
            cosines = chances @ average / (chances.norm(dim=1) * average.norm())
            chosen = [i for i in chosen if cosines[i] < similarity]
        if chosen:
            newest = chances[chosen].mean(0)
            average = newest if average is None else 0.9 * average + 0.1 * newest
            loss = sum(found[i] / math.exp(found[i].item() - margin) for i in chosen) / len(chosen)
            if fisher is not None:
                loss = loss + beta * sum((w * (t - s) ** 2).sum() for w, t, s in zip(fisher, terms, source))
            terms = step(terms, torch.autograd.grad(loss, terms))
        yield logits, terms, chosen


def check_equal(network, protocol, images, expected, tolerance=1e-10):
    """Check a protocol's logits and terms after each batch against a reference's."""
    stepping = protocol(copy.deepcopy(network))
    for batch, (logits, terms, *_) in zip(images, expected, strict=True):
        torch.testing.assert_close(stepping(batch), logits.detach(), rtol=0, atol=tolerance)
        found = [term for norm in norms_of(stepping.model) for term in (norm.weight, norm.bias)]
        for ours, theirs in zip(found, terms, strict=True):
            torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=tolerance)
    assert int(stepping.skipped) == 0
    return stepping


# Equations


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimiser", HAND)
def test_tent_is_its_equation(kind, optimiser):
    network, images = build(kind), batches()
    expected = list(tent_by_hand(network, images, 0.5, optimiser, kind))
    assert (expected[0][1][0] - start(network)[0]).abs().max() > 1e-3
    check_equal(network, Tent(0.5, optimiser), images, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_eta_is_its_equations(kind):
    network, images = build(kind), batches()
    found = [entropies_of(logits) for logits, *_ in tent_by_hand(network, images, 0.0, "sgd", kind)]
    margin = torch.cat(found).median().item()
    probabilities = torch.cat([logits for logits, *_ in tent_by_hand(network, images, 0.0, "sgd", kind)]).softmax(1)
    similarity = (F.normalize(probabilities) @ F.normalize(probabilities.mean(0), dim=0)).median().item()
    expected = list(eta_by_hand(network, images, 0.05, margin, similarity, kind))
    counts = [len(chosen) for *_, chosen in expected]
    assert 0 < counts[0] < 8
    assert 0 < sum(counts[1:]) < 8  # both filters leave some out
    protocol = Eta(0.05, entropy_margin=margin / math.log(CLASSES), similarity=similarity)
    check_equal(network, protocol, images, expected)


def test_eta_takes_no_step_where_no_image_is_reliable():
    network, images = build(), batches()
    stepping = Eta(0.05, entropy_margin=1e-6)(copy.deepcopy(network))
    for batch in images:
        assert torch.allclose(stepping(batch), forward(network, start(network), batch), rtol=0, atol=1e-12)
    assert stepping.memory == {}
