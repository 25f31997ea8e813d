"""The zoo of 32 px networks: published sizes, networks of other libraries, and how they begin."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from statshift._core.errors import InputError
from statshift.models import NORMS, load_model
from statshift.models.cifar import ZOO
from statshift.models.exchange import count_groups
from statshift.models.residual import CifarResNet
from statshift.models.residual_blocks import ResidualBlock
from statshift.models.wide import WideBlock

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "wrn28_10": {"depth": 10, "widen": 2},
    "resnext29": {"cardinality": 4, "base_width": 8},
    "densenet": {"depth": 22},
}
"""Arguments for a network of the same kind that takes no time; all others are narrowed."""

PLAIN_NAMES = [name for name in ZOO if name.startswith("vgg")]
RESIDUAL_NAMES = [name for name in ZOO if name.startswith(("res", "wrn"))]
FIXUP_NAMES = [name for name in RESIDUAL_NAMES if name.startswith("resnet")]


def small(name, **arguments):
    return ZOO[name](**{**SMALL.get(name, {"width": 0.25}), **arguments})


def seeded(name, **arguments):
    torch.manual_seed(0)
    return small(name, **arguments)


def images(count=2, seed=0, dtype=torch.float32):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def settled(network):
    """Return a network in float64 and evaluation mode, its norms with statistics and affine terms of their own."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
    return network.double().eval()


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


# Sizes


@pytest.mark.parametrize(
    ("name", "arguments", "millions"),
    [
        ("resnet20", {}, "0.27"),  # He et al. (CVPR 2016), table 6
        ("resnet32", {}, "0.46"),
        ("resnet44", {}, "0.66"),
        ("resnet56", {}, "0.85"),
        ("resnet110", {}, "1.7"),
        ("wrn28_10", {}, "36.5"),  # Zagoruyko & Komodakis (BMVC 2016), table 4
        ("wrn28_10", {"depth": 40, "widen": 4}, "8.9"),
        ("wrn28_10", {"depth": 16, "widen": 8}, "11.0"),
        ("resnext29", {}, "34.4"),  # Xie et al. (CVPR 2017), table 7
        ("densenet", {}, "0.8"),  # Huang et al. (CVPR 2017), table 2
        ("densenet", {"depth": 250, "growth": 24}, "15.3"),
        ("vgg16", {}, "14.7"),
    ],
)
def test_published_sizes(name, arguments, millions):
    with torch.device("meta"):
        found = parameters(ZOO[name](**arguments)) / 1e6
    assert f"{found:.{len(millions.partition('.')[2])}f}" == millions


@pytest.mark.parametrize("name", ZOO)
def test_width_scales_the_parameters_quadratically(name):
    with torch.device("meta"):
        one, two, four = (parameters(ZOO[name](width=width)) for width in (1, 2, 4))
    assert two / one == pytest.approx(4, rel=0.05)
    assert four / two == pytest.approx(4, rel=0.03)
    assert one < two


def test_channels_are_rounded_to_even_numbers():
    network = CifarResNet(width=0.3)
    assert [layer[0].conv1.out_channels for layer in (network.layer1, network.layer2, network.layer3)] == [4, 10, 20]
    assert CifarResNet(width=0.01).conv1.out_channels == 2


# Beside other libraries' networks


def with_small_stem(network):
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_are_torchvision_s_with_a_small_stem(name):
    from torchvision.models import get_model

    theirs = settled(with_small_stem(get_model(name, weights=None, num_classes=7)))
    ours = ZOO[name](num_classes=7).double().eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(images(dtype=torch.float64)), theirs(images(dtype=torch.float64)))


def test_resnext_is_torchvision_s_with_three_stages():
    from torchvision.models.resnet import Bottleneck, ResNet

    theirs = with_small_stem(ResNet(Bottleneck, [3, 3, 3, 1], num_classes=7, groups=4, width_per_group=8))
    theirs.layer4, theirs.fc = nn.Identity(), nn.Linear(1024, 7)
    theirs = settled(theirs)
    ours = ZOO["resnext29"](num_classes=7, cardinality=4, base_width=8).double().eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(images(dtype=torch.float64)), theirs(images(dtype=torch.float64)))


def test_densenet_is_torchvision_s_with_a_small_stem():
    from torchvision.models.densenet import DenseNet

    theirs = DenseNet(12, (3, 3, 3), 24, num_classes=7)
    theirs.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    theirs.features.norm0 = theirs.features.relu0 = theirs.features.pool0 = nn.Identity()
    theirs = settled(theirs)
    ours = ZOO["densenet"](num_classes=7, depth=22).double().eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(images(dtype=torch.float64)), theirs(images(dtype=torch.float64)))


@pytest.mark.parametrize("depth", [11, 16, 19])
def test_vgg_features_are_torchvision_s(depth):
    from torchvision.models import get_model

    theirs = settled(get_model(f"vgg{depth}_bn", weights=None).features)
    ours = ZOO[f"vgg{depth}"](num_classes=7).double().eval()
    assert list(ours.features.state_dict()) == list(theirs.state_dict())
    ours.features.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        features = theirs(images(dtype=torch.float64))
        assert features.shape == (2, 512, 1, 1)
        logits = F.linear(features.flatten(1), ours.classifier.weight, ours.classifier.bias)
        torch.testing.assert_close(ours(images(dtype=torch.float64)), logits)
    for norm in NORMS:  # the places stay, whatever the norm
        keys = {key for key in small(f"vgg{depth}", norm=norm).state_dict() if key.endswith("weight")}
        assert {key for key in keys if key != "classifier.weight"} == {
            f"features.{name}.weight"
            for name, module in theirs.named_modules()
            if isinstance(module, nn.Conv2d) or (norm != "none" and isinstance(module, nn.BatchNorm2d))
        }


def test_wide_resnet_by_hand():
    network = settled(ZOO["wrn28_10"](num_classes=7, depth=16, widen=2))
    state = network.state_dict()

    def norm(features, name):
        values = (state[f"{name}.{term}"] for term in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(features, *values))

    features = F.conv2d(images(dtype=torch.float64), state["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for number in (0, 1):
            at, stride = f"block{stage}.layer.{number}", 2 if stage > 1 and number == 0 else 1
            active = norm(features, f"{at}.bn1")
            branch = F.conv2d(active, state[f"{at}.conv1.weight"], stride=stride, padding=1)
            branch = F.conv2d(norm(branch, f"{at}.bn2"), state[f"{at}.conv2.weight"], padding=1)
            if number == 0:
                features = F.conv2d(active, state[f"{at}.convShortcut.weight"], stride=stride)
            features = features + branch
    pooled = norm(features, "bn1").mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(
            network(images(dtype=torch.float64)), F.linear(pooled, state["fc.weight"], state["fc.bias"])
        )
    assert not any("convShortcut" in name and ".1." in name for name in state)


def test_the_common_resnet20_loads_and_is_composed_by_hand(shared):
    network = load_model("cifar:resnet", weights=shared / "data/cifar10_resnet20.th").network.double()
    state = network.state_dict()

    def convolved(features, at, number, stride=1):
        features = F.conv2d(features, state[f"{at}conv{number}.weight"], stride=stride, padding=1)
        names = (f"{at}bn{number}.{term}" for term in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(features, *(state[name] for name in names))

    features = F.relu(convolved(images(dtype=torch.float64), "", 1))
    for stage in (1, 2, 3):
        for number in range(3):
            at, stride = f"layer{stage}.{number}.", 2 if stage > 1 and number == 0 else 1
            branch = convolved(F.relu(convolved(features, at, 1, stride)), at, 2)
            added = (branch.shape[1] - features.shape[1]) // 2
            features = F.relu(branch + F.pad(features[..., ::stride, ::stride], (0, 0, 0, 0, added, added)))
    logits = F.linear(features.mean((2, 3)), state["linear.weight"], state["linear.bias"])
    with torch.no_grad():
        torch.testing.assert_close(network(images(dtype=torch.float64)), logits)


# Every one


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ZOO)
def test_shapes_traces_and_memory_formats(name, norm):
    torch.manual_seed(0)
    network = small(name, num_classes=7, norm=norm, activation="leaky_relu").eval()
    assert network.num_classes == 7
    with torch.no_grad():
        logits = network(images())
        assert logits.shape == (2, 7)
        traced = fx.symbolic_trace(network)
        assert torch.equal(traced(images()), logits)
        assert len([node for node in traced.graph.nodes if node.op == "placeholder"]) == 1
        last = network.to(memory_format=torch.channels_last)(images().to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, logits, rtol=1e-4, atol=1e-4)


KINDS = {
    "none": nn.Identity,
    "batch": nn.BatchNorm2d,
    "instance": nn.InstanceNorm2d,
    "layer": nn.GroupNorm,
    "group": nn.GroupNorm,
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["resnet20", "resnet50", "wrn28_10", "resnext29", "densenet", "vgg11"])
def test_norms_have_the_names_and_places_of_batch_norm(name, norm):
    reference = {at: one for at, one in small(name).named_modules() if isinstance(one, nn.BatchNorm2d)}
    network = small(name, norm=norm)
    found = {at: one for at, one in network.named_modules() if isinstance(one, KINDS[norm])}
    assert found.keys() == reference.keys()
    if norm in ("layer", "group"):
        expected = {at: 1 if norm == "layer" else count_groups(one.num_features) for at, one in reference.items()}
        assert {at: one.num_groups for at, one in found.items()} == expected
    if name != "vgg11":
        biases = {one.bias is not None for one in network.modules() if isinstance(one, nn.Conv2d)}
        assert biases == {norm == "none"}


@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", F.relu), ("leaky_relu", partial(F.leaky_relu, negative_slope=0.01)), ("selu", F.selu)],
)
def test_activations(activation, function):
    network = CifarResNet(8, norm="none", activation=activation)
    features = torch.randn(2, 16, 4, 4)
    block = network.layer1[0]
    branch = block.conv2(function(block.conv1(features)))
    torch.testing.assert_close(block(features), function(branch + features))


# How they begin


@pytest.mark.parametrize("name", [name for name in ZOO if name not in ("resnet", "vgg19", "resnet32", "resnet44")])
@pytest.mark.parametrize("activation", ["relu", "selu"])
def test_without_norms_logits_begin_at_a_moderate_scale(name, activation):
    torch.manual_seed(0)
    narrow = {"resnet110": 1, "resnet20": 1, "resnet56": 1}.get(name, 0.5)
    network = ZOO[name](**{**SMALL.get(name, {"width": narrow}), "norm": "none", "activation": activation})
    with torch.no_grad():
        logits = network(images(4))
    assert torch.isfinite(logits).all()
    assert 1e-3 < logits.abs().max() < 15


def test_convolutions_begin_as_in_he_et_al():
    torch.manual_seed(0)
    for name, fan in (("vgg11", "fan_out"), ("resnet18", "fan_out"), ("resnext29", "fan_out"), ("densenet", "fan_in")):
        network = ZOO[name]()
        for conv in (one for one in network.modules() if isinstance(one, nn.Conv2d) and one.weight.numel() > 20_000):
            count = conv.out_channels if fan == "fan_out" else conv.in_channels // conv.groups
            expected = np.sqrt(2 / (count * conv.kernel_size[0] ** 2))
            assert float(conv.weight.detach().std()) == pytest.approx(expected, rel=0.03)
            assert conv.bias is None or not conv.bias.any()


@pytest.mark.parametrize("name", ["resnet110", "resnet18", "resnet50", "resnext29", "wrn28_10"])
def test_without_norms_the_last_convolution_of_a_branch_is_scaled(name):
    network, unscaled = (seeded(name, norm=norm) for norm in ("none", "batch"))
    kinds = (ResidualBlock, WideBlock)
    blocks = [(at, one) for at, one in network.named_modules() if isinstance(one, kinds)]
    last = {f"{at}.conv{2 if isinstance(one, WideBlock) else one.depth}" for at, one in blocks}
    assert len(last) == len(blocks) > 2
    for at, conv in network.named_modules():
        if isinstance(conv, nn.Conv2d):
            ratio = float(conv.weight.detach().std() / unscaled.get_submodule(at).weight.detach().std())
            assert ratio == pytest.approx(
                1 / np.sqrt(len(blocks)) if at in last else 1, rel=8 / np.sqrt(conv.weight.numel())
            )


def test_without_norms_the_scale_does_not_grow_with_depth():
    largest = []
    for depth in (20, 110):
        torch.manual_seed(0)
        with torch.no_grad():
            largest.append(float(CifarResNet(depth, norm="none")(images(8)).abs().max()))
    assert largest[1] < 4 * largest[0]


# Without shortcuts


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet50", "resnext29", "wrn28_10"])
def test_without_shortcuts_a_network_is_the_composition_of_its_branches(name):
    torch.manual_seed(0)
    network = settled(small(name, shortcut=False))
    assert not any("downsample" in key or "convShortcut" in key for key in network.state_dict())
    sequence = []
    for module in network.modules():  # the order of the modules is the order of execution
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            sequence.append(module)
    features = images(dtype=torch.float64)
    if name == "wrn28_10":  # norm, activation, convolution
        blocks = [one for one in network.modules() if isinstance(one, WideBlock)]
        features = network.conv1(features)
        for block in blocks:
            features = block.conv2(block.bn2(block.conv1(block.bn1(features).relu())).relu())
        features = network.bn1(features).relu()
    else:
        for module in sequence:
            features = module(features)
            if isinstance(module, nn.BatchNorm2d):
                features = features.relu()
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        torch.testing.assert_close(network(images(dtype=torch.float64)), head(features.mean((2, 3))))


# Fixup


@pytest.mark.parametrize("name", FIXUP_NAMES)
@pytest.mark.parametrize("norm", [{}, {"norm": "none"}])
def test_fixup_begins_with_zero_logits_and_branches(name, norm):
    torch.manual_seed(0)
    network = small(name, fixup=True, **norm)
    added = []
    blocks = [one for one in network.modules() if isinstance(one, ResidualBlock)]
    for block in blocks:
        shape = (2, block.conv1.in_channels, 8, 8)
        added.append(float(block.branch(torch.randn(shape)).detach().abs().max()))
    assert added == [0.0] * len(blocks)
    assert torch.equal(network(images()), torch.zeros(2, 10))
    assert not any(isinstance(one, nn.BatchNorm2d | nn.GroupNorm) for one in network.modules())
    assert all(one.bias is None for one in network.modules() if isinstance(one, nn.Conv2d))


@pytest.mark.parametrize(("name", "power"), [("resnet20", -1 / 2), ("resnet110", -1 / 2), ("resnet50", -1 / 4)])
def test_fixup_scales_the_convolutions_of_a_branch(name, power):
    torch.manual_seed(0)
    network = ZOO[name](fixup=True)
    blocks = [one for one in network.modules() if isinstance(one, ResidualBlock)]
    for block in blocks:
        for conv in block.convs[:-1]:
            count = conv.out_channels if name == "resnet50" else conv.in_channels
            expected = np.sqrt(2 / (count * conv.kernel_size[0] ** 2)) * len(blocks) ** power
            assert float(conv.weight.detach().std()) == pytest.approx(expected, rel=5 / np.sqrt(conv.weight.numel()))
    scales = [value for key, value in network.named_parameters() if key.endswith(".scale")]
    assert len(scales) == len(blocks)  # one multiplier for each branch
    assert all(torch.equal(value, torch.ones(1)) for value in scales)


@pytest.mark.parametrize("name", ["resnet20", "resnet50"])
def test_a_fixup_block_by_hand(name):
    """Scalars stand before and behind each convolution, the multiplier at the last."""
    torch.manual_seed(0)
    network = small(name, fixup=True).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.5)
    block = network.layer2[0]
    own = dict(block.named_parameters())
    features = torch.rand(2, block.conv1.in_channels, 8, 8, dtype=torch.float64)
    found, branch = block(features), features
    for number in range(1, block.depth + 1):
        conv = block.convs[number - 1]
        branch = F.conv2d(branch + own[f"shift{number}.bias"], conv.weight, None, conv.stride, conv.padding)
        branch = branch * own.get(f"bn{number}.scale", 1) + own[f"bn{number}.bias"]
        if number < block.depth:
            branch = branch.relu()
    if name == "resnet50":
        shifted = features + own["downsample.0.bias"]
        shortcut = F.conv2d(shifted, block.downsample[1].weight, None, 2)
    else:
        added = (branch.shape[1] - features.shape[1]) // 2
        shortcut = F.pad(features[..., ::2, ::2], (0, 0, 0, 0, added, added))
    torch.testing.assert_close(found, (branch + shortcut).relu())


def test_fixup_learns_from_zero():
    torch.manual_seed(0)
    network = CifarResNet(fixup=True, width=0.5)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    losses = []
    for step in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images(8)), torch.arange(8))
        loss.backward()
        if step == 0:  # even probabilities, and nothing passes the classifier's zeros
            torch.testing.assert_close(network.linear.bias.grad, torch.tensor([0.1 - 1 / 8] * 8 + [0.1] * 2))
            moved = {name for name, value in network.named_parameters() if value.grad.any()}
            assert moved == {"linear.weight", "linear.bias"}
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(np.log(10))
    assert losses[-1] < 2.2
    assert all(block.conv2.weight.any() for block in network.modules() if isinstance(block, ResidualBlock))


# Refusals


def test_model_arguments_go_through_load_model():
    model = load_model("cifar:vgg16", model_args={"norm": "group", "width": 0.25})
    assert sum(isinstance(one, nn.GroupNorm) for one in model.network.modules()) == 13
    assert load_model("cifar:resnet", model_args={"depth": 26}).network.layer1[3].conv1.in_channels == 16


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        (
            "vgg16",
            {"norm": "grup"},
            "Unknown norm 'grup'. Did you mean 'group'? Choose from: none, batch, instance, layer, group.",
        ),
        (
            "vgg16",
            {"norm": None},
            "Unknown norm None. Did you mean 'none'? Choose from: none, batch, instance, layer, group.",
        ),
        (
            "densenet",
            {"activation": "gelu"},
            "Unknown activation 'gelu'. Did you mean 'selu'? Choose from: relu, leaky_relu, selu.",
        ),
        ("resnet18", {"width": 0}, "Expected `width` to be a positive number, but got 0."),
        ("resnet18", {"width": "wide"}, "Expected `width` to be a positive number, but got 'wide'."),
        ("resnet", {"depth": 21}, "Expected `depth` to be 6n+2 for a positive integer n, but got 21."),
        ("resnet", {"depth": 2}, "Expected `depth` to be 6n+2 for a positive integer n, but got 2."),
        ("wrn28_10", {"depth": 27}, "Expected `depth` to be 6n+4 for a positive integer n, but got 27."),
        ("densenet", {"depth": "deep"}, "Expected `depth` to be 6n+4 for a positive integer n, but got 'deep'."),
        ("resnext29", {"cardinality": 0}, "Expected `cardinality` to be a positive integer, but got 0."),
        ("wrn28_10", {"widen": 1.5}, "Expected `widen` to be a positive integer, but got 1.5."),
        ("vgg11", {"num_classes": 0}, "Expected `num_classes` to be a positive integer, but got 0."),
        (
            "resnet20",
            {"fixup": True, "norm": "group"},
            "Expected `norm` to be none with `fixup`, which takes its place, but got 'group'.",
        ),
        (
            "resnet18",
            {"fixup": True, "shortcut": False},
            "Expected `shortcut` with `fixup`: its branches begin at zero, and nothing would pass.",
        ),
        ("resnet18", {"fixup": "no"}, "Expected `fixup` to be True or False, but got 'no'."),
        ("wrn28_10", {"shortcut": "false"}, "Expected `shortcut` to be True or False, but got 'false'."),
    ],
)
def test_bad_arguments_are_told_in_one_line(name, arguments, told):
    with pytest.raises(InputError) as caught:
        load_model(f"cifar:{name}", model_args=arguments)
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("vgg16", "shortcut"),
        ("wrn28_10", "fixup"),
        ("resnext29", "fixup"),
        ("resnet20", "depth"),
        ("densenet", "widen"),
    ],
)
def test_arguments_that_a_network_does_not_have(name, argument):
    with pytest.raises(InputError, match=f"cifar:{name} does not take the model arguments .*{argument}") as caught:
        load_model(f"cifar:{name}", model_args={argument: True})
    assert "\n" not in str(caught.value)


def test_command_line_takes_the_arguments(run):
    done = run("layers", "--model", "cifar:resnet", "--model-args", "depth=8", "--model-args", "activation=selu")
    assert done.code == 0
    assert "layer2" in done.out
    done = run("layers", "--model", "cifar:vgg16", "--model-args", "norm=grup")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "Choose from: none, batch, instance, layer, group" in done.err
