"""Networks whose class has something else of the name `modules`, as a published ESPNet has."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import statshift
from statshift import InputError, diagnose, exchange_norm, harden, ligs, load_model, measure, rectify
from statshift._core.walking import modules_of

IMAGES = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Listing(nn.Module):
    """As there: a list of the layers, through which the forward goes."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
            self.head = nn.Linear(6, 10)
        self.modules = [self.first, self.second]

    def forward(self, images):
        for layer in self.modules:
            images = layer(images)
        return self.head(images.mean((2, 3)))


class Plain(Listing):
    def __init__(self):
        super().__init__()
        self.layers = self.__dict__.pop("modules")

    def forward(self, images):
        return self.head(self.second(self.first(images)).mean((2, 3)))


def test_the_network_is_such_a_one():
    with pytest.raises(TypeError):
        list(Listing().modules())
    assert [type(one) for one in modules_of(Listing())] == [Listing, *map(type, list(Plain().modules())[1:])]


def test_no_walk_of_the_package_asks_a_model_for_its_modules():
    package = Path(statshift.__file__).parent
    walks = {
        f"{path.relative_to(package)}: {line.strip()}"
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"(?<!self)\.modules\(\)", line) and path.name != "walking.py"
    }
    assert walks == set()


@pytest.mark.parametrize("build", [Listing, Plain])
def test_verbs_give_what_they_give_for_any_other(build):
    model = load_model(build().eval())
    expected = load_model(Plain().eval())
    with torch.no_grad():
        found = rectify(model, IMAGES, "replace")(IMAGES)
        torch.testing.assert_close(found, rectify(expected, IMAGES, "replace")(IMAGES))
    assert diagnose(model, IMAGES).number == diagnose(expected, IMAGES).number
    labels = torch.arange(8)
    torch.testing.assert_close(ligs(model, IMAGES, labels).values, ligs(expected, IMAGES, labels).values)
    assert exchange_norm(build(), "group")(IMAGES).shape == (8, 10)


@pytest.mark.filterwarnings("ignore:Clean accuracy", "ignore:.*near chance")
def test_it_is_measured_and_hardened(tmp_path):
    model = load_model(Listing().eval())
    found = measure(model, "digits", shifts="clean", rectify=["replace"], data_options={"limit": 60})
    assert found.record["model"]["norms"] == {"BatchNorm2d, eps 1e-05": 2}
    options = statshift.HardenOptions(at="first", training=statshift.TrainingOptions(epochs=1, batch_size=20))
    hardened = harden(model, "digits", options, data_options={"limit": 40}, out=tmp_path / "out")
    assert not torch.equal(
        hardened.branches.adv.network.second[1].weight, hardened.branches.clean.network.second[1].weight
    )


def test_a_norm_in_such_a_list_is_exchanged_there_too():
    network = Listing()
    network.modules = [*network.first, *network.second]
    exchange_norm(network, "group")
    assert network.modules == [*network.first, *network.second]
    assert [type(one) for one in network.modules[1::3]] == [nn.GroupNorm] * 2


def test_a_model_without_norms_is_told_of():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 10)
            self.modules = [self.head]

        def forward(self, images):
            return self.head(images.mean((2, 3)))

    with pytest.raises(InputError, match="its norms are: none"):
        rectify(load_model(Bare()), IMAGES)
