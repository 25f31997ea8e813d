"""Published checkpoints: a file in each layout loads to the logits of the network that it was made of."""

import copy
import re
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.transforms import v2

from statshift import InputError, load_model
from statshift._core.errors import CheckpointWarning
from statshift.cli import app
from statshift.models import load_weights, weights_hash
from statshift.report import commands
from statshift.results import read_run

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def settled(network, seed=0):
    """Give each weight and statistic a value of its own, and return the network in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            drawn = torch.rand(value.shape, generator=generator)
            value.copy_(0.5 + drawn if "running_var" in name or value.ndim == 1 else (drawn - 0.5) * 0.2)
        else:
            value.fill_(7)
    return network.eval()


def resnet10():
    return torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)


@pytest.fixture(scope="module")
def resnet():
    return settled(resnet10())


@pytest.fixture(scope="module")
def small():
    """A ResNet of bottlenecks, with all shortcuts and two stages of two blocks."""
    return settled(torchvision.models.ResNet(Bottleneck, [2, 1, 1, 2], num_classes=10, width_per_group=8))


def empty(network):
    """Return a network of the same architecture with other weights."""
    return settled(copy.deepcopy(network), seed=9)


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def prefixed(state, prefix):
    return OrderedDict((f"{prefix}{name}", value) for name, value in state.items())


def check(source, path, **options):
    """Check that a file gives a fresh network the logits of the source."""
    target = empty(source)
    loaded = load_weights(target, path, **options)
    with torch.no_grad():
        assert torch.equal(target(IMAGES), source(IMAGES))
    return loaded


# What wrappers leave in names


@pytest.mark.parametrize(
    "layout",
    [
        lambda s: {"epoch": 89, "state_dict": prefixed(s, "module."), "best_acc1": np.float64(77.5), "optimizer": {}},
        lambda s: {"epoch": 9, "arch": "resnet50", "state_dict": prefixed(s, "module."), "best_prec1": torch.ones(())},
        lambda s: prefixed(s, "module."),  # CutMix's second file, MoEx's
        lambda s: {"log": {"train": {"loss": 1.0}}, "model": prefixed(s, "module."), "ema": None, "optimizer": {}},
        lambda s: {"model": {"fc.bias": torch.zeros(10)}, "ema": prefixed(s, "module."), "epoch": 270},
        lambda s: {"state_dict": prefixed(s, "net._orig_mod.")},
        lambda s: {  # Lightning
            "epoch": 3,
            "global_step": 12,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": prefixed(s, "model.") | {"criterion.weight": torch.ones(10)},
            "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.5)}},
            "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
            "lr_schedulers": [],
            "hyper_parameters": {"lr": 0.1},
        },
        lambda s: {  # Lightning with averaged weights beside the others
            "state_dict": prefixed({name: value * 0 for name, value in s.items()}, "model.")
            | prefixed(s, "ema_model.module.")
            | {"ema_model.n_averaged": torch.tensor(4)}
        },
    ],
    ids=["augmix", "sin", "cutmix", "fast-aa", "fast-aa-ema", "compiled", "lightning", "lightning-ema"],
)
def test_wrappers_of_training_codes(layout, resnet, tmp_path):
    check(resnet, saved(tmp_path / "model.pth.tar", layout(resnet.state_dict())))


def test_a_part_that_was_wrapped_alone(tmp_path):
    """SIN's VGG and AlexNet: `features.module.0.weight` beside `classifier.1.weight`."""
    layers = {"features": nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "pool": nn.AdaptiveAvgPool2d(1)}
    source = settled(nn.Sequential(OrderedDict(layers, flat=nn.Flatten(), classifier=nn.Sequential(nn.Linear(4, 10)))))
    state = {name.replace("features.", "features.module."): value for name, value in source.state_dict().items()}
    check(source, saved(tmp_path / "sin.pth.tar", {"state_dict": state, "arch": "vgg16"}))


def test_a_prefix_that_not_every_name_has_is_refused(resnet, tmp_path):
    state = prefixed(resnet.state_dict(), "module.")
    state["fc.bias"] = state.pop("module.fc.bias")
    target = empty(resnet)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(InputError, match=r"missing: conv1\.weight, .*; unexpected: module\.conv1\.weight, "):
        load_weights(target, saved(tmp_path / "part.pt", state))
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_wrapper_that_not_every_name_of_a_part_has_is_refused(tmp_path):
    source = nn.Sequential(OrderedDict(features=nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))))
    state = source.state_dict()
    state["features.module.0.bias"] = state.pop("features.0.bias")
    with pytest.raises(InputError, match=r"missing: features\.0\.bias; unexpected: features\.module\.0\.bias\.$"):
        load_weights(source, saved(tmp_path / "part.pt", state))


def test_tensors_of_a_gpu_are_read_on_the_cpu(resnet, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    content = {"state_dict": prefixed(resnet.state_dict(), "module."), "best_prec1": torch.tensor(76.1)}
    path = saved(tmp_path / "gpu.pth.tar", content)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match=r"deserialize object on a CUDA device|CUDA"):
        torch.load(path, weights_only=True) if not torch.cuda.is_available() else pytest.skip("there is a GPU")
    check(resnet, path)


# Two sets of norms


def advbn_state(clean, adv, cut):
    """Return two ResNets' weights as the authors' network names them, which differ in their norms alone."""
    modules = dict(clean.named_modules())
    state, children = OrderedDict(), [name for name, _ in clean.named_children()]
    for (name, ours), theirs in zip(clean.state_dict().items(), adv.state_dict().values(), strict=True):
        top, _, rest = name.partition(".")
        layer, _, part = name.rpartition(".")
        rest = re.sub(r"downsample\.0", "downsample.conv", re.sub(r"downsample\.1", "downsample.bn", rest))
        if top.startswith("layer") and int(top[5:]) > cut:
            block, _, rest = rest.partition(".")
            place = f"module.head.{top}_{block}.{rest}"
        else:
            place = f"module.head.{name}" if top == "fc" else f"module.feature_x.{children.index(top)}.{rest}"
        if part == "num_batches_tracked":
            ours = theirs = torch.tensor([True])  # noqa: PLW2901
        if isinstance(modules[layer], nn.BatchNorm2d) and top != "bn1":
            state[re.sub(r"\.(bn\d?)\.", r".clean_\1.", place)] = ours
            state[re.sub(r"\.(bn\d?)\.", r".adv_\1.", place)] = theirs
        else:
            state[place] = ours
    return state


def twin(network, front=()):
    """Return a copy with other norms, but for those whose names begin as in `front`."""
    other, plain = empty(network), dict(network.named_modules())
    for name, value in other.state_dict().items():
        layer = name.rpartition(".")[0]
        if not isinstance(plain[layer], nn.BatchNorm2d) or name.startswith(tuple(front)):
            value.copy_(network.state_dict()[name])
    return other


@pytest.mark.parametrize("cut", [1, 2])
def test_advbn_s_own_files(cut, small, tmp_path):
    front = ("bn1", *(f"layer{number}" for number in range(1, cut + 1)))
    other = twin(small)  # its norms in front of the cut are never run: both branches have the clean ones there
    state = advbn_state(small, other, cut)
    assert {"module.feature_x.4.0.clean_bn1.weight", "module.head.layer4_1.adv_bn3.weight"} < set(state)
    path = saved(tmp_path / "checkpoint.pth.tar", {"epoch": 20, "arch": "resnet50", "state_dict": state})
    with pytest.warns(CheckpointWarning, match="2 sets of norms: those of `branch` clean are loaded, and adv passed"):
        loaded = check(small, path)
    assert loaded.described() == {"branch": "clean", "others": ("adv",)}
    assert check(small, path, branch="clean").branch == "clean"
    target, expected = empty(small), twin(small, front)
    assert load_weights(target, path, branch="adv").others == ("clean",)
    with torch.no_grad():
        assert torch.equal(target(IMAGES), expected(IMAGES))
        assert not torch.equal(target(IMAGES), small(IMAGES))
    assert target.layer4[0].bn1.num_batches_tracked.dtype == torch.int64
    assert target.layer4[0].bn1.num_batches_tracked.shape == ()


def test_advbn_s_files_of_cifar_have_no_pooling_to_count(tmp_path):
    source = settled(load_model("cifar:resnet18", model_args={"width": 0.1}).network)
    state = advbn_state(source, twin(source), 1)
    assert "module.feature_x.3.0.conv1.weight" in state
    check(source, saved(tmp_path / "cifar.pth.tar", {"state_dict": state}), branch="clean")


def aux_state(clean, adv, place):
    state = clean.state_dict()
    for name, module in clean.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            for part, value in adv.get_submodule(name).state_dict().items():
                state[f"{name}.{place}.{part}"] = value
    return state


@pytest.mark.parametrize("place", ["aux_bn", "aux_bn.0"], ids=["advprop", "splitbn"])
def test_auxiliary_norms_are_the_adversarial_branch(place, resnet, tmp_path):
    other = twin(resnet)
    state = prefixed(aux_state(resnet, other, place), "module.")
    path = saved(tmp_path / "advprop.pth.tar", {"state_dict": state})
    with pytest.warns(CheckpointWarning, match="clean are loaded"):
        check(resnet, path)
    target = empty(resnet)
    load_weights(target, path, branch="adv")
    with torch.no_grad():
        assert torch.equal(target(IMAGES), other(IMAGES))


def test_timm_s_split_norms_as_timm_writes_them(tmp_path):
    split = timm.layers.convert_splitbn_model(timm.create_model("resnet10t", num_classes=10), 3)
    source = settled(split)
    path = saved(tmp_path / "split.pth.tar", {"state_dict": source.state_dict(), "arch": "resnet10t"})
    plain = timm.create_model("resnet10t", num_classes=10).eval()
    assert load_weights(plain, path, branch="clean").others == ("adv0", "adv1")
    with torch.no_grad():
        assert torch.equal(plain(IMAGES), source(IMAGES))
    load_weights(plain, path, branch="adv1")
    assert torch.equal(plain.layer4[0].bn1.running_var, source.layer4[0].bn1.aux_bn[1].running_var)
    with pytest.raises(InputError, match=r"Unknown branch of .*, 'adv'.* Choose from: clean, adv0, adv1\."):
        load_weights(plain, path, branch="adv")
    check(source, path)  # a network with all the sets takes them all


def test_what_is_no_branch_or_no_pair_is_told(resnet, tmp_path):
    plain = saved(tmp_path / "plain.pt", resnet.state_dict())
    with pytest.raises(InputError, match=r"Expected no `branch`, but got 'adv': .*plain\.pt holds one set of norms"):
        load_weights(empty(resnet), plain, branch="adv")
    with pytest.raises(
        InputError, match="Expected `weights`, a checkpoint with two sets of norms, with `branch` 'adv'"
    ):
        load_model("cifar:resnet20", branch="adv")
    state = aux_state(resnet, twin(resnet), "aux_bn")
    with pytest.raises(InputError, match=r"Unknown branch of .*, 'advers'\. Did you mean 'adv'\?"):
        load_weights(empty(resnet), saved(tmp_path / "aux.pt", state), branch="advers")
    del state["layer1.0.bn1.aux_bn.running_mean"]
    with pytest.raises(InputError, match=r"clean and adv differ in layer1\.0\.bn1\.running_mean\.$"):
        load_weights(empty(resnet), saved(tmp_path / "part.pt", state), branch="clean")


@pytest.mark.parametrize("place", ["aux_bn", "aux_bn.0", "aux_bn.1"])
def test_an_auxiliary_set_that_lacks_a_whole_norm_is_refused(place, resnet, tmp_path):
    """It would be completed by the clean branch's norm without a word."""
    state = aux_state(resnet, twin(resnet), "aux_bn" if place == "aux_bn" else "aux_bn.0")
    if place == "aux_bn.1":
        state = aux_state(resnet, twin(resnet), place) | state
    gap = f"layer2.0.bn1.{place}."
    path = saved(tmp_path / "gap.pt", {name: value for name, value in state.items() if not name.startswith(gap)})
    told = "adv1" if place == "aux_bn.1" else "adv"
    for branch in ("clean", told):
        with pytest.raises(InputError, match=rf"clean and {told} differ in layer2\.0\.bn1\.bias\.$"):
            load_weights(empty(resnet), path, branch=branch)


def test_two_names_that_become_one_are_refused(resnet, small, tmp_path):
    """The last would win without a word: another head, or a third set of norms."""
    state, other = resnet.state_dict(), empty(resnet).state_dict()
    pairs = {re.sub(r"\b(bn\d)\b", r"clean_\1", name): value for name, value in state.items()}
    pairs |= {re.sub(r"\b(bn\d)\b", r"adv_\1", name): value for name, value in other.items() if "bn" in name}
    theirs = advbn_state(small, twin(small), 1)
    for content, told in (
        (state | {"linear.weight": other["fc.weight"]}, r"fc\.weight, but both fc\.weight and linear\.weight would"),
        ({"bn1.weight": other["bn1.weight"]} | pairs, r"bn1\.weight, but both bn1\.weight and clean_bn1\.weight would"),
        (
            theirs | {"module.head.layer3_0.downsample.0.weight": torch.zeros(3)},
            r"layer3\.0\.downsample\.0\.weight, but both head\.layer3_0\.downsample\.conv\.weight and head\.lay",
        ),
    ):
        target = empty(small if content.keys() >= theirs.keys() else resnet)
        with pytest.raises(InputError, match=f"Expected one tensor of a checkpoint to be {told}"):
            load_weights(target, saved(tmp_path / "both.pt", content))
    wrapped = prefixed(state, "module.") | {"mean": torch.zeros(3), "module.mean": torch.ones(3)}
    with pytest.raises(InputError, match=r"missing: conv1\.weight, .*; unexpected: module\.conv1\.weight, "):
        load_weights(empty(resnet), saved(tmp_path / "means.pt", wrapped))


def test_whole_numbers_are_no_weights(resnet, tmp_path):
    """Of a quantised network, they would be taken without their scale."""
    state = resnet.state_dict()
    state["fc.weight"] = (state["fc.weight"] * 100).to(torch.int8)
    with pytest.raises(InputError, match=r"do not fit ResNet; no fractions: fc\.weight int8 in the file\.$"):
        load_weights(empty(resnet), saved(tmp_path / "int8.pt", state))


def test_half_precision_is_widened(resnet, tmp_path):
    halves = {name: value.half() if value.is_floating_point() else value for name, value in resnet.state_dict().items()}
    expected, target = empty(resnet), empty(resnet)
    expected.load_state_dict({name: value.float() for name, value in halves.items()})
    load_weights(target, saved(tmp_path / "half.pt", {"state_dict": prefixed(halves, "module.")}))
    assert weights_hash(target) == weights_hash(expected)


def test_a_stage_that_advbn_s_file_lacks_is_told(small, tmp_path):
    state = advbn_state(small, twin(small), 1)
    state = {name: value for name, value in state.items() if "head.layer3_" not in name}
    with pytest.raises(InputError, match=r"do not fit ResNet; missing: layer3\.0\.conv1\.weight, "):
        load_weights(empty(small), saved(tmp_path / "part.pt", state), branch="adv")


# A normalisation of its own


def robust_state(network, mean=MEAN, std=STD):
    """Return a network's weights as MadryLab's library has them."""
    state = prefixed(network.state_dict(), "module.model.") | prefixed(network.state_dict(), "module.attacker.model.")
    for place in ("normalizer", "attacker.normalize"):
        state[f"module.{place}.new_mean"] = torch.tensor(mean).view(3, 1, 1)
        state[f"module.{place}.new_std"] = torch.tensor(std).view(3, 1, 1)
    return state


def test_madrylab_s_normaliser_is_read_and_told(resnet, tmp_path):
    path = saved(tmp_path / "robust.pt", {"state_dict": robust_state(resnet), "epoch": 149})
    with pytest.warns(CheckpointWarning, match=r"normalised as .*robust\.pt says: mean \(0\.4914, 0\.4822, 0\.4465\)"):
        model = load_model(resnet10, weights=path)
    assert (model.preprocessing.mean, model.preprocessing.std) == (MEAN, STD)
    assert model.checkpoint == {"mean": MEAN, "std": STD, "dropped": ("attacker",)}
    normalised = (IMAGES - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), resnet(normalised))
    assert load_model(resnet10, weights=path, mean=(0.491, 0.482, 0.447), std=STD).preprocessing.mean == MEAN
    with pytest.raises(InputError, match=r"Expected `std` to be \(0\.2023, 0\.1994, 0\.201\), by which .* leave out"):
        load_model(resnet10, weights=path, std=(0.247, 0.243, 0.262))


def test_robustbench_s_normalisation_is_read_without_a_warning_where_it_is_the_usual(resnet, tmp_path):
    state = prefixed(resnet.state_dict(), "model.")
    state |= {"mu": torch.tensor([0.485, 0.456, 0.406]), "sigma": torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)}
    model = load_model(resnet10, weights=saved(tmp_path / "a.pt", state))
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), load_model(resnet)(IMAGES))


class Normalizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("new_mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("new_std", torch.tensor(STD).view(3, 1, 1))

    def forward(self, images):
        return (images - self.new_mean) / self.new_std


def with_normaliser():
    return nn.Sequential(OrderedDict(normalizer=Normalizer(), model=resnet10()))


@pytest.mark.filterwarnings("ignore:Images are normalised")
def test_a_normaliser_of_pixels_up_to_255_is_refused(resnet, tmp_path):
    """Pixels in [0,1] would all look black to its network."""
    for mean, std in (((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)), ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))):
        path = saved(tmp_path / "large.pt", {"state_dict": robust_state(resnet, mean, std)})
        with pytest.raises(InputError, match=r"to normalise pixels in \[0,1\], but its mean is \(.*divide both by 255"):
            load_model(resnet10, weights=path)


def test_nothing_is_normalised_twice(resnet, tmp_path):
    path = saved(tmp_path / "robust.pt", {"state_dict": robust_state(resnet)})
    told = "its normalizer normalises them itself: give `mean` 0 and `std` 1, so that it is done once"
    for given in ({}, {"mean": MEAN, "std": STD}):
        with pytest.raises(InputError, match=told):
            load_model(with_normaliser, weights=path, **given)
    model = load_model(with_normaliser, weights=path, mean=0, std=1)
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), resnet(Normalizer()(IMAGES)))
    with pytest.raises(InputError, match="normalises them itself"):
        load_model(nn.Sequential(v2.Normalize(MEAN, STD), resnet), mean=MEAN, std=STD)
    with pytest.raises(InputError, match="its PixelModel normalises them itself"):
        load_model(lambda: load_model(resnet, mean=MEAN, std=STD), mean=MEAN, std=STD)


def test_pytorch_cifar_s_names(tmp_path):
    source = settled(load_model("cifar:resnet50", model_args={"width": 0.1}).network)
    names = {name: name.replace("downsample", "shortcut").replace("fc.", "linear.") for name in source.state_dict()}
    state = {f"module.model.{names[name]}": value for name, value in source.state_dict().items()}
    state |= {"module.normalizer.new_mean": torch.tensor(MEAN), "module.normalizer.new_std": torch.tensor(STD)}
    loaded = check(source, saved(tmp_path / "cifar.pt", {"model": state}))
    assert (loaded.mean, loaded.std) == (MEAN, STD)


@pytest.mark.filterwarnings("ignore:Clean accuracy")
def test_a_run_of_a_branch_says_so_and_its_command_repeats_it(tmp_path):
    options = {"width": 0.25}
    source = settled(load_model("cifar:resnet20", model_args=options).network)
    path = saved(tmp_path / "pair.pt", {"state_dict": aux_state(source, twin(source), "aux_bn")})
    words = ["--model", "cifar:resnet20", "--model-args", "width=0.25", "--weights", str(path), "--branch", "adv"]
    rest = ["--data", "digits", "--limit", "20", "--shifts", "clean", "--out", str(tmp_path / "run")]
    for _ in range(2):  # the second finds the first's run
        app(["measure", *words, *rest], standalone_mode=False)
    record = read_run(tmp_path / "run").record
    assert record["model"]["checkpoint"] == {"branch": "adv", "others": ["clean"]}
    assert record["model"]["weights_hash"] == weights_hash(twin(source))
    given = [*map(str, commands.model(record))]
    assert given[given.index("--branch") + 1] == "adv"
    assert "--weights-branch" in commands.model(record, "--weights-branch")
    assert load_model(load_model("cifar:resnet20", weights=path, branch="adv", model_args=options)).checkpoint == {
        "branch": "adv",
        "others": ("clean",),
    }


def test_timm_s_adversarially_propagated_networks_come_with_their_own_preprocessing():
    model = load_model("timm:tf_efficientnet_b0.ap_in1k", pretrained=False)
    assert (model.preprocessing.mean, model.preprocessing.std) == ((0.5,) * 3, (0.5,) * 3)
    assert model.network.bn1.eps == 1e-3
    assert model.network.conv_stem.padding == (0, 0)  # as TensorFlow pads: by what the image's size leaves


def test_what_a_file_holds_beside_a_network_but_is_not_known_is_refused(resnet, tmp_path):
    state = prefixed(resnet.state_dict(), "model.")
    for name, told in {
        "model.extra.weight": r"unexpected: extra\.weight\.$",
        "teacher.fc.bias": r"All names but teacher\.fc\.bias begin with model\., which is dropped where all do\.$",
    }.items():
        path = saved(tmp_path / "extra.pt", {"state_dict": state | {name: torch.ones(3)}})
        with pytest.raises(InputError, match=told):
            load_weights(empty(resnet), path)
    grey = {"normalizer.new_mean": torch.ones(1), "normalizer.new_std": torch.ones(1)}
    with pytest.raises(InputError, match=r"unexpected: normalizer\.new_mean, normalizer\.new_std"):
        load_weights(empty(resnet), saved(tmp_path / "grey.pt", state | grey))
