"""IBN-Net: its norms are half instance norm and half batch norm, its names the published ones, and one half adapts."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from statshift import InputError, exchange_norm, load_model, rectify
from statshift.models.halves import IBN
from statshift.models.ibn import BLOCKS, IBN_NETS
from statshift.norms.layers import batch_norms
from statshift.splitting.branches import Branches

IMAGES = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def settled(network):
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            if "running_mean" in name:
                value.sub_(1)
    return network.eval()


def by_hand(norm, features):
    """Return what an IBN layer puts out, channel by channel and image by image."""
    found, half = torch.empty_like(features), features.shape[1] // 2
    for channel in range(features.shape[1]):
        layer, place = (norm.IN, channel) if channel < half else (norm.BN, channel - half)
        for image in range(len(features)):
            one = features[image, channel]
            mean, var = (one.mean(), one.var(unbiased=False)) if channel < half else (0, 0)
            if channel >= half:
                mean, var = norm.BN.running_mean[place], norm.BN.running_var[place]
            found[image, channel] = (one - mean) / (var + 1e-5).sqrt() * layer.weight[place] + layer.bias[place]
    return found


@pytest.mark.parametrize("channels", [2, 5, 8])
def test_a_norm_of_two_halves(channels):
    norm, features = settled(IBN(channels)), torch.randn(3, channels, 4, 5)
    torch.testing.assert_close(norm(features), by_hand(norm, features))


class TheirBlock(nn.Module):
    """A bottleneck of IBN-Net's code, from its description."""

    def __init__(self, inputs, planes, stride, ibn, inside_b):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        if ibn:
            self.bn1 = nn.Module()
            self.bn1.IN, self.bn1.BN = nn.InstanceNorm2d(planes // 2, affine=True), nn.BatchNorm2d(planes // 2)
            self.bn1.forward = lambda x: torch.cat(
                [n(h) for n, h in zip(self.bn1.children(), x.chunk(2, 1), strict=True)], 1
            )
        self.bn2, self.bn3 = nn.BatchNorm2d(planes), nn.BatchNorm2d(4 * planes)
        if inside_b:
            self.IN = nn.InstanceNorm2d(4 * planes, affine=True)
        self.downsample = None
        if stride != 1 or inputs != 4 * planes:
            conv = nn.Conv2d(inputs, 4 * planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(4 * planes))

    def forward(self, x):
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        out = self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x))
        return F.relu(self.IN(out) if hasattr(self, "IN") else out)


class TheirNetwork(nn.Module):
    def __init__(self, kind, stem=8):
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.InstanceNorm2d(stem, affine=True) if kind == "b" else nn.BatchNorm2d(stem)
        inputs = stem
        for stage, count in enumerate((3, 4, 6, 3)):
            layer, planes = nn.Sequential(), stem << stage
            for number in range(count):
                b = kind == "b" and stage < 2 and number == count - 1
                stride = 2 if stage and not number else 1
                layer.append(TheirBlock(inputs, planes, stride, kind == "a" and stage < 3, b))
                inputs = 4 * planes
            setattr(self, f"layer{stage + 1}", layer)
        self.fc = nn.Linear(inputs, 1000)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(F.avg_pool2d(self.layer4(self.layer3(self.layer2(self.layer1(x)))), 7).flatten(1))


@pytest.mark.parametrize("kind", ["a", "b"])
def test_a_published_file_gives_its_network_s_logits(kind, tmp_path):
    theirs = settled(TheirNetwork(kind))
    torch.save(theirs.state_dict(), tmp_path / "ibn.pth")
    ours = load_model(f"ibn:resnet50_ibn_{kind}", weights=tmp_path / "ibn.pth", model_args={"width": 1 / 8})
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(ours.normalise(images))
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)
    assert ours.loading_options == {"interpolation": "bilinear", "resize": 256, "crop": 224}


def test_weights_of_another_kind_are_refused(tmp_path):
    torch.save(TheirNetwork("b").state_dict(), tmp_path / "ibn.pth")
    told = r"missing: bn1\.running_mean, .*layer1\.0\.bn1\.IN\.weight.*; unexpected: "
    with pytest.raises(InputError, match=told):
        load_model("ibn:resnet50_ibn_a", weights=tmp_path / "ibn.pth", model_args={"width": 1 / 8})
    with pytest.raises(InputError, match=r"Unknown IBN-Net 'resnet50-ibn-a'\. Did you mean 'resnet50_ibn_a'"):
        load_model("ibn:resnet50-ibn-a")


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11689512), (34, 21797672), (50, 25557032), (101, 44549160)])
def test_a_has_as_many_parameters_as_torchvision_s(depth, parameters):
    with torch.device("meta"):
        networks = {kind: IBN_NETS[f"resnet{depth}_ibn_{kind}"]() for kind in "ab"}
    counts = {kind: sum(one.numel() for one in network.parameters()) for kind, network in networks.items()}
    added = 2 * (64 + 128) * (4 if depth >= 50 else 1)
    assert counts == {"a": parameters, "b": parameters + added}
    halves = [name for name, one in networks["a"].named_modules() if isinstance(one, IBN)]
    assert halves == [f"layer{s + 1}.{b}.bn1" for s in range(3) for b in range(BLOCKS[depth][s])]


def test_rectifying_changes_the_batch_norm_half_alone():
    model = load_model("ibn:resnet18_ibn_a", model_args={"width": 1 / 8, "num_classes": 10}, resize_input=False)
    settled(model.network)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    found = rectify(model, IMAGES, "replace").network.state_dict()
    changed = {name for name, value in found.items() if not torch.equal(value, before[name])}
    assert changed == {
        f"{name}.{part}" for name in batch_norms(model.network) for part in ("running_mean", "running_var")
    }
    assert "layer1.0.bn1.BN.running_mean" in changed
    assert not any(".IN." in name for name in changed)


def test_it_is_hardened_like_any_other():
    model = settled(load_model("ibn:resnet18_ibn_a", model_args={"width": 1 / 8, "num_classes": 10}).network)
    branches = Branches(model, "layer1", IMAGES)
    assert branches.splits["adv"].graph is not None  # torch.fx traces it
    features = branches.prefix(IMAGES)
    torch.testing.assert_close(branches.suffix(features, "adv"), model(IMAGES), rtol=1e-4, atol=1e-5)


# The exchange


@pytest.mark.parametrize(
    "build",
    [
        lambda: torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 2, 1, 1], width_per_group=8),
        lambda: timm.create_model("resnet10t", num_classes=10),
        lambda: load_model("cifar:resnet20").network,
    ],
    ids=["torchvision", "timm", "cifar"],
)
def test_an_exchange_keeps_each_channel_s_weights(build):
    model = settled(build())
    model.layer1[0].bn1.momentum, model.layer1[0].bn1.eps = 0.3, 1e-3
    before = model.state_dict()
    assert exchange_norm(model, "ibn-a") is model
    after, names = model.state_dict(), [name for name, one in model.named_modules() if isinstance(one, IBN)]
    stages = sum(name.startswith("layer") for name, _ in model.named_children())
    blocks = [f"layer{s}.{b}.bn1" for s in range(1, stages) for b in range(len(model.get_submodule(f"layer{s}")))]
    assert names == blocks
    for name in names:
        for part in ("weight", "bias"):
            whole = torch.cat([after[f"{name}.IN.{part}"], after[f"{name}.BN.{part}"]])
            assert torch.equal(whole, before[f"{name}.{part}"])
        half = len(after[f"{name}.IN.weight"])
        assert torch.equal(after[f"{name}.BN.running_var"], before[f"{name}.running_var"][half:])
        assert not model.get_submodule(name).training
    assert (model.layer1[0].bn1.BN.momentum, model.layer1[0].bn1.BN.eps, model.layer1[0].bn1.IN.eps) == (
        0.3,
        1e-3,
        1e-3,
    )
    assert model(IMAGES).isfinite().all()
    with pytest.raises(InputError, match="several stages with batch norms layer1"):
        exchange_norm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), "ibn-a")


def test_an_exchange_by_the_arguments_of_a_model():
    for spec in ("cifar:resnet20", "seg:resnet18", "torchvision:resnet18@none"):
        model = load_model(spec, model_args={"norm": "ibn-a"})
        assert isinstance(model.network.layer1[0].bn1, IBN)
        assert isinstance(model.network.get_submodule("layer4" if "18" in spec else "layer3")[0].bn1, nn.BatchNorm2d)
    with pytest.raises(InputError, match="Choose from: none, batch, instance, layer, group, ibn-a"):
        load_model("torchvision:resnet18@none", model_args={"norm": "ibn"})


def test_a_norm_that_is_more_is_refused_and_nothing_changed():
    model = load_model("cifar:resnet20").network
    model.layer2[1].bn1 = nn.BatchNorm2d(32, affine=False)
    names = list(model.state_dict())
    with pytest.raises(InputError, match=r"Cannot exchange the norms for 'ibn-a': layer2\.1\.bn1 is no plain"):
        exchange_norm(model, "ibn-a")
    assert list(model.state_dict()) == names
