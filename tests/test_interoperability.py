"""Rectified models in other hands: attacked, exported, saved, of every batch norm, and given what they cannot take."""

from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import nn

from statshift._core.errors import InputError
from statshift.adapting.rectify import rectified, rectify
from statshift.adapting.registry import RULE_NAMES
from statshift.models import load_model, save_weights
from statshift.norms.layers import batch_norms
from statshift.norms.statistics import channel_statistics, pool

CHANGING = ("replace", "prior", "auto")


pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::statshift._core.errors.FewImagesWarning"),  # images of noise are alike
]


def settled(model):
    """Give every batch norm some statistics of its own, as training would."""
    generator = torch.Generator().manual_seed(1)
    for layer in batch_norms(model).values():
        layer.running_mean.normal_(0, 0.2, generator=generator)
        layer.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def seeded(build):
    torch.manual_seed(0)
    return settled(build())


def resnet20():
    return seeded(lambda: load_model("cifar:resnet20"))


def pictures(count, number=2, side=32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(number))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Attacked


def torchattacks_pgd(model, images, labels):
    torchattacks = pytest.importorskip("torchattacks")
    return torchattacks.PGD(model, eps=8 / 255, alpha=4 / 255, steps=3, random_start=False)(images, labels)


def foolbox_pgd(model, images, labels):
    foolbox = pytest.importorskip("foolbox")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(rel_stepsize=0.5, steps=3, random_start=False)
    return attack(wrapped, images, labels, epsilons=8 / 255)[1]


@contextmanager
def adapted_copy(model, images):
    yield rectify(model, images)


@pytest.mark.parametrize("adapt", [adapted_copy, rectified], ids=["rectify", "rectified"])
@pytest.mark.parametrize("attack", [torchattacks_pgd, foolbox_pgd])
def test_an_attacked_model_answers_with_adapted_statistics_before_during_and_after(attack, adapt):
    source, images, fixed = resnet20(), 0.3 * pictures(8), pictures(2, 3)
    labels = source(images[:2]).argmax(1)
    of_the_source = attack(source, images[:2], labels)
    before, twin, asked = state(source), rectify(source, images), []

    def record(module, inputs, logits):
        asked.append((inputs[0].detach().clone(), logits.detach().clone(), state(module)))

    with adapt(source, images) as model:
        adapted, expected = state(model), twin(fixed)
        assert torch.equal(model(fixed), expected)
        assert not torch.equal(expected, deepcopy(twin).train()(fixed))  # a batch's own statistics would be others
        handle = model.register_forward_hook(record)
        adversarial = attack(model, images[:2], labels)
        handle.remove()
        assert torch.equal(model(fixed), expected)
        assert same(state(model), adapted)
        assert same(adapted, state(twin))
    assert len(asked) >= 3
    for inputs, logits, during in asked:
        with torch.no_grad():
            assert torch.equal(logits, twin(inputs))
        assert same(during, adapted)
    assert 0 < (adversarial - images[:2]).abs().max() <= 8 / 255 + 1e-6
    assert torch.equal(adversarial, attack(twin, images[:2], labels))
    assert (adversarial != of_the_source).float().mean() > 0.05
    assert same(state(source), before)


def test_an_attack_that_raises_leaves_the_adapted_model_as_it_is():
    torchattacks = pytest.importorskip("torchattacks")
    source, images = resnet20(), pictures(6)
    before, adapted = state(source), state(rectify(source, images))
    with rectified(source, images) as model:
        with pytest.raises(ValueError, match="batch_size"):
            torchattacks.PGD(model, steps=1)(images, torch.zeros(5, dtype=torch.long))
        assert same(state(model), adapted)
    assert same(state(source), before)
    assert not any(module.training for module in source.modules())


# Exported and saved


def test_torch_export_gives_the_same_logits():
    model, images = rectify(resnet20(), pictures(8)), pictures(3, 3)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    for some in (images, pictures(5, 4)):
        torch.testing.assert_close(program.module()(some), model(some), rtol=1e-5, atol=1e-5)


def test_onnx_gives_the_same_logits(tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    import onnxruntime

    source, images = resnet20(), pictures(3, 3)
    model = rectify(source, 0.3 * pictures(8))
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (images,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(images), rtol=1e-4, atol=1e-4)
    assert (model(images) - source(images)).abs().max() > 0.01  # the source would not have passed


@pytest.mark.parametrize("protocol", CHANGING)
def test_saved_weights_load_into_the_original_architecture(protocol, tmp_path):
    adapted, fixed = rectify(resnet20(), pictures(8), protocol), pictures(3, 3)
    save_weights(adapted.network, tmp_path / "weights.safetensors")
    fresh = load_model("cifar:resnet20").eval()
    fresh.network.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    assert torch.equal(fresh(fixed), adapted(fixed))
    assert same(state(fresh), state(adapted))
    by_path = load_model("cifar:resnet20", weights=tmp_path / "weights.safetensors").eval()
    assert torch.equal(by_path(fixed), adapted(fixed))


class Shared(nn.Module):
    """A batch norm under two names, one of which the forward uses."""

    def __init__(self):
        super().__init__()
        self.norm = self.alias = nn.BatchNorm2d(3)

    def forward(self, images):
        return self.norm(images).mean((2, 3))


def test_a_norm_under_two_names_is_rectified_and_saved(tmp_path):
    adapted = rectify(seeded(Shared), pictures(4))
    torch.testing.assert_close(adapted.alias.running_mean, adapted.norm.running_mean)
    save_weights(adapted, tmp_path / "weights.safetensors")
    fresh = Shared().eval()
    fresh.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    assert torch.equal(fresh(pictures(2, 3)), adapted(pictures(2, 3)))


# Every batch norm


def image_network(norm, **options):
    """Return a network with two norms built by `norm`."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        norm(4, **options),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2),
        norm(6, **options),
        nn.Flatten(1),
    )


def volume_network(**options):
    return nn.Sequential(
        nn.Unflatten(3, (4, 8)), nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4, **options), nn.Flatten(2), nn.Flatten(1)
    )


def vector_network(**options):
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 5, stride=4), nn.Flatten(2), nn.BatchNorm1d(4, **options)),
        *(nn.Flatten(1), nn.Linear(196, 6), nn.BatchNorm1d(6, **options)),
    )


NETWORKS = {
    "BatchNorm1d": vector_network,
    "BatchNorm3d": volume_network,
    "BatchNormAct2d": lambda: image_network(BatchNormAct2d, act_layer=nn.SiLU),
    "BatchNormAct2d without activation": lambda: image_network(BatchNormAct2d, apply_act=False),
    "without affine": lambda: image_network(nn.BatchNorm2d, affine=False),
    "frozen": lambda: image_network(nn.BatchNorm2d).requires_grad_(False),
    "momentum None": lambda: image_network(nn.BatchNorm2d, momentum=None),
    "eps 1e-3": lambda: image_network(nn.BatchNorm2d, eps=1e-3),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(image_network(nn.BatchNorm2d, eps=1e-3)),
}


def attributes(layer):
    kept = {name: getattr(layer, name) for name in ("eps", "momentum", "affine", "track_running_stats", "training")}
    kept |= {"type": type(layer), "activation": type(getattr(layer, "act", None))}
    return kept | {name: value.requires_grad for name, value in layer.named_parameters()}


@pytest.mark.parametrize("protocol", CHANGING)
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_batch_norm_keeps_all_but_its_running_statistics(kind, protocol):
    network, images = seeded(NETWORKS[kind]), 0.3 * pictures(8)
    for layer in batch_norms(network).values():
        layer.num_batches_tracked.fill_(7)
        if layer.affine:
            with torch.no_grad():
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_()
    before = state(network)
    adapted = rectify(network, images, protocol)
    with rectified(network, images, protocol):
        assert same(state(network), state(adapted))
    assert same(state(network), before)
    layers = batch_norms(network)
    assert layers.keys() == batch_norms(adapted).keys()
    for name, layer in batch_norms(adapted).items():
        assert attributes(layer) == attributes(layers[name])
    changed = {name for name, value in state(adapted).items() if not torch.equal(value, before[name])}
    statistics = {f"{name}.running_{part}" for name in layers for part in ("mean", "var")}
    assert changed <= statistics
    first = next(iter(layers))
    assert {f"{first}.running_mean", f"{first}.running_var"} <= changed
    assert protocol == "auto" or changed == statistics
    if protocol == "replace":  # the output itself: the activation, the affine terms and eps at work
        features, normalised = adapted[: int(first)](images), adapted[: int(first) + 1](images)
        layer, axes = layers[first], [axis for axis in range(features.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(features.ndim)]
        var, mean = torch.var_mean(features, axes, correction=0, keepdim=True)
        expected = (features - mean) / (var + layer.eps).sqrt()
        if layer.affine:
            expected = expected * layer.weight.view(shape) + layer.bias.view(shape)
        if kind == "BatchNormAct2d":
            expected = nn.functional.silu(expected)
        torch.testing.assert_close(normalised, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("protocol", ["source", *RULE_NAMES])
def test_sync_batch_norm_takes_the_statistics_of_its_twin(protocol):
    twin, images = seeded(lambda: image_network(nn.BatchNorm2d, eps=1e-3)), 0.3 * pictures(8)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(deepcopy(twin))
    assert [type(layer) for layer in batch_norms(network).values()] == [nn.SyncBatchNorm] * 2
    adapted = rectify(network, images, protocol)
    assert same(state(adapted), state(rectify(twin, images, protocol)))
    torch.testing.assert_close(adapted(images), rectify(twin, images, protocol)(images), rtol=1e-6, atol=1e-6)


def test_shards_pooled_are_the_whole_batch_at_the_first_layer():
    source, images = resnet20().double(), pictures(9).double()
    mean, std = source.mean, source.std
    shards = [channel_statistics(source.network.conv1((part - mean) / std)) for part in images.split([4, 5])]
    pooled, adapted = pool(*shards), rectify(source, images, "replace").network.bn1
    torch.testing.assert_close(adapted.running_mean, pooled.mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(adapted.running_var, pooled.var, rtol=1e-10, atol=1e-12)
    unbiased = rectify(source, images, "replace", unbiased=True).network.bn1
    assert pooled.count == 9 * 32 * 32
    torch.testing.assert_close(unbiased.running_var, pooled.unbiased_var, rtol=1e-10, atol=1e-12)


# What the context holds, and what cannot be


def test_the_context_holds_the_norms_buffers_and_nothing_else():
    network, images = seeded(NETWORKS["eps 1e-3"]), 0.3 * pictures(8)
    parameters = {name: (value, value.data_ptr()) for name, value in network.named_parameters()}
    before = state(network)
    with rectified(network, images, "replace") as model:
        assert model is network
        for name, value in model.named_parameters():
            assert value is parameters[name][0]
            assert value.data_ptr() == parameters[name][1]
        with torch.no_grad():
            model[0].weight.add_(1)
            for layer in batch_norms(model).values():
                layer.weight.mul_(3)
                layer.num_batches_tracked.add_(5)
                layer.running_var.zero_()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"0.weight", "1.weight", "4.weight"}  # what the user has done is the user's


def flat():
    return nn.Sequential(image_network(nn.BatchNorm2d), nn.Linear(6 * 14 * 14, 5))


WRONG = {
    "no channel": (resnet20, pictures(4)[:, 0], r"\(4, 32, 32\)"),
    "4 channels": (resnet20, torch.cat([pictures(4), pictures(4)[:, :1]], 1), r"\(4, 4, 32, 32\)"),
    "1 channel": (lambda: seeded(flat), pictures(4)[:, :1], r"\(4, 1, 32, 32\)"),
    "1 channel in pixel space": (resnet20, pictures(4)[:, :1], r"\(4, 1, 32, 32\)"),
    "40 px": (lambda: seeded(flat), pictures(4, side=40), r"\(4, 3, 40, 40\)"),
    "2 px": (lambda: seeded(flat), pictures(4, side=2), r"\(4, 3, 2, 2\)"),
    "bytes": (lambda: seeded(flat), (255 * pictures(4)).byte(), r"\(4, 3, 32, 32\)"),
}


@pytest.mark.parametrize("protocol", ["replace", "auto"])
@pytest.mark.parametrize("case", WRONG)
def test_images_that_the_model_cannot_take_are_told_in_one_line_with_their_shape(case, protocol):
    build, images, shape = WRONG[case]
    model = build()
    before = state(model)
    with pytest.raises(InputError, match=shape) as error, rectified(model, images, protocol):
        pass
    assert "\n" not in str(error.value)
    assert same(state(model), before)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("protocol", CHANGING)
def test_an_exception_in_the_middle_leaves_all_as_found(protocol, training):
    model, images = resnet20().train(training), pictures(6)
    model.network.layer2.train(not training).requires_grad_(False)

    def found():
        modules = list(model.modules())
        hooks = [dict(module._forward_pre_hooks) | dict(module._forward_hooks) for module in modules]
        flags = [module.training for module in modules]
        return flags, hooks, [(id(value), value.requires_grad) for value in model.parameters()]

    before, others, passed = state(model), found(), []

    def stop(module, inputs):
        passed.append(module)
        raise InterruptedError

    with pytest.raises(KeyError), rectified(model, images, protocol):
        raise KeyError
    assert same(state(model), before)
    assert found() == others
    handle = model.network.layer3.register_forward_pre_hook(stop)  # two thirds of the layers are written by then
    with pytest.raises(InterruptedError), rectified(model, images, protocol):
        pass
    handle.remove()
    assert passed
    assert same(state(model), before)
    assert found() == others
