"""Batch norms folded into convolutions: the same function, from the tensors of now, and the same attack."""

import gc
from copy import deepcopy

import pytest
import torch
import torchvision
from timm import create_model
from timm.layers import BatchNormAct2d
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval, parametrizations, prune

from statshift.models import load_model
from statshift.norms.layers import batch_norms
from statshift.shifts.attacks import FeatureAttack, attack_features, batch_moments, initial_factors, perturb
from statshift.splitting.folding import Folded, fold, folded
from statshift.splitting.split import split

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(build, dtype=torch.float64):
    """Return a model with norms, affine terms and biases of their own, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                settle(module)
    return model.to(dtype).eval()


def settle(norm):
    """Give a norm statistics and affine terms; negative scales too."""
    if norm.running_mean is not None:
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
    if norm.weight is not None:
        norm.weight.data.uniform_(-1.5, 1.5)
        norm.bias.data.normal_(0, 0.3)


def pictures(count=2, channels=3, side=32, dtype=torch.float64, seed=2):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, nn.modules.batchnorm._BatchNorm) or super().is_leaf_module(module, name)


def folded_whole(model):
    return folded(model, Tracer().trace(model))


def error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def leaves(part):
    """Return the norms that a part calls still."""
    graph_module = part.part.__self__
    called = {node.target for node in graph_module.graph.nodes if node.op == "call_module"}
    return [name for name in called if isinstance(graph_module.get_submodule(name), nn.modules.batchnorm._BatchNorm)]


# Architectures

NETWORKS = [
    pytest.param(lambda: load_model("cifar:resnet20").network, "layer1", 12, 0, id="resnet20"),
    pytest.param(torchvision.models.resnet50, "layer1", 42, 0, id="resnet50"),
    pytest.param(lambda: create_model("efficientnet_b0"), "blocks.1", 40, 0, id="efficientnet_b0"),
    pytest.param(torchvision.models.efficientnet_b0, "features.2", 40, 0, id="torchvision efficientnet_b0"),
    pytest.param(torchvision.models.densenet121, "features.transition1", 52, 55, id="densenet121"),
    pytest.param(lambda: create_model("densenet121"), "features.transition1", 52, 55, id="timm densenet121"),
    pytest.param(torchvision.models.mobilenet_v3_small, "features.2", 28, 0, id="mobilenet_v3"),
    pytest.param(lambda: create_model("mobilenetv3_small_100"), "blocks.1", 25, 0, id="timm mobilenet_v3"),
    pytest.param(torchvision.models.regnet_y_400mf, "trunk_output.block1", 48, 0, id="regnet"),
    pytest.param(lambda: create_model("resnetv2_50", norm_layer="batchnorm2d"), "stages.0", 26, 14, id="preactivation"),
]


@pytest.mark.parametrize(("build", "at", "pairs", "left"), NETWORKS)
def test_a_suffix_is_the_same_function_folded(build, at, pairs, left):
    model, images = seeded(build), pictures(side=64)
    found = split(model, at, images)
    before, flags = state(model), [module.training for module in model.modules()]
    part = folded(model, found.graph)
    with torch.no_grad():
        features = found.prefix(images)
        expected = found.suffix(features)
        weights = part.weights()
        assert error(part(features, weights), expected) < 1e-12
        assert (len(part.pairs), len(leaves(part))) == (pairs, left)
        assert pairs + left == len(found.cut.norms_after)
        assert len(weights) == 2 * pairs
        again = found.suffix(features)
    assert torch.equal(again, expected)  # the split's own graph is untouched
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert flags == [module.training for module in model.modules()]
    assert holds_only(part, model)


def holds_only(part, model):
    """Return whether every tensor that hangs on a folded part is one of the model's own."""
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    graph_module = part.part.__self__
    held = [*graph_module.parameters(), *graph_module.buffers()]
    seen, stack = set(), [part.part, part.pairs, graph_module, graph_module.graph]
    while stack:  # whatever Python reaches from there, short of the model's modules and of classes and code
        thing = stack.pop()
        if id(thing) in seen or isinstance(thing, type) or type(thing).__name__ in ("function", "module", "code"):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            held.append(thing)
        elif not (isinstance(thing, nn.Module) and thing is not graph_module):
            stack += gc.get_referents(thing)
    return bool(held) and all(id(tensor) in own for tensor in held)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_come_in_the_type_asked_for(dtype):
    model, images = seeded(lambda: load_model("cifar:resnet20").network, torch.float32), pictures(dtype=torch.float32)
    part = folded_whole(model)
    assert {tensor.dtype for tensor in part.weights()} == {torch.float32}
    weights = part.weights(dtype)
    assert {tensor.dtype for tensor in weights} == {dtype}
    assert not any(tensor.requires_grad for tensor in weights)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert error(part(images, weights).float(), model(images).float()) < (1e-5 if dtype == torch.float32 else 0.1)


def test_nothing_wants_a_gradient_but_the_features():
    model, images = seeded(lambda: load_model("cifar:resnet20").network), pictures().requires_grad_()
    part = folded_whole(model)
    weights = part.weights()
    (found,) = torch.autograd.grad(part(images, weights).square().sum(), images)
    (expected,) = torch.autograd.grad(model(images).square().sum(), images)
    assert error(found, expected) < 1e-11
    assert all(tensor.grad is None for tensor in (*model.parameters(), *weights))
    assert all(parameter.requires_grad for parameter in model.parameters())


# Pair by pair

CONVS = [
    {"kernel_size": 3},
    {"kernel_size": 3, "bias": False},
    {"kernel_size": 3, "groups": 2, "dilation": 2, "stride": 2, "padding": 1},
    {"kernel_size": (3, 5), "padding": (2, 0), "stride": (1, 2)},
    {"kernel_size": 3, "groups": 4, "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": "valid"},
]
LEFT = [{"kernel_size": 3, "padding": 1, "padding_mode": mode} for mode in ("reflect", "circular", "replicate")]


@pytest.mark.parametrize("norm", [{}, {"affine": False}, {"eps": 0.1}], ids=str)
@pytest.mark.parametrize("conv", [*CONVS, *LEFT], ids=str)
def test_a_pair_is_torch_s_own_fusion(conv, norm):
    model, images = seeded(lambda: nn.Sequential(nn.Conv2d(4, 8, **conv), nn.BatchNorm2d(8, **norm))), pictures(3, 4, 9)
    part = folded_whole(model)
    assert len(part.pairs) == (conv not in LEFT)
    with torch.no_grad():
        assert error(part(images, part.weights()), model(images)) < 1e-13
        fused = fuse_conv_bn_eval(*model)
        weight, bias = fold(*model)
        assert error(weight, fused.weight) < 1e-14
        torch.testing.assert_close(bias, fused.bias, rtol=1e-13, atol=1e-14)


class Leaky(nn.BatchNorm2d):
    """A norm that does something else."""

    def forward(self, features):
        return F.leaky_relu(super().forward(features))


class Doubling(BatchNormAct2d):
    def forward(self, x):
        return 2 * super().forward(x)


def carrying(norm, **modules):
    """Return a norm that carries modules which it does not call."""
    for name, module in modules.items():
        norm.add_module(name, module)
    return norm


NORMS = [
    pytest.param(lambda: nn.BatchNorm2d(8), True, id="BatchNorm2d"),
    pytest.param(lambda: nn.SyncBatchNorm(8), True, id="SyncBatchNorm"),
    pytest.param(lambda: BatchNormAct2d(8), True, id="BatchNormAct2d"),
    pytest.param(lambda: BatchNormAct2d(8, act_layer=nn.SiLU, drop_layer=nn.Hardtanh), True, id="with drop and act"),
    pytest.param(lambda: BatchNormAct2d(8, apply_act=False), True, id="without act"),
    pytest.param(lambda: carrying(nn.BatchNorm2d(8), drop=nn.Tanh(), act=nn.Softplus()), True, id="carries others'"),
    pytest.param(lambda: carrying(Leaky(8), drop=nn.Tanh(), act=nn.Softplus()), False, id="own forward, carries"),
    pytest.param(lambda: Leaky(8), False, id="own forward"),
    pytest.param(lambda: Doubling(8), False, id="timm's with own forward"),
    pytest.param(lambda: nn.BatchNorm2d(8, track_running_stats=False), False, id="without statistics"),
    pytest.param(lambda: nn.InstanceNorm2d(8, track_running_stats=True), False, id="InstanceNorm2d"),
    pytest.param(lambda: nn.GroupNorm(2, 8), False, id="GroupNorm"),
]


@pytest.mark.parametrize(("build", "folds"), NORMS)
def test_norms_are_folded_only_where_their_meaning_is_known(build, folds):
    model, images = seeded(lambda: nn.Sequential(nn.Conv2d(4, 8, 3), build())), pictures(3, 4, 9)
    part = folded_whole(model)
    assert len(part.pairs) == folds
    with torch.no_grad():
        assert error(part(images, part.weights()), model(images)) < 1e-13


class OwnConv(nn.Conv2d):
    def forward(self, features):
        return super().forward(features).tanh()


def hooked(conv):
    conv.register_forward_hook(lambda module, inputs, output: output.tanh())
    return conv


CONVOLUTIONS = [
    pytest.param(lambda: OwnConv(4, 8, 3), id="own forward"),
    pytest.param(lambda: nn.ConvTranspose2d(4, 8, 3), id="transposed"),
    pytest.param(lambda: hooked(nn.Conv2d(4, 8, 3)), id="hook"),
    pytest.param(lambda: prune.l1_unstructured(nn.Conv2d(4, 8, 3), "weight", amount=0.5), id="pruned"),
    pytest.param(lambda: parametrizations.weight_norm(nn.Conv2d(4, 8, 3)), id="weight norm"),
    pytest.param(lambda: nn.utils.spectral_norm(nn.Conv2d(4, 8, 3)), id="spectral norm"),
]


@pytest.mark.parametrize("build", CONVOLUTIONS)
def test_convolutions_that_do_more_are_left(build):
    model, images = seeded(lambda: nn.Sequential(build(), nn.BatchNorm2d(8))), pictures(3, 4, 9)
    part = folded_whole(model)
    assert part.pairs == []
    for _ in range(2):
        with torch.no_grad():
            assert error(part(images, part.weights()), model(images)) < 1e-13
            for parameter in model.parameters():
                parameter.mul_(1.5)


class Wiring(nn.Module):
    """A convolution and a norm, in some other arrangement."""

    def __init__(self, arrangement):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.other, self.second = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        if arrangement == "two names":
            self.alias, self.alias_of_norm = self.conv, self.norm
        if arrangement == "tied weights":
            self.second = nn.Conv2d(4, 4, 3, padding=1)
            self.second.weight = self.conv.weight
        self.arrangement = arrangement

    def forward(self, features):
        match self.arrangement:
            case "two names" | "plain":
                return self.norm(self.conv(features)).relu()
            case "tied weights":
                return self.other(self.second(self.norm(self.conv(features)).relu()))
            case "two consumers":
                between = self.conv(features)
                return self.norm(between) + between
            case "two norms":
                between = self.conv(features)
                return self.norm(between) * self.other(between)
            case "output too":
                between = self.conv(features)
                return self.norm(between), between
            case "conv twice":
                return self.other(self.conv(self.norm(self.conv(features)).relu()))
            case "conv again elsewhere":
                return self.conv(self.norm(self.conv(features)).relu())
            case "norm twice":
                return self.norm(self.second(self.norm(self.conv(features)).relu()))
            case "norm again elsewhere":
                return self.norm(self.norm(self.conv(features)).relu())
            case "norm first":
                return self.conv(self.norm(features))
            case "something between":
                return self.norm(self.conv(features).relu())
            case "two in a row":
                return self.other(self.norm(self.conv(features)))
            case "keywords":
                return self.norm(self.conv(input=features))
            case "keywords to the norm":
                return self.norm(input=self.conv(features))
            case "weight read":
                return self.norm(self.conv(features)) * self.conv.weight.mean() + self.norm.running_mean.sum()


ARRANGEMENTS = {
    "plain": 1,
    "two names": 1,
    "tied weights": 2,
    "two consumers": 0,
    "two norms": 0,
    "output too": 0,
    "conv twice": 0,
    "conv again elsewhere": 0,
    "norm twice": 0,
    "norm again elsewhere": 0,
    "norm first": 0,
    "something between": 0,
    "two in a row": 1,
    "keywords": 0,
    "keywords to the norm": 0,
    "weight read": 1,
}


@pytest.mark.parametrize(("arrangement", "pairs"), ARRANGEMENTS.items())
def test_every_wiring_gives_the_same_result(arrangement, pairs):
    model, images = seeded(lambda: Wiring(arrangement)), pictures(3, 4, 9)
    part = folded_whole(model)
    assert len(part.pairs) == pairs
    with torch.no_grad():
        found, expected = part(images, part.weights()), model(images)
    if arrangement == "output too":
        assert torch.equal(found[1], expected[1])
        found, expected = found[0], expected[0]
    assert error(found, expected) < 1e-13


# Never stale


def test_a_fold_is_of_the_tensors_of_now():
    model, images = seeded(lambda: load_model("cifar:resnet20").network), pictures()
    part = folded_whole(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    other = seeded(lambda: load_model("cifar:resnet20").network)

    def train():
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.tensor([1, 2])).backward()
        optimizer.step()
        model.eval()

    def new_affine():
        for norm in batch_norms(model).values():
            norm.weight, norm.bias = nn.Parameter(norm.weight.detach() * 1.1), nn.Parameter(norm.bias.detach() + 0.1)

    def new_statistics():
        for norm in batch_norms(model).values():
            norm.running_mean, norm.running_var = norm.running_mean + 0.1, norm.running_var * 1.3

    def eps():
        for norm in batch_norms(model).values():
            norm.eps = 0.01

    last = None
    for change in (train, train, new_affine, new_statistics, eps, lambda: model.load_state_dict(other.state_dict())):
        change()
        with torch.no_grad():
            found, expected = part(images, part.weights()), model(images)
        assert error(found, expected) < 1e-12
        assert last is None or error(expected, last) > 1e-6
        last = expected


# The attack on it


def plain_attack(suffix, features, labels, steps=6):
    """Algorithm 1 as the paper writes it; return the factors (2,C), each step's loss and that in the end."""
    mu = features.mean((0, 2, 3)).view(1, -1, 1, 1)
    d_mu, d_sigma = torch.ones_like(mu), torch.ones_like(mu)
    losses = []
    for _ in range(steps):
        d_mu.requires_grad_()
        d_sigma.requires_grad_()
        adversarial = torch.relu(d_sigma * (features - mu) + d_mu * mu)
        loss = F.cross_entropy(suffix(adversarial), labels)
        gradients = torch.autograd.grad(loss, [d_mu, d_sigma])
        losses.append(float(loss.detach()))
        d_mu = (d_mu + 0.2 * gradients[0].sign()).detach().clip(-0.1, 2.1)
        d_sigma = (d_sigma + 0.2 * gradients[1].sign()).detach().clip(-0.1, 2.1)
    factors = torch.stack([d_mu.flatten(), d_sigma.flatten()])
    adversarial = torch.relu(d_sigma * (features - mu) + d_mu * mu)
    losses.append(float(F.cross_entropy(suffix(adversarial), labels).detach()))
    return factors, losses


def resnet20_in_two(dtype, count=16):
    model = seeded(lambda: load_model("cifar:resnet20").network, dtype)
    images, labels = pictures(count, dtype=dtype), torch.arange(count) % 10
    found = split(model, "layer1", images[:2])
    with torch.no_grad():
        features = found.prefix(images)
    return model, found, folded(model, found.graph), features, labels


def test_the_folded_attack_is_plain_algorithm_1():
    model, found, part, features, labels = resnet20_in_two(torch.float64)
    before = state(model)
    weights, losses = part.weights(), []

    def loss(changed):
        value = F.cross_entropy(part(changed, weights), labels)
        losses.append(float(value.detach()))
        return value

    attack = FeatureAttack()
    factors = attack_features(features, loss, attack, relu=True)
    with torch.no_grad():
        loss(perturb(features, factors, batch_moments(features, attack), attack, relu=True))
    expected, expected_losses = plain_attack(found.suffix, features, labels)
    torch.testing.assert_close(factors, expected, rtol=0, atol=1e-8)
    assert losses == pytest.approx(expected_losses, rel=1e-8)
    assert losses[-1] > losses[0]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_each_step_s_gradient_agrees_in_float32():
    """At the same factors; the paths part at the first sign of a gradient near zero."""
    _, found, part, features, labels = resnet20_in_two(torch.float32)
    weights, attack = part.weights(), FeatureAttack()
    moments = batch_moments(features, attack)
    factors = initial_factors(features, attack)
    for _ in range(6):
        gradients = []
        for suffix in (lambda changed: part(changed, weights), found.suffix):
            at = factors.clone().requires_grad_()
            value = F.cross_entropy(suffix(perturb(features, at, moments, attack, relu=True)), labels)
            gradients.append(torch.autograd.grad(value, at)[0])
        mine, plain = gradients
        assert float((mine - plain).norm() / plain.norm()) < 1e-3
        factors = (factors + 0.2 * plain.sign()).clamp(-0.1, 2.1)


def test_a_twin_has_its_own_fold():
    """The same graph over another model of the same structure reads that model's tensors."""
    model, found, part, features, _ = resnet20_in_two(torch.float64, 2)
    twin = deepcopy(model)
    for norm in batch_norms(twin).values():
        norm.running_mean += 0.3
    other = folded(twin, found.graph)
    assert isinstance(other, Folded)
    with torch.no_grad():
        expected = found.onto(twin).suffix(features)
        assert error(other(features, other.weights()), expected) < 1e-12
        assert error(part(features, part.weights()), found.suffix(features)) < 1e-12
        assert error(expected, found.suffix(features)) > 1e-3
