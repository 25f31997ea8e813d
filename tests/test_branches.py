"""Two sets of norms behind a cut: equal at first, each trained alone, and a network of the common layout on export."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from settled_norms import settle
from statshift._core.errors import InputError
from statshift.models import PixelModel, Preprocessing, load_model
from statshift.norms.layers import batch_norms
from statshift.splitting.branches import Branches, export, twin

pytestmark = pytest.mark.usefixtures("one_thread")

TRACE = pytest.mark.parametrize("trace", [True, False], ids=["fx", "replay"])
IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Small(nn.Module):
    """Dropout, modules and functional, on both sides of a cut after `act1`; a scale of the prefix and one behind."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.drop1, self.drop2 = nn.Dropout(0.5), nn.Dropout(0.5)
        self.conv2, self.bn2 = nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.last = nn.BatchNorm1d(5, affine=False)
        self.fc = nn.Linear(5, 3)
        self.idle = nn.Linear(2, 2)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, images):
        features = self.drop1(self.bn1(self.conv1(images * self.scale)))
        features = self.act1(F.dropout(features, 0.5, self.training))
        features = F.dropout(self.conv2(features * self.scale), 0.5, self.training)
        return self.fc(self.last(self.drop2(F.relu(self.bn2(features)).mean((2, 3)))))


class Untraceable(Small):
    def forward(self, images):
        if images.sum() < -1e9:
            return images
        return super().forward(images)


def network(kind, seed=0):
    """Return a network whose weights and norms depend on a seed."""
    scheme, _, name = kind.partition(":")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if scheme == "timm":
            model = timm.create_model(name, pretrained=False, num_classes=10)
        elif scheme == "torchvision":
            model = torchvision.models.get_model(name, weights=None, num_classes=10)
        else:
            model = {"small": Small, "untraceable": Untraceable}[kind]()
    return settle(model, seed).eval()


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(model, before):
    """Return the names of what is no longer as it was."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def of_norms(model, norms):
    """Return the names in the state dict of what belongs to norms: all, and the statistics."""
    names = {name for name in model.state_dict() if name.rpartition(".")[0] in norms}
    return names, {name for name in names if "running" in name or "num_batches" in name}


def sgd(branches):
    return torch.optim.SGD([p for p in branches.parameters() if p.requires_grad], 1e-3)


def train(branches, branch, optimizer):
    logits = branches.suffix(branches.prefix(IMAGES), branch)
    optimizer.zero_grad()
    logits.tanh().mean().backward()
    nn.utils.clip_grad_norm_([p for p in branches.parameters() if p.grad is not None], 1.0, error_if_nonfinite=True)
    optimizer.step()


def check_architecture(model, fresh, at, before, trace):
    """Twins behind the cut alone, equal at first; each trained alone; and an export that is the branch."""
    expected = model(IMAGES).detach()
    found = Branches(model, at, IMAGES, trace=trace)
    assert found.clean is model
    norms, twins = batch_norms(model), batch_norms(found.adv)
    assert list(found.norms) == list(norms)[before:]
    for name, norm in norms.items():
        assert twins[name] is not norm
        tensors, others = dict(norm.state_dict(keep_vars=True)), dict(twins[name].state_dict(keep_vars=True))
        shared = [others[key] is tensor for key, tensor in tensors.items()]
        assert set(shared) == {name not in found.norms}
        assert all(torch.equal(others[key], tensor) for key, tensor in tensors.items())
    features = found.prefix(IMAGES)
    for branch in ("clean", "adv"):
        assert torch.equal(found.suffix(features, branch), expected)
        assert torch.equal(getattr(found, branch)(IMAGES), expected)

    found.train()
    optimizer, start = sgd(found), snapshot(model)
    names, statistics = of_norms(model, found.norms)
    for branch, other in (("adv", "clean"), ("clean", "adv")):
        states = {one: snapshot(getattr(found, one)) for one in ("clean", "adv")}
        train(found, branch, optimizer)
        changed = moved(getattr(found, branch), states[branch])
        assert statistics <= changed
        assert moved(getattr(found, other), states[other]) == changed - names  # the weights that both share
    frozen, _ = of_norms(model, set(list(norms)[:before]))
    assert len(frozen) >= 3
    assert not frozen & moved(found.clean, start)
    assert torch.equal(found.prefix(IMAGES), features)

    found.eval()
    logits = {branch: found.suffix(features, branch) for branch in ("clean", "adv")}
    assert not torch.equal(logits["clean"], logits["adv"])
    for branch, expected in logits.items():
        fresh.load_state_dict(export(found, branch), strict=True)
        assert torch.equal(fresh.eval()(IMAGES), expected)
        assert expected.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "at", "before"),
    [
        ("torchvision:resnet50", "conv3_4", 24),
        ("torchvision:densenet121", "features.transition2", 39),
        ("torchvision:efficientnet_b0", "features.3", 15),
        ("torchvision:mobilenet_v3_small", "features.4", 12),
        ("torchvision:regnet_y_400mf", "trunk_output.block2", 15),
        ("torchvision:mnasnet0_5", "layers.9", 21),
        ("timm:efficientnet_b0", "blocks.2", 15),  # BatchNormAct2d, SiLU
        ("timm:regnety_002", "s2", 9),
        ("timm:efficientvit_b0", "stages.1", 15),  # torch.fx cannot trace it
        ("small", "act1", 1),
        ("untraceable", "act1", 1),
    ],
)
def test_two_branches_of(kind, at, before):
    check_architecture(network(kind), network(kind, 9), at, before, True)


@pytest.mark.parametrize(("kind", "at", "before"), [("torchvision:resnet18", "layer2", 10), ("small", "act1", 1)])
def test_two_branches_by_replay(kind, at, before):
    check_architecture(network(kind), network(kind, 9), at, before, False)


def test_two_branches_of_the_mobilenet_of_a_user(shared):
    spec = f"py:{shared / 'data/mobilenet_v1_025.py'}:mobilenet_v1_025"
    model = load_model(spec, weights=shared / "data/imagenet_mobilenet_v1_025.tar")
    check_architecture(model.network, settle(load_model(spec).network), "stage1", 11, True)


# What is frozen


@TRACE
def test_parameters_of_the_prefix_and_unused_ones_get_no_gradient(trace):
    model = network("small")
    model.fc.weight.requires_grad_(False)
    found = Branches(model, "act1", IMAGES, trace=trace).train()
    for branch in ("clean", "adv"):
        found.suffix(found.prefix(IMAGES), branch).square().sum().backward()
    for one in (found.clean, found.adv):
        learned = {name for name, parameter in one.named_parameters() if parameter.requires_grad}
        assert learned == {"conv2.weight", "conv2.bias", "bn2.weight", "bn2.bias", "fc.weight", "fc.bias"}
        assert {name for name, parameter in one.named_parameters() if parameter.grad is not None} == learned


@TRACE
def test_shared_weights_get_gradient_from_both_branches(trace):
    found = Branches(network("small"), "act1", IMAGES, trace=trace)
    features = found.prefix(IMAGES)
    assert not features.requires_grad
    weights = (found.clean.conv2.weight, found.clean.bn2.weight, found.adv.bn2.weight)
    assert found.adv.conv2.weight is weights[0]
    clean, adv = (found.suffix(scale * features, one).square().sum() for scale, one in ((1, "clean"), (2, "adv")))
    one = torch.autograd.grad(clean, weights, allow_unused=True, retain_graph=True)
    two = torch.autograd.grad(adv, weights, allow_unused=True, retain_graph=True)
    both = torch.autograd.grad(clean + adv, weights)
    assert (one[2], two[1]) == (None, None)
    assert not torch.equal(one[0], two[0])
    torch.testing.assert_close(both, (one[0] + two[0], one[1], two[2]))


@TRACE
def test_the_prefix_stays_as_in_evaluation_mode(trace):
    model = network("small")
    found = Branches(model, "act1", IMAGES, trace=trace)
    features, before = found.prefix(IMAGES), snapshot(found)
    for mode in (True, False, True):
        assert found.train(mode) is found
        for one in (found.clean, found.adv):
            flags = {name: module.training for name, module in one.named_modules()}
            assert not any(flags[name] for name in ("conv1", "bn1", "drop1", "act1"))
            assert all(flags[name] == mode for name in ("", "conv2", "bn2", "drop2", "last", "fc"))
        assert torch.equal(found.prefix(IMAGES), features)
        assert torch.equal(found.prefix(IMAGES), features)
        assert moved(found, before) == set()
    for one in (found.clean, found.adv):  # a branch is a model like any other, and a frozen prefix stays frozen in it
        one(IMAGES)
        assert not {name for name in moved(found, before) if name.endswith(("bn1.running_mean", "bn1.running_var"))}


def test_blocks_of_the_prefix_stay_in_evaluation_mode_whole():
    for trace in (True, False):
        found = Branches(network("torchvision:resnet18"), "layer2", IMAGES, trace=trace).train()
        for one in (found.clean, found.adv):
            modes = {name: module.training for name, module in one.named_modules()}
            behind = {name for name in modes if not name or name.startswith(("layer3", "layer4", "avgpool", "fc"))}
            assert {name for name, mode in modes.items() if mode} == behind


def test_dropout_behind_the_cut_is_on_in_training():
    found = Branches(network("untraceable"), "act1", IMAGES)
    features = found.prefix(IMAGES)
    assert torch.equal(found.suffix(features, "adv"), found.suffix(features, "adv"))
    found.train()
    assert not torch.equal(found.suffix(features, "adv"), found.suffix(features, "adv"))


def test_a_dropout_of_both_sides_is_off_in_the_prefix_and_on_behind_it():
    class Both(Small):
        def __init__(self):
            super().__init__()
            self.drop1 = self.drop2

    with torch.random.fork_rng():
        model = settle(Both()).eval()
    found = Branches(model, "act1", IMAGES)
    features = found.prefix(IMAGES)
    found.train()
    assert torch.equal(found.prefix(IMAGES), features)
    assert found.clean.drop2.training
    assert found.adv.drop2.training


@pytest.mark.parametrize("name", ["norm", "conv", "tied"])
def test_weights_of_both_sides_cannot_be_frozen(name):
    class Recurrent(Small):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4, affine=False) if name == "norm" else nn.Identity()
            self.conv = nn.Conv2d(4, 4, 1)
            self.tied = nn.Conv2d(4, 4, 1)
            if name == "tied":
                self.tied.weight = self.conv.weight

        def forward(self, images):
            features = self.act1(self.norm(self.bn1(self.conv(self.conv1(images)))))
            again = self.conv(features) if name == "conv" else self.tied(features)
            return self.fc(self.bn2(self.conv2(self.norm(again))).mean((2, 3)))

    model = settle(Recurrent()).eval()
    told = {"norm": "norm", "conv": "conv", "tied": "conv"}[name]
    with pytest.raises(InputError, match=f"Cannot freeze what lies before 'act1': {told} is used behind it too"):
        Branches(model, "act1", IMAGES)
    assert not model.training
    assert sum(len(module._forward_hooks) for module in model.modules()) == 0
    assert len(Branches(model, "input", IMAGES).norms) == len(batch_norms(model))


# The twin


def test_a_twin_shares_all_but_the_norms_given():
    model = network("small")
    hooks = []
    model.fc.register_forward_hook(lambda module, inputs, output: hooks.append(module))
    before = snapshot(model)
    other = twin(model, {"last": model.last})
    ours, theirs = model.state_dict(keep_vars=True), other.state_dict(keep_vars=True)
    assert list(ours) == list(theirs)
    assert {name for name in ours if ours[name] is not theirs[name]} == of_norms(model, {"last"})[0]
    assert torch.equal(other(IMAGES), model(IMAGES))
    assert hooks == [other.fc, model.fc]
    assert moved(model, before) == set()


@TRACE
def test_at_the_input_every_norm_has_a_twin(trace):
    pixel = PixelModel(network("small"), Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), input_size=16)).eval()
    found = Branches(pixel, "input", IMAGES, trace=trace)
    assert list(found.norms) == ["network.bn1", "network.bn2", "network.last"]
    assert found.splits["clean"].cut is None
    assert torch.equal(found.prefix(IMAGES), pixel.normalise(IMAGES))
    assert torch.equal(found.suffix(found.prefix(IMAGES), "adv"), pixel(IMAGES))
    found.train()
    before = snapshot(found)
    found.suffix(found.prefix(IMAGES), "adv")
    names = {f"adv.{name}" for name in of_norms(pixel, found.norms)[1]}
    assert moved(found, before) == names
    assert all(parameter.requires_grad for name, parameter in found.named_parameters() if "idle" not in name)


def test_norms_that_run_in_training_only_have_twins():
    with torch.random.fork_rng():
        model = settle(torchvision.models.googlenet(weights=None, num_classes=10, init_weights=False)).eval()
    images = torch.rand(2, 3, 64, 64)
    found = Branches(model, "inception3a", images)
    assert found.splits["adv"].graph is not None
    assert {"aux1.conv.bn", "aux2.conv.bn"} < set(found.norms)
    found.train()
    before = snapshot(found.clean)
    found.suffix(found.prefix(images), "adv")
    assert moved(found.clean, before) == set()
    assert found.adv.aux1.conv.bn.num_batches_tracked == 1


@TRACE
def test_a_model_in_pixel_space_exports_its_network(trace):
    pixel = PixelModel(network("small"), Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), input_size=16)).eval()
    found = Branches(pixel, "act1", IMAGES, trace=trace).train()
    optimizer = sgd(found)
    for branch in ("clean", "adv", "adv"):
        train(found, branch, optimizer)
    found.eval()
    states = {branch: export(found, branch) for branch in ("clean", "adv")}
    assert list(states["adv"]) == list(network("small").state_dict())
    for branch, state in states.items():
        fresh = network("small", 9)
        fresh.load_state_dict(state, strict=True)
        expected = found.suffix(found.prefix(IMAGES), branch)
        assert torch.equal(PixelModel(fresh, pixel.preprocessing)(IMAGES), expected)
        assert not any(tensor.requires_grad for tensor in state.values())
    found.clean.network.conv2.weight.data.zero_()  # an export is a copy
    assert all(state["conv2.weight"].abs().sum() > 0 for state in states.values())


def test_branches_do_not_depend_on_each_others_batches():
    found = Branches(network("untraceable"), "act1", IMAGES).train()
    features = found.prefix(IMAGES)
    before = snapshot(found)
    torch.manual_seed(0)
    alone = found.suffix(features, "clean")
    for name, value in found.state_dict().items():
        value.copy_(before[name])
    found.suffix(features * 100, "adv")
    torch.manual_seed(0)
    assert torch.equal(found.suffix(features, "clean"), alone)


@TRACE
def test_prefix_once_suffix_of_both_branches(trace, monkeypatch):
    calls = []
    plain = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: (calls.append(self), plain(self, x))[1])
    found = Branches(network("small"), "act1", IMAGES, trace=trace)
    calls.clear()
    features = found.prefix(IMAGES)
    for branch in ("adv", "adv", "clean", "adv"):
        found.suffix(features, branch)
    one, two = found.clean, found.adv
    assert calls == [one.conv1, two.conv2, two.conv2, one.conv2, two.conv2]


@TRACE
def test_tensors_stay_shared_on_the_way_to_another_type(trace):
    found = Branches(network("small"), "act1", IMAGES, trace=trace)
    expected = found.suffix(found.prefix(IMAGES), "adv")
    found.adv.bn2.bias.data += 1
    assert found.double() is found
    ours, theirs = found.clean.state_dict(keep_vars=True), found.adv.state_dict(keep_vars=True)
    assert ours["scale"].dtype == ours["bn1.running_mean"].dtype == torch.float64
    assert {name for name in ours if ours[name] is not theirs[name]} == of_norms(found.clean, found.norms)[0]
    found.adv.bn2.bias.data -= 1
    for branch in ("clean", "adv"):
        logits = found.suffix(found.prefix(IMAGES.double()), branch)
        assert logits.dtype == torch.float64
        torch.testing.assert_close(logits, expected.double(), rtol=1e-4, atol=1e-5)


@TRACE
def test_under_autocast_both_branches_learn(trace):
    found = Branches(network("small"), "act1", IMAGES, trace=trace).train()
    with torch.autocast("cpu", torch.bfloat16):
        features = found.prefix(IMAGES)
        losses = [found.suffix(features, branch).float().square().sum() for branch in ("clean", "adv")]
    assert features.dtype == torch.bfloat16
    weights = (found.clean.conv2.weight, found.clean.bn2.weight, found.adv.bn2.weight, found.clean.fc.weight)
    gradients = torch.autograd.grad(sum(losses), weights)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("copies", [True, False])
def test_the_attacked_suffix_is_the_twin_in_evaluation_mode(copies):
    model = network("small")
    if copies:
        model.conv2 = nn.Sequential(nn.Hardtanh(-0.1, 0.1, inplace=True), model.conv2)
    model.scale.fill_(1)
    found = Branches(model, "act1", IMAGES).train()
    found.adv.bn2.weight.data *= 2
    features = found.prefix(IMAGES)
    kept, before = features.clone(), snapshot(found)
    with found.attacked() as suffix:
        logits = suffix(features)
    assert torch.equal(features, kept)
    assert moved(found, before) == set()
    assert found.adv.training
    found.eval()
    torch.testing.assert_close(logits, found.suffix(features, "adv"), rtol=1e-4, atol=1e-5)


# One branch; refusals


def test_without_a_twin_there_is_one_branch():
    model = network("small")
    found = Branches(model, "act1", IMAGES, dual=False).train()
    assert found.norms == {}
    assert [name for name, _ in found.named_children()] == ["clean"]
    before = snapshot(model)
    train(found, "clean", sgd(found))
    assert {"bn2.running_mean", "last.running_var"} < moved(model, before)
    assert not {"bn1.running_mean", "conv1.weight"} & moved(model, before)
    found.double()
    assert model.bn2.weight.dtype == torch.float64
    for refused in (lambda: export(found, "adv"), lambda: found.suffix(IMAGES, "adv")):
        with pytest.raises(InputError, match=r"Unknown branch 'adv'\. Choose from: clean\."):
            refused()


def test_an_unknown_branch():
    found = Branches(network("small"), "act1", IMAGES)
    for refused in (lambda: export(found, "advers"), lambda: found.suffix(IMAGES, "advers")):
        with pytest.raises(
            InputError, match=r"Unknown branch 'advers'\. Did you mean 'adv'\? Choose from: clean, adv\."
        ):
            refused()


@pytest.mark.parametrize(
    ("kind", "at", "told"),
    [
        ("timm:convnext_atto", "stages.1", "its norms are: LayerNorm2d"),
        ("torchvision:resnet18", "layer2.0.conv1", "the output of layer2.0.downsample crosses the cut"),
        ("torchvision:resnet18", "layer9", r"Unknown layer 'layer9'\. Did you mean 'layer\d'\?"),
    ],
)
def test_a_cut_that_does_not_work_leaves_the_model_as_found(kind, at, told):
    model = network(kind)
    model.train().requires_grad_(False)
    with pytest.raises(InputError, match=told):
        Branches(model, at, IMAGES)
    assert all(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert sum(len(module._forward_hooks) for module in model.modules()) == 0
