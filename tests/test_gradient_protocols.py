"""Methods that take gradients on a stream, against their equations written anew in float64.

The references normalise by formula, differentiate with `torch.autograd.grad` and step by hand.
"""

import copy
import io
import math
from functools import partial

import pytest
import timm
import torch
from timm.layers import LayerNorm2d
from torch import nn
from torch.nn import functional as F

import statshift
from statshift import AdaptationOptions, load_data, load_model
from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.adapting.choosing import find
from statshift.adapting.drawing import adaptation_positions, shuffled_batches
from statshift.adapting.looks import look, moved, recoloured
from statshift.adapting.protocols.eata import Eata
from statshift.adapting.protocols.eta import Eta
from statshift.adapting.protocols.rdumb import Rdumb
from statshift.adapting.protocols.roid import Roid
from statshift.adapting.protocols.sar import Sar
from statshift.adapting.protocols.tent import Tent

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:Clean accuracy")]

CLASSES, CHANNELS, EPS = 10, 6, 1e-5
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
        self.speed = (
            gradients if self.speed is None else [0.9 * v + g for v, g in zip(self.speed, gradients, strict=True)]
        )
        return [(term - self.rate * v).detach().requires_grad_() for term, v in zip(terms, self.speed, strict=True)]


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
                loss = loss + beta * sum(
                    (w * (t - s) ** 2).sum() for w, t, s in zip(fisher, terms, source, strict=True)
                )
            terms = step(terms, torch.autograd.grad(loss, terms))
        yield logits, terms, chosen


def sar_by_hand(network, images, rate, margin, radius, reset_below, kind="batch", trained=2):
    """Yield logits, the terms after the step, whether it went back, and the average; `trained` terms move."""
    source = [term.detach() for term in start(network)]
    terms, step, average = start(network), HandSGD(rate), None
    for batch in images:
        logits = forward(network, terms, batch, kind)
        found, back = entropies_of(logits), False
        chosen = [i for i in range(len(batch)) if found[i] < margin]
        if chosen:
            gradients = torch.autograd.grad(found[chosen].mean(), terms[:trained])
            norm = sum((g**2).sum() for g in gradients) ** 0.5
            climbed = [(t + radius * g / norm).detach() for t, g in zip(terms, gradients, strict=False)]
            climbed = [term.requires_grad_() for term in climbed] + terms[trained:]
            found = entropies_of(forward(network, climbed, batch, kind))
            chosen = [i for i in chosen if found[i] < margin]
            if chosen:
                loss = found[chosen].mean()
                gradients = torch.autograd.grad(loss, climbed[:trained])
                terms = step(terms[:trained], gradients) + terms[trained:]
                average = loss.item() if average is None else 0.9 * average + 0.1 * loss.item()
                if average < reset_below:
                    terms, step, average, back = start(network), HandSGD(rate), None, True
                    assert all(map(torch.equal, terms, source))
        yield logits, terms, back, average


def roid_by_hand(network, images, rate, kind="batch"):
    """Yield the corrected logits, and the terms after the step and the average with the source."""
    source, terms, step, seen = [t.detach() for t in start(network)], start(network), HandAdam(rate), 0
    average = torch.full((CLASSES,), 1 / CLASSES, dtype=torch.double)
    for batch in images:
        logits = forward(network, terms, batch, kind)
        chances = logits.softmax(1)
        known = chances.detach()
        diversity = 1 - known @ average / (known.norm(dim=1) * average.norm())
        certainty = (known * known.log()).sum(1)
        diversity, certainty = ((v - v.min()) / (v.max() - v.min()) for v in (diversity, certainty))
        weights = torch.exp(diversity * certainty * 3)
        chosen = [i for i in range(len(batch)) if diversity[i] >= diversity.mean()]
        average = 0.9 * average + 0.1 * known.mean(0)
        capped = chances.clamp(max=0.99)
        ratios = -(capped * (capped / (1 - capped)).log()).sum(1)
        draws = Draws(0, torch.tensor([seen + i for i in chosen]), "roid")
        again = forward(network, terms, look(batch[chosen], draws), kind).softmax(1)
        mine = chances[chosen]
        cross = -((mine * again.log()).sum(1) + (again * mine.log()).sum(1)) / 2
        loss = ((weights * ratios)[chosen].sum() + (weights[chosen] * cross).sum()) / len(batch)
        terms = step(terms, torch.autograd.grad(loss, terms))
        terms = [(0.99 * t + 0.01 * s).detach().requires_grad_() for t, s in zip(terms, source, strict=True)]
        prior = known.mean(0)
        gamma = max(1 / len(batch), 1 / CLASSES) / prior.max()
        corrected = chances * ((prior + gamma) / (1 + gamma * CLASSES))
        seen += len(batch)
        yield corrected.log() + logits.logsumexp(1, keepdim=True), terms


def check_equal(network, stepping, images, expected, tolerance=1e-10):
    """Check a protocol's logits and terms after each batch against a reference's."""
    for batch, (logits, terms, *_) in zip(images, expected, strict=True):
        torch.testing.assert_close(stepping(batch), logits.detach(), rtol=0, atol=tolerance)
        found = [term for norm in norms_of(stepping.model) for term in (norm.weight, norm.bias)]
        for ours, theirs in zip(found, terms, strict=True):
            torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=tolerance)
    assert int(stepping.skipped) == 0
    return stepping


def begun(network, protocol, **options):
    return protocol.begin(copy.deepcopy(network), AdaptationOptions(**options))


def median_margin(network, images, kind="batch"):
    """Return an entropy that half of the images are below at the source, in nats."""
    found = [forward(network, start(network), batch, kind) for batch in images]
    return middle(torch.cat([entropies_of(logits) for logits in found]))


def middle(values):
    """Return what lies between the two values in the middle of an even number of them."""
    ordered = values.sort().values
    return ordered[len(values) // 2 - 1 : len(values) // 2 + 1].mean().item()


# Equations


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimiser", HAND)
def test_tent_is_its_equation(kind, optimiser):
    network, images = build(kind), batches()
    expected = list(tent_by_hand(network, images, 0.5, optimiser, kind))
    assert (expected[0][1][0] - start(network)[0]).abs().max() > 1e-3
    check_equal(network, begun(network, Tent(0.5, optimiser)), images, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_eta_is_its_equations(kind):
    network, images = build(kind), batches()
    margin = median_margin(network, images, kind)
    probabilities = torch.cat([logits for logits, *_ in tent_by_hand(network, images, 0.0, "sgd", kind)]).softmax(1)
    similarity = middle(F.normalize(probabilities) @ F.normalize(probabilities.mean(0), dim=0))
    expected = list(eta_by_hand(network, images, 0.05, margin, similarity, kind))
    counts = [len(chosen) for *_, chosen in expected]
    assert 0 < counts[0] < 8
    assert 0 < sum(counts[1:]) < 16
    all_new = [chosen for *_, chosen in eta_by_hand(network, images, 0.05, margin, 2.0, kind)]
    assert counts[1:] != [len(chosen) for chosen in all_new[1:]]  # both filters leave some out
    protocol = Eta(0.05, entropy_margin=margin / math.log(CLASSES), similarity=similarity)
    check_equal(network, begun(network, protocol), images, expected)


def test_eta_takes_no_step_where_no_image_is_reliable():
    network, images = build(), batches()
    stepping = Eta(0.05, entropy_margin=1e-6)(copy.deepcopy(network))
    for batch in images:
        assert torch.allclose(stepping(batch), forward(network, start(network), batch), rtol=0, atol=1e-12)
    assert stepping.memory == {}


@pytest.fixture(scope="module")
def clean():
    return load_data("digits", limit=80)


def fisher_by_hand(network, clean, kind="batch", most=70):
    """Return the mean over two batches of the squared gradient of the cross-entropy to what is predicted."""
    some = clean.subset(adaptation_positions(clean.indices, most, 0, 0))
    every = torch.cat([images for images, _ in some.batches(most)]).double() / 255
    groups = shuffled_batches(some.indices, 64, 0, 0)
    found = 0
    for group in groups:
        terms = start(network)
        logits = forward(network, terms, every[group], kind)
        loss = -logits.log_softmax(1).max(1).values.mean()
        found = found + torch.cat([g.flatten() ** 2 for g in torch.autograd.grad(loss, terms)]) / len(groups)
    return found.split([term.numel() for term in start(network)])


@pytest.mark.parametrize("kind", KINDS)
def test_eata_is_its_equations(kind, clean):
    """The penalty is large, so that it shows from the second batch on."""
    network, images = build(kind), batches()
    fisher = fisher_by_hand(network, clean, kind)
    margin = median_margin(network, images, kind)
    beta = 1 / max(one.max() for one in fisher).item()
    expected = list(eta_by_hand(network, images, 0.5, margin, 2.0, kind, fisher, beta))
    without = list(eta_by_hand(network, images, 0.5, margin, 2.0, kind))
    assert (expected[2][1][0] - without[2][1][0]).abs().max() > 1e-5
    how = {"entropy_margin": margin / math.log(CLASSES), "similarity": 2.0}
    protocol = Eata(0.5, fisher_weight=beta, fisher_images=70, **how)
    check_equal(network, begun(network, protocol, clean=clean), images, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_sar_is_its_equations(kind):
    """Of two norms the last is left out."""
    network, images = build(kind), batches()
    margin = median_margin(network, images, kind)
    expected = list(sar_by_hand(network, images, 0.5, margin, 0.05, 0.0, kind))
    assert (expected[0][1][0] - start(network)[0]).abs().max() > 1e-3
    protocol = Sar(0.5, entropy_margin=margin / math.log(CLASSES), reset_below=0.0)
    stepping = check_equal(network, begun(network, protocol), images, expected)
    assert list(stepping.terms) == ["1.weight", "1.bias"]
    plain = list(sar_by_hand(network, images, 0.5, margin, 1e-9, 0.0, kind))
    assert (expected[0][1][0] - plain[0][1][0]).abs().max() > 1e-5


def test_sar_goes_back_to_the_source_below_its_threshold():
    network, images = build(), batches(1) * 5
    by_hand = partial(sar_by_hand, network, images, 0.5, math.log(CLASSES), 0.05)
    *_, third, _, _ = (average for *_, average in by_hand(0.0))
    expected = list(by_hand(third + 1e-6))
    assert [back for _, _, back, _ in expected] == [False, False, True, False, False]
    protocol = Sar(0.5, entropy_margin=1.0, reset_below=third + 1e-6)
    stepping = check_equal(network, begun(network, protocol), images, expected)
    assert stepping.resets == 1


@pytest.mark.parametrize("kind", KINDS)
def test_roid_is_its_equations(kind):
    network, images = build(kind), batches()
    expected = list(roid_by_hand(network, images, 0.05, kind))
    assert (expected[0][1][0] - start(network)[0]).abs().max() > 1e-3
    check_equal(network, begun(network, Roid(0.05, "adam")), images, expected)


def test_roid_draws_all_terms_back_to_the_source():
    network, images = build(), batches()
    stepping = begun(network, Roid(0.5, "sgd", source_weight=1.0))
    for batch in images:
        stepping(batch)
    assert all(torch.equal(term, stepping.source[name]) for name, term in stepping.terms.items())


def test_rdumb_is_eta_begun_anew():
    network, images = build(), batches(5)
    how = {"entropy_margin": 0.99, "similarity": 1.0}
    fresh = [begun(network, Eta(0.5, **how)) for _ in range(3)]
    expected = [fresh[k // 2](batch) for k, batch in enumerate(images)]
    stepping = begun(network, Rdumb(0.5, **how, steps=2))
    found = [stepping(batch) for batch in images]
    assert all(map(torch.equal, found, expected))
    assert not torch.equal(begun(network, Eta(0.5, **how))(images[1]), expected[1])
    assert stepping.resets == 2
    assert find("rdumb:500") == Rdumb(steps=500)
    with pytest.raises(InputError, match="`steps` to be an integer of at least 1, but got 2"):
        find("rdumb:2.5")


# State, resets, the model as found

HOW = {
    "tent": Tent(0.05, "adam"),
    "eta": Eta(0.05, entropy_margin=0.99, similarity=0.999),
    "eata": Eata(0.05, entropy_margin=0.99, similarity=0.999, fisher_images=64),
    "sar": Sar(0.05, entropy_margin=0.99),
    "roid": Roid(0.05),
    "rdumb": Rdumb(0.05, entropy_margin=0.99, similarity=0.999, steps=3),
}


def tensors_of(stepping):
    state = stepping.state_dict()
    return state | {f"memory.{name}": value for name, value in stepping.memory.items()}


@pytest.mark.parametrize("name", HOW)
def test_a_stream_that_was_stopped_goes_on_with_the_same_bits(name, clean):
    network, images = build(), batches(5)
    stepping = begun(network, HOW[name], clean=clean)
    for batch in images[:2]:
        stepping(batch)
    kept = io.BytesIO()
    torch.save(stepping.state_dict(), kept)
    expected = [stepping(batch) for batch in images[2:]]
    other = begun(network, HOW[name], clean=clean)
    other(images[4])  # a state is taken over whatever there was
    for _ in range(2):  # and stays what it was
        kept.seek(0)
        other.load_state_dict(torch.load(kept, weights_only=True))
        assert all(torch.equal(other(batch), logits) for batch, logits in zip(images[2:], expected, strict=True))
    assert not torch.equal(begun(network, HOW[name], clean=clean)(images[2]), expected[0])


@pytest.mark.parametrize("name", HOW)
def test_what_goes_on_writes_to_no_state_that_was_kept(name, clean):
    network, images = build(), batches(3)
    stepping = begun(network, HOW[name], clean=clean)
    stepping(images[0])
    kept = stepping.get_extra_state()
    before = copy.deepcopy(kept)
    stepping.set_extra_state(kept)
    stepping(images[1])
    stepping.reset()
    assert before["memory"].keys() == kept["memory"].keys()
    flat = [torch.utils._pytree.tree_leaves(state) for state in (before, kept)]
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(*flat, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HOW)
def test_resets_are_to_the_bit(name, kind, clean):
    network, images = build(kind), batches()
    stepping = begun(network, HOW[name], clean=clean)
    first = [stepping(batch) for batch in images]
    changed = [not torch.equal(value, stepping.source[key]) for key, value in stepping.terms.items()]
    stepping.reset()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in stepping.model.state_dict().items())
    stepping.seen = 0  # by which the views of roid are addressed
    assert all(map(torch.equal, first, [stepping(batch) for batch in images]))
    assert all(changed)


@pytest.mark.parametrize("name", HOW)
def test_the_model_is_left_as_found(name, clean):
    """Through `measure`, which gives a copy."""
    model = load_model(build().float(), mean=(0, 0, 0), std=(1, 1, 1))
    model.network[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    flags = [(one.training, [weight.requires_grad for weight in one.parameters()]) for one in model.modules()]
    run = partial(statshift.measure, model, load_data("digits", limit=24), device="cpu", shifts=["contrast"])
    how = AdaptationOptions(8, clean=clean)
    found = run(severities=[3], rectify={"mine": HOW[name]}, adaptation=how)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert flags == [(one.training, [weight.requires_grad for weight in one.parameters()]) for one in model.modules()]
    (row,) = [row for row in found.rows if row["protocol"] == "mine"]
    assert row["images"] == 24
    told = found.record["protocols"]["mine"]
    assert (told["optimiser"], told["learning_rate"]) == (HOW[name].usual(model, CLASSES)["optimiser"], 0.05)
    assert ("clean" in told) is (name == "eata")


# What cannot be adapted to


@pytest.mark.parametrize("name", HOW)
def test_images_that_are_not_finite_adapt_nothing(name, clean):
    """They are answered as the model stands: each other image by the statistics of the last batch."""
    network, images = build(), batches(3)
    broken = images[1].clone()
    broken[2, 1, 4, 4] = math.nan
    stepping, other = (begun(network, HOW[name], clean=clean) for _ in range(2))
    assert torch.equal(stepping(images[0]), other(images[0]))
    logits = stepping(broken)
    assert logits[2].isnan().all()
    rest = [0, 1, *range(3, 8)]
    assert torch.allclose(logits[rest], other.adapted()(images[1])[rest], rtol=0, atol=1e-12)
    assert torch.equal(stepping(images[2]), other(images[2]))
    assert int(stepping.skipped) == 1


class Bright(nn.Module):
    """A network whose logits are infinite for a batch that is bright."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images) / (images.mean() < 0.9)


@pytest.mark.parametrize("name", HOW)
def test_logits_that_are_not_finite_make_no_step(name, clean):
    """Terms, statistics, optimiser and memory stay what they were."""
    network, images = Bright(build()), batches(3)
    stepping, other = (begun(network, HOW[name], clean=clean) for _ in range(2))
    stepping(images[0]), other(images[0])
    assert not stepping(torch.full_like(images[0], 0.95)).isfinite().any()
    assert torch.equal(stepping.adapted()(images[1]), other.adapted()(images[1]))
    assert torch.equal(stepping(images[2]), other(images[2]))
    assert (int(stepping.skipped), int(other.skipped)) == (1, 0)


class Steep(torch.autograd.Function):
    """The identity, with a gradient that is infinite."""

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


class SteepWhereBright(Bright):
    def forward(self, images):
        logits = self.network(images)
        return Steep.apply(logits) if images.mean() > 0.9 else logits


@pytest.mark.parametrize("name", HOW)
def test_gradients_that_are_not_finite_make_no_step(name, clean):
    network, images = SteepWhereBright(build()), batches(2)
    stepping, other = (begun(network, HOW[name], clean=clean) for _ in range(2))
    stepping(images[0]), other(images[0])
    logits = stepping(0.9 + images[1] / 10)
    assert logits.isfinite().all()
    assert int(stepping.skipped) == 1
    assert torch.equal(stepping.adapted()(images[1]), other.adapted()(images[1]))
    other.seen += 8
    assert torch.equal(stepping(images[1]), other(images[1]))


def test_sar_makes_no_step_where_the_climb_leads_to_nothing_reliable():
    network, images = build(), batches(2)
    stepping = begun(network, Sar(0.5, entropy_margin=1.0, radius=1e300))
    for batch in images:
        assert torch.allclose(stepping(batch), forward(network, start(network), batch), rtol=0, atol=1e-12)
    assert all(torch.equal(term, stepping.source[name]) for name, term in stepping.terms.items())


@pytest.mark.parametrize("name", HOW)
def test_a_batch_that_the_model_fails_on_changes_nothing(name, clean):
    network, images = build(), batches(2)
    stepping, other = (begun(network, HOW[name], clean=clean) for _ in range(2))
    stepping(images[0]), other(images[0])
    with pytest.raises(InputError, match=r"The model fails on images of shape \(8, 3, 4, 4\)"):
        stepping(images[0][..., :4, :4])
    assert torch.equal(stepping(images[1]), other(images[1]))


# Models


def test_a_frozen_model_answers_as_the_last_batch_was_answered():
    """With statistics of the biased variance; nothing moved the terms since."""
    network, images = build(), batches(2)
    stepping = begun(network, Tent(0.0))
    for batch in images:
        logits = stepping(batch)
    frozen = stepping.adapted()
    assert torch.allclose(frozen(images[1]), logits, rtol=0, atol=1e-12)
    assert torch.allclose(frozen(images[1][:3]), logits[:3], rtol=0, atol=1e-12)
    assert not any(one.training for one in frozen.modules())
    assert [one.momentum for one in norms_of(frozen)] == [0.1, 0.1]


@pytest.mark.parametrize(
    ("spec", "terms", "trained_by_sar"),
    [
        ("resnet18", 2 * 20, 2 * 15),  # all but layer4
        ("resnet26t", None, None),
        ("vit_tiny_patch16_224", 2 * 25, 2 * 18),  # all but blocks 9 to 11 and the last norm
        ("convnext_atto", None, None),
    ],
)
def test_norms_of_timm_are_found(spec, terms, trained_by_sar):
    network = timm.create_model(spec, num_classes=10).eval()
    owners = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm)]
    found = Tent().terms(network)
    assert len(found) == (terms or 2 * len(owners))
    assert {id(term) for term in found.values()} == {id(term) for one in owners for term in (one.weight, one.bias)}
    kept = Sar().terms(network)
    assert len(kept) == (trained_by_sar or 2 * (len(owners) - math.ceil(len(owners) / 4)))
    assert list(kept) == list(found)[: len(kept)]
    if spec == "resnet18":
        assert not any("layer4" in name for name in kept)
    if spec == "vit_tiny_patch16_224":
        assert not any(name.startswith(("norm", "blocks.9.", "blocks.10.", "blocks.11.")) for name in kept)
        assert Sar().settled(network, 1000).learning_rate == 0.001


def test_activations_and_dropout_of_timm_s_norms_stay_what_they_are():
    """Its norms hold an activation; on batch statistics the network answers as torch's own training mode does."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("resnet26t", num_classes=10, drop_rate=0.5).double().eval()
        images = torch.rand(4, 3, 40, 40, dtype=torch.double)
    expected = copy.deepcopy(network)
    for one in expected.modules():
        one.train(isinstance(one, nn.BatchNorm2d))
    assert torch.equal(begun(network, Tent())(images), expected(images))


@pytest.mark.parametrize("name", HOW)
@pytest.mark.parametrize(
    ("norm", "named"),
    [(nn.Identity(), "none"), (nn.BatchNorm2d(CHANNELS, affine=False), "BatchNorm2d")],
)
def test_a_model_with_nothing_to_train_is_refused(name, norm, named, clean):
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), norm, nn.Flatten(), nn.LazyLinear(CLASSES))
    model(batches()[0].float())
    message = rf"weights and biases for {HOW[name].label} to train, but its norms are: {named}\."
    with pytest.raises(InputError, match=message):
        begun(model, HOW[name], clean=clean)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
def test_a_scripted_model_is_refused():
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(InputError, match="but it is scripted or traced"):
        Tent()(scripted)


class Infinite(Bright):
    def forward(self, images):
        return self.network(images) * math.inf


def test_eata_refuses_clean_images_that_the_model_has_no_answer_to(clean):
    with pytest.raises(InputError, match="Expected finite gradients on the clean images, but those of digits are not"):
        begun(Infinite(build()), Eata(), clean=clean)


def test_eata_without_clean_images_names_eta():
    with pytest.raises(InputError, match="The protocol eata needs clean images: give `clean_data`, or adapt by eta"):
        begun(build(), Eata())
    with pytest.raises(InputError, match="or adapt by eta"):
        statshift.measure(build().float(), load_data("digits", limit=8), rectify="eata", device="cpu")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tent(-1.0), "`learning_rate` to be 0 or more, but got -1"),
        (lambda: Tent(optimiser="sdg"), "Unknown optimiser 'sdg'"),
        (lambda: Eta(entropy_margin=0), "`entropy_margin` above 0, but got 0"),
        (lambda: Eta(similarity=-0.1), "`similarity` to be 0 or more, but got -0"),
        (lambda: Eta(keep=2), r"`keep` in \[0,1\], but got 2"),
        (lambda: Eata(fisher_weight=-1.0), "`fisher_weight` to be 0 or more, but got -1"),
        (lambda: Eata(fisher_images=0), "`fisher_images` to be an integer of at least 1, but got 0"),
        (lambda: Sar(entropy_margin=-1), "`entropy_margin` above 0, but got -1"),
        (lambda: Sar(radius=math.inf), "`radius` to be 0 or more, but got inf"),
        (lambda: Roid(temperature=0), "`temperature` above 0, but got 0"),
        (lambda: Roid(source_weight=1.5), r"`source_weight` in \[0,1\], but got 1"),
        (lambda: Rdumb(steps=0), "`steps` to be an integer of at least 1, but got 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_numbers_are_the_papers_by_the_number_of_classes():
    network = build()
    settled = [
        (one.optimiser, one.learning_rate, getattr(one, "similarity", None), getattr(one, "fisher_weight", None))
        for kind in (Tent, Eta, Eata, Sar, Roid)
        for one in (kind().settled(network, classes) for classes in (1000, 10))
    ]
    assert settled == [
        *(("sgd", 0.00025, None, None), ("adam", 0.001, None, None)),
        *(("sgd", 0.00025, 0.05, None), ("sgd", 0.005, 0.4, None)),
        *(("sgd", 0.00025, 0.05, 2000.0), ("sgd", 0.005, 0.4, 1.0)),
        *(("sgd", 0.00025, None, None), ("sgd", 0.00025, None, None)),
        *(("sgd", 0.00025, None, None), ("adam", 0.001, None, None)),
    ]
    assert Tent(0.5).settled(network, 1000) == Tent(0.5, "sgd")
    assert find("tent:0.5") == Tent(0.5)
    assert find("tent:0.5").label == "tent:0.5"


@pytest.mark.parametrize("name", ["eta", "sar", "roid", "rdumb"])
def test_answers_of_several_pixels_are_refused_by_the_name_of_the_method(name):
    maps = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), nn.BatchNorm2d(CHANNELS), nn.Conv2d(CHANNELS, CLASSES, 1))
    with pytest.raises(InputError, match=rf"logits \(B,K\) for {name}, which adapts classifiers alone, but got shape"):
        begun(maps, find(name))(batches()[0].float())


# Looks


def test_looks_are_the_images_own_and_stay_pictures():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(6, 3, 16, 12, dtype=torch.double, generator=generator)
    whole = look(images, Draws(0, torch.arange(6), "a"))
    part = look(images[[4, 1]], Draws(0, torch.tensor([4, 1]), "a"))
    assert torch.allclose(whole[[4, 1]], part, rtol=0, atol=1e-12)
    assert whole.shape == images.shape
    assert 0 <= whole.min() < whole.max() <= 1
    assert (whole - images).abs().mean() > 0.02
    assert not torch.equal(whole, look(images, Draws(0, torch.arange(6), "b")))


def test_colours_keep_grey_grey_and_their_order():
    ramp = torch.linspace(0.1, 0.8, 16, dtype=torch.double).view(1, 1, 4, 4).expand(8, 3, 4, 4)
    found = recoloured(ramp, Draws(0, torch.arange(8), "a"))
    assert torch.allclose(found, found[:, :1].expand_as(found), rtol=0, atol=1e-9)
    assert (found[:, 0].flatten(1).diff(dim=1) >= 0).all()
    assert found.mean((1, 2, 3)).std() > 0.03


def test_places_keep_what_is_flat_and_mirror_about_half():
    flat = torch.rand(64, 3, 1, 1, dtype=torch.double, generator=torch.Generator().manual_seed(2)).expand(64, 3, 9, 7)
    draws = Draws(0, torch.arange(64), "a")
    assert torch.allclose(moved(flat, draws), flat, rtol=0, atol=1e-12)
    ramp = torch.linspace(0, 1, 32, dtype=torch.double).expand(64, 3, 32, 32)
    slope = moved(ramp, draws)[:, 0, 8:24, 8:24].diff(dim=2).mean((1, 2)) * 31
    assert 16 < int((slope < 0).sum()) < 48
    turned = slope.abs()
    assert (turned.min(), turned.max()) >= (math.cos(math.radians(15)) / 1.1 - 1e-6, 0)
    assert turned.max() <= 1 / 0.9 + 1e-6
