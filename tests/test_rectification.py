"""Rectification: against torch's own modes, as identities, and leaving the model as found."""

import pytest
import timm
import torch
from torch import nn

from statshift._core.errors import InputError
from statshift.adapting.rectify import rectified, rectify
from statshift.models import load_model
from statshift.norms.layers import batch_norms
from statshift.norms.selection import select_layers
from statshift.norms.statistics import channel_statistics

pytestmark = pytest.mark.filterwarnings("ignore::statshift._core.errors.FewImagesWarning")  # images of noise are alike


def settled(network):
    """Give every batch norm some statistics of its own, as training would."""
    generator = torch.Generator().manual_seed(1)
    for layer in batch_norms(network).values():
        layer.running_mean.normal_(0, 0.2, generator=generator)
        layer.running_var.uniform_(0.5, 2, generator=generator)
    return network.double().eval()


def seeded(build):
    torch.manual_seed(0)
    return settled(build())


def volumes(images):
    return images.unflatten(-1, (4, -1))


class Volumes(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4, eps=1e-3), nn.ReLU(), nn.Flatten(2))
        self.tail = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Flatten(), nn.LazyLinear(5))
        self(torch.zeros(2, 3, 32, 32))

    def forward(self, images):
        return self.tail(self.layers(volumes(images)))


def frozen():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    )
    network(torch.zeros(2, 3, 32, 32))
    return network.requires_grad_(False)


NETWORKS = {
    "resnet20": lambda: load_model("cifar:resnet20").network,
    "BatchNormAct2d": lambda: timm.create_model("mobilenetv3_small_050", num_classes=5),
    "BatchNorm3d and 1d": Volumes,
    "frozen, momentum None": frozen,
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return seeded(NETWORKS[request.param])


@pytest.fixture
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def in_training_mode(network, images):
    """Return logits with every batch norm, and nothing else, in training mode."""
    for layer in batch_norms(network).values():
        layer.train()
    return network(images)


def test_replaced_statistics_reproduce_the_forward_in_training_mode(network, images):
    before = state(network)
    adapted = rectify(network, images, "replace")
    torch.testing.assert_close(adapted(images), in_training_mode(network, images), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(before[name], value) for name, value in state(adapted).items() if "running" not in name)


def test_unbiased_replacement_is_torchs_cumulative_mode(network, images):
    adapted = rectify(network, images, "replace", unbiased=True)
    for layer in batch_norms(network).values():
        layer.reset_running_stats()
        layer.momentum = None
    in_training_mode(network, images)
    for name, layer in batch_norms(network).items():
        torch.testing.assert_close(batch_norms(adapted)[name].running_mean, layer.running_mean)
        torch.testing.assert_close(batch_norms(adapted)[name].running_var, layer.running_var)


def test_prior_runs_from_replace_to_source(network, images):
    expected = rectify(network, images, "replace")(images)
    assert torch.equal(rectify(network, images, "prior", prior_count=0)(images), expected)
    assert torch.equal(rectify(network, images, "prior", prior_count=float("inf"))(images), network(images))


def test_prior_weighs_the_source_by_its_count(images):
    network = seeded(NETWORKS["resnet20"])
    adapted = rectify(network, images, "prior", prior_count=18)  # 18 / (18 + 6)
    seen = channel_statistics(network.conv1(images))
    torch.testing.assert_close(adapted.bn1.running_mean, 0.75 * network.bn1.running_mean + 0.25 * seen.mean)
    torch.testing.assert_close(adapted.bn1.running_var, 0.75 * network.bn1.running_var + 0.25 * seen.var)


@pytest.mark.parametrize(("part", "kept"), [("mean", "running_var"), ("var", "running_mean")])
def test_one_part_alone(images, part, kept):
    network = seeded(NETWORKS["resnet20"])
    adapted = rectify(network, images, "replace", statistics=part)
    for name, layer in batch_norms(network).items():
        other = batch_norms(adapted)[name]
        assert torch.equal(getattr(other, kept), getattr(layer, kept))
        moved = "running_mean" if part == "mean" else "running_var"
        assert not torch.equal(getattr(other, moved), getattr(layer, moved))


def test_thirds_are_in_execution_order(images):
    model = load_model("cifar:resnet20")  # 19 batch norms: 7, 6 and 6
    front, middle, end = (list(select_layers(model, images.float(), where)) for where in ("front", "middle", "end"))
    assert (len(front), len(middle), len(end)) == (7, 6, 6)
    assert front[:3] == ["bn1", "layer1.0.bn1", "layer1.0.bn2"]
    assert middle[0] == "layer2.0.bn1"
    assert end[-1] == "layer3.2.bn2"
    patches = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)).repeat_interleave(8, 2)
    adapted = rectify(model, patches.repeat_interleave(8, 3), where="layer2.*").network
    changed = [
        name
        for name, layer in batch_norms(model.network).items()
        if not torch.equal(layer.running_mean, batch_norms(adapted)[name].running_mean)
    ]
    assert changed == middle


def test_it_holds_after_eval_and_ends_with_the_context(network, images):
    expected, before = rectify(network, images)(images), state(network)
    with rectified(network, images) as model:
        model.eval()
        assert model is network
        assert torch.equal(model(images), expected)
    assert all(torch.equal(before[name], value) for name, value in state(network).items())


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_found_when_something_raises(images, training):
    network = seeded(NETWORKS["resnet20"]).train(training)
    network.layer1.eval()
    flags, before = [module.training for module in network.modules()], state(network)
    with pytest.raises(KeyError), rectified(network, images):
        raise KeyError
    with pytest.raises(ZeroDivisionError), rectified(network, images, lambda stored, observed, images: 1 / 0):
        pass
    assert [module.training for module in network.modules()] == flags
    assert all(torch.equal(before[name], value) for name, value in state(network).items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_an_own_protocol_is_a_function(images):
    network = seeded(NETWORKS["resnet20"])
    adapted = rectify(network, images, lambda stored, observed, images: stored if images == 6 else observed)
    assert torch.equal(adapted(images), network(images))


class Twice(nn.Sequential):
    def forward(self, images):
        return super().forward(super().forward(images))


BAD = {
    "no batch norm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), 6, {}, "its norms are: GroupNorm"),
    "no image": (NETWORKS["resnet20"], 0, {}, "at least one, but got shape"),
    "a single value": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)), 1, {}, "The layer 1 cannot"),
    "protocol": (NETWORKS["resnet20"], 6, {"protocol": "replce"}, "Did you mean 'replace'"),
    "pattern": (NETWORKS["resnet20"], 6, {"where": "layer9.*"}, "Unknown place or pattern of layers 'layer9"),
    "part": (NETWORKS["resnet20"], 6, {"statistics": "variance"}, "Unknown statistics 'variance'"),
    "count": (NETWORKS["resnet20"], 6, {"protocol": "prior", "prior_count": -1}, "0 or more, but got -1"),
    "twice": (lambda: Twice(nn.BatchNorm2d(3)), 6, {}, "The layer 0 is met twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line(case, images):
    build, count, options, message = BAD[case]
    network = build().double()
    before = state(network)
    with pytest.raises(InputError, match=message) as error, rectified(network, images[:count], **options):
        pass
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in state(network).items())


def test_features_that_are_not_finite_name_their_layer(images):
    network = seeded(NETWORKS["resnet20"])
    with torch.no_grad():
        network.layer2[0].conv1.weight[0] = float("nan")
    with pytest.raises(InputError, match=r"before layer2\.0\.bn1 are not finite"):
        rectify(network, images)


@pytest.mark.parametrize("protocol", ["replace", "prior", "auto"])
def test_a_model_in_half_precision_is_rectified_as_in_full(images, protocol):
    network = seeded(NETWORKS["frozen, momentum None"]).float()
    expected = rectify(network, images.float(), protocol)
    found = rectify(network.to(torch.bfloat16), images.to(torch.bfloat16), protocol)
    for name, layer in batch_norms(found).items():
        assert layer.running_mean.dtype == layer.running_var.dtype == torch.bfloat16
        torch.testing.assert_close(
            layer.running_mean.float(), batch_norms(expected)[name].running_mean, rtol=0, atol=0.02
        )
        torch.testing.assert_close(
            layer.running_var.float(), batch_norms(expected)[name].running_var, rtol=0.03, atol=0
        )
