"""Norms beside NumPy loops, and their exchange within models of every kind."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.errors import InputError
from statshift.models import NORMS, exchange_norm, load_model, make_norm, save_weights
from statshift.models.exchange import count_groups
from statshift.norms.layers import batch_norms

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 1


def seeded(model):
    """Give the affine terms of all norms values of their own."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _BatchNorm | nn.GroupNorm | nn.InstanceNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-1, 1, generator=generator)
    return model


def normed(features, groups, weight, bias, eps):
    """Return group norm, sample by sample and group by group, of an array (B,C,...)."""
    size = features.shape[1] // groups
    found = np.empty_like(features)
    for sample in range(len(features)):
        for group in range(groups):
            channels = slice(group * size, (group + 1) * size)
            values = features[sample, channels]
            found[sample, channels] = (values - values.mean()) / np.sqrt(values.var() + eps)
        for channel in range(features.shape[1]):
            found[sample, channel] = found[sample, channel] * weight[channel] + bias[channel]
    return found


def close(found, expected):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def counted(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


def expect_normed(norm, features, groups):
    with torch.no_grad():
        found = norm(features)
    close(found, normed(features.numpy(), groups, norm.weight.detach().numpy(), norm.bias.detach().numpy(), norm.eps))


# By name


@pytest.mark.parametrize(("name", "groups"), [("instance", 12), ("layer", 1), ("group", 6)])
@pytest.mark.parametrize("training", [True, False])
def test_a_norm_is_what_loops_make_of_it(name, groups, training):
    expect_normed(seeded(make_norm(name, 12).double()).train(training), drawn(3, 12, 4, 5), groups)


def test_batch_norm_and_none():
    features = drawn(3, 12, 4, 5)
    norm = make_norm("batch", 12).double()
    across = features.numpy().transpose(1, 0, 2, 3).reshape(1, 12, -1)
    expected = normed(across, 12, np.ones(12), np.zeros(12), 1e-5).reshape(12, 3, 4, 5).transpose(1, 0, 2, 3)
    close(norm(features), expected)
    assert make_norm("none", 12)(features) is features


def test_instance_norm_keeps_no_statistics():
    assert set(make_norm("instance", 4).state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("channels", "most", "groups"),
    [(16, 32, 8), (64, 32, 32), (512, 32, 32), (48, 32, 24), (342, 32, 19), (7, 32, 1), (1, 32, 1), (64, 4, 4)],
)
def test_groups_hold_two_channels_or_more(channels, most, groups):
    assert count_groups(channels, most) == groups
    assert make_norm("group", channels, most).num_groups == groups


def test_unknown_norms_and_groups():
    told = "Unknown norm 'grup'. Did you mean 'group'? Choose from: none, batch, instance, layer, group."
    with pytest.raises(InputError) as caught:
        make_norm("grup", 8)
    assert str(caught.value) == told
    with pytest.raises(InputError) as caught:
        exchange_norm(nn.Sequential(nn.BatchNorm2d(8)), "grup")
    assert str(caught.value) == told.replace("group.", "group, ibn-a.")
    with pytest.raises(InputError, match="`groups` to be a positive integer, but got 0"):
        exchange_norm(nn.Sequential(nn.BatchNorm2d(8)), "batch", groups=0)


# Exchanged


@pytest.mark.parametrize(
    ("norm", "kind"), [("group", nn.GroupNorm), ("layer", nn.GroupNorm), ("instance", nn.InstanceNorm2d)]
)
def test_torchvision_resnet18(norm, kind):
    from torchvision.models import resnet18

    model = seeded(resnet18(num_classes=5)).double().eval()
    before, plain = batch_norms(model), deepcopy(model)
    parameters = dict(model.named_parameters())
    assert exchange_norm(model, norm) is model
    after = {name: module for name, module in model.named_modules() if isinstance(module, kind)}
    assert after.keys() == before.keys()
    assert len(after) == 20
    assert counted(model, _BatchNorm) == 0
    assert all(module.eps == 1e-5 and not module.training for module in after.values())
    assert all(value is parameters[name] for name, value in model.named_parameters())
    features = {}
    for one, which in ((plain, "plain"), (model, "new")):
        one.maxpool.register_forward_pre_hook(lambda module, inputs, which=which: features.update({which: inputs[0]}))
    images = drawn(2, 3, 64, 64)
    with torch.no_grad():
        model(images)
        plain(images)
        conv = model.conv1(images).numpy()
    groups = {"group": 32, "layer": 1, "instance": 64}[norm]
    affine = (model.bn1.weight.detach().numpy(), model.bn1.bias.detach().numpy())
    close(features["new"], np.maximum(normed(conv, groups, *affine, 1e-5), 0))
    assert (features["new"] - features["plain"]).abs().max() > 0.1
    fx.symbolic_trace(model)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_small_050"])
@pytest.mark.parametrize("norm", ["none", "instance", "layer", "group"])
def test_timm_keeps_its_activations(name, norm):
    import timm
    from timm.layers import BatchNormAct2d

    model = seeded(timm.create_model(name, num_classes=5)).double().eval()
    before = {name: module for name, module in model.named_modules() if isinstance(module, BatchNormAct2d)}
    acts = {name: type(module.act) for name, module in before.items()}
    assert len(set(acts.values())) > 1
    plain = [name for name in batch_norms(model) if name not in before]
    own = {name: (module.act, module.drop) for name, module in before.items()}
    images, seen = drawn(2, 3, 32, 32), {}
    exchange_norm(model, norm)
    assert counted(model, _BatchNorm) == 0
    for place in before:
        after = model.get_submodule(place)
        assert (after.act, after.drop) == own[place]
        after.register_forward_pre_hook(lambda module, inputs, place=place: seen.update({place: [inputs[0].clone()]}))
        after.register_forward_hook(lambda module, inputs, output, place=place: seen[place].append(output.clone()))
    assert all(type(model.get_submodule(name)) in (nn.Identity, nn.GroupNorm, nn.InstanceNorm2d) for name in plain)
    if norm == "instance":  # the last features of so small an image have one position, which has no variance
        images = drawn(2, 3, 64, 64)
    with torch.no_grad():
        model(images)
    assert seen.keys() == before.keys()
    for place, (features, output) in seen.items():
        expected = features.numpy()
        if norm != "none":
            channels = expected.shape[1]
            groups = {"instance": channels, "layer": 1, "group": count_groups(channels)}[norm]
            after = model.get_submodule(place)
            expected = normed(expected, groups, after.weight.detach().numpy(), after.bias.detach().numpy(), after.eps)
        close(output, own[place][0](torch.from_numpy(expected).clone()).numpy())


def test_drop_comes_before_the_activation():
    from timm.layers import BatchNormAct2d

    class Minus(nn.Module):
        def forward(self, features):
            return -features

    model = nn.Sequential(BatchNormAct2d(8, drop_layer=Minus)).double()
    exchange_norm(model, "group")
    features = drawn(2, 8, 3, 3)
    close(model(features), np.maximum(-normed(features.numpy(), 4, np.ones(8), np.zeros(8), 1e-5), 0))


def test_timm_from_group_to_batch_keeps_activations():
    import timm
    from timm.layers import BatchNormAct2d, GroupNormAct

    model = timm.create_model("resnetv2_18", num_classes=5, norm_layer=GroupNormAct)
    ours = timm.create_model("efficientnet_b0", num_classes=5)
    for one in (model, exchange_norm(ours, "group")):
        acts = {name: module.act for name, module in one.named_modules() if isinstance(module, nn.GroupNorm)}
        exchange_norm(one, "batch")
        assert {name: module.act for name, module in one.named_modules() if isinstance(module, BatchNormAct2d)} == acts
        assert counted(one, nn.GroupNorm) == 0
        assert acts


def test_there_and_back_has_the_keys_and_weights_it_had():
    torch.manual_seed(0)
    model = seeded(load_model("cifar:resnet20"))
    fresh = deepcopy(model)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for norm in ("batch", "group", "instance", "layer", "batch"):
        exchange_norm(model, norm)
    assert model.state_dict().keys() == fresh.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in fresh.state_dict().items())
    torch.testing.assert_close(model(images), fresh(images), rtol=0, atol=0)  # statistics of mean 0 and variance 1


def test_batch_norms_stay_as_they_are_for_batch():
    model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm1d(8, affine=False), nn.SyncBatchNorm(8))
    model[0].running_mean += 3
    before = list(model)
    assert list(exchange_norm(model, "batch")) == before
    assert torch.equal(model[0].running_mean, torch.full((8,), 3.0))


def test_pixel_model_is_exchanged_inside():
    model = load_model("torchvision:resnet18@none")
    network = model.network
    exchange_norm(model, "group")
    assert model.network is network
    assert counted(network, nn.GroupNorm) == 20
    assert counted(network, _BatchNorm) == 0


def test_a_shared_norm_stays_one():
    norm = nn.BatchNorm2d(8)
    model = nn.ModuleDict({"a": norm, "b": nn.Sequential(norm, nn.ReLU()), "c": nn.BatchNorm2d(8)})
    model.d = norm
    exchange_norm(model, "group")
    assert model["a"] is model["b"][0] is model.d
    assert model["a"] is not model["c"]
    assert counted(model, nn.GroupNorm) == 2
    assert model["a"].weight is norm.weight


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_eps_type_and_flags_are_kept(norm):
    source = nn.InstanceNorm2d if norm == "batch" else nn.BatchNorm2d
    model = nn.Sequential(source(8, eps=0.1, affine=True), source(8, affine=True)).to(torch.bfloat16)
    model[0].eval()
    model[1].weight.requires_grad_(False)
    exchange_norm(model, norm)
    assert [one.eps for one in model] == [0.1, 1e-5]
    assert [one.training for one in model] == [False, True]
    assert [one.weight.requires_grad for one in model] == [True, False]
    assert {value.dtype for value in model.state_dict().values()} - {torch.int64} == {torch.bfloat16}


def test_device_is_kept():
    model = nn.Sequential(nn.GroupNorm(2, 8, device="meta"))
    assert {value.device.type for value in exchange_norm(model, "batch").state_dict().values()} == {"meta"}


class Mine(nn.BatchNorm2d):
    """A user's own, with the forward of its base."""


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        (lambda: nn.BatchNorm1d(8), (5, 8)),
        (lambda: nn.BatchNorm1d(8), (5, 8, 6)),
        (lambda: nn.BatchNorm3d(8), (5, 8, 2, 3, 4)),
        (lambda: nn.SyncBatchNorm(8), (5, 8, 3, 3)),
        (lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True), (5, 8, 3, 3)),
        (lambda: Mine(8), (5, 8, 3, 3)),
    ],
)
@pytest.mark.parametrize(("norm", "groups"), [("group", 4), ("layer", 1)])
def test_every_batch_norm_and_shape(source, shape, norm, groups):
    model = seeded(nn.Sequential(source())).double().eval()
    exchange_norm(model, norm)
    expect_normed(model[0], drawn(*shape), groups)


@pytest.mark.parametrize("source", [nn.BatchNorm3d, nn.SyncBatchNorm])
def test_instance_norm_of_other_places(source):
    model = nn.Sequential(source(8)).double().eval()
    exchange_norm(model, "instance")
    expect_normed(model[0], drawn(2, 8, *([3] * (3 if source is nn.BatchNorm3d else 2))), 8)


@pytest.mark.parametrize("place", [1, 2, 3])
def test_instance_norm_becomes_the_batch_norm_of_its_place(place):
    instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[place - 1]
    model = exchange_norm(nn.Sequential(instance(4, affine=True)), "batch").double()
    features = drawn(3, 4, *([3] * place))
    flat = features.numpy().swapaxes(0, 1).reshape(1, 4, -1)
    expected = normed(flat, 4, np.ones(4), np.zeros(4), 1e-5).reshape(4, 3, *([3] * place)).swapaxes(0, 1)
    close(model(features), expected)


def test_none_is_nothing_at_all():
    model = exchange_norm(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)), "none")
    features = torch.rand(2, 3, 5, 5)
    assert torch.equal(model(features), model[0](features))
    assert list(model.state_dict()) == ["0.weight"]


def test_none_does_not_let_an_activation_change_what_a_shortcut_takes():
    import timm

    torch.manual_seed(0)
    model = (
        timm.create_model("resnetv2_18", num_classes=5).double().eval()
    )  # each block begins with norm and activation
    exchange_norm(model, "none")
    block = model.stages[0].blocks[1]
    features = drawn(2, 64, 8, 8)
    given = features.clone()
    with torch.no_grad():
        found = block(given)
        branch = block.conv2(torch.relu(block.conv1(torch.relu(features))))
    assert torch.equal(given, features)
    close(found, (features + branch).numpy())


class Doubling(nn.BatchNorm2d):
    def forward(self, features):
        return 2 * super().forward(features)


def hooked():
    norm = nn.BatchNorm2d(8)
    norm.register_forward_hook(lambda *_: None)
    return norm


@pytest.mark.parametrize(
    ("source", "norm", "told"),
    [
        (lambda: nn.BatchNorm2d(8, affine=False), "group", "1 has no affine terms of its own"),
        (lambda: nn.InstanceNorm2d(8), "batch", "1 has no affine terms of its own"),
        (nn.LazyBatchNorm2d, "group", "1 does not know its number of channels yet"),
        (lambda: nn.BatchNorm1d(8), "instance", "1 is a BatchNorm1d, whose features may have no positions"),
        (lambda: Doubling(8), "group", "1 is a Doubling, whose forward is its own"),
        (hooked, "group", "1 has hooks"),
    ],
)
def test_what_cannot_be_exchanged_is_told_and_nothing_is_changed(source, norm, told):
    model = nn.Sequential(nn.InstanceNorm2d(8, affine=True), source())
    before = list(model)
    with pytest.raises(InputError) as caught:
        exchange_norm(model, norm)
    assert str(caught.value) == f"Cannot exchange the norms for {norm!r}: {told}."
    assert list(model) == before


def test_a_norm_alone_has_no_place_to_be_exchanged_in():
    with pytest.raises(InputError, match="the model is a norm itself"):
        exchange_norm(nn.BatchNorm2d(8), "group")


def test_a_model_without_such_norms_is_told_which_it_has():
    import timm

    for model, names in ((timm.create_model("vit_tiny_patch16_224"), "LayerNorm"), (nn.Sequential(nn.ReLU()), "none")):
        with pytest.raises(InputError, match=f"group norms to exchange, but its norms are: {names}\\."):
            exchange_norm(model, "group")


def test_other_norms_are_left_alone():
    model = nn.Sequential(nn.LayerNorm(8), nn.BatchNorm1d(8), nn.LocalResponseNorm(2))
    kept = [model[0], model[2]]
    exchange_norm(model, "group")
    assert [model[0], model[2]] == kept
    assert isinstance(model[1], nn.GroupNorm)


def test_names():
    assert NORMS == ("none", "batch", "instance", "layer", "group")


@pytest.mark.parametrize("spec", ["torchvision:resnet18@none", "timm:resnet18"])
def test_a_spec_s_norms_are_exchanged_by_a_model_argument(spec, tmp_path):
    arguments = {"norm": "group", "num_classes": 4}
    model = load_model(spec, model_args=arguments, pretrained=False)
    assert model.arguments == arguments
    kinds = [type(module) for module in model.network.modules()]
    assert kinds.count(nn.BatchNorm2d) == 0
    assert sum(issubclass(kind, nn.GroupNorm) for kind in kinds) == 20
    save_weights(model.network, tmp_path / "net.safetensors")
    again = load_model(spec, model_args=arguments, pretrained=False, weights=tmp_path / "net.safetensors")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), model.eval()(images))


def test_an_unknown_norm_for_a_spec_is_told():
    with pytest.raises(InputError, match=r"^Unknown norm 'grup'\. Did you mean 'group'"):
        load_model("torchvision:resnet18@none", model_args={"norm": "grup"})
