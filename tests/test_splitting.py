"""Where a model can be cut, and the two parts of it: together they are the model, to the last bit."""

import copy
import gc
import random
import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from settled_norms import settle
from statshift._core.errors import InputError
from statshift.models import PixelModel, Preprocessing, extract_logits, load_model
from statshift.splitting.cuts import Cut, find_cut, find_cuts
from statshift.splitting.split import split

pytestmark = pytest.mark.usefixtures("one_thread")

TRACE = pytest.mark.parametrize("trace", [True, False], ids=["fx", "replay"])

SMALL = [
    "torchvision:resnet18",
    "torchvision:densenet121",
    "torchvision:mobilenet_v2",
    "torchvision:mobilenet_v3_small",
    "torchvision:regnet_y_400mf",
    "torchvision:googlenet",
    "torchvision:mnasnet0_5",
    "torchvision:shufflenet_v2_x0_5",
    "timm:resnet14t",
    "timm:efficientnet_b0",
    "timm:mobilenetv3_small_050",
    "timm:regnety_002",
    "timm:lcnet_050",
    "timm:efficientvit_b0",
    "timm:mobilevit_xxs",
]
UNTRACEABLE = {"timm:efficientvit_b0", "timm:mobilevit_xxs"}
LARGE = [
    "torchvision:efficientnet_b0",
    "timm:ghostnet_100",
    "timm:mobileone_s0",
    "timm:dla34",
    "timm:repvgg_a0",
    "torchvision:resnet50",
    "torchvision:efficientnet_v2_s",
    "torchvision:regnet_x_400mf",
    "timm:resnet26d",
    "timm:densenet121",
    "timm:efficientnet_b4",
    "timm:hrnet_w18_small",
    "timm:res2net50_26w_4s",
    "timm:resnest14d",
    "timm:cspresnet50",
    "timm:mixnet_s",
    "timm:skresnet18",
    "timm:ese_vovnet19b_dw",
    "timm:xception41",
    "timm:inception_next_atto",
    "timm:rexnet_100",
]


def build(spec):
    scheme, _, name = spec.partition(":")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if scheme == "timm":
            model = timm.create_model(name, pretrained=False, num_classes=10)
        else:
            extra = {"init_weights": False} if name == "googlenet" else {}
            model = torchvision.models.get_model(name, weights=None, num_classes=10, **extra)
    return settle(model).eval()


def pictures(count=4, side=32, seed=1):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def restore(model, state):
    for name, value in model.state_dict().items():
        value.copy_(state[name])


def once(model, function):
    """Return what a function gives from one seed, the state of the model that it leaves, and the generator's."""
    state = snapshot(model)
    torch.manual_seed(3)
    random.seed(3)
    found = function(), snapshot(model), torch.get_rng_state()
    restore(model, state)
    return found


def twice(model, first, second):
    """Return what two functions give from one state of the model, one seed, and the states they leave."""
    return once(model, first), once(model, second)


def whole_of(model, images):
    return once(model, lambda: extract_logits(model(images)))


def assert_same_as_whole(model, found, images, whole=None):
    """The split gives the model's logits, and moves its statistics and the generator as the model does."""
    whole, parts = whole or whole_of(model, images), once(model, lambda: found.suffix(found.prefix(images)))
    assert torch.equal(parts[0], whole[0])
    assert [name for name, value in whole[1].items() if not torch.equal(parts[1][name], value)] == []
    assert torch.equal(parts[2], whole[2])


class Small(nn.Module):
    """Two convolutions with norms; what lies between them is given."""

    def __init__(self, between=None):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.between = between or nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 3)

    def forward(self, images):
        features = self.between(self.bn1(self.conv1(images)))
        return self.fc(F.relu(self.bn2(self.conv2(features))).mean((2, 3)))


def small(kind=Small, *args):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return settle(kind(*args)).eval()


# The split is the whole


def check_architecture(spec, replayed):
    """Hold it at the first cut, one in the middle and the last; by replay at those of the three that are given."""
    side = 64 if "googlenet" in spec or "mobilevit" in spec else 32
    model, images = build(spec), pictures(2, side)
    before = snapshot(model)
    names = [cut.name for cut in find_cuts(model, images)]
    whole = {mode: whole_of(model.train(mode), images) for mode in (True, False)}
    for place, at in enumerate((names[0], names[len(names) // 2], names[-1])):
        for trace in (True, False) if place in replayed else (True,):
            found = split(model, at, images, trace=trace)
            assert found.cut.name == at
            for mode in (False, True):
                model.train(mode)
                assert_same_as_whole(model, found, images, whole[mode])
            model.eval()
            crossed = spec == "torchvision:googlenet" and at == names[-1]  # by its auxiliary heads, in training mode
            assert (found.graph is None) == (not trace or crossed or spec in UNTRACEABLE)
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == []


@pytest.mark.parametrize("spec", SMALL)
def test_the_parts_are_the_whole(spec):
    check_architecture(spec, [1])


@pytest.mark.slow
@pytest.mark.parametrize("spec", LARGE)
def test_the_parts_of_larger_models_are_the_whole(spec):
    check_architecture(spec, [0, 1, 2])


@TRACE
def test_the_parts_of_a_model_in_pixel_space_are_the_whole(trace):
    model = PixelModel(small(), Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), input_size=16)).eval()
    images = pictures(side=24)
    found = split(model, "network.between", images, trace=trace)
    assert found.cut.name == "between"
    assert found.cut.shape == (4, 16, 16)
    assert found.prefix(images).shape == (4, 4, 16, 16)
    for mode in (False, True):
        model.train(mode)
        assert_same_as_whole(model, found, images)


@TRACE
def test_at_the_input_the_prefix_only_normalises(trace):
    images = pictures(side=24)
    pixel = PixelModel(small(), Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), input_size=16)).eval()
    for model, entered in ((pixel, pixel.normalise(images)), (small(), images)):
        found = split(model, "input", images, trace=trace)
        assert found.cut is None
        assert torch.equal(found.prefix(images), entered)
        for mode in (False, True):
            model.train(mode)
            assert_same_as_whole(model, found, images)


def test_the_mobilenet_of_a_user(shared):
    data = shared / "data"
    model = load_model(
        f"py:{data / 'mobilenet_v1_025.py'}:mobilenet_v1_025", weights=data / "imagenet_mobilenet_v1_025.tar"
    )
    images = pictures(side=64)
    for at in ("stage1", "stage2.3", "network.stage1.2.4"):
        for trace in (True, False):
            found = split(model, at, images, trace=trace)
            assert (found.graph is None) != trace
            for mode in (False, True):
                model.train(mode)
                assert_same_as_whole(model, found, images)
            model.eval()


@TRACE
@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
def test_gradient_of_the_features_is_the_wholes(trace, mode):
    model, images = small(), pictures()
    found = split(model, "between", images, trace=trace)
    model.train(mode)
    features = found.prefix(images).detach().requires_grad_()
    by_hand = nn.Sequential(model.conv2, model.bn2, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.fc)
    expected = torch.autograd.grad(by_hand(features).square().sum(), (features, model.conv2.weight, model.bn2.bias))
    gradients = torch.autograd.grad(
        found.suffix(features).square().sum(), (features, model.conv2.weight, model.bn2.bias)
    )
    torch.testing.assert_close(gradients, expected, rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        still = found.prefix(images)
    assert not still.requires_grad
    (gradient,) = torch.autograd.grad(found.suffix(found.prefix(images)).square().sum(), model.conv1.weight)
    (expected,) = torch.autograd.grad(model(images).square().sum(), model.conv1.weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


# Models that do what models do


class FunctionalDropout(Small):
    def forward(self, images):
        features = F.dropout(self.bn1(self.conv1(images)), 0.3, self.training)
        features = self.between(features)
        features = F.dropout(features, 0.3, self.training)
        return self.fc(F.dropout(self.bn2(self.conv2(features)).mean((2, 3)), 0.4, self.training))


class Branching(Small):
    """Its Python looks at values, so torch.fx cannot trace it."""

    def forward(self, images):
        features = F.dropout(self.bn1(self.conv1(images)), 0.3, self.training)
        features = self.between(features)
        if features.sum() < -1e9:
            return images
        return self.fc(F.dropout(self.bn2(self.conv2(features)).mean((2, 3)), 0.4, self.training))


class Drawing(Small):
    """Skips its second convolution at random, in training, by Python's generator or torch's."""

    def __init__(self, source):
        super().__init__()
        self.source = source
        self.conv3 = nn.Conv2d(4, 4, 1)

    def forward(self, images):
        features = self.between(self.bn1(self.conv1(images)))
        if not self.training or self.source() < 0.5:
            features = self.conv3(features)
        return self.fc(self.bn2(self.conv2(features)).mean((2, 3)))


class Constant(Small):
    def forward(self, images):
        features = self.between(self.bn1(self.conv1(images)))
        scale = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1)
        return self.fc(self.bn2(self.conv2(features * scale)).mean((2, 3)))


class InPlace(Small):
    """Writes into tensors by statements whose value nobody takes."""

    def forward(self, images):
        features = self.bn1(self.conv1(images))
        features.mul_(1.5)
        features = self.between(features)
        out = self.bn2(self.conv2(features))
        if self.training:
            out.add_(torch.ones_like(out))
        F.relu(out, inplace=True)
        return self.fc(out.mean((2, 3)))


class Residual(Small):
    """Adds in place to what a module of the prefix put out, which is also what lies at the cut."""

    def __init__(self):
        super().__init__(nn.Identity())
        self.conv0 = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images):
        features = self.bn1(self.conv1(images))
        features += self.conv0(images)
        return self.fc(self.bn2(self.conv2(self.between(features))).mean((2, 3)))


class Twice(Small):
    """Calls an activation, a dropout and a block of its own several times, on both sides of the cut."""

    def __init__(self):
        super().__init__(nn.Identity())
        self.act, self.drop, self.mix = nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Conv2d(4, 4, 1)

    def forward(self, images):
        features = self.drop(self.act(self.bn1(self.conv1(images))))
        features = self.between(self.act(self.mix(features)) + 1)
        features = self.drop(self.act(self.mix(features)))
        return self.fc(self.drop(self.act(self.bn2(self.conv2(features)))).mean((2, 3)))


class Nested(nn.Module):
    """An activation that is registered at the top, and called within blocks before and behind the cut."""

    class Block(nn.Module):
        def __init__(self, act, inputs, outputs):
            super().__init__()
            self.act, self.conv, self.bn = act, nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs)

        def forward(self, features):
            return self.act(self.bn(self.conv(features))) + 0.5

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()
        self.first, self.second = self.Block(self.act, 3, 4), self.Block(self.act, 4, 4)
        self.third, self.fc = self.Block(self.act, 4, 5), nn.Linear(5, 3)

    def forward(self, images):
        features = self.second(self.act(self.first(self.act(images))))
        return self.fc(self.act(self.third(features)).mean((2, 3)))


class OfManyKinds(Small):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, images):
        return self.wrap(super().forward(images))


MODELS = {
    "functional dropout": (FunctionalDropout,),
    "looks at values": (Branching,),
    "writes by statements": (InPlace,),
    "adds in place": (Residual,),
    "calls modules twice": (Twice,),
    "shares an activation": (Nested,),
    "ReLU in place": (Small, nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))),
    "dropout in place": (Small, nn.Sequential(nn.Identity(), nn.Dropout(0.5, inplace=True))),
    "draws by Python": (Drawing, random.random),
    "draws by torch": (Drawing, lambda: torch.rand(1).item()),
    "keeps a constant": (Constant,),
    "returns a dict": (OfManyKinds, lambda logits: {"features": logits[..., None], "logits": logits}),
    "returns a tuple": (OfManyKinds, lambda logits: (logits, None)),
    "returns an object": (OfManyKinds, lambda logits: SimpleNamespace(logits=logits)),
}


@TRACE
@pytest.mark.parametrize("kind", MODELS)
def test_every_cut_of_a_model_that(kind, trace):
    model, images = small(*MODELS[kind]), pictures()
    attributes = set(vars(model))
    cuts = find_cuts(model, images)
    assert len(cuts) > 1
    for cut in cuts:
        found = split(model, cut.name, images, trace=trace)
        refused = kind in ("looks at values", "keeps a constant", "returns an object") or kind.startswith("draws")
        assert (found.graph is None) == (not trace or refused)
        for mode in (False, True):
            model.train(mode)
            assert_same_as_whole(model, found, images)
            random.seed(3)
            features = found.prefix(images).detach()
            kept = features.clone()
            for _ in range(2):  # nothing of one run is left for the next
                torch.manual_seed(5)
                random.seed(5)
                logits = found.suffix(features)
                assert torch.equal(features, kept)
            torch.manual_seed(5)
            random.seed(5)
            leaf = kept.clone().requires_grad_()
            again = found.suffix(leaf)
            assert torch.equal(again, logits)
            again.sum().backward()
            assert torch.equal(leaf, kept)
        model.eval()
    assert set(vars(model)) == attributes


@TRACE
def test_features_that_a_relu_does_not_change_may_be_a_leaf(trace):
    model, images = small(Small, nn.Sequential(nn.ReLU(), nn.ReLU(inplace=True))), pictures()
    found = split(model, "between.0", images, trace=trace)
    features = found.prefix(images).detach().requires_grad_()
    version = features._version
    (gradient,) = torch.autograd.grad(found.suffix(features).sum(), features)
    assert features._version == version
    assert gradient.abs().sum() > 0


def test_functional_dropout_is_off_in_evaluation_and_on_in_training():
    model, images = small(FunctionalDropout), pictures()
    found = split(model, "between", images)
    features = found.prefix(images)
    assert torch.equal(found.suffix(features), found.suffix(features))
    model.train()
    assert not torch.equal(found.suffix(features), found.suffix(features))


@TRACE
def test_the_parts_follow_the_model_as_it_is(trace):
    class Buffered(Small):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.tensor(2.0))
            self.shift = nn.Parameter(torch.zeros(4, 1, 1))

        def forward(self, images):
            features = self.between(self.bn1(self.conv1(images * self.scale)))
            return self.fc(self.bn2(self.conv2(features * self.scale + self.shift)).mean((2, 3)))

    model, images = small(Buffered), pictures()
    found = split(model, "between", images, trace=trace)
    model.double()
    model.scale = torch.tensor(1 / 3, dtype=torch.float64)
    model.bn2 = nn.BatchNorm2d(5, eps=1.0).double().eval()
    model.shift = nn.Parameter(torch.ones(4, 1, 1, dtype=torch.float64))
    logits = found.suffix(found.prefix(images.double()))
    assert logits.dtype == torch.float64
    assert torch.equal(logits, model(images.double()))


@TRACE
def test_under_autocast_the_parts_are_the_whole(trace):
    model, images = build("torchvision:resnet18"), pictures()
    found = split(model, "layer2", images, trace=trace)
    for mode in (False, True):
        model.train(mode)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert found.prefix(images).dtype == torch.bfloat16
            assert_same_as_whole(model, found, images)


@TRACE
def test_parts_on_another_model_of_the_same_structure(trace):
    model, images = small(Twice), pictures()
    other = settle(copy.deepcopy(model), seed=7)
    found = split(model, "between", images, trace=trace).onto(other)
    assert found.model is other
    for mode in (False, True):
        other.train(mode)
        assert_same_as_whole(other, found, images)


@TRACE
def test_other_batch_sizes_and_sides(trace):
    model = build("timm:resnet14t")
    found = split(model, "layer2", pictures(1), trace=trace)
    for images in (pictures(5), pictures(2, 48)):
        assert torch.equal(found.suffix(found.prefix(images)), model(images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own look at what it compiles
def test_a_compiled_suffix_gives_equal_values():
    model, images = small().double(), pictures().double()
    plain = split(model, "between", images)
    fast = plain.compiled()
    for mode in (False, True):
        model.train(mode)
        features = plain.prefix(images).detach().requires_grad_()

        def both(one, features=features):
            logits = one.suffix(features)
            return logits, *torch.autograd.grad(logits.square().sum(), (features, model.conv2.weight))

        expected, found = twice(model, lambda: both(plain), lambda: both(fast))
        for ours, theirs in zip((*found[0], *found[1].values()), (*expected[0], *expected[1].values()), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert model.bn2.num_batches_tracked == 0  # all was set back
    fast.suffix(features)
    assert model.bn2.num_batches_tracked == 1


def test_what_is_replayed_cannot_be_compiled():
    with pytest.raises(InputError, match=r"torch\.fx cannot trace it"):
        split(small(Branching), "between", pictures()).compiled()


@TRACE
def test_a_cut_that_is_skipped_in_training_is_told(trace):
    class Skipping(Small):
        def forward(self, images):
            features = self.bn1(self.conv1(images))
            if not self.training:
                features = self.between(features)
            return self.fc(self.bn2(self.conv2(features)).mean((2, 3)))

    model, images = small(Skipping), pictures()
    found = split(model, "between", images, trace=trace)
    assert found.graph is None
    features = found.prefix(images)
    hooks = marks(model)[1]
    model.train()
    for part in (lambda: found.prefix(images), lambda: found.suffix(features)):
        with pytest.raises(InputError, match="The model no longer passes 'between'"):
            part()
    assert marks(model)[1] == hooks
    assert "forward" not in vars(model.conv1)


# The prefix is computed once


@TRACE
def test_the_prefix_runs_once_however_often_the_suffix_does(trace, monkeypatch):
    calls = []
    plain = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: (calls.append(self), plain(self, x))[1])
    model, images = build("torchvision:resnet18"), pictures()
    found = split(model, "layer2.0", images, trace=trace)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    before = convs[:8]  # the stem, two blocks, and a block with its shortcut
    assert before[-1] is model.layer2[0].downsample[0]
    calls.clear()
    features = found.prefix(images)
    assert set(calls) == set(before)
    assert len(calls) == 8
    calls.clear()
    for _ in range(3):
        found.suffix(features)
    assert len(calls) == 3 * (len(convs) - 8)
    assert set(calls) == set(convs) - set(before)


def test_a_replay_does_not_move_the_prefixs_statistics_again():
    model, images = build("torchvision:resnet18").train(), pictures()
    found = split(model, "layer2.0", images, trace=False)
    features = found.prefix(images)
    assert model.bn1.num_batches_tracked == model.layer2[0].bn2.num_batches_tracked == 1
    for _ in range(3):
        found.suffix(features)
    assert model.bn1.num_batches_tracked == model.layer2[0].bn2.num_batches_tracked == 1
    assert model.layer2[1].bn1.num_batches_tracked == model.layer4[1].bn2.num_batches_tracked == 3


def test_a_replay_forgets_what_is_within_a_block_that_has_ended():
    model, images = build("torchvision:resnet18"), pictures()
    found = split(model, "layer3.0", images, trace=False)
    record = found._build.keywords["record"]
    assert sorted(record.outputs) == ["bn1", "conv1", "layer1", "layer2", "maxpool", "relu"]
    with torch.no_grad():
        found.prefix(pictures(2, seed=9))
    assert record.outputs["layer2"][0].shape == (2, 128, 4, 4)


# Left as found


def marks(model):
    """Return everything about a model but its weights that a reading could leave changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        [(name, module.training, set(vars(module))) for name, module in model.named_modules()],
        [[len(getattr(module, kind)) for kind in hooks] for module in model.modules()],
        [(name, p.requires_grad, p.grad is None) for name, p in model.named_parameters()],
    )


@TRACE
def test_a_model_is_left_as_found(trace):
    model, images = build("torchvision:resnet18").train(), pictures()
    model.layer1.eval()
    model.layer3[0].bn1.eval()
    model.conv1.weight.requires_grad_(False)
    before, state, generator, python = marks(model), snapshot(model), torch.get_rng_state(), random.getstate()
    find_cuts(model, images)
    found = split(model, "layer2", images, trace=trace)
    features = found.prefix(images)
    assert marks(model) == before
    model.eval()
    found.suffix(features)
    model.train()
    model.layer1.eval()
    model.layer3[0].bn1.eval()
    assert marks(model) == before
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, state[name])]
    assert {name.partition(".")[0] for name in moved} == {"bn1", "layer2"}  # by the one prefix in training mode
    assert torch.equal(torch.get_rng_state(), generator)
    assert random.getstate() == python


class Failing(Branching):
    """Raises on images brighter than one, before the cut or behind it."""

    def __init__(self, when):
        super().__init__()
        self.when = when

    def forward(self, images):
        features = self.bn1(self.conv1(images))
        if self.when == "before" and images.max() > 1:
            raise KeyError("bright")
        features = self.between(features)
        if self.when == "behind" and features.abs().max() > 100:
            raise KeyError("bright")
        return self.fc(self.bn2(self.conv2(features)).mean((2, 3)))


def test_a_model_that_raises_is_left_as_found():
    images = pictures()
    for when in ("before", "behind"):
        model = small(Failing, when)
        model.bn1.forward = model.bn1.forward  # a patch of the user's
        before = marks(model)
        own = model.bn1.forward
        found = split(model, "between", images)
        if when == "before":
            with pytest.raises(KeyError, match="bright"):
                found.prefix(images * 1000)
            with pytest.raises(KeyError, match="bright"):
                find_cuts(model, images * 1000)
        else:
            with pytest.raises(KeyError, match="bright"):
                found.suffix(found.prefix(images) * 1000)
            with pytest.raises(KeyError, match="bright"):
                split(model, "between", images * 1000)
        assert marks(model) == before
        assert model.bn1.forward is own
        assert torch.equal(found.suffix(found.prefix(images)), model(images))


def test_images_are_left_as_found():
    class Greedy(Small):
        def forward(self, images):
            return super().forward(images.mul_(0.5))

    images = pictures()
    kept = images.clone()
    for trace in (True, False):
        split(small(Greedy), "between", images, trace=trace)
        assert torch.equal(images, kept)
        assert not images.requires_grad


def test_within_inference_mode():
    model, images = small(), pictures()
    with torch.inference_mode():
        held = pictures()
        found = split(model, "between", held)
        assert torch.equal(found.suffix(found.prefix(held)), model(held))
    assert torch.equal(found.suffix(found.prefix(images)), model(images))


# Where the cuts are


def names_of(model, side=64):
    return [cut.name for cut in find_cuts(model, pictures(2, side))]


def test_cuts_of_a_resnet():
    model = build("torchvision:resnet50")
    cuts = {cut.name: cut for cut in find_cuts(model, pictures(1, 64))}
    blocks = [f"layer{stage}.{block}" for stage, count in ((1, 3), (2, 4), (3, 6), (4, 3)) for block in range(count)]
    ends = {"layer1.2": "layer1", "layer2.3": "layer2", "layer3.5": "layer3"}
    assert list(cuts) == ["bn1", "relu", "maxpool", *(ends.get(block, block) for block in blocks[:-1])]
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert cuts["layer2"] == Cut(
        "layer2", ("layer2.3", "conv3_4"), (512, 8, 8), True, tuple(norms[:24]), tuple(norms[24:])
    )
    assert cuts["bn1"] == Cut("bn1", (), (64, 32, 32), False, ("bn1",), tuple(norms[1:]))
    assert [name for name, cut in cuts.items() if not cut.rectified] == ["bn1"]


@pytest.mark.parametrize(
    ("spec", "published"),
    [
        (
            "torchvision:resnet50",
            {"conv2_3": "layer1", "conv3_4": "layer2", "conv4_6": "layer3", "conv3_2": "layer2.1"},
        ),
        ("torchvision:resnet18", {"conv2_2": "layer1", "conv3_2": "layer2", "conv4_1": "layer3.0"}),
    ],
)
def test_names_of_the_papers(spec, published):
    model, images = build(spec), pictures(1, 64)
    for alias, name in published.items():
        assert find_cut(model, alias, images) == find_cut(model, name, images)
        assert find_cut(model, alias, images).name == name
        assert alias in find_cut(model, name, images).aliases


def test_cuts_between_the_parts_of_a_densenet():
    names = names_of(build("torchvision:densenet121"))
    assert [name for name in names if "denselayer" in name] == []
    assert [name for name in names if name.count(".") == 1] == [
        *(f"features.{name}" for name in ("norm0", "relu0", "pool0", "denseblock1", "transition1", "denseblock2")),
        *(f"features.{name}" for name in ("transition2", "denseblock3", "transition3", "denseblock4")),
    ]


@pytest.mark.parametrize(
    ("spec", "some", "none"),
    [
        ("torchvision:mobilenet_v2", ["features.0", "features.4.conv.1"], ["features.4.conv.2", "features.4.conv.0.0"]),
        ("torchvision:googlenet", ["conv1", "maxpool1", "inception3a", "inception4e"], ["conv1.bn", "conv3.conv"]),
        ("timm:regnety_002", ["stem", "s1", "s4.b6"], []),
        ("timm:densenet121", ["features.norm0", "features.pool0"], ["features.denseblock1", "features.transition1"]),
        ("timm:efficientnet_b0", [], ["bn1", "blocks.1.0.conv_pw", "blocks.3"]),
    ],
)
def test_a_cut_is_rectified_where_its_output_cannot_be_negative(spec, some, none):
    model, images = build(spec), pictures(2, 64) * 8 - 4
    least = {}

    def watch(name, module, inputs, output):
        least[name] = float(output.detach().min())

    handles = [module.register_forward_hook(partial(watch, name)) for name, module in model.named_modules()]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    cuts = find_cuts(model, images)
    assert [cut.name for cut in cuts if cut.rectified and least[cut.name] < 0] == []
    rectified = {cut.name: cut.rectified for cut in cuts}
    assert [rectified[name] for name in (*some, *none)] == [True] * len(some) + [False] * len(none)


def test_what_a_hardtanh_lets_through_may_be_negative():
    for low, rectified in ((-1.0, False), (0.0, True), (0.1, True)):
        (_, cut, _) = find_cuts(small(Small, nn.Hardtanh(low, 1.0)), pictures())
        assert (cut.name, cut.rectified) == ("between", rectified)


def test_concatenated_activations_are_rectified():
    class Both(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.act = act

        def forward(self, features):
            left, right = features.chunk(2, 1)
            return torch.cat([F.relu(left), self.act(right)], 1)

    for act, rectified in ((nn.ReLU(), True), (nn.Tanh(), False)):
        assert find_cut(small(Small, Both(act)), "between", pictures()).rectified is rectified


def test_a_module_that_puts_out_half_is_no_cut():
    class Half(nn.Module):
        def forward(self, features):
            left, self.right = features.chunk(2, 1)
            return left

    class Halved(Small):
        def forward(self, images):
            left = self.between(self.bn1(self.conv1(images)))
            features = torch.cat([left, self.between.right], 1)
            return self.fc(self.bn2(self.conv2(features)).mean((2, 3)))

    model = small(Halved, Half())
    assert names_of(model) == ["bn1", "conv2"]
    with pytest.raises(InputError, match="'between': what is made of the output of bn1 crosses the cut"):
        find_cut(model, "between", pictures())


def test_paths_beyond_any_float_are_counted():
    class Deep(nn.Module):
        """Doubles the paths at each step: 2^2100 of them pass each half."""

        def __init__(self):
            super().__init__()
            self.conv1, self.bn1, self.bn2 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.middle, self.side = nn.Identity(), nn.ReLU()

        def forward(self, images):
            features = self.bn1(self.conv1(images))
            for _ in range(1050):
                features = (features + features) / 2
            features = self.middle(features * 1)
            for _ in range(1050):
                features = (features + features) / 2
            return (self.bn2(features) + 1e-9 * self.side(features)).mean((2, 3))

    assert names_of(small(Deep), 2) == ["bn1", "middle"]


def test_deep_models_are_read_without_recursion():
    class Long(Small):
        def forward(self, images):
            features = self.bn1(self.conv1(images))
            for _ in range(3000):
                features = features + 0.001
            return self.fc(self.bn2(self.conv2(self.between(features))).mean((2, 3)))

    assert names_of(small(Long), 4) == ["bn1", "between", "conv2"]


def test_nothing_of_the_reading_is_kept():
    class Watched(nn.Module):
        def forward(self, features):
            kept.append(features * 1)
            return kept[-1] * 1

    kept = []
    model = small(Small, Watched())
    cuts = find_cuts(model, pictures())
    held = weakref.ref(kept.pop())
    gc.collect()
    assert held() is None
    assert len(cuts) == 3


# Refusals


def test_a_skip_connection_that_crosses_is_named_with_the_nearest_cuts():
    images = pictures(1, 64)
    model = build("torchvision:resnet50")
    with pytest.raises(InputError) as told:
        find_cut(model, "layer2.1.bn2", images)
    assert str(told.value) == (
        "Cannot cut after 'layer2.1.bn2': the output of layer2.0 crosses the cut. "
        "The nearest that work: layer2.0, layer2.1."
    )
    with pytest.raises(InputError) as told:
        find_cut(model, "layer2.0.bn3", images)
    assert str(told.value) == (
        "Cannot cut after 'layer2.0.bn3': the output of layer2.0.downsample crosses the cut. "
        "The nearest that work: layer1, layer2.0."
    )
    with pytest.raises(InputError, match=r"'layer3\.2\.relu': it runs 3 times in one forward pass\. The nearest that"):
        split(model, "layer3.2.relu", images)
    with pytest.raises(InputError) as told:
        find_cut(build("torchvision:densenet121"), "features.denseblock2.denselayer2", images)
    assert str(told.value) == (
        "Cannot cut after 'features.denseblock2.denselayer2': the output of features.transition1 and "
        "the output of features.denseblock2.denselayer1 cross the cut. "
        "The nearest that work: features.transition1, features.denseblock2."
    )


def test_a_skip_connection_of_no_module_is_told_by_what_it_is_made_of():
    class Skipping(Small):
        def forward(self, images):
            features = self.between(self.bn1(self.conv1(images)))
            side = torch.tanh(features)
            direct = images[:, :1]
            features = self.bn2(self.conv2(features))
            return self.fc((features + side.mean(1, keepdim=True) + direct).mean((2, 3)))

    with pytest.raises(
        InputError, match="'conv2': what is made of the output of between and what is made of the image cross the"
    ):
        find_cut(small(Skipping), "conv2", pictures())
    with pytest.raises(InputError, match="'between': what is made of the image crosses"):
        find_cut(small(Skipping), "between", pictures())


def test_an_unknown_layer():
    with pytest.raises(InputError, match=r"Unknown layer 'layr2'\. Did you mean 'layer2'\? Choose from: bn1, relu, .*"):
        split(build("torchvision:resnet18"), "layr2", pictures())
    with pytest.raises(InputError, match=r"Unknown layer 'conv3_3'\. Did you mean 'conv3_\d'\?"):
        find_cut(build("torchvision:resnet18"), "conv3_3", pictures())


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("conv1", r"'conv1': it lies before the first batch norm\. The nearest that work: bn1\."),
        ("layer4", r"'layer4': it lies after the last batch norm, .* The nearest that work: layer4\.0\."),
        ("fc", "it lies after the last batch norm"),
    ],
)
def test_a_cut_that_leaves_one_part_without_norms(at, told):
    with pytest.raises(InputError, match=told):
        split(build("torchvision:resnet18"), at, pictures())


def test_behind_the_last_norm_that_runs():
    model = build("torchvision:googlenet")  # its auxiliary heads have norms that do not run
    with pytest.raises(InputError, match=r"'inception5b': it lies after the last batch norm"):
        find_cut(model, "inception5b", pictures(1, 64))
    with pytest.raises(InputError, match=r"'aux1\.conv': no image passes it\. Cuts that work: conv1\.bn, conv1,"):
        find_cut(model, "aux1.conv", pictures(1, 64))


def test_a_part_of_a_norm():
    model = build("timm:efficientnet_b0")
    with pytest.raises(InputError, match=r"'bn1\.act': it is a part of the norm bn1\. Cuts that .* \(\d+ in all\)\."):
        find_cut(model, "bn1.act", pictures())


def test_layers_that_put_out_no_feature_map():
    class Odd(Small):
        def __init__(self):
            super().__init__()
            self.pair = nn.MultiheadAttention(4, 2, batch_first=True)
            self.flat, self.last, self.idle = nn.Flatten(), nn.BatchNorm1d(3), nn.Identity()

        def forward(self, images):
            features = self.between(self.bn1(self.conv1(images)))
            tokens, _ = self.pair(*[features.flatten(2).transpose(1, 2)] * 3)
            features = tokens.transpose(1, 2).unflatten(2, features.shape[2:])
            features = self.bn2(self.conv2(features))
            self.idle(features.detach())
            return self.last(self.fc(self.flat(features.mean((2, 3)))))

    model, images = small(Odd), pictures(side=8)
    with pytest.raises(InputError, match=r"'pair': it returns tuple, not one tensor"):
        find_cut(model, "pair", images)
    with pytest.raises(InputError, match=r"'flat': its output has shape \(4, 5\), not \(B,C,H,W\)"):
        find_cut(model, "flat", images)
    with pytest.raises(InputError, match=r"'idle': what it returns does not lead from the image to the logits"):
        find_cut(model, "idle", images)
    assert names_of(model, 8) == ["bn1", "between", "conv2", "bn2"]


def test_a_model_without_batch_norm_may_be_cut_at_the_input():
    images = pictures(2, 64)
    model = torchvision.models.convnext_tiny(num_classes=3).eval()
    found = split(model, "input", images)
    with torch.no_grad():
        torch.testing.assert_close(found.suffix(found.prefix(images)), model(images))


def test_models_without_batch_norm_are_cut_wherever_all_of_the_image_passes():
    images = pictures(2, 64)
    model = build("timm:convnext_atto")
    names = {name for cut in find_cuts(model, images) for name in (cut.name, *cut.aliases)}
    assert {"stem", "stages.0", "stages.1.blocks.0", "stages.3"} <= names
    assert "stages.1.blocks.0.mlp" not in names  # the shortcut passes it by
    found = split(model, "stages.1", images)
    assert (found.cut.norms_before, found.cut.norms_after) == ((), ())
    with torch.no_grad():
        torch.testing.assert_close(found.suffix(found.prefix(images)), model(images))


def test_nothing_lies_behind_the_last_layer_of_a_model_without_batch_norm():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1)).eval()
    assert [(cut.name, cut.rectified) for cut in find_cuts(model, pictures())] == [("0", False), ("1", True)]
    with pytest.raises(InputError, match="Cannot cut after '2': nothing lies behind it"):
        split(model, "2", pictures())


def test_the_first_relu_of_each_stage_of_a_vgg_goes_by_its_papers_name():
    model = torchvision.models.vgg19(num_classes=3).eval()
    places = {alias: cut for cut in find_cuts(model, pictures(1, 32)) for alias in cut.aliases}
    firsts = [places[f"relu{stage}_1"] for stage in range(1, 6)]
    assert [cut.name for cut in firsts] == [f"features.{place}" for place in (1, 6, 11, 20, 29)]
    assert [cut.shape[0] for cut in firsts] == [64, 128, 256, 512, 512]
    assert all(cut.rectified for cut in firsts)
    assert places["relu3_4"].name == "features.17"
    found, images = split(model, "relu4_1", pictures(1, 32)), pictures(1, 32)
    with torch.no_grad():
        assert torch.equal(found.suffix(found.prefix(images)), model(images))
        assert torch.equal(found.prefix(images), model.features[:21](images))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_model_that_gradients_cannot_pass_is_refused(frozen):
    class Detached(Small):
        def forward(self, images):
            return super().forward(images.detach())

    with pytest.raises(InputError, match="its logits do not depend on the image in a way torch can see"):
        find_cuts(small(Detached).requires_grad_(not frozen), pictures())


def test_a_path_that_torch_cannot_see_is_refused_or_followed():
    class Hidden(Small):
        """Its prefix and its suffix both look at the image; the latter where no gradient goes."""

        def forward(self, images):
            mask = images.mean((1, 2, 3)).detach()
            features = self.between(self.bn1(self.conv1(images)))
            return self.fc(self.bn2(self.conv2(features)).mean((2, 3)) * mask[:, None])

    model, images = small(Hidden), pictures()
    found = split(model, "between", images)
    assert found.graph is None  # torch.fx sees the image cross; a replay has it
    assert torch.equal(found.suffix(found.prefix(images)), model(images))


def test_parts_that_are_not_the_model_are_refused():
    class Moody(Small):
        """Never gives the same twice."""

        def forward(self, images):
            return super().forward(images) + torch.rand(len(images), 1)

    with pytest.raises(InputError, match="'between': the two parts give other logits than the model"):
        split(small(Moody), "between", pictures())


def test_images_that_the_model_cannot_take():
    with pytest.raises(InputError, match=r"The model fails on images of shape \(4, 1, 8, 8\)"):
        find_cuts(small(), torch.rand(4, 1, 8, 8))
