"""The page on robust checkpoints: its script makes weights that load and give the logits of their network."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from statshift import InputError, load_model
from statshift.cli import app
from statshift.models import load_weights
from statshift.models.cifar import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = re.findall(
    r"```(\w+)\n(.*?)```", (Path(__file__).parents[1] / "docs" / "robust-checkpoints.md").read_text(), re.DOTALL
)
(SCRIPT,) = (text for language, text in BLOCKS if language == "python")
COMMANDS = [line for _, text in BLOCKS for line in text.splitlines() if line.startswith("statshift ")]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
OPTIONS = "--mean 0.4914,0.4822,0.4465\n--std 0.2023,0.1994,0.2010\n"


class TheirBlock(nn.Module):
    """A bottleneck as the library has it: the stride in the 3x3 convolution, and a shortcut of its own name."""

    def __init__(self, inputs, inside, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, inside, 1, bias=False), nn.BatchNorm2d(inside)
        self.conv2, self.bn2 = nn.Conv2d(inside, inside, 3, stride, 1, bias=False), nn.BatchNorm2d(inside)
        self.conv3, self.bn3 = nn.Conv2d(inside, 4 * inside, 1, bias=False), nn.BatchNorm2d(4 * inside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != 4 * inside:
            self.shortcut.append(nn.Conv2d(inputs, 4 * inside, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(4 * inside))

    def forward(self, features):
        branch = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(features))))))
        return F.relu(self.bn3(self.conv3(branch)) + self.shortcut(features))


class TheirNetwork(nn.Module):
    """CIFAR-10's ResNet-50 as the library names it, `stem` channels narrow."""

    def __init__(self, stem=64):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem)
        inputs = stem
        for stage, count in enumerate((3, 4, 6, 3)):
            inside, layer = stem * 2**stage, nn.Sequential()
            for number in range(count):
                layer.append(TheirBlock(inputs, inside, 2 if stage and not number else 1))
                inputs = 4 * inside
            setattr(self, f"layer{stage + 1}", layer)
        self.linear = nn.Linear(inputs, 10)

    def forward(self, images):
        features = F.relu(self.bn1(self.conv1(images)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        return self.linear(F.avg_pool2d(features, 4).flatten(1))


class Normalise(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("new_mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("new_std", torch.tensor(STD)[:, None, None])

    def forward(self, images):
        return (images - self.new_mean) / self.new_std


class Attacker(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.normalize, self.model = Normalise(), network


class Wrapped(nn.Module):
    """What the library trains: the network, its attacker with the same network, and the normalisation twice."""

    def __init__(self, network):
        super().__init__()
        self.normalizer, self.model, self.attacker = Normalise(), network, Attacker(network)

    def forward(self, images):
        return self.model(self.normalizer(images))


def settled(network):
    """Return a network with random weights that keep the features' scale, and norms with statistics of their own."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
    return network.eval()


@pytest.fixture(scope="module")
def dill(tmp_path_factory):
    """Return dill, or pickle where it is not installed, and the folder from which the script imports it."""
    place = tmp_path_factory.mktemp("packages")
    if importlib.util.find_spec("dill") is None:
        (place / "dill.py").write_text("from pickle import *\n__version__ = '0.4.0'\ndef extend(use_dill): pass\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        yield importlib.import_module("dill"), place
    sys.modules.pop("dill")


def write(path, network, dill, *, key="model", zipped=True):
    """Write a checkpoint as the library's trainer does."""
    wrapped = nn.DataParallel(Wrapped(network).eval())
    rate = np.float64(0.1)
    schedule = {"base_lrs": [rate], "last_epoch": 150, "lr_lambdas": [min]}
    if hasattr(dill, "settings"):  # the real one, which pickles functions by their code
        schedule["lr_lambdas"] = [lambda epoch: 0.1 ** (epoch // 50)]
    content = {
        key: wrapped.state_dict(),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": rate}]},
        "schedule": schedule,
        "epoch": 150,
        "amp": "N/A",
    }
    torch.save(content, path, pickle_module=dill, _use_new_zipfile_serialization=zipped)
    return wrapped


def convert(tmp_path, place):
    """Run the page's script on `theirs.pt`, and return what it printed and the file it made."""
    (tmp_path / "convert.py").write_text(SCRIPT)
    paths = [str(tmp_path / "theirs.pt"), str(tmp_path / "ours.safetensors")]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "convert.py"), *paths],
        env={"PYTHONPATH": ":".join([str(place), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, paths[1]


@pytest.mark.parametrize(("key", "zipped"), [("model", False), ("state_dict", True)])
def test_the_script_makes_weights_with_the_same_logits(key, zipped, dill, tmp_path):
    theirs = write(tmp_path / "theirs.pt", settled(TheirNetwork(16)), dill[0], key=key, zipped=zipped)
    with pytest.raises(InputError, match=r"it is more than data \(it asks for \S+\); save its state_dict alone"):
        load_weights(ZOO["resnet50"](width=0.25), tmp_path / "theirs.pt")
    told, path = convert(tmp_path, dill[1])
    assert told == OPTIONS
    ours = load_model("cifar:resnet50", weights=path, mean=MEAN, std=STD, model_args={"width": 0.25})
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.double()(images)
        torch.testing.assert_close(ours.double()(images), expected, atol=1e-9, rtol=1e-9)
    assert expected.std(0).min() > 0.01, "logits that hardly depend on the images tell nothing"


def test_the_whole_network_fits():
    with torch.device("meta"):
        theirs, ours = TheirNetwork().state_dict(), ZOO["resnet50"]().state_dict()
    renamed = {name.replace("shortcut.", "downsample.").replace("linear.", "fc."): v for name, v in theirs.items()}
    assert {name: value.shape for name, value in renamed.items()} == {name: value.shape for name, value in ours.items()}
    assert (
        sum(value.numel() for name, value in ours.items() if "running" not in name and "num_b" not in name) == 23520842
    )


def test_the_names_of_imagenet_s_networks_stay(dill, tmp_path):
    network = nn.Module()
    network.conv1, network.fc = nn.Conv2d(3, 4, 7), nn.Linear(4, 2)
    network.layer1 = nn.Sequential(nn.Module())
    network.layer1[0].downsample = nn.Sequential(nn.Conv2d(4, 4, 1))
    write(tmp_path / "theirs.pt", network, dill[0])
    kept = load_file(convert(tmp_path, dill[1])[1])
    assert kept.keys() == network.state_dict().keys()
    assert all(torch.equal(kept[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_options_that_exist(command, capsys):
    program, verb, *arguments = shlex.split(command)
    assert (program, verb) == ("statshift", "measure")
    app([verb, "--help"], standalone_mode=False)
    text = capsys.readouterr().out
    assert all(argument in text for argument in arguments if argument.startswith("--"))
    if "cifar:resnet50" in arguments:
        assert OPTIONS.split() == arguments[arguments.index("--mean") : arguments.index("--std") + 2]
